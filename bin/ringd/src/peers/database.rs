//! Databases of etcd's, by which members that are no ringd send and take snapshots: one request that carries the Raft
//! message, its length before it, and behind it the database up to the end of the body.
//!
//! What comes in is handed on in pieces, and nothing more is read from the connection before a piece was taken. What is sent
//! is asked for as the connection takes it.

use bytes::Bytes;
use net::peer::FRAME_BYTES_MAX;
use prost::Message as _;
use proto::raftpb::Message;

/// Bytes that are handed on together.
pub const PIECE_BYTES: usize = 1 << 20;
const LENGTH_BYTES: usize = 8;

/// The body of a request that brings a database.
#[derive(Default)]
pub struct Body {
    waiting: Vec<u8>,
    message: Option<Message>,
    /// Bytes of the database that were handed on.
    offset: u64,
    has_ended: bool,
    /// The last piece was handed on.
    is_given: bool,
    /// A piece is being taken.
    is_busy: bool,
}

/// A part of the database.
pub struct Part {
    pub message: Message,
    pub offset: u64,
    pub bytes: Bytes,
    pub last: bool,
}

/// The request is none that can be taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl Body {
    pub fn held_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// Whether more of it is to be read.
    pub fn wants_input(&self) -> bool {
        !self.is_busy || self.waiting.len() < PIECE_BYTES
    }

    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    pub fn end(&mut self) {
        self.has_ended = true;
    }

    /// A piece was taken.
    pub fn taken(&mut self) {
        self.is_busy = false;
    }

    /// The next part, if enough has come.
    pub fn next(&mut self) -> Result<Option<Part>, Malformed> {
        if self.is_busy || self.is_given || (self.message.is_none() && !self.take_message()?) {
            return Ok(None);
        }
        let count = self.waiting.len().min(PIECE_BYTES);
        let last = self.has_ended && count == self.waiting.len();
        let Some(message) = self
            .message
            .clone()
            .filter(|_| last || count == PIECE_BYTES)
        else {
            return Ok(None);
        };
        let rest = self.waiting.split_off(count);
        let bytes = Bytes::from(std::mem::replace(&mut self.waiting, rest));
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        self.is_busy = true;
        self.is_given = last;
        Ok(Some(Part {
            message,
            offset,
            bytes,
            last,
        }))
    }

    fn take_message(&mut self) -> Result<bool, Malformed> {
        let cut = Malformed("error reading raft message");
        let Some(length) = self.waiting.first_chunk::<LENGTH_BYTES>() else {
            return self.or_cut(cut);
        };
        let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(cut);
        }
        let end = LENGTH_BYTES + length;
        if self.waiting.len() < end {
            return self.or_cut(cut);
        }
        let rest = self.waiting.split_off(end);
        let message = Bytes::from(std::mem::replace(&mut self.waiting, rest));
        let message = Message::decode(message.slice(LENGTH_BYTES..));
        let message = message.map_err(|_| Malformed("error unmarshalling raft message"))?;
        self.message = Some(message);
        Ok(true)
    }

    fn or_cut(&self, cut: Malformed) -> Result<bool, Malformed> {
        match self.has_ended {
            true => Err(cut),
            false => Ok(false),
        }
    }
}
