//! Streams that their clients opened with `hasleader`: they end when this member has had no leader for a while.

use crate::request::CallId;
use std::collections::BTreeSet;

/// Checks in a row without a leader after which the streams end.
const CHECKS_WITHOUT_LEADER_MAX: u32 = 3;

pub(super) struct LeaderWatch {
    streams: BTreeSet<CallId>,
    interval_ns: u64,
    next_ns: u64,
    missed: u32,
}

impl LeaderWatch {
    /// `interval_ns` is one election timeout.
    pub fn new(interval_ns: u64) -> LeaderWatch {
        LeaderWatch {
            streams: BTreeSet::new(),
            interval_ns,
            next_ns: 0,
            missed: 0,
        }
    }

    pub fn add(&mut self, call: CallId) {
        self.streams.insert(call);
    }

    /// The streams that have to end now. `is_open` tells those that still are there; the others are forgotten here.
    pub fn check(
        &mut self,
        now_ns: u64,
        has_leader: bool,
        is_open: impl Fn(CallId) -> bool,
    ) -> BTreeSet<CallId> {
        if now_ns < self.next_ns {
            return BTreeSet::new();
        }
        self.next_ns = now_ns + self.interval_ns;
        self.streams.retain(|call| is_open(*call));
        self.missed = match has_leader {
            true => 0,
            false => self.missed + 1,
        };
        match self.missed >= CHECKS_WITHOUT_LEADER_MAX {
            true => std::mem::take(&mut self.streams),
            false => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_checks_in_a_row_without_a_leader_end_the_open_streams() {
        let mut watch = LeaderWatch::new(10);
        let (open, closed) = (CallId::new(1, 1), CallId::new(1, 3));
        watch.add(open);
        watch.add(closed);
        let is_open = |call| call == open;
        assert!(watch.check(10, false, is_open).is_empty());
        assert!(watch.check(15, false, is_open).is_empty(), "no check yet");
        assert!(watch.check(20, false, is_open).is_empty());
        assert!(watch.check(30, true, is_open).is_empty(), "a leader");
        assert!(watch.check(40, false, is_open).is_empty());
        assert!(watch.check(50, false, is_open).is_empty());
        assert_eq!(watch.check(60, false, is_open), BTreeSet::from([open]));
        assert!(watch.check(70, false, is_open).is_empty(), "ended already");
    }
}
