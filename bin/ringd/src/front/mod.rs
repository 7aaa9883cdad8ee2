//! The front: connections on one side, requests of the member on the other. No I/O.
//!
//! Flows in: bytes of a connection, and the member's answers. Flows out: [`Demand`]s for the member, and bytes that wait
//! in each connection's output. A call is answered at most once; answers to calls that are gone are dropped here.

mod leader_watch;

use crate::{
    concurrency::Recipe,
    methods::MethodId,
    request::{CallId, Request},
    services::{self, Call, Limits},
    status::{code, Status},
};
use bytes::Bytes;
use engine::error::RequestError;
use leader_watch::LeaderWatch;
use net::{
    connection::Output,
    grpc::{Config, Event, Metadata, Methods, OpenCall, Server, StreamId},
};
use std::{collections::BTreeMap, sync::Arc};

/// Bytes that may wait on one stream before its producer is told to stop.
const STREAM_BACKLOG_BYTES_MAX: usize = 256 << 10;
/// Keep-alives of one stream that may be under way at once; what comes above is answered in turn, not read ahead.
const KEEP_ALIVES_PENDING_MAX: u32 = 1 << 16;

/// What the front wants from the rest of the server.
#[derive(Debug)]
pub enum Demand {
    Ask {
        call: CallId,
        request: Request,
    },
    Concurrency {
        call: CallId,
        recipe: Recipe,
    },
    /// Nobody waits for this call any more; its watchers and waiters go.
    Cancel {
        call: CallId,
    },
    /// The stream's reader is slower (or fast enough again).
    Blocked {
        call: CallId,
        blocked: bool,
    },
}

enum StreamState {
    /// A bidirectional stream whose first message has not come, or a watch stream.
    Watch {
        blocked: bool,
    },
    KeepAlive {
        pending: u32,
        half_closed: bool,
    },
    /// A server stream fed by the member (ranges, observers).
    Feed {
        blocked: bool,
    },
    /// A call that may wait for ever: for its turn, or for nothing at all.
    Held,
}

struct Connection {
    server: Server,
    streams: BTreeMap<u32, StreamState>,
    dirty: bool,
    /// Streams whose reader is slow.
    blocked: usize,
    /// It speaks a protocol that is not served.
    refused: bool,
}

impl Connection {
    fn forget(&mut self, stream: u32) {
        if let Some(StreamState::Watch { blocked: true } | StreamState::Feed { blocked: true }) =
            self.streams.remove(&stream)
        {
            self.blocked -= 1;
        }
    }
}

pub struct Front {
    methods: &'static Methods,
    config: Arc<Config>,
    limits: Limits,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    dirty: Vec<u32>,
    events: Vec<Event>,
    has_leader: bool,
    is_learner: bool,
    leader_watch: LeaderWatch,
    /// No call is taken any more.
    stopping: bool,
}

impl Front {
    /// `election_ns` is the election timeout: so often streams that need a leader are looked at.
    pub fn new(
        methods: &'static Methods,
        config: Arc<Config>,
        limits: Limits,
        election_ns: u64,
    ) -> Front {
        Front {
            methods,
            config,
            limits,
            connections: BTreeMap::new(),
            next_connection: 1,
            dirty: Vec::new(),
            events: Vec::new(),
            has_leader: false,
            is_learner: false,
            leader_watch: LeaderWatch::new(election_ns),
            stopping: false,
        }
    }

    /// What the member is now decides what calls are refused before anything else is looked at.
    pub fn set_role(&mut self, has_leader: bool, is_learner: bool) {
        self.has_leader = has_leader;
        self.is_learner = is_learner;
    }

    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// A new connection; its settings wait in the output.
    pub fn open(&mut self, now_ns: u64) -> u32 {
        let id = self.next_connection;
        self.next_connection = match self.next_connection.wrapping_add(1) {
            CallId::PEER_CONNECTION | CallId::INTERNAL_CONNECTION | 0 => 1,
            next => next,
        };
        let mut server = Server::new(&self.config, self.methods, now_ns);
        if self.stopping {
            server.shutdown();
        }
        self.connections.insert(
            id,
            Connection {
                server,
                streams: BTreeMap::new(),
                dirty: false,
                blocked: 0,
                refused: false,
            },
        );
        self.mark(id);
        id
    }

    /// The connection is gone; so are its calls.
    pub fn close(&mut self, connection: u32, demands: &mut Vec<Demand>) {
        let Some(mut gone) = self.connections.remove(&connection) else {
            return;
        };
        let mut events = std::mem::take(&mut self.events);
        gone.server.disconnect(&mut events);
        for event in events.drain(..) {
            if let Event::Cancel { stream } = event {
                gone.streams.remove(&stream.get());
                let call = CallId::new(connection, stream.get());
                demands.push(Demand::Cancel { call });
            }
        }
        // The member may not keep what is not known to the transport any more.
        let left = gone.streams.into_keys();
        demands.extend(left.map(|stream| Demand::Cancel {
            call: CallId::new(connection, stream),
        }));
        self.events = events;
    }

    /// Bytes arrived.
    pub fn receive(
        &mut self,
        connection: u32,
        bytes: &[u8],
        now_ns: u64,
        demands: &mut Vec<Demand>,
    ) {
        let mut events = std::mem::take(&mut self.events);
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.server.receive(bytes, now_ns, &mut events);
        }
        self.mark(connection);
        self.handle(connection, &mut events, demands);
        self.events = events;
    }

    /// Runs the timers that are due on any connection.
    pub fn on_timer(&mut self, now_ns: u64, demands: &mut Vec<Demand>) {
        let due: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, entry)| entry.server.deadline_ns().is_some_and(|at| at <= now_ns))
            .map(|(id, _)| *id)
            .collect();
        let mut events = std::mem::take(&mut self.events);
        for connection in due {
            if let Some(entry) = self.connections.get_mut(&connection) {
                entry.server.on_timer(now_ns, &mut events);
            }
            self.mark(connection);
            self.handle(connection, &mut events, demands);
        }
        self.events = events;
        self.check_leader(now_ns, demands);
    }

    fn check_leader(&mut self, now_ns: u64, demands: &mut Vec<Demand>) {
        let connections = &self.connections;
        let is_open = |call: CallId| {
            let entry = connections.get(&call.connection());
            entry.is_some_and(|entry| entry.streams.contains_key(&call.stream()))
        };
        let ended = self.leader_watch.check(now_ns, self.has_leader, is_open);
        for call in ended {
            demands.push(Demand::Cancel { call });
            self.end(call, Some(RequestError::NoLeader.into()));
        }
    }

    /// Tells every client to go elsewhere. Calls that it has sent already are still taken; see [`Front::is_quiet`].
    pub fn shutdown(&mut self) {
        self.stopping = true;
        let ids: Vec<u32> = self.connections.keys().copied().collect();
        for id in ids {
            if let Some(entry) = self.connections.get_mut(&id) {
                entry.server.shutdown();
            }
            self.mark(id);
        }
    }

    /// After [`Front::shutdown`]: no client begins a call any more, and all are answered but those that may go on for ever,
    /// and those whose request has not arrived.
    pub fn is_quiet(&self) -> bool {
        self.connections.values().all(|entry| {
            let mut calls = entry.server.open_calls();
            let is_awaited =
                |call: OpenCall| call.arrived && !entry.streams.contains_key(&call.stream.get());
            !entry.server.accepts_calls() && !calls.any(is_awaited)
        })
    }

    /// Ends every call that is still open: watches, keep-alives, and calls in flight.
    pub fn end_calls(&mut self, status: &Status) {
        let ids: Vec<u32> = self.connections.keys().copied().collect();
        for id in ids {
            if let Some(entry) = self.connections.get_mut(&id) {
                entry.streams.clear();
                entry.blocked = 0;
                let open: Vec<OpenCall> = entry.server.open_calls().collect();
                for call in open {
                    entry.server.fail(call.stream, status.code, &status.message);
                }
            }
            self.mark(id);
        }
    }

    /// Every answer has left.
    pub fn is_sent(&mut self, connection: u32) -> bool {
        self.connections.get_mut(&connection).is_none_or(|entry| {
            entry.server.stream_count() == 0 && entry.server.output().is_empty()
        })
    }

    /// The connections whose output changed since the last call.
    pub fn take_dirty(&mut self, into: &mut Vec<u32>) {
        for id in self.dirty.drain(..) {
            if let Some(entry) = self.connections.get_mut(&id) {
                entry.dirty = false;
                into.push(id);
            }
        }
    }

    pub fn output(&mut self, connection: u32) -> Option<&mut Output> {
        self.connections
            .get_mut(&connection)
            .map(|entry| entry.server.output())
    }

    /// Has the connection's output looked at again.
    pub fn touch(&mut self, connection: u32) {
        self.mark(connection);
    }

    /// Whether to read from the connection's socket: not while its peer leaves too much unread.
    pub fn wants_input(&self, connection: u32) -> bool {
        self.connections
            .get(&connection)
            .is_none_or(|entry| entry.server.wants_input())
    }

    pub fn should_close(&self, connection: u32) -> bool {
        self.connections
            .get(&connection)
            .is_none_or(|entry| entry.refused || entry.server.should_close())
    }

    /// Bytes left the connection's output: streams whose backlog shrank may go on.
    pub fn sent(&mut self, connection: u32, demands: &mut Vec<Demand>) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        if entry.blocked == 0 {
            return;
        }
        let waiting = entry.server.output().len();
        for (stream, state) in &mut entry.streams {
            let (StreamState::Watch { blocked } | StreamState::Feed { blocked }) = state else {
                continue;
            };
            let backlog = entry.server.backlog_bytes(StreamId::new(*stream)) + waiting;
            if *blocked && backlog < STREAM_BACKLOG_BYTES_MAX / 2 {
                *blocked = false;
                entry.blocked -= 1;
                demands.push(Demand::Blocked {
                    call: CallId::new(connection, *stream),
                    blocked: false,
                });
            }
        }
    }

    /// Answers a unary call, or refuses another.
    pub fn reply(&mut self, call: CallId, result: Result<Bytes, Status>) {
        let Some(entry) = self.connections.get_mut(&call.connection()) else {
            return;
        };
        let stream = StreamId::new(call.stream());
        entry.forget(call.stream());
        match result {
            Ok(message) => entry.server.respond_with(stream, message),
            Err(status) => entry.server.fail(stream, status.code, &status.message),
        }
        self.mark(call.connection());
    }

    /// Sends one message of a streaming call.
    pub fn stream(&mut self, call: CallId, message: Bytes, demands: &mut Vec<Demand>) {
        let Some(entry) = self.connections.get_mut(&call.connection()) else {
            return;
        };
        let stream = StreamId::new(call.stream());
        let Some(state) = entry.streams.get_mut(&call.stream()) else {
            return; // the call is over
        };
        if !entry.server.send(stream, message) {
            entry.forget(call.stream());
            demands.push(Demand::Cancel { call });
            return self.mark(call.connection());
        }
        match state {
            StreamState::Watch { blocked } | StreamState::Feed { blocked } => {
                let backlog = entry.server.backlog_bytes(stream) + entry.server.output().len();
                if !*blocked && backlog > STREAM_BACKLOG_BYTES_MAX {
                    *blocked = true;
                    entry.blocked += 1;
                    demands.push(Demand::Blocked {
                        call,
                        blocked: true,
                    });
                }
            }
            StreamState::KeepAlive {
                pending,
                half_closed,
            } => {
                *pending = pending.saturating_sub(1);
                if *half_closed && *pending == 0 {
                    entry.server.finish(stream);
                    entry.forget(call.stream());
                }
            }
            StreamState::Held => {}
        }
        self.mark(call.connection());
    }

    /// Ends a streaming call.
    pub fn end(&mut self, call: CallId, status: Option<Status>) {
        let Some(entry) = self.connections.get_mut(&call.connection()) else {
            return;
        };
        let stream = StreamId::new(call.stream());
        entry.forget(call.stream());
        match status {
            None => entry.server.finish(stream),
            Some(status) => entry.server.fail(stream, status.code, &status.message),
        }
        self.mark(call.connection());
    }

    fn mark(&mut self, connection: u32) {
        if let Some(entry) = self.connections.get_mut(&connection) {
            if !entry.dirty {
                entry.dirty = true;
                self.dirty.push(connection);
            }
        }
    }

    fn handle(&mut self, connection: u32, events: &mut Vec<Event>, demands: &mut Vec<Demand>) {
        for event in events.drain(..) {
            match event {
                Event::Request {
                    stream,
                    method,
                    metadata,
                    message,
                    ..
                } => {
                    let call = CallId::new(connection, stream.get());
                    match self.request(call, method, &metadata, message, demands) {
                        Ok(()) => {}
                        Err(status) => self.reply(call, Err(status)),
                    }
                }
                Event::Open {
                    stream,
                    method,
                    metadata,
                    ..
                } => self.open_stream(CallId::new(connection, stream.get()), method, &metadata),
                Event::Message { stream, message } => {
                    self.message(CallId::new(connection, stream.get()), message, demands)
                }
                Event::HalfClose { stream } => {
                    self.half_close(CallId::new(connection, stream.get()))
                }
                Event::Cancel { stream } => {
                    let call = CallId::new(connection, stream.get());
                    if let Some(entry) = self.connections.get_mut(&connection) {
                        entry.forget(call.stream());
                    }
                    demands.push(Demand::Cancel { call });
                }
                // Only gRPC is served here yet: better a closed connection than one that never answers.
                Event::Http1 { .. } => {
                    if let Some(entry) = self.connections.get_mut(&connection) {
                        entry.refused = true;
                    }
                }
            }
        }
    }

    fn refuse_without_leader(&self, metadata: &Metadata) -> Result<(), Status> {
        if !self.has_leader && needs_leader(metadata) {
            return Err(RequestError::NoLeader.into());
        }
        Ok(())
    }

    fn request(
        &mut self,
        call: CallId,
        method: u16,
        metadata: &Metadata,
        message: Bytes,
        demands: &mut Vec<Demand>,
    ) -> Result<(), Status> {
        let method = MethodId::from_number(method)
            .ok_or(Status::new(code::INTERNAL, "method table out of step"))?;
        if self.is_learner && !services::is_served_by_learners(method, &message) {
            return Err(RequestError::NotSupportedForLearner.into());
        }
        self.refuse_without_leader(metadata)?;
        match services::decode(method, message, &self.limits)? {
            Call::Member(request) => {
                if matches!(request, Request::RangeStream(_) | Request::Snapshot) {
                    self.hold(call, StreamState::Feed { blocked: false });
                }
                demands.push(Demand::Ask { call, request });
            }
            Call::Concurrency(recipe) => {
                match recipe {
                    Recipe::Observe(_) => self.hold(call, StreamState::Feed { blocked: false }),
                    Recipe::Lock(_) | Recipe::Campaign(_) => self.hold(call, StreamState::Held),
                    _ => {}
                }
                demands.push(Demand::Concurrency { call, recipe });
            }
            Call::Answer(message) => self.reply(call, Ok(message.into())),
            Call::AnswerAndHold(message) => {
                self.hold(call, StreamState::Held);
                self.stream(call, message.into(), demands);
            }
        }
        Ok(())
    }

    fn hold(&mut self, call: CallId, state: StreamState) {
        if let Some(entry) = self.connections.get_mut(&call.connection()) {
            entry.streams.insert(call.stream(), state);
        }
    }

    fn open_stream(&mut self, call: CallId, method: u16, metadata: &Metadata) {
        if self.is_learner {
            let status = RequestError::NotSupportedForLearner.into();
            return self.end(call, Some(status));
        }
        if let Err(status) = self.refuse_without_leader(metadata) {
            return self.end(call, Some(status));
        }
        if needs_leader(metadata) {
            self.leader_watch.add(call);
        }
        match MethodId::from_number(method) {
            Some(MethodId::Watch) => self.hold(call, StreamState::Watch { blocked: false }),
            Some(MethodId::LeaseKeepAlive) => self.hold(
                call,
                StreamState::KeepAlive {
                    pending: 0,
                    half_closed: false,
                },
            ),
            _ => self.end(
                call,
                Some(Status::new(code::INTERNAL, "method table out of step")),
            ),
        }
    }

    fn message(&mut self, call: CallId, message: Bytes, demands: &mut Vec<Demand>) {
        let Some(entry) = self.connections.get_mut(&call.connection()) else {
            return;
        };
        let method = match entry.streams.get_mut(&call.stream()) {
            Some(StreamState::Watch { .. }) => MethodId::Watch,
            Some(StreamState::KeepAlive { pending, .. }) => {
                *pending += 1;
                if *pending > KEEP_ALIVES_PENDING_MAX {
                    demands.push(Demand::Cancel { call });
                    return self.end(call, Some(RequestError::NoLeader.into()));
                }
                MethodId::LeaseKeepAlive
            }
            _ => return,
        };
        match services::decode(method, message, &self.limits) {
            Ok(Call::Member(request)) => demands.push(Demand::Ask { call, request }),
            Ok(_) => {}
            Err(status) => {
                demands.push(Demand::Cancel { call });
                self.end(call, Some(status));
            }
        }
    }

    fn half_close(&mut self, call: CallId) {
        let Some(entry) = self.connections.get_mut(&call.connection()) else {
            return;
        };
        // A watch stream goes on: clients that only listen close their half at once.
        let finished = match entry.streams.get_mut(&call.stream()) {
            Some(StreamState::KeepAlive {
                pending,
                half_closed,
            }) => {
                *half_closed = true;
                *pending == 0
            }
            _ => false,
        };
        if finished {
            self.end(call, None);
        }
    }
}

fn needs_leader(metadata: &Metadata) -> bool {
    metadata.get("hasleader") == Some(&b"true"[..])
}

#[cfg(test)]
mod tests;
