//! Status codes and messages.

use crate::hpack::{Field, FieldList};
use crate::limits;

/// gRPC status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    pub const OK: Code = Code(0);
    pub const CANCELLED: Code = Code(1);
    pub const UNKNOWN: Code = Code(2);
    pub const INVALID_ARGUMENT: Code = Code(3);
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    pub const UNIMPLEMENTED: Code = Code(12);
    pub const INTERNAL: Code = Code(13);
    pub const UNAVAILABLE: Code = Code(14);
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
        }
    }

    pub fn internal(message: impl Into<String>) -> Status {
        Status::new(Code::INTERNAL, message)
    }
}

/// Appends `grpc-status` and, if there is one, `grpc-message`.
pub(super) fn push_status(fields: &mut FieldList, code: u32, message: &str) {
    let mut digits = [0u8; 10];
    fields.push(Field::without_indexing(
        b"grpc-status",
        decimal(code, &mut digits),
    ));
    if !message.is_empty() {
        fields.push(Field::without_indexing(
            b"grpc-message",
            &percent_encode(message),
        ));
    }
}

fn decimal(mut value: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

/// Bytes outside of 0x20..=0x7e and the percent sign become %XX (gRPC over HTTP/2, "Status-Message"). The value may
/// not end in a blank either, which HTTP/2 forbids.
pub(super) fn percent_encode(message: &str) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut cut = message.len().min(limits::STATUS_MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(cut) {
        cut -= 1;
    }
    let bytes = &message.as_bytes()[..cut];
    let mut out = Vec::with_capacity(bytes.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let outer_blank = byte == b' ' && (at == 0 || at + 1 == bytes.len());
        if (0x20..=0x7e).contains(&byte) && byte != b'%' && !outer_blank {
            out.push(byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
    out
}

/// The reverse, lenient: what is no valid escape stays as it is.
pub(super) fn percent_decode(value: &[u8]) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|&b| char::from(b).to_digit(16));
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        if value[at] == b'%' {
            if let (Some(high), Some(low)) = (digit(value.get(at + 1)), digit(value.get(at + 2))) {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
        }
        out.push(value[at]);
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
