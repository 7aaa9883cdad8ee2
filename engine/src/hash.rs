//! The checksum by which members compare their data: CRC-32C over rows in etcd's on-disk form.

use crate::mvcc::row::Row;
use crate::mvcc::Revision;

/// Name of etcd's bucket of rows, with which the hash begins.
pub const KEY_BUCKET: &[u8] = b"key";

const REVISION_SEPARATOR: u8 = b'_';
const TOMBSTONE_MARK: u8 = b't';

/// A checksum and what it covers, so that neighbouring parts can be joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub crc: u32,
    bytes: usize,
}

impl Sum {
    pub fn of(bytes: &[u8]) -> Sum {
        let mut sum = Sum::default();
        sum.feed(bytes);
        sum
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len();
    }

    /// Adds a row: etcd's 17-byte revision key (18 with the mark of a tombstone) and the `KeyValue`.
    pub fn feed_row(&mut self, at: Revision, row: &Row<'_>) {
        let mut key = [0; 18];
        key[..8].copy_from_slice(&at.main.to_be_bytes());
        key[8] = REVISION_SEPARATOR;
        key[9..17].copy_from_slice(&at.sub.to_be_bytes());
        key[17] = TOMBSTONE_MARK;
        let len = if row.tombstone { 18 } else { 17 };
        self.feed(&key[..len]);
        self.feed(&row.body());
    }

    /// The checksum of this part followed by `next`.
    pub fn join(self, next: Sum) -> Sum {
        Sum {
            crc: crc32c::crc32c_combine(self.crc, next.crc, next.bytes),
            bytes: self.bytes + next.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join() {
        let whole = b"keysome bytes of rows";
        for cut in 0..=whole.len() {
            let (a, b) = whole.split_at(cut);
            assert_eq!(Sum::of(a).join(Sum::of(b)), Sum::of(whole));
        }
    }
}
