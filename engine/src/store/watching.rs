//! What watchers see of the store: each revision as it is applied, and the past.

use super::Store;
use crate::mvcc::kv::Kv;
use crate::mvcc::read::Reader;
use crate::mvcc::row::{Row, WELL_FORMED};
use crate::mvcc::write::NewVersion;
use crate::mvcc::Revision;
use crate::page::Miss;
use crate::watch::{EventKind, EventRef, Found, History, KeyValueRef, Position, WatchHub};
use std::ops::{Bound, ControlFlow};

fn kv_ref<'a>(kv: &Kv<'a>) -> KeyValueRef<'a> {
    KeyValueRef {
        key: kv.key,
        create_revision: kv.create,
        mod_revision: kv.modified,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// A tombstone shows its key and the revision of the deletion, and nothing else.
fn event<'a>(main: i64, tombstone: bool, kv: &Kv<'a>) -> EventRef<'a> {
    EventRef {
        kind: match tombstone {
            true => EventKind::Delete,
            false => EventKind::Put,
        },
        kv: KeyValueRef {
            mod_revision: main,
            ..kv_ref(kv)
        },
    }
}

pub(super) fn event_of<'a>(change: &NewVersion<'a>) -> EventRef<'a> {
    event(change.at.main, change.tombstone, &change.kv)
}

impl History for Reader<'_> {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn rows(
        &self,
        from: Position,
        visit: &mut dyn FnMut(Position, &EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Miss> {
        let from = Revision::new(from.main, from.sub).to_key();
        let from = Bound::Included(&from[..]);
        let mut rows = self.trees.rows.range(self.pages, from, Bound::Unbounded);
        while let Some((at, row)) = rows.next()? {
            let at = Revision::from_key(&at).expect(WELL_FORMED);
            let row = Row::decode(at, row).expect(WELL_FORMED);
            let body = row.body();
            let kv = Kv::parse(&body).expect(WELL_FORMED);
            let position = Position {
                main: at.main,
                sub: at.sub,
            };
            if visit(position, &event(at.main, row.tombstone, &kv)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn value_at(&self, key: &[u8], revision: i64, found: &mut Found<'_>) -> Result<(), Miss> {
        if revision < self.compacted {
            return Ok(());
        }
        let Some(head) = self.head(key)? else {
            return Ok(());
        };
        let version = self.version_at(&head, revision)?;
        if let Some((_, row)) = version.filter(|(_, row)| !row.tombstone) {
            let body = row.body();
            found(&kv_ref(&Kv::parse(&body).expect(WELL_FORMED)));
        }
        Ok(())
    }
}

impl Store {
    pub fn hub(&self) -> &WatchHub {
        &self.hub
    }

    /// For the requests of watch streams, their timers and their output.
    pub fn hub_mut(&mut self) -> &mut WatchHub {
        &mut self.hub
    }

    /// A slice of reading for watchers that are behind; see [`WatchHub::catch_up`].
    pub fn watch_catch_up(&mut self, budget: usize) -> Result<bool, Miss> {
        let reader = Reader {
            pages: &self.pages,
            trees: &self.trees,
            revision: self.revision,
            compacted: self.compacted,
        };
        self.hub.catch_up(&reader, budget)
    }

    /// Visits rows in order, see [`History::rows`]: for exports and checks.
    pub fn visit_rows(
        &self,
        from: Position,
        visit: &mut dyn FnMut(Position, &EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Miss> {
        self.reader().rows(from, visit)
    }

    /// Takes over the watchers of the store that this one, opened from a snapshot, replaces.
    pub fn adopt_watchers(&mut self, replaced: Store) {
        self.hub = replaced.hub;
        self.hub.restored(self.revision);
    }

    /// Hands the newest revision, just written, to the watchers.
    pub(super) fn publish(&mut self, events: &[EventRef<'_>]) {
        let reader = Reader {
            pages: &self.pages,
            trees: &self.trees,
            revision: self.revision,
            compacted: self.compacted,
        };
        let before = self.revision - 1;
        let mut previous = |event: usize, found: &mut Found<'_>| {
            reader.value_at(events[event].kv.key, before, found)
        };
        self.hub.publish(self.revision, events, &mut previous);
    }
}
