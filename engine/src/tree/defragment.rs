//! Emptying the file's end, so that it can be cut, while the trees stay in use.

use super::{
    cell::{set_overflow, OverflowRef, Value},
    insert::{node, set_child},
    node::{Node, NodeMut},
    Path, Tree,
};
use crate::page::{Absent, Miss, PageNo, Pages};

/// Checkpoints until neither meta page names a page that was moved, until their own indexes have moved down in the same way,
/// and the cut itself.
const SHRINKING_CHECKPOINTS: u8 = 6;
/// Of the pages in use one in so many is left as room above them, with [`ROOM_PAGES_MIN`] at least.
const ROOM_SHARE: u32 = 16;
const ROOM_PAGES_MIN: u32 = 256;

/// A walk through all trees that moves what lies beyond a mark to below it. Goes on between other writes.
pub struct Defragment {
    /// Pages from here on are to be emptied.
    mark: u32,
    tree: usize,
    /// Where the walk of the tree goes on.
    next: Vec<u8>,
}

impl Defragment {
    /// Begins a walk; none if the file is about as short as it can be.
    pub fn begin(pages: &mut Pages) -> Option<Defragment> {
        let used = pages.space.used();
        let mark = used + (used / ROOM_SHARE).max(ROOM_PAGES_MIN);
        if pages.space.high() <= mark {
            return None;
        }
        pages.space.set_compacting(true);
        Some(Defragment {
            mark,
            tree: 0,
            next: Vec::new(),
        })
    }

    /// Looks at so many leaves, moving them and what they need; whether there is more to do. The trees are all of the file,
    /// in the same order each time. After the last step the file is cut as the next checkpoints become durable.
    pub fn step(
        &mut self,
        pages: &mut Pages,
        trees: &mut [Tree],
        leaves_max: usize,
    ) -> Result<bool, Miss> {
        for _ in 0..leaves_max {
            let Some(tree) = trees.get_mut(self.tree) else {
                self.end(pages);
                return Ok(false);
            };
            match tree.move_leaf(pages, &self.next, self.mark)? {
                Some(next) => self.next = next,
                None => {
                    self.tree += 1;
                    self.next.clear();
                }
            }
        }
        Ok(true)
    }

    /// Gives up, or is through: numbers are handed out in whole runs again.
    pub fn end(&self, pages: &mut Pages) {
        pages.space.set_compacting(false);
        pages.shrink_checkpoints = SHRINKING_CHECKPOINTS;
    }
}

/// An overflow reference of a cell that is to move.
struct Move {
    step: usize,
    at: usize,
    is_key: bool,
    from: OverflowRef,
    payload: Vec<u8>,
}

impl Tree {
    /// Moves what lies beyond the mark of one leaf, the pages above it, and their overflow extents; returns where the next leaf
    /// begins.
    fn move_leaf(
        &mut self,
        pages: &mut Pages,
        key: &[u8],
        mark: u32,
    ) -> Result<Option<Vec<u8>>, Miss> {
        let Some((mut path, _)) = self.path_to(pages, key)? else {
            return Ok(None);
        };
        let next = after(pages, &path)?;
        let moves = overflows(pages, &path, mark)?;
        let is_beyond = (0..path.len).any(|step| path.page(step).0 >= mark);
        if moves.is_empty() && !is_beyond {
            return Ok(next);
        }
        self.own_path(pages, &mut path, 0)?;
        for step in 0..path.len {
            if path.page(step).0 >= mark {
                self.renumber(pages, &mut path, step);
            }
        }
        for moved in moves {
            let page = pages.create_extent(&moved.payload);
            let mut node = NodeMut(pages.page_mut(path.page(moved.step)));
            set_overflow(node.cell_mut(moved.at), moved.is_key, page);
            moved.from.release(pages);
        }
        Ok(next)
    }

    fn renumber(&mut self, pages: &mut Pages, path: &mut Path, step: usize) {
        let new = pages.renumber(path.page(step));
        path.steps[step].0 = new;
        match step.checked_sub(1) {
            None => self.root = new,
            Some(above) => set_child(pages, path.page(above), path.at(above), new),
        }
    }
}

/// The first key that is not below the path's leaf; none if it is the last one.
fn after(pages: &Pages, path: &Path) -> Result<Option<Vec<u8>>, Absent> {
    for step in (0..path.leaf()).rev() {
        let (branch, at) = (node(pages, path.page(step)), path.at(step) + 1);
        if at < branch.count() {
            return Ok(Some(branch.key(at).read(pages)?.into_owned()));
        }
    }
    Ok(None)
}

/// Overflow extents beyond the mark: all of the leaf, and the separators on the way.
fn overflows(pages: &Pages, path: &Path, mark: u32) -> Result<Vec<Move>, Absent> {
    let mut moves = Vec::new();
    let mut add = |step, at, is_key, from: OverflowRef| {
        let PageNo(start) = from.page;
        if start.saturating_add(from.pages()) > mark {
            let payload = from.read(pages)?.to_vec();
            moves.push(Move {
                step,
                at,
                is_key,
                from,
                payload,
            });
        }
        Ok(())
    };
    for step in 0..path.leaf() {
        let at = path.at(step);
        if let Some(from) = node(pages, path.page(step)).key(at).overflow() {
            add(step, at, true, from)?;
        }
    }
    let leaf: Node<'_> = node(pages, path.page(path.leaf()));
    for at in 0..leaf.count() {
        if let Some(from) = leaf.key(at).overflow() {
            add(path.leaf(), at, true, from)?;
        }
        if let Value::Overflow(from) = leaf.leaf(at).value() {
            add(path.leaf(), at, false, from)?;
        }
    }
    Ok(moves)
}
