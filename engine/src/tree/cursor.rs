//! Walking a range in either direction.

use super::{any_node_at, cell::Value, child_at, node::Node, Tree, DEPTH_MAX};
use crate::page::{Absent, Miss, Page, Pages, PAGE_BYTES};
use std::{borrow::Cow, cmp::Ordering, ops::Bound};

/// On a miss of a leaf or a value so many of the following ones are asked for with it.
const READ_AHEAD: usize = 16;

static NO_PAGE: Page = [0; PAGE_BYTES];

/// A walk over a range. Seeks at its first step, so that making one cannot miss.
pub struct Cursor<'p> {
    pages: &'p Pages,
    tree: Tree,
    is_forward: bool,
    /// Where it begins and ends, in its own direction.
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    state: State,
    /// Pages from the root to the leaf; in branches the child taken, in the leaf the next cell. Backwards that is one more
    /// than the cell, so that 0 means "past the first".
    steps: [(&'p Page, usize); DEPTH_MAX],
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unplaced,
    Placed,
    Ended,
}

impl Tree {
    /// Entries in ascending order.
    pub fn range<'p>(&self, pages: &'p Pages, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Cursor<'p> {
        Cursor::new(pages, *self, true, from, to)
    }

    /// Entries of the same range in descending order.
    pub fn range_rev<'p>(
        &self,
        pages: &'p Pages,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Cursor<'p> {
        Cursor::new(pages, *self, false, to, from)
    }
}

impl<'p> Cursor<'p> {
    fn new(
        pages: &'p Pages,
        tree: Tree,
        is_forward: bool,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Cursor<'p> {
        let state = if tree.root.is_none() {
            State::Ended
        } else {
            State::Unplaced
        };
        Cursor {
            pages,
            tree,
            is_forward,
            start: start.map(<[u8]>::to_vec),
            end: end.map(<[u8]>::to_vec),
            state,
            steps: [(&NO_PAGE, 0); DEPTH_MAX],
            depth: 0,
        }
    }

    /// The next entry. On a miss the cursor stays where it is.
    #[allow(clippy::should_implement_trait, clippy::type_complexity)]
    pub fn next(&mut self) -> Result<Option<(Cow<'p, [u8]>, &'p [u8])>, Miss> {
        if self.state == State::Unplaced {
            self.place()?;
            self.state = State::Placed;
        }
        if self.state == State::Ended || !self.reach_cell()? {
            self.state = State::Ended;
            return Ok(None);
        }
        let (page, next) = self.steps[self.depth];
        let at = if self.is_forward { next } else { next - 1 };
        let cell = Node(page).leaf(at);
        let key = cell.key().read(self.pages)?;
        if self.is_past_end(&key) {
            self.state = State::Ended;
            return Ok(None);
        }
        let value = cell
            .value()
            .read(self.pages)
            .map_err(|absent| self.values_ahead(absent, at))?;
        self.steps[self.depth].1 = if self.is_forward { at + 1 } else { at };
        Ok(Some((key, value)))
    }

    fn is_past_end(&self, key: &[u8]) -> bool {
        let (end, is_included) = match &self.end {
            Bound::Unbounded => return false,
            Bound::Included(end) => (end, true),
            Bound::Excluded(end) => (end, false),
        };
        match key.cmp(&end[..]) {
            Ordering::Equal => !is_included,
            order => (order == Ordering::Greater) == self.is_forward,
        }
    }

    /// Descends to the start of the range.
    fn place(&mut self) -> Result<(), Absent> {
        let root = any_node_at(self.pages, self.tree.root)?;
        let (key, is_included) = match &self.start {
            Bound::Unbounded => return self.descend_to_edge(0, root),
            Bound::Included(key) => (key, true),
            Bound::Excluded(key) => (key, false),
        };
        let (mut node, mut depth) = (root, 0);
        while !node.is_leaf() {
            let at = node.child_of(self.pages, key)?;
            self.steps[depth] = (node.0, at);
            depth += 1;
            node = child_at(self.pages, node, at)?.1;
        }
        let (at, is_equal) = node.locate(self.pages, key)?;
        // Forwards the key itself is skipped if it does not belong to the range; backwards it is taken if it does.
        let takes_one = is_equal && (is_included != self.is_forward);
        self.steps[depth] = (node.0, if takes_one { at + 1 } else { at });
        self.depth = depth;
        Ok(())
    }

    /// Descends from a page to its first leaf, or its last one.
    fn descend_to_edge(&mut self, mut depth: usize, mut node: Node<'p>) -> Result<(), Absent> {
        while !node.is_leaf() {
            let at = match self.is_forward {
                true => 0,
                false => node.count().saturating_sub(1),
            };
            self.steps[depth] = (node.0, at);
            depth += 1;
            node = child_at(self.pages, node, at)?.1;
        }
        let next = if self.is_forward { 0 } else { node.count() };
        self.steps[depth] = (node.0, next);
        self.depth = depth;
        Ok(())
    }

    /// Moves on to the next leaf until there is a cell; whether there is one.
    fn reach_cell(&mut self) -> Result<bool, Miss> {
        loop {
            let (page, next) = self.steps[self.depth];
            let is_there = if self.is_forward {
                next < Node(page).count()
            } else {
                next > 0
            };
            if is_there {
                return Ok(true);
            }
            if !self.next_leaf()? {
                return Ok(false);
            }
        }
    }

    fn next_leaf(&mut self) -> Result<bool, Miss> {
        let before = (self.steps, self.depth);
        for depth in (0..self.depth).rev() {
            let (page, at) = self.steps[depth];
            let branch = Node(page);
            let next = match self.is_forward {
                true if at + 1 < branch.count() => at + 1,
                false if at > 0 => at - 1,
                _ => continue,
            };
            self.steps[depth].1 = next;
            let moved = match child_at(self.pages, branch, next) {
                Ok((_, child)) => self.descend_to_edge(depth + 1, child),
                Err(absent) => Err(absent),
            };
            return match moved {
                Ok(()) => Ok(true),
                Err(absent) => {
                    (self.steps, self.depth) = before;
                    Err(self.children_ahead(absent, branch, next))
                }
            };
        }
        Ok(false)
    }

    fn ahead(&self, at: usize, count: usize) -> impl Iterator<Item = usize> {
        let (is_forward, steps) = (self.is_forward, READ_AHEAD);
        (1..=steps).filter_map(move |step| match is_forward {
            true => Some(at + step).filter(|at| *at < count),
            false => at.checked_sub(step),
        })
    }

    /// A miss of a child, with the siblings that the walk comes to next.
    fn children_ahead(&self, absent: Absent, branch: Node<'_>, at: usize) -> Miss {
        let mut miss = Miss::from(absent);
        for next in self.ahead(at, branch.count()) {
            let child = branch.branch(next).child();
            if self.pages.require(child).is_err() {
                miss.add(child);
            }
        }
        miss
    }

    /// A miss of a value, with the overflow values that follow it in the leaf.
    fn values_ahead(&self, absent: Absent, at: usize) -> Miss {
        let mut miss = Miss::from(absent);
        let leaf = Node(self.steps[self.depth].0);
        for next in self.ahead(at, leaf.count()) {
            if let Value::Overflow(overflow) = leaf.leaf(next).value() {
                if self.pages.require(overflow.page).is_err() {
                    miss.add(overflow.page);
                }
            }
        }
        miss
    }
}
