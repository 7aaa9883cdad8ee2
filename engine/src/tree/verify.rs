//! The invariant checker: every page is in exactly one place, and every tree is in order.

use super::{any_node_at, cell::OverflowRef, cell::Value, child_at, node::Node, Tree};
use crate::page::{Absent, Miss, PageNo, Pages, META_PAGES};
use std::{borrow::Cow, collections::BTreeMap};

/// What a sound file has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub entries: u64,
    pub weight: u64,
    pub tree_pages: u64,
    pub overflow_pages: u64,
    pub free_pages: u64,
    pub retired_pages: u64,
}

/// Why a file is not sound, or could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Not resident: to be fetched, then verified again. As many as can be known, so that a few rounds are enough.
    Missing(Miss),
    Broken(String),
}

struct Walk<'p> {
    pages: &'p Pages,
    owner: BTreeMap<u32, &'static str>,
    verified: Verified,
    last: Option<Vec<u8>>,
    missing: Miss,
}

/// Walks all trees of a file, its free space and its own pages, and checks that together they are all of it, once each.
pub fn verify(pages: &Pages, trees: &[Tree]) -> Result<Verified, Damage> {
    let mut walk = Walk {
        pages,
        owner: BTreeMap::new(),
        verified: Verified::default(),
        last: None,
        missing: Miss::default(),
    };
    for tree in trees {
        walk.last = None;
        if !tree.root.is_none() {
            walk.claim(tree.root, 1, "tree")?;
            if let Some(root) = walk.present(any_node_at(pages, tree.root)) {
                walk.subtree(root, None, None)?;
            }
        }
    }
    if !walk.missing.is_empty() {
        return Err(Damage::Missing(walk.missing));
    }
    walk.space()?;
    Ok(walk.verified)
}

fn broken<T>(what: String) -> Result<T, Damage> {
    Err(Damage::Broken(what))
}

impl<'p> Walk<'p> {
    /// Notes what is absent.
    fn present<T>(&mut self, found: Result<T, Absent>) -> Option<T> {
        match found {
            Ok(there) => Some(there),
            Err(Absent(no)) => {
                self.missing.pages.push(no);
                None
            }
        }
    }

    fn claim(&mut self, start: PageNo, count: u32, owner: &'static str) -> Result<(), Damage> {
        for no in start.0..start.0.saturating_add(count) {
            if no < META_PAGES || no >= self.pages.space.high() {
                return broken(format!("{owner} has page {no}, outside of the file"));
            }
            if let Some(other) = self.owner.insert(no, owner) {
                return broken(format!("page {no} belongs to {owner} and to {other}"));
            }
        }
        match owner {
            "tree" => self.verified.tree_pages += u64::from(count),
            "overflow" => self.verified.overflow_pages += u64::from(count),
            "retired" => self.verified.retired_pages += u64::from(count),
            _ => {}
        }
        Ok(())
    }

    fn overflow(&mut self, overflow: Option<OverflowRef>) -> Result<(), Damage> {
        let Some(overflow) = overflow else {
            return Ok(());
        };
        let read = overflow.read(self.pages);
        self.present(read);
        self.claim(overflow.page, overflow.pages(), "overflow")
    }

    /// Checks what lies below a page, between two separators; returns its weight.
    fn subtree(
        &mut self,
        node: Node<'p>,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
    ) -> Result<u64, Damage> {
        if node.is_leaf() {
            return self.leaf(node, low, high);
        }
        let mut sum = 0;
        let mut bound = low.map(<[u8]>::to_vec);
        for at in 0..node.count() {
            let cell = node.branch(at);
            if at > 0 {
                self.overflow(cell.key().overflow())?;
                let Some(separator) = self.present(cell.key().read(self.pages)) else {
                    return Ok(0);
                };
                let separator = separator.into_owned();
                if bound.as_ref().is_some_and(|b| *b >= separator) {
                    return broken(format!(
                        "separators out of order above page {:?}",
                        cell.child()
                    ));
                }
                bound = Some(separator);
            }
            let next = match at + 1 < node.count() {
                true => self.present(node.key(at + 1).read(self.pages)),
                false => high.map(Cow::Borrowed),
            };
            let next = next.map(Cow::into_owned);
            let Some((no, child)) = self.present(child_at(self.pages, node, at)) else {
                continue;
            };
            self.claim(no, 1, "tree")?;
            let weight = self.subtree(child, bound.as_deref(), next.as_deref())?;
            if weight != cell.weight() && self.missing.is_empty() {
                let stated = cell.weight();
                return broken(format!(
                    "page {} weighs {weight}, its parent says {stated}",
                    no.0
                ));
            }
            sum += weight;
        }
        Ok(sum)
    }

    fn leaf(
        &mut self,
        node: Node<'p>,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
    ) -> Result<u64, Damage> {
        if node.count() == 0 {
            return broken("an empty leaf".to_owned());
        }
        for at in 0..node.count() {
            let cell = node.leaf(at);
            self.overflow(cell.key().overflow())?;
            if let Value::Overflow(overflow) = cell.value() {
                self.overflow(Some(overflow))?;
            }
            let Some(key) = self.present(cell.key().read(self.pages)) else {
                continue;
            };
            let key = key.into_owned();
            let is_outside =
                low.is_some_and(|l| key[..] < *l) || high.is_some_and(|h| key[..] >= *h);
            if is_outside || self.last.as_ref().is_some_and(|l| *l >= key) {
                return broken(format!("key {key:?} is out of order"));
            }
            self.last = Some(key);
            self.verified.entries += 1;
            self.verified.weight += u64::from(cell.weight());
        }
        Ok(node.weight())
    }

    fn space(&mut self) -> Result<(), Damage> {
        let space = &self.pages.space;
        if space.anomalies > 0 {
            return broken(format!("{} pages were given up twice", space.anomalies));
        }
        for extent in space.retired_extents() {
            self.claim(extent.start, extent.pages, "retired")?;
        }
        let index = self.pages.index_extent();
        self.claim(index.start, index.pages, "index")?;
        for no in META_PAGES..space.high() {
            match (space.is_free(no), self.owner.get(&no)) {
                (true, Some(owner)) => return broken(format!("free page {no} belongs to {owner}")),
                (false, None) => return broken(format!("page {no} belongs to nothing")),
                (true, None) => self.verified.free_pages += 1,
                (false, Some(_)) => {}
            }
        }
        Ok(())
    }
}
