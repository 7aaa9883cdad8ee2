//! Lease calls that only the leader can answer, asked of it on behalf of this member's clients.
//!
//! Where this member leads, a renewal goes through a read round and a question for the time left is answered at once; else
//! both go to the leader's peer port. While there is no leader, or it does not answer, the call waits and tries again until its time is up; it
//! never ends in a way that makes a client give its lease up.

use super::{
    read::{encode, Read},
    Effect, Member,
};
use crate::planted::{planted, Fault};
use crate::{
    peers::{PeerAsk, PeerFailure},
    request::{CallId, PeerRequest, Request},
};
use bytes::Bytes;
use engine::error::RequestError;
use prost::Message;
use proto::{etcdserverpb as pb, leasepb};
use raft::Role;
use std::collections::BTreeMap;

/// Calls waiting for a leader or its answer; above it the caller is told to slow down.
const FORWARDED_MAX: usize = 100_000;
/// What the leader says of a lease that it does not know.
const HTTP_NOT_FOUND: u16 = 404;

#[derive(Default)]
pub(super) struct Forwarded {
    /// To be asked at the next pulse.
    waiting: Vec<Read>,
    asked: BTreeMap<u64, Read>,
}

impl Forwarded {
    pub fn forget(&mut self, call: CallId) {
        if self.waiting.is_empty() && self.asked.is_empty() {
            return;
        }
        self.waiting.retain(|read| read.call != call);
        self.asked.retain(|_, read| read.call != call);
    }
}

impl Member {
    /// Sends a lease call to where it can be answered.
    pub(super) fn route_lease_call(&mut self, read: Read) {
        if self.node.role() == Role::Leader {
            if planted(Fault::RenewUnconfirmed) {
                return self.try_read(read, self.now_ns);
            }
            return self.await_lease_read(read);
        }
        if self.forwarded.waiting.len() + self.forwarded.asked.len() >= FORWARDED_MAX {
            return self.refuse(
                read.call,
                &read.request,
                RequestError::TooManyRequests.into(),
            );
        }
        let request = match &read.request {
            _ if !self.has_leader() => None,
            Request::LeaseKeepAlive(request) => Some(PeerAsk::KeepAlive(encode(request))),
            Request::LeaseTimeToLive(request) => Some(PeerAsk::TimeToLive(encode(
                &leasepb::LeaseInternalRequest {
                    lease_time_to_live_request: Some(*request),
                },
            ))),
            _ => None,
        };
        let Some(request) = request else {
            return self.forwarded.waiting.push(read);
        };
        let ask = self.next_ask();
        self.forwarded.asked.insert(ask, read);
        self.effects.push(Effect::AskPeer {
            ask,
            peer: self.node.leader(),
            request,
        });
    }

    /// A renewal needs a quorum's word that this member still leads; what is left of a lease is told without, as etcd
    /// does, once the leader has its leases' time running.
    pub(super) fn await_lease_read(&mut self, read: Read) {
        let told = matches!(
            read.request,
            Request::LeaseTimeToLive(_) | Request::Peer(PeerRequest::TimeToLive(_))
        );
        match told && self.is_leader_begun() {
            true => self.await_applied(read),
            false => self.await_round(read),
        }
    }

    /// Tries again what waits, and ends what waited too long.
    pub(super) fn retry_lease_calls(&mut self, now_ns: u64) {
        for read in std::mem::take(&mut self.forwarded.waiting) {
            if read.deadline_ns <= now_ns {
                let error = match self.has_leader() {
                    true => RequestError::Timeout,
                    false => RequestError::NoLeader,
                };
                self.refuse(read.call, &read.request, error.into());
            } else {
                self.route_lease_call(read);
            }
        }
    }

    /// The leader answered, or did not. False if the question was not about a lease.
    pub(super) fn lease_answered(&mut self, ask: u64, result: &Result<Bytes, PeerFailure>) -> bool {
        let Some(read) = self.forwarded.asked.remove(&ask) else {
            return false;
        };
        let unknown = matches!(result, Err(failure) if failure.code == HTTP_NOT_FOUND);
        let body = result.as_ref().ok().cloned().unwrap_or_default();
        let answered = match &read.request {
            _ if result.is_err() && !unknown => false,
            Request::LeaseKeepAlive(request) => self.pass_keep_alive(&read, request.id, body),
            Request::LeaseTimeToLive(request) => {
                self.pass_time_to_live(&read, request.id, unknown, body)
            }
            _ => true,
        };
        if !answered {
            self.forwarded.waiting.push(read);
        }
        true
    }

    fn pass_keep_alive(&mut self, read: &Read, lease: i64, body: Bytes) -> bool {
        // An empty body, as for a lease that the leader does not know, is a time to live of 0.
        let Ok(answer) = pb::LeaseKeepAliveResponse::decode(body) else {
            return false;
        };
        let response = pb::LeaseKeepAliveResponse {
            header: Some(self.header(self.store.revision())),
            id: lease,
            ttl: answer.ttl,
        };
        self.effects.push(Effect::Stream {
            call: read.call,
            message: encode(&response),
        });
        true
    }

    fn pass_time_to_live(&mut self, read: &Read, lease: i64, unknown: bool, body: Bytes) -> bool {
        let mut response = pb::LeaseTimeToLiveResponse {
            id: lease,
            ttl: -1,
            ..Default::default()
        };
        if !unknown {
            let answer = leasepb::LeaseInternalResponse::decode(body);
            match answer.map(|answer| answer.lease_time_to_live_response) {
                Ok(Some(answer)) => response = answer,
                _ => return false,
            }
        }
        response.header = Some(self.header(self.store.revision()));
        self.reply(read.call, Ok(encode(&response)));
        true
    }
}
