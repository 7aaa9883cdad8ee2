//! Leases: renewals, time to live, expiry, and what leadership means for them.

use super::{read::encode, Effect, Member};
use crate::planted::{planted, Fault};
use crate::{request::CallId, status::Status};
use engine::{error::RequestError, lease::Renewal, page::Miss};
use proto::etcdserverpb::{self as pb, InternalRaftRequest};
use raft::Role;
use std::collections::BTreeMap;

/// Lease expiries proposed per pulse; the lessor bounds how many are undecided.
const EXPIRIES_PER_PULSE_MAX: usize = 500;

/// A keep-alive whose lease expired: answered when the revocation is decided.
struct Undecided {
    call: CallId,
    lease: i64,
    revision: i64,
}

#[derive(Default)]
pub(super) struct Leases {
    undecided: BTreeMap<u64, Undecided>,
    next_token: u64,
    /// The term whose first entry this member, as its leader, has applied.
    begun_term: u64,
    answers: Vec<(u64, Renewal)>,
}

impl Leases {
    pub fn forget(&mut self, call: CallId) {
        if self.undecided.is_empty() {
            return;
        }
        self.undecided.retain(|_, waiting| waiting.call != call);
    }
}

impl Member {
    /// The first entry of a term was applied; when it is this member's own term, leases count from now on.
    pub(super) fn leader_began(&mut self, term: u64, now_ns: u64) {
        if self.node.role() == Role::Leader && self.node.term() == term {
            let extend_ns = self.config.tick_ns * u64::from(self.config.election_ticks);
            self.store.lessor_mut().promote(now_ns, extend_ns);
            self.leases.begun_term = term;
            self.compare_versions_soon(now_ns);
        }
    }

    pub(super) fn is_leader_begun(&self) -> bool {
        self.node.role() == Role::Leader && self.leases.begun_term == self.node.term()
    }

    /// One message of a keep-alive stream that came at `asked_ns`, after a quorum confirmed this leader.
    pub(super) fn keep_alive(&mut self, call: CallId, lease: i64, asked_ns: u64, now_ns: u64) {
        let revision = self.store.revision();
        self.leases.next_token += 1;
        let token = self.leases.next_token;
        let lessor = self.store.lessor_mut();
        let renewal = lessor.renew_asked(lease, token, asked_ns, now_ns);
        let waiting = Undecided {
            call,
            lease,
            revision,
        };
        if renewal == Renewal::Pending {
            self.leases.undecided.insert(token, waiting);
            return;
        }
        self.answer_keep_alive(waiting, renewal);
    }

    fn answer_keep_alive(&mut self, waiting: Undecided, renewal: Renewal) {
        let ttl = match renewal {
            Renewal::Renewed { ttl_seconds } => ttl_seconds,
            Renewal::Unknown => 0,
            // Never a code that makes a client give its lease up: it is to try again.
            Renewal::Pending | Renewal::NotPrimary | Renewal::Busy | Renewal::ClearCheckpoint => {
                return self.end_keep_alive(waiting.call, RequestError::LeaderChanged.into())
            }
        };
        let response = pb::LeaseKeepAliveResponse {
            header: Some(self.header(waiting.revision)),
            id: waiting.lease,
            ttl,
        };
        if waiting.call.connection() == CallId::PEER_CONNECTION {
            return self.keep_alive_for_peer(waiting.call, response);
        }
        self.effects.push(Effect::Stream {
            call: waiting.call,
            message: encode(&response),
        });
    }

    /// Ends a keep-alive stream with a code that makes clients retry: giving up a lease is never this server's advice.
    pub(super) fn end_keep_alive(&mut self, call: CallId, status: Status) {
        if call.connection() == CallId::PEER_CONNECTION {
            return self.reply(call, Err(status));
        }
        let status = match status.code {
            crate::status::code::UNAVAILABLE => status,
            _ => RequestError::NoLeader.into(),
        };
        self.effects.push(Effect::End {
            call,
            status: Some(status),
        });
    }

    /// Answers keep-alives whose lease's revocation was decided.
    pub(super) fn lease_answers(&mut self) {
        if self.leases.undecided.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut self.leases.answers);
        self.store.lessor_mut().take_answers(&mut answers);
        for (token, renewal) in answers.drain(..) {
            if let Some(waiting) = self.leases.undecided.remove(&token) {
                self.answer_keep_alive(waiting, renewal);
            }
        }
        self.leases.answers = answers;
    }

    pub(super) fn time_to_live(
        &mut self,
        request: &pb::LeaseTimeToLiveRequest,
        now_ns: u64,
    ) -> Result<pb::LeaseTimeToLiveResponse, Miss> {
        let mut response = pb::LeaseTimeToLiveResponse {
            header: Some(self.header(self.store.revision())),
            id: request.id,
            ttl: -1,
            ..Default::default()
        };
        if let Some(known) = self.store.lessor().time_to_live(request.id, now_ns) {
            response.ttl = known.remaining_seconds;
            response.granted_ttl = known.granted_seconds;
            if request.keys {
                let keys = self.store.lease_keys(request.id)?;
                response.keys = keys.into_iter().map(Into::into).collect();
            }
        }
        Ok(response)
    }

    pub(super) fn lease_leases(&mut self, call: CallId) {
        let leases = self
            .store
            .lessor()
            .leases_by_remaining()
            .map(|id| pb::LeaseStatus { id })
            .collect();
        let response = pb::LeaseLeasesResponse {
            header: Some(self.header(self.store.revision())),
            leases,
        };
        self.reply(call, Ok(encode(&response)));
    }

    /// Proposes the revocation of leases that ran out.
    pub(super) fn expire_leases(&mut self, now_ns: u64) {
        if self.store.is_applying() {
            return; // renewals wait for that entry, and what came in time has to count
        }
        let led = planted(Fault::ExpireAsFollower) && self.store.lessor().is_primary();
        if !self.is_leader_begun() && !led {
            return;
        }
        let expired = self
            .store
            .lessor_mut()
            .take_expired(now_ns, EXPIRIES_PER_PULSE_MAX);
        for id in expired {
            let entry = Box::new(InternalRaftRequest {
                lease_revoke: Some(pb::LeaseRevokeRequest { id }),
                ..Default::default()
            });
            if self.propose(entry, None).is_err() {
                self.store.lessor_mut().revoke_dropped(id);
            }
        }
    }

    /// A client's revocation is on its way: no renewal of that lease is confirmed any more.
    pub(super) fn note_revoke(&mut self, lease: i64) {
        self.store.lessor_mut().revoke_proposed(lease);
    }
}
