//! Reading keys: the newest version from the `keys` tree, older ones along the chain of rows.

use super::batch::{Batch, Latest};
use super::head::Head;
use super::key_range::KeyRange;
use super::kv::{value_field, Kv};
use super::revision::Revision;
use super::row::{Row, WELL_FORMED};
use super::varint::{put_varint, varint_len};
use super::Trees;
use crate::page::{Miss, Pages};
use crate::tree::Cursor;
use bytes::Bytes;
use proto::mvccpb::KeyValue;
use std::borrow::Cow;
use std::collections::btree_map;
use std::iter::Peekable;

/// The store as of its newest revision.
#[derive(Clone, Copy)]
pub struct Reader<'p> {
    pub pages: &'p Pages,
    pub trees: &'p Trees,
    /// Newest revision.
    pub revision: i64,
    /// Reads below this revision are refused; -1 before the first compaction.
    pub compacted: i64,
}

/// A live key at the revision asked for.
#[derive(Clone, Debug)]
pub struct Found<'p> {
    pub key: Cow<'p, [u8]>,
    pub at: Revision,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    /// Length of the encoded pair with its value.
    pub size: u64,
    source: Source<'p>,
}

/// Outcome of [`Reader::any_live_at`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyLive {
    Yes,
    No,
    /// None so far: go on after this key.
    NotUpTo(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Source<'p> {
    /// In the row of its revision, not read yet.
    Row,
    Body(Cow<'p, [u8]>),
    /// Written by this transaction.
    Pending(Kv<'p>),
}

impl<'p> Reader<'p> {
    pub fn head(&self, key: &[u8]) -> Result<Option<Head>, Miss> {
        let cell = self.trees.keys.get(self.pages, key)?;
        Ok(cell.map(|cell| Head::decode(cell).expect(WELL_FORMED).0))
    }

    pub fn row(&self, at: Revision) -> Result<Option<Row<'p>>, Miss> {
        let row = self.trees.rows.get(self.pages, &at.to_key())?;
        Ok(row.map(|row| Row::decode(at, row).expect(WELL_FORMED)))
    }

    /// One key at the newest revision, with the changes of `batch` on top.
    pub fn get<'a>(
        &self,
        key: &'a [u8],
        batch: Option<&'a Batch>,
    ) -> Result<Option<Found<'a>>, Miss>
    where
        'p: 'a,
    {
        if let Some(batch) = batch.filter(|batch| !batch.is_empty()) {
            if let Some((_, latest)) = batch.pending(&KeyRange::One(key)).next() {
                return Ok(Found::pending(batch, latest));
            }
        }
        let head = self.head(key)?;
        Ok(head
            .filter(|head| !head.tombstone)
            .map(|head| Found::of_head(Cow::Borrowed(key), &head)))
    }

    /// The newest change of a key at or before `revision`, which is not compacted. `None`: it had none, or a
    /// tombstone that has been compacted away.
    pub fn version_at(
        &self,
        head: &Head,
        revision: i64,
    ) -> Result<Option<(Revision, Row<'p>)>, Miss> {
        let mut at = head.at;
        loop {
            let Some(row) = self.row(at)? else {
                return Ok(None);
            };
            if at.main <= revision {
                return Ok(Some((at, row)));
            }
            // Every hop leads to an older row (`Row::decode` checks it), so this ends.
            at = match (row.jump, row.prev) {
                (Some(jump), _) if jump.main > revision => jump,
                (_, Some(prev)) => prev,
                (_, None) => return Ok(None),
            };
        }
    }

    fn is_live_at(&self, head: &Head, revision: i64) -> Result<bool, Miss> {
        if head.at.main <= revision {
            return Ok(!head.tombstone);
        }
        let version = self.version_at(head, revision)?;
        Ok(version.is_some_and(|(_, row)| !row.tombstone))
    }

    /// Whether any key is live at `revision`, looking at no more than `keys_max` keys after `after`.
    pub fn any_live_at(
        &self,
        revision: i64,
        after: Option<&[u8]>,
        keys_max: usize,
    ) -> Result<AnyLive, Miss> {
        let from = match after {
            Some(key) => std::ops::Bound::Excluded(key),
            None => std::ops::Bound::Unbounded,
        };
        let end = std::ops::Bound::Unbounded;
        let mut cells = self.trees.keys.range(self.pages, from, end);
        for seen in 1.. {
            let Some((key, cell)) = cells.next()? else {
                break;
            };
            let (head, _) = Head::decode(cell).expect(WELL_FORMED);
            if self.is_live_at(&head, revision)? {
                return Ok(AnyLive::Yes);
            }
            if seen == keys_max {
                return Ok(AnyLive::NotUpTo(key.into_owned()));
            }
        }
        Ok(AnyLive::No)
    }

    /// Live keys in order: at `revision`, or newest with the changes of `batch` on top.
    pub fn walk<'a>(
        &self,
        range: KeyRange<'a>,
        revision: Option<i64>,
        batch: Option<&'a Batch>,
    ) -> Walk<'a>
    where
        'p: 'a,
    {
        let reader: Reader<'a> = *self;
        let batch = batch.filter(|batch| !batch.is_empty() && !range.is_empty());
        let stored = match range {
            range if range.is_empty() => Stored::End,
            KeyRange::One(key) => Stored::One(key),
            range => {
                let (from, to) = range.bounds();
                Stored::Many(Box::new(reader.trees.keys.range(reader.pages, from, to)))
            }
        };
        Walk {
            reader,
            revision: revision.filter(|&revision| revision < reader.revision),
            stored,
            ahead: None,
            pending: batch.map(|batch| (batch, batch.pending(&range).peekable())),
            older: 0,
        }
    }

    /// As [`Reader::walk`], without a transaction: what it finds outlives the range. `backwards`: the last key first.
    pub fn walk_stored(&self, range: &KeyRange<'_>, revision: i64, backwards: bool) -> Walk<'p> {
        let (from, to) = range.bounds();
        let keys = &self.trees.keys;
        let stored = match (range.is_empty(), backwards) {
            (true, _) => Stored::End,
            (_, true) => Stored::Many(Box::new(keys.range_rev(self.pages, from, to))),
            (_, false) => Stored::Many(Box::new(keys.range(self.pages, from, to))),
        };
        Walk {
            reader: *self,
            revision: Some(revision).filter(|&revision| revision < self.revision),
            stored,
            ahead: None,
            pending: None,
            older: 0,
        }
    }

    /// Number of live keys, O(log n) at the newest revision.
    pub fn count(
        &self,
        range: KeyRange<'_>,
        revision: Option<i64>,
        batch: Option<&Batch>,
    ) -> Result<i64, Miss> {
        if range.is_empty() {
            return Ok(0);
        }
        if let Some(revision) = revision.filter(|&revision| revision < self.revision) {
            return self.count_at(range, revision);
        }
        let mut count = self.count_newest(range)?;
        if let Some(batch) = batch.filter(|batch| !batch.is_empty()) {
            for (_, latest) in batch.pending(&range) {
                let live = !batch.change(latest.change).tombstone;
                count += i64::from(live) - i64::from(latest.was_live);
            }
        }
        Ok(count)
    }

    fn count_newest(&self, range: KeyRange<'_>) -> Result<i64, Miss> {
        if let KeyRange::One(key) = range {
            return Ok(self.head(key)?.map_or(0, |head| i64::from(head.weight())));
        }
        let (from, to) = range.bounds();
        Ok(self.trees.keys.count(self.pages, from, to)? as i64)
    }

    /// The count at an older revision: the shorter of two ways.
    fn count_at(&self, range: KeyRange<'_>, revision: i64) -> Result<i64, Miss> {
        let newest = self.count_newest(range)?;
        if matches!(range, KeyRange::One(_)) || newest <= self.changes_since(revision)? {
            let mut count = 0;
            let mut walk = self.walk(range, Some(revision), None);
            while walk.next()?.is_some() {
                count += 1;
            }
            return Ok(count);
        }
        let mut count = newest;
        let mut rows = self.rows_from(Revision::new(revision + 1, 0));
        while let Some((at, row)) = rows.next()? {
            count += more_before(range, &at, row).1;
        }
        Ok(count)
    }

    /// Number of changes after a revision.
    pub(crate) fn changes_since(&self, revision: i64) -> Result<i64, Miss> {
        let since = Revision::new(revision + 1, 0).to_key();
        let since = std::ops::Bound::Included(&since[..]);
        let end = std::ops::Bound::Unbounded;
        Ok(self.trees.rows.count(self.pages, since, end)? as i64)
    }

    /// Changes from this one on, as they are stored.
    pub(crate) fn rows_from(&self, from: Revision) -> Cursor<'p> {
        let from = from.to_key();
        let from = std::ops::Bound::Included(&from[..]);
        let rows = &self.trees.rows;
        rows.range(self.pages, from, std::ops::Bound::Unbounded)
    }

    /// The versions at these places, all of them live ones that are not compacted, in the order given. All pages that
    /// are absent are named at once.
    pub(crate) fn versions(&self, places: &[Revision]) -> Result<Vec<Found<'p>>, Miss> {
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|&i| places[i]);
        let mut rows = vec![None; places.len()];
        let mut missing = Miss::default();
        for i in order {
            match self.row(places[i]) {
                Ok(row) => rows[i] = row,
                Err(miss) => missing.pages.extend(miss.pages),
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        let found = places.iter().zip(rows).map(|(&at, row)| {
            let row = row.expect("a live version has its row");
            Found::of_row(row.key(), at, &row)
        });
        Ok(found.collect())
    }

    /// Reads the rows that `found` still needs, in the order in which they lie. Pages that are absent are added to
    /// `missing`, all of them, so that one fetch serves the whole batch.
    pub fn read_bodies(&self, found: &mut [Found<'p>], missing: &mut Miss) {
        let mut order: Vec<(Revision, usize)> = found
            .iter()
            .enumerate()
            .filter(|(_, found)| matches!(found.source, Source::Row))
            .map(|(i, found)| (found.at, i))
            .collect();
        order.sort_unstable();
        for (_, i) in order {
            if let Err(miss) = found[i].read(self) {
                missing.pages.extend(miss.pages);
            }
        }
    }
}

impl<'p> Found<'p> {
    fn of_head(key: Cow<'p, [u8]>, head: &Head) -> Found<'p> {
        Found {
            key,
            at: head.at,
            create: head.create,
            version: head.version,
            lease: head.lease,
            size: head.size,
            source: Source::Row,
        }
    }

    fn of_row(key: Cow<'p, [u8]>, at: Revision, row: &Row<'p>) -> Found<'p> {
        let body = row.body();
        let kv = Kv::parse(&body).expect(WELL_FORMED);
        Found {
            key,
            at,
            create: kv.create,
            version: kv.version,
            lease: kv.lease,
            size: body.len() as u64,
            source: Source::Body(body),
        }
    }

    fn pending(batch: &'p Batch, latest: &Latest) -> Option<Found<'p>> {
        let change = batch.change(latest.change);
        (!change.tombstone).then(|| Found {
            key: Cow::Borrowed(&change.key[..]),
            at: Revision::new(batch.main(), batch.sub_of(latest.change)),
            create: change.create,
            version: change.version,
            lease: change.lease,
            size: change.kv(batch.main()).encoded_len() as u64,
            source: Source::Pending(change.kv(batch.main())),
        })
    }

    pub fn is_pending(&self) -> bool {
        matches!(self.source, Source::Pending(_))
    }

    pub fn read<'a>(&mut self, reader: &Reader<'a>) -> Result<(), Miss>
    where
        'a: 'p,
    {
        if matches!(self.source, Source::Row) {
            // A head's row goes only together with the head.
            let row = reader.row(self.at)?.expect("a live key has its row");
            self.source = Source::Body(row.body());
        }
        Ok(())
    }

    /// The value, for sorting and comparing; [`Reader::read_bodies`] went before.
    pub fn value(&self) -> &[u8] {
        match &self.source {
            Source::Row => &[],
            Source::Body(body) => Kv::parse(body).expect(WELL_FORMED).value,
            Source::Pending(kv) => kv.value,
        }
    }

    /// Reads the value of a key whose row may not have been read.
    pub fn with_value<T>(
        &self,
        reader: &Reader<'p>,
        use_value: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Miss> {
        if !matches!(self.source, Source::Row) {
            return Ok(use_value(self.value()));
        }
        let mut read = self.clone();
        read.read(reader)?;
        Ok(use_value(read.value()))
    }

    fn kv_without_value(&self) -> Kv<'_> {
        Kv {
            key: &self.key,
            create: self.create,
            modified: self.at.main,
            version: self.version,
            value: &[],
            lease: self.lease,
        }
    }

    /// The pair as a message.
    pub fn message<'a>(&self, reader: &Reader<'a>, keys_only: bool) -> Result<KeyValue, Miss>
    where
        'a: 'p,
    {
        let mut message = self.kv_without_value().to_message(true);
        if !keys_only {
            message.value = self.with_value(reader, Bytes::copy_from_slice)?;
        }
        Ok(message)
    }

    /// Length of what [`Found::append_field`] appends.
    pub fn field_len(&self, keys_only: bool) -> u64 {
        let size = match keys_only {
            true => self.kv_without_value().encoded_len() as u64,
            false => self.size,
        };
        1 + varint_len(size) as u64 + size
    }

    /// Appends `tag, length, KeyValue`. Its row was read before unless only keys are wanted.
    pub fn append_field(&self, tag: u8, keys_only: bool, out: &mut Vec<u8>) {
        let kv = match &self.source {
            Source::Body(body) => return append_body(tag, body, keys_only, out),
            Source::Pending(kv) if !keys_only => *kv,
            _ => self.kv_without_value(),
        };
        out.push(tag);
        put_varint(out, kv.encoded_len() as u64);
        kv.encode(out);
    }
}

/// Where a stored change was made, and by how many keys the range had more before it.
pub(crate) fn more_before(range: KeyRange<'_>, at: &[u8], row: &[u8]) -> (Revision, i64) {
    let at = Revision::from_key(at).expect(WELL_FORMED);
    let row = Row::decode(at, row).expect(WELL_FORMED);
    let body = row.body();
    let kv = Kv::parse(&body).expect(WELL_FORMED);
    let (died, born) = (row.tombstone, kv.version == 1);
    let more = match (died || born) && range.contains(kv.key) {
        true => i64::from(died) - i64::from(born),
        false => 0,
    };
    (at, more)
}

fn append_body(tag: u8, body: &[u8], keys_only: bool, out: &mut Vec<u8>) {
    let value = match keys_only {
        true => value_field(body).expect(WELL_FORMED),
        false => 0..0,
    };
    let len = body.len() - value.len();
    out.reserve(1 + varint_len(len as u64) + len);
    out.push(tag);
    put_varint(out, len as u64);
    out.extend_from_slice(&body[..value.start]);
    out.extend_from_slice(&body[value.end..]);
}

enum Stored<'p> {
    End,
    One(&'p [u8]),
    Many(Box<Cursor<'p>>),
}

type Cell<'p> = (Cow<'p, [u8]>, &'p [u8]);

/// Live keys in order.
pub struct Walk<'p> {
    reader: Reader<'p>,
    revision: Option<i64>,
    stored: Stored<'p>,
    /// A cell taken from the tree and not delivered yet.
    ahead: Option<Cell<'p>>,
    pending: Option<(&'p Batch, Peekable<btree_map::Range<'p, Bytes, Latest>>)>,
    older: usize,
}

/// What a cell of the index came to at the revision of a walk.
pub(crate) enum Seen<'p> {
    Live(Found<'p>),
    /// The key is not live.
    Dead(Cow<'p, [u8]>),
}

impl<'p> Walk<'p> {
    #[allow(clippy::should_implement_trait)] // fallible, as the tree's cursor
    pub fn next(&mut self) -> Result<Option<Found<'p>>, Miss> {
        loop {
            match self.next_of_any()? {
                Some(Seen::Live(found)) => return Ok(Some(found)),
                Some(Seen::Dead(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// One key further, live or not. After a miss the walk is where it was.
    pub(crate) fn next_of_any(&mut self) -> Result<Option<Seen<'p>>, Miss> {
        if self.ahead.is_none() {
            self.ahead = self.next_cell()?;
        }
        match self.next_pending() {
            Some(seen) => Ok(Some(seen)),
            None => self.next_seen(),
        }
    }

    /// One cell further, in a walk without a transaction. After a miss the walk is where it was.
    pub(crate) fn next_seen(&mut self) -> Result<Option<Seen<'p>>, Miss> {
        if self.ahead.is_none() {
            self.ahead = self.next_cell()?;
        }
        let Some((key, cell)) = self.ahead.take() else {
            return Ok(None);
        };
        let (head, _) = Head::decode(cell).expect(WELL_FORMED);
        let Some(revision) = self.revision.filter(|&revision| head.at.main > revision) else {
            return Ok(Some(match head.tombstone {
                true => Seen::Dead(key),
                false => Seen::Live(Found::of_head(key, &head)),
            }));
        };
        self.older += 1;
        match self.reader.version_at(&head, revision) {
            Ok(Some((at, row))) if !row.tombstone => {
                Ok(Some(Seen::Live(Found::of_row(key, at, &row))))
            }
            Ok(_) => Ok(Some(Seen::Dead(key))),
            Err(miss) => {
                self.ahead = Some((key, cell));
                Err(miss)
            }
        }
    }

    /// Number of cells so far that were newer than the revision, so that rows had to be read for them.
    pub(crate) fn older(&self) -> usize {
        self.older
    }

    fn next_cell(&mut self) -> Result<Option<Cell<'p>>, Miss> {
        match &mut self.stored {
            Stored::End => Ok(None),
            Stored::Many(cursor) => cursor.next(),
            Stored::One(key) => {
                let key: &'p [u8] = key;
                let cell = self.reader.trees.keys.get(self.reader.pages, key)?;
                self.stored = Stored::End;
                Ok(cell.map(|cell| (Cow::Borrowed(key), cell)))
            }
        }
    }

    /// The transaction's own change, if it comes next.
    fn next_pending(&mut self) -> Option<Seen<'p>> {
        let (batch, pending) = self.pending.as_mut()?;
        let (key, latest) = pending.peek()?;
        if let Some((stored, _)) = &self.ahead {
            match stored[..].cmp(&key[..]) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => self.ahead = None,
                std::cmp::Ordering::Greater => {}
            }
        }
        let seen = match Found::pending(batch, latest) {
            Some(found) => Seen::Live(found),
            None => Seen::Dead(Cow::Borrowed(&key[..])),
        };
        pending.next();
        Some(seen)
    }
}
