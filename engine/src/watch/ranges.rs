//! Interval tree: which ranges hold a key.
//!
//! A treap ordered by `(start, end)` in which each node knows the greatest end below it. Priorities come from a counter and
//! a seed that clients do not know, so that no order of insertion makes it deep.

use std::cmp::Ordering;
use std::sync::Arc;

const NIL: u32 = u32::MAX;

/// Exclusive end of a range. `Infinite` is greater than every key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    At(Arc<[u8]>),
    Infinite,
}

impl End {
    pub(super) fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::At(end) => &**end > key,
            End::Infinite => true,
        }
    }
}

#[derive(Debug)]
struct Node {
    start: Arc<[u8]>,
    end: End,
    value: u32,
    priority: u32,
    left: u32,
    right: u32,
    /// The node with the greatest end in this subtree.
    farthest: u32,
}

/// A set of distinct ranges, each with a value.
#[derive(Debug)]
pub(super) struct Ranges {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    random: u64,
}

impl Ranges {
    pub(super) fn new(seed: u64) -> Ranges {
        Ranges {
            nodes: Vec::new(),
            free: Vec::new(),
            root: NIL,
            random: seed,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.root == NIL
    }

    pub(super) fn find(&self, start: &[u8], end: &End) -> Option<u32> {
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            at = match compare(start, end, node) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(node.value),
            };
        }
        None
    }

    /// The range must not be in the set.
    pub(super) fn insert(&mut self, start: Arc<[u8]>, end: End, value: u32) {
        debug_assert!(self.find(&start, &end).is_none());
        let priority = self.draw();
        let node = Node {
            start,
            end,
            value,
            priority,
            left: NIL,
            right: NIL,
            farthest: NIL,
        };
        let added = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.update(added);
        self.root = self.insert_below(self.root, added);
    }

    pub(super) fn remove(&mut self, start: &[u8], end: &End) -> Option<u32> {
        let (root, removed) = self.remove_below(self.root, start, end);
        self.root = root;
        let removed = removed?;
        self.free.push(removed);
        let node = &mut self.nodes[removed as usize];
        // Keys may be long: a free node keeps none.
        node.start = Arc::from([]);
        node.end = End::Infinite;
        Some(node.value)
    }

    /// Visits the values of the ranges that hold `key`, in the order of the ranges.
    pub(super) fn holding(&self, key: &[u8], visit: &mut impl FnMut(u32)) {
        self.holding_below(self.root, key, visit);
    }

    fn holding_below(&self, at: u32, key: &[u8], visit: &mut impl FnMut(u32)) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        if !self.node(node.farthest).end.is_after(key) {
            return;
        }
        self.holding_below(node.left, key, visit);
        if &*node.start <= key {
            if node.end.is_after(key) {
                visit(node.value);
            }
            self.holding_below(node.right, key, visit);
        }
    }

    fn insert_below(&mut self, at: u32, added: u32) -> u32 {
        if at == NIL {
            return added;
        }
        if self.node(added).priority > self.node(at).priority {
            let (left, right) = self.split(at, added);
            self.nodes[added as usize].left = left;
            self.nodes[added as usize].right = right;
            self.update(added);
            return added;
        }
        if self.order(added, at) == Ordering::Less {
            let left = self.insert_below(self.node(at).left, added);
            self.nodes[at as usize].left = left;
        } else {
            let right = self.insert_below(self.node(at).right, added);
            self.nodes[at as usize].right = right;
        }
        self.update(at);
        at
    }

    /// Parts a subtree into what is before and after the range of `pivot`.
    fn split(&mut self, at: u32, pivot: u32) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        if self.order(pivot, at) == Ordering::Less {
            let (before, after) = self.split(self.node(at).left, pivot);
            self.nodes[at as usize].left = after;
            self.update(at);
            (before, at)
        } else {
            let (before, after) = self.split(self.node(at).right, pivot);
            self.nodes[at as usize].right = before;
            self.update(at);
            (at, after)
        }
    }

    fn remove_below(&mut self, at: u32, start: &[u8], end: &End) -> (u32, Option<u32>) {
        if at == NIL {
            return (NIL, None);
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        let removed = match compare(start, end, self.node(at)) {
            Ordering::Equal => return (self.merge(left, right), Some(at)),
            Ordering::Less => {
                let (left, removed) = self.remove_below(left, start, end);
                self.nodes[at as usize].left = left;
                removed
            }
            Ordering::Greater => {
                let (right, removed) = self.remove_below(right, start, end);
                self.nodes[at as usize].right = right;
                removed
            }
        };
        self.update(at);
        (at, removed)
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL {
            return right;
        }
        if right == NIL {
            return left;
        }
        let top = if self.node(left).priority > self.node(right).priority {
            let inner = self.merge(self.node(left).right, right);
            self.nodes[left as usize].right = inner;
            left
        } else {
            let inner = self.merge(left, self.node(right).left);
            self.nodes[right as usize].left = inner;
            right
        };
        self.update(top);
        top
    }

    fn update(&mut self, at: u32) {
        let node = self.node(at);
        let mut farthest = at;
        for child in [node.left, node.right] {
            if child != NIL {
                let candidate = self.node(child).farthest;
                if self.node(candidate).end > self.node(farthest).end {
                    farthest = candidate;
                }
            }
        }
        self.nodes[at as usize].farthest = farthest;
    }

    fn order(&self, a: u32, b: u32) -> Ordering {
        compare(&self.node(a).start, &self.node(a).end, self.node(b))
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    /// splitmix64.
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

fn compare(start: &[u8], end: &End, node: &Node) -> Ordering {
    start.cmp(&node.start).then_with(|| end.cmp(&node.end))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*state >> 33) % below
    }

    fn key(state: &mut u64) -> Vec<u8> {
        (0..1 + random(state, 3))
            .map(|_| random(state, 4) as u8)
            .collect()
    }

    #[test]
    fn agrees_with_a_list_under_random_changes() {
        for seed in 0..20 {
            let mut state = seed;
            let mut ranges = Ranges::new(seed);
            let mut model: BTreeMap<(Vec<u8>, End), u32> = BTreeMap::new();
            for step in 0..600 {
                let start = key(&mut state);
                let end = match random(&mut state, 5) {
                    0 => End::Infinite,
                    _ => End::At(key(&mut state).into()),
                };
                let entry = (start.clone(), end.clone());
                if random(&mut state, 3) == 0 {
                    assert_eq!(
                        ranges.remove(&start, &end),
                        model.remove(&entry),
                        "seed {seed}"
                    );
                } else if let std::collections::btree_map::Entry::Vacant(vacant) =
                    model.entry(entry)
                {
                    vacant.insert(step);
                    ranges.insert(start.into(), end, step);
                }
                let probe = key(&mut state);
                let mut found = Vec::new();
                ranges.holding(&probe, &mut |value| found.push(value));
                let expected: Vec<u32> = model
                    .iter()
                    .filter(|((start, end), _)| *start <= probe && end.is_after(&probe))
                    .map(|(_, &value)| value)
                    .collect();
                assert_eq!(found, expected, "seed {seed} step {step}");
            }
        }
    }

    #[test]
    fn sorted_insertion_stays_shallow() {
        let mut ranges = Ranges::new(1);
        for i in 0..100_000u32 {
            let start: Arc<[u8]> = i.to_be_bytes().as_slice().into();
            ranges.insert(start, End::Infinite, i);
        }
        fn depth(ranges: &Ranges, at: u32) -> usize {
            if at == NIL {
                return 0;
            }
            let node = ranges.node(at);
            1 + depth(ranges, node.left).max(depth(ranges, node.right))
        }
        assert!(depth(&ranges, ranges.root) < 80);
    }
}
