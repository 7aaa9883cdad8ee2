//! Moving pages of trees that stay in use: a walk from leaf to leaf that goes on between other writes.

use super::{
    any_node_at,
    cell::{set_overflow, OverflowRef, Value},
    insert::{node, set_child},
    node::{Node, NodeMut},
    node_at, Path, Tree,
};
use crate::page::{Absent, Miss, PageNo, Pages};

/// Which pages are to move.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// Those from this one on, to below it.
    Below(u32),
    /// Those in blocks that are being emptied, wherever there is room. Nothing is read from the device to find them: what
    /// only leaves name that are not in memory stays where it is.
    Emptying,
}

impl Goal {
    fn wants(self, pages: &Pages, start: PageNo, count: u32) -> bool {
        match self {
            Goal::Below(mark) => start.0.saturating_add(count) > mark,
            Goal::Emptying => pages.space.is_emptying(start.0, count),
        }
    }

    fn has_place(self, pages: &Pages, count: u32) -> bool {
        match self {
            // Moved to the end it would make the file longer.
            Goal::Below(mark) => pages.space.has_place_below(mark, count),
            Goal::Emptying => true,
        }
    }

    /// Whether a leaf need not be looked into.
    fn skips(self, pages: &Pages, leaf: PageNo) -> bool {
        match self {
            Goal::Below(_) => false,
            Goal::Emptying => !pages.is_resident(leaf) && !self.wants(pages, leaf, 1),
        }
    }
}

/// Where a walk through all trees goes on. A key, not a page: the trees change meanwhile.
#[derive(Default)]
pub(super) struct Place {
    tree: usize,
    /// The key and, if that leaf has more to move than a step may, the cell.
    next: Vec<u8>,
    cell: usize,
}

impl Place {
    /// Moves what one leaf holds of the goal, with the pages above it, and goes on to the next; false at the end of the
    /// last tree. `bytes_left` is what of overflow extents may still be moved.
    pub(super) fn move_leaf(
        &mut self,
        pages: &mut Pages,
        trees: &mut [Tree],
        goal: Goal,
        bytes_left: &mut usize,
    ) -> Result<bool, Miss> {
        let Some(tree) = trees.get_mut(self.tree) else {
            return Ok(false);
        };
        let from = (&self.next[..], self.cell);
        let moved = tree.move_leaf(pages, from, goal, bytes_left)?;
        (self.cell, self.next) = match moved {
            Moved::Part { cell } => (cell, std::mem::take(&mut self.next)),
            Moved::Leaf { next: Some(next) } => (0, next),
            Moved::Leaf { next: None } => {
                self.tree += 1;
                (0, Vec::new())
            }
        };
        Ok(true)
    }
}

/// What one leaf came to.
enum Moved {
    /// There is more to move from this cell on.
    Part { cell: usize },
    /// All of it; the next leaf begins at this key.
    Leaf { next: Option<Vec<u8>> },
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
    /// Moves what is to move of one leaf, the pages above it, and their overflow extents, from a key and a cell of its leaf
    /// on.
    fn move_leaf(
        &mut self,
        pages: &mut Pages,
        (key, cell): (&[u8], usize),
        goal: Goal,
        bytes_left: &mut usize,
    ) -> Result<Moved, Miss> {
        let Some(mut path) = self.path_above(pages, key)? else {
            return Ok(Moved::Leaf { next: None });
        };
        let next = after(pages, &path)?;
        if goal.skips(pages, path.page(path.leaf())) {
            return Ok(Moved::Leaf { next });
        }
        node_at(pages, path.page(path.leaf()), 0)?;
        let mut moves = Moves {
            goal,
            bytes_left: *bytes_left,
            found: Vec::new(),
        };
        let rest = moves.gather(pages, &path, cell)?;
        *bytes_left = moves.bytes_left;
        let moved = match rest {
            Some(cell) => Moved::Part { cell },
            None => Moved::Leaf { next },
        };
        let is_wanted = (0..path.len).any(|step| goal.wants(pages, path.page(step), 1));
        if moves.found.is_empty() && !is_wanted {
            return Ok(moved);
        }
        self.own_path(pages, &mut path, 0)?;
        for step in 0..path.len {
            if goal.wants(pages, path.page(step), 1) && goal.has_place(pages, 1) {
                self.renumber(pages, &mut path, step);
            }
        }
        for moved in moves.found {
            if !goal.has_place(pages, moved.from.pages()) {
                continue;
            }
            let page = pages.create_extent(&moved.payload);
            let mut node = NodeMut(pages.page_mut(path.page(moved.step)));
            set_overflow(node.cell_mut(moved.at), moved.is_key, page);
            moved.from.release(pages);
        }
        Ok(moved)
    }

    /// The path to the leaf that a key belongs to, which itself is not looked at unless it is the root. None if the tree is
    /// empty.
    fn path_above(&self, pages: &Pages, key: &[u8]) -> Result<Option<Path>, Absent> {
        if self.root.is_none() {
            return Ok(None);
        }
        let mut path = Path::new();
        let (mut no, mut node) = (self.root, any_node_at(pages, self.root)?);
        while !node.is_leaf() {
            let at = node.child_of(pages, key)?;
            path.push(no, at);
            no = node.branch(at).child();
            if node.level() == 1 {
                break;
            }
            node = node_at(pages, no, node.level() - 1)?;
        }
        path.push(no, 0);
        Ok(Some(path))
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

/// Overflow extents to move, as many as may be moved at once.
struct Moves {
    goal: Goal,
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
        if self.goal.wants(pages, from.page, from.pages()) {
            pages.verify(from.page, from.pages())?;
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
