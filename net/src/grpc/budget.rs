//! What the requests of all connections may hold together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::status::{Code, Status};
use crate::limits;

/// Bytes of requests from their first byte until they are answered, over all connections that share it. A request that
/// would exceed it is refused with the status given here, and what it held is let go.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    used_bytes: AtomicUsize,
    code: u32,
    message: &'static str,
}

impl Default for Budget {
    fn default() -> Budget {
        let code = Code::RESOURCE_EXHAUSTED.0;
        Budget::new(limits::REQUESTS_HELD_BYTES_MAX, code, "too many requests")
    }
}

impl Budget {
    pub fn new(bytes_max: usize, code: u32, message: &'static str) -> Budget {
        Budget {
            bytes_max,
            used_bytes: AtomicUsize::new(0),
            code,
            message,
        }
    }

    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// A request that held `before` bytes is to hold `after`. When there is no room it goes on holding what it held.
    fn change(&self, before: usize, after: usize) -> Result<(), Status> {
        if after <= before {
            self.used_bytes.fetch_sub(before - after, Ordering::Relaxed);
            return Ok(());
        }
        let more = after - before;
        let used = self.used_bytes.fetch_add(more, Ordering::Relaxed);
        if used + more <= self.bytes_max {
            return Ok(());
        }
        self.used_bytes.fetch_sub(more, Ordering::Relaxed);
        Err(Status::new(Code(self.code), self.message))
    }
}

/// What one request holds of a budget. It is given back when this is dropped, whichever way the request ends.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// `None` while nothing is held.
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl Held {
    /// Holds `bytes` from now on instead of what it held. When there is no room it goes on holding that.
    pub fn set(&mut self, budget: &Arc<Budget>, bytes: usize) -> Result<(), Status> {
        if bytes == self.bytes {
            return Ok(());
        }
        budget.change(self.bytes, bytes)?;
        self.bytes = bytes;
        self.budget.get_or_insert_with(|| budget.clone());
        Ok(())
    }

    pub fn release(&mut self) {
        if let Some(budget) = self.budget.take() {
            // Giving back is never refused.
            let _ = budget.change(std::mem::take(&mut self.bytes), 0);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Arc::new(Budget::new(100, 2, "busy"));
        let mut held = Held::default();
        assert_eq!(held.set(&budget, 60), Ok(()));
        assert!(held.set(&budget, 101).is_err());
        assert_eq!(budget.used_bytes(), 60);
        held.release();
        assert_eq!(budget.used_bytes(), 0);
        assert_eq!(held.set(&budget, 40), Ok(()));
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
        let budget = Budget::new(100, 2, "busy");
        assert_eq!(budget.change(0, 60), Ok(()));
        let refused = budget.change(0, 50).expect_err("too much");
        assert_eq!((refused.code, &refused.message[..]), (Code(2), "busy"));
        assert_eq!(budget.used_bytes(), 60);
        assert_eq!(budget.change(60, 100), Ok(()));
        assert_eq!(budget.change(100, 0), Ok(()));
        assert_eq!(budget.used_bytes(), 0);
    }
}
