//! Where the simulated cluster's choices come from: a seed, or the bytes of a fuzzer's plan.

use crate::random::Random;

/// A source of choices.
#[derive(Clone, Debug)]
pub enum Chance {
    /// Without end.
    #[doc(hidden)]
    Seeded(SeededChance),
    /// Ends with the plan; then every choice is 0.
    #[doc(hidden)]
    Plan(Vec<u8>, usize),
}

/// Choices from a generator.
#[derive(Clone, Debug)]
pub struct SeededChance(Random);

impl Chance {
    /// Choices from a seed.
    pub fn from_seed(seed: u64) -> Chance {
        Chance::Seeded(SeededChance(Random::new(seed)))
    }

    /// Choices from a plan.
    pub fn from_plan(plan: &[u8]) -> Chance {
        Chance::Plan(plan.to_vec(), 0)
    }

    /// A choice among `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        match self {
            Chance::Seeded(random) => random.0.below(bound),
            Chance::Plan(bytes, at) => {
                let byte = bytes.get(*at).copied().unwrap_or(0);
                *at += 1;
                u64::from(byte) % bound.max(1)
            }
        }
    }

    /// True in `percent` of cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Whether there is nothing left to choose.
    pub fn is_spent(&self) -> bool {
        matches!(self, Chance::Plan(bytes, at) if *at >= bytes.len())
    }
}
