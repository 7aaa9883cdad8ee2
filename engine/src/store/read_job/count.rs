//! The number of keys of a range at a pinned revision, in slices.

use super::pinned::{Pinned, Place};
use super::Store;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::more_before;
use crate::mvcc::Revision;
use crate::page::Miss;
use std::ops::ControlFlow;

#[derive(Clone, Debug, Default)]
pub(super) enum CountJob {
    #[default]
    New,
    /// By looking at every key.
    Keys(Place),
    /// From the count at the revision `last`, by taking back the changes up to there.
    Changes {
        next: Revision,
        last: i64,
        count: i64,
    },
    Done(i64),
}

impl CountJob {
    /// The count, once it is known.
    pub fn step(&mut self, of: &Pinned, store: &Store, budget: usize) -> Result<Option<i64>, Miss> {
        match self {
            CountJob::New => *self = Self::begin(of, store)?,
            CountJob::Keys(place) => {
                of.walk(store, place, budget, |_| ControlFlow::Continue(()))?;
                if place.ended {
                    *self = CountJob::Done(place.live);
                }
            }
            CountJob::Changes { next, last, count } => {
                if take_back(of, store, budget, next, *last, count)? {
                    *self = CountJob::Done(*count);
                }
            }
            CountJob::Done(_) => {}
        }
        match self {
            CountJob::Done(count) => Ok(Some(*count)),
            _ => Ok(None),
        }
    }

    /// The shorter way, as for a count in one go.
    fn begin(of: &Pinned, store: &Store) -> Result<CountJob, Miss> {
        let (reader, keys) = (store.reader(), of.keys());
        let newest = reader.count(keys, None, None)?;
        if of.revision >= store.revision {
            return Ok(CountJob::Done(newest));
        }
        if matches!(keys, KeyRange::One(_)) || newest <= reader.changes_since(of.revision)? {
            return Ok(CountJob::Keys(Place::default()));
        }
        Ok(CountJob::Changes {
            next: Revision::new(of.revision + 1, 0),
            last: store.revision,
            count: newest,
        })
    }
}

/// Whether all changes were taken back.
fn take_back(
    of: &Pinned,
    store: &Store,
    budget: usize,
    next: &mut Revision,
    last: i64,
    count: &mut i64,
) -> Result<bool, Miss> {
    let mut rows = store.reader().rows_from(*next);
    for seen in 0..budget.max(1) {
        let row = match rows.next() {
            Err(_) if seen > 0 => return Ok(false),
            row => row?,
        };
        let Some((at, row)) = row else {
            return Ok(true);
        };
        let (at, more) = more_before(of.keys(), &at, row);
        if at.main > last {
            return Ok(true);
        }
        *count += more;
        *next = Revision::new(at.main, at.sub + 1);
    }
    Ok(false)
}
