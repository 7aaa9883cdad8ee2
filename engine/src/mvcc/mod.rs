//! Multi-version keys over two trees.
//!
//! `rows` holds every change under its [`Revision`]; `keys` holds one cell per user key that describes the newest
//! change of it ([`head`]). A put appends at the right edge of `rows` and replaces one small cell. Changes of one key
//! are linked backwards ([`chain`]), so an old revision is read without any index by time.
//!
//! Reads ([`read`], [`range`]) borrow from the pages. Writes gather in a [`batch`], are read back by the same
//! transaction through it, and reach the trees all at once ([`write`]).
//!
//! Invariants: a live head's row exists; `keys` cells weigh 1 when live, so that the tree counts live keys; every row
//! above the compacted revision exists; `prev` and `jump` of a row lead to older rows of the same key, or to rows that
//! a compaction removed.

use crate::tree::Tree;

pub mod batch;
pub mod chain;
pub mod compare;
pub mod head;
pub mod key_range;
pub mod kv;
pub mod range;
pub mod read;
pub mod revision;
pub mod row;
pub(crate) mod selection;
pub mod varint;
pub mod write;

pub use revision::Revision;

/// The roots of a store's trees.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trees {
    /// Revision → [`row`].
    pub rows: Tree,
    /// User key → [`head`].
    pub keys: Tree,
    /// (lease id, 8 bytes big-endian; key) → nothing.
    pub lease_keys: Tree,
    /// Lease id, 8 bytes big-endian → `leasepb.Lease`.
    pub leases: Tree,
    /// Members, alarms, cluster version: see `store::settings`.
    pub settings: Tree,
}

/// Number of trees in [`Trees`].
pub const TREES: usize = 5;

impl Trees {
    /// In the order in which a checkpoint stores them.
    pub fn roots(&self) -> [Tree; TREES] {
        [
            self.rows,
            self.keys,
            self.lease_keys,
            self.leases,
            self.settings,
        ]
    }

    pub fn from_roots(roots: &[Tree]) -> Option<Trees> {
        let &[rows, keys, lease_keys, leases, settings] = roots else {
            return None;
        };
        Some(Trees {
            rows,
            keys,
            lease_keys,
            leases,
            settings,
        })
    }
}
