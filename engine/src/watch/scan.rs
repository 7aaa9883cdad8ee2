//! One reading of history for many watchers at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::gathered::Gathered;
use super::ranges::Ranges;
use super::targets::{Seeded, Span, Targets};
use super::types::{EventKind, EventRef, History, Position};
use super::watchers::{Watcher, NO_DELETE, NO_PUT, PREV_KV, VARIANT_MASK};
use super::wire::{put_event, Payload};
use crate::page::Miss;

/// Revisions with events in one response of history.
pub const BATCH_REVISIONS_MAX: u32 = 1000;
/// Bytes that a scan gathers before it hands out what it has, at the next end of a revision.
pub const SCAN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Rows that a scan reads before it hands out what it has, at the next end of a revision, and lets others have a turn.
pub const SCAN_ROWS_MAX: usize = 16_384;

/// Watchers that want the same bytes from the same revision on.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) members: Vec<u32>,
    pub(super) from: i64,
    flags: u8,
    revisions: u32,
    last_revision: i64,
    events: Vec<u32>,
}

/// Why a scan stopped reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The budget of this call is used up.
    Budget,
    /// A class has [`BATCH_REVISIONS_MAX`] revisions: hand it out, with the revision at which it goes on.
    Full { class: u32, next: i64 },
    /// All classes are to be handed out; they go on at this revision.
    Turn { next: i64 },
    /// There are no more rows.
    End,
}

/// The reading stands before `at`; everything before it is in the classes.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) classes: Vec<Class>,
    pub(super) at: Position,
    /// Classes of one target.
    groups: Vec<Vec<u32>>,
    exact: HashMap<Arc<[u8]>, u32, Seeded>,
    ranges: Ranges,
    rows: usize,
    /// Encoded without previous values, and with them.
    plain: Gathered,
    with_previous: Gathered,
}

/// Gathers the members of a scan.
pub(super) struct ScanBuilder {
    scan: Scan,
    groups: BTreeMap<u32, u32>,
    classes: BTreeMap<(u32, u8, i64), u32>,
}

impl ScanBuilder {
    pub(super) fn new(seed: u64) -> ScanBuilder {
        ScanBuilder {
            scan: Scan {
                classes: Vec::new(),
                at: Position {
                    main: i64::MAX,
                    sub: 0,
                },
                groups: Vec::new(),
                exact: HashMap::with_hasher(Seeded(seed)),
                ranges: Ranges::new(seed),
                rows: 0,
                plain: Gathered::default(),
                with_previous: Gathered::default(),
            },
            groups: BTreeMap::new(),
            classes: BTreeMap::new(),
        }
    }

    /// Adds a watcher and returns the number of its class.
    pub(super) fn add(&mut self, targets: &Targets, at: u32, watcher: &Watcher) -> u32 {
        let scan = &mut self.scan;
        let flags = watcher.flags & VARIANT_MASK;
        let class = *self
            .classes
            .entry((watcher.target, flags, watcher.next))
            .or_insert_with(|| {
                let class = scan.classes.len() as u32;
                scan.classes.push(Class {
                    members: Vec::new(),
                    from: watcher.next,
                    flags,
                    revisions: 0,
                    last_revision: 0,
                    events: Vec::new(),
                });
                let group = *self.groups.entry(watcher.target).or_insert_with(|| {
                    let target = targets.get(watcher.target);
                    let group = scan.groups.len() as u32;
                    scan.groups.push(Vec::new());
                    match &target.span {
                        Span::Key => {
                            scan.exact.insert(target.start.clone(), group);
                        }
                        Span::Until(end) => {
                            scan.ranges.insert(target.start.clone(), end.clone(), group)
                        }
                    }
                    group
                });
                scan.groups[group as usize].push(class);
                class
            });
        scan.classes[class as usize].members.push(at);
        scan.at.main = scan.at.main.min(watcher.next);
        class
    }

    pub(super) fn members(&self) -> usize {
        self.scan
            .classes
            .iter()
            .map(|class| class.members.len())
            .sum()
    }

    pub(super) fn build(self) -> Scan {
        self.scan
    }
}

impl Scan {
    /// The member leaves; nothing is gathered for a class without members.
    pub(super) fn forget(&mut self, class: u32, watcher: u32) {
        let members = &mut self.classes[class as usize].members;
        members.retain(|&member| member != watcher);
    }

    pub(super) fn has_members(&self) -> bool {
        self.classes.iter().any(|class| !class.members.is_empty())
    }

    /// Reads on, at most `left` rows. After a miss everything up to the row that missed is gathered, and the same call goes on
    /// there.
    pub(super) fn read(&mut self, history: &dyn History, left: &mut usize) -> Result<Stop, Miss> {
        let mut stop = Ok(Stop::End);
        let outcome = history.rows(self.at, &mut |position, event| {
            debug_assert!(position >= self.at, "rows come in order");
            if let Some(reason) = self.boundary(position) {
                stop = Ok(reason);
                return ControlFlow::Break(());
            }
            if *left == 0 {
                stop = Ok(Stop::Budget);
                return ControlFlow::Break(());
            }
            *left -= 1;
            match self.gather(history, event) {
                Ok(None) => {}
                Ok(Some(reason)) => {
                    stop = Ok(reason);
                    return ControlFlow::Break(());
                }
                Err(miss) => {
                    stop = Err(miss);
                    return ControlFlow::Break(());
                }
            }
            self.rows += 1;
            self.at = Position {
                main: position.main,
                sub: position.sub + 1,
            };
            ControlFlow::Continue(())
        });
        outcome?;
        stop
    }

    /// A scan ends for want of room only where a revision begins.
    fn boundary(&mut self, position: Position) -> Option<Stop> {
        if position.main == self.at.main {
            return None;
        }
        self.at = position;
        let turn = self.rows >= SCAN_ROWS_MAX
            || self.plain.len_bytes() + self.with_previous.len_bytes() >= SCAN_BYTES_MAX;
        turn.then_some(Stop::Turn {
            next: position.main,
        })
    }

    /// Adds one event to the classes that want it; all of them or, when something is missing or a class is full, none.
    fn gather(
        &mut self,
        history: &dyn History,
        event: &EventRef<'_>,
    ) -> Result<Option<Stop>, Miss> {
        let mut groups = Vec::new();
        groups.extend(self.exact.get(event.kv.key).copied());
        self.ranges
            .holding(event.kv.key, &mut |group| groups.push(group));
        let revision = event.kv.mod_revision;
        let mut concerned = Vec::new();
        for group in groups {
            for &number in &self.groups[group as usize] {
                let class = &self.classes[number as usize];
                if class.members.is_empty() || revision < class.from {
                    continue;
                }
                if class.last_revision != revision && class.revisions == BATCH_REVISIONS_MAX {
                    return Ok(Some(Stop::Full {
                        class: number,
                        next: revision,
                    }));
                }
                concerned.push(number);
            }
        }
        let (plain, with_previous) = self.encode(history, event, &concerned)?;
        for number in concerned {
            let class = &mut self.classes[number as usize];
            // Revisions count before the filters, as in etcd: a response may hold fewer than the limit because of them.
            if class.last_revision != revision {
                class.last_revision = revision;
                class.revisions += 1;
            }
            if wants(class.flags, event.kind) {
                let encoded = if class.flags & PREV_KV == 0 {
                    plain
                } else {
                    with_previous
                };
                class.events.extend(encoded);
            }
        }
        Ok(None)
    }

    /// Encodes the event once for those without and once for those with previous values, where there are any.
    fn encode(
        &mut self,
        history: &dyn History,
        event: &EventRef<'_>,
        concerned: &[u32],
    ) -> Result<(Option<u32>, Option<u32>), Miss> {
        let mut plain = false;
        let mut with_previous = false;
        for &number in concerned {
            let flags = self.classes[number as usize].flags;
            if wants(flags, event.kind) {
                plain |= flags & PREV_KV == 0;
                with_previous |= flags & PREV_KV != 0;
            }
        }
        let revision = event.kv.mod_revision - 1;
        let shown = event.may_have_previous() && revision >= history.compacted();
        let put_plain = |out: &mut Vec<u8>| {
            put_event(out, event, None);
            Ok::<(), Miss>(())
        };
        let put_with_previous = |out: &mut Vec<u8>| {
            let start = out.len();
            if shown {
                history.value_at(event.kv.key, revision, &mut |kv| {
                    if out.len() == start {
                        put_event(out, event, Some(kv));
                    }
                })?;
            }
            if out.len() == start {
                put_event(out, event, None);
            }
            Ok::<(), Miss>(())
        };
        // What can miss comes first, so that a miss leaves nothing behind.
        let with_previous = match with_previous {
            true => Some(self.with_previous.add(put_with_previous)?),
            false => None,
        };
        let plain = match plain {
            true => Some(self.plain.add(put_plain)?),
            false => None,
        };
        Ok((plain, with_previous))
    }

    /// Ends a class, whose members are nowhere from now on.
    pub(super) fn end_class(&mut self, class: u32) -> Ended {
        let class = &mut self.classes[class as usize];
        let members = std::mem::take(&mut class.members);
        let events = std::mem::take(&mut class.events);
        let copied_bytes = self.plain.copied_bytes() + self.with_previous.copied_bytes();
        let again = !events.is_empty() && copied_bytes >= SCAN_BYTES_MAX;
        let gathered = match class.flags & PREV_KV {
            0 => &mut self.plain,
            _ => &mut self.with_previous,
        };
        gathered.freeze();
        let payload = match again || members.is_empty() {
            true => None,
            false => gathered.payload(&events),
        };
        Ended {
            members,
            payload,
            again,
        }
    }
}

/// What a class leaves behind.
pub(super) struct Ended {
    pub(super) members: Vec<u32>,
    /// `None` if the filters left nothing.
    pub(super) payload: Option<Payload>,
    /// The scan has copied as much as it may for classes that could not share: these members read again.
    pub(super) again: bool,
}

fn wants(flags: u8, kind: EventKind) -> bool {
    match kind {
        EventKind::Put => flags & NO_PUT == 0,
        EventKind::Delete => flags & NO_DELETE == 0,
    }
}
