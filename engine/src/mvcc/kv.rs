//! `mvccpb.KeyValue` on the wire: the body of every row, written once and copied from there into responses, watch
//! events and hashes.

use super::varint::{put_varint, take_varint, varint_len};
use bytes::Bytes;
use proto::mvccpb::KeyValue;
use std::ops::Range;

const TAG_KEY: u8 = 0x0a;
const TAG_CREATE: u8 = 0x10;
const TAG_MOD: u8 = 0x18;
const TAG_VERSION: u8 = 0x20;
const TAG_VALUE: u8 = 0x2a;
const TAG_LEASE: u8 = 0x30;

/// The fields of a key-value pair, borrowed. A tombstone has only its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kv<'a> {
    pub key: &'a [u8],
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

fn bytes_len(len: usize) -> usize {
    if len == 0 {
        0
    } else {
        1 + varint_len(len as u64) + len
    }
}

fn int_len(value: i64) -> usize {
    if value == 0 {
        0
    } else {
        1 + varint_len(value as u64)
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_int(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        put_varint(out, value as u64);
    }
}

impl<'a> Kv<'a> {
    pub fn encoded_len(&self) -> usize {
        bytes_len(self.key.len())
            + int_len(self.create)
            + int_len(self.modified)
            + int_len(self.version)
            + bytes_len(self.value.len())
            + int_len(self.lease)
    }

    /// Canonical proto3: ascending fields, zero and empty ones absent. HashKV covers these bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, TAG_KEY, self.key);
        put_int(out, TAG_CREATE, self.create);
        put_int(out, TAG_MOD, self.modified);
        put_int(out, TAG_VERSION, self.version);
        put_bytes(out, TAG_VALUE, self.value);
        put_int(out, TAG_LEASE, self.lease);
    }

    /// Reads what [`Kv::encode`] or etcd wrote. Unknown fields are refused: etcd never writes any here.
    pub fn parse(input: &'a [u8]) -> Option<Kv<'a>> {
        let mut kv = Kv::default();
        let mut rest = input;
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            let number = take_varint(&mut rest)?;
            match tag {
                TAG_KEY | TAG_VALUE => {
                    let (bytes, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
                    rest = after;
                    if tag == TAG_KEY {
                        kv.key = bytes;
                    } else {
                        kv.value = bytes;
                    }
                }
                TAG_CREATE => kv.create = number as i64,
                TAG_MOD => kv.modified = number as i64,
                TAG_VERSION => kv.version = number as i64,
                TAG_LEASE => kv.lease = number as i64,
                _ => return None,
            }
        }
        Some(kv)
    }

    pub fn to_message(&self, keys_only: bool) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            create_revision: self.create,
            mod_revision: self.modified,
            version: self.version,
            value: if keys_only {
                Bytes::new()
            } else {
                Bytes::copy_from_slice(self.value)
            },
            lease: self.lease,
        }
    }
}

/// Where the value field (tag and length included) lies in an encoded pair; empty if there is none.
pub fn value_field(encoded: &[u8]) -> Option<Range<usize>> {
    let mut rest = encoded;
    loop {
        let start = encoded.len() - rest.len();
        let Some((&tag, after)) = rest.split_first() else {
            return Some(start..start);
        };
        rest = after;
        let number = take_varint(&mut rest)?;
        if tag == TAG_KEY || tag == TAG_VALUE {
            rest = rest.get(usize::try_from(number).ok()?..)?;
        }
        if tag == TAG_VALUE {
            return Some(start..encoded.len() - rest.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn encoding_is_prosts() {
        for (value, lease) in [(&b""[..], 0), (b"v", -1), (&[7; 300][..], i64::MAX)] {
            let kv = Kv {
                key: b"key",
                create: 2,
                modified: 1 << 40,
                version: 3,
                value,
                lease,
            };
            let mut out = Vec::new();
            kv.encode(&mut out);
            assert_eq!(out, kv.to_message(false).encode_to_vec());
            assert_eq!(out.len(), kv.encoded_len());
            assert_eq!(Kv::parse(&out), Some(kv));
            let field = value_field(&out).unwrap();
            out.drain(field);
            assert_eq!(out, kv.to_message(true).encode_to_vec());
        }
        assert_eq!(Kv::parse(&[TAG_KEY, 5, b'a']), None);
    }
}
