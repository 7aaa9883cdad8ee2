//! Applying at start what the log has and the pages lack: the same result as entry by entry, in a better order.
//!
//! A run of plain puts is applied as a whole: its keys are looked up and written in key order, so that each leaf of `keys`
//! is brought in, copied and changed once while it is in the processor's cache; then its rows are appended in the order of
//! their revisions. Everything that an entry's answer, a watcher or a lease would need is left out, because nobody is there
//! yet; an entry that is about more than keys ends the replay and is left to [`Store::apply`].

use super::decode::{decode_internal_request, Payload};
use super::watching::event_of;
use super::{ApplyError, Store, PLANNED};
use crate::mvcc::chain::{Chain, Jump};
use crate::mvcc::head::Head;
use crate::mvcc::kv::Kv;
use crate::mvcc::row::encode_row_head;
use crate::mvcc::write::{prior, NewVersion};
use crate::mvcc::Revision;
use crate::page::{Miss, PageNo, PAGE_BYTES};
use bytes::Bytes;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest};
use proto::raftpb::{Entry, EntryType};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

/// Puts applied together at most: enough that several fall on each leaf, few enough to sort in a cache.
const PUTS_MAX: usize = 1 << 16;
/// Fewer are applied one by one.
const PUTS_MIN: usize = 64;
/// What a put may change: a leaf of `keys`, and its share of the pages above.
const CHANGED_BYTES_PER_PUT: u64 = PAGE_BYTES as u64 + 256;
/// One key in so many shows which branches are missing.
const SAMPLE_EVERY: usize = 64;
/// Entries whose pages are read ahead: several times what a log has under way at once.
const AHEAD_ENTRIES_MAX: usize = 4096;
/// Tries to bring in what a run of puts needs: one for each level of a tree, and some more.
const ROUNDS_MAX: usize = 32;

/// A put without a lease or conditions.
struct Put {
    term: u64,
    key: Bytes,
    value: Bytes,
}

/// What a put makes of its key.
#[derive(Clone, Copy, Default)]
struct Version {
    create: i64,
    version: i64,
    prev: Option<(Revision, Jump)>,
}

/// The puts of one key: their range in the order by keys, and the key's bytes in the buffer of all keys.
struct Group {
    puts: Range<usize>,
    key: Range<usize>,
}

/// Puts in the order of their keys, those of one key in their own.
struct Sorted {
    /// Places in the order of the log.
    order: Vec<u32>,
    groups: Vec<Group>,
    /// The keys, in order and in one piece: reading them where they came from would wait for memory each time.
    keys: Vec<u8>,
}

/// What a run of puts comes to.
struct Outcome {
    /// Of each put, in the order of the log.
    versions: Vec<Version>,
    /// The new cells of all groups, and where each one ends.
    cells: Vec<u8>,
    ends: Vec<usize>,
}

/// Why a run of puts is not applied as a whole.
enum Refused {
    /// Pages are not there yet.
    Missing,
    /// A key is attached to a lease.
    Leased,
}

impl Store {
    /// Applies committed entries that follow what is applied, as far as that is possible without anybody who answers, and
    /// while less than `changed_bytes_max` of pages are changed. What is left is for [`Store::apply`], as is whatever goes
    /// wrong. Waits for the device: for start only.
    pub fn replay(&mut self, entries: &[Entry], changed_bytes_max: u64) {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let room = changed_bytes_max.saturating_sub(self.pages.dirty_bytes());
            let many = (room / CHANGED_BYTES_PER_PUT).min(PUTS_MAX as u64) as usize;
            if first.index() != self.applied_index + 1 || many == 0 {
                return;
            }
            let puts = self.leading_puts(&rest[..many.min(rest.len())]);
            let count = puts.len().max(1);
            if puts.len() < PUTS_MIN || !self.replay_puts(&puts) {
                drop(puts);
                if !rest[..count].iter().all(|entry| self.replay_one(entry)) {
                    return;
                }
            }
            self.pages.evict_some();
            rest = &rest[count..];
        }
    }

    /// Reads the pages that entries will need which are not known to be committed yet, as far as that is not too much: they
    /// follow within moments, and would wait for one page after the other. Waits for the device: for start only.
    pub fn read_ahead(&mut self, entries: &[Entry]) {
        let requests: Vec<_> = entries
            .iter()
            .take(AHEAD_ENTRIES_MAX)
            .filter_map(request_of)
            .collect();
        for _ in 0..ROUNDS_MAX {
            let mut missing = Miss::default();
            for request in &requests {
                self.plan(request, &mut missing);
            }
            // What is damaged is left to whoever needs it.
            if missing.is_empty() || !self.load(missing.pages) {
                return;
            }
        }
    }

    /// One entry in the ordinary way; false if it must wait for the ordinary time.
    fn replay_one(&mut self, entry: &Entry) -> bool {
        let Some(request) = request_of(entry) else {
            return false;
        };
        let only_keys =
            request.put.is_some() || request.txn.is_some() || request.delete_range.is_some();
        if !only_keys {
            return false;
        }
        // The time matters to none of these.
        loop {
            match self.apply(entry.index(), entry.term(), Some(&request), 0) {
                Ok(_) => return true,
                Err(ApplyError::Miss(miss)) => {
                    if !self.load(miss.pages) {
                        return false;
                    }
                }
                Err(ApplyError::Fatal(_)) => return false,
            }
        }
    }

    /// The plain puts with which the entries begin.
    fn leading_puts(&self, entries: &[Entry]) -> Vec<Put> {
        if self.settings.ruling_alarm().is_some() {
            return Vec::new();
        }
        let consecutive = (self.applied_index + 1..).zip(entries);
        consecutive
            .map_while(|(index, entry)| {
                let request = request_of(entry).filter(|_| entry.index() == index)?;
                let put = request.put.filter(is_plain)?;
                Some(Put {
                    term: entry.term(),
                    key: put.key,
                    value: put.value,
                })
            })
            .collect()
    }

    /// Applies the puts as a whole; false if they are not as plain as they look or pages cannot be read, with nothing
    /// changed.
    fn replay_puts(&mut self, puts: &[Put]) -> bool {
        let sorted = Sorted::new(puts);
        if !self.load_branches(&sorted) {
            return false;
        }
        for _ in 0..ROUNDS_MAX {
            let missing = self.missing(&sorted, 1);
            if !missing.is_empty() && !self.load(missing) {
                return false;
            }
            match self.work_out(puts, &sorted) {
                Ok(outcome) => {
                    self.write_puts(puts, &sorted, &outcome);
                    return true;
                }
                Err(Refused::Missing) => {}
                Err(Refused::Leased) => return false,
            }
        }
        false
    }

    fn write_puts(&mut self, puts: &[Put], sorted: &Sorted, outcome: &Outcome) {
        let mut from = 0;
        for (group, end) in sorted.groups.iter().zip(&outcome.ends) {
            let (key, cell) = (sorted.key(group), &outcome.cells[from..*end]);
            let keys = &mut self.trees.keys;
            // Every put leaves a live key.
            keys.insert(&mut self.pages, key, cell, 1).expect(PLANNED);
            from = *end;
        }
        let mut row = Vec::new();
        for (put, version) in puts.iter().zip(&outcome.versions) {
            let main = self.revision + 1;
            let change = NewVersion {
                at: Revision::new(main, 0),
                tombstone: false,
                kv: put.pair(main, version),
                lease_before: 0,
            };
            row.clear();
            let size = change.kv.encoded_len();
            encode_row_head(&mut row, change.at, false, version.prev, size);
            let body_at = row.len();
            change.kv.encode(&mut row);
            self.results.begin();
            self.results.change(false, &row[body_at..]);
            let rows = &mut self.trees.rows;
            rows.insert(&mut self.pages, &change.at.to_key(), &row, 1)
                .expect(PLANNED);
            self.revision = main;
            self.edge_is_dirty = true;
            self.entry_applied(self.applied_index + 1, put.term);
            self.publish(&[event_of(&change)]);
        }
    }

    /// What becomes of each put and of each key's cell. Changes nothing.
    fn work_out(&self, puts: &[Put], sorted: &Sorted) -> Result<Outcome, Refused> {
        let mut outcome = Outcome {
            versions: vec![Version::default(); puts.len()],
            cells: Vec::new(),
            ends: Vec::with_capacity(sorted.groups.len()),
        };
        for group in &sorted.groups {
            let before = prior(&self.trees, &self.pages, sorted.key(group));
            let mut newest = before.map_err(|_| Refused::Missing)?;
            if newest.as_ref().is_some_and(|(head, _)| head.lease != 0) {
                return Err(Refused::Leased);
            }
            for place in &sorted.order[group.puts.clone()] {
                let main = self.revision + 1 + i64::from(*place);
                let put = &puts[*place as usize];
                let (version, head, chain) = put.on(newest, main);
                outcome.versions[*place as usize] = version;
                newest = Some((head, chain));
            }
            if let Some((head, chain)) = newest {
                head.encode(&chain, &mut outcome.cells);
            }
            outcome.ends.push(outcome.cells.len());
        }
        Ok(outcome)
    }

    /// Brings in the branch pages above the keys, looking for a few of these only.
    fn load_branches(&mut self, sorted: &Sorted) -> bool {
        for _ in 0..ROUNDS_MAX {
            let missing = self.missing(sorted, SAMPLE_EVERY);
            if missing.is_empty() {
                return true;
            }
            if !self.load(missing) {
                return false;
            }
        }
        false
    }

    /// The pages that writing a row, and every `nth` of the keys, lacks so far.
    fn missing(&self, sorted: &Sorted, nth: usize) -> Vec<PageNo> {
        let mut edge = Miss::default();
        self.plan_edge(&mut edge);
        let mut missing = edge.pages;
        for group in sorted.groups.iter().step_by(nth) {
            if let Err(miss) = self.trees.keys.get(&self.pages, sorted.key(group)) {
                // Neighbours in order lack the same page.
                let last = missing.last().copied();
                missing.extend(miss.pages.into_iter().filter(|page| Some(*page) != last));
            }
        }
        missing
    }

    /// Reads pages, several at a time where the file allows it. What is damaged is met again, and reported, by whoever needs
    /// it next.
    fn load(&mut self, mut pages: Vec<PageNo>) -> bool {
        pages.sort_unstable();
        pages.dedup();
        let file_reads = self.pages.file.parallel_reads().max(1);
        let jobs: Vec<_> = pages
            .chunks(pages.len().div_ceil(file_reads).max(1))
            .filter_map(|pages| {
                let pages = pages.to_vec();
                self.pages.fetch_job(&Miss { pages })
            })
            .collect();
        if jobs.is_empty() {
            return false;
        }
        let threads = jobs.len();
        let (jobs, done) = (Mutex::new(jobs), Mutex::new(Vec::new()));
        let fetch = || {
            // The lock is not held while the job runs.
            let next = || unpoisoned(&jobs).pop();
            while let Some(job) = next() {
                let fetched = job.run();
                unpoisoned(&done).push(fetched);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without a thread the others do its part.
                let _ = Builder::new()
                    .name("replay".into())
                    .spawn_scoped(scope, fetch);
            }
            fetch();
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut all_good = true;
        for done in done {
            all_good &= self.pages.fetch_done_keeping(done).is_ok();
        }
        all_good
    }
}

impl Put {
    /// The pair as its row holds it.
    fn pair(&self, main: i64, version: &Version) -> Kv<'_> {
        Kv {
            key: &self.key,
            create: version.create,
            modified: main,
            version: version.version,
            value: &self.value,
            lease: 0,
        }
    }

    /// This put on top of the newest change of its key.
    fn on(&self, newest: Option<(Head, Chain)>, main: i64) -> (Version, Head, Chain) {
        let at = Revision::new(main, 0);
        let live = newest.as_ref().map(|(head, _)| *head);
        let live = live.filter(|head| !head.tombstone);
        let (prev, chain) = match newest {
            None => (None, Chain::start(at)),
            Some((head, mut chain)) => {
                let jump = chain.push(at);
                (Some((head.at, jump)), chain)
            }
        };
        let version = Version {
            create: live.map_or(main, |head| head.create),
            version: live.map_or(1, |head| head.version + 1),
            prev,
        };
        let head = Head {
            tombstone: false,
            at,
            create: version.create,
            version: version.version,
            lease: 0,
            size: self.pair(main, &version).encoded_len() as u64,
        };
        (version, head, chain)
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request_of(entry: &Entry) -> Option<Box<InternalRaftRequest>> {
    if entry.r#type() != EntryType::EntryNormal {
        return None;
    }
    match decode_internal_request(entry.data.clone().unwrap_or_default()) {
        Ok(Payload::Request(request)) => Some(request),
        _ => None,
    }
}

fn is_plain(put: &PutRequest) -> bool {
    put.lease == 0 && !put.prev_kv && !put.ignore_value && !put.ignore_lease
}

impl Sorted {
    fn new(puts: &[Put]) -> Sorted {
        let shared = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let first = puts.first().map_or(&[][..], |put| &put.key);
        let prefix = puts.iter().map(|put| shared(first, &put.key)).min();
        let prefix = prefix.unwrap_or(0);
        // The first bytes in which keys differ decide nearly always, and are at hand.
        let hint = |key: &[u8]| {
            let mut bytes = [0; 8];
            let rest = &key[prefix..];
            let len = rest.len().min(8);
            bytes[..len].copy_from_slice(&rest[..len]);
            u64::from_be_bytes(bytes)
        };
        let mut order: Vec<(u64, u32)> = (0u32..)
            .zip(puts)
            .map(|(place, put)| (hint(&put.key), place))
            .collect();
        let key = |place: u32| &puts[place as usize].key;
        order.sort_unstable_by(|a, b| {
            let hints = a.0.cmp(&b.0);
            hints
                .then_with(|| key(a.1).cmp(key(b.1)))
                .then(a.1.cmp(&b.1))
        });
        let mut sorted = Sorted {
            order: order.into_iter().map(|(_, place)| place).collect(),
            groups: Vec::with_capacity(puts.len()),
            keys: Vec::new(),
        };
        for (at, place) in sorted.order.iter().enumerate() {
            let key = key(*place);
            match sorted.groups.last_mut() {
                Some(last) if sorted.keys[last.key.clone()] == **key => last.puts.end = at + 1,
                _ => {
                    let from = sorted.keys.len();
                    sorted.keys.extend_from_slice(key);
                    sorted.groups.push(Group {
                        puts: at..at + 1,
                        key: from..sorted.keys.len(),
                    });
                }
            }
        }
        sorted
    }

    fn key(&self, group: &Group) -> &[u8] {
        &self.keys[group.key.clone()]
    }
}
