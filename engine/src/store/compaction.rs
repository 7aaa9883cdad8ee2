//! Compaction: readers see it at once, rows go in the background.
//!
//! Compacting to C leaves, for every key, its newest change at or before C unless that is a tombstone below C. So each
//! row up to C makes its predecessor obsolete, and a tombstone below C itself, together with the key's cell if nothing
//! came after it. One pass over the rows that the last compaction has not seen is enough. It begins with the revision
//! of the last compaction itself, whose tombstones were spared (a watch from exactly that revision may want them).
//!
//! etcd remembers the hash of what it compacted (`store::hash`). The rows between the two compactions are hashed as the
//! pass reads them. What lies below them is exactly what the pass leaves there, so it can be hashed afterwards. (Should
//! nothing be kept, the hash would cover all of it. But revision C changed something, and that is kept: a put, or a
//! tombstone at C.)

use super::{Store, PLANNED};
use crate::error::RequestError;
use crate::hash::Sum;
use crate::mvcc::head::Head;
use crate::mvcc::row::{Row, WELL_FORMED};
use crate::mvcc::Revision;
use crate::page::{Miss, Pages};
use crate::planted::{planted, Fault};
use std::ops::Bound;

/// Rows whose removal is planned together.
const CHUNK_ROWS: usize = 64;
/// Compaction hashes that are remembered, as in etcd.
const REMEMBERED_MAX: usize = 10;

/// A compaction that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The compaction before: -1 for none.
    pub floor: i64,
    pub target: i64,
    /// The first row that has not been looked at.
    pub next: Revision,
}

impl Job {
    fn new(floor: i64, target: i64) -> Job {
        Job {
            floor,
            target,
            next: Revision::new(floor.max(0), 0),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sweep,
    /// Hashing what the sweep left up to the floor.
    Hash,
}

#[derive(Clone, Debug)]
struct HashWork {
    /// Rows up to the floor; `None` until they were hashed.
    head: Option<Sum>,
    /// Rows after the floor up to the target.
    tail: Sum,
    /// Where `Phase::Hash` goes on.
    next: Revision,
}

#[derive(Clone, Debug)]
struct Running {
    job: Job,
    ticket: u64,
    phase: Phase,
    hash: Option<HashWork>,
}

/// The hash of a compaction, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub revision: i64,
    /// The compaction before it, which the hash is computed against.
    pub floor: i64,
    pub head: Option<Sum>,
    pub tail: Sum,
}

/// What a slice of background work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionProgress {
    Idle,
    Working,
    /// A compaction has ended. Another one may wait.
    Finished {
        revision: i64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Compactor {
    finished: i64,
    running: Option<Running>,
    /// A later target. Several that wait become one: the result is the same.
    queued: Option<i64>,
    /// Number of compactions asked for, and of those that are done.
    scheduled: u64,
    done: u64,
    remembered: Vec<Remembered>,
}

impl Default for Compactor {
    fn default() -> Compactor {
        Compactor::restore(-1, None, -1)
    }
}

impl Compactor {
    pub fn restore(finished: i64, job: Option<Job>, compacted: i64) -> Compactor {
        let mut compactor = Compactor {
            finished,
            running: None,
            queued: None,
            scheduled: 0,
            done: 0,
            remembered: Vec::new(),
        };
        let known = job.as_ref().map_or(finished, |job| job.target);
        if let Some(job) = job {
            compactor.scheduled += 1;
            compactor.run(job, false);
        }
        if compacted > known {
            compactor.schedule(compacted, known);
            // After a restart the hash is not taken up again.
            if let Some(running) = &mut compactor.running {
                running.hash = None;
            }
        }
        compactor
    }

    fn run(&mut self, job: Job, hashed: bool) {
        self.running = Some(Running {
            ticket: self.scheduled,
            phase: Phase::Sweep,
            hash: hashed.then(|| HashWork {
                head: None,
                tail: Sum::default(),
                next: Revision::default(),
            }),
            job,
        });
        // The sweep changes what lies below earlier compactions: hashes that still need it are lost.
        self.remembered.retain(|hash| hash.head.is_some());
    }

    fn schedule(&mut self, target: i64, floor: i64) {
        self.scheduled += 1;
        match self.running {
            None => self.run(Job::new(floor, target), true),
            Some(_) => self.queued = Some(target),
        }
    }

    fn finish(&mut self) -> CompactionProgress {
        let Some(running) = self.running.take() else {
            return CompactionProgress::Idle;
        };
        let Job { floor, target, .. } = running.job;
        self.finished = target;
        self.done = running.ticket;
        if let Some(hash) = running.hash {
            self.remembered.push(Remembered {
                revision: target,
                floor,
                head: hash.head,
                tail: hash.tail,
            });
            if self.remembered.len() > REMEMBERED_MAX {
                self.remembered.remove(0);
            }
        }
        if let Some(next) = self.queued.take() {
            self.run(Job::new(target, next), false);
        }
        CompactionProgress::Finished { revision: target }
    }

    pub fn finished(&self) -> i64 {
        self.finished
    }

    pub fn job(&self) -> Option<Job> {
        self.running.as_ref().map(|running| running.job.clone())
    }

    pub fn scheduled(&self) -> u64 {
        self.scheduled
    }

    pub fn remembered(&self, revision: i64) -> Option<&Remembered> {
        let mut all = self.remembered.iter();
        all.find(|remembered| remembered.revision == revision)
    }
}

/// A row that the sweep looks at, and what it makes obsolete.
struct Swept {
    at: Revision,
    prev: Option<Revision>,
    /// The key, if the row is a tombstone that goes.
    tombstone: Option<Vec<u8>>,
    /// The hash of everything up to this row.
    tail: Sum,
}

fn up_to(revision: i64) -> [u8; crate::mvcc::revision::REVISION_KEY_BYTES] {
    Revision::new(revision + 1, 0).to_key()
}

impl Store {
    /// Number of the last compaction whose rows are gone; see [`super::Applied::compaction`].
    pub fn compactions_done(&self) -> u64 {
        self.compactor.done
    }

    /// Number of the last compaction that was asked for.
    pub fn compactions_scheduled(&self) -> u64 {
        self.compactor.scheduled
    }

    pub fn compaction_pending(&self) -> bool {
        self.compactor.running.is_some()
    }

    pub(super) fn apply_compaction(&mut self, revision: i64) -> Result<(), RequestError> {
        if revision <= self.compacted {
            return Err(RequestError::Compacted);
        }
        if revision > self.revision {
            return Err(RequestError::FutureRevision);
        }
        let last = match planted(Fault::CompactOneMore) {
            true => (revision + 1).min(self.revision),
            false => revision,
        };
        self.compactor.schedule(last, self.compacted);
        self.compacted = revision;
        Ok(())
    }

    pub(super) fn remembered_hash(&self, revision: i64) -> Option<&Remembered> {
        self.compactor.remembered(revision)
    }

    /// Looks at up to `budget_rows` rows. Call again until [`CompactionProgress::Idle`].
    pub fn compaction_step(&mut self, budget_rows: usize) -> Result<CompactionProgress, Miss> {
        let Some(mut running) = self.compactor.running.take() else {
            return Ok(CompactionProgress::Idle);
        };
        let done = self.run_phase(&mut running, budget_rows.max(1));
        self.compactor.running = Some(running);
        match done? {
            true => Ok(self.compactor.finish()),
            false => Ok(CompactionProgress::Working),
        }
    }

    /// Whether the compaction is over.
    fn run_phase(&mut self, running: &mut Running, budget: usize) -> Result<bool, Miss> {
        if running.phase == Phase::Sweep {
            return Ok(!self.sweep(running, budget)? && !self.wants_hash(running)?);
        }
        let Some(hash) = &mut running.hash else {
            return Ok(true);
        };
        let mut head = hash.head.unwrap_or_default();
        let floor = running.job.floor;
        let more = self.hash_rows(&mut hash.next, &mut head, floor, budget)?;
        hash.head = Some(head);
        Ok(!more)
    }

    /// After the sweep: whether the rest of the hash is worth its time now.
    fn wants_hash(&self, running: &mut Running) -> Result<bool, Miss> {
        if running.hash.is_none() {
            return Ok(false);
        }
        let floor = up_to(running.job.floor);
        let rows = &self.trees.rows;
        let left = rows.count(&self.pages, Bound::Unbounded, Bound::Excluded(&floor[..]))?;
        let wanted = left <= self.options.compaction_hash_rows_max;
        if wanted {
            running.phase = Phase::Hash;
        }
        Ok(wanted)
    }

    /// Feeds rows up to `floor` but for the tombstones at it, and tells whether there are more.
    pub(super) fn hash_rows(
        &self,
        next: &mut Revision,
        sum: &mut Sum,
        floor: i64,
        budget: usize,
    ) -> Result<bool, Miss> {
        let (from, to) = (next.to_key(), up_to(floor));
        if from >= to {
            return Ok(false);
        }
        let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut rows = self.trees.rows.range(&self.pages, from, to);
        for fed in 0..budget {
            let row = match rows.next() {
                Err(_) if fed > 0 => return Ok(true),
                row => row?,
            };
            let Some((at, row)) = row else {
                return Ok(false);
            };
            let at = Revision::from_key(&at).expect(WELL_FORMED);
            let row = Row::decode(at, row).expect(WELL_FORMED);
            if !(row.tombstone && at.main == floor) {
                sum.feed_row(at, &row);
            }
            *next = Revision::new(at.main, at.sub + 1);
        }
        Ok(true)
    }

    /// Looks at rows in order and removes what they make obsolete. Whether there are more.
    fn sweep(&mut self, running: &mut Running, budget: usize) -> Result<bool, Miss> {
        let mut left = budget;
        loop {
            let chunk = match self.read_chunk(running, left.min(CHUNK_ROWS)) {
                Err(_) if left < budget => return Ok(true),
                chunk => chunk?,
            };
            if chunk.is_empty() {
                return Ok(false);
            }
            for (i, swept) in chunk.iter().enumerate() {
                let missing = self.plan_swept(swept);
                if !missing.is_empty() {
                    return match i > 0 || left < budget {
                        true => Ok(true),
                        false => Err(self.plan_all(&chunk)),
                    };
                }
                remove_swept(&mut self.pages, &mut self.trees, swept);
                running.job.next = Revision::new(swept.at.main, swept.at.sub + 1);
                if let Some(hash) = &mut running.hash {
                    hash.tail = swept.tail;
                }
                left -= 1;
            }
            if left == 0 {
                return Ok(true);
            }
        }
    }

    fn read_chunk(&self, running: &Running, rows_max: usize) -> Result<Vec<Swept>, Miss> {
        let Job {
            floor,
            target,
            next,
        } = running.job;
        let (from, to) = (next.to_key(), up_to(target));
        let mut chunk: Vec<Swept> = Vec::new();
        if from >= to {
            return Ok(chunk);
        }
        let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut rows = self.trees.rows.range(&self.pages, from, to);
        let mut tail = running.hash.as_ref().map(|hash| hash.tail);
        while chunk.len() < rows_max {
            let row = match rows.next() {
                // What has been read can be swept while the rest is fetched.
                Err(_) if !chunk.is_empty() => break,
                row => row?,
            };
            let Some((at, row)) = row else { break };
            let at = Revision::from_key(&at).expect(WELL_FORMED);
            let row = Row::decode(at, row).expect(WELL_FORMED);
            if let Some(tail) = tail.as_mut().filter(|_| at.main > floor) {
                tail.feed_row(at, &row);
            }
            let goes = row.tombstone && at.main < target;
            chunk.push(Swept {
                at,
                prev: row.prev.filter(|_| at.main > floor),
                tombstone: goes.then(|| row.key().into_owned()),
                tail: tail.unwrap_or_default(),
            });
        }
        Ok(chunk)
    }

    fn plan_swept(&self, swept: &Swept) -> Miss {
        let mut missing = Miss::default();
        let (trees, pages) = (&self.trees, &self.pages);
        if let Some(prev) = swept.prev {
            trees.rows.plan_remove(pages, &prev.to_key(), &mut missing);
        }
        if let Some(key) = &swept.tombstone {
            let at = swept.at.to_key();
            trees.rows.plan_remove(pages, &at, &mut missing);
            trees.keys.plan_remove(pages, key, &mut missing);
            if let Err(miss) = trees.keys.get(pages, key) {
                missing.pages.extend(miss.pages);
            }
        }
        missing
    }

    fn plan_all(&self, chunk: &[Swept]) -> Miss {
        let pages = chunk.iter().flat_map(|swept| self.plan_swept(swept).pages);
        let mut missing = Miss {
            pages: pages.collect(),
        };
        missing.pages.sort_unstable();
        missing.pages.dedup();
        missing
    }
}

fn remove_swept(pages: &mut Pages, trees: &mut crate::mvcc::Trees, swept: &Swept) {
    if let Some(prev) = swept.prev {
        // Absent if it was a tombstone below the target: it went when the pass met it.
        trees.rows.remove(pages, &prev.to_key()).expect(PLANNED);
    }
    let Some(key) = &swept.tombstone else {
        return;
    };
    trees.rows.remove(pages, &swept.at.to_key()).expect(PLANNED);
    let cell = trees.keys.get(pages, key).expect(PLANNED);
    let head = cell.map(|cell| Head::decode(cell).expect(WELL_FORMED).0);
    if head.is_some_and(|head| head.at == swept.at) {
        trees.keys.remove(pages, key).expect(PLANNED);
    }
}
