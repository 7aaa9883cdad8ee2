//! Transactions: the conditions of the whole tree first, then the checks, then the operations in order.

use super::wrap::{is_writing, response_op};
use super::{header, Store};
use crate::error::RequestError;
use crate::mvcc::batch::Batch;
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
pub(super) use accepted;

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

struct Run<'s> {
    store: &'s Store,
    reader: Reader<'s>,
    path: Path,
    /// The next outcome that execution uses.
    step: usize,
}

impl Run<'_> {
    fn next(&mut self) -> bool {
        self.step += 1;
        self.path[self.step - 1]
    }

    /// All conditions of the chosen path see the store as it was before the transaction.
    fn decide(&mut self, txn: &TxnRequest) -> Result<(), Miss> {
        let succeeded = self.reader.compare_all(&txn.compare)?;
        self.path.push(succeeded);
        for op in branch(txn, succeeded) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.decide(nested)?;
            }
        }
        Ok(())
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

    fn execute(
        &mut self,
        txn: &TxnRequest,
        batch: &mut Batch,
        header: ResponseHeader,
    ) -> Evaluated<TxnResponse> {
        let succeeded = self.next();
        let ops = branch(txn, succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(accepted!(self.execute_op(op, batch)));
        }
        Ok(Ok(TxnResponse {
            header: Some(header),
            succeeded,
            responses,
        }))
    }

    fn execute_op(&mut self, op: &RequestOp, batch: &mut Batch) -> Evaluated<ResponseOp> {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => {
                // Only a range that was exempt from the check can be refused here. Whoever proposed it has dropped
                // it or refused the transaction, so nobody reads this answer.
                let response = self.reader.range(range, Some(batch))?.unwrap_or_default();
                Response::ResponseRange(RangeResponse {
                    header: Some(header(batch.revision())),
                    ..response
                })
            }
            Some(Request::RequestPut(put)) => {
                let prev_kv = accepted!(batch.put(&self.reader, put));
                Response::ResponsePut(PutResponse {
                    header: Some(header(batch.revision())),
                    prev_kv,
                })
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let (deleted, prev_kvs) = batch.delete_range(&self.reader, delete)?;
                Response::ResponseDeleteRange(DeleteRangeResponse {
                    header: Some(header(batch.revision())),
                    deleted,
                    prev_kvs,
                })
            }
            Some(Request::RequestTxn(nested)) => {
                let empty = ResponseHeader::default();
                Response::ResponseTxn(accepted!(self.execute(nested, batch, empty)))
            }
            // Validation refuses it at the proposer.
            None => return Ok(Err(RequestError::KeyNotFound)),
        };
        Ok(Ok(response_op(response)))
    }
}

impl Store {
    pub(super) fn check_lease(&self, lease: i64) -> Result<(), RequestError> {
        match lease == 0 || self.lessor.contains(lease) {
            true => Ok(()),
            false => Err(RequestError::LeaseNotFound),
        }
    }

    /// Works out what a transaction answers and writes, and writes nothing.
    pub(super) fn evaluate_txn(&self, txn: &TxnRequest) -> Evaluated<(TxnResponse, Batch)> {
        let mut run = Run {
            store: self,
            reader: self.reader(),
            path: Vec::new(),
            step: 0,
        };
        run.decide(txn)?;
        let writing = is_writing(txn);
        if writing {
            accepted!(run.check_puts(txn));
        }
        run.step = 0;
        let direct = !writing || self.settings.checks_direct_ranges();
        if let Err(error) = run.check_ranges(txn, direct) {
            return Ok(Err(error));
        }
        run.step = 0;
        let mut batch = Batch::new(self.revision + 1);
        let mut response = accepted!(run.execute(txn, &mut batch, ResponseHeader::default()));
        response.header = Some(header(batch.revision()));
        Ok(Ok((response, batch)))
    }
}
