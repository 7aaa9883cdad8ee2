//! Emptying the file's end, so that it can be cut, while the trees stay in use.

use super::{
    cell::{set_overflow, OverflowRef, Value},
    insert::{node, set_child},
    node::{Node, NodeMut},
    Path, Tree,
};
use crate::page::{Absent, Miss, PageNo, Pages};

/// Of the pages in use one in so many is left as room above them, with [`ROOM_PAGES_MIN`] at least.
const ROOM_SHARE: u32 = 16;
const ROOM_PAGES_MIN: u32 = 256;

/// A walk through all trees that moves what lies beyond a mark to below it. Goes on between other writes.
pub struct Defragment {
    /// Pages from here on are to be emptied.
    mark: u32,
    tree: usize,
    /// The key and, if that leaf has more to move than a step may, the cell where the walk of the tree goes on.
    next: Vec<u8>,
    cell: usize,
}

/// What one leaf came to.
enum Moved {
    /// There is more to move from this cell on.
    Part { cell: usize },
    /// All of it; the next leaf begins at this key.
    Leaf { next: Option<Vec<u8>> },
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
            cell: 0,
        })
    }

    /// Looks at so many leaves at most, moving them and what they need, and ends early once about so many bytes of overflow
    /// extents were moved; whether there is more to do. The trees are all of the file, in the same order each time. After
    /// the last step the file is cut as the next checkpoints become durable.
    pub fn step(
        &mut self,
        pages: &mut Pages,
        trees: &mut [Tree],
        leaves_max: usize,
        bytes_max: usize,
    ) -> Result<bool, Miss> {
        let mut bytes_left = bytes_max;
        for _ in 0..leaves_max {
            let Some(tree) = trees.get_mut(self.tree) else {
                self.end(pages);
                return Ok(false);
            };
            let from = (&self.next[..], self.cell);
            let moved = tree.move_leaf(pages, from, self.mark, &mut bytes_left)?;
            (self.cell, self.next) = match moved {
                Moved::Part { cell } => (cell, std::mem::take(&mut self.next)),
                Moved::Leaf { next: Some(next) } => (0, next),
                Moved::Leaf { next: None } => {
                    self.tree += 1;
                    (0, Vec::new())
                }
            };
            if bytes_left == 0 {
                break;
            }
        }
        Ok(true)
    }

    /// Gives up, or is through: numbers are handed out in whole runs again.
    pub fn end(&self, pages: &mut Pages) {
        pages.space.set_compacting(false);
        pages.shrink();
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
    /// Moves what lies beyond the mark of one leaf, the pages above it, and their overflow extents, from a key and a cell
    /// of its leaf on.
    fn move_leaf(
        &mut self,
        pages: &mut Pages,
        (key, cell): (&[u8], usize),
        mark: u32,
        bytes_left: &mut usize,
    ) -> Result<Moved, Miss> {
        let Some((mut path, _)) = self.path_to(pages, key)? else {
            return Ok(Moved::Leaf { next: None });
        };
        let next = after(pages, &path)?;
        let mut moves = Moves {
            mark,
            bytes_left: *bytes_left,
            found: Vec::new(),
        };
        let rest = moves.gather(pages, &path, cell)?;
        *bytes_left = moves.bytes_left;
        let moved = match rest {
            Some(cell) => Moved::Part { cell },
            None => Moved::Leaf { next },
        };
        let is_beyond = (0..path.len).any(|step| path.page(step).0 >= mark);
        if moves.found.is_empty() && !is_beyond {
            return Ok(moved);
        }
        self.own_path(pages, &mut path, 0)?;
        for step in 0..path.len {
            if path.page(step).0 >= mark && pages.space.has_place_below(mark, 1) {
                self.renumber(pages, &mut path, step);
            }
        }
        for moved in moves.found {
            if !pages.space.has_place_below(mark, moved.from.pages()) {
                // Moved to the end it would make the file longer.
                continue;
            }
            let page = pages.create_extent(&moved.payload);
            let mut node = NodeMut(pages.page_mut(path.page(moved.step)));
            set_overflow(node.cell_mut(moved.at), moved.is_key, page);
            moved.from.release(pages);
        }
        Ok(moved)
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

/// Overflow extents beyond the mark, as many as may be moved at once.
struct Moves {
    mark: u32,
    bytes_left: usize,
    found: Vec<Move>,
}

impl Moves {
    /// Those of the separators on the way, and of the leaf from a cell on; the cell that was not looked at any more, if
    /// it became too much. The first one found always fits.
    fn gather(&mut self, pages: &Pages, path: &Path, cell: usize) -> Result<Option<usize>, Absent> {
        for step in 0..path.leaf() {
            let at = path.at(step);
            if let Some(from) = node(pages, path.page(step)).key(at).overflow() {
                self.add(pages, step, at, true, from)?;
            }
        }
        let leaf: Node<'_> = node(pages, path.page(path.leaf()));
        for at in cell..leaf.count() {
            if self.bytes_left == 0 && at > cell {
                return Ok(Some(at));
            }
            if let Some(from) = leaf.key(at).overflow() {
                self.add(pages, path.leaf(), at, true, from)?;
            }
            if let Value::Overflow(from) = leaf.leaf(at).value() {
                self.add(pages, path.leaf(), at, false, from)?;
            }
        }
        Ok(None)
    }

    fn add(
        &mut self,
        pages: &Pages,
        step: usize,
        at: usize,
        is_key: bool,
        from: OverflowRef,
    ) -> Result<(), Absent> {
        let PageNo(start) = from.page;
        if start.saturating_add(from.pages()) > self.mark {
            let payload = from.read(pages)?.to_vec();
            self.bytes_left = self.bytes_left.saturating_sub(payload.len());
            self.found.push(Move {
                step,
                at,
                is_key,
                from,
                payload,
            });
        }
        Ok(())
    }
}
