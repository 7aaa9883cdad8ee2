//! What clients ask, and how an entry of the log is recognised as the question of one client.
//!
//! Every write carries the number of its question in a place where it changes nothing: a value, the end of a range, a
//! comparison that always holds. So the log itself says which question became which entry.

use bytes::Bytes;
use engine::store::wrap::wrap_direct_ranges;
use prost::Message as _;
use proto::etcdserverpb::{
    self as pb, compare, request_op::Request as Op, response_op::Response as OpAnswer,
    InternalRaftRequest,
};
use ringd::request::Request;
use ringd::status::Status;

use super::chance::Chance;
use super::swarm::{ClientPlan, Operation};
use crate::model::{self, Refusal, Response};

/// How an entry is recognised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The number of the question.
    Question(u64),
    Compact(i64),
    Grant(i64),
    Revoke(i64),
}

impl Mark {
    /// At most one entry can have it.
    pub fn is_unique(&self) -> bool {
        matches!(self, Mark::Question(_))
    }
}

const MARK: &str = "#";

fn mark_text(number: u64) -> String {
    format!("{MARK}{number}{MARK}")
}

fn marked(bytes: &[u8]) -> Option<Mark> {
    let text = String::from_utf8_lossy(bytes);
    let number = text.split(MARK).nth(1)?.parse().ok()?;
    Some(Mark::Question(number))
}

/// Draws requests of the kinds that a seed has.
pub struct Generator<'a> {
    pub plan: &'a ClientPlan,
    pub chance: &'a mut Chance,
    /// The newest and the compacted revision, as a client may have heard of them.
    pub revision: i64,
    pub compacted: i64,
}

impl Generator<'_> {
    pub fn draw(&mut self, number: u64) -> Request {
        let total: u64 = self.plan.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.chance.below(total);
        let mut kind = Operation::Put;
        for (operation, weight) in &self.plan.weights {
            if at < *weight {
                kind = *operation;
                break;
            }
            at -= weight;
        }
        match kind {
            Operation::Put => Request::Put(self.put(number)),
            Operation::Delete => Request::DeleteRange(self.delete(number)),
            Operation::Txn => Request::Txn(Box::new(self.txn(number))),
            Operation::Range => Request::Range(self.range()),
            Operation::StaleRange => Request::Range(pb::RangeRequest {
                serializable: true,
                ..self.range()
            }),
            Operation::OldRange => {
                let oldest = (self.compacted - 2).max(1);
                let revision =
                    oldest + self.chance.below((self.revision + 3 - oldest) as u64) as i64;
                Request::Range(pb::RangeRequest {
                    revision,
                    serializable: self.chance.percent(30),
                    ..self.range()
                })
            }
            Operation::Compact => Request::Compact(pb::CompactionRequest {
                revision: (self.revision - self.chance.below(20) as i64).max(1),
                physical: self.chance.percent(50),
            }),
            Operation::Defragment => Request::Defragment,
            Operation::Status => Request::Status,
        }
    }

    pub fn key(&mut self) -> Bytes {
        format!("k{:03}", self.chance.below(self.plan.keys)).into()
    }

    fn value(&mut self, number: u64) -> Bytes {
        let mut value = mark_text(number);
        let fill = self.chance.below(self.plan.value_bytes_max) as usize;
        value.extend(std::iter::repeat_n('v', fill));
        value.into()
    }

    fn put(&mut self, number: u64) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key(),
            value: self.value(number),
            prev_kv: self.chance.percent(30),
            ..Default::default()
        }
    }

    /// The end lies between the last key and anything that could follow it.
    fn delete(&mut self, number: u64) -> pb::DeleteRangeRequest {
        let key = self.key();
        let last = match self.chance.percent(80) {
            true => key.clone(),
            false => self.key().max(key.clone()),
        };
        let mut range_end = last.to_vec();
        range_end.push(0);
        range_end.extend_from_slice(mark_text(number).as_bytes());
        pb::DeleteRangeRequest {
            key,
            range_end: range_end.into(),
            prev_kv: self.chance.percent(30),
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let key = self.key();
        let range_end = match self.chance.below(4) {
            0 => Bytes::new(),
            1 => self.key(),
            2 => Bytes::from_static(b"\0"),
            _ => Bytes::from_static(b"l"),
        };
        let empty = !range_end.is_empty() && range_end[0] != 0 && range_end <= key;
        pb::RangeRequest {
            key,
            range_end: match empty {
                true => Bytes::new(),
                false => range_end,
            },
            limit: self.chance.below(4) as i64 * i64::from(!self.plan.wide_ranges),
            keys_only: self.chance.percent(10),
            count_only: self.chance.percent(10),
            ..Default::default()
        }
    }

    /// A comparison of a key that never exists says whose it is; the others decide.
    fn txn(&mut self, number: u64) -> pb::TxnRequest {
        let mark = pb::Compare {
            result: compare::CompareResult::Equal as i32,
            target: compare::CompareTarget::Version as i32,
            key: format!("question/{}", mark_text(number)).into(),
            target_union: Some(compare::TargetUnion::Version(0)),
            ..Default::default()
        };
        let mut compares = vec![mark];
        if self.chance.percent(70) {
            let revision = self.chance.below(self.revision as u64 + 1) as i64;
            compares.push(pb::Compare {
                result: self.chance.below(4) as i32,
                target: compare::CompareTarget::Mod as i32,
                key: self.key(),
                target_union: Some(compare::TargetUnion::ModRevision(revision)),
                ..Default::default()
            });
        }
        pb::TxnRequest {
            compare: compares,
            success: self.branch(number, 0),
            failure: self.branch(number, 1),
        }
    }

    fn branch(&mut self, number: u64, which: u64) -> Vec<pb::RequestOp> {
        let mut ops = Vec::new();
        // A key must not be written twice: the operations go through the keys in order.
        let mut at = self.chance.below(3);
        for _ in 0..self.chance.between(1, 4) {
            if at >= self.plan.keys {
                break;
            }
            let key = Bytes::from(format!("k{at:03}"));
            ops.push(match self.chance.below(6) {
                0 => Op::RequestRange(pb::RangeRequest {
                    revision: match self.chance.percent(20) {
                        true => self.revision,
                        false => 0,
                    },
                    ..self.range()
                }),
                1 => {
                    // Several keys now and then, so that the transaction takes slices.
                    let more = number % 5;
                    let range_end = match more {
                        0 => Bytes::new(),
                        more => format!("k{:03}", at + 1 + more).into(),
                    };
                    at += more;
                    Op::RequestDeleteRange(pb::DeleteRangeRequest {
                        key,
                        range_end,
                        prev_kv: number % 2 == 0,
                    })
                }
                _ => Op::RequestPut(pb::PutRequest {
                    key,
                    value: self.value(number),
                    prev_kv: self.chance.percent(20),
                    ..Default::default()
                }),
            });
            at += 1 + self.chance.below(3);
        }
        if which == 0 && self.chance.percent(10) {
            let success = self.nested();
            ops.push(Op::RequestTxn(pb::TxnRequest {
                success,
                ..Default::default()
            }));
        }
        let ops = ops
            .into_iter()
            .map(|op| pb::RequestOp { request: Some(op) });
        let mut ops: Vec<_> = ops.collect();
        if ops
            .iter()
            .all(|op| matches!(op.request, Some(Op::RequestRange(_))))
        {
            // One that only reads is no write and has no entry.
            ops.push(pb::RequestOp {
                request: Some(Op::RequestTxn(pb::TxnRequest::default())),
            });
        }
        ops
    }

    fn nested(&mut self) -> Vec<pb::RequestOp> {
        vec![pb::RequestOp {
            request: Some(Op::RequestRange(self.range())),
        }]
    }
}

/// The mark of a question, if it writes.
pub fn mark_of(request: &Request, number: u64) -> Option<Mark> {
    match request {
        Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => Some(Mark::Question(number)),
        Request::Compact(compaction) => Some(Mark::Compact(compaction.revision)),
        Request::LeaseGrant(grant) => Some(Mark::Grant(grant.id)),
        Request::LeaseRevoke(revoke) => Some(Mark::Revoke(revoke.id)),
        _ => None,
    }
}

/// What an entry asks of the model, and its mark; `None` if it does not touch keys or leases.
pub fn of_entry(entry: &InternalRaftRequest) -> Option<(model::Request, Option<Mark>)> {
    if let Some(put) = &entry.put {
        return Some((model::Request::Put(put.clone()), marked(&put.value)));
    }
    if let Some(delete) = &entry.delete_range {
        let mark = marked(&delete.range_end);
        return Some((model::Request::DeleteRange(delete.clone()), mark));
    }
    if let Some(txn) = &entry.txn {
        let mark = txn.compare.first().and_then(|first| marked(&first.key));
        return Some((model::Request::Txn(txn.clone()), mark));
    }
    if let Some(compaction) = &entry.compaction {
        let mark = Mark::Compact(compaction.revision);
        return Some((model::Request::Compact(*compaction), Some(mark)));
    }
    if let Some(alarm) = &entry.alarm {
        return Some((model::Request::Alarm(**alarm), None));
    }
    if let Some(grant) = &entry.lease_grant {
        let mark = Mark::Grant(grant.id);
        return Some((model::Request::LeaseGrant(*grant), Some(mark)));
    }
    if let Some(revoke) = &entry.lease_revoke {
        let mark = Mark::Revoke(revoke.id);
        return Some((model::Request::LeaseRevoke(*revoke), Some(mark)));
    }
    None
}

/// A refusal that leaves open whether the write takes effect.
pub fn is_unknown(status: &Status) -> bool {
    const DEADLINE_EXCEEDED: u32 = 4;
    const UNAVAILABLE: u32 = 14;
    matches!(status.code, DEADLINE_EXCEEDED | UNAVAILABLE)
}

/// A member's answer in the form of the model's.
pub fn answer_of(
    request: &Request,
    result: &Result<Bytes, Status>,
) -> Result<Result<Response, Refusal>, String> {
    let bytes = match result {
        Ok(bytes) => bytes.clone(),
        Err(status) => {
            return Ok(Err(Refusal {
                code: status.code as i32,
                message: status.message.to_string(),
            }))
        }
    };
    let decoded = match request {
        Request::Put(_) => pb::PutResponse::decode(bytes).map(Response::Put),
        Request::DeleteRange(_) => {
            pb::DeleteRangeResponse::decode(bytes).map(Response::DeleteRange)
        }
        Request::Txn(txn) => pb::TxnResponse::decode(bytes)
            .map(|response| Response::Txn(wrapped_again(txn, response))),
        Request::Compact(_) => pb::CompactionResponse::decode(bytes).map(Response::Compact),
        Request::LeaseGrant(_) => pb::LeaseGrantResponse::decode(bytes).map(Response::LeaseGrant),
        Request::LeaseRevoke(_) => {
            pb::LeaseRevokeResponse::decode(bytes).map(Response::LeaseRevoke)
        }
        _ => return Err("not a write".to_string()),
    };
    decoded
        .map(Ok)
        .map_err(|error| format!("the answer cannot be decoded: {error}"))
}

/// Ranges at a revision are nested in the entry and taken out of the answer: nests them again, to compare.
fn wrapped_again(txn: &pb::TxnRequest, mut response: pb::TxnResponse) -> pb::TxnResponse {
    let mut asked = txn.clone();
    wrap_direct_ranges(&mut asked, false);
    let (before, after) = match response.succeeded {
        true => (&txn.success, &asked.success),
        false => (&txn.failure, &asked.failure),
    };
    for (place, (before, after)) in before.iter().zip(after).enumerate() {
        if before == after {
            continue;
        }
        if let Some(answer) = response.responses.get_mut(place) {
            let range = pb::ResponseOp {
                response: answer.response.take(),
            };
            answer.response = Some(OpAnswer::ResponseTxn(pb::TxnResponse {
                header: Some(pb::ResponseHeader::default()),
                succeeded: true,
                responses: vec![range],
            }));
        }
    }
    response
}

/// Equal but for who answers in which term.
pub fn same_answer(expected: &Result<Response, Refusal>, said: &Result<Response, Refusal>) -> bool {
    match (expected, said) {
        (Ok(expected), Ok(said)) => bare(expected) == bare(said),
        (Err(expected), Err(said)) => expected == said,
        _ => false,
    }
}

fn bare(response: &Response) -> Response {
    let mut response = response.clone();
    let header = match &mut response {
        Response::Put(r) => &mut r.header,
        Response::DeleteRange(r) => &mut r.header,
        Response::Txn(r) => &mut r.header,
        Response::Compact(r) => &mut r.header,
        Response::LeaseGrant(r) => &mut r.header,
        Response::LeaseRevoke(r) => &mut r.header,
        _ => return response,
    };
    if let Some(header) = header {
        *header = pb::ResponseHeader {
            revision: header.revision,
            ..Default::default()
        };
    }
    response
}
