//! GOAWAY (section 6.8).

use super::{kind, u32_at, Error, Header, Reason, StreamId};

const FIXED_BYTES: usize = 8;

#[derive(Debug, PartialEq, Eq)]
pub struct GoAway<'a> {
    pub last: StreamId,
    pub reason: Reason,
    pub debug: &'a [u8],
}

impl<'a> GoAway<'a> {
    pub fn parse(header: &Header, payload: &'a [u8]) -> Result<GoAway<'a>, Error> {
        if !header.stream.is_connection() {
            return Err(Error::protocol("GOAWAY on a stream"));
        }
        if payload.len() < FIXED_BYTES {
            return Err(Error::frame_size("GOAWAY shorter than 8 bytes"));
        }
        Ok(GoAway {
            last: StreamId::new(u32_at(payload, 0)),
            reason: Reason(u32_at(payload, 4)),
            debug: &payload[FIXED_BYTES..],
        })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = (FIXED_BYTES + self.debug.len()) as u32;
        Header {
            length,
            kind: kind::GOAWAY,
            flags: 0,
            stream: StreamId::CONNECTION,
        }
        .encode(out);
        out.extend_from_slice(&self.last.get().to_be_bytes());
        out.extend_from_slice(&self.reason.0.to_be_bytes());
        out.extend_from_slice(self.debug);
    }
}
