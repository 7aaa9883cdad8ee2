//! Chance from a seed: SplitMix64, written out here so that a seed means the same for ever.

#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// One of many independent streams of a seed, so that more of one kind of choice leaves the others alone.
    pub fn stream(seed: u64, stream: u64) -> Chance {
        let mut chance = Chance(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f));
        chance.draw();
        chance
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// A number of the range, both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn per_million(&mut self, share: u64) -> bool {
        share > 0 && self.below(1_000_000) < share
    }

    /// A time with this mean: mostly shorter, sometimes much longer.
    pub fn around(&mut self, mean_ns: u64) -> u64 {
        let doublings = self.draw().trailing_ones().min(4);
        ((1 + self.below(mean_ns.max(1))) << doublings) >> 1
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
