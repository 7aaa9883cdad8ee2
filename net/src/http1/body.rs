//! Where a body ends: by its length, by its chunks, or with the connection.

use super::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::planted::{planted, Fault};

/// A body, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing, or nothing more.
    Empty,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// A byte that the chunk grammar does not allow, or a line or trailer above its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyError;

/// The place in the chunk grammar (RFC 9112 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes of the line or of the trailer so far.
    seen: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { value: u64, digits: u8 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
}

const SIZE: At = At::Size {
    value: 0,
    digits: 0,
};
/// Hex digits of a chunk's size.
const SIZE_DIGITS_MAX: u8 = 15;

/// What a piece of input was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Bytes of the input that are done with, the data included, which are the last ones of them.
    pub consumed: usize,
    pub data: usize,
}

impl Body {
    pub fn chunked() -> Body {
        Body::Chunked(Chunks { at: SIZE, seen: 0 })
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Body::Empty)
    }

    /// Takes framing and at most one run of data from the beginning of `input`.
    pub(super) fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let all = |count: usize| Decoded {
            consumed: count,
            data: count,
        };
        match self {
            Body::Empty => Ok(all(0)),
            Body::UntilClose => Ok(all(input.len())),
            Body::Length(left) => {
                let count = input
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                if *left == 0 {
                    *self = Body::Empty;
                }
                Ok(all(count))
            }
            Body::Chunked(chunks) => {
                let (decoded, done) = chunks.decode(input)?;
                if done {
                    *self = Body::Empty;
                }
                Ok(decoded)
            }
        }
    }
}

impl Chunks {
    fn decode(&mut self, input: &[u8]) -> Result<(Decoded, bool), BodyError> {
        let mut consumed = 0;
        if let (At::Size { value: 1.., digits }, true) = (self.at, planted(Fault::ChunkSizeCut)) {
            self.at = At::Size { value: 0, digits };
        }
        while let Some(&byte) = input.get(consumed) {
            if let At::Data { left } = self.at {
                let waiting = input.len() - consumed;
                let data = waiting.min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - data as u64;
                self.at = match left {
                    0 => At::DataCr,
                    left => At::Data { left },
                };
                consumed += data;
                return Ok((Decoded { consumed, data }, false));
            }
            consumed += 1;
            if self.framing(byte)? {
                return Ok((Decoded { consumed, data: 0 }, true));
            }
        }
        Ok((Decoded { consumed, data: 0 }, false))
    }

    /// One byte that is not data; true if it was the body's last one.
    fn framing(&mut self, byte: u8) -> Result<bool, BodyError> {
        self.seen += 1;
        let bound = match self.at {
            At::TrailerStart | At::Trailer | At::TrailerLf | At::LastLf => TRAILER_BYTES_MAX,
            _ => CHUNK_LINE_BYTES_MAX,
        };
        if self.seen > bound {
            return Err(BodyError);
        }
        self.at = match (self.at, byte) {
            (At::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(BodyError);
                }
                let digit = (byte as char).to_digit(16).ok_or(BodyError)?;
                At::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (At::Size { value, digits: 1.. }, b';') => At::Extension { value },
            (At::Size { value, digits: 1.. } | At::Extension { value }, b'\r') => {
                At::SizeLf { value }
            }
            (At::Extension { value }, byte) if byte >= b' ' || byte == b'\t' => {
                At::Extension { value }
            }
            (At::SizeLf { value: 0 }, b'\n') => {
                self.seen = 0;
                At::TrailerStart
            }
            (At::SizeLf { value: left }, b'\n') => At::Data { left },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.seen = 0;
                SIZE
            }
            (At::TrailerStart, b'\r') => At::LastLf,
            (At::LastLf, b'\n') => return Ok(true),
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::TrailerStart | At::Trailer, byte) if byte >= b' ' || byte == b'\t' => At::Trailer,
            _ => return Err(BodyError),
        };
        Ok(false)
    }
}

/// The line that begins a chunk of so many bytes.
pub(super) fn put_chunk_size(out: &mut Vec<u8>, bytes: usize) {
    let mut number = bytes;
    let mut digits = [0; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number & 15];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data of a body that comes in pieces of this size, and whether it ended.
    fn decode(mut body: Body, input: &[u8], size: usize) -> Result<(Vec<u8>, bool), BodyError> {
        let mut data = Vec::new();
        for piece in input.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() && !body.is_done() {
                let decoded = body.decode(rest)?;
                assert!(decoded.data <= decoded.consumed && decoded.consumed > 0);
                data.extend_from_slice(&rest[decoded.consumed - decoded.data..decoded.consumed]);
                rest = &rest[decoded.consumed..];
            }
        }
        Ok((data, body.is_done()))
    }

    #[test]
    fn chunks_with_extensions_and_trailers() {
        let text = b"3;a=\"b\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\nrest";
        for size in 1..text.len() {
            let decoded = decode(Body::chunked(), text, size);
            assert_eq!(decoded, Ok((b"abc0123456789".to_vec(), true)), "{size}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_allow() {
        for text in [
            "\r\n",
            ";a\r\n",
            "3\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            "g\r\n",
            "-1\r\n",
            "0x3\r\n",
            " 3\r\n",
            "3 \r\n",
            "ffffffffffffffff\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\n\u{1}",
            "1;\u{1}\r\n",
        ] {
            assert_eq!(
                decode(Body::chunked(), text.as_bytes(), 4),
                Err(BodyError),
                "{text:?}"
            );
        }
        let long = format!("1;{}", "a".repeat(CHUNK_LINE_BYTES_MAX));
        assert_eq!(decode(Body::chunked(), long.as_bytes(), 7), Err(BodyError));
        let long = format!("0\r\n{}", "A: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
        assert_eq!(decode(Body::chunked(), long.as_bytes(), 7), Err(BodyError));
    }

    #[test]
    fn lengths() {
        assert_eq!(
            decode(Body::Length(3), b"abcdef", 2),
            Ok((b"abc".to_vec(), true))
        );
        assert_eq!(
            decode(Body::Length(9), b"abcdef", 2),
            Ok((b"abcdef".to_vec(), false))
        );
        assert_eq!(
            decode(Body::UntilClose, b"abc", 2),
            Ok((b"abc".to_vec(), false))
        );
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_gives_the_same(bytes: Vec<u8>, size in 1usize..9) {
            let whole = decode(Body::chunked(), &bytes, usize::MAX);
            let cut = decode(Body::chunked(), &bytes, size);
            match (whole, cut) {
                (Ok(whole), Ok(cut)) => prop_assert_eq!(whole, cut),
                (whole, cut) => prop_assert_eq!(whole.is_err(), cut.is_err()),
            }
        }

        #[test]
        fn what_was_chunked_comes_back(pieces: Vec<Vec<u8>>, size in 1usize..9) {
            let mut text = Vec::new();
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(Body::chunked(), &text, size), Ok((pieces.concat(), true)));
        }
    }
}
