//! Frames of the two streams.
//!
//! `message`: a length of eight bytes, big endian, and a Raft message. `msgapp` carries appends only and saves what the
//! connection knows already: a type byte, then nothing (a heartbeat of the link), or count, entries and commit index of an
//! append that continues the one before it, or a whole message. Both ends keep the term and the index that the next append
//! is expected to continue.
//!
//! Between ringd members a head of eight bytes stands before each frame, its length and the CRC32 of that, and behind it the
//! CRC32 of the frame: a damaged length is noticed at once, and does not have the reader wait for bytes that never come.

use super::FRAME_BYTES_MAX;
use crate::planted::{planted, Fault};
use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use std::ops::Range;

const HEARTBEAT: u8 = 0;
const APPEND: u8 = 1;
const WHOLE: u8 = 2;
const LENGTH_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// Between ringd members, before a frame.
pub(crate) const HEAD_BYTES: usize = 8;
/// Largest frame with what stands around its message or entries.
const SEALED_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;

/// The heartbeat of a message stream: a Raft heartbeat from nobody to nobody, with every field in place as etcd 3.5
/// writes it.
const LINK_HEARTBEAT: [u8; 30] = [
    0x08, 0x08, 0x10, 0, 0x18, 0, 0x20, 0, 0x28, 0, 0x30, 0, 0x40, 0, 0x4a, 0x0a, 0x12, 0x08, 0x0a,
    0x02, 0x28, 0, 0x10, 0, 0x18, 0, 0x50, 0, 0x58, 0,
];

/// The streams between two members, by direction two of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Message,
    Append,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Message, Kind::Append];

    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Append => "msgapp",
        }
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What the next append of a connection continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    term: u64,
    index: u64,
}

impl Place {
    fn after(message: &Message) -> Place {
        let last = message.entries.last();
        Place {
            term: message.term(),
            index: last.map_or(message.index(), |entry| entry.index()),
        }
    }
}

/// The writing end of a stream.
#[derive(Debug)]
pub struct Encoder {
    kind: Kind,
    checksums: bool,
    place: Place,
    /// The frame being put together.
    frame: Vec<u8>,
}

impl Encoder {
    pub fn new(kind: Kind, checksums: bool) -> Encoder {
        Encoder {
            kind,
            checksums,
            place: Place::default(),
            frame: Vec::new(),
        }
    }

    /// The frame of a message; an append, if this is a msgapp stream.
    pub fn message(&mut self, message: &Message) -> &[u8] {
        self.begin();
        let continues = message.index() == self.place.index
            && message.log_term() == self.place.term
            && message.term() == self.place.term;
        match self.kind {
            Kind::Message => put_message(&mut self.frame, message),
            Kind::Append if continues => {
                self.frame.push(APPEND);
                put_number(&mut self.frame, message.entries.len() as u64);
                for entry in &message.entries {
                    put_message(&mut self.frame, entry);
                }
                put_number(&mut self.frame, message.commit());
                self.place.index += message.entries.len() as u64;
            }
            Kind::Append => {
                self.frame.push(WHOLE);
                put_message(&mut self.frame, message);
                self.place = Place::after(message);
            }
        }
        self.sealed()
    }

    /// The frame that says that the link is alive.
    pub fn heartbeat(&mut self) -> &[u8] {
        self.begin();
        match self.kind {
            Kind::Message => {
                put_number(&mut self.frame, LINK_HEARTBEAT.len() as u64);
                self.frame.extend_from_slice(&LINK_HEARTBEAT);
            }
            Kind::Append => self.frame.push(HEARTBEAT),
        }
        self.sealed()
    }

    fn begin(&mut self) {
        self.frame.clear();
        if self.checksums {
            self.frame.extend_from_slice(&[0; HEAD_BYTES]);
        }
    }

    fn sealed(&mut self) -> &[u8] {
        if self.checksums {
            seal_frame(&mut self.frame);
        }
        &self.frame
    }

    /// Gives the memory of an unusually large frame back.
    pub fn shrink(&mut self, bytes: usize) {
        self.frame.clear();
        self.frame.shrink_to(bytes);
    }
}

/// Completes a frame between ringd members, before which there is room for the head.
pub(crate) fn seal_frame(frame: &mut Vec<u8>) {
    let content = &frame[HEAD_BYTES..];
    let head = head_of(content.len());
    let checksum = crc32fast::hash(content);
    frame[..HEAD_BYTES].copy_from_slice(&head);
    frame.extend_from_slice(&checksum.to_be_bytes());
}

/// The head of a frame of this length, which [`SEALED_BYTES_MAX`] bounds.
fn head_of(length: usize) -> [u8; HEAD_BYTES] {
    let length = (length as u32).to_be_bytes();
    let checksum = crc32fast::hash(&length).to_be_bytes();
    let mut head = [0; HEAD_BYTES];
    head[..length.len()].copy_from_slice(&length);
    head[length.len()..].copy_from_slice(&checksum);
    head
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_message(out: &mut Vec<u8>, message: &impl prost::Message) {
    put_number(out, message.encoded_len() as u64);
    // A vector takes whatever is put into it.
    let _ = message.encode(out);
}

/// What came by a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    Heartbeat,
    Message(Box<Message>),
}

/// Why a stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    TooLarge,
    Checksum,
    UnknownType,
    /// A message or an entry that is none.
    Malformed,
}

impl FrameError {
    pub fn text(self) -> &'static str {
        match self {
            FrameError::TooLarge => "a frame is larger than 64 MiB",
            FrameError::Checksum => "a frame was damaged on its way: its checksum does not fit",
            FrameError::UnknownType => "a frame is of an unknown type",
            FrameError::Malformed => "a frame holds no Raft message",
        }
    }
}

/// The reading end of a stream.
#[derive(Debug)]
pub struct Decoder {
    kind: Kind,
    checksums: bool,
    /// Who sends, and who receives: appends that continue others do not say.
    from: u64,
    to: u64,
    place: Place,
    buffer: Vec<u8>,
    consumed: usize,
    /// Entries of an incomplete append that are here already, and where the next one begins.
    scanned: Option<(u64, usize)>,
}

impl Decoder {
    pub fn new(kind: Kind, checksums: bool, from: u64, to: u64) -> Decoder {
        Decoder {
            kind,
            checksums,
            from,
            to,
            place: Place::default(),
            buffer: Vec::new(),
            consumed: 0,
            scanned: None,
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of a frame that is incomplete.
    pub fn held_bytes(&self) -> usize {
        self.buffer.len() - self.consumed
    }

    /// The next frame, if all of it is here. After an error the stream is of no use.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(frame) = self.complete()? else {
            if self.consumed > 0 {
                self.buffer.drain(..self.consumed);
                self.consumed = 0;
            }
            return Ok(None);
        };
        self.scanned = None;
        let content = &self.buffer[self.consumed + frame.start..self.consumed + frame.end];
        self.consumed += frame.end + if self.checksums { CHECKSUM_BYTES } else { 0 };
        // What a message holds stays in memory for long: in a piece of its own, not in one with everything around it.
        let content = Bytes::copy_from_slice(content);
        let frame = match self.kind {
            Kind::Message => whole(content.slice(LENGTH_BYTES..))?,
            Kind::Append => match content[0] {
                HEARTBEAT => Frame::Heartbeat,
                WHOLE => {
                    let frame = whole(content.slice(1 + LENGTH_BYTES..))?;
                    if let (Frame::Message(message), false) =
                        (&frame, planted(Fault::PlaceForgotten))
                    {
                        self.place = Place::after(message);
                    }
                    frame
                }
                _ => self.append(content)?,
            },
        };
        if self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
        }
        Ok(Some(frame))
    }

    /// Where the next frame lies in what waits, if all of it is here.
    fn complete(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        let waiting = &self.buffer[self.consumed..];
        if self.checksums {
            return sealed_frame(self.kind, waiting);
        }
        let end = frame_end(self.kind, waiting, &mut self.scanned)?;
        Ok(end.filter(|end| *end <= waiting.len()).map(|end| 0..end))
    }

    /// An append that continues the one before it.
    fn append(&mut self, content: Bytes) -> Result<Frame, FrameError> {
        let count = number(&content, 1).ok_or(FrameError::Malformed)?;
        let mut at = 1 + LENGTH_BYTES;
        let mut entries = Vec::new();
        for _ in 0..count {
            let length = number(&content, at).ok_or(FrameError::Malformed)? as usize;
            at += LENGTH_BYTES;
            let entry = content.slice(at..at + length);
            entries.push(Entry::decode(entry).map_err(|_| FrameError::Malformed)?);
            at += length;
        }
        let commit = number(&content, at).ok_or(FrameError::Malformed)?;
        let message = Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(self.from),
            to: Some(self.to),
            term: Some(self.place.term),
            log_term: Some(self.place.term),
            index: Some(self.place.index),
            entries,
            commit: Some(commit),
            ..Default::default()
        };
        self.place.index = self
            .place
            .index
            .checked_add(count)
            .ok_or(FrameError::Malformed)?;
        Ok(Frame::Message(Box::new(message)))
    }
}

/// The frame behind its head, if it and its checksum are here.
fn sealed_frame(kind: Kind, waiting: &[u8]) -> Result<Option<Range<usize>>, FrameError> {
    let Some((length, _)) = waiting.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    let Some(head) = waiting.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    if *head != head_of(length) {
        return Err(FrameError::Checksum);
    }
    if length > SEALED_BYTES_MAX {
        return Err(FrameError::TooLarge);
    }
    let frame = HEAD_BYTES..HEAD_BYTES + length;
    let Some(checksum) = waiting.get(frame.end..frame.end + CHECKSUM_BYTES) else {
        return Ok(None);
    };
    let content = &waiting[frame.clone()];
    if crc32fast::hash(content).to_be_bytes() != checksum {
        return Err(FrameError::Checksum);
    }
    match frame_end(kind, content, &mut None)? {
        Some(end) if end == length => Ok(Some(frame)),
        _ => Err(FrameError::Malformed),
    }
}

/// Where the first of these frames ends, if enough of it is here to tell; `scanned` remembers how far an append was followed.
fn frame_end(
    kind: Kind,
    waiting: &[u8],
    scanned: &mut Option<(u64, usize)>,
) -> Result<Option<usize>, FrameError> {
    let sized = |at: usize| -> Result<Option<usize>, FrameError> {
        match number(waiting, at) {
            None => Ok(None),
            Some(length) if length > FRAME_BYTES_MAX as u64 => Err(FrameError::TooLarge),
            Some(length) => Ok(Some(at + LENGTH_BYTES + length as usize)),
        }
    };
    match (kind, waiting.first()) {
        (_, None) => Ok(None),
        (Kind::Message, _) => sized(0),
        (Kind::Append, Some(&HEARTBEAT)) => Ok(Some(1)),
        (Kind::Append, Some(&WHOLE)) => sized(1),
        (Kind::Append, Some(&APPEND)) => {
            let Some(count) = number(waiting, 1) else {
                return Ok(None);
            };
            let (mut seen, mut at) = scanned.unwrap_or((0, 1 + LENGTH_BYTES));
            while seen < count {
                match sized(at)? {
                    Some(end) if end > FRAME_BYTES_MAX => return Err(FrameError::TooLarge),
                    Some(end) if end <= waiting.len() => (seen, at) = (seen + 1, end),
                    _ => break,
                }
            }
            *scanned = Some((seen, at));
            Ok((seen == count).then_some(at + LENGTH_BYTES))
        }
        (Kind::Append, Some(_)) => Err(FrameError::UnknownType),
    }
}

fn whole(bytes: Bytes) -> Result<Frame, FrameError> {
    let message = Message::decode(bytes).map_err(|_| FrameError::Malformed)?;
    let from_nobody = message.from() == 0 && message.to() == 0;
    match message.r#type() {
        MessageType::MsgHeartbeat if from_nobody => Ok(Frame::Heartbeat),
        _ => Ok(Frame::Message(Box::new(message))),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk::<LENGTH_BYTES>()?;
    Some(u64::from_be_bytes(*bytes))
}

/// The body of a posted piece of a snapshot: the message that it belongs to, and the bytes.
pub fn encode_piece(message: &Message, bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(LENGTH_BYTES + message.encoded_len() + bytes.len());
    put_message(&mut body, message);
    body.extend_from_slice(bytes);
    body
}

pub fn decode_piece(body: &Bytes) -> Result<(Message, Bytes), FrameError> {
    let length = number(body, 0).ok_or(FrameError::Malformed)?;
    let length = usize::try_from(length).map_err(|_| FrameError::TooLarge)?;
    let end = LENGTH_BYTES
        .checked_add(length)
        .filter(|end| *end <= body.len())
        .ok_or(FrameError::Malformed)?;
    let message = Message::decode(body.slice(LENGTH_BYTES..end));
    let message = message.map_err(|_| FrameError::Malformed)?;
    Ok((message, body.slice(end..)))
}
