//! The keys that a sorted range delivers, gathered and put in order step by step.
//!
//! A heap with the last of them on top: with a limit, who comes after it falls out. When everything was seen, the top is taken
//! off and put behind the rest again and again (heapsort), until the records lie in their order.

use super::{Store, BATCH_BYTES_MAX};
use crate::error::RequestError;
use crate::mvcc::read::Found;
use crate::mvcc::selection::Rank;
use crate::mvcc::Revision;
use crate::page::Miss;
use std::cmp::Ordering;

/// What the records of one range take at most, their values included where it is sorted by value. Some 5 million keys, of
/// those that its limit lets through. More is refused as too large a request; a limit or a smaller range helps.
const RECORDS_BYTES_MAX: usize = 256 << 20;

/// Comparisons that take as long as looking at one cell of the index.
const COMPARISONS_PER_CELL: usize = 4;
/// Bytes of two values that take as long to compare as two numbers.
const BYTES_PER_COMPARISON: usize = 64;

#[derive(Clone, Debug)]
struct Record {
    rank: Rank<Box<[u8]>>,
    /// Place among the keys: ties stay in key order.
    ordinal: u64,
    at: Revision,
    /// Length in the answer.
    field_len: u64,
}

impl Record {
    fn rank(&self) -> Rank<&[u8]> {
        self.rank.map(|value| &value[..])
    }

    fn bytes(&self) -> usize {
        size_of::<Record>() + value_bytes(self.rank())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Sorted {
    descending: bool,
    limit: usize,
    bytes_max: usize,
    records: Vec<Record>,
    /// How many of them are a heap; those behind it are in order already.
    heap: usize,
    bytes: usize,
    field_bytes: u64,
    next_ordinal: u64,
    /// Comparisons made.
    work: usize,
}

fn value_bytes(rank: Rank<&[u8]>) -> usize {
    match rank {
        Rank::Number(_) => 0,
        Rank::Value(value) => value.len(),
    }
}

impl Sorted {
    pub fn new(descending: bool, limit: usize) -> Sorted {
        Sorted {
            descending,
            limit,
            bytes_max: RECORDS_BYTES_MAX,
            records: Vec::new(),
            heap: 0,
            bytes: 0,
            field_bytes: 0,
            next_ordinal: 0,
            work: 0,
        }
    }

    /// Length of the records in the answer.
    pub fn field_bytes(&self) -> u64 {
        self.field_bytes
    }

    /// Takes the next key, in key order.
    pub fn push(
        &mut self,
        rank: Rank<&[u8]>,
        at: Revision,
        field_len: u64,
    ) -> Result<(), RequestError> {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        if self.heap == self.limit {
            // Of equal ones the later key comes last.
            if self.order(rank, self.records[0].rank()).is_ge() {
                return Ok(());
            }
            self.settle_last();
            if let Some(last) = self.records.pop() {
                self.bytes -= last.bytes();
                self.field_bytes -= last.field_len;
            }
        }
        let rank = rank.map(|&value| value.into());
        self.records.push(Record {
            rank,
            ordinal,
            at,
            field_len,
        });
        self.bytes += self.records[self.heap].bytes();
        self.field_bytes += field_len;
        self.rise(self.heap);
        self.heap += 1;
        match self.bytes > self.bytes_max {
            true => Err(RequestError::RequestTooLarge),
            false => Ok(()),
        }
    }

    /// Puts some of the gathered keys in order, for as long as it takes to look at `budget` cells; true when all are.
    pub fn sort(&mut self, budget: usize) -> bool {
        self.work = 0;
        while self.heap > 1 && self.work < budget.max(1) * COMPARISONS_PER_CELL {
            self.settle_last();
        }
        self.heap <= 1
    }

    /// The rows of the next keys from `first` on, once they are sorted: at most `keys_max`, at least one.
    pub fn batch<'s>(
        &self,
        store: &'s Store,
        first: usize,
        keys_max: usize,
    ) -> Result<Vec<Found<'s>>, Miss> {
        let mut bytes = 0;
        let places: Vec<Revision> = self.records[first..]
            .iter()
            .take(keys_max)
            .take_while(|record| {
                let more = bytes < BATCH_BYTES_MAX;
                bytes += record.field_len;
                more
            })
            .map(|record| record.at)
            .collect();
        store.reader().versions(&places)
    }

    fn order(&self, a: Rank<&[u8]>, b: Rank<&[u8]>) -> Ordering {
        match self.descending {
            true => b.cmp(&a),
            false => a.cmp(&b),
        }
    }

    fn comes_later(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.records[a], &self.records[b]);
        let (rank_a, rank_b) = (a.rank(), b.rank());
        let bytes = value_bytes(rank_a).min(value_bytes(rank_b));
        self.work += 1 + bytes / BYTES_PER_COMPARISON;
        let order = self.order(rank_a, rank_b);
        order.then(a.ordinal.cmp(&b.ordinal)).is_gt()
    }

    /// Takes the last one out of the heap and puts it behind.
    fn settle_last(&mut self) {
        self.heap -= 1;
        self.records.swap(0, self.heap);
        // Down to a leaf without asking whether it has to, and up again: it came from a leaf.
        let mut at = 0;
        while 2 * at + 1 < self.heap {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let right_is_later = right < self.heap && self.comes_later(right, left);
            let child = if right_is_later { right } else { left };
            self.records.swap(at, child);
            at = child;
        }
        self.rise(at);
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.comes_later(at, parent) {
                break;
            }
            self.records.swap(at, parent);
            at = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(sorted: &Sorted) -> Vec<(i64, i64)> {
        let number = |record: &Record| match record.rank {
            Rank::Number(number) => number,
            Rank::Value(_) => unreachable!(),
        };
        let records = sorted.records.iter();
        records
            .map(|record| (number(record), record.at.main))
            .collect()
    }

    /// Against a stable sort, with ties, for every limit, a comparison at a time.
    #[test]
    fn it_is_a_stable_sort() {
        let mut random = 1u64;
        for len in 0..60i64 {
            let keys: Vec<(i64, i64)> = (0..len)
                .map(|at| {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(7);
                    ((random >> 40) as i64 % 9, at)
                })
                .collect();
            for limit in 1..len as usize + 2 {
                for descending in [false, true] {
                    let mut sorted = Sorted::new(descending, limit);
                    for &(rank, at) in &keys {
                        let at = Revision::new(at, 0);
                        sorted.push(Rank::Number(rank), at, at.main as u64).unwrap();
                    }
                    while !sorted.sort(1) {}
                    let mut expected = keys.clone();
                    match descending {
                        true => expected.sort_by(|a, b| b.0.cmp(&a.0)),
                        false => expected.sort_by(|a, b| a.0.cmp(&b.0)),
                    }
                    expected.truncate(limit);
                    assert_eq!(records(&sorted), expected);
                    let bytes = expected.iter().map(|(_, at)| *at as u64).sum::<u64>();
                    assert_eq!(sorted.field_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn what_it_keeps_is_bounded() {
        assert_eq!(size_of::<Record>(), 48, "README names it");
        let value = [7; 1000];
        let mut all = Sorted::new(false, usize::MAX);
        all.bytes_max = 10_000;
        let mut few = Sorted::new(true, 5);
        few.bytes_max = 10_000;
        let mut push = |sorted: &mut Sorted, n: i64| {
            let value = &value[..1000 - n as usize % 2];
            sorted.push(Rank::Value(value), Revision::new(n, 0), 1)
        };
        for n in 0..9 {
            assert_eq!(push(&mut all, n), Ok(()));
        }
        assert_eq!(push(&mut all, 9), Err(RequestError::RequestTooLarge));
        for n in 0..1000 {
            assert_eq!(push(&mut few, n), Ok(()));
        }
        assert!(few.bytes < 6_000);
    }
}
