//! The skip pointers between the versions of one key.
//!
//! Versions form a list, newest first. Each one also points to an older one such that any version is reached in
//! O(log n) hops (E. Myers, "An applicative random-access stack", 1983). The list is a sequence of complete binary
//! trees whose sizes are the digits of the length in skew binary: 2^k - 1, descending from the oldest, and only the
//! two newest may be equal. A new version joins two equal trees under itself or stands alone. Its `jump` is the root
//! that follows its own tree. The key's index cell holds the roots, so that a put reads no older row.

use super::revision::Revision;
use super::varint::{put_varint, take_varint};

/// Number of roots of the longest chain: one per digit of its length, and one for the repeated digit.
const ROOTS_MAX: usize = 22;
/// Then a new chain begins behind the last version. A way through several chains costs O(log n) hops in each.
const LENGTH_MAX: u32 = 1 << 20;

/// Where a version's `jump` leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// To the previous version, as `prev` does.
    Previous,
    To(Revision),
    /// Past the oldest version.
    Nowhere,
}

/// The versions of one key, as far as its next version has to know them.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    length: u32,
    count: usize,
    roots: [Revision; ROOTS_MAX], // oldest first; the last one is the newest version
}

fn digits(mut length: u32) -> (usize, u32, u32) {
    let (mut count, mut last, mut before) = (0, 0, 0);
    while length > 0 {
        // The largest 2^k - 1 that fits.
        let size = (1u32 << (length + 1).ilog2()) - 1;
        length -= size;
        before = last;
        last = size;
        count += 1;
    }
    (count, last, before)
}

impl Chain {
    /// A chain of one version.
    pub fn start(at: Revision) -> Chain {
        let mut roots = [Revision::default(); ROOTS_MAX];
        roots[0] = at;
        Chain {
            length: 1,
            count: 1,
            roots,
        }
    }

    pub fn newest(&self) -> Revision {
        self.roots[self.count - 1]
    }

    /// Adds a version and says where it jumps to.
    pub fn push(&mut self, at: Revision) -> Jump {
        if self.length >= LENGTH_MAX {
            // Correctness does not depend on the shape: older pointers keep leading to older versions.
            *self = Chain::start(self.newest());
        }
        let (count, last, before) = digits(self.length);
        debug_assert_eq!(count, self.count);
        self.length += 1;
        if count >= 2 && last == before {
            self.count = count - 1;
            self.roots[self.count - 1] = at;
            match self.count {
                1 => Jump::Nowhere,
                n => Jump::To(self.roots[n - 2]),
            }
        } else {
            self.roots[count] = at;
            self.count = count + 1;
            Jump::Previous
        }
    }

    /// Everything but the newest root, which the caller stores as the head's revision.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.length));
        let newest = self.newest();
        for root in &self.roots[..self.count - 1] {
            put_varint(out, (newest.main - root.main) as u64);
            put_varint(out, root.sub as u64);
        }
    }

    pub fn decode(newest: Revision, input: &mut &[u8]) -> Option<Chain> {
        let length = u32::try_from(take_varint(input)?).ok()?;
        if length == 0 || length > LENGTH_MAX {
            return None;
        }
        let (count, ..) = digits(length);
        let mut chain = Chain {
            length,
            count,
            roots: [Revision::default(); ROOTS_MAX],
        };
        for root in &mut chain.roots[..count - 1] {
            root.main = newest
                .main
                .checked_sub(i64::try_from(take_varint(input)?).ok()?)?;
            root.sub = i64::try_from(take_varint(input)?).ok()?;
        }
        chain.roots[count - 1] = newest;
        Some(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_a_few_hops_away() {
        let n = 5000i64;
        let mut chain = Chain::start(Revision::new(1, 0));
        let mut jumps = vec![None, None];
        for main in 2..=n {
            let mut bytes = Vec::new();
            chain.encode(&mut bytes);
            chain = Chain::decode(chain.newest(), &mut &bytes[..]).unwrap();
            jumps.push(match chain.push(Revision::new(main, 0)) {
                Jump::Previous => Some(main - 1),
                Jump::To(r) => Some(r.main),
                Jump::Nowhere => None,
            });
        }
        assert!(chain.count <= 14);
        for target in 1..=n {
            let (mut at, mut hops) = (n, 0);
            while at > target {
                at = match jumps[at as usize] {
                    Some(jump) if jump >= target => jump,
                    _ => at - 1,
                };
                hops += 1;
            }
            assert!(hops <= 3 * 13, "{hops} hops to {target}");
        }
    }

    #[test]
    fn the_longest_chain_fits_its_roots() {
        for length in [LENGTH_MAX, LENGTH_MAX - 1, LENGTH_MAX - 2] {
            assert!(digits(length).0 < ROOTS_MAX);
        }
    }
}
