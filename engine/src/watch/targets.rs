//! What is watched: distinct keys and ranges, each with its synced watchers.
//!
//! Exact keys are found by hash, ranges through the interval tree. Watchers of one target form a list through the watcher
//! table itself, so that a target costs the same whether one or a hundred thousand watch it.

use std::collections::hash_map::DefaultHasher;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::ranges::{End, Ranges};
use super::watchers::{Watchers, NIL, PREV_KV};

/// Hashes with a seed that is given, not drawn: equal inputs make equal runs, and clients still cannot aim for one bucket.
/// Nothing iterates over a map that uses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded(pub(super) u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Key,
    Until(End),
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) start: Arc<[u8]>,
    pub(super) span: Span,
    /// First of the synced watchers.
    pub(super) head: u32,
    /// All watchers, synced or not.
    watchers: u32,
    /// Synced watchers that want previous values, and those that do not.
    pub(super) with_previous: u32,
    pub(super) without_previous: u32,
    /// Where a publish keeps its last run of events for this target; see `publish::Run`.
    pub(super) last_run: u32,
}

#[derive(Debug)]
pub(super) struct Targets {
    targets: Vec<Target>,
    free: Vec<u32>,
    exact: HashMap<Arc<[u8]>, u32, Seeded>,
    ranges: Ranges,
    empty: Arc<[u8]>,
}

impl Targets {
    pub(super) fn new(seed: u64) -> Targets {
        Targets {
            targets: Vec::new(),
            free: Vec::new(),
            exact: HashMap::with_hasher(Seeded(seed)),
            ranges: Ranges::new(seed),
            empty: Arc::from([]),
        }
    }

    pub(super) fn get(&self, at: u32) -> &Target {
        &self.targets[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Target {
        &mut self.targets[at as usize]
    }

    /// Counts one more watcher of a key or range.
    pub(super) fn acquire(&mut self, start: &[u8], span: &Span) -> u32 {
        let known = match span {
            Span::Key => self.exact.get(start).copied(),
            Span::Until(end) => self.ranges.find(start, end),
        };
        let at = known.unwrap_or_else(|| self.add(start, span));
        self.targets[at as usize].watchers += 1;
        at
    }

    pub(super) fn release(&mut self, at: u32) {
        let target = &mut self.targets[at as usize];
        target.watchers -= 1;
        if target.watchers > 0 {
            return;
        }
        assert_eq!(
            target.head, NIL,
            "a watcher leaves the list before it leaves the target"
        );
        let start = std::mem::replace(&mut target.start, self.empty.clone());
        let removed = match std::mem::replace(&mut target.span, Span::Key) {
            Span::Key => self.exact.remove(&start),
            Span::Until(end) => self.ranges.remove(&start, &end),
        };
        debug_assert_eq!(removed, Some(at));
        self.free.push(at);
    }

    /// Visits the targets that hold `key`.
    pub(super) fn holding(&self, key: &[u8], visit: &mut impl FnMut(u32)) {
        if let Some(&at) = self.exact.get(key) {
            visit(at);
        }
        if !self.ranges.is_empty() {
            self.ranges.holding(key, visit);
        }
    }

    pub(super) fn link(&mut self, watchers: &mut Watchers, watcher: u32) {
        let added = watchers.get_mut(watcher);
        let target = &mut self.targets[added.target as usize];
        added.before = NIL;
        added.after = target.head;
        if added.has(PREV_KV) {
            target.with_previous += 1;
        } else {
            target.without_previous += 1;
        }
        let old_head = std::mem::replace(&mut target.head, watcher);
        if old_head != NIL {
            watchers.get_mut(old_head).before = watcher;
        }
    }

    pub(super) fn unlink(&mut self, watchers: &mut Watchers, watcher: u32) {
        let removed = watchers.get(watcher);
        let (before, after) = (removed.before, removed.after);
        let target = &mut self.targets[removed.target as usize];
        if removed.has(PREV_KV) {
            target.with_previous -= 1;
        } else {
            target.without_previous -= 1;
        }
        if before == NIL {
            debug_assert_eq!(target.head, watcher);
            target.head = after;
        } else {
            watchers.get_mut(before).after = after;
        }
        if after != NIL {
            watchers.get_mut(after).before = before;
        }
    }

    fn add(&mut self, start: &[u8], span: &Span) -> u32 {
        let target = Target {
            start: Arc::from(start),
            span: span.clone(),
            head: NIL,
            watchers: 0,
            with_previous: 0,
            without_previous: 0,
            last_run: NIL,
        };
        let start = target.start.clone();
        let at = match self.free.pop() {
            Some(at) => {
                self.targets[at as usize] = target;
                at
            }
            None => {
                self.targets.push(target);
                (self.targets.len() - 1) as u32
            }
        };
        match span {
            Span::Key => {
                self.exact.insert(start, at);
            }
            Span::Until(end) => self.ranges.insert(start, end.clone(), at),
        }
        at
    }
}
