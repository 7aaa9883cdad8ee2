//! Databases of etcd's, by which members that are no ringd send and take snapshots: one request that carries the Raft
//! message, its length before it, and behind it the database up to the end of the body.
//!
//! What comes in is handed on in pieces, and nothing more is read from the connection before a piece was taken. What is sent
//! is asked for as the connection takes it.

use super::{
    connection::{End, Lost},
    exchange::Exchange,
    routes::Answer,
    snapshot::{Incoming, Step, REFUSED_NS},
    Transport,
};
use crate::member::{Input, SnapshotChunk, SnapshotFormat};
use bytes::Bytes;
use net::peer::FRAME_BYTES_MAX;
use prost::Message as _;
use proto::raftpb::{Message, MessageType};

/// Bytes that are handed on together.
pub const PIECE_BYTES: usize = 1 << 20;
const LENGTH_BYTES: usize = 8;
/// Bytes of a database that may wait for its connection to take them.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// A database of which the connection takes nothing for this long is given up...
const TAKE_NS_MAX: u64 = 30_000_000_000;
/// ...and so is one that is all sent when no answer comes: the receiver makes it durable before.
const ANSWER_NS_MAX: u64 = 300_000_000_000;

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

/// Databases to members that are etcds.
impl Transport {
    /// The first bytes are there: the Raft message, and with it the way is known.
    pub(super) fn begin_database(&mut self, id: u64, bytes: &[u8], last: bool, now_ns: u64) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(sending) = &mut peer.sending else {
            return;
        };
        sending.place = bytes.len() as u64;
        sending.step = Step::Streaming {
            connection: None,
            asked: false,
            ended: last,
        };
        peer.queues.piece = Some(Exchange::Database {
            id: sending.id,
            first: Bytes::copy_from_slice(bytes),
        });
        self.pump(id, now_ns);
    }

    /// The request has a connection, which is being opened.
    pub(super) fn database_begun(&mut self, id: u64, snapshot: u64, opened: u32) {
        let mut is_whole = false;
        if let Some(sending) = self.sending(id, snapshot) {
            if let Step::Streaming {
                connection, ended, ..
            } = &mut sending.step
            {
                *connection = Some(opened);
                is_whole = *ended;
            }
        }
        let end = self.connections.get_mut(&opened).map(|c| &mut c.end);
        if let (true, Some(End::Out(outbound))) = (is_whole, end) {
            outbound.client.finish();
        }
        self.want_database(id);
    }

    /// The connection by which a member gets a database.
    fn streaming(&self, id: u64) -> Option<u32> {
        match self.peers.get(&id)?.sending.as_ref()?.step {
            Step::Streaming { connection, .. } => connection,
            _ => None,
        }
    }

    /// A database that is on its way is not wanted any more.
    pub(super) fn stop_streaming(&mut self, id: u64, now_ns: u64) {
        if let Some(connection) = self.streaming(id) {
            self.end(connection, Lost::Dropped, now_ns);
        }
    }

    /// Asks for more of a database once its connection has taken most of what there was.
    pub(super) fn want_database(&mut self, id: u64) {
        let connection = self.streaming(id);
        let connection = connection.and_then(|connection| self.connections.get_mut(&connection));
        let room = connection.is_some_and(|c| c.output().len() < WAITING_BYTES_MAX);
        let peer = self.peers.get_mut(&id);
        let Some(sending) = peer.and_then(|peer| peer.sending.as_mut()) else {
            return;
        };
        if let Step::Streaming { asked, ended, .. } = &mut sending.step {
            if room && !*ended && !std::mem::replace(asked, true) {
                let (snapshot, place) = (sending.id, sending.place);
                self.want_of(id, snapshot, SnapshotFormat::Etcd, place);
            }
        }
    }

    /// The next bytes.
    pub(super) fn stream_database(&mut self, id: u64, bytes: &[u8], last: bool, now_ns: u64) {
        let connection = self.streaming(id);
        let peer = self.peers.get_mut(&id);
        let Some(sending) = peer.and_then(|peer| peer.sending.as_mut()) else {
            return;
        };
        sending.place += bytes.len() as u64;
        if let Step::Streaming { asked, ended, .. } = &mut sending.step {
            (*asked, *ended) = (false, last);
        }
        let Some(connection) = connection else {
            return;
        };
        let end = self.connections.get_mut(&connection).map(|c| &mut c.end);
        if let Some(End::Out(outbound)) = end {
            outbound.client.chunk(bytes);
            outbound.extend(now_ns + TAKE_NS_MAX);
            if last {
                outbound.client.finish();
                outbound.extend(now_ns + ANSWER_NS_MAX);
            }
        }
        self.touch(connection);
        self.want_database(id);
    }

    pub(super) fn database_answered(
        &mut self,
        id: u64,
        snapshot: u64,
        status: u16,
        body: &[u8],
        now_ns: u64,
    ) {
        let Some(sending) = self.sending(id, snapshot) else {
            return;
        };
        let is_sent = matches!(sending.step, Step::Streaming { ended: true, .. });
        if is_sent && (200..300).contains(&status) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.sending = None;
            }
            return self.snapshot_over(id, snapshot, true);
        }
        let text = String::from_utf8_lossy(body);
        let line = format!(
            "member {id:x} does not take a snapshot: status {status}, {}",
            text.trim()
        );
        self.notices.say(now_ns, line);
        self.database_refused(id, snapshot, now_ns);
    }

    /// It did not arrive: the member is told so after a while, and may send another one.
    pub(super) fn database_refused(&mut self, id: u64, snapshot: u64, now_ns: u64) {
        if let Some(sending) = self.sending(id, snapshot) {
            sending.step = Step::Refused {
                until_ns: now_ns + REFUSED_NS,
            };
        }
    }
}

/// Databases of members that are etcds.
impl Transport {
    /// A part of a database came in.
    pub(super) fn take_part(&mut self, connection: u32, part: Part, now_ns: u64) {
        if let Err(answer) = self.admit_part(connection, &part) {
            let fields = self.config.local.response();
            return self.answer(connection, answer.with(fields), now_ns);
        }
        let from = part.message.from();
        if part.offset == 0 {
            self.replace_incoming(now_ns);
        }
        self.receiving.last_transfer += 1;
        let transfer = self.receiving.last_transfer;
        let id = self.receiving.current.as_ref().map_or(transfer, |i| i.id);
        self.receiving.current = Some(Incoming {
            from,
            id,
            transfer,
            place: part.offset,
            busy: true,
            connection: Some(connection),
            format: SnapshotFormat::Etcd,
        });
        self.inputs.push(Input::SnapshotChunk(SnapshotChunk {
            transfer,
            id,
            message: Box::new(part.message),
            format: SnapshotFormat::Etcd,
            offset: part.offset,
            bytes: part.bytes,
            last: part.last,
        }));
    }

    fn admit_part(&self, connection: u32, part: &Part) -> Result<(), Answer> {
        let message = &part.message;
        if message.r#type() != MessageType::MsgSnap {
            return Err(Answer::error(400, "wrong raft message type"));
        }
        if self.removed.contains(&message.from()) {
            let text = "cannot process message from removed member";
            return Err(Answer::error(403, text));
        }
        if message.to() != self.config.local.member_id {
            return Err(Answer::error(412, "to field mismatch"));
        }
        let current = self.receiving.current.as_ref();
        let goes_on = current.is_some_and(|incoming| incoming.connection == Some(connection));
        match part.offset == 0 || goes_on {
            true => Ok(()),
            false => Err(Answer::error(500, "another snapshot came in")),
        }
    }

    /// The request that brings a database may go on.
    pub(super) fn part_taken(&mut self, connection: Option<u32>, now_ns: u64) {
        let Some(connection) = connection else {
            return;
        };
        if let Some(inbound) = self.inbound(connection) {
            inbound.part_taken(now_ns);
        }
        self.serve(connection, now_ns);
    }
}
