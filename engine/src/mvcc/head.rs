//! Heads: the `keys` tree's cell for one user key, which describes its newest change.
//!
//! ```text
//! flags u8 | main | sub | create | version | lease | size | chain      (varints)
//! ```

use super::chain::Chain;
use super::revision::Revision;
use super::varint::{put_varint, take_varint};

const FLAG_TOMBSTONE: u8 = 1;

/// The newest change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub tombstone: bool,
    pub at: Revision,
    /// Zero, like `version` and `lease`, for a tombstone.
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    /// Length of the encoded `mvccpb.KeyValue`.
    pub size: u64,
}

impl Head {
    /// What the cell adds to the count of its tree: counts are over live keys.
    pub fn weight(&self) -> u32 {
        u32::from(!self.tombstone)
    }

    pub fn encode(&self, chain: &Chain, out: &mut Vec<u8>) {
        debug_assert_eq!(chain.newest(), self.at);
        out.push(u8::from(self.tombstone) * FLAG_TOMBSTONE);
        for number in [
            self.at.main,
            self.at.sub,
            self.create,
            self.version,
            self.lease,
        ] {
            put_varint(out, number as u64);
        }
        put_varint(out, self.size);
        chain.encode(out);
    }

    /// The head, and the encoded chain behind it.
    pub fn decode(input: &[u8]) -> Option<(Head, &[u8])> {
        let (&flags, mut rest) = input.split_first()?;
        let mut number = || take_varint(&mut rest);
        let head = Head {
            tombstone: flags & FLAG_TOMBSTONE != 0,
            at: Revision::new(number()? as i64, number()? as i64),
            create: number()? as i64,
            version: number()? as i64,
            lease: number()? as i64,
            size: number()?,
        };
        (flags & !FLAG_TOMBSTONE == 0).then_some((head, rest))
    }
}
