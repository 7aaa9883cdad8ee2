//! Rows: one per change, keyed by revision.
//!
//! ```text
//! flags u8 | codec u8 | encoded size varint | prev (main delta, sub)? | jump (main delta, sub)? | body
//! ```
//!
//! The body is the change's `mvccpb.KeyValue` exactly as etcd writes it, so that a response, a watch event or a hash
//! copies it. `encoded size` is its length before the codec. Deltas are distances down from the row's own revision.

use super::chain::Jump;
use super::kv::Kv;
use super::revision::Revision;
use super::varint::{put_varint, take_varint};
use std::borrow::Cow;

const FLAG_TOMBSTONE: u8 = 1;
const FLAG_PREV: u8 = 2;
const FLAG_JUMP: u8 = 4;
const FLAG_JUMP_NOWHERE: u8 = 8;
const FLAGS_KNOWN: u8 = 15;

const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;

/// No body can be larger: it came in one log entry. Guards the allocation for a compressed body.
const BODY_BYTES_MAX: usize = 1 << 30;

/// Rows and index cells live in pages whose checksum was verified before any read, so only a defect of this program
/// can make one unreadable.
pub(crate) const WELL_FORMED: &str = "a row of a verified page is well formed";

/// A row, borrowed from its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub tombstone: bool,
    /// The change of the same key before this one, if it was not compacted away long ago.
    pub prev: Option<Revision>,
    /// An older change of the same key, for long ways back.
    pub jump: Option<Revision>,
    codec: u8,
    encoded_size: usize,
    stored: &'a [u8],
}

/// Writes everything of a row but its body, which the caller appends.
pub fn encode_row_head(
    out: &mut Vec<u8>,
    at: Revision,
    tombstone: bool,
    prev: Option<(Revision, Jump)>,
    encoded_size: usize,
) {
    let mut flags = if tombstone { FLAG_TOMBSTONE } else { 0 };
    match prev {
        None => {}
        Some((_, Jump::Previous)) => flags |= FLAG_PREV,
        Some((_, Jump::To(_))) => flags |= FLAG_PREV | FLAG_JUMP,
        Some((_, Jump::Nowhere)) => flags |= FLAG_PREV | FLAG_JUMP_NOWHERE,
    }
    out.push(flags);
    out.push(CODEC_RAW);
    put_varint(out, encoded_size as u64);
    let mut pointer = |to: Revision| {
        debug_assert!(to < at);
        put_varint(out, (at.main - to.main) as u64);
        put_varint(out, to.sub as u64);
    };
    if let Some((prev, jump)) = prev {
        pointer(prev);
        if let Jump::To(jump) = jump {
            pointer(jump);
        }
    }
}

fn take_pointer(at: Revision, input: &mut &[u8]) -> Option<Revision> {
    let delta = i64::try_from(take_varint(input)?).ok()?;
    let to = Revision {
        main: at.main.checked_sub(delta)?,
        sub: i64::try_from(take_varint(input)?).ok()?,
    };
    (to < at).then_some(to)
}

impl<'a> Row<'a> {
    pub fn decode(at: Revision, input: &'a [u8]) -> Option<Row<'a>> {
        let (&[flags, codec], mut rest) = input.split_first_chunk::<2>()?;
        if flags & !FLAGS_KNOWN != 0 || codec > CODEC_LZ4 {
            return None;
        }
        let encoded_size = usize::try_from(take_varint(&mut rest)?).ok()?;
        let prev = match flags & FLAG_PREV {
            0 => None,
            _ => Some(take_pointer(at, &mut rest)?),
        };
        let jump = match flags & (FLAG_JUMP | FLAG_JUMP_NOWHERE) {
            0 => prev,
            FLAG_JUMP => Some(take_pointer(at, &mut rest)?),
            _ => None,
        };
        let fits = match codec {
            CODEC_RAW => encoded_size == rest.len(),
            _ => encoded_size <= BODY_BYTES_MAX,
        };
        fits.then_some(Row {
            tombstone: flags & FLAG_TOMBSTONE != 0,
            prev,
            jump,
            codec,
            encoded_size,
            stored: rest,
        })
    }

    /// The change as an encoded `mvccpb.KeyValue`.
    pub fn body(&self) -> Cow<'a, [u8]> {
        if self.codec == CODEC_RAW {
            return Cow::Borrowed(self.stored);
        }
        Cow::Owned(lz4_flex::block::decompress(self.stored, self.encoded_size).expect(WELL_FORMED))
    }

    /// For a caller that needs only the key: borrowed when the body is raw.
    pub fn key(&self) -> Cow<'a, [u8]> {
        match self.body() {
            Cow::Borrowed(body) => Cow::Borrowed(Kv::parse(body).expect(WELL_FORMED).key),
            Cow::Owned(body) => Cow::Owned(Kv::parse(&body).expect(WELL_FORMED).key.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_survive() {
        let at = Revision::new(100, 3);
        let older = Revision::new(90, 1);
        let oldest = Revision::new(7, 0);
        for prev in [
            None,
            Some((older, Jump::Previous)),
            Some((older, Jump::To(oldest))),
            Some((older, Jump::Nowhere)),
        ] {
            let mut out = Vec::new();
            encode_row_head(&mut out, at, true, prev, 4);
            out.extend_from_slice(&[0x0a, 2, b'k', b'1']);
            let row = Row::decode(at, &out).unwrap();
            assert!(row.tombstone);
            assert_eq!(row.prev, prev.map(|(p, _)| p));
            let jump = match prev {
                Some((_, Jump::To(r))) => Some(r),
                Some((p, Jump::Previous)) => Some(p),
                _ => None,
            };
            assert_eq!(row.jump, jump);
            assert_eq!(&row.key()[..], b"k1");
            for cut in 0..out.len() {
                assert_eq!(Row::decode(at, &out[..cut]), None);
            }
        }
    }

    #[test]
    fn compressed_bodies_are_read() {
        let at = Revision::new(9, 0);
        let kv = Kv {
            key: b"k",
            modified: 9,
            value: &[1; 5000],
            ..Kv::default()
        };
        let mut body = Vec::new();
        kv.encode(&mut body);
        let mut out = vec![0, CODEC_LZ4];
        put_varint(&mut out, body.len() as u64);
        out.extend_from_slice(&lz4_flex::block::compress(&body));
        assert!(out.len() < 100);
        let row = Row::decode(at, &out).unwrap();
        assert_eq!(row.body(), body);
        assert_eq!(&row.key()[..], b"k");
    }
}
