//! The other members: what is sent to them, asked of them and heard from them.
//!
//! [`Transport`] speaks etcd's peer protocol, both sides of it, without I/O and without a clock: connections come and go,
//! bytes go in and out, and what the member is to know leaves as [`Input`]s. Every member opens two endless responses at
//! every other one, from which it *receives* (`message`: anything, `msgapp`: appends); what is to be sent before the other
//! side has opened its streams goes out as single posts. Parts:
//!
//! * `inbound` serves the peer port: requests in, answers and streams out. `routes` knows paths and texts.
//! * `outbound` is a connection that this member opened; `dialing` decides who is dialled when, and what a closed or
//!   refused connection proves.
//! * `exchange` carries single requests: posted messages, questions, probes, pieces of a snapshot.
//! * `snapshot` sends snapshots piece by piece, and takes them in; `database` is how an etcd has it.
//! * `standing` finds members out whose data went back in time.
//!
//! Nothing here is trusted by Raft: a message that is lost, late, doubled or sent by two ways at once does no harm.

mod config;
mod connection;
mod database;
mod dialing;
mod exchange;
mod inbound;
mod notices;
mod outbound;
mod peer;
mod probe;
mod routes;
mod snapshot;
mod standing;
mod types;

pub use config::{Config, INBOUND_MAX};
pub use types::{PeerAddress, PeerAsk, PeerFailure};

use crate::member::Input;
use connection::{Connection, End, Lost};
use net::{connection::Output, peer::Kind};
use notices::Notices;
use peer::Peer;
use proto::raftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes waiting in a stream for a member that does not read. Above: messages are dropped and Raft is told.
const STREAM_BYTES_MAX: usize = 64 << 20;
/// The same in messages, as etcd counts them.
const STREAM_MESSAGES_MAX: usize = 4096;

/// Something for the shell to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to `host:port`, for [`Transport::dialled`].
    Dial {
        connection: u32,
        address: String,
        timeout_ns: u64,
    },
    /// End the connection, or the attempt to open it.
    Close { connection: u32 },
    /// [`Transport::on_timer`] is wanted then, earlier than at the next pulse.
    Wake { after_ns: u64 },
}

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// Somebody was there and said that nobody listens.
    Refused,
    /// Somebody was there and is gone already: a process that ends.
    Reset,
    /// Nothing came back, the name is unknown, or the network is.
    Other,
}

pub struct Transport {
    config: Config,
    connections: BTreeMap<u32, Connection>,
    last_connection: u32,
    /// The members, and those who spoke to this one before it knew them.
    peers: BTreeMap<u64, Peer>,
    removed: BTreeSet<u64>,
    /// Requests that wait for the member, by the number of their call.
    calls: BTreeMap<u32, inbound::Waiting>,
    last_call: u32,
    /// Bytes of requests that are coming in.
    held_bytes: usize,
    receiving: snapshot::Receiving,
    inputs: Vec<Input>,
    actions: Vec<Action>,
    dirty: Vec<u32>,
    notices: Notices,
}

impl Transport {
    pub fn new(config: Config) -> Transport {
        Transport {
            config,
            connections: BTreeMap::new(),
            last_connection: 0,
            peers: BTreeMap::new(),
            removed: BTreeSet::new(),
            calls: BTreeMap::new(),
            last_call: 0,
            held_bytes: 0,
            receiving: snapshot::Receiving::default(),
            inputs: Vec::new(),
            actions: Vec::new(),
            dirty: Vec::new(),
            notices: Notices::default(),
        }
    }

    /// What the member is to know.
    pub fn take_inputs(&mut self, into: &mut Vec<Input>) {
        into.append(&mut self.inputs);
    }

    pub fn take_actions(&mut self, into: &mut Vec<Action>) {
        into.append(&mut self.actions);
    }

    /// Lines for the operator.
    pub fn take_notices(&mut self) -> Vec<String> {
        self.notices.take()
    }

    /// Connections whose output is to be looked at.
    pub fn take_dirty(&mut self, into: &mut Vec<u32>) {
        for id in self.dirty.drain(..) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.dirty = false;
                into.push(id);
            }
        }
    }

    /// Has the connection's output looked at.
    pub fn touch(&mut self, id: u32) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if !std::mem::replace(&mut connection.dirty, true) {
                self.dirty.push(id);
            }
        }
    }

    pub fn output(&mut self, id: u32) -> Option<&mut Output> {
        self.connections.get_mut(&id).map(Connection::output)
    }

    /// Whether to read from the connection's socket.
    pub fn wants_input(&self, id: u32) -> bool {
        self.connections
            .get(&id)
            .is_none_or(Connection::wants_input)
    }

    /// Whether nothing more will be sent by the connection.
    pub fn should_close(&self, id: u32) -> bool {
        self.connections
            .get(&id)
            .is_none_or(Connection::should_close)
    }

    /// All of the connection's output was sent.
    pub fn sent(&mut self, id: u32) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sent();
            if let End::Out(outbound) = &connection.end {
                let peer = outbound.peer;
                self.want_database(peer);
            }
        }
    }

    /// Members came, went or moved.
    pub fn set_members(
        &mut self,
        own_urls: &[String],
        members: Vec<PeerAddress>,
        removed: BTreeSet<u64>,
        now_ns: u64,
    ) {
        if !own_urls.is_empty() {
            self.config.local.peer_urls = own_urls.join(",");
        }
        self.removed = removed;
        let known: BTreeSet<u64> = members.iter().map(|member| member.id).collect();
        let gone = |(id, peer): (&u64, &Peer)| {
            let left = !peer.is_remote && !known.contains(id);
            (left || self.removed.contains(id)).then_some(*id)
        };
        let gone: Vec<u64> = self.peers.iter().filter_map(gone).collect();
        for id in gone {
            self.forget_peer(id, now_ns);
        }
        for member in members {
            let peer = self
                .peers
                .entry(member.id)
                .or_insert_with(|| Peer::new(now_ns));
            peer.is_remote = false;
            if peer.set_urls(&member.urls) {
                continue;
            }
            self.notices.say(
                now_ns,
                format!(
                    "member {:x} cannot be reached: none of its peer URLs ({}) is plain http, and TLS is not there yet",
                    member.id,
                    member.urls.join(",")
                ),
            );
        }
        self.dial_streams(now_ns);
    }

    fn forget_peer(&mut self, id: u64, now_ns: u64) {
        self.fail_asks(id, now_ns);
        let of_peer = |connection: &Connection| connection.peer() == Some(id);
        let theirs = self.connections.iter().filter(|(_, c)| of_peer(c));
        let theirs: Vec<u32> = theirs.map(|(connection, _)| *connection).collect();
        for connection in theirs {
            self.end(connection, Lost::Dropped, now_ns);
        }
        self.fail_snapshot(id);
        if let Some(peer) = self.peers.remove(&id) {
            if peer.message_streams() > 0 {
                self.inputs.push(Input::Connected {
                    peer: id,
                    connected: false,
                });
            }
        }
    }

    /// Sends a Raft message by the best channel that there is.
    pub fn send(&mut self, message: &Message, now_ns: u64) {
        let to = message.to();
        let Some(peer) = self.peers.get(&to) else {
            return self.inputs.push(Input::Unreachable { peer: to });
        };
        let appends = message.r#type() == MessageType::MsgApp;
        let append_stream = peer.writer(Kind::Append).filter(|_| appends);
        let stream = append_stream.or(peer.writer(Kind::Message));
        let Some(id) = stream else {
            return self.post(to, message, now_ns);
        };
        let written = match self.connections.get_mut(&id).map(|c| &mut c.end) {
            Some(End::In(inbound)) => inbound.write(message, now_ns),
            _ => false,
        };
        match written {
            true => self.touch(id),
            false => self.inputs.push(Input::Unreachable { peer: to }),
        }
    }

    /// Whatever has a time of its own.
    pub fn on_timer(&mut self, now_ns: u64) {
        let mut overdue = Vec::new();
        let mut touched = Vec::new();
        for (id, connection) in &mut self.connections {
            if connection.is_overdue(now_ns) {
                overdue.push(*id);
            } else if connection.beat(now_ns) {
                touched.push(*id);
            }
        }
        for id in overdue {
            self.end(id, Lost::TimedOut, now_ns);
        }
        for id in touched {
            self.touch(id);
        }
        self.dial_streams(now_ns);
        self.probe(now_ns);
        self.snapshot_timers(now_ns);
        self.exchange_timers(now_ns);
    }

    fn new_connection(&mut self, end: End) -> u32 {
        loop {
            self.last_connection = self.last_connection.wrapping_add(1);
            if !self.connections.contains_key(&self.last_connection) {
                break;
            }
        }
        let id = self.last_connection;
        let connection = Connection { dirty: false, end };
        self.connections.insert(id, connection);
        id
    }

    /// Somebody connected to the peer port.
    pub fn accept(&mut self, now_ns: u64) -> u32 {
        let idle = |(id, connection): (&u32, &Connection)| match &connection.end {
            End::In(inbound) => inbound.idle_since_ns().map(|since| (since, *id)),
            End::Out(_) => None,
        };
        let inbound = |connection: &&Connection| matches!(connection.end, End::In(_));
        if self.connections.values().filter(inbound).count() >= self.config.inbound_max {
            if let Some((_, oldest)) = self.connections.iter().filter_map(idle).min() {
                self.end(oldest, Lost::Dropped, now_ns);
            }
        }
        let full = self.connections.values().filter(inbound).count() >= self.config.inbound_max;
        let mut accepted = inbound::Inbound::new(now_ns);
        if full {
            accepted.refuse();
        }
        let id = self.new_connection(End::In(Box::new(accepted)));
        self.touch(id);
        id
    }

    /// The attempt to open a connection came to its end. False if nobody wants the connection any more.
    pub fn dialled(&mut self, id: u32, result: Result<(), DialFailure>, now_ns: u64) -> bool {
        match result {
            Ok(()) => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return false;
                };
                if let End::Out(outbound) = &mut connection.end {
                    outbound.opened(now_ns);
                }
                self.touch(id);
                true
            }
            Err(DialFailure::Refused) => {
                self.end(id, Lost::Refused, now_ns);
                false
            }
            Err(DialFailure::Reset) => {
                self.end(id, Lost::Closed, now_ns);
                false
            }
            Err(DialFailure::Other) => {
                self.end(id, Lost::Failed, now_ns);
                false
            }
        }
    }

    pub fn receive(&mut self, id: u32, bytes: &[u8], now_ns: u64) {
        match self.connections.get_mut(&id).map(|c| &mut c.end) {
            Some(End::In(inbound)) => {
                inbound.receive(bytes, now_ns);
                self.serve(id, now_ns);
            }
            Some(End::Out(_)) => self.hear(id, bytes, now_ns),
            None => {}
        }
    }

    /// The other side sends nothing more.
    pub fn closed(&mut self, id: u32, now_ns: u64) {
        self.hear_end(id, now_ns);
        self.end(id, Lost::Closed, now_ns);
    }

    /// Ends a connection, and draws the conclusions.
    fn end(&mut self, id: u32, lost: Lost, now_ns: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.actions.push(Action::Close { connection: id });
        match connection.end {
            End::In(inbound) => self.inbound_ended(id, *inbound),
            End::Out(outbound) => self.outbound_ended(id, *outbound, lost, now_ns),
        }
    }

    /// A message stream from or to a member came up or went down.
    fn streams_changed(&mut self, id: u64, change: impl FnOnce(&mut Peer)) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = peer.message_streams() > 0;
        change(peer);
        let after = peer.message_streams() > 0;
        if before != after {
            self.inputs.push(Input::Connected {
                peer: id,
                connected: after,
            });
        }
    }

    /// Messages come from members, known or not yet known, but never from one that was removed; and snapshots come by
    /// their own way only.
    fn take_message(&mut self, message: Box<Message>) {
        let welcome = message.to() == self.config.local.member_id
            && message.r#type() != MessageType::MsgSnap
            && !self.removed.contains(&message.from());
        if welcome {
            self.note_acknowledged(&message);
            self.inputs.push(Input::Message(message));
        }
    }
}

#[cfg(test)]
mod tests;
