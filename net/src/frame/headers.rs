//! HEADERS (section 6.2).

use super::{flag, kind, unpad, Error, Header, StreamId};

/// Dependency and weight, which we do not use (RFC 9113 section 5.3.2 deprecates them).
const PRIORITY_BYTES: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    pub fragment: &'a [u8],
    pub end_stream: bool,
    pub end_headers: bool,
}

impl<'a> Headers<'a> {
    #[inline]
    pub fn parse(header: &Header, payload: &'a [u8]) -> Result<Headers<'a>, Error> {
        if header.stream.is_connection() {
            return Err(Error::protocol("HEADERS on stream 0"));
        }
        let mut fragment = payload;
        if header.has(flag::PADDED) {
            let pad = unpad(header, payload)?;
            fragment = &payload[1..payload.len() - pad];
        }
        if header.has(flag::PRIORITY) {
            fragment = fragment
                .get(PRIORITY_BYTES..)
                .ok_or(Error::frame_size("HEADERS shorter than its priority"))?;
        }
        Ok(Headers {
            fragment,
            end_stream: header.has(flag::END_STREAM),
            end_headers: header.has(flag::END_HEADERS),
        })
    }

    /// The header of a frame without padding and priority; the caller appends the fragment.
    #[inline]
    pub fn header(stream: StreamId, length: usize, end_stream: bool, end_headers: bool) -> Header {
        let mut flags = 0;
        if end_stream {
            flags |= flag::END_STREAM;
        }
        if end_headers {
            flags |= flag::END_HEADERS;
        }
        Header {
            length: length as u32,
            kind: kind::HEADERS,
            flags,
            stream,
        }
    }
}
