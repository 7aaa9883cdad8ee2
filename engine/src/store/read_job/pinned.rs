//! The keys of a range at a pinned revision, a batch at a time.

use super::{Store, BATCH_BYTES_MAX};
use crate::error::RequestError;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::range::fail_on;
use crate::mvcc::read::{Found, Seen};
use crate::mvcc::selection::passes_filters;
use crate::page::Miss;
use proto::etcdserverpb::RangeRequest;
use std::ops::ControlFlow;

/// To look a row up costs as much as to look at so many cells of the index in a row.
const ROW_CELLS: usize = 8;

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Pinned {
    pub request: RangeRequest,
    pub revision: i64,
    /// The last key first.
    pub backwards: bool,
}

/// Progress through the keys of a range.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// What is left begins here, or ends before this key on the way backwards; `None` at the start.
    edge: Option<Vec<u8>>,
    /// Live keys that were passed, whether or not they pass the filters.
    pub live: i64,
    pub ended: bool,
}

impl Place {
    fn pass(&mut self, key: &[u8], backwards: bool) {
        let edge = self.edge.get_or_insert_default();
        edge.clear();
        edge.extend_from_slice(key);
        if !backwards {
            edge.push(0);
        }
    }
}

impl Pinned {
    /// Goes before every step: what a compaction may have removed is not looked for.
    pub fn check(&self, store: &Store) -> Result<(), RequestError> {
        match self.revision < store.compacted {
            true => Err(RequestError::Compacted),
            false => Ok(()),
        }
    }

    pub fn keys(&self) -> KeyRange<'_> {
        KeyRange::new(&self.request.key, &self.request.range_end)
    }

    fn rest<'a>(&'a self, place: &'a Place) -> KeyRange<'a> {
        match (&place.edge, self.keys()) {
            (None, keys) => keys,
            (Some(edge), _) if self.backwards => KeyRange::Between(&self.request.key, edge),
            // A single key has no rest.
            (Some(edge), KeyRange::One(_)) => KeyRange::Between(edge, edge),
            (Some(edge), KeyRange::Between(_, end)) => KeyRange::Between(edge, end),
            (Some(edge), KeyRange::From(_)) => KeyRange::From(edge),
        }
    }

    /// Passes up to `budget` cells and visits the keys among them that pass the filters. A break ends it after that key.
    /// Missing pages are named only when nothing was passed.
    pub fn walk<'s>(
        &self,
        store: &'s Store,
        place: &mut Place,
        budget: usize,
        mut visit: impl FnMut(Found<'s>) -> ControlFlow<()>,
    ) -> Result<(), Miss> {
        let rest = self.rest(place);
        let mut walk = store
            .reader()
            .walk_stored(&rest, self.revision, self.backwards);
        let mut cells = 0;
        while cells == 0 || cells + walk.older() * ROW_CELLS < budget {
            let seen = match walk.next_seen() {
                Err(_) if cells > 0 => break,
                seen => seen?,
            };
            cells += 1;
            match seen {
                None => {
                    place.ended = true;
                    break;
                }
                Some(Seen::Dead(key)) => place.pass(&key, self.backwards),
                Some(Seen::Live(found)) => {
                    place.pass(&found.key, self.backwards);
                    place.live += 1;
                    if passes_filters(&self.request, &found) && visit(found).is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The next keys that pass the filters, at most `keys_max` of them and at least one cell further. `with_values`: with
    /// their rows read. After a miss `place` is as it was.
    pub fn batch<'s>(
        &self,
        store: &'s Store,
        place: &mut Place,
        budget: usize,
        keys_max: usize,
        with_values: bool,
    ) -> Result<Vec<Found<'s>>, Miss> {
        let mut next = place.clone();
        let mut batch = Vec::new();
        let mut bytes = 0;
        self.walk(store, &mut next, budget, |found| {
            bytes += found.size;
            batch.push(found);
            match batch.len() >= keys_max || with_values && bytes >= BATCH_BYTES_MAX {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if with_values {
            let mut missing = Miss::default();
            store.reader().read_bodies(&mut batch, &mut missing);
            fail_on(missing)?;
        }
        *place = next;
        Ok(batch)
    }
}
