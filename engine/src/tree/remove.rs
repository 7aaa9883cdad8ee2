//! Removing, and joining neighbours that have become thin.

use super::{
    cell::{BranchCell, KeyPart, OverflowRef, Value},
    insert::{node, set_child, set_weight},
    node::{Node, NodeMut, CAPACITY, SLOT_BYTES},
    node_at, Path, Tree,
};
use crate::page::{Absent, Miss, PageNo, Pages};
use crate::planted::{planted, Fault};

/// A page with less than this in it looks for a neighbour to join.
const THIN_BYTES: usize = CAPACITY / 4;
/// Pages join if they fill one to this much at most, which leaves room for the next inserts.
const JOINED_BYTES_MAX: usize = CAPACITY * 3 / 4;

struct Site {
    path: Path,
    weight: u32,
    overflows: [Option<OverflowRef>; 2],
}

impl Tree {
    /// Removes a key's entry; whether there was one. Loads what no plan has brought in, as [`Tree::insert`] does.
    pub fn remove(&mut self, pages: &mut Pages, key: &[u8]) -> Result<bool, Miss> {
        let site = loop {
            match self.removal(pages, key) {
                Ok(site) => break site,
                Err(absent) => pages.load_now(absent)?,
            }
        };
        let Some(mut site) = site else {
            return Ok(false);
        };
        self.own_path(pages, &mut site.path, -i64::from(site.weight))?;
        let leaf = site.path.leaf();
        let at = site.path.at(leaf);
        let is_large = site.overflows.iter().any(Option::is_some);
        if !(is_large && planted(Fault::RemoveForgets)) {
            NodeMut(pages.page_mut(site.path.page(leaf))).remove(at);
        }
        for overflow in site.overflows.into_iter().flatten() {
            overflow.release(pages);
        }
        self.rebalance(pages, &site.path);
        Ok(true)
    }

    /// Where the entry is; all pages that the removal will want are resident then.
    fn removal(&self, pages: &Pages, key: &[u8]) -> Result<Option<Site>, Absent> {
        let Some((path, true)) = self.path_to(pages, key)? else {
            return Ok(None);
        };
        let leaf = Node(pages.page(path.page(path.leaf()))?);
        let cell = leaf.leaf(path.at(path.leaf()));
        let value = match cell.value() {
            Value::Overflow(overflow) => Some(overflow),
            Value::Inline(_) => None,
        };
        for neighbour in neighbours(pages, &path)?.into_iter().flatten() {
            pages.require(neighbour)?;
        }
        Ok(Some(Site {
            path,
            weight: cell.weight(),
            overflows: [cell.key().overflow(), value],
        }))
    }

    /// Joins or drops the pages of a path from the leaf up, as far as they have become thin.
    fn rebalance(&mut self, pages: &mut Pages, path: &Path) {
        for step in (1..path.len).rev() {
            let (no, parent, at) = (path.page(step), path.page(step - 1), path.at(step - 1));
            let page = node(pages, no);
            if page.count() == 0 {
                pages.release(no, 1);
                drop_child(pages, parent, at);
                continue;
            }
            if page.used() >= THIN_BYTES || !join(pages, parent, at) {
                break;
            }
        }
        self.lower_root(pages);
    }

    /// Drops a root that has become empty or has a single child.
    fn lower_root(&mut self, pages: &mut Pages) {
        while let Ok(page) = pages.page(self.root) {
            let root = Node(page);
            let below = match (root.count(), root.is_leaf()) {
                (0, _) => PageNo::NONE,
                (1, false) => root.branch(0).child(),
                _ => return,
            };
            pages.release(self.root, 1);
            self.root = below;
            if below.is_none() {
                return;
            }
        }
    }
}

/// The neighbour that each page of a path may want to join once an entry is removed from its leaf, from the leaf up.
pub(super) fn neighbours(
    pages: &Pages,
    path: &Path,
) -> Result<[Option<PageNo>; super::DEPTH_MAX], Absent> {
    let mut wanted = [None; super::DEPTH_MAX];
    for step in (1..path.len).rev() {
        let page = Node(pages.page(path.page(step))?);
        // A leaf loses the cell, a branch the cell of a child that went away.
        let lost = page.cell(path.at(step)).len() + SLOT_BYTES;
        if page.used() - lost >= THIN_BYTES {
            break;
        }
        if page.count() > 1 {
            let parent = Node(pages.page(path.page(step - 1))?);
            let at = path.at(step - 1);
            let neighbour = if at > 0 { at - 1 } else { at + 1 };
            if neighbour < parent.count() {
                wanted[step] = Some(parent.branch(neighbour).child());
            }
        }
    }
    Ok(wanted)
}

fn release_key(pages: &mut Pages, branch: PageNo, at: usize) {
    if let Some(overflow) = node(pages, branch).key(at).overflow() {
        overflow.release(pages);
    }
}

/// Takes the cell of an empty child out of its parent.
fn drop_child(pages: &mut Pages, parent: PageNo, at: usize) {
    release_key(pages, parent, at);
    NodeMut(pages.page_mut(parent)).remove(at);
    if at == 0 && node(pages, parent).count() > 0 {
        release_key(pages, parent, 0);
        NodeMut(pages.page_mut(parent)).blank_first();
    }
}

/// Joins the child at `at` with a neighbour, if that is in memory and they fit together.
fn join(pages: &mut Pages, parent: PageNo, at: usize) -> bool {
    let above = node(pages, parent);
    let left_at = at.saturating_sub(1);
    let right_at = left_at + 1;
    if right_at >= above.count() {
        return false;
    }
    let (left_no, right_no) = (
        above.branch(left_at).child(),
        above.branch(right_at).child(),
    );
    let level = above.level() - 1;
    let (Ok(left), Ok(right)) = (
        node_at(pages, left_no, level),
        node_at(pages, right_no, level),
    ) else {
        return false;
    };
    let separator = above.key(right_at);
    let pulled = if level > 0 { separator.len() } else { 0 };
    if left.used() + right.used() + pulled > JOINED_BYTES_MAX {
        return false;
    }
    let (left_copy, right_copy) = (*left.0, *right.0);
    let (left, right) = (Node(&left_copy), Node(&right_copy));
    let weight = above
        .branch(left_at)
        .weight()
        .saturating_add(above.branch(right_at).weight());
    let mut first = Vec::new();
    if level > 0 {
        // What the right one's first cell stands for is bounded by the separator that now moves down to it.
        KeyPart::of(separator.0).append_to(&mut first);
        let cell = right.branch(0);
        BranchCell::build(cell.child(), cell.weight(), &mut first);
    }
    let Ok(joined) = pages.own(left_no) else {
        return false;
    };
    set_child(pages, parent, left_at, joined);
    set_weight(pages, parent, left_at, weight);
    let cells = left.cells();
    if level > 0 {
        let rest = right.cells().skip(1);
        let cells = cells.chain(std::iter::once(&first[..])).chain(rest);
        NodeMut(pages.page_mut(joined)).fill(cells);
    } else {
        NodeMut(pages.page_mut(joined)).fill(cells.chain(right.cells()));
        release_key(pages, parent, right_at);
    }
    pages.release(right_no, 1);
    NodeMut(pages.page_mut(parent)).remove(right_at);
    true
}
