//! Writing changes into the trees.

use super::chain::Chain;
use super::head::Head;
use super::kv::Kv;
use super::revision::Revision;
use super::row::{encode_row_head, WELL_FORMED};
use super::Trees;
use crate::page::{Miss, Pages};

/// Length of a lease id in the keys of the trees `leases` and `lease_keys`.
pub const LEASE_ID_BYTES: usize = 8;

/// Buffers that a writer uses again and again.
#[derive(Default)]
pub struct Scratch {
    row: Vec<u8>,
    cell: Vec<u8>,
    lease_key: Vec<u8>,
    /// Where the pair begins in the row.
    body_at: usize,
}

impl Scratch {
    /// The pair that was written last, as its row holds it.
    pub fn body(&self) -> &[u8] {
        &self.row[self.body_at..]
    }
}

pub fn lease_key(lease: i64, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&lease.to_be_bytes());
    out.extend_from_slice(key);
}

/// One change, with its revision.
#[derive(Clone, Copy, Debug)]
pub struct NewVersion<'a> {
    pub at: Revision,
    pub tombstone: bool,
    /// The pair as the row holds it: a tombstone has only its key.
    pub kv: Kv<'a>,
    /// The lease that the key was attached to before; zero for none.
    pub lease_before: i64,
}

impl NewVersion<'_> {
    fn head(&self) -> Head {
        Head {
            tombstone: self.tombstone,
            at: self.at,
            create: self.kv.create,
            version: self.kv.version,
            lease: self.kv.lease,
            size: self.kv.encoded_len() as u64,
        }
    }

    /// Adds the pages that writing this needs and that are absent, but for those of the key's cell: whoever has read
    /// the cell has them.
    pub fn plan_lease(
        &self,
        trees: &Trees,
        pages: &Pages,
        scratch: &mut Scratch,
        missing: &mut Miss,
    ) {
        let (before, after) = (self.lease_before, self.kv.lease);
        if before == after {
            return;
        }
        if before != 0 {
            lease_key(before, self.kv.key, &mut scratch.lease_key);
            trees
                .lease_keys
                .plan_remove(pages, &scratch.lease_key, missing);
        }
        if after != 0 {
            lease_key(after, self.kv.key, &mut scratch.lease_key);
            trees
                .lease_keys
                .plan_insert(pages, &scratch.lease_key, missing);
        }
    }
}

/// The newest change of a key and the chain behind it, copied out of the key's cell.
pub type Prior = Option<(Head, Chain)>;

pub fn prior(trees: &Trees, pages: &Pages, key: &[u8]) -> Result<Prior, Miss> {
    let cell = trees.keys.get(pages, key)?;
    Ok(cell.map(|cell| {
        let (head, mut rest) = Head::decode(cell).expect(WELL_FORMED);
        let chain = Chain::decode(head.at, &mut rest).expect(WELL_FORMED);
        (head, chain)
    }))
}

/// Writes one change. Its pages are at hand (the right edge of `rows`, the key's cell, [`NewVersion::plan_lease`]), so
/// that a miss cannot happen half-way.
pub fn write_change(
    trees: &mut Trees,
    pages: &mut Pages,
    change: &NewVersion<'_>,
    prior: Prior,
    scratch: &mut Scratch,
) -> Result<(), Miss> {
    let NewVersion { at, kv, .. } = *change;
    let (prev, chain) = match prior {
        None => (None, Chain::start(at)),
        Some((head, mut chain)) => {
            let jump = chain.push(at);
            (Some((head.at, jump)), chain)
        }
    };
    let head = change.head();
    scratch.row.clear();
    let size = head.size as usize;
    encode_row_head(&mut scratch.row, at, change.tombstone, prev, size);
    scratch.body_at = scratch.row.len();
    kv.encode(&mut scratch.row);
    scratch.cell.clear();
    head.encode(&chain, &mut scratch.cell);
    let (keys, rows) = (&mut trees.keys, &mut trees.rows);
    keys.insert(pages, kv.key, &scratch.cell, head.weight())?;
    rows.insert(pages, &at.to_key(), &scratch.row, 1)?;
    if change.lease_before != kv.lease {
        move_lease(trees, pages, change, scratch)?;
    }
    Ok(())
}

fn move_lease(
    trees: &mut Trees,
    pages: &mut Pages,
    change: &NewVersion<'_>,
    scratch: &mut Scratch,
) -> Result<(), Miss> {
    let kv = &change.kv;
    if change.lease_before != 0 {
        lease_key(change.lease_before, kv.key, &mut scratch.lease_key);
        trees.lease_keys.remove(pages, &scratch.lease_key)?;
    }
    if kv.lease != 0 {
        lease_key(kv.lease, kv.key, &mut scratch.lease_key);
        trees.lease_keys.insert(pages, &scratch.lease_key, &[], 1)?;
    }
    Ok(())
}
