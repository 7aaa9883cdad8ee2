//! Token buckets, one per kind of frame that costs us more than it costs the sender.

use crate::limits::{self, SECOND_NS};

#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    tokens: u32,
    burst: u32,
    interval_ns: u64,
    refilled_ns: u64,
}

impl TokenBucket {
    pub fn new(burst: u32, per_second: u32, now_ns: u64) -> TokenBucket {
        TokenBucket {
            tokens: burst,
            burst,
            interval_ns: SECOND_NS / u64::from(per_second),
            refilled_ns: now_ns,
        }
    }

    /// False when the bucket is empty.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let earned = now_ns.saturating_sub(self.refilled_ns) / self.interval_ns;
        if earned > 0 {
            self.refilled_ns += earned * self.interval_ns;
            self.tokens = u64::from(self.tokens)
                .saturating_add(earned)
                .min(u64::from(self.burst)) as u32;
        }
        let had = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        had
    }
}

/// All buckets of a connection.
#[derive(Debug)]
pub struct Rates {
    pub resets: TokenBucket,
    pub glitches: TokenBucket,
    pub settings: TokenBucket,
    pub priorities: TokenBucket,
    pub empty_frames: TokenBucket,
    /// See [`limits::SMALL_DATA_BUDGET`].
    pub small_data: u32,
}

impl Rates {
    pub fn new(now_ns: u64) -> Rates {
        let bucket = |burst, per_second| TokenBucket::new(burst, per_second, now_ns);
        Rates {
            resets: bucket(limits::RESETS_BURST, limits::RESETS_PER_SECOND),
            glitches: bucket(limits::GLITCHES_BURST, limits::GLITCHES_PER_SECOND),
            settings: bucket(limits::SETTINGS_BURST, limits::SETTINGS_PER_SECOND),
            priorities: bucket(limits::PRIORITIES_BURST, limits::PRIORITIES_PER_SECOND),
            empty_frames: bucket(limits::EMPTY_FRAMES_BURST, limits::EMPTY_FRAMES_PER_SECOND),
            small_data: limits::SMALL_DATA_BUDGET,
        }
    }
}
