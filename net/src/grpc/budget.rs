//! What the requests of all connections may hold together.

use std::sync::atomic::{AtomicUsize, Ordering};

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
    pub(super) fn change(&self, before: usize, after: usize) -> Result<(), Status> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
