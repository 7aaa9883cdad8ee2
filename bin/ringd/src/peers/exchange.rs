//! Single requests to other members: posted messages, questions, probes, pieces of a snapshot.
//!
//! Connections are kept and used again. One that was found closed when it was used again is no failure of the other side:
//! the request goes out once more by a new one, if it may be repeated.

use super::{
    connection::{End, Lost},
    outbound::{Outbound, Work},
    peer::Peer,
    routes::{COPY_PATH, RESULTS_PATH},
    types::{PeerAsk, PeerFailure},
    Transport,
};
use crate::member::Input;
use bytes::Bytes;
use net::{
    http1::Headers,
    peer::{checksum, seal, CHECKSUM, SNAPSHOT_PIECE},
};
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use std::collections::VecDeque;

/// Posts under way to one member, and posts that wait. Above: dropped, and Raft is told.
const POSTS_MAX: usize = 4;
const POSTS_QUEUED_MAX: usize = 64;
/// Questions under way to one member, and questions that wait. Above: answered as failed.
const ASKS_MAX: usize = 16;
const ASKS_QUEUED_MAX: usize = 4096;
/// Unused connections kept to one member.
const IDLE_MAX: usize = 4;
/// Patience with a post, a probe, or a piece of a snapshot.
const ANSWER_NS_MAX: u64 = 5_000_000_000;
const PIECE_NS_MAX: u64 = 30_000_000_000;
/// After a post failed, messages are dropped for this long instead of being queued.
const POST_PAUSE_NS: u64 = 100_000_000;

/// A single request.
#[derive(Debug)]
pub enum Exchange {
    Post {
        body: Bytes,
        proposes: bool,
    },
    Ask {
        ask: u64,
        request: PeerAsk,
        /// URLs that were not tried yet.
        urls_left: usize,
        deadline_ns: u64,
    },
    Probe {
        begun_ns: u64,
    },
    Piece {
        id: u64,
        offset: u64,
        last: bool,
        body: Bytes,
    },
    /// A snapshot in one request, of which this is the beginning.
    Database {
        id: u64,
        first: Bytes,
    },
}

impl Exchange {
    fn class(&self) -> usize {
        match self {
            Exchange::Post { .. } => 0,
            Exchange::Ask { .. } => 1,
            Exchange::Probe { .. } => 2,
            Exchange::Piece { .. } | Exchange::Database { .. } => 3,
        }
    }

    fn is_repeatable(&self) -> bool {
        match self {
            Exchange::Ask { request, .. } => request.is_repeatable(),
            // What follows its beginning is not kept.
            Exchange::Database { .. } => false,
            // Of a message Raft takes a second copy as it took the first; a proposal would be carried out twice.
            Exchange::Post { proposes, .. } => !proposes,
            _ => true,
        }
    }

    fn deadline_ns(&self, now_ns: u64) -> u64 {
        match self {
            Exchange::Ask { deadline_ns, .. } => *deadline_ns,
            Exchange::Piece { .. } | Exchange::Database { .. } => now_ns + PIECE_NS_MAX,
            Exchange::Post { .. } | Exchange::Probe { .. } => now_ns + ANSWER_NS_MAX,
        }
    }

    fn method(&self) -> &'static str {
        match self {
            Exchange::Probe { .. } => "GET",
            Exchange::Ask {
                request: PeerAsk::Version,
                ..
            } => "GET",
            _ => "POST",
        }
    }

    fn path(&self) -> String {
        match self {
            Exchange::Post { .. } => "/raft".into(),
            Exchange::Probe { .. } => "/raft/probing".into(),
            Exchange::Piece { .. } | Exchange::Database { .. } => "/raft/snapshot".into(),
            Exchange::Ask { request, .. } => match request {
                PeerAsk::KeepAlive(_) => "/leases".into(),
                PeerAsk::TimeToLive(_) => "/leases/internal".into(),
                PeerAsk::Promote(id) => format!("/members/promote/{id}"),
                PeerAsk::Version => "/version".into(),
                PeerAsk::Results(_) => RESULTS_PATH.into(),
                PeerAsk::Copy(_) => COPY_PATH.into(),
            },
        }
    }

    fn body(&self) -> Option<&[u8]> {
        match self {
            Exchange::Post { body, .. } | Exchange::Piece { body, .. } => Some(body),
            Exchange::Probe { .. } | Exchange::Database { .. } => None,
            Exchange::Ask { request, .. } => match request {
                PeerAsk::KeepAlive(body) | PeerAsk::TimeToLive(body) => Some(body),
                PeerAsk::Results(body) | PeerAsk::Copy(body) => Some(body),
                PeerAsk::Promote(_) => Some(&[]),
                PeerAsk::Version => None,
            },
        }
    }

    /// Header fields besides those that say who asks.
    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Exchange::Post { .. } => vec![("Content-Type", "application/protobuf".into())],
            Exchange::Piece {
                id, offset, last, ..
            } => vec![
                ("Content-Type", "application/octet-stream".into()),
                (
                    SNAPSHOT_PIECE,
                    format!("{id:x} {offset} {}", u8::from(*last)),
                ),
            ],
            Exchange::Database { .. } => {
                vec![("Content-Type", "application/octet-stream".into())]
            }
            Exchange::Ask {
                request: PeerAsk::KeepAlive(_) | PeerAsk::TimeToLive(_),
                ..
            } => vec![("Content-Type", "application/protobuf".into())],
            Exchange::Ask { .. } | Exchange::Probe { .. } => Vec::new(),
        }
    }
}

/// Requests to one member that wait, and how many of each kind are under way.
#[derive(Debug, Default)]
pub struct Queues {
    /// With whether they propose something.
    posts: VecDeque<(Bytes, bool)>,
    post_next_ns: u64,
    asks: VecDeque<Exchange>,
    pub probe: Option<Exchange>,
    pub piece: Option<Exchange>,
    busy: [usize; 4],
}

impl Queues {
    fn next(&mut self) -> Option<Exchange> {
        let [posting, asking, probing, sending] = self.busy;
        if asking < ASKS_MAX {
            if let Some(ask) = self.asks.pop_front() {
                return Some(ask);
            }
        }
        if posting < POSTS_MAX {
            if let Some((body, proposes)) = self.posts.pop_front() {
                return Some(Exchange::Post { body, proposes });
            }
        }
        if sending == 0 && self.piece.is_some() {
            return self.piece.take();
        }
        match probing {
            0 => self.probe.take(),
            _ => None,
        }
    }
}

impl Transport {
    /// Sends a message to a member that has not opened its streams.
    pub(super) fn post(&mut self, to: u64, message: &Message, now_ns: u64) {
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        let queues = &mut peer.queues;
        if queues.posts.len() >= POSTS_QUEUED_MAX || now_ns < queues.post_next_ns {
            return self.inputs.push(Input::Unreachable { peer: to });
        }
        let proposes = message.r#type() == MessageType::MsgProp;
        let body = message.encode_to_vec().into();
        queues.posts.push_back((body, proposes));
        self.pump(to, now_ns);
    }

    /// Asks another member.
    pub fn ask(&mut self, ask: u64, id: u64, request: PeerAsk, now_ns: u64) {
        let deadline_ns = now_ns + self.config.request_timeout_ns;
        let understands = |peer: &Peer| match &request {
            PeerAsk::Results(_) => peer.compares,
            PeerAsk::Copy(_) => peer.copies,
            _ => true,
        };
        let has_room = |peer: &&mut Peer| {
            peer.url_count() > 0 && peer.queues.asks.len() < ASKS_QUEUED_MAX && understands(peer)
        };
        let Some(peer) = self.peers.get_mut(&id).filter(has_room) else {
            return self.ask_failed(ask);
        };
        peer.queues.asks.push_back(Exchange::Ask {
            ask,
            request,
            urls_left: peer.url_count() - 1,
            deadline_ns,
        });
        self.pump(id, now_ns);
    }

    fn ask_failed(&mut self, ask: u64) {
        self.inputs.push(Input::PeerAnswered {
            ask,
            result: Err(PeerFailure {
                code: 0,
                body: Bytes::new(),
            }),
        });
    }

    /// Nobody will answer what waits.
    pub(super) fn fail_asks(&mut self, id: u64, _now_ns: u64) {
        let asks = self.peers.get_mut(&id).map(|peer| &mut peer.queues.asks);
        for ask in asks.map(std::mem::take).unwrap_or_default() {
            if let Exchange::Ask { ask, .. } = ask {
                self.ask_failed(ask);
            }
        }
    }

    /// Starts what can be started.
    pub(super) fn pump(&mut self, id: u64, now_ns: u64) {
        while let Some(peer) = self.peers.get_mut(&id) {
            if peer.url_count() == 0 {
                return;
            }
            let Some(exchange) = peer.queues.next() else {
                return;
            };
            peer.queues.busy[exchange.class()] += 1;
            let fresh = !exchange.is_repeatable();
            self.start(id, exchange, fresh, now_ns);
        }
    }

    /// Sends a request by a connection that is open, or by a new one.
    fn start(&mut self, id: u64, exchange: Exchange, fresh: bool, now_ns: u64) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let idle = match fresh {
            true => None,
            false => peer.idle.pop(),
        };
        let (url, address) = peer.address().unwrap_or_default();
        let address = address.to_owned();
        let mut fields = self.config.local.request(None);
        fields.extend(exchange.fields());
        if let Some(body) = exchange.body() {
            fields.push((CHECKSUM, checksum(body)));
        }
        let (method, path) = (exchange.method(), exchange.path());
        seal(&format!("{method} {path}"), &mut fields);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let deadline_ns = exchange.deadline_ns(now_ns);
        let open = idle.and_then(|idle| match self.connections.get_mut(&idle) {
            Some(connection) => match &mut connection.end {
                End::Out(outbound) => Some((idle, outbound)),
                End::In(_) => None,
            },
            None => None,
        });
        if let Some((connection, outbound)) = open {
            let client = &mut outbound.client;
            client.request(method, &path, &address, &fields, exchange.body());
            outbound.begin(exchange, deadline_ns);
            return self.touch(connection);
        }
        let mut outbound = Outbound::new(id, url, Work::Idle, 0);
        let client = &mut outbound.client;
        let mut database = None;
        match &exchange {
            Exchange::Database { id, first } => {
                client.request_stream(method, &path, &address, &fields);
                client.chunk(first);
                database = Some(*id);
            }
            _ => client.request(method, &path, &address, &fields, exchange.body()),
        }
        outbound.begin(exchange, deadline_ns);
        if let Work::Exchange { reused, .. } = &mut outbound.work {
            *reused = false;
        }
        let connection = self.open(outbound, address);
        if let Some(snapshot) = database {
            self.database_begun(id, snapshot, connection);
        }
    }

    /// The connection of a request ended before its answer did. `stale`: it had been open for long, and was found closed.
    pub(super) fn exchange_failed(
        &mut self,
        id: u64,
        url: usize,
        exchange: Exchange,
        stale: bool,
        lost: Lost,
        now_ns: u64,
    ) {
        if stale && exchange.is_repeatable() && self.peers.contains_key(&id) {
            return self.start(id, exchange, true, now_ns);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.queues.busy[exchange.class()] -= 1;
        peer.url_failed(url);
        match exchange {
            Exchange::Post { .. } => {
                peer.queues.posts.clear();
                peer.queues.post_next_ns = now_ns + POST_PAUSE_NS;
                self.inputs.push(Input::Unreachable { peer: id });
            }
            Exchange::Ask {
                ask,
                request,
                urls_left,
                deadline_ns,
            } => {
                let again = urls_left > 0
                    && deadline_ns > now_ns
                    && request.is_repeatable()
                    && lost != Lost::Dropped;
                match again {
                    true => peer.queues.asks.push_front(Exchange::Ask {
                        ask,
                        request,
                        urls_left: urls_left - 1,
                        deadline_ns,
                    }),
                    false => self.ask_failed(ask),
                }
            }
            Exchange::Probe { .. } => {}
            Exchange::Piece { id: snapshot, .. } => self.piece_lost(id, snapshot, now_ns),
            Exchange::Database { id: snapshot, .. } => self.database_refused(id, snapshot, now_ns),
        }
        if lost != Lost::Dropped {
            self.pump(id, now_ns);
        }
    }

    /// A request was answered.
    pub(super) fn exchange_answered(
        &mut self,
        connection: u32,
        status: u16,
        headers: &Headers,
        body: Bytes,
        now_ns: u64,
    ) {
        let Some(End::Out(outbound)) = self.connections.get_mut(&connection).map(|c| &mut c.end)
        else {
            return;
        };
        let id = outbound.peer;
        let Work::Exchange { exchange, .. } = std::mem::replace(&mut outbound.work, Work::Idle)
        else {
            return;
        };
        // An HTTP/1.1 client is done with an answer only when it has told its end.
        let reusable = matches!(outbound.client.next(), Ok(None)) && outbound.client.is_reusable();
        outbound.rest(now_ns);
        let Some(peer) = self.peers.get_mut(&id) else {
            return self.end(connection, Lost::Dropped, now_ns);
        };
        peer.queues.busy[exchange.class()] -= 1;
        if reusable && peer.idle.len() < IDLE_MAX {
            peer.idle.push(connection);
        } else {
            self.end(connection, Lost::Dropped, now_ns);
        }
        self.draw_answer(id, exchange, status, headers, body, now_ns);
        self.pump(id, now_ns);
    }

    fn draw_answer(
        &mut self,
        id: u64,
        exchange: Exchange,
        status: u16,
        headers: &Headers,
        body: Bytes,
        now_ns: u64,
    ) {
        if self.hear_refusal(id, headers) {
            return;
        }
        match exchange {
            Exchange::Post { .. } => {
                self.learn_software(id, headers);
                self.posted(id, status, &body, now_ns);
            }
            Exchange::Ask { ask, .. } => {
                let result = match status {
                    200 => Ok(body),
                    code => Err(PeerFailure { code, body }),
                };
                self.inputs.push(Input::PeerAnswered { ask, result });
            }
            Exchange::Probe { begun_ns } => self.probed(id, begun_ns, &body, now_ns),
            Exchange::Piece { id: snapshot, .. } => {
                self.learn_software(id, headers);
                self.piece_answered(id, snapshot, status, headers, &body, now_ns);
            }
            Exchange::Database { id: snapshot, .. } => {
                self.learn_software(id, headers);
                self.database_answered(id, snapshot, status, &body, now_ns);
            }
        }
    }

    fn posted(&mut self, id: u64, status: u16, body: &[u8], now_ns: u64) {
        if status == 204 || status == 200 {
            return;
        }
        let text = String::from_utf8_lossy(body);
        if status == 403 && text.contains("removed member") {
            return self.inputs.push(Input::RemovedHere);
        }
        let line = format!(
            "member {id:x} refuses a message: status {status}, {}",
            text.trim()
        );
        self.notices.say(now_ns, line);
        self.inputs.push(Input::Unreachable { peer: id });
    }

    /// Gives up questions that waited for too long.
    pub(super) fn exchange_timers(&mut self, now_ns: u64) {
        let mut late = Vec::new();
        for peer in self.peers.values_mut() {
            peer.queues.asks.retain(|exchange| match exchange {
                Exchange::Ask {
                    ask, deadline_ns, ..
                } if *deadline_ns <= now_ns => {
                    late.push(*ask);
                    false
                }
                _ => true,
            });
        }
        for ask in late {
            self.ask_failed(ask);
        }
    }
}
