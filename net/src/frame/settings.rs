//! SETTINGS (section 6.5).

use super::{flag, kind, u32_at, Error, Header, Reason, StreamId};
use crate::limits;

const ENTRY_BYTES: usize = 6;

/// Setting ids; others are ignored.
pub mod id {
    pub const HEADER_TABLE_SIZE: u16 = 0x1;
    pub const ENABLE_PUSH: u16 = 0x2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// What a frame changes; where an id comes twice the last one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    pub header_table_size: Option<u32>,
    /// The smallest value of HEADER_TABLE_SIZE in this frame: the encoder has to announce it too (RFC 7541 section 4.2).
    pub header_table_size_min: Option<u32>,
    pub enable_push: Option<bool>,
    pub max_concurrent_streams: Option<u32>,
    pub initial_window_size: Option<u32>,
    pub max_frame_size: Option<u32>,
    pub max_header_list_size: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Change(Settings),
    Ack,
}

impl Settings {
    pub fn parse(header: &Header, payload: &[u8]) -> Result<Frame, Error> {
        if !header.stream.is_connection() {
            return Err(Error::protocol("SETTINGS on a stream"));
        }
        if header.has(flag::ACK) {
            return match payload {
                [] => Ok(Frame::Ack),
                _ => Err(Error::frame_size("SETTINGS ACK with a payload")),
            };
        }
        if payload.len() % ENTRY_BYTES != 0 {
            return Err(Error::frame_size("SETTINGS not a multiple of 6 bytes"));
        }
        if payload.len() / ENTRY_BYTES > limits::SETTINGS_ENTRIES_MAX {
            return Err(Error::calm("too many settings in a frame"));
        }
        let mut settings = Settings::default();
        for entry in payload.chunks_exact(ENTRY_BYTES) {
            settings.set(u16::from_be_bytes([entry[0], entry[1]]), u32_at(entry, 2))?;
        }
        Ok(Frame::Change(settings))
    }

    fn set(&mut self, id: u16, value: u32) -> Result<(), Error> {
        match id {
            id::HEADER_TABLE_SIZE => {
                self.header_table_size = Some(value);
                self.header_table_size_min = Some(
                    self.header_table_size_min
                        .map_or(value, |min| min.min(value)),
                );
            }
            id::ENABLE_PUSH => match value {
                0 | 1 => self.enable_push = Some(value == 1),
                _ => return Err(Error::protocol("ENABLE_PUSH not 0 or 1")),
            },
            id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
            id::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > limits::WINDOW_BYTES_LIMIT {
                    return Err(Error::new(
                        Reason::FLOW_CONTROL_ERROR,
                        "INITIAL_WINDOW_SIZE above 2^31-1",
                    ));
                }
                self.initial_window_size = Some(value);
            }
            id::MAX_FRAME_SIZE => {
                if !(limits::FRAME_PAYLOAD_BYTES_MAX..=limits::FRAME_PAYLOAD_BYTES_LIMIT)
                    .contains(&value)
                {
                    return Err(Error::protocol("MAX_FRAME_SIZE out of range"));
                }
                self.max_frame_size = Some(value);
            }
            id::MAX_HEADER_LIST_SIZE => self.max_header_list_size = Some(value),
            _ => {}
        }
        Ok(())
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        Header {
            length: 0,
            kind: kind::SETTINGS,
            flags: 0,
            stream: StreamId::CONNECTION,
        }
        .encode(out);
        let entries = [
            (id::HEADER_TABLE_SIZE, self.header_table_size),
            (id::ENABLE_PUSH, self.enable_push.map(u32::from)),
            (id::MAX_CONCURRENT_STREAMS, self.max_concurrent_streams),
            (id::INITIAL_WINDOW_SIZE, self.initial_window_size),
            (id::MAX_FRAME_SIZE, self.max_frame_size),
            (id::MAX_HEADER_LIST_SIZE, self.max_header_list_size),
        ];
        for (id, value) in entries {
            if let Some(value) = value {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
        Header::patch_length(out, at);
    }

    pub fn encode_ack(out: &mut Vec<u8>) {
        Header {
            length: 0,
            kind: kind::SETTINGS,
            flags: flag::ACK,
            stream: StreamId::CONNECTION,
        }
        .encode(out);
    }
}
