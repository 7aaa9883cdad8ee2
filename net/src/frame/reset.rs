//! RST_STREAM (section 6.4).

use super::{kind, u32_at, Error, Header, Reason, StreamId};

const PAYLOAD_BYTES: usize = 4;

#[derive(Debug, PartialEq, Eq)]
pub struct Reset {
    pub reason: Reason,
}

impl Reset {
    pub fn parse(header: &Header, payload: &[u8]) -> Result<Reset, Error> {
        if header.stream.is_connection() {
            return Err(Error::protocol("RST_STREAM on stream 0"));
        }
        if payload.len() != PAYLOAD_BYTES {
            return Err(Error::frame_size("RST_STREAM not of 4 bytes"));
        }
        Ok(Reset {
            reason: Reason(u32_at(payload, 0)),
        })
    }

    pub fn encode(&self, stream: StreamId, out: &mut Vec<u8>) {
        Header {
            length: PAYLOAD_BYTES as u32,
            kind: kind::RST_STREAM,
            flags: 0,
            stream,
        }
        .encode(out);
        out.extend_from_slice(&self.reason.0.to_be_bytes());
    }
}
