//! CONTINUATION (section 6.10).

use super::{flag, kind, Error, Header, StreamId};

#[derive(Debug, PartialEq, Eq)]
pub struct Continuation<'a> {
    pub fragment: &'a [u8],
    pub end_headers: bool,
}

impl<'a> Continuation<'a> {
    pub fn parse(header: &Header, payload: &'a [u8]) -> Result<Continuation<'a>, Error> {
        if header.stream.is_connection() {
            return Err(Error::protocol("CONTINUATION on stream 0"));
        }
        Ok(Continuation {
            fragment: payload,
            end_headers: header.has(flag::END_HEADERS),
        })
    }

    /// The caller appends the fragment.
    pub fn header(stream: StreamId, length: usize, end_headers: bool) -> Header {
        let flags = if end_headers { flag::END_HEADERS } else { 0 };
        Header {
            length: length as u32,
            kind: kind::CONTINUATION,
            flags,
            stream,
        }
    }
}
