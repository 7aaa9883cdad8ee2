//! Claiming a key and waiting until all older claims under its prefix are gone: the common part of Lock and Campaign.

use super::{requests, Outcome, Stage};
use crate::{
    request::Request,
    status::{code, Status},
};
use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb, v3electionpb as election, v3lockpb as lock};

/// What the caller wants to own.
pub struct Claim {
    pub prefix: Bytes,
    pub key: Bytes,
    pub lease: i64,
    /// `None` for a lock; the value and name of a campaign.
    campaign: Option<(Bytes, Bytes)>,
}

/// A claim that has its key and its place in the queue.
pub struct Contest {
    pub claim: Claim,
    /// The create revision of the own key: older ones go first.
    revision: i64,
    /// Header of the claim's transaction.
    header: Option<pb::ResponseHeader>,
    /// The key whose deletion is awaited.
    awaited: Option<Bytes>,
}

impl Claim {
    pub fn lock(request: lock::LockRequest) -> Claim {
        Claim {
            prefix: requests::prefix(&request.name),
            key: Bytes::new(),
            lease: request.lease,
            campaign: None,
        }
    }

    pub fn campaign(request: election::CampaignRequest) -> Claim {
        Claim {
            prefix: requests::prefix(&request.name),
            key: Bytes::new(),
            lease: request.lease,
            campaign: Some((request.value, request.name)),
        }
    }

    pub fn start(self) -> (Stage, Request) {
        if self.lease == 0 {
            return (Stage::Granting(self), requests::grant());
        }
        self.claim()
    }

    fn claim(mut self) -> (Stage, Request) {
        use pb::request_op::Request::{RequestPut, RequestRange};
        self.key = requests::claim_key(&self.prefix, self.lease);
        let value = self
            .campaign
            .as_ref()
            .map(|(value, _)| value.clone())
            .unwrap_or_default();
        let put = requests::op(RequestPut(requests::put(
            self.key.clone(),
            value,
            self.lease,
        )));
        let get = requests::op(RequestRange(requests::get(self.key.clone())));
        let mut txn = pb::TxnRequest {
            compare: vec![requests::created_at(self.key.clone(), 0)],
            success: vec![put],
            failure: vec![get],
        };
        if self.campaign.is_none() {
            let oldest = requests::op(RequestRange(requests::first_created(self.prefix.clone())));
            txn.success.push(oldest.clone());
            txn.failure.push(oldest);
        }
        (Stage::Claiming(self), Request::Txn(Box::new(txn)))
    }

    pub(super) fn granted(mut self, grant: pb::LeaseGrantResponse) -> Result<Outcome, Status> {
        self.lease = grant.id;
        let (stage, request) = self.claim();
        Ok(Outcome::Ask(stage, request))
    }

    pub(super) fn claimed(self, txn: pb::TxnResponse) -> Result<Outcome, Status> {
        let mut kvs = txn.responses.into_iter().map(|op| match op.response {
            Some(pb::response_op::Response::ResponseRange(range)) => range.kvs,
            _ => Vec::new(),
        });
        let own = kvs.next().unwrap_or_default().into_iter().next();
        let oldest = kvs.next().unwrap_or_default().into_iter().next();
        let revision = match (&own, &txn.header) {
            (Some(kv), _) => kv.create_revision,
            (None, Some(header)) => header.revision,
            (None, None) => 0,
        };
        let contest = Contest {
            claim: self,
            revision,
            header: txn.header,
            awaited: None,
        };
        match contest.claim.campaign.clone() {
            None if oldest.is_none_or(|kv| kv.create_revision == revision) => {
                let header = contest.header;
                Ok(contest.locked(header))
            }
            Some((value, _)) if own.is_some_and(|kv| kv.value != value) => {
                let claim = &contest.claim;
                let txn = requests::put_if_created(claim.key.clone(), revision, value, claim.lease);
                Ok(Outcome::Ask(
                    Stage::Updating(contest),
                    Request::Txn(Box::new(txn)),
                ))
            }
            _ => Ok(contest.look()),
        }
    }
}

impl Contest {
    pub(super) fn updated(self, txn: pb::TxnResponse) -> Result<Outcome, Status> {
        if !txn.succeeded {
            return Err(Status::new(code::UNKNOWN, "election: not leader"));
        }
        Ok(self.look())
    }

    /// Asks for the youngest of the older claims.
    fn look(self) -> Outcome {
        let range = requests::last_created(self.claim.prefix.clone(), self.revision - 1);
        Outcome::Ask(Stage::Waiting(self), Request::Range(range))
    }

    pub(super) fn looked(mut self, range: pb::RangeResponse) -> Result<Outcome, Status> {
        let revision = range.header.map_or(0, |header| header.revision);
        match range.kvs.into_iter().next() {
            Some(older) => {
                self.awaited = Some(older.key.clone());
                let watch = requests::watch(older.key, Bytes::new(), revision);
                Ok(Outcome::Ask(Stage::Waiting(self), Request::Watch(watch)))
            }
            None if self.claim.campaign.is_some() => Ok(self.elected()),
            None => {
                let get = requests::get(self.claim.key.clone());
                Ok(Outcome::Ask(Stage::Confirming(self), Request::Range(get)))
            }
        }
    }

    pub(super) fn watched(self, response: &pb::WatchResponse) -> Result<Outcome, Status> {
        if response.canceled {
            return Err(Status::new(
                code::UNKNOWN,
                "etcdserver: mvcc: required revision has been compacted",
            ));
        }
        let deleted = response
            .events
            .iter()
            .any(|event| event.r#type() == mvccpb::event::EventType::Delete);
        Ok(match deleted {
            true => self.look(),
            false => Outcome::Stay(Stage::Waiting(self)),
        })
    }

    pub(super) fn confirmed(self, range: pb::RangeResponse) -> Result<Outcome, Status> {
        if range.kvs.is_empty() {
            return Err(Status::new(code::UNKNOWN, "mutex: session is expired"));
        }
        Ok(self.locked(range.header))
    }

    fn locked(self, header: Option<pb::ResponseHeader>) -> Outcome {
        let key = self.claim.key;
        Outcome::Reply(lock::LockResponse { header, key }.encode_to_vec())
    }

    fn elected(self) -> Outcome {
        let name = self
            .claim
            .campaign
            .map(|(_, name)| name)
            .unwrap_or_default();
        let leader = election::LeaderKey {
            name,
            key: self.claim.key,
            rev: self.revision,
            lease: self.claim.lease,
        };
        let header = self.header;
        let leader = Some(leader);
        Outcome::Reply(election::CampaignResponse { header, leader }.encode_to_vec())
    }
}
