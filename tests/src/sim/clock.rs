//! The clock of one member: runs faster or slower than true time, jumps ahead, stands still.

/// True time that passes while a clock counts a million nanoseconds, and the reverse.
const MILLION: u64 = 1_000_000;

#[derive(Clone, Debug)]
pub struct Clock {
    /// Nanoseconds that it counts per million of true ones.
    rate: u64,
    /// True time and own time of the last change.
    since: u64,
    base: u64,
    stopped: bool,
}

impl Clock {
    /// A clock as a process finds it at its start.
    pub fn new(rate: u64, true_ns: u64) -> Clock {
        Clock {
            rate,
            since: true_ns,
            base: 1,
            stopped: false,
        }
    }

    pub fn now(&self, true_ns: u64) -> u64 {
        if self.stopped {
            return self.base;
        }
        self.base + (u128::from(true_ns - self.since) * u128::from(self.rate) / 1_000_000) as u64
    }

    /// How long it takes until the clock has counted `own_ns`.
    pub fn true_duration(&self, own_ns: u64) -> u64 {
        (u128::from(own_ns) * u128::from(MILLION)).div_ceil(u128::from(self.rate)) as u64
    }

    fn rebase(&mut self, true_ns: u64) {
        self.base = self.now(true_ns);
        self.since = true_ns;
    }

    pub fn jump(&mut self, ahead_ns: u64, true_ns: u64) {
        self.rebase(true_ns);
        self.base += ahead_ns;
    }

    pub fn set_rate(&mut self, rate: u64, true_ns: u64) {
        self.rebase(true_ns);
        self.rate = rate;
    }

    /// The whole machine stands still.
    pub fn stop(&mut self, true_ns: u64) {
        self.rebase(true_ns);
        self.stopped = true;
    }

    pub fn go_on(&mut self, true_ns: u64) {
        if !self.stopped {
            return;
        }
        self.since = true_ns;
        self.stopped = false;
    }
}
