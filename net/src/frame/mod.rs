//! HTTP/2 frames (RFC 9113 sections 4 and 6): one file per type, `parse` and `encode` side by side.
//!
//! This floor knows bytes and single frames, no connection state. A parse error here always is a connection error: where
//! the RFC leaves the choice we take it, because no conforming peer sends such a frame.

pub mod continuation;
pub mod data;
pub mod go_away;
pub mod headers;
pub mod ping;
pub mod priority;
pub mod push_promise;
pub mod reset;
pub mod settings;
pub mod window_update;

use std::fmt;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 9;

/// The client's first bytes (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types. Others are skipped.
pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

/// Flags, each defined for some types only and ignored on the others.
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// A stream of one connection; 0 is the connection itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(u32);

impl StreamId {
    pub const CONNECTION: StreamId = StreamId(0);
    pub const MAX: StreamId = StreamId((1 << 31) - 1);

    /// The reserved bit is dropped.
    pub const fn new(id: u32) -> StreamId {
        StreamId(id & StreamId::MAX.0)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    pub const fn is_connection(self) -> bool {
        self.0 == 0
    }

    /// Clients open odd streams, servers even ones.
    pub const fn is_client_initiated(self) -> bool {
        self.0 % 2 == 1
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// Error codes of RST_STREAM and GOAWAY (RFC 9113 section 7). Unknown ones are legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    pub const NO_ERROR: Reason = Reason(0x0);
    pub const PROTOCOL_ERROR: Reason = Reason(0x1);
    pub const INTERNAL_ERROR: Reason = Reason(0x2);
    pub const FLOW_CONTROL_ERROR: Reason = Reason(0x3);
    pub const SETTINGS_TIMEOUT: Reason = Reason(0x4);
    pub const STREAM_CLOSED: Reason = Reason(0x5);
    pub const FRAME_SIZE_ERROR: Reason = Reason(0x6);
    pub const REFUSED_STREAM: Reason = Reason(0x7);
    pub const CANCEL: Reason = Reason(0x8);
    pub const COMPRESSION_ERROR: Reason = Reason(0x9);
    pub const ENHANCE_YOUR_CALM: Reason = Reason(0xb);
}

/// What ends a connection: the GOAWAY's code and its debug data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    pub reason: Reason,
    pub text: &'static str,
}

impl Error {
    pub const fn new(reason: Reason, text: &'static str) -> Error {
        Error { reason, text }
    }

    pub const fn protocol(text: &'static str) -> Error {
        Error::new(Reason::PROTOCOL_ERROR, text)
    }

    pub const fn frame_size(text: &'static str) -> Error {
        Error::new(Reason::FRAME_SIZE_ERROR, text)
    }

    pub const fn calm(text: &'static str) -> Error {
        Error::new(Reason::ENHANCE_YOUR_CALM, text)
    }
}

/// The nine bytes before every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: StreamId,
}

impl Header {
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Header {
        Header {
            length: u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]),
            kind: bytes[3],
            flags: bytes[4],
            stream: StreamId::new(u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]])),
        }
    }

    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let length = self.length.to_be_bytes();
        let stream = self.stream.0.to_be_bytes();
        [
            length[1], length[2], length[3], self.kind, self.flags, stream[0], stream[1],
            stream[2], stream[3],
        ]
    }

    #[inline]
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Overwrites the length of the frame whose header begins at `at` with what follows it in `out`.
    #[inline]
    pub(crate) fn patch_length(out: &mut [u8], at: usize) {
        let length = (out.len() - at - HEADER_BYTES) as u32;
        out[at..at + 3].copy_from_slice(&length.to_be_bytes()[1..]);
    }
}

/// Removes the pad length byte and the padding of DATA and HEADERS (sections 6.1, 6.2).
fn unpad(header: &Header, payload: &[u8]) -> Result<usize, Error> {
    if !header.has(flag::PADDED) {
        return Ok(0);
    }
    let Some(&pad) = payload.first() else {
        return Err(Error::frame_size("padded frame without pad length"));
    };
    if usize::from(pad) >= payload.len() {
        return Err(Error::protocol("padding longer than the frame"));
    }
    Ok(usize::from(pad))
}

fn u32_at(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([
        payload[at],
        payload[at + 1],
        payload[at + 2],
        payload[at + 3],
    ])
}
