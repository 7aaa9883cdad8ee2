//! PRIORITY (section 6.3): parsed to be checked, then dropped. There is no tree that could be churned.

use super::{kind, Error, Header, StreamId};

const PAYLOAD_BYTES: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub struct Priority;

impl Priority {
    /// A stream that depends on itself is ignored with the rest.
    pub fn parse(header: &Header, payload: &[u8]) -> Result<Priority, Error> {
        if header.stream.is_connection() {
            return Err(Error::protocol("PRIORITY on stream 0"));
        }
        if payload.len() != PAYLOAD_BYTES {
            return Err(Error::frame_size("PRIORITY not of 5 bytes"));
        }
        Ok(Priority)
    }

    pub fn encode(stream: StreamId, dependency: StreamId, weight: u8, out: &mut Vec<u8>) {
        Header {
            length: PAYLOAD_BYTES as u32,
            kind: kind::PRIORITY,
            flags: 0,
            stream,
        }
        .encode(out);
        out.extend_from_slice(&dependency.get().to_be_bytes());
        out.push(weight);
    }
}
