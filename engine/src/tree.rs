//! Stand-in for the B+tree with its final signatures (the final one replaces this file).

use crate::page::{Miss, Pages};
use std::{borrow::Cow, ops::Bound};

#[derive(Clone, Copy, Debug, Default)]
pub struct Tree {
    slot: usize, // 0: empty, else index + 1
}

pub struct Cursor<'p> {
    inner: Box<dyn Iterator<Item = (&'p Vec<u8>, &'p (Vec<u8>, u32))> + 'p>,
}

impl<'p> Cursor<'p> {
    #[allow(clippy::should_implement_trait, clippy::type_complexity)]
    pub fn next(&mut self) -> Result<Option<(Cow<'p, [u8]>, &'p [u8])>, Miss> {
        Ok(self
            .inner
            .next()
            .map(|(k, (v, _))| (Cow::Borrowed(&k[..]), &v[..])))
    }
}

fn empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
            a >= b
        }
        _ => false,
    }
}

impl Tree {
    pub fn new() -> Tree {
        Tree::default()
    }
    pub fn get<'p>(&self, pages: &'p Pages, key: &[u8]) -> Result<Option<&'p [u8]>, Miss> {
        Ok(self
            .slot
            .checked_sub(1)
            .and_then(|s| pages.trees[s].get(key))
            .map(|(v, _)| &v[..]))
    }
    pub fn insert(
        &mut self,
        pages: &mut Pages,
        key: &[u8],
        value: &[u8],
        weight: u32,
    ) -> Result<(), Miss> {
        if self.slot == 0 {
            pages.trees.push(Default::default());
            self.slot = pages.trees.len();
        }
        pages.trees[self.slot - 1].insert(key.to_vec(), (value.to_vec(), weight));
        Ok(())
    }
    pub fn remove(&mut self, pages: &mut Pages, key: &[u8]) -> Result<bool, Miss> {
        Ok(self.slot != 0 && pages.trees[self.slot - 1].remove(key).is_some())
    }
    pub fn plan_insert(&self, _pages: &Pages, _key: &[u8], _missing: &mut Miss) {}
    pub fn plan_remove(&self, _pages: &Pages, _key: &[u8], _missing: &mut Miss) {}
    pub fn count(&self, pages: &Pages, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<u64, Miss> {
        if self.slot == 0 || empty(from, to) {
            return Ok(0);
        }
        Ok(pages.trees[self.slot - 1]
            .range::<[u8], _>((from, to))
            .map(|(_, (_, w))| u64::from(*w))
            .sum())
    }
    pub fn range<'p>(&self, pages: &'p Pages, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Cursor<'p> {
        if self.slot == 0 || empty(from, to) {
            return Cursor {
                inner: Box::new(std::iter::empty()),
            };
        }
        Cursor {
            inner: Box::new(pages.trees[self.slot - 1].range::<[u8], _>((from, to))),
        }
    }
    pub fn range_rev<'p>(
        &self,
        pages: &'p Pages,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Cursor<'p> {
        if self.slot == 0 || empty(from, to) {
            return Cursor {
                inner: Box::new(std::iter::empty()),
            };
        }
        Cursor {
            inner: Box::new(
                pages.trees[self.slot - 1]
                    .range::<[u8], _>((from, to))
                    .rev(),
            ),
        }
    }
}
