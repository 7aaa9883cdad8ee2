//! Snapshots: between ringd members piece by piece, to an etcd in one go.
//!
//! Each piece is a posted request of its own, with a checksum, and the next one follows when it was taken: written beside
//! the receiver's page file. So a connection that breaks costs one piece, and the sender learns from any answer how much
//! the receiver has. An etcd takes one request with a database (`database`), of which a connection that breaks costs all.

use super::{
    connection::{End, Lost},
    database::Part,
    exchange::Exchange,
    peer::Software,
    routes::Answer,
    Transport,
};
use crate::member::{Input, SnapshotChunk, SnapshotFormat};
use bytes::Bytes;
use net::{
    http1::{Headers, RequestHead},
    peer::{checksum, decode_piece, encode_piece, CHECKSUM, SNAPSHOT_PIECE, SNAPSHOT_PLACE},
};
use proto::raftpb::{Message, MessageType};

/// A transfer in which nothing more arrives for this long is given up.
const STALL_NS_MAX: u64 = 30_000_000_000;
/// What the other side can take must be known within this time.
const SOFTWARE_NS_MAX: u64 = 10_000_000_000;
/// After a piece was lost or could not be taken yet.
const RETRY_NS: u64 = 200_000_000;
/// A member that cannot take a snapshot is not offered another one before.
const REFUSED_NS: u64 = 5_000_000_000;
/// Bytes of a database that may wait for its connection to take them.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// A database of which the connection takes nothing for this long is given up...
const TAKE_NS_MAX: u64 = 30_000_000_000;
/// ...and so is one that is all sent when no answer comes: the receiver makes it durable before.
const ANSWER_NS_MAX: u64 = 300_000_000_000;

/// A snapshot on its way to another member.
pub struct Sending {
    id: u64,
    message: Box<Message>,
    begun_ns: u64,
    /// When the receiver last had more than before.
    progress_ns: u64,
    place: u64,
    step: Step,
}

enum Step {
    /// It is not known what the other side can take.
    AskSoftware,
    /// The member reads the next bytes.
    Reading,
    /// A piece is on its way.
    Posted,
    /// A database is being laid out. No connection is open before there is something to send: etcd waits for a few seconds
    /// only.
    LayingOut,
    /// A database is on its way by this connection, all but the first bytes of it.
    Streaming {
        connection: Option<u32>,
        /// Bytes are asked for.
        asked: bool,
        ended: bool,
    },
    /// To be asked for again then.
    Pause { until_ns: u64 },
    /// It cannot be sent; to be told then, so that it is not tried again at once.
    Refused { until_ns: u64 },
}

/// The snapshot that comes in.
#[derive(Default)]
pub struct Receiving {
    current: Option<Incoming>,
    last_transfer: u64,
}

struct Incoming {
    from: u64,
    id: u64,
    /// Names the piece that is being taken.
    transfer: u64,
    /// Bytes that were taken.
    place: u64,
    busy: bool,
    /// Who waits to hear that the piece was taken, or whose request brings all of it.
    connection: Option<u32>,
    format: SnapshotFormat,
}

impl Receiving {
    pub fn connection_lost(&mut self, id: u32) {
        let theirs = |incoming: &&mut Incoming| incoming.connection == Some(id);
        let Some(incoming) = self.current.as_mut().filter(theirs) else {
            return;
        };
        match incoming.format {
            SnapshotFormat::Ringd => incoming.connection = None,
            SnapshotFormat::Etcd => self.current = None,
        }
    }
}

impl Transport {
    /// The member has a snapshot for another one.
    pub fn send_snapshot(&mut self, id: u64, snapshot: u64, message: Box<Message>, now_ns: u64) {
        self.stop_streaming(id, now_ns);
        let Some(peer) = self.peers.get_mut(&id) else {
            return self.snapshot_over(id, snapshot, false);
        };
        let replaced = peer.sending.replace(Sending {
            id: snapshot,
            message,
            begun_ns: now_ns,
            progress_ns: now_ns,
            place: 0,
            step: Step::AskSoftware,
        });
        peer.queues.piece = None;
        if let Some(replaced) = replaced {
            self.snapshot_over(id, replaced.id, false);
        }
        self.go_on(id, now_ns);
    }

    /// The bytes that were asked for.
    pub fn snapshot_bytes(
        &mut self,
        id: u64,
        snapshot: u64,
        offset: u64,
        bytes: &[u8],
        last: bool,
        now_ns: u64,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(sending) = &mut peer.sending else {
            return;
        };
        if sending.id == snapshot && sending.place == offset {
            match sending.step {
                Step::LayingOut => return self.begin_database(id, bytes, last, now_ns),
                Step::Streaming { .. } => return self.stream_database(id, bytes, last, now_ns),
                _ => {}
            }
        }
        let wanted = sending.id == snapshot
            && sending.place == offset
            && matches!(sending.step, Step::Reading);
        if wanted {
            sending.step = Step::Posted;
            peer.queues.piece = Some(Exchange::Piece {
                id: snapshot,
                offset,
                last,
                body: encode_piece(&sending.message, bytes).into(),
            });
            self.pump(id, now_ns);
        }
    }

    /// The member gave the snapshot up.
    pub fn cancel_snapshot(&mut self, id: u64, snapshot: u64, now_ns: u64) {
        if self.sending(id, snapshot).is_some() {
            self.stop_streaming(id, now_ns);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.sending = None;
                peer.queues.piece = None;
            }
        }
    }

    pub(super) fn fail_snapshot(&mut self, id: u64) {
        let peer = self.peers.get_mut(&id);
        if let Some(sending) = peer.and_then(|peer| peer.sending.take()) {
            self.snapshot_over(id, sending.id, false);
        }
    }

    fn snapshot_over(&mut self, peer: u64, id: u64, delivered: bool) {
        self.inputs.push(Input::SnapshotSent {
            peer,
            id,
            delivered,
        });
    }

    fn sending(&mut self, id: u64, snapshot: u64) -> Option<&mut Sending> {
        let sending = self.peers.get_mut(&id)?.sending.as_mut()?;
        (sending.id == snapshot).then_some(sending)
    }

    /// Takes the next step of a transfer, if its time has come.
    fn go_on(&mut self, id: u64, now_ns: u64) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let software = peer.software;
        let Some(sending) = &mut peer.sending else {
            return;
        };
        let stalled = now_ns.saturating_sub(sending.progress_ns) > STALL_NS_MAX;
        let unknown = now_ns.saturating_sub(sending.begun_ns) > SOFTWARE_NS_MAX;
        let mut over = stalled;
        match (&sending.step, software) {
            (Step::Refused { until_ns }, _) => over = *until_ns <= now_ns,
            (Step::AskSoftware, Software::Ringd) => {
                sending.step = Step::Reading;
                let (snapshot, offset) = (sending.id, sending.place);
                self.want(id, snapshot, offset);
            }
            (Step::AskSoftware, Software::Etcd) => {
                sending.step = Step::LayingOut;
                let snapshot = sending.id;
                self.want_of(id, snapshot, SnapshotFormat::Etcd, 0);
            }
            // The member gives up what takes too long to lay out, the connection what is not taken.
            (Step::LayingOut | Step::Streaming { .. }, _) => {
                over = false;
                self.want_database(id);
            }
            (Step::AskSoftware, Software::Unknown) => over = unknown,
            (Step::Pause { until_ns }, _) if *until_ns <= now_ns => {
                sending.step = Step::Reading;
                let (snapshot, offset) = (sending.id, sending.place);
                self.want(id, snapshot, offset);
            }
            _ => {}
        }
        if over {
            self.fail_snapshot(id);
        }
    }

    fn want(&mut self, peer: u64, id: u64, offset: u64) {
        self.want_of(peer, id, SnapshotFormat::Ringd, offset);
    }

    fn want_of(&mut self, peer: u64, id: u64, format: SnapshotFormat, offset: u64) {
        self.inputs.push(Input::SnapshotWanted {
            peer,
            id,
            format,
            offset,
        });
    }

    pub(super) fn snapshot_timers(&mut self, now_ns: u64) {
        let sending = self.peers.iter().filter(|(_, peer)| peer.sending.is_some());
        let sending: Vec<u64> = sending.map(|(id, _)| *id).collect();
        for id in sending {
            self.go_on(id, now_ns);
        }
    }

    /// The answer to a piece.
    pub(super) fn piece_answered(
        &mut self,
        id: u64,
        snapshot: u64,
        status: u16,
        headers: &Headers,
        body: &[u8],
        now_ns: u64,
    ) {
        let place = headers
            .get(SNAPSHOT_PLACE)
            .and_then(|text| text.parse().ok());
        let whole = headers.get(SNAPSHOT_PIECE) == Some("whole");
        let Some(sending) = self.sending(id, snapshot) else {
            return;
        };
        match (status, place) {
            (204, Some(_)) if whole => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.sending = None;
                }
                self.snapshot_over(id, snapshot, true);
            }
            (204, Some(place)) => {
                sending.place = place;
                sending.progress_ns = now_ns;
                sending.step = Step::Reading;
                self.want(id, snapshot, place);
            }
            (409, Some(place)) => {
                sending.place = place;
                sending.step = Step::Pause {
                    until_ns: now_ns + RETRY_NS,
                };
            }
            (503, _) => self.piece_lost(id, snapshot, now_ns),
            _ => {
                let text = String::from_utf8_lossy(body);
                let line = format!(
                    "member {id:x} does not take a snapshot: status {status}, {}",
                    text.trim()
                );
                self.notices.say(now_ns, line);
                self.fail_snapshot(id);
            }
        }
    }

    /// A piece did not arrive, or its answer did not.
    pub(super) fn piece_lost(&mut self, id: u64, snapshot: u64, now_ns: u64) {
        if let Some(sending) = self.sending(id, snapshot) {
            sending.step = Step::Pause {
                until_ns: now_ns + RETRY_NS,
            };
        }
    }

    /// A piece came in. `None` if its answer follows when it was taken.
    pub(super) fn take_piece(
        &mut self,
        connection: u32,
        head: &RequestHead,
        body: Bytes,
        now_ns: u64,
    ) -> Option<Answer> {
        self.meet(head, now_ns);
        let stated = head.headers.get(CHECKSUM);
        if stated != Some(checksum(&body).as_str()) {
            // Damaged on its way: it is sent again.
            return Some(Answer::error(503, "error reading raft message"));
        }
        let place = head.headers.get(SNAPSHOT_PIECE).and_then(parse_place);
        let (Some((id, offset, last)), Ok((message, bytes))) = (place, decode_piece(&body)) else {
            return Some(Answer::error(400, "error unmarshalling raft message"));
        };
        if message.r#type() != MessageType::MsgSnap {
            return Some(Answer::error(400, "wrong raft message type"));
        }
        if self.removed.contains(&message.from()) {
            return Some(Answer::error(
                403,
                "cannot process message from removed member",
            ));
        }
        if message.to() != self.config.local.member_id {
            return Some(Answer::error(412, "to field mismatch"));
        }
        let from = message.from();
        let current = self.receiving.current.as_ref();
        let same = current.filter(|incoming| (incoming.from, incoming.id) == (from, id));
        if same.is_some_and(|incoming| incoming.busy) {
            return Some(Answer::error(
                503,
                "the piece before is still being written",
            ));
        }
        let place = same.map_or(0, |incoming| incoming.place);
        if offset != place {
            let answer = Answer::error(409, "the receiver has another number of bytes");
            return Some(answer.with([(SNAPSHOT_PLACE, place.to_string())]));
        }
        self.replace_incoming(now_ns);
        self.receiving.last_transfer += 1;
        let transfer = self.receiving.last_transfer;
        self.receiving.current = Some(Incoming {
            from,
            id,
            transfer,
            place,
            busy: true,
            connection: Some(connection),
            format: SnapshotFormat::Ringd,
        });
        self.inputs.push(Input::SnapshotChunk(SnapshotChunk {
            transfer,
            id,
            message: Box::new(message),
            format: SnapshotFormat::Ringd,
            offset,
            bytes,
            last,
        }));
        None
    }

    /// Another snapshot, or its next piece, takes the place of the one that was coming in.
    fn replace_incoming(&mut self, now_ns: u64) {
        let current = self.receiving.current.take();
        if let Some(waiting) = current.and_then(|incoming| incoming.connection) {
            self.answer(
                waiting,
                Answer::error(500, "another snapshot came in"),
                now_ns,
            );
        }
    }

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

    /// The member took a piece, or will not.
    pub fn snapshot_taken(
        &mut self,
        transfer: u64,
        offset: u64,
        result: Result<bool, String>,
        now_ns: u64,
    ) {
        let current = self.receiving.current.as_mut();
        let Some(incoming) = current.filter(|incoming| incoming.transfer == transfer) else {
            return;
        };
        incoming.busy = false;
        incoming.place = offset;
        if incoming.format == SnapshotFormat::Etcd && result == Ok(false) {
            let connection = incoming.connection;
            return self.part_taken(connection, now_ns);
        }
        let format = incoming.format;
        let waiting = incoming.connection.take();
        if result != Ok(false) {
            self.receiving.current = None;
        }
        let answer = match result {
            Ok(_) if format == SnapshotFormat::Etcd => Answer::empty(204),
            Ok(whole) => {
                let mut answer = Answer::empty(204).with([(SNAPSHOT_PLACE, offset.to_string())]);
                if whole {
                    answer = answer.with([(SNAPSHOT_PIECE, "whole".to_owned())]);
                }
                answer
            }
            Err(why) => Answer::error(500, &why),
        };
        if let Some(connection) = waiting {
            let fields = self.config.local.response();
            self.answer(connection, answer.with(fields), now_ns);
            self.serve(connection, now_ns);
        }
    }
}

/// Databases to members that are etcds.
impl Transport {
    /// The first bytes are there: the Raft message, and with it the way is known.
    fn begin_database(&mut self, id: u64, bytes: &[u8], last: bool, now_ns: u64) {
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
    fn stop_streaming(&mut self, id: u64, now_ns: u64) {
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
    fn stream_database(&mut self, id: u64, bytes: &[u8], last: bool, now_ns: u64) {
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

    /// The request that brings a database may go on.
    fn part_taken(&mut self, connection: Option<u32>, now_ns: u64) {
        let Some(connection) = connection else {
            return;
        };
        if let Some(inbound) = self.inbound(connection) {
            inbound.part_taken(now_ns);
        }
        self.serve(connection, now_ns);
    }
}

/// `snapshot offset last`
fn parse_place(text: &str) -> Option<(u64, u64, bool)> {
    let mut parts = text.split(' ');
    let id = u64::from_str_radix(parts.next()?, 16).ok()?;
    let offset = parts.next()?.parse().ok()?;
    let last = match parts.next()? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    parts.next().is_none().then_some((id, offset, last))
}
