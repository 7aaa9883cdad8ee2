//! Compaction that nobody asks for: `--auto-compaction-mode` and `--auto-compaction-retention`, as etcd does it.
//!
//! *Periodic*: the revision is noted ten times per period, or per hour of a longer one. Once the first period is over, and
//! from then on every period or hour, the history is compacted to the revision noted one period ago. *Revision*: every five
//! minutes all but the newest so many revisions go. Every member notes revisions; only the leader proposes.

use super::Member;
use crate::config::AutoCompaction;
use proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use std::collections::VecDeque;

const HOUR_NS: u64 = 3_600_000_000_000;
/// Notes per interval between two compactions.
const NOTES_PER_INTERVAL: u64 = 10;
/// Between two compactions by revision.
const REVISION_INTERVAL_NS: u64 = 300_000_000_000;

/// When to compact, and to what.
pub(super) struct Schedule {
    mode: Mode,
    /// When the next note is taken; 0 before the first call.
    next_ns: u64,
    /// What was asked for last, until it is seen to be done.
    asked: Option<i64>,
}

enum Mode {
    Periodic {
        period_ns: u64,
        /// Revisions noted, the oldest one a period ago.
        notes: VecDeque<i64>,
        last_done_ns: u64,
        is_first: bool,
    },
    Revision {
        retention: i64,
    },
}

impl Schedule {
    /// None if it is off.
    pub fn new(configured: AutoCompaction) -> Option<Schedule> {
        let mode = match configured {
            AutoCompaction::Off => return None,
            AutoCompaction::Periodic { retention_ns } => Mode::Periodic {
                period_ns: retention_ns.max(NOTES_PER_INTERVAL),
                notes: VecDeque::new(),
                last_done_ns: 0,
                is_first: true,
            },
            AutoCompaction::Revision { retention } => Mode::Revision {
                retention: i64::try_from(retention).unwrap_or(i64::MAX),
            },
        };
        Some(Schedule {
            mode,
            next_ns: 0,
            asked: None,
        })
    }

    /// The revision to compact to now, if any. It is asked for again with the next note unless `compacted` has reached it.
    pub fn due(
        &mut self,
        now_ns: u64,
        revision: i64,
        compacted: i64,
        is_leader: bool,
    ) -> Option<i64> {
        let is_begin = self.next_ns == 0;
        if now_ns < self.next_ns {
            return None;
        }
        let done = self.asked.take_if(|asked| *asked <= compacted).is_some();
        let wanted = match &mut self.mode {
            Mode::Periodic {
                period_ns,
                notes,
                last_done_ns,
                is_first,
            } => {
                let interval_ns = (*period_ns).min(HOUR_NS);
                let note_ns = interval_ns / NOTES_PER_INTERVAL;
                self.next_ns = now_ns + note_ns;
                if is_begin || done {
                    *last_done_ns = now_ns;
                }
                let oldest = notes.front().copied();
                notes.push_back(revision);
                if notes.len() as u64 > *period_ns / note_ns + 1 {
                    notes.pop_front();
                }
                let wait_ns = if *is_first { *period_ns } else { interval_ns };
                if !is_leader || now_ns - *last_done_ns < wait_ns {
                    return None;
                }
                *is_first = false;
                oldest?
            }
            Mode::Revision { retention } => {
                self.next_ns = now_ns + REVISION_INTERVAL_NS;
                if is_begin || !is_leader {
                    return None;
                }
                revision.saturating_sub(*retention)
            }
        };
        if wanted <= 0 {
            return None;
        }
        self.asked = Some(wanted);
        // What is compacted already is done when it is looked at again.
        (wanted > compacted).then_some(wanted)
    }
}

impl Member {
    pub fn set_auto_compaction(&mut self, configured: AutoCompaction) {
        self.auto_compaction = Schedule::new(configured);
    }

    pub(super) fn auto_compact(&mut self, now_ns: u64) {
        let is_leader = self.node.role() == raft::Role::Leader;
        let (revision, compacted) = (self.store.revision(), self.store.compacted());
        let Some(schedule) = &mut self.auto_compaction else {
            return;
        };
        let Some(revision) = schedule.due(now_ns, revision, compacted, is_leader) else {
            return;
        };
        let entry = Box::new(InternalRaftRequest {
            compaction: Some(CompactionRequest {
                revision,
                physical: false,
            }),
            ..Default::default()
        });
        // If it is refused now it is asked for again.
        let _ = self.propose(entry, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: u64 = 60_000_000_000;

    /// Runs minutes in which the revision grows by 100 each; what was compacted when.
    fn run(mode: AutoCompaction, minutes: u64, is_leader: impl Fn(u64) -> bool) -> Vec<(u64, i64)> {
        let mut schedule = Schedule::new(mode).expect("it is on");
        let (mut compacted, mut done) = (-1, Vec::new());
        for minute in 0..=minutes {
            let revision = 1 + 100 * minute as i64;
            let now_ns = 1 + minute * MINUTE_NS;
            if let Some(to) = schedule.due(now_ns, revision, compacted, is_leader(minute)) {
                compacted = to;
                done.push((minute, to));
            }
        }
        done
    }

    fn periodic(minutes: u64) -> AutoCompaction {
        AutoCompaction::Periodic {
            retention_ns: minutes * MINUTE_NS,
        }
    }

    #[test]
    fn a_short_period_is_kept_and_compacted_once_per_period() {
        let done = run(periodic(10), 60, |_| true);
        // Noted each minute; the one of a period ago.
        assert_eq!(done[0], (10, 1));
        for pair in done.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            assert!((10..=11).contains(&(after.0 - before.0)), "{done:?}");
        }
        for (minute, to) in done {
            let kept = (1 + 100 * minute as i64 - to) / 100;
            assert!((10..=11).contains(&kept), "minute {minute} kept {kept}");
        }
    }

    #[test]
    fn of_a_long_period_only_the_first_is_waited_for() {
        let done = run(periodic(180), 600, |_| true);
        assert_eq!(done[0].0, 180);
        for pair in done.windows(2) {
            assert!((60..=66).contains(&(pair[1].0 - pair[0].0)), "{done:?}");
        }
        for (minute, to) in done {
            let kept = (1 + 100 * minute as i64 - to) / 100;
            assert!((180..=192).contains(&kept), "minute {minute} kept {kept}");
        }
    }

    #[test]
    fn only_the_leader_compacts_and_it_does_so_as_soon_as_it_leads() {
        let done = run(periodic(10), 60, |minute| minute >= 35);
        assert_eq!(done[0].0, 35);
        assert!(done[0].1 > 100 * 24, "{done:?}");
    }

    #[test]
    fn by_revision_every_five_minutes() {
        let mode = AutoCompaction::Revision { retention: 1_000 };
        let done = run(mode, 30, |_| true);
        // Of the first thousand nothing goes.
        let expected = [(10, 1), (15, 501), (20, 1_001), (25, 1_501), (30, 2_001)];
        assert_eq!(done, expected);
        assert!(Schedule::new(AutoCompaction::Off).is_none());
    }

    #[test]
    fn what_was_not_done_is_asked_for_again() {
        let mut schedule = Schedule::new(periodic(10)).expect("it is on");
        let mut asked = 0;
        for minute in 0..15 {
            let now_ns = 1 + minute * MINUTE_NS;
            asked += u32::from(schedule.due(now_ns, 500, -1, true).is_some());
        }
        assert_eq!(asked, 5);
    }
}
