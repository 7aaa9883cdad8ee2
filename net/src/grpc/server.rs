//! The server's end of a connection.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::budget::{Budget, Held};
use super::call::{CallHead, CallReader, Refusal, Start};
use super::compression::{self, Encoding};
use super::message::{self, Assembler, Message};
use super::status::{push_status, Code, Status};
use super::{Metadata, Methods, StreamId};
use crate::connection::{
    self, Connection, End, Expiry, Incoming, Input, Keepalive, Key, KnownFields, Output, Role,
};
use crate::frame::{Error, Reason, PREFACE};
use crate::hpack::{Field, FieldList};
use crate::limits;

/// What a listener's connections have in common.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--max-concurrent-streams`; `u32::MAX` is not announced, as in etcd.
    pub concurrent_streams_max: u32,
    /// Largest request message, compressed or not.
    pub request_bytes_max: usize,
    pub keepalive: Keepalive,
    /// Close a connection without streams after this; `u64::MAX` for never.
    pub idle_ns: u64,
    /// Shared by all connections.
    pub budget: Arc<Budget>,
    /// Connections that do not begin with the HTTP/2 preface are handed over ([`Event::Http1`]) instead of closed.
    pub http1: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            concurrent_streams_max: u32::MAX,
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            keepalive: Keepalive::default(),
            idle_ns: limits::IDLE_NS,
            budget: Arc::default(),
            http1: true,
        }
    }
}

/// What a peer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A call whose request is one message, complete. [`Server::respond`] or [`Server::fail`] answers a unary one,
    /// `send` and `finish` or `fail` a server-streaming one.
    Request {
        stream: StreamId,
        method: u16,
        metadata: Metadata,
        timeout_ns: Option<u64>,
        message: Bytes,
    },
    /// A call whose request is a stream of messages begins.
    Open {
        stream: StreamId,
        method: u16,
        metadata: Metadata,
        timeout_ns: Option<u64>,
    },
    Message {
        stream: StreamId,
        message: Bytes,
    },
    /// No message follows. The call goes on.
    HalfClose {
        stream: StreamId,
    },
    /// The call is over without the application's doing: reset, deadline, fault, or the connection's end. What is still
    /// said about the stream is ignored.
    Cancel {
        stream: StreamId,
    },
    /// Not HTTP/2. `bytes` is all that has come; what comes later is the new owner's.
    Http1 {
        bytes: Bytes,
    },
}

/// A call that waits for the application's last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenCall {
    pub stream: StreamId,
    /// Nothing more of the request has to come before the application knows of the call.
    pub arrived: bool,
}

/// State of a call between head and answer.
#[derive(Debug, Default)]
struct Call {
    method: u16,
    one_message: bool,
    encoding: Encoding,
    /// The application knows of it.
    delivered: bool,
    /// The application has given its last answer.
    answered: bool,
    timeout_ns: Option<u64>,
    deadline_ns: u64,
    /// Until it is handed over.
    metadata: Option<Metadata>,
    assembler: Assembler,
    /// The message of a one-message call, while END_STREAM is due.
    complete: Option<Bytes>,
    /// Taken from the budget.
    held: Held,
}

const HEAD: usize = 0;
const HEAD_GZIP: usize = 1;
const TRAILERS_OK: usize = 2;
const KNOWN_FIELDS: &[KnownFields] = &[
    &[(b":status", b"200"), (b"content-type", b"application/grpc")],
    &[
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-encoding", b"gzip"),
    ],
    &[(b"grpc-status", b"0")],
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// This much of the preface has come.
    Preface {
        matched: usize,
    },
    Http2,
    /// Handed over, or closed before it began.
    Gone,
}

/// How far into the preface a difference still may be an HTTP/1 request: the method.
const PREFACE_METHOD_BYTES: usize = 4;

#[derive(Debug)]
pub struct Server {
    stage: Stage,
    request_bytes_max: usize,
    budget: Arc<Budget>,
    settings: connection::Config,
    http1: bool,
    connection: Connection<Call, CallReader>,
    input: Input,
    /// Complete requests that the application gets when the peer has taken some of the answers before them.
    waiting: VecDeque<StreamId>,
    expired: Vec<(Key, Expiry)>,
}

impl Server {
    pub fn new(config: &Arc<Config>, methods: &'static Methods, now_ns: u64) -> Server {
        let settings = connection::Config {
            role: Role::Server,
            concurrent_streams_max: config.concurrent_streams_max,
            keepalive: config.keepalive,
            idle_ns: config.idle_ns,
            known_fields: KNOWN_FIELDS,
        };
        Server {
            stage: Stage::Preface { matched: 0 },
            request_bytes_max: config.request_bytes_max,
            budget: config.budget.clone(),
            connection: Connection::new(&settings, CallReader::new(methods), now_ns),
            settings,
            http1: config.http1,
            input: Input::default(),
            waiting: VecDeque::new(),
            expired: Vec::new(),
        }
    }

    /// Takes what the socket delivered, in pieces of any size.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, events: &mut Vec<Event>) {
        let mut rest = bytes;
        if let Stage::Preface { matched } = self.stage {
            rest = self.preface(matched, bytes, events);
        }
        if self.stage != Stage::Http2 || self.connection.is_closed() {
            return;
        }
        self.connection.heard(now_ns);
        let mut input = std::mem::take(&mut self.input);
        let outcome = self.frames(&mut input, rest, events);
        self.input = input;
        if let Err(error) = outcome {
            self.end_connection(error, events);
        }
    }

    fn frames(
        &mut self,
        input: &mut Input,
        mut rest: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        loop {
            let Some((header, payload)) = input.next(&mut rest)? else {
                return Ok(());
            };
            let incoming = self.connection.receive(header, payload)?;
            match incoming {
                Incoming::Nothing
                | Incoming::GoAway { .. }
                | Incoming::Trailers {
                    head: CallHead::Refused(_),
                    ..
                } => {}
                Incoming::Head {
                    key,
                    head,
                    end_stream,
                } => self.head(key, head, end_stream, events),
                Incoming::Data {
                    key,
                    data,
                    end_stream,
                } => self.data(key, data, end_stream, events),
                Incoming::Trailers { key, .. } => self.data(key, &[], true, events),
                Incoming::Closed { id, mut state, .. } => state.cancel(id, events),
            }
            self.deliver_waiting(events);
        }
    }

    /// Compares with the preface; returns what stands behind it.
    fn preface<'a>(
        &mut self,
        matched: usize,
        bytes: &'a [u8],
        events: &mut Vec<Event>,
    ) -> &'a [u8] {
        let expected = &PREFACE[matched..];
        let same = bytes
            .iter()
            .zip(expected)
            .take_while(|(a, b)| a == b)
            .count();
        if same == expected.len() {
            self.stage = Stage::Http2;
            self.connection.greet(&self.settings);
            return &bytes[same..];
        }
        if same == bytes.len() {
            self.stage = Stage::Preface {
                matched: matched + same,
            };
            return &[];
        }
        self.stage = Stage::Gone;
        if self.http1 && matched + same < PREFACE_METHOD_BYTES {
            let mut first = PREFACE[..matched].to_vec();
            first.extend_from_slice(bytes);
            events.push(Event::Http1 {
                bytes: Bytes::from(first),
            });
        } else {
            self.connection
                .fail(Error::protocol("invalid connection preface"));
        }
        &[]
    }

    fn head(&mut self, key: Key, head: CallHead, end_stream: bool, events: &mut Vec<Event>) {
        match head {
            CallHead::Start(start) => self.start(key, start, end_stream, events),
            CallHead::Refused(refusal) => self.refuse(key, &refusal),
            CallHead::Trailers => {}
        }
    }

    fn start(&mut self, key: Key, start: Start, end_stream: bool, events: &mut Vec<Event>) {
        let now_ns = self.connection.now_ns();
        let one_message = start.method.kind.takes_one_message();
        let deadline_ns = start
            .timeout_ns
            .map_or(u64::MAX, |timeout| now_ns.saturating_add(timeout));
        if deadline_ns <= now_ns {
            return self.close_call(key, Code::DEADLINE_EXCEEDED.0, DEADLINE_TEXT);
        }
        let stream = self.connection.stream_mut(key);
        let id = stream.id;
        let call = &mut stream.state;
        call.method = start.method.id;
        call.one_message = one_message;
        call.encoding = start.encoding;
        call.timeout_ns = start.timeout_ns;
        call.deadline_ns = deadline_ns;
        if one_message {
            call.metadata = Some(start.metadata);
            if end_stream {
                return self.reject(key, Status::internal(NO_MESSAGE), events);
            }
            self.connection
                .set_deadline(key, deadline_ns.min(now_ns + limits::FIRST_MESSAGE_NS));
            return;
        }
        call.delivered = true;
        events.push(Event::Open {
            stream: id,
            method: start.method.id,
            metadata: start.metadata,
            timeout_ns: start.timeout_ns,
        });
        if end_stream {
            events.push(Event::HalfClose { stream: id });
        }
        self.connection.set_deadline(key, deadline_ns);
    }

    fn data(&mut self, key: Key, mut data: &[u8], end_stream: bool, events: &mut Vec<Event>) {
        let max_bytes = self.request_bytes_max;
        loop {
            let stream = self.connection.stream_mut(key);
            let id = stream.id;
            let call = &mut stream.state;
            if call.answered {
                return;
            }
            let message = match call.assembler.next(&mut data, max_bytes) {
                Ok(Some(message)) => message,
                Ok(None) => match call.held.set(&self.budget, call.held_now()) {
                    Ok(()) => break,
                    Err(status) => return self.reject(key, status, events),
                },
                Err(status) => return self.reject(key, status, events),
            };
            let bytes = match call.open(message, max_bytes) {
                Ok(bytes) => bytes,
                Err(status) => return self.reject(key, status, events),
            };
            // What a stream brings is passed on at once; a single message is held until its answer.
            let held_bytes = if call.one_message { bytes.len() } else { 0 };
            if let Err(status) = call.held.set(&self.budget, held_bytes) {
                return self.reject(key, status, events);
            }
            if !call.one_message {
                events.push(Event::Message {
                    stream: id,
                    message: bytes,
                });
            } else if call.complete.replace(bytes).is_some() {
                return self.reject(key, Status::internal(TWO_MESSAGES), events);
            }
            self.connection.message_completed();
        }
        if end_stream {
            self.half_close(key, events);
        }
    }

    fn half_close(&mut self, key: Key, events: &mut Vec<Event>) {
        let stream = self.connection.stream_mut(key);
        let id = stream.id;
        let call = &mut stream.state;
        if !call.assembler.is_between_messages() {
            return self.reject(key, Status::internal("unexpected EOF"), events);
        }
        if !call.one_message {
            return events.push(Event::HalfClose { stream: id });
        }
        if call.complete.is_none() {
            return self.reject(key, Status::internal(NO_MESSAGE), events);
        }
        // Others have been answered so much that the peer does not take; a refusal would cost an honest one the call.
        if self.connection.is_queue_full() || !self.waiting.is_empty() {
            self.waiting.push_back(id);
        } else {
            self.deliver(key, events);
        }
        let deadline_ns = self.connection.stream(key).state.deadline_ns;
        self.connection.set_deadline(key, deadline_ns);
    }

    fn deliver_waiting(&mut self, events: &mut Vec<Event>) {
        while !self.waiting.is_empty() && !self.connection.is_queue_full() {
            let Some(id) = self.waiting.pop_front() else {
                return;
            };
            if let Some(key) = self.open_call(id) {
                self.deliver(key, events);
            }
        }
    }

    /// Hands a complete request over.
    fn deliver(&mut self, key: Key, events: &mut Vec<Event>) {
        let stream = self.connection.stream_mut(key);
        let id = stream.id;
        let call = &mut stream.state;
        let Some(message) = call.complete.take() else {
            return;
        };
        call.delivered = true;
        events.push(Event::Request {
            stream: id,
            method: call.method,
            metadata: call.metadata.take().unwrap_or_default(),
            timeout_ns: call.timeout_ns,
            message,
        });
    }

    /// Ends a call for what the peer sent in it.
    fn reject(&mut self, key: Key, status: Status, events: &mut Vec<Event>) {
        let stream = self.connection.stream_mut(key);
        let id = stream.id;
        stream.state.cancel(id, events);
        self.close_call(key, status.code.0, &status.message);
    }

    fn refuse(&mut self, key: Key, refusal: &Refusal) {
        let mut fields = FieldList::new();
        let digits = refusal.http_status.to_string();
        fields.push(Field::new(b":status", digits.as_bytes()));
        fields.push(Field::new(b"content-type", b"application/grpc"));
        if refusal.accept_encoding {
            fields.push(Field::without_indexing(
                b"grpc-accept-encoding",
                compression::ACCEPTED,
            ));
        }
        push_status(&mut fields, refusal.status.code.0, &refusal.status.message);
        self.connection.send_only_head(key, &fields);
    }

    fn close_call(&mut self, key: Key, code: u32, message: &str) {
        let mut fields = FieldList::new();
        let stream = self.connection.stream_mut(key);
        stream.state.end();
        if stream.head_sent() {
            push_status(&mut fields, code, message);
            return self.connection.end(key, End::Trailers(Box::new(fields)));
        }
        fields.push(Field::new(b":status", b"200"));
        fields.push(Field::new(b"content-type", b"application/grpc"));
        push_status(&mut fields, code, message);
        self.connection.send_only_head(key, &fields);
    }

    fn open_call(&self, stream: StreamId) -> Option<Key> {
        let key = self.connection.find(stream)?;
        (!self.connection.stream(key).state.answered).then_some(key)
    }

    /// Answers a unary call.
    #[inline]
    pub fn respond(&mut self, stream: StreamId, message: &[u8]) {
        let Some(key) = self.open_call(stream) else {
            return;
        };
        let call = &mut self.connection.stream_mut(key).state;
        call.end();
        if call.encoding == Encoding::Gzip {
            let message = compression::deflate(message);
            let prefix = message::prefix(true, message.len());
            return self
                .connection
                .send_response(key, HEAD_GZIP, [&prefix, &message], TRAILERS_OK);
        }
        let prefix = message::prefix(false, message.len());
        self.connection
            .send_response(key, HEAD, [&prefix, message], TRAILERS_OK);
    }

    /// As [`Server::respond`]; a large message is kept as it is instead of copied.
    pub fn respond_with(&mut self, stream: StreamId, message: Bytes) {
        if message.len() <= limits::STREAM_OUTPUT_BYTES_MAX {
            return self.respond(stream, &message);
        }
        if self.send(stream, message) {
            self.finish(stream);
        }
    }

    /// Ends a call with a status: as the whole response, or behind what was sent.
    pub fn fail(&mut self, stream: StreamId, code: u32, message: &str) {
        if let Some(key) = self.open_call(stream) {
            self.close_call(key, code, message);
        }
    }

    /// Sends one message of a response stream. What cannot leave yet is queued: see [`Server::backlog_bytes`].
    ///
    /// False when the call is over, perhaps by this very message, because the peer takes no head of this size. No
    /// [`Event::Cancel`] follows.
    #[must_use]
    pub fn send(&mut self, stream: StreamId, message: Bytes) -> bool {
        let Some(key) = self.open_call(stream) else {
            return false;
        };
        let stream = self.connection.stream(key);
        let gzip = stream.state.encoding == Encoding::Gzip;
        if !stream.head_sent()
            && !self
                .connection
                .send_known_head(key, if gzip { HEAD_GZIP } else { HEAD })
        {
            return false;
        }
        let message = if gzip {
            Bytes::from(compression::deflate(&message))
        } else {
            message
        };
        self.connection
            .send_message(key, message::prefix(gzip, message.len()), message);
        true
    }

    /// Ends a response stream with OK.
    pub fn finish(&mut self, stream: StreamId) {
        let Some(key) = self.open_call(stream) else {
            return;
        };
        let stream = self.connection.stream_mut(key);
        if !stream.head_sent() {
            return self.close_call(key, Code::OK.0, "");
        }
        stream.state.end();
        self.connection.end(key, End::Prepared(TRAILERS_OK));
    }

    /// Response bytes of a call that wait for windows or socket. Above [`limits::STREAM_OUTPUT_BYTES_MAX`] its producer
    /// should wait.
    pub fn backlog_bytes(&self, stream: StreamId) -> usize {
        self.connection
            .find(stream)
            .map_or(0, |key| self.connection.stream(key).backlog_bytes())
    }

    /// The call takes answers.
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.open_call(stream).is_some()
    }

    pub fn open_calls(&self) -> impl Iterator<Item = OpenCall> + '_ {
        let streams = self.connection.streams();
        let open = streams.filter(|stream| !stream.state.answered);
        open.map(|stream| OpenCall {
            stream: stream.id,
            arrived: stream.state.delivered || stream.state.complete.is_some(),
        })
    }

    /// The peer may still begin calls. After [`Server::shutdown`] that ends as soon as the peer has heard of it.
    pub fn accepts_calls(&self) -> bool {
        self.stage != Stage::Gone && self.connection.accepts_streams()
    }

    /// While paused, the peer gets no more window for this call's messages: back-pressure for request streams.
    pub fn pause_receive(&mut self, stream: StreamId, paused: bool) {
        if let Some(key) = self.open_call(stream) {
            self.connection.pause_receive(key, paused);
        }
    }

    /// Bytes of requests that are not complete: what this connection holds beyond its fixed size.
    pub fn held_bytes(&self) -> usize {
        let messages: usize = self
            .connection
            .streams()
            .map(|stream| stream.state.assembler.held_bytes())
            .sum();
        messages + self.input.held_bytes()
    }

    pub fn stream_count(&self) -> usize {
        self.connection.stream_count()
    }

    /// Whether to read from the socket: not while the peer leaves our output unread, or it could have us hold any number of
    /// answers.
    pub fn wants_input(&self) -> bool {
        self.connection.wants_input()
    }

    /// Bytes to send. Ask again after having written them: queued data follows as there is room.
    pub fn output(&mut self) -> &mut Output {
        self.connection.output()
    }

    /// When [`Server::on_timer`] wants to be called, if ever.
    pub fn deadline_ns(&self) -> Option<u64> {
        if self.stage == Stage::Gone {
            return None;
        }
        let mut deadline_ns = self.connection.deadline_ns();
        if !self.waiting.is_empty() {
            let look_ns = self.connection.now_ns() + limits::STREAM_TIMER_NS;
            deadline_ns = deadline_ns.min(look_ns);
        }
        Some(deadline_ns).filter(|&deadline| deadline != u64::MAX)
    }

    pub fn on_timer(&mut self, now_ns: u64, events: &mut Vec<Event>) {
        if self.stage == Stage::Gone {
            return;
        }
        let mut expired = std::mem::take(&mut self.expired);
        let outcome = self.connection.on_timer(now_ns, &mut expired);
        for (key, expiry) in expired.drain(..) {
            self.expire(key, expiry, now_ns, events);
        }
        self.expired = expired;
        self.deliver_waiting(events);
        if let Err(error) = outcome {
            self.end_connection(error, events);
        }
    }

    fn expire(&mut self, key: Key, expiry: Expiry, now_ns: u64, events: &mut Vec<Event>) {
        let stream = self.connection.stream_mut(key);
        let id = stream.id;
        let call = &mut stream.state;
        let deadline_passed = call.deadline_ns <= now_ns;
        let answered = call.answered;
        call.cancel(id, events);
        if expiry == Expiry::Deadline && deadline_passed && !answered {
            self.connection.drop_queue(key);
            self.close_call(key, Code::DEADLINE_EXCEEDED.0, DEADLINE_TEXT);
        } else {
            self.connection.reset(key, Reason::CANCEL);
        }
    }

    /// Graceful stop: no new calls, accepted ones may finish. See [`Server::should_close`].
    pub fn shutdown(&mut self) {
        match self.stage {
            Stage::Http2 => self.connection.shutdown(),
            Stage::Preface { .. } => self.stage = Stage::Gone,
            Stage::Gone => {}
        }
    }

    /// The transport is gone: every call is cancelled, and what is said about them from now on is ignored.
    pub fn disconnect(&mut self, events: &mut Vec<Event>) {
        self.stage = Stage::Gone;
        self.input = Input::default();
        self.waiting.clear();
        for (id, mut call) in self.connection.disconnect() {
            call.cancel(id, events);
        }
    }

    fn end_connection(&mut self, error: Error, events: &mut Vec<Event>) {
        self.input = Input::default();
        self.waiting.clear();
        for (id, mut call) in self.connection.fail(error) {
            call.cancel(id, events);
        }
    }

    /// The socket can be closed once the output is written.
    pub fn should_close(&self) -> bool {
        self.stage == Stage::Gone || self.connection.should_close()
    }
}

impl Call {
    /// Bytes of a message that is begun or waits for the end of the call.
    fn held_now(&self) -> usize {
        self.assembler.held_bytes() + self.complete.as_ref().map_or(0, Bytes::len)
    }

    /// The last answer is given.
    fn end(&mut self) {
        self.answered = true;
        self.held.release();
    }

    /// Tells the application, if it still waits for the call.
    fn cancel(&mut self, id: StreamId, events: &mut Vec<Event>) {
        self.held.release();
        if self.delivered && !self.answered {
            events.push(Event::Cancel { stream: id });
        }
    }

    /// The bytes of a message, inflated.
    fn open(&self, message: Message, max_bytes: usize) -> Result<Bytes, Status> {
        match (message.compressed, self.encoding) {
            (false, _) => Ok(message.bytes),
            (true, Encoding::Gzip) => compression::inflate(&message.bytes, max_bytes),
            (true, Encoding::Identity) => Err(Status::internal(
                "grpc: compressed flag set with identity or empty encoding",
            )),
        }
    }
}

const DEADLINE_TEXT: &str = "context deadline exceeded";
const NO_MESSAGE: &str =
    "cardinality violation: received no request message from non-client-streaming RPC";
const TWO_MESSAGES: &str =
    "cardinality violation: received multiple request messages for non-client-streaming RPC";
