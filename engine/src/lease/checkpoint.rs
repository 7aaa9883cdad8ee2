//! When the primary records how much of a long lease is left, so that a change of leader does not grant it anew.

use std::collections::BTreeSet;

use super::lessor::NANOS_PER_SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Time between two checkpoints of a lease; a lease with no more than this left is not checkpointed.
    pub interval_ns: u64,
}

/// Checkpoints to come, by time. A lease has at most one entry; its due time is kept with the lease.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: BTreeSet<(u64, i64)>,
}

impl Schedule {
    pub(super) fn clear(&mut self) {
        self.due.clear();
    }

    pub(super) fn first_ns(&self) -> Option<u64> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Plans the next checkpoint of a lease, replacing the one at `planned`, and returns when it is due.
    pub(super) fn plan(
        &mut self,
        config: Option<CheckpointConfig>,
        id: i64,
        planned: Option<u64>,
        now_ns: u64,
        left_seconds: i64,
    ) -> Option<u64> {
        self.forget(id, planned);
        let interval_ns = config?.interval_ns;
        if left_seconds <= (interval_ns / NANOS_PER_SECOND) as i64 {
            return None;
        }
        let at = now_ns.saturating_add(interval_ns);
        self.due.insert((at, id));
        Some(at)
    }

    pub(super) fn forget(&mut self, id: i64, planned: Option<u64>) {
        if let Some(at) = planned {
            let known = self.due.remove(&(at, id));
            debug_assert!(known, "a planned checkpoint is in the schedule");
        }
    }

    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<i64> {
        let &(at, id) = self.due.first()?;
        if at > now_ns {
            return None;
        }
        self.due.pop_first();
        Some(id)
    }
}
