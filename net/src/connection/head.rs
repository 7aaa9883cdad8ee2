//! What a header list must look like to be a request, a response or trailers (RFC 9113 section 8).

use crate::hpack::{Field, FieldList};

/// The message breaks a rule of section 8: its stream is reset with PROTOCOL_ERROR, and it counts as a glitch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A well-formed message head, borrowed from the decoded list.
#[derive(Debug, Clone, Copy)]
pub enum Head<'a> {
    Request(RequestHead<'a>),
    Response(ResponseHead<'a>),
    Trailers(&'a FieldList),
}

#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a [u8],
    pub scheme: &'a [u8],
    /// From `:authority`, else from `host`, else empty.
    pub authority: &'a [u8],
    /// Exactly as sent; it need not begin with a slash.
    pub path: &'a [u8],
    pub content_length: Option<u64>,
    /// All fields, pseudo-header fields included.
    pub fields: &'a FieldList,
}

#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    pub status: u16,
    pub content_length: Option<u64>,
    pub fields: &'a FieldList,
}

/// Bytes that a field name may hold: no upper case, no control or space, no colon, nothing beyond ASCII.
static NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !(byte >= b'A' as usize && byte <= b'Z' as usize) && byte != b':' as usize;
        byte += 1;
    }
    table
};

/// Bytes that a field value may not hold.
static VALUE_BREAKS: [bool; 256] = {
    let mut table = [false; 256];
    table[0] = true;
    table[b'\r' as usize] = true;
    table[b'\n' as usize] = true;
    table
};

fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) {
        return Err(Malformed("value begins or ends with a blank"));
    }
    if value.iter().any(|&b| VALUE_BREAKS[usize::from(b)]) {
        return Err(Malformed("control character in a value"));
    }
    Ok(())
}

/// Fields with rules of their own, among the regular ones.
#[derive(Debug, Default)]
struct Regular<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
}

impl<'a> Regular<'a> {
    fn check(&mut self, field: &Field<'a>) -> Result<(), Malformed> {
        if field.name.is_empty() || !field.name.iter().all(|&b| NAME_BYTES[usize::from(b)]) {
            return Err(Malformed("invalid field name"));
        }
        check_value(field.value)?;
        match field.name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => Err(Malformed("connection-specific field")),
            b"te" if field.value != b"trailers" => Err(Malformed("te other than trailers")),
            b"host" => match self.host.replace(field.value) {
                None => Ok(()),
                Some(_) => Err(Malformed("host repeated")),
            },
            b"content-length" => {
                let length =
                    parse_length(field.value).ok_or(Malformed("invalid content-length"))?;
                match self.content_length.replace(length) {
                    Some(other) if other != length => {
                        Err(Malformed("contradictory content-length"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Digits only, and few enough not to overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        value
            .iter()
            .fold(0, |sum, &digit| sum * 10 + u64::from(digit - b'0')),
    )
}

fn once<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Malformed> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed("pseudo-header field repeated")),
    }
}

pub(super) fn request(fields: &FieldList) -> Result<RequestHead<'_>, Malformed> {
    let (mut method, mut scheme, mut authority, mut path) = (None, None, None, None);
    let mut regular = Regular::default();
    let mut regular_seen = false;
    for field in fields.iter() {
        if field.name.first() != Some(&b':') {
            regular_seen = true;
            regular.check(&field)?;
            continue;
        }
        if regular_seen {
            return Err(Malformed("pseudo-header field after a regular one"));
        }
        check_value(field.value)?;
        match field.name {
            b":method" => once(&mut method, field.value)?,
            b":scheme" => once(&mut scheme, field.value)?,
            b":authority" => once(&mut authority, field.value)?,
            b":path" => once(&mut path, field.value)?,
            _ => return Err(Malformed("unknown pseudo-header field")),
        }
    }
    let method = method
        .filter(|m| !m.is_empty())
        .ok_or(Malformed(":method is missing"))?;
    if method == b"CONNECT" {
        return Err(Malformed("CONNECT"));
    }
    let authority = match (authority, regular.host) {
        (Some(authority), Some(host)) if authority != host => {
            return Err(Malformed(":authority and host differ"));
        }
        (authority, host) => authority.or(host).unwrap_or_default(),
    };
    Ok(RequestHead {
        method,
        scheme: scheme.ok_or(Malformed(":scheme is missing"))?,
        authority,
        path: path
            .filter(|p| !p.is_empty())
            .ok_or(Malformed(":path is missing"))?,
        content_length: regular.content_length,
        fields,
    })
}

pub(super) fn response(fields: &FieldList) -> Result<ResponseHead<'_>, Malformed> {
    let mut status = None;
    let mut regular = Regular::default();
    let mut regular_seen = false;
    for field in fields.iter() {
        match field.name {
            b":status" if !regular_seen => once(&mut status, field.value)?,
            [b':', ..] => return Err(Malformed("misplaced pseudo-header field")),
            _ => {
                regular_seen = true;
                regular.check(&field)?;
            }
        }
    }
    let status = status
        .filter(|s| s.len() == 3)
        .and_then(parse_length)
        .ok_or(Malformed("invalid :status"))?;
    Ok(ResponseHead {
        status: status as u16,
        content_length: regular.content_length,
        fields,
    })
}

pub(super) fn trailers(fields: &FieldList) -> Result<(), Malformed> {
    let mut regular = Regular::default();
    for field in fields.iter() {
        if field.name.first() == Some(&b':') {
            return Err(Malformed("pseudo-header field in trailers"));
        }
        regular.check(&field)?;
    }
    Ok(())
}
