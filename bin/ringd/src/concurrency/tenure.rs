//! What an elected leader may do: Proclaim and Resign.

use super::{requests, Outcome, Stage};
use crate::{request::Request, status::Status};
use bytes::Bytes;
use proto::{etcdserverpb as pb, v3electionpb as election};

/// A call in the name of a leader. It needs a lease like a claim does, though only a proclamation puts a key on it.
pub struct Tenure {
    pub leader: election::LeaderKey,
    /// What is proclaimed; `None` for a resignation.
    pub value: Option<Bytes>,
}

impl Tenure {
    pub(super) fn start(self) -> (Stage, Request) {
        match self.leader.lease {
            0 => (Stage::GrantingTenure(self), requests::grant()),
            _ => self.act(),
        }
    }

    /// Whether the key is still the leader's is for the transaction to tell; the lease stays granted either way.
    pub(super) fn granted(mut self, grant: pb::LeaseGrantResponse) -> Result<Outcome, Status> {
        self.leader.lease = grant.id;
        let (stage, request) = self.act();
        Ok(Outcome::Ask(stage, request))
    }

    fn act(self) -> (Stage, Request) {
        let election::LeaderKey {
            key, rev, lease, ..
        } = self.leader;
        let (stage, txn) = match self.value {
            Some(value) => (
                Stage::Proclaiming,
                requests::put_if_created(key, rev, value, lease),
            ),
            None => (Stage::Resigning, requests::delete_if_created(key, rev)),
        };
        (stage, Request::Txn(Box::new(txn)))
    }
}
