//! Unsigned LEB128 numbers, as protobuf writes them.

/// Longest encoding of a 64-bit number.
pub const VARINT_BYTES_MAX: usize = 10;

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn varint_len(value: u64) -> usize {
    // 1 byte per started group of 7 bits; zero takes one byte as well.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes one number off the front of `input`.
pub fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, &byte) in input.iter().enumerate().take(VARINT_BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        if i == VARINT_BYTES_MAX - 1 && byte > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte < 0x80 {
            *input = &input[i + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_lengths_agree() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, !0 >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value));
                let mut rest = &out[..];
                assert_eq!(take_varint(&mut rest), Some(value));
                assert!(rest.is_empty());
            }
        }
        assert_eq!(take_varint(&mut &[0x80u8; 12][..]), None);
        assert_eq!(take_varint(&mut &[0x80u8][..]), None);
    }
}
