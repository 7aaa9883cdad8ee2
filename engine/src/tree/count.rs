//! Counting a range by the weights in the branches.

use super::{any_node_at, child_at, Tree};
use crate::page::{Absent, Miss, Pages};
use std::ops::Bound;

impl Tree {
    /// The sum of the weights of the entries in a range: two descents.
    pub fn count(&self, pages: &Pages, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<u64, Miss> {
        let below_end = match to {
            Bound::Unbounded => self.weight_below(pages, None)?,
            Bound::Included(key) => self.weight_below(pages, Some((key, true)))?,
            Bound::Excluded(key) => self.weight_below(pages, Some((key, false)))?,
        };
        let below_start = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.weight_below(pages, Some((key, false)))?,
            Bound::Excluded(key) => self.weight_below(pages, Some((key, true)))?,
        };
        // An empty range may be given the wrong way round.
        Ok(below_end.saturating_sub(below_start))
    }

    /// The weight of all entries below a key, or up to and with it.
    fn weight_below(&self, pages: &Pages, key: Option<(&[u8], bool)>) -> Result<u64, Absent> {
        if self.root.is_none() {
            return Ok(0);
        }
        let mut node = any_node_at(pages, self.root)?;
        let Some((key, with_key)) = key else {
            return Ok(node.weight());
        };
        let mut sum = 0u64;
        while !node.is_leaf() {
            let at = node.child_of(pages, key)?;
            sum = sum.saturating_add(node.weight_before(at));
            node = child_at(pages, node, at)?.1;
        }
        let (at, is_equal) = node.locate(pages, key)?;
        let end = if is_equal && with_key { at + 1 } else { at };
        Ok(sum.saturating_add(node.weight_before(end)))
    }
}
