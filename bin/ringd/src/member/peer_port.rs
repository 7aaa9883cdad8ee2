//! What other members ask of this one at the peer port, and what this one asks of them about versions.

use super::{
    read::{encode, Read},
    Effect, Member,
};
use crate::{
    peers::{PeerAsk, PeerFailure},
    request::{CallId, PeerRequest, Request},
    services::parse_version,
};
use bytes::Bytes;
use engine::{error::RequestError, store::hash::HashKv};
use proto::{
    etcdserverpb::{self as pb, InternalRaftRequest},
    leasepb, membershippb,
};
use raft::Role;
use std::collections::BTreeMap;

/// How often the leader compares the versions of all members.
const VERSIONS_INTERVAL_NS: u64 = 4_000_000_000;
/// The version that a cluster begins with while some member cannot be asked.
const CLUSTER_VERSION_MIN: &str = "3.0.0";

/// One comparison of the members' versions.
#[derive(Default)]
pub(super) struct Versions {
    next_ns: u64,
    /// The questions under way and the members they went to.
    asked: BTreeMap<u64, u64>,
    /// The lowest version so far, `None` if a member did not answer.
    lowest: Option<(u64, u64)>,
}

impl Member {
    /// Answers another member.
    pub(super) fn ask_peer_port(&mut self, call: CallId, request: PeerRequest, now_ns: u64) {
        match request {
            PeerRequest::Members => {
                let body = self.members_json();
                self.reply(call, Ok(body.into()));
            }
            PeerRequest::Version => {
                let cluster = self.store.cluster_version();
                let cluster = cluster.map_or("not_decided".into(), |v| v.to_string());
                let server = self.config.version;
                let body = format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}"}}"#);
                self.reply(call, Ok(body.into()));
            }
            PeerRequest::HashKv { revision } => self.hash_kv(call, revision),
            PeerRequest::Results(body) => self.results_told(call, &body, now_ns),
            PeerRequest::Copy(body) => self.copy_asked(call, &body),
            PeerRequest::Promote { id } => {
                if let Err(status) = self.member_promote(call, id, now_ns) {
                    self.reply(call, Err(status));
                }
            }
            PeerRequest::KeepAlive(_) | PeerRequest::TimeToLive(_)
                if self.node.role() != Role::Leader =>
            {
                self.reply(call, Err(RequestError::NotLeader.into()));
            }
            _ => self.await_lease_read(Read {
                call,
                request: Request::Peer(request),
                deadline_ns: now_ns + self.config.request_timeout_ns(),
            }),
        }
    }

    /// Answers what waited for a read round.
    pub(super) fn read_for_peer(
        &mut self,
        read: &Read,
        request: &PeerRequest,
        now_ns: u64,
    ) -> Result<(), engine::page::Miss> {
        let call = read.call;
        match request {
            PeerRequest::DowngradeEnabled => {
                let enabled = self.store.downgrade().is_some();
                self.reply(call, Ok(enabled.to_string().into()));
            }
            PeerRequest::KeepAlive(request) => {
                let asked_ns = self.asked_ns(read);
                self.keep_alive(call, request.id, asked_ns, now_ns)
            }
            PeerRequest::TimeToLive(request) => {
                let response = self.time_to_live(request, now_ns)?;
                let result = match response.ttl {
                    -1 => Err(RequestError::LeaseNotFound.into()),
                    _ => Ok(encode(&leasepb::LeaseInternalResponse {
                        lease_time_to_live_response: Some(response),
                    })),
                };
                self.reply(call, result);
            }
            _ => self.reply(call, Err(RequestError::UnknownMethod.into())),
        }
        Ok(())
    }

    pub(super) fn hash_kv_json(found: &HashKv, revision: i64) -> Bytes {
        let (hash, compacted) = (found.hash, found.compact_revision);
        format!(
            r#"{{"header":{{"revision":{revision}}},"hash":{hash},"compact_revision":{compacted}}}"#
        )
        .into()
    }

    pub(super) fn next_ask(&mut self) -> u64 {
        self.last_ask += 1;
        self.last_ask
    }

    pub(super) fn peer_answered(&mut self, ask: u64, result: Result<Bytes, PeerFailure>) {
        let known = self.lease_answered(ask, &result)
            || self.promotion_answered(ask, &result)
            || self.results_answered(ask, result.as_ref().ok())
            || self.copy_answered(ask, &result);
        if !known {
            self.version_answered(ask, result);
        }
    }

    /// The leader sets the cluster's version: that of the oldest member. It is raised only when all of them answer.
    pub(super) fn compare_versions(&mut self, now_ns: u64) {
        if !self.is_leader_begun() || now_ns < self.versions.next_ns {
            return;
        }
        let peers = self.peers();
        self.versions.next_ns = now_ns + VERSIONS_INTERVAL_NS;
        self.versions.asked.clear();
        self.versions.lowest = parse_version(self.config.cluster_version);
        for peer in &peers {
            let ask = self.next_ask();
            self.versions.asked.insert(ask, peer.id);
            self.effects.push(Effect::AskPeer {
                ask,
                peer: peer.id,
                request: PeerAsk::Version,
            });
        }
        if peers.is_empty() {
            self.versions_compared();
        }
    }

    /// A new term: whoever leads it compares at once.
    pub(super) fn compare_versions_soon(&mut self, now_ns: u64) {
        self.versions.next_ns = 0;
        self.compare_versions(now_ns);
    }

    fn version_answered(&mut self, ask: u64, result: Result<Bytes, PeerFailure>) {
        if self.versions.asked.remove(&ask).is_none() {
            return;
        }
        let version = result.ok().and_then(|body| server_version(&body));
        self.versions.lowest = match (self.versions.lowest, version) {
            (Some(lowest), Some(version)) => Some(lowest.min(version)),
            _ => None,
        };
        if self.versions.asked.is_empty() {
            self.versions_compared();
        }
    }

    fn versions_compared(&mut self) {
        let present = self.store.cluster_version();
        let version = match (present, self.versions.lowest) {
            (None, None) => CLUSTER_VERSION_MIN.to_string(),
            (None, Some((major, minor))) => format!("{major}.{minor}.0"),
            (Some(present), Some((major, minor)))
                if (u64::from(present.major), u64::from(present.minor)) < (major, minor) =>
            {
                format!("{major}.{minor}.0")
            }
            _ => return,
        };
        let set = membershippb::ClusterVersionSetRequest { ver: version };
        let entry = Box::new(InternalRaftRequest {
            cluster_version_set: Some(Box::new(set)),
            ..Default::default()
        });
        // One that is refused is proposed again after the next comparison.
        let _ = self.propose(entry, None);
    }

    pub(super) fn keep_alive_for_peer(
        &mut self,
        call: CallId,
        response: pb::LeaseKeepAliveResponse,
    ) {
        let result = match response.ttl {
            0 => Err(RequestError::LeaseNotFound.into()),
            _ => Ok(encode(&pb::LeaseKeepAliveResponse {
                header: None,
                ..response
            })),
        };
        self.reply(call, result);
    }
}

fn server_version(body: &[u8]) -> Option<(u64, u64)> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = json["etcdserver"].as_str()?;
    // A pre-release or build of 3.5.1 is of 3.5 as well.
    let mut numbers = text.split(['.', '-', '+']);
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}
