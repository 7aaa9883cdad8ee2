//! `key` and `range_end` as every request gives them.

use std::ops::Bound;

/// A set of neighbouring keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    One(&'a [u8]),
    /// `from <= key < to`; nothing where `to <= from`.
    Between(&'a [u8], &'a [u8]),
    /// Every key from here on.
    From(&'a [u8]),
}

/// How far a range is through that is gone through bit by bit.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The first key that can follow.
    next: Option<Vec<u8>>,
}

impl Progress {
    pub fn pass(&mut self, key: &[u8]) {
        let next = self.next.get_or_insert_default();
        next.clear();
        next.extend_from_slice(key);
        next.push(0);
    }

    /// What is left of a range; `None` of one key that is passed.
    pub fn rest<'a>(&'a self, key: &'a [u8], range_end: &'a [u8]) -> Option<KeyRange<'a>> {
        match &self.next {
            Some(_) if range_end.is_empty() => None,
            Some(next) => Some(KeyRange::new(next, range_end)),
            None => Some(KeyRange::new(key, range_end)),
        }
    }
}

impl<'a> KeyRange<'a> {
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> KeyRange<'a> {
        match range_end {
            [] => KeyRange::One(key),
            // Exactly one zero byte means infinity; longer ends of zero bytes are ordinary.
            [0] => KeyRange::From(key),
            end => KeyRange::Between(key, end),
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Between(from, to) if to <= from)
    }

    pub fn bounds(&self) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        match *self {
            KeyRange::One(key) => (Bound::Included(key), Bound::Included(key)),
            KeyRange::Between(from, to) => (Bound::Included(from), Bound::Excluded(to)),
            KeyRange::From(from) => (Bound::Included(from), Bound::Unbounded),
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            KeyRange::One(one) => key == one,
            KeyRange::Between(from, to) => from <= key && key < to,
            KeyRange::From(from) => from <= key,
        }
    }
}
