//! WINDOW_UPDATE (section 6.9).

use super::{kind, u32_at, Error, Header, StreamId};

const PAYLOAD_BYTES: usize = 4;
const INCREMENT_MASK: u32 = (1 << 31) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowUpdate {
    pub increment: u32,
}

impl WindowUpdate {
    pub fn parse(_header: &Header, payload: &[u8]) -> Result<WindowUpdate, Error> {
        if payload.len() != PAYLOAD_BYTES {
            return Err(Error::frame_size("WINDOW_UPDATE not of 4 bytes"));
        }
        let increment = u32_at(payload, 0) & INCREMENT_MASK;
        if increment == 0 {
            // A stream error in the RFC when it is on a stream; see section 5.4.1, and CVE-2025-8671.
            return Err(Error::protocol("WINDOW_UPDATE of 0"));
        }
        Ok(WindowUpdate { increment })
    }

    pub fn encode(&self, stream: StreamId, out: &mut Vec<u8>) {
        Header {
            length: PAYLOAD_BYTES as u32,
            kind: kind::WINDOW_UPDATE,
            flags: 0,
            stream,
        }
        .encode(out);
        out.extend_from_slice(&self.increment.to_be_bytes());
    }
}
