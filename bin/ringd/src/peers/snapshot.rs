//! Snapshots: between ringd members piece by piece, to an etcd in one go.
//!
//! Each piece is a posted request of its own, with a checksum, and the next one follows when it was taken: written beside
//! the receiver's page file. So a connection that breaks costs one piece, and the sender learns from any answer how much
//! the receiver has. An etcd takes one request with a database (`database`), of which a connection that breaks costs all.

use super::{exchange::Exchange, peer::Software, routes::Answer, Transport};
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
pub(super) const REFUSED_NS: u64 = 5_000_000_000;

/// A snapshot on its way to another member.
pub struct Sending {
    pub(super) id: u64,
    message: Box<Message>,
    begun_ns: u64,
    /// When the receiver last had more than before.
    progress_ns: u64,
    pub(super) place: u64,
    pub(super) step: Step,
}

pub(super) enum Step {
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
    pub(super) current: Option<Incoming>,
    pub(super) last_transfer: u64,
}

pub(super) struct Incoming {
    pub(super) from: u64,
    pub(super) id: u64,
    /// Names the piece that is being taken.
    pub(super) transfer: u64,
    /// Bytes that were taken.
    pub(super) place: u64,
    pub(super) busy: bool,
    /// Who waits to hear that the piece was taken, or whose request brings all of it.
    pub(super) connection: Option<u32>,
    pub(super) format: SnapshotFormat,
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

    pub(super) fn snapshot_over(&mut self, peer: u64, id: u64, delivered: bool) {
        self.inputs.push(Input::SnapshotSent {
            peer,
            id,
            delivered,
        });
    }

    pub(super) fn sending(&mut self, id: u64, snapshot: u64) -> Option<&mut Sending> {
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

    pub(super) fn want_of(&mut self, peer: u64, id: u64, format: SnapshotFormat, offset: u64) {
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
    pub(super) fn replace_incoming(&mut self, now_ns: u64) {
        let current = self.receiving.current.take();
        if let Some(waiting) = current.and_then(|incoming| incoming.connection) {
            self.answer(
                waiting,
                Answer::error(500, "another snapshot came in"),
                now_ns,
            );
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
