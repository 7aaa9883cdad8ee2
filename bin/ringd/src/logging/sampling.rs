//! Bounds what a message that repeats in a loop can write: the first hundred of it per second, then every hundredth.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use super::Level;

/// Messages are counted by hash; two that share a slot share its allowance.
const SLOTS: usize = 1024;
const FIRST_PER_SECOND: u64 = 100;
const THEN_EVERY: u64 = 100;

/// One slot: the second it counts for in the upper 32 bits, the count in the lower ones, so that both change at once.
pub(super) struct Sampler {
    slots: Box<[AtomicU64]>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Sampler {
    pub(super) fn admit(&self, level: Level, msg: &str, now: SystemTime) -> bool {
        let second = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
            & 0xffff_ffff;
        let slot = &self.slots[slot_of(level, msg)];
        let mut seen = slot.load(Ordering::Relaxed);
        let count = loop {
            let count = if seen >> 32 == second {
                (seen & 0xffff_ffff) + 1
            } else {
                1
            };
            let next = second << 32 | count.min(0xffff_ffff);
            match slot.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break count,
                Err(actual) => seen = actual,
            }
        };
        count <= FIRST_PER_SECOND || (count - FIRST_PER_SECOND) % THEN_EVERY == 0
    }
}

/// FNV-1a over level and message.
fn slot_of(level: Level, msg: &str) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ level as u64;
    for byte in msg.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (hash ^ hash >> 32) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_a_hundred_and_then_every_hundredth_in_each_second() {
        let sampler = Sampler::default();
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let admitted = (0..350)
            .filter(|_| sampler.admit(Level::Info, "m", at(5)))
            .count();
        assert_eq!(admitted, 102);
        assert!(sampler.admit(Level::Info, "m", at(6)));
    }
}
