//! The static Huffman code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive and follow the order of the symbols, so the lengths say
//! everything and the tables below are computed from them at compile time. Decoding looks eight bits up at once, which
//! settles every printable letter and digit; longer codes are found by their length.

use super::DecodeError;

/// Code length in bits by symbol; 256 is EOS.
#[rustfmt::skip]
const LENGTH_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const EOS: u16 = 256;
const LENGTH_BITS_MAX: usize = 30;
const FAST_BITS: u32 = 8;

struct Code {
    /// Code by symbol, right-aligned.
    codes: [u32; 257],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: the first code, and where its symbol stands in `symbols`.
    first_code: [u32; LENGTH_BITS_MAX + 2],
    first_symbol: [u16; LENGTH_BITS_MAX + 2],
    /// By the next eight bits: (symbol, length); length 0 where the code is longer.
    fast: [(u8, u8); 1 << FAST_BITS],
}

static CODE: Code = Code::build();

impl Code {
    const fn build() -> Code {
        let mut code = Code {
            codes: [0; 257],
            symbols: [0; 257],
            first_code: [0; LENGTH_BITS_MAX + 2],
            first_symbol: [0; LENGTH_BITS_MAX + 2],
            fast: [(0, 0); 1 << FAST_BITS],
        };
        let mut next = 0u32;
        let mut placed = 0usize;
        let mut length = 1usize;
        while length <= LENGTH_BITS_MAX {
            next <<= 1;
            code.first_code[length] = next;
            code.first_symbol[length] = placed as u16;
            let mut symbol = 0usize;
            while symbol < 257 {
                if LENGTH_BITS[symbol] as usize == length {
                    code.codes[symbol] = next;
                    code.symbols[placed] = symbol as u16;
                    if length <= FAST_BITS as usize {
                        let shift = FAST_BITS as usize - length;
                        let mut low = 0usize;
                        while low < 1 << shift {
                            code.fast[((next as usize) << shift) | low] =
                                (symbol as u8, length as u8);
                            low += 1;
                        }
                    }
                    next += 1;
                    placed += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        code.first_symbol[LENGTH_BITS_MAX + 1] = placed as u16;
        code
    }

    /// The symbol whose code, longer than `FAST_BITS`, starts `window` (left-aligned), and its length.
    fn slow(&self, window: u64) -> Option<(u16, u32)> {
        for length in FAST_BITS as usize + 1..=LENGTH_BITS_MAX {
            let bits = (window >> (64 - length)) as u32;
            let count = u32::from(self.first_symbol[length + 1] - self.first_symbol[length]);
            // A prefix of a longer code is larger than every code of this length, so one comparison decides.
            if bits < self.first_code[length] + count {
                let offset = bits.checked_sub(self.first_code[length])?;
                let symbol = self.symbols[usize::from(self.first_symbol[length]) + offset as usize];
                return Some((symbol, length as u32));
            }
        }
        None
    }
}

/// Appends the decoded string. `input` expands to at most 8/5 of its length.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.reserve(input.len() * 8 / 5 + 1);
    let mut window = 0u64; // undecoded bits, left-aligned
    let mut held = 0u32; // how many of them
    let mut rest = input;
    loop {
        while held <= 56 {
            let Some((&byte, tail)) = rest.split_first() else {
                break;
            };
            window |= u64::from(byte) << (56 - held);
            held += 8;
            rest = tail;
        }
        if held == 0 {
            return Ok(());
        }
        let (symbol, length) = CODE.fast[(window >> (64 - FAST_BITS)) as usize];
        let (symbol, length) = if length != 0 {
            (u16::from(symbol), u32::from(length))
        } else {
            // Only a run of ones at the very end has no code within the bits that are left.
            match CODE.slow(window) {
                Some(found) => found,
                None => return end(window, held),
            }
        };
        if length > held {
            return end(window, held);
        }
        if symbol == EOS {
            return Err(DecodeError::InvalidHuffman);
        }
        out.push(symbol as u8);
        window <<= length;
        held -= length;
    }
}

/// What is left at the end must be the start of EOS: ones, and fewer than eight.
fn end(window: u64, held: u32) -> Result<(), DecodeError> {
    if held < 8 && window >> (64 - held) == (1 << held) - 1 {
        Ok(())
    } else {
        Err(DecodeError::InvalidHuffman)
    }
}

/// Length in bytes of the encoded form.
pub(super) fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input
        .iter()
        .map(|&b| usize::from(LENGTH_BITS[usize::from(b)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the encoded form, padded with ones.
pub(super) fn encode(input: &[u8], out: &mut Vec<u8>) {
    let mut window = 0u64; // pending bits, right-aligned
    let mut held = 0u32;
    for &byte in input {
        let length = u32::from(LENGTH_BITS[usize::from(byte)]);
        window = window << length | u64::from(CODE.codes[usize::from(byte)]);
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((window >> held) as u8);
        }
    }
    if held > 0 {
        let pad = 8 - held;
        out.push((window << pad) as u8 | ((1u16 << pad) - 1) as u8);
    }
}
