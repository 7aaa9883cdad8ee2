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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// F2: what is open, in our hands and not yet announced always adds up to the window.
        #[test]
        fn receive_window_is_conserved(
            target in 1u32..1_000_000,
            steps in proptest::collection::vec((any::<bool>(), 0u32..50_000, any::<bool>()), 0..200),
        ) {
            let mut window = ReceiveWindow::new(target);
            let mut held = 0;
            // What the peer believes that it may send.
            let mut peer = target;
            for (receive, bytes, announce) in steps {
                if receive {
                    match window.receive(bytes) {
                        Ok(()) => {
                            prop_assert!(bytes <= peer);
                            peer -= bytes;
                            held += bytes;
                        }
                        Err(Exceeded) => prop_assert!(bytes > peer),
                    }
                } else {
                    let bytes = bytes.min(held);
                    held -= bytes;
                    window.consume(bytes);
                    if announce {
                        peer += window.reopen().unwrap_or(0);
                    }
                }
                prop_assert_eq!(window.open(), peer);
                prop_assert_eq!(window.open() + window.returned() + held, target);
            }
        }

        #[test]
        fn send_window_never_passes_its_limit(steps in proptest::collection::vec(-(1i64 << 31)..(1 << 31), 0..50)) {
            let mut window = SendWindow::new(65_535);
            let mut model = 65_535i64;
            for step in steps {
                match window.shift(step) {
                    Ok(()) => model += step,
                    Err(Overflow) => prop_assert!(model + step > limits::WINDOW_BYTES_LIMIT),
                }
                prop_assert_eq!(window.raw(), model);
                let part = window.available() / 2;
                window.take(part);
                model -= part as i64;
                prop_assert!(model <= limits::WINDOW_BYTES_LIMIT);
            }
        }
    }
}
