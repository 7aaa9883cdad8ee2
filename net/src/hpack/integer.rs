//! Integers with an N-bit prefix (RFC 7541 section 5.1).

use super::DecodeError;

/// Continuation bytes accepted. Five carry 35 bits, enough for any 32-bit value.
const CONTINUATION_BYTES_MAX: u32 = 5;

/// Reads the integer whose prefix is the low `prefix_bits` of `block[*at]`, and moves `at` behind it.
#[inline]
pub(super) fn decode(block: &[u8], at: &mut usize, prefix_bits: u32) -> Result<u32, DecodeError> {
    let first = *block.get(*at).ok_or(DecodeError::Truncated)?;
    *at += 1;
    let mask = (1u32 << prefix_bits) - 1;
    let value = u32::from(first) & mask;
    if value < mask {
        return Ok(value);
    }
    let mut total = u64::from(mask);
    for round in 0..CONTINUATION_BYTES_MAX {
        let byte = *block.get(*at).ok_or(DecodeError::Truncated)?;
        *at += 1;
        total += u64::from(byte & 0x7f) << (7 * round);
        if byte & 0x80 == 0 {
            return u32::try_from(total).map_err(|_| DecodeError::IntegerOverflow);
        }
    }
    Err(DecodeError::IntegerOverflow)
}

/// Appends `value` with the given prefix; `pattern` holds the bits above the prefix.
#[inline]
pub(super) fn encode(value: usize, prefix_bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
