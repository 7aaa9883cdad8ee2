//! The B+tree on the page space.
//!
//! A [`Tree`] is a root page number, a plain value that its owner keeps and hands to a checkpoint. Leaves hold keys and
//! values; branches hold separators, children, and the weight of what lies below each child, so that counting a range costs
//! two descents. Reading never allocates and never waits: a page that is not in memory ends the step as a [`Miss`].
//!
//! Writing changes the pages of the active generation and copies others on the way down, so the root, and the page numbers
//! on the path, change with the first write after a checkpoint began. A copy of a `Tree` taken before that is worthless.
//!
//! What comes from the device is checked before it is used: bytes by checksum, a page's structure by [`check_shape`], a
//! child against its parent on each descent. A contradiction ends as a miss whose fetch says what is wrong.

mod cell;
mod count;
mod cursor;
mod defragment;
pub mod fuzzing;
mod insert;
mod moving;
mod node;
mod plan;
mod relocate;
mod remove;
mod verify;

pub use cursor::Cursor;
pub use defragment::Defragment;
pub use relocate::Relocator;
pub use verify::{verify, Damage, Verified};

pub(crate) use node::check_shape;

use crate::page::{Absent, Header, Kind, Miss, PageNo, Pages};
use node::Node;
use std::{borrow::Cow, ops::Bound};

/// Levels of a tree at most. A branch holds seven cells or more, so 2^32 pages make 13 levels.
const DEPTH_MAX: usize = 24;

/// A tree: the number of its root page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub(crate) root: PageNo,
}

/// The pages from the root to a leaf, with the cell taken in each.
#[derive(Clone, Copy)]
struct Path {
    steps: [(PageNo, u16); DEPTH_MAX],
    len: usize,
}

impl Path {
    fn new() -> Path {
        Path {
            steps: [(PageNo::NONE, 0); DEPTH_MAX],
            len: 0,
        }
    }

    fn push(&mut self, page: PageNo, at: usize) {
        self.steps[self.len] = (page, at as u16);
        self.len += 1;
    }

    fn page(&self, step: usize) -> PageNo {
        self.steps[step].0
    }

    fn at(&self, step: usize) -> usize {
        usize::from(self.steps[step].1)
    }

    /// The step of the leaf.
    fn leaf(&self) -> usize {
        self.len - 1
    }
}

/// A tree page that must be of this level.
#[inline]
fn node_at(pages: &Pages, no: PageNo, level: u8) -> Result<Node<'_>, Absent> {
    let node = any_node_at(pages, no)?;
    if node.level() != level {
        return Err(pages.reject(no, "is of another level than its parent expects"));
    }
    Ok(node)
}

#[inline]
fn any_node_at(pages: &Pages, no: PageNo) -> Result<Node<'_>, Absent> {
    let page = pages.page(no)?;
    let node = Node(page);
    let kind = if node.level() == 0 {
        Kind::Leaf
    } else {
        Kind::Branch
    };
    if Header::of_bytes(page).kind() != Some(kind) || usize::from(node.level()) >= DEPTH_MAX {
        return Err(pages.reject(no, "is not a tree page"));
    }
    Ok(node)
}

/// A child of a branch.
#[inline]
fn child_at<'p>(pages: &'p Pages, node: Node<'p>, at: usize) -> Result<(PageNo, Node<'p>), Absent> {
    let no = node.branch(at).child();
    Ok((no, node_at(pages, no, node.level().wrapping_sub(1))?))
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// The number of the root page, 0 if the tree is empty: for tools that dump a file.
    pub fn root_page(&self) -> u32 {
        self.root.0
    }

    pub(crate) fn at(root: PageNo) -> Tree {
        Tree { root }
    }

    /// The leaf that a key belongs to.
    #[inline]
    fn leaf_of<'p>(&self, pages: &'p Pages, key: &[u8]) -> Result<Option<Node<'p>>, Absent> {
        if self.root.is_none() {
            return Ok(None);
        }
        let mut node = any_node_at(pages, self.root)?;
        while !node.is_leaf() {
            node = child_at(pages, node, node.child_of(pages, key)?)?.1;
        }
        Ok(Some(node))
    }

    /// The path to the leaf that a key belongs to, with the cell there; whether that is the key's. None if the tree is empty.
    fn path_to(&self, pages: &Pages, key: &[u8]) -> Result<Option<(Path, bool)>, Absent> {
        if self.root.is_none() {
            return Ok(None);
        }
        let mut path = Path::new();
        let mut no = self.root;
        let mut node = any_node_at(pages, no)?;
        while !node.is_leaf() {
            let at = node.child_of(pages, key)?;
            path.push(no, at);
            (no, node) = child_at(pages, node, at)?;
        }
        let (at, is_equal) = node.locate(pages, key)?;
        path.push(no, at);
        Ok(Some((path, is_equal)))
    }

    /// The value of a key.
    pub fn get<'p>(&self, pages: &'p Pages, key: &[u8]) -> Result<Option<&'p [u8]>, Miss> {
        Ok(self.look_up(pages, key)?)
    }

    #[inline]
    fn look_up<'p>(&self, pages: &'p Pages, key: &[u8]) -> Result<Option<&'p [u8]>, Absent> {
        let Some(leaf) = self.leaf_of(pages, key)? else {
            return Ok(None);
        };
        let (at, is_equal) = leaf.locate(pages, key)?;
        if !is_equal {
            return Ok(None);
        }
        leaf.leaf(at).value().read(pages).map(Some)
    }

    /// The entry with the lowest key.
    #[allow(clippy::type_complexity)]
    pub fn first<'p>(&self, pages: &'p Pages) -> Result<Option<(Cow<'p, [u8]>, &'p [u8])>, Miss> {
        self.range(pages, Bound::Unbounded, Bound::Unbounded).next()
    }

    /// The entry with the highest key.
    #[allow(clippy::type_complexity)]
    pub fn last<'p>(&self, pages: &'p Pages) -> Result<Option<(Cow<'p, [u8]>, &'p [u8])>, Miss> {
        self.range_rev(pages, Bound::Unbounded, Bound::Unbounded)
            .next()
    }

    /// Makes the pages of a path changeable, writing the numbers of copies and the change of weight into their parents.
    fn own_path(&mut self, pages: &mut Pages, path: &mut Path, delta: i64) -> Result<(), Absent> {
        for step in 0..path.len {
            let (old, at) = (path.page(step), path.at(step));
            let new = pages.own(old)?;
            if new != old {
                path.steps[step].0 = new;
                match step.checked_sub(1) {
                    None => self.root = new,
                    Some(above) => {
                        insert::set_child(pages, path.page(above), path.at(above), new);
                    }
                }
            }
            if delta != 0 && step < path.leaf() {
                insert::add_weight(pages, new, at, delta);
            }
        }
        Ok(())
    }
}
