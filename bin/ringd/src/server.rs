//! Front, member and recipes put together: bytes in, bytes and disk operations out. No I/O.
//!
//! The shell feeds in what the world did and then calls [`Server::settle`], which runs until nothing is left to decide
//! and hands out the operations that the shell is to carry out.

use crate::{
    concurrency::{Concurrency, Step},
    front::{Demand, Front},
    member::{Effect, Input},
    peers::{Action, DialFailure, Transport},
    recording::Recorded,
    request::CallId,
    status::Status,
};
use net::connection::Output;
use std::sync::Arc;

/// A connection: of a client, or with another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    Client(u32),
    Peer(u32),
}

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Client,
    Peer,
}

/// An operation for the shell.
pub enum Operation {
    WriteLog(engine::wal::Write),
    LogFile(engine::wal::FileOp),
    ReadLog {
        from: u64,
        job: engine::wal::ReadJob,
    },
    Fetch(engine::page::FetchJob),
    Checkpoint(engine::page::CheckpointJob),
    Upkeep(crate::member::UpkeepJob),
    PrepareSnapshot {
        peer: u64,
        id: u64,
        pin: engine::page::Pin,
    },
    ReadSnapshot {
        peer: u64,
        id: u64,
        offset: u64,
        bytes_max: usize,
        source: Arc<engine::store::Outgoing>,
    },
    Stage {
        transfer: u64,
        job: engine::store::install::StageJob,
    },
    Install(Box<engine::store::install::InstallJob>),
    /// A connection to another member's `host:port` is wanted.
    Dial {
        connection: u32,
        address: String,
        timeout_ns: u64,
    },
    /// A connection with another member is over.
    ClosePeer {
        connection: u32,
    },
    /// [`Server::wake`] is wanted then.
    Wake {
        after_ns: u64,
    },
    /// The member was removed from its cluster, and ends.
    Removed,
    /// The member cannot go on; the text names file, offset and error.
    Halt(String),
}

pub struct Server {
    pub front: Front,
    pub member: Recorded,
    peers: Transport,
    concurrency: Concurrency,
    demands: Vec<Demand>,
    effects: Vec<Effect>,
    steps: Vec<Step>,
    /// What the transport has for the member.
    heard: Vec<Input>,
    actions: Vec<Action>,
    dirty: Vec<u32>,
    /// The transport knows which members there are.
    introduced: bool,
}

impl Server {
    pub fn new(front: Front, member: Recorded, peers: Transport) -> Server {
        Server {
            front,
            member,
            peers,
            concurrency: Concurrency::default(),
            demands: Vec::new(),
            effects: Vec::new(),
            steps: Vec::new(),
            heard: Vec::new(),
            actions: Vec::new(),
            dirty: Vec::new(),
            introduced: false,
        }
    }

    /// Somebody connected.
    pub fn open(&mut self, port: Port, now_ns: u64) -> Link {
        match port {
            Port::Client => Link::Client(self.front.open(now_ns)),
            Port::Peer => Link::Peer(self.peers.accept(now_ns)),
        }
    }

    /// An [`Operation::Dial`] came to its end. False if nobody wants the connection any more.
    pub fn dialled(
        &mut self,
        connection: u32,
        result: Result<(), DialFailure>,
        now_ns: u64,
    ) -> bool {
        let wanted = self.peers.dialled(connection, result, now_ns);
        self.run_heard(now_ns);
        wanted
    }

    pub fn close(&mut self, link: Link, now_ns: u64) {
        match link {
            Link::Client(connection) => {
                self.front.close(connection, &mut self.demands);
                self.run_demands(now_ns);
            }
            Link::Peer(connection) => {
                self.peers.closed(connection, now_ns);
                self.run_heard(now_ns);
            }
        }
    }

    pub fn receive(&mut self, link: Link, bytes: &[u8], now_ns: u64) {
        match link {
            Link::Client(connection) => {
                self.front
                    .receive(connection, bytes, now_ns, &mut self.demands);
                self.run_demands(now_ns);
            }
            Link::Peer(connection) => {
                self.peers.receive(connection, bytes, now_ns);
                self.run_heard(now_ns);
            }
        }
    }

    /// Bytes of the connection's output were sent, all that waited.
    pub fn sent(&mut self, link: Link, now_ns: u64) {
        match link {
            Link::Client(connection) => {
                self.front.sent(connection, &mut self.demands);
                self.run_demands(now_ns);
            }
            Link::Peer(connection) => self.peers.sent(connection),
        }
    }

    /// Connections whose output is to be looked at; those with other members come first.
    pub fn take_dirty(&mut self, into: &mut Vec<Link>) {
        self.peers.take_dirty(&mut self.dirty);
        into.extend(self.dirty.drain(..).map(Link::Peer));
        self.front.take_dirty(&mut self.dirty);
        into.extend(self.dirty.drain(..).map(Link::Client));
    }

    /// Has the connection's output looked at.
    pub fn touch(&mut self, link: Link) {
        match link {
            Link::Client(connection) => self.front.touch(connection),
            Link::Peer(connection) => self.peers.touch(connection),
        }
    }

    pub fn output(&mut self, link: Link) -> Option<&mut Output> {
        match link {
            Link::Client(connection) => self.front.output(connection),
            Link::Peer(connection) => self.peers.output(connection),
        }
    }

    /// Whether to read from the connection's socket.
    pub fn wants_input(&self, link: Link) -> bool {
        match link {
            Link::Client(connection) => self.front.wants_input(connection),
            Link::Peer(connection) => self.peers.wants_input(connection),
        }
    }

    pub fn should_close(&self, link: Link) -> bool {
        match link {
            Link::Client(connection) => self.front.should_close(connection),
            Link::Peer(connection) => self.peers.should_close(connection),
        }
    }

    /// Lines about elections.
    pub fn take_election_lines(&mut self) -> Vec<String> {
        self.member.take_election_lines()
    }

    /// Lines for the operator.
    pub fn take_notices(&mut self) -> Vec<String> {
        let mut notices = self.member.take_notices();
        notices.append(&mut self.peers.take_notices());
        notices
    }

    pub fn complete(&mut self, input: Input, now_ns: u64) {
        self.member.step(input, now_ns);
    }

    /// The regular pulse: connection timers, and the member's tick when one is due.
    pub fn pulse(&mut self, now_ns: u64) {
        self.front.on_timer(now_ns, &mut self.demands);
        self.run_demands(now_ns);
        self.peers.on_timer(now_ns);
        self.run_heard(now_ns);
        self.member.step(Input::Pulse, now_ns);
    }

    /// The time of an [`Operation::Wake`] has come.
    pub fn wake(&mut self, now_ns: u64) {
        self.peers.on_timer(now_ns);
        self.run_heard(now_ns);
        self.member.step(Input::Wake, now_ns);
    }

    /// Runs until nothing is left to decide, or something should leave first: true then, and it is to be called again.
    #[must_use]
    pub fn settle(&mut self, now_ns: u64, operations: &mut Vec<Operation>) -> bool {
        if !std::mem::replace(&mut self.introduced, true) {
            self.set_members(now_ns);
        }
        loop {
            self.run_heard(now_ns);
            self.member.settle(now_ns, &mut self.effects);
            if self.effects.is_empty() && self.steps.is_empty() && self.demands.is_empty() {
                break;
            }
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                self.run_effect(effect, now_ns, operations);
            }
            self.effects = effects;
            self.run_demands(now_ns);
            self.run_steps(now_ns);
            if self.member.wants_settle() {
                break;
            }
        }
        self.peers.take_actions(&mut self.actions);
        operations.extend(self.actions.drain(..).map(|action| match action {
            Action::Dial {
                connection,
                address,
                timeout_ns,
            } => Operation::Dial {
                connection,
                address,
                timeout_ns,
            },
            Action::Close { connection } => Operation::ClosePeer { connection },
            Action::Wake { after_ns } => Operation::Wake { after_ns },
        }));
        self.front
            .set_role(self.member.has_leader(), !self.member.serves_clients());
        self.member.wants_settle()
    }

    /// Whether there is background work for an otherwise idle moment.
    pub fn wants_work(&self) -> bool {
        self.member.wants_work()
    }

    /// Clients are told to go elsewhere.
    pub fn shutdown(&mut self) {
        self.front.shutdown();
    }

    /// After [`Server::shutdown`]: no call begins any more, and all are answered but those that may go on for ever.
    pub fn is_quiet(&self) -> bool {
        self.front.is_quiet()
    }

    /// Ends the calls that are still open.
    pub fn end_calls(&mut self, status: &Status) {
        self.front.end_calls(status);
    }

    /// Nothing that a client waits for has still to leave on this connection.
    pub fn is_sent(&mut self, link: Link) -> bool {
        match link {
            Link::Client(connection) => self.front.is_sent(connection),
            Link::Peer(_) => true,
        }
    }

    fn set_members(&mut self, now_ns: u64) {
        let own = self.member.own_peer_urls();
        let removed = self.member.removed_members().collect();
        let peers = self.member.peers();
        self.peers.set_members(&own, peers, removed, now_ns);
    }

    /// Hands on what the transport has for the member.
    fn run_heard(&mut self, now_ns: u64) {
        self.peers.take_inputs(&mut self.heard);
        for input in self.heard.drain(..) {
            self.member.step(input, now_ns);
        }
    }

    fn run_demands(&mut self, now_ns: u64) {
        let mut demands = std::mem::take(&mut self.demands);
        for demand in demands.drain(..) {
            match demand {
                Demand::Ask { call, request } => {
                    self.member.step(Input::Ask { call, request }, now_ns)
                }
                Demand::Concurrency { call, recipe } => {
                    self.concurrency.start(call, recipe, &mut self.steps)
                }
                Demand::Cancel { call } => {
                    self.concurrency.cancel(call, &mut self.steps);
                    self.member.step(Input::Cancel { call }, now_ns);
                }
                Demand::Blocked { call, blocked } => {
                    self.member.step(Input::Blocked { call, blocked }, now_ns)
                }
            }
        }
        if self.demands.is_empty() {
            self.demands = demands;
        }
        self.run_steps(now_ns);
    }

    fn run_steps(&mut self, now_ns: u64) {
        let mut steps = std::mem::take(&mut self.steps);
        for step in steps.drain(..) {
            match step {
                Step::Ask { call, request } => {
                    self.member.step(Input::Ask { call, request }, now_ns)
                }
                Step::Forget { call } => self.member.step(Input::Cancel { call }, now_ns),
                Step::Reply { call, result } => self.front.reply(call, result),
                Step::Stream { call, message } => {
                    self.front.stream(call, message, &mut self.demands)
                }
                Step::End { call } => self.front.end(call, None),
            }
        }
        self.steps = steps;
    }

    fn run_effect(&mut self, effect: Effect, now_ns: u64, operations: &mut Vec<Operation>) {
        match effect {
            Effect::Reply { call, result } => match call.connection() {
                CallId::INTERNAL_CONNECTION => {
                    self.concurrency.answered(call, result, &mut self.steps)
                }
                CallId::PEER_CONNECTION => self.peers.reply(call.stream(), result, now_ns),
                _ => self.front.reply(call, result),
            },
            Effect::Stream { call, message } => match call.connection() {
                CallId::INTERNAL_CONNECTION => {
                    self.concurrency.watched(call, message, &mut self.steps)
                }
                CallId::PEER_CONNECTION => {} // no question of another member has more than one answer
                _ => self.front.stream(call, message, &mut self.demands),
            },
            Effect::End { call, status } => match call.connection() {
                CallId::INTERNAL_CONNECTION | CallId::PEER_CONNECTION => {}
                _ => self.front.end(call, status),
            },
            Effect::WriteLog(write) => operations.push(Operation::WriteLog(write)),
            Effect::LogFile(op) => operations.push(Operation::LogFile(op)),
            Effect::ReadLog { from, job } => operations.push(Operation::ReadLog { from, job }),
            Effect::Fetch(job) => operations.push(Operation::Fetch(job)),
            Effect::Checkpoint(job) => operations.push(Operation::Checkpoint(job)),
            Effect::Upkeep(job) => operations.push(Operation::Upkeep(job)),
            Effect::PrepareSnapshot { peer, id, pin } => {
                operations.push(Operation::PrepareSnapshot { peer, id, pin })
            }
            Effect::ReadSnapshot {
                peer,
                id,
                offset,
                bytes_max,
                source,
            } => operations.push(Operation::ReadSnapshot {
                peer,
                id,
                offset,
                bytes_max,
                source,
            }),
            Effect::Stage { transfer, job } => operations.push(Operation::Stage { transfer, job }),
            Effect::Install(job) => operations.push(Operation::Install(job)),
            Effect::Send(message) => self.peers.send(&message, now_ns),
            Effect::AskPeer { ask, peer, request } => self.peers.ask(ask, peer, request, now_ns),
            Effect::MembersChanged => self.set_members(now_ns),
            Effect::SendSnapshot { peer, id, message } => {
                self.peers.send_snapshot(peer, id, message, now_ns)
            }
            Effect::SnapshotBytes {
                peer,
                id,
                offset,
                bytes,
                last,
            } => self
                .peers
                .snapshot_bytes(peer, id, offset, &bytes, last, now_ns),
            Effect::CancelSnapshot { peer, id } => self.peers.cancel_snapshot(peer, id, now_ns),
            Effect::SnapshotTaken {
                transfer,
                offset,
                result,
            } => self.peers.snapshot_taken(transfer, offset, result, now_ns),
            Effect::Wake { after_ns } => operations.push(Operation::Wake { after_ns }),
            Effect::Removed => operations.push(Operation::Removed),
            Effect::Halt(reason) => operations.push(Operation::Halt(reason)),
        }
    }
}
