//! Inserting and replacing, and the splits that follow.

use super::{
    cell::{BranchCell, KeyPart, LeafCell, OverflowRef, Value},
    node::{Node, NodeMut, CAPACITY, SLOT_BYTES},
    Path, Tree, DEPTH_MAX,
};
use crate::page::{Absent, Kind, Miss, PageNo, Pages};

pub(super) fn set_child(pages: &mut Pages, branch: PageNo, at: usize, child: PageNo) {
    let mut node = NodeMut(pages.page_mut(branch));
    BranchCell::set_child(node.cell_mut(at), child);
}

pub(super) fn set_weight(pages: &mut Pages, branch: PageNo, at: usize, weight: u64) {
    let mut node = NodeMut(pages.page_mut(branch));
    BranchCell::set_weight(node.cell_mut(at), weight);
}

pub(super) fn add_weight(pages: &mut Pages, branch: PageNo, at: usize, delta: i64) {
    let mut node = NodeMut(pages.page_mut(branch));
    let cell = node.cell_mut(at);
    let weight = BranchCell(cell).weight().saturating_add_signed(delta);
    BranchCell::set_weight(cell, weight);
}

/// Where an entry goes, found without changing anything.
struct Site {
    path: Path,
    /// The old entry's weight and overflow value, if the key is there.
    replaced: Option<(u32, Option<OverflowRef>)>,
    has_room: bool,
}

/// A cell that is to stand before the one at `at`, or in its place.
#[derive(Clone, Copy)]
struct Change<'a> {
    at: usize,
    is_replacement: bool,
    cell: &'a [u8],
}

impl Tree {
    /// Inserts an entry or replaces the key's. `weight` is what it adds to [`Tree::count`]. Pages that no plan has brought
    /// in are loaded while it waits, and counted; an error means that one of them cannot be, and that nothing was changed.
    pub fn insert(
        &mut self,
        pages: &mut Pages,
        key: &[u8],
        value: &[u8],
        weight: u32,
    ) -> Result<(), Miss> {
        if self.root.is_none() {
            self.root = pages.create(Kind::Leaf, 0);
            NodeMut(pages.page_mut(self.root)).clear();
        }
        let mut site = loop {
            match self.site(pages, key, value.len(), weight) {
                Ok(site) => break site,
                Err(absent) => pages.load_now(absent)?,
            }
        };
        let (old_weight, old_value) = site.replaced.unwrap_or_default();
        let delta = i64::from(weight) - i64::from(old_weight);
        self.own_path(pages, &mut site.path, delta)?;

        let leaf = site.path.page(site.path.leaf());
        let at = site.path.at(site.path.leaf());
        let is_replacement = site.replaced.is_some();
        let mut cell = pages.take_scratch();
        if is_replacement {
            let part = pages.page(leaf)?;
            Node(part).key(at).append_to(&mut cell);
        } else {
            KeyPart::build(pages, key, &mut cell);
        }
        LeafCell::build(pages, value, weight, &mut cell);
        if let Some(overflow) = old_value {
            overflow.release(pages);
        }
        let change = Change {
            at,
            is_replacement,
            cell: &cell,
        };
        if site.has_room {
            change.apply(&mut NodeMut(pages.page_mut(leaf)));
        } else {
            self.split(pages, &site.path, change);
        }
        pages.return_scratch(cell);
        Ok(())
    }

    fn site(
        &self,
        pages: &Pages,
        key: &[u8],
        value_len: usize,
        weight: u32,
    ) -> Result<Site, Absent> {
        let Some((path, is_equal)) = self.path_to(pages, key)? else {
            return Err(Absent(self.root));
        };
        let at = path.at(path.leaf());
        let leaf = Node(pages.page(path.page(path.leaf()))?);
        let replaced = is_equal.then(|| {
            let cell = leaf.leaf(at);
            let overflow = match cell.value() {
                Value::Overflow(overflow) => Some(overflow),
                Value::Inline(_) => None,
            };
            (cell.weight(), overflow)
        });
        let bytes = LeafCell::bytes_for(key.len(), value_len, weight);
        let has_room = leaf.has_room(bytes, is_equal.then_some(at));
        if !has_room {
            if path.len == DEPTH_MAX {
                return Err(pages.reject(self.root, "has too many levels"));
            }
            // The new separator is made from whole keys.
            for at in 0..leaf.count() {
                if let Some(overflow) = leaf.key(at).overflow() {
                    overflow.read(pages)?;
                }
            }
        }
        Ok(Site {
            path,
            replaced,
            has_room,
        })
    }

    /// Splits the leaf at a path's end that has no room for a change, and whatever above it has no room for the separators.
    fn split(&mut self, pages: &mut Pages, path: &Path, change: Change<'_>) {
        let step = path.leaf();
        let mut is_edge = !change.is_replacement && self.is_right_edge(pages, path);
        let mut cell = split_leaf(pages, path.page(step), change, is_edge);
        for above in (0..step).rev() {
            let (branch, at) = (path.page(above), path.at(above));
            let weight = node(pages, path.page(above + 1)).weight();
            set_weight(pages, branch, at, weight);
            let change = Change {
                at: at + 1,
                is_replacement: false,
                cell: &cell,
            };
            if node(pages, branch).has_room(cell.len(), None) {
                change.apply(&mut NodeMut(pages.page_mut(branch)));
                return;
            }
            is_edge = is_edge && at + 1 == node(pages, branch).count();
            cell = split_branch(pages, branch, change, is_edge);
        }
        let left = path.page(0);
        let (level, weight) = (node(pages, left).level(), node(pages, left).weight());
        let root = pages.create(Kind::Branch, level + 1);
        let mut first = vec![0; 2];
        BranchCell::build(left, weight, &mut first);
        NodeMut(pages.page_mut(root)).fill([&first[..], &cell[..]]);
        self.root = root;
    }

    /// Whether a path ends behind the last entry of the tree.
    fn is_right_edge(&self, pages: &Pages, path: &Path) -> bool {
        let leaf = path.leaf();
        path.at(leaf) == node(pages, path.page(leaf)).count()
            && (0..leaf).all(|step| path.at(step) + 1 == node(pages, path.page(step)).count())
    }
}

/// A page of the active generation, which is always in memory.
pub(super) fn node(pages: &Pages, no: PageNo) -> Node<'_> {
    match pages.page(no) {
        Ok(page) => Node(page),
        Err(absent) => panic!("page {} of the active generation is gone", absent.0 .0),
    }
}

impl Change<'_> {
    fn apply(&self, node: &mut NodeMut<'_>) {
        if self.is_replacement {
            node.replace(self.at, self.cell);
        } else {
            node.insert(self.at, self.cell);
        }
    }

    /// The cells of a page with the change among them.
    fn merged<'c>(&'c self, node: Node<'c>) -> Vec<&'c [u8]> {
        let mut cells: Vec<&[u8]> = node.cells().collect();
        if self.is_replacement {
            cells[self.at] = self.cell;
        } else {
            cells.insert(self.at, self.cell);
        }
        cells
    }
}

/// How many cells stay left: about half the bytes, or at the tree's right edge all but the new one, so that sequential
/// inserts leave full pages behind.
fn split_at(cells: &[&[u8]], is_edge: bool) -> usize {
    if is_edge {
        return cells.len() - 1;
    }
    let size = |cell: &&[u8]| cell.len() + SLOT_BYTES;
    let total: usize = cells.iter().map(size).sum();
    let mut left = 0;
    let mut best = (usize::MAX, 1);
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 && left <= CAPACITY && total - left <= CAPACITY {
            best = best.min((left.abs_diff(total - left), at));
        }
        left += size(cell);
    }
    best.1
}

/// Splits a leaf; returns the branch cell for its new right neighbour.
fn split_leaf(pages: &mut Pages, no: PageNo, change: Change<'_>, is_edge: bool) -> Vec<u8> {
    let copy = *node(pages, no).0;
    let cells = change.merged(Node(&copy));
    let at = split_at(&cells, is_edge);
    let separator = separator(pages, LeafCell(cells[at - 1]), LeafCell(cells[at]));
    let right = pages.create(Kind::Leaf, 0);
    let mut cell = Vec::new();
    KeyPart::build(pages, &separator, &mut cell);
    NodeMut(pages.page_mut(no)).fill(cells[..at].iter().copied());
    NodeMut(pages.page_mut(right)).fill(cells[at..].iter().copied());
    let weight = node(pages, right).weight();
    BranchCell::build(right, weight, &mut cell);
    cell
}

/// Splits a branch; the separator between the halves moves into the cell that is returned for the right one.
fn split_branch(pages: &mut Pages, no: PageNo, change: Change<'_>, is_edge: bool) -> Vec<u8> {
    let copy = *node(pages, no).0;
    let cells = change.merged(Node(&copy));
    let at = split_at(&cells, is_edge);
    let level = Node(&copy).level();
    let right = pages.create(Kind::Branch, level);
    let first = BranchCell(cells[at]).as_first();
    let mut cell = Vec::new();
    KeyPart::of(cells[at]).append_to(&mut cell);
    NodeMut(pages.page_mut(no)).fill(cells[..at].iter().copied());
    let rest = cells[at + 1..].iter().copied();
    NodeMut(pages.page_mut(right)).fill(std::iter::once(&first[..]).chain(rest));
    let weight = node(pages, right).weight();
    BranchCell::build(right, weight, &mut cell);
    cell
}

/// The shortest key that is above `left` and not above `right`.
fn separator(pages: &Pages, left: LeafCell<'_>, right: LeafCell<'_>) -> Vec<u8> {
    let read = |cell: LeafCell<'_>| match cell.key().read(pages) {
        Ok(key) => key.into_owned(),
        // `site` has read all keys of this leaf, and nothing leaves memory within an operation.
        Err(absent) => panic!("the key at page {} is gone", absent.0 .0),
    };
    let (left, mut right) = (read(left), read(right));
    let shared = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    right.truncate(shared + 1);
    right
}
