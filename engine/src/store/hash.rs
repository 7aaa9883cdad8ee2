//! HashKV, by which members and tools compare data, and the hash over everything, for tests.
//!
//! HashKV(r) covers the rows up to r in order: those above the compacted revision C all, those at or below it only if
//! they are what their key shows at r, and never a tombstone at C (releases before 3.5.16 do not keep it). If no key is
//! live at r, what is left at or below C counts in full: then a compaction that still runs shows in the result.
//!
//! Both run in slices beside other work. Rows above C do not change; a compaction that comes in between begins the job
//! anew, against the new C.

use super::Store;
use crate::error::RequestError;
use crate::hash::{Sum, KEY_BUCKET};
use crate::mvcc::kv::Kv;
use crate::mvcc::read::AnyLive;
use crate::mvcc::row::{Row, WELL_FORMED};
use crate::mvcc::Revision;
use crate::page::Miss;
use std::ops::Bound;

/// Result of HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// The compacted revision that the hash was computed against; -1 for none.
    pub compact_revision: i64,
    /// The revision hashed.
    pub hash_revision: i64,
}

#[derive(Clone, Debug)]
enum State {
    Start,
    /// The part of a compaction's hash that was left for now.
    Remembered {
        next: Revision,
        head: Sum,
    },
    /// Looking for a key that is live at the revision.
    Probe {
        after: Option<Vec<u8>>,
    },
    Rows {
        next: Revision,
        sum: Sum,
        keep_is_empty: bool,
    },
}

/// A HashKV under way.
#[derive(Clone, Debug)]
pub struct HashJob {
    revision: i64,
    /// What the state is valid for.
    compacted: i64,
    state: State,
}

impl Store {
    /// Begins HashKV; revision 0 is the newest one at the first step.
    pub fn hash_kv(&self, revision: i64) -> HashJob {
        HashJob {
            revision,
            compacted: self.compacted,
            state: State::Start,
        }
    }

    /// HashKV in one go, for small stores and tests.
    pub fn hash_kv_now(&self, revision: i64) -> Result<Result<HashKv, RequestError>, Miss> {
        let mut job = self.hash_kv(revision);
        loop {
            if let Some(done) = job.step(self, usize::MAX)? {
                return Ok(done);
            }
        }
    }
}

type Step = Option<Result<HashKv, RequestError>>;

impl HashJob {
    /// Looks at up to `budget` keys or rows; `None` until it is done. After a miss the step can be repeated.
    pub fn step(&mut self, store: &Store, budget: usize) -> Result<Step, Miss> {
        let budget = budget.max(1);
        if self.compacted != store.compacted {
            self.compacted = store.compacted;
            self.state = State::Start;
        }
        match &mut self.state {
            State::Start => return Ok(self.start(store)),
            State::Remembered { next, head } => {
                let Some(remembered) = store.remembered_hash(self.revision) else {
                    self.state = State::Start;
                    return Ok(None);
                };
                if !store.hash_rows(next, head, remembered.floor, budget)? {
                    let (revision, floor) = (remembered.revision, remembered.floor);
                    return Ok(Some(Ok(joined(revision, floor, *head, remembered.tail))));
                }
            }
            State::Probe { after } => {
                let reader = store.reader();
                let keep_is_empty =
                    match reader.any_live_at(self.revision, after.as_deref(), budget)? {
                        AnyLive::NotUpTo(key) => {
                            *after = Some(key);
                            return Ok(None);
                        }
                        AnyLive::No => true,
                        AnyLive::Yes => false,
                    };
                self.state = State::Rows {
                    next: Revision::default(),
                    sum: Sum::of(KEY_BUCKET),
                    keep_is_empty,
                };
            }
            State::Rows {
                next,
                sum,
                keep_is_empty,
            } => {
                let scan = Scan {
                    store,
                    revision: self.revision,
                    keep_is_empty: *keep_is_empty,
                };
                if !scan.run(next, sum, budget)? {
                    return Ok(Some(Ok(HashKv {
                        hash: sum.crc,
                        compact_revision: self.compacted,
                        hash_revision: self.revision,
                    })));
                }
            }
        }
        Ok(None)
    }

    fn start(&mut self, store: &Store) -> Step {
        if self.revision < 0 {
            // No row is that old, and etcd does not object.
            return Some(Ok(HashKv {
                hash: Sum::of(KEY_BUCKET).crc,
                compact_revision: store.compacted,
                hash_revision: self.revision,
            }));
        }
        // The newest revision is hashed anew even if a compaction remembers its hash, as in etcd.
        let remembered = match self.revision {
            0 => None,
            revision => store.remembered_hash(revision),
        };
        if self.revision == 0 {
            self.revision = store.revision;
        }
        if let Some(remembered) = remembered {
            if let Some(head) = remembered.head {
                let (revision, floor) = (remembered.revision, remembered.floor);
                return Some(Ok(joined(revision, floor, head, remembered.tail)));
            }
            self.state = State::Remembered {
                next: Revision::default(),
                head: Sum::default(),
            };
        } else if self.revision > store.revision {
            return Some(Err(RequestError::FutureRevision));
        } else if self.revision < store.compacted {
            return Some(Err(RequestError::Compacted));
        } else {
            self.state = State::Probe { after: None };
        }
        None
    }
}

fn joined(revision: i64, floor: i64, head: Sum, tail: Sum) -> HashKv {
    HashKv {
        hash: Sum::of(KEY_BUCKET).join(head).join(tail).crc,
        compact_revision: floor,
        hash_revision: revision,
    }
}

struct Scan<'s> {
    store: &'s Store,
    revision: i64,
    keep_is_empty: bool,
}

impl Scan<'_> {
    /// Whether there are more rows.
    fn run(&self, next: &mut Revision, sum: &mut Sum, budget: usize) -> Result<bool, Miss> {
        let from = next.to_key();
        let to = Revision::new(self.revision + 1, 0).to_key();
        if from >= to {
            return Ok(false);
        }
        let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut rows = self.store.trees.rows.range(&self.store.pages, from, to);
        for seen in 0..budget {
            let row = match rows.next() {
                Err(_) if seen > 0 => return Ok(true),
                row => row?,
            };
            let Some((at, row)) = row else {
                return Ok(false);
            };
            let at = Revision::from_key(&at).expect(WELL_FORMED);
            let row = Row::decode(at, row).expect(WELL_FORMED);
            let counts = match self.counts(at, &row) {
                Err(_) if seen > 0 => return Ok(true),
                counts => counts?,
            };
            if counts {
                sum.feed_row(at, &row);
            }
            *next = Revision::new(at.main, at.sub + 1);
        }
        Ok(true)
    }

    fn counts(&self, at: Revision, row: &Row<'_>) -> Result<bool, Miss> {
        let compacted = self.store.compacted;
        if at.main > compacted {
            return Ok(true);
        }
        if row.tombstone && at.main == compacted {
            return Ok(false);
        }
        Ok(self.keep_is_empty || (!row.tombstone && self.is_visible(at, row)?))
    }

    /// Whether the row is what its key shows at the revision.
    fn is_visible(&self, at: Revision, row: &Row<'_>) -> Result<bool, Miss> {
        let reader = self.store.reader();
        let body = row.body();
        let key = Kv::parse(&body).expect(WELL_FORMED).key;
        let Some(head) = reader.head(key)? else {
            return Ok(false);
        };
        if head.at.main <= self.revision {
            return Ok(head.at == at);
        }
        let version = reader.version_at(&head, self.revision)?;
        Ok(version.is_some_and(|(newest, _)| newest == at))
    }
}
