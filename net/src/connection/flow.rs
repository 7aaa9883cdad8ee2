//! Flow control windows (RFC 9113 section 5.2).

use crate::limits;

/// What we may still send. Negative after the peer lowered INITIAL_WINDOW_SIZE below what was on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendWindow(i64);

/// A window would pass 2^31-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

impl SendWindow {
    pub fn new(bytes: u32) -> SendWindow {
        SendWindow(i64::from(bytes))
    }

    #[inline]
    pub fn available(self) -> usize {
        self.0.max(0) as usize
    }

    #[inline]
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.available());
        self.0 -= bytes as i64;
    }

    /// By a WINDOW_UPDATE, or by the difference of two INITIAL_WINDOW_SIZEs.
    pub fn shift(&mut self, bytes: i64) -> Result<(), Overflow> {
        let widened = self.0 + bytes;
        if widened > limits::WINDOW_BYTES_LIMIT {
            return Err(Overflow);
        }
        self.0 = widened;
        Ok(())
    }

    #[cfg(test)]
    pub fn raw(self) -> i64 {
        self.0
    }
}

/// What the peer may still send. Invariant: `open + held + returned == target`, where `held` was received and not consumed,
/// and `returned` was consumed and not yet announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveWindow {
    open: u32,
    returned: u32,
    target: u32,
}

/// The peer sent more than the window allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded;

impl ReceiveWindow {
    pub fn new(target: u32) -> ReceiveWindow {
        ReceiveWindow {
            open: target,
            returned: 0,
            target,
        }
    }

    /// The payload of a DATA frame, padding included, arrived.
    #[inline]
    pub fn receive(&mut self, bytes: u32) -> Result<(), Exceeded> {
        self.open = self.open.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// The bytes were consumed.
    #[inline]
    pub fn consume(&mut self, bytes: u32) {
        self.returned += bytes;
        debug_assert!(self.open + self.returned <= self.target);
    }

    /// Reopens the window once half of it waits to be; returns the increment to announce.
    #[inline]
    pub fn reopen(&mut self) -> Option<u32> {
        if self.returned < self.target / 2 {
            return None;
        }
        let increment = self.returned;
        self.open += increment;
        self.returned = 0;
        Some(increment)
    }

    #[cfg(test)]
    pub fn open(self) -> u32 {
        self.open
    }

    #[cfg(test)]
    pub fn returned(self) -> u32 {
        self.returned
    }
}
