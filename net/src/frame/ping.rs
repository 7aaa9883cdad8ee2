//! PING (section 6.7).

use super::{flag, kind, Error, Header, StreamId};

const PAYLOAD_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    pub payload: [u8; PAYLOAD_BYTES],
    pub ack: bool,
}

impl Ping {
    pub fn parse(header: &Header, payload: &[u8]) -> Result<Ping, Error> {
        if !header.stream.is_connection() {
            return Err(Error::protocol("PING on a stream"));
        }
        let payload = payload
            .try_into()
            .map_err(|_| Error::frame_size("PING not of 8 bytes"))?;
        Ok(Ping {
            payload,
            ack: header.has(flag::ACK),
        })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.ack { flag::ACK } else { 0 };
        Header {
            length: PAYLOAD_BYTES as u32,
            kind: kind::PING,
            flags,
            stream: StreamId::CONNECTION,
        }
        .encode(out);
        out.extend_from_slice(&self.payload);
    }
}
