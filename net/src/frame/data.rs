//! DATA (section 6.1).

use super::{flag, kind, unpad, Error, Header, StreamId};

#[derive(Debug, PartialEq, Eq)]
pub struct Data<'a> {
    pub data: &'a [u8],
    pub end_stream: bool,
}

impl<'a> Data<'a> {
    #[inline]
    pub fn parse(header: &Header, payload: &'a [u8]) -> Result<Data<'a>, Error> {
        if header.stream.is_connection() {
            return Err(Error::protocol("DATA on stream 0"));
        }
        let end_stream = header.has(flag::END_STREAM);
        if !header.has(flag::PADDED) {
            return Ok(Data {
                data: payload,
                end_stream,
            });
        }
        let pad = unpad(header, payload)?;
        Ok(Data {
            data: &payload[1..payload.len() - pad],
            end_stream,
        })
    }

    /// The header of an unpadded frame; the caller appends `length` bytes.
    #[inline]
    pub fn header(stream: StreamId, length: usize, end_stream: bool) -> Header {
        let flags = if end_stream { flag::END_STREAM } else { 0 };
        Header {
            length: length as u32,
            kind: kind::DATA,
            flags,
            stream,
        }
    }
}
