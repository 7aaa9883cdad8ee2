//! Compares, checks and execution of transactions.

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::mvccpb::KeyValue;

use super::{compacted, future, validate, KeyRange, Model, Refusal};
use crate::wire;

/// The branch that each txn of the tree takes, outer first, in the order in which they stand.
type Path = Vec<bool>;

impl Model {
    pub(super) fn txn(&mut self, r: &pb::TxnRequest) -> Result<pb::TxnResponse, Refusal> {
        let read_only = r
            .success
            .iter()
            .chain(&r.failure)
            .all(|op| matches!(op.request, Some(Op::RequestRange(_))));
        self.check_quota(validate::txn_cost(r))?;
        validate::txn(r, self.limits.txn_ops_max)?;
        if !read_only {
            self.check_size(&pb::InternalRaftRequest {
                txn: Some(r.clone()),
                ..Default::default()
            })?;
            self.check_alarms(validate::txn_cost(r))?;
        }
        let mut path = Path::new();
        self.decide(r, &mut path);
        self.check_puts(r, &mut path.iter())?;
        self.check_ranges(r, &mut path.iter())?;
        let main = self.history.revision + 1;
        let mut response = match self.execute(r, main, &mut path.iter()) {
            Ok(response) => response,
            Err(refusal) => {
                self.history.undo(main);
                return Err(refusal);
            }
        };
        if self.history.wrote(main) {
            self.commit(main);
        }
        response.header = self.header();
        Ok(response)
    }

    fn decide(&self, r: &pb::TxnRequest, path: &mut Path) {
        let taken = r.compare.iter().all(|c| self.holds(c));
        path.push(taken);
        for op in branch(r, taken) {
            if let Some(Op::RequestTxn(inner)) = &op.request {
                self.decide(inner, path);
            }
        }
    }

    fn holds(&self, c: &pb::Compare) -> bool {
        let range = KeyRange::new(&c.key, &c.range_end);
        let kvs = self.history.live(&range, self.history.revision);
        if kvs.is_empty() {
            let of_value = c.target == CompareTarget::Value as i32;
            return !of_value && compare(c, &KeyValue::default());
        }
        kvs.iter().all(|kv| compare(c, kv))
    }

    /// All puts of the taken path first: ignored fields before the lease.
    fn check_puts(
        &self,
        r: &pb::TxnRequest,
        path: &mut std::slice::Iter<bool>,
    ) -> Result<(), Refusal> {
        for op in branch(r, *path.next().expect("a decision per txn")) {
            match &op.request {
                Some(Op::RequestPut(put)) => {
                    self.check_ignored(put)?;
                    self.check_lease(put.lease)?;
                }
                Some(Op::RequestTxn(inner)) => self.check_puts(inner, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Then all ranges. Unlike in a plain Range, -1 is a revision here, the one before any compaction.
    fn check_ranges(
        &self,
        r: &pb::TxnRequest,
        path: &mut std::slice::Iter<bool>,
    ) -> Result<(), Refusal> {
        for op in branch(r, *path.next().expect("a decision per txn")) {
            match &op.request {
                Some(Op::RequestRange(range)) if range.revision > self.history.revision => {
                    return future();
                }
                Some(Op::RequestRange(range))
                    if range.revision != 0 && range.revision < self.history.compacted =>
                {
                    return compacted();
                }
                Some(Op::RequestTxn(inner)) => self.check_ranges(inner, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        r: &pb::TxnRequest,
        main: i64,
        path: &mut std::slice::Iter<bool>,
    ) -> Result<pb::TxnResponse, Refusal> {
        let succeeded = *path.next().expect("a decision per txn");
        let mut responses = Vec::new();
        for op in branch(r, succeeded) {
            let answer = match op.request.as_ref().expect("validated") {
                Op::RequestRange(range) => {
                    let mut response = self.history.range(range, self.running(main));
                    response.header = self.op_header(main);
                    Answer::ResponseRange(response)
                }
                Op::RequestPut(put) => {
                    // An earlier op of this txn may have deleted the key whose value is to stay.
                    self.check_ignored(put)?;
                    let prev_kv = self.history.put(put, main);
                    Answer::ResponsePut(pb::PutResponse {
                        header: self.op_header(main),
                        prev_kv: prev_kv.filter(|_| put.prev_kv),
                    })
                }
                Op::RequestDeleteRange(d) => {
                    let range = KeyRange::new(&d.key, &d.range_end);
                    let deleted = self.history.delete(&range, main);
                    Answer::ResponseDeleteRange(pb::DeleteRangeResponse {
                        header: self.op_header(main),
                        deleted: deleted.len() as i64,
                        prev_kvs: if d.prev_kv { deleted } else { Vec::new() },
                    })
                }
                Op::RequestTxn(inner) => {
                    let mut response = self.execute(inner, main, path)?;
                    response.header = Some(pb::ResponseHeader::default());
                    Answer::ResponseTxn(response)
                }
            };
            responses.push(pb::ResponseOp {
                response: Some(answer),
            });
        }
        Ok(pb::TxnResponse {
            header: None,
            succeeded,
            responses,
        })
    }

    /// The newest revision as the running txn sees it.
    fn running(&self, main: i64) -> i64 {
        self.history.revision + i64::from(self.history.wrote(main))
    }

    fn op_header(&self, main: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            revision: self.running(main),
            ..Default::default()
        })
    }
}

fn branch(r: &pb::TxnRequest, taken: bool) -> &[pb::RequestOp] {
    if taken {
        &r.success
    } else {
        &r.failure
    }
}

fn compare(c: &pb::Compare, kv: &KeyValue) -> bool {
    let integer = |n: i64, operand: Option<i64>| n.cmp(&operand.unwrap_or(0));
    let operand = c.target_union.as_ref();
    let order = match CompareTarget::try_from(c.target) {
        Ok(CompareTarget::Version) => integer(
            kv.version,
            operand.and_then(|o| match o {
                TargetUnion::Version(n) => Some(*n),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Create) => integer(
            kv.create_revision,
            operand.and_then(|o| match o {
                TargetUnion::CreateRevision(n) => Some(*n),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Mod) => integer(
            kv.mod_revision,
            operand.and_then(|o| match o {
                TargetUnion::ModRevision(n) => Some(*n),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Lease) => integer(
            kv.lease,
            operand.and_then(|o| match o {
                TargetUnion::Lease(n) => Some(*n),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Value) => match operand {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.cmp(&Bytes::new()),
        },
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(c.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// Decodes a txn of any depth; prost gives up at a hundred levels, and a txn may have 128.
pub fn decode(bytes: &[u8]) -> Option<pb::TxnRequest> {
    let message = wire::schema().get_message_by_name("etcdserverpb.TxnRequest")?;
    from_tree(&wire::parse(&message, bytes)?)
}

fn from_tree(tree: &wire::Tree) -> Option<pb::TxnRequest> {
    let mut txn = pb::TxnRequest::default();
    for field in tree {
        let wire::Wire::Message(inner) = &field.value else {
            continue;
        };
        match field.number {
            1 => txn
                .compare
                .push(pb::Compare::decode(&wire::unparse(inner)[..]).ok()?),
            2 => txn.success.push(op_from_tree(inner)?),
            3 => txn.failure.push(op_from_tree(inner)?),
            _ => {}
        }
    }
    Some(txn)
}

fn op_from_tree(tree: &wire::Tree) -> Option<pb::RequestOp> {
    if let [wire::Field {
        number: 4,
        value: wire::Wire::Message(inner),
    }] = &tree[..]
    {
        let request = Some(Op::RequestTxn(from_tree(inner)?));
        return Some(pb::RequestOp { request });
    }
    pb::RequestOp::decode(&wire::unparse(tree)[..]).ok()
}
