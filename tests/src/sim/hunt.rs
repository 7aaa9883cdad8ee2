//! The hunt for planted bugs: each is planted in turn and seeds are run until one fails. Each of these seeds succeeds without
//! the bug, see the tests.
//!
//! The seeds of a bug run side by side, on all cores. The one that is told is the first in their order, whichever was done
//! first, so that the table is the same on every machine.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::planted::{plant, Plant};
use super::trace::Trace;
use super::Outcome;

/// Within so many seeds a planted bug has to show.
pub const SEEDS_MAX: u64 = 2_000;

/// What the hunt for one bug has come to.
pub struct Hunt {
    pub bug: Plant,
    /// Seeds begun.
    begun: u64,
    running: usize,
    /// Time that threads spent on it.
    pub spent: Duration,
    /// The first seed that failed, and why.
    pub noticed: Option<(u64, String)>,
}

impl Hunt {
    fn new(bug: Plant) -> Hunt {
        Hunt {
            bug,
            begun: 0,
            running: 0,
            spent: Duration::ZERO,
            noticed: None,
        }
    }

    fn goes_on(&self) -> bool {
        self.noticed.is_none() && self.begun < SEEDS_MAX
    }

    fn is_over(&self) -> bool {
        self.running == 0 && !self.goes_on()
    }

    fn ended(&mut self, outcome: Outcome, spent: Duration) {
        self.running -= 1;
        self.spent += spent;
        let Some(failure) = outcome.failure else {
            return;
        };
        let is_first = self
            .noticed
            .as_ref()
            .is_none_or(|(seed, _)| outcome.seed < *seed);
        if is_first {
            self.noticed = Some((outcome.seed, failure));
        }
    }
}

/// Hunts for these bugs with the seeds from `first` on. `tell` hears of each hunt that is over.
pub fn hunt(
    bugs: impl Iterator<Item = Plant>,
    first: u64,
    duration_ns: u64,
    tell: impl Fn(&Hunt) + Sync,
) -> Vec<Hunt> {
    let hunts = Mutex::new(bugs.map(Hunt::new).collect::<Vec<_>>());
    let worker = || {
        while let Some((at, bug, seed)) = next(&hunts, first) {
            let begun = Instant::now();
            plant(Some(bug));
            let outcome = super::run_once(seed, duration_ns, Trace::default());
            plant(None);
            let mut hunts = locked(&hunts);
            hunts[at].ended(outcome, begun.elapsed());
            if hunts[at].is_over() {
                tell(&hunts[at]);
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        for _ in 0..cores {
            scope.spawn(worker);
        }
    });
    hunts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked(hunts: &Mutex<Vec<Hunt>>) -> MutexGuard<'_, Vec<Hunt>> {
    // A seed's panic is caught where it runs.
    hunts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next seed of the first hunt that goes on: its place, the bug and the seed.
fn next(hunts: &Mutex<Vec<Hunt>>, first: u64) -> Option<(usize, Plant, u64)> {
    let mut hunts = locked(hunts);
    let at = hunts.iter().position(Hunt::goes_on)?;
    let hunt = &mut hunts[at];
    let seed = first + hunt.begun;
    hunt.begun += 1;
    hunt.running += 1;
    Some((at, hunt.bug, seed))
}
