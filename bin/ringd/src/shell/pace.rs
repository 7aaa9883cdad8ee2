//! How fast a checkpoint is written: slowly, so that the log keeps the disk to itself, and faster the less room is left for
//! the pages that change meanwhile.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

/// Checkpoint runs go out at this pace while there is room...
const CALM_BYTES_PER_S: u64 = 50 << 20;
/// ...this share of it, in percent. With less left, the pace grows.
const CALM_LEFT_PERCENT: u64 = 50;
/// What a run of its own costs the disk, however short it is.
const RUN_BYTES: u64 = 12 << 10;

/// The share of the room that is taken, in percent, as the executor saw it last.
#[derive(Clone, Default)]
pub struct Pressure(Arc<AtomicU64>);

impl Pressure {
    pub fn set(&self, percent: u64) {
        self.0.store(percent, Ordering::Relaxed);
    }

    fn bytes_per_s(&self) -> u64 {
        let left = 100_u64.saturating_sub(self.0.load(Ordering::Relaxed));
        // Four times as fast with a quarter of the room left, twenty-five times with a tenth.
        let left = left.clamp(1, CALM_LEFT_PERCENT);
        CALM_BYTES_PER_S * CALM_LEFT_PERCENT * CALM_LEFT_PERCENT / (left * left)
    }
}

/// The pace of one checkpoint.
pub struct Pace {
    pressure: Pressure,
    begun: Instant,
    due: Duration,
}

impl Pace {
    pub fn new(pressure: Pressure) -> Pace {
        Pace {
            pressure,
            begun: Instant::now(),
            due: Duration::ZERO,
        }
    }

    /// Sleeps until the next run may be written.
    pub fn wrote(&mut self, bytes: usize) {
        let bytes = bytes as u64 + RUN_BYTES;
        let nanoseconds = bytes.saturating_mul(1_000_000_000) / self.pressure.bytes_per_s();
        self.due += Duration::from_nanos(nanoseconds);
        if let Some(early) = self.due.checked_sub(self.begun.elapsed()) {
            std::thread::sleep(early);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_grows_as_room_goes() {
        let at = |percent| {
            let pressure = Pressure::default();
            pressure.set(percent);
            pressure.bytes_per_s() / CALM_BYTES_PER_S
        };
        assert_eq!(
            [0, 50, 75, 90, 99, 100, 150].map(at),
            [1, 1, 4, 25, 2_500, 2_500, 2_500]
        );
    }
}
