//! Transactions: the conditions of the whole tree first, then the checks, then the operations in order.

use super::wrap::{is_writing, response_op};
use super::{header, Store};
use crate::error::RequestError;
use crate::mvcc::batch::{Batch, Deletion};
use crate::mvcc::compare::Comparison;
use crate::mvcc::read::Reader;
use crate::page::Miss;
use proto::etcdserverpb::{
    request_op::Request, response_op::Response, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};

/// A value, a refusal of the request, or a page that is missing.
pub(super) type Evaluated<T> = Result<Result<T, RequestError>, Miss>;

/// Outcomes of the conditions, outer before inner, in the order in which execution meets them.
type Path = Vec<bool>;

pub(super) fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    match succeeded {
        true => &txn.success,
        false => &txn.failure,
    }
}

/// Unwraps the inner result or hands the refusal on.
macro_rules! accepted {
    ($evaluated:expr) => {
        match $evaluated? {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        }
    };
}

/// Negative revisions are not the newest one here, as in etcd.
pub(super) fn check_range(
    range: &RangeRequest,
    newest: i64,
    compacted: i64,
) -> Result<(), RequestError> {
    if range.revision > newest {
        return Err(RequestError::FutureRevision);
    }
    if range.revision != 0 && range.revision < compacted {
        return Err(RequestError::Compacted);
    }
    Ok(())
}

/// What is decided and checked before the first operation.
struct Checks<'s> {
    store: &'s Store,
    reader: Reader<'s>,
    path: &'s mut Path,
    /// The next outcome of the path.
    step: usize,
}

/// A transaction on its way: through its conditions first, then through its operations.
#[derive(Default)]
pub(super) struct TxnRun {
    path: Path,
    /// How far the conditions are looked at that belong to the next outcome.
    comparison: Comparison,
    is_checked: bool,
    /// The next outcome that execution uses.
    step: usize,
    /// From the outermost one to the one whose operations are being executed.
    levels: Vec<Level>,
    /// Of the next operation.
    deletion: Option<Deletion>,
}

/// A transaction, or one in it, with the answers to those of its operations that are done.
struct Level {
    succeeded: bool,
    responses: Vec<ResponseOp>,
}

impl Checks<'_> {
    fn next(&mut self) -> bool {
        self.step += 1;
        self.path[self.step - 1]
    }

    /// All conditions of the chosen path see the store as it was before the transaction. False: some are left.
    fn decide(
        &mut self,
        txn: &TxnRequest,
        comparison: &mut Comparison,
        keys_left: &mut usize,
    ) -> Result<bool, Miss> {
        if self.step == self.path.len() {
            let compares = &txn.compare;
            let outcome = self.reader.compare_all(compares, comparison, keys_left)?;
            let Some(succeeded) = outcome else {
                return Ok(false);
            };
            *comparison = Comparison::default();
            self.path.push(succeeded);
        }
        for op in branch(txn, self.next()) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                if !self.decide(nested, comparison, keys_left)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn check_puts(&mut self, txn: &TxnRequest) -> Evaluated<()> {
        let succeeded = self.next();
        for op in branch(txn, succeeded) {
            match &op.request {
                Some(Request::RequestPut(put)) => accepted!(self.check_put(put)),
                Some(Request::RequestTxn(nested)) => accepted!(self.check_puts(nested)),
                _ => {}
            }
        }
        Ok(Ok(()))
    }

    fn check_put(&self, put: &PutRequest) -> Evaluated<()> {
        if put.ignore_value || put.ignore_lease {
            let head = self.reader.head(&put.key)?;
            if head.is_none_or(|head| head.tombstone) {
                return Ok(Err(RequestError::KeyNotFound));
            }
        }
        Ok(self.store.check_lease(put.lease))
    }

    /// `direct`: whether ranges of this level are checked, see `store::wrap`.
    fn check_ranges(&mut self, txn: &TxnRequest, direct: bool) -> Result<(), RequestError> {
        let succeeded = self.next();
        for op in branch(txn, succeeded) {
            match &op.request {
                Some(Request::RequestRange(range)) if direct => {
                    check_range(range, self.reader.revision, self.reader.compacted)?;
                }
                Some(Request::RequestTxn(nested)) => self.check_ranges(nested, true)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl TxnRun {
    /// Decides which operations are executed, and checks these. False: not yet.
    fn check(&mut self, store: &Store, txn: &TxnRequest, keys_left: &mut usize) -> Evaluated<bool> {
        let mut checks = Checks {
            store,
            reader: store.reader(),
            path: &mut self.path,
            step: 0,
        };
        if !checks.decide(txn, &mut self.comparison, keys_left)? {
            return Ok(Ok(false));
        }
        checks.step = 0;
        let writing = is_writing(txn);
        if writing {
            accepted!(checks.check_puts(txn));
        }
        checks.step = 0;
        let direct = !writing || store.settings.checks_direct_ranges();
        if let Err(error) = checks.check_ranges(txn, direct) {
            return Ok(Err(error));
        }
        self.is_checked = true;
        self.enter(txn);
        Ok(Ok(true))
    }

    fn enter<'t>(&mut self, txn: &'t TxnRequest) -> &'t [RequestOp] {
        let succeeded = self.path[self.step];
        self.step += 1;
        let ops = branch(txn, succeeded);
        self.levels.push(Level {
            succeeded,
            responses: Vec::with_capacity(ops.len()),
        });
        ops
    }

    /// The operations of every level.
    fn lists<'t>(&self, txn: &'t TxnRequest) -> Vec<&'t [RequestOp]> {
        let mut lists = Vec::with_capacity(self.levels.len());
        let mut txn = Some(txn);
        for level in &self.levels {
            let ops = txn.map_or(&[][..], |txn| branch(txn, level.succeeded));
            let next = ops.get(level.responses.len());
            txn = next.and_then(|op| match &op.request {
                Some(Request::RequestTxn(nested)) => Some(nested),
                _ => None,
            });
            lists.push(ops);
        }
        lists
    }

    /// Looks at conditions and executes operations until `keys_left`, of which each takes off what it looks at, is used up; the
    /// answer if that was all of them. After a miss it can go on.
    pub fn go_on(
        &mut self,
        store: &Store,
        txn: &TxnRequest,
        batch: &mut Batch,
        keys_left: &mut usize,
    ) -> Evaluated<Option<TxnResponse>> {
        if !self.is_checked && !accepted!(self.check(store, txn, keys_left)) {
            return Ok(Ok(None));
        }
        let mut lists = self.lists(txn);
        while let (Some(level), Some(ops)) = (self.levels.last(), lists.last()) {
            let Some(op) = ops.get(level.responses.len()) else {
                lists.pop();
                if let Some(whole) = self.leave(batch) {
                    return Ok(Ok(Some(whole)));
                }
                continue;
            };
            if *keys_left == 0 {
                break;
            }
            if let Some(Request::RequestTxn(nested)) = &op.request {
                lists.push(self.enter(nested));
                continue;
            }
            let Some(response) = accepted!(self.execute(store, op, batch, keys_left)) else {
                break;
            };
            self.answered(response);
        }
        Ok(Ok(None))
    }

    fn answered(&mut self, response: Response) {
        if let Some(level) = self.levels.last_mut() {
            level.responses.push(response_op(response));
        }
    }

    /// A level is through. The answer if it was the outermost one.
    fn leave(&mut self, batch: &Batch) -> Option<TxnResponse> {
        let level = self.levels.pop()?;
        let response = TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded: level.succeeded,
            responses: level.responses,
        };
        if self.levels.is_empty() {
            return Some(TxnResponse {
                header: Some(header(batch.revision())),
                ..response
            });
        }
        self.answered(Response::ResponseTxn(response));
        None
    }

    /// One operation, but for a transaction. `None`: a part of it.
    fn execute(
        &mut self,
        store: &Store,
        op: &RequestOp,
        batch: &mut Batch,
        keys_left: &mut usize,
    ) -> Evaluated<Option<Response>> {
        let reader = store.reader();
        let response = match &op.request {
            Some(Request::RequestRange(range)) => {
                // Only a range that was exempt from the check can be refused here. Whoever proposed it has dropped
                // it or refused the transaction, so nobody reads this answer.
                let response = reader.range(range, Some(batch))?.unwrap_or_default();
                *keys_left = keys_left.saturating_sub(response.kvs.len().max(1));
                Response::ResponseRange(RangeResponse {
                    header: Some(header(batch.revision())),
                    ..response
                })
            }
            Some(Request::RequestPut(put)) => {
                let prev_kv = accepted!(batch.put(&reader, put));
                *keys_left -= 1;
                Response::ResponsePut(PutResponse {
                    header: Some(header(batch.revision())),
                    prev_kv,
                })
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let deletion = self.deletion.get_or_insert_default();
                if !batch.delete_range(&reader, delete, deletion, keys_left)? {
                    return Ok(Ok(None));
                }
                let deletion = self.deletion.take().unwrap_or_default();
                Response::ResponseDeleteRange(DeleteRangeResponse {
                    header: Some(header(batch.revision())),
                    deleted: deletion.deleted,
                    prev_kvs: deletion.previous,
                })
            }
            // A level of its own. Validation refuses what is nothing at the proposer.
            Some(Request::RequestTxn(_)) | None => return Ok(Err(RequestError::KeyNotFound)),
        };
        Ok(Ok(Some(response)))
    }
}

impl Store {
    pub(super) fn check_lease(&self, lease: i64) -> Result<(), RequestError> {
        match lease == 0 || self.lessor.contains(lease) {
            true => Ok(()),
            false => Err(RequestError::LeaseNotFound),
        }
    }
}
