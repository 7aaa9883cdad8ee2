//! What the log promises under faults of the disk and of the process, on a simulated disk.
//!
//! Every test is a function of a seed, which is printed when it fails. `RINGD_SEED=n` runs the random ones with another.

mod claims;
mod crash;
mod damage;
mod disk;
mod incarnation;
mod missing;
mod seal;
mod small;
mod truncation;
mod world;

/// Random numbers of one seed (SplitMix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds of a random test: those given, or the one of the environment.
pub fn seeds(given: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("RINGD_SEED") {
        Ok(seed) => vec![seed.parse().expect("RINGD_SEED is a number")],
        Err(_) => given.collect(),
    }
}
