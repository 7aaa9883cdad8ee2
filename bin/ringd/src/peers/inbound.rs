//! Serving the peer port.

use super::{
    connection::{End, Lost},
    database::{self, Part},
    outbound::READ_NS_MAX,
    peer::Peer,
    probe,
    routes::{self, Answer, Call, Route},
    Transport, STREAM_BYTES_MAX, STREAM_MESSAGES_MAX,
};
use crate::{
    member::Input,
    request::{CallId, PeerRequest, Request},
    status::Status,
};
use bytes::Bytes;
use net::{
    http1::{RequestHead, Server, ServerEvent},
    peer::{
        checksum, is_body_damaged, is_damaged, seal, Encoder, Kind, Remote, CHECKSUM, REFUSED, SEAL,
    },
};
use prost::Message as _;
use proto::{etcdserverpb as pb, leasepb, raftpb::Message};

/// An idle stream carries a heartbeat of the link this often.
const BEAT_NS: u64 = READ_NS_MAX / 3;
/// A stream whose reader takes nothing for this long is given up.
const WRITE_NS_MAX: u64 = 5_000_000_000;
/// Bytes of requests that are coming in, over all connections, and what each may hold in any case.
pub const HELD_BYTES_MAX: usize = 256 << 20;
const HELD_BYTES_FREE: usize = 256 << 10;
/// Members that speak to this one before it knows them; the oldest makes room for a new one.
const REMOTES_MAX: usize = 32;
/// The answer to a request that is not what was sent.
const DAMAGED: &str = "the request was damaged on its way: its checksum does not fit";
/// Memory kept for the frames of a stream.
const FRAME_KEPT_BYTES: usize = 256 << 10;

/// A connection that somebody else opened.
pub struct Inbound {
    pub server: Server,
    /// The request that is coming in.
    request: Option<Incoming>,
    state: State,
    /// The last request was sealed, so its answer is.
    seals: bool,
    /// When the last request was done with.
    idle_since_ns: u64,
    /// Bytes of it that [`Transport`] has counted.
    pub counted_bytes: usize,
}

enum Incoming {
    /// Its head, body so far and largest body.
    Whole(RequestHead, Vec<u8>, usize),
    Database(Box<database::Body>),
}

enum State {
    Free,
    /// The member has the question.
    Called(u32),
    /// A piece of a snapshot is being written.
    Taking,
    Stream(Stream),
}

/// A stream by which another member receives.
struct Stream {
    peer: u64,
    kind: Kind,
    encoder: Encoder,
    written_ns: u64,
    /// When something first waited, and how much the socket had not taken when it was last looked at.
    stalled_ns: Option<(u64, u64)>,
    /// Messages since the socket last took everything.
    messages: usize,
}

/// A question that the member has.
pub struct Waiting {
    connection: u32,
    call: Call,
}

enum Event {
    Head(RequestHead),
    TooLarge(RequestHead),
    Whole(RequestHead, Bytes),
    Part(Box<Part>),
    Malformed(&'static str),
}

impl Inbound {
    pub fn new(now_ns: u64) -> Inbound {
        Inbound {
            server: Server::new(now_ns),
            request: None,
            state: State::Free,
            seals: false,
            idle_since_ns: now_ns,
            counted_bytes: 0,
        }
    }

    /// There are too many connections.
    pub fn refuse(&mut self) {
        self.server.end();
    }

    pub fn receive(&mut self, bytes: &[u8], now_ns: u64) {
        // Who receives by a stream has nothing to say there.
        if !matches!(self.state, State::Stream(_)) {
            self.server.receive(bytes, now_ns);
        }
    }

    /// Whether the head of a request is not what was sent. If it is, and sealed, so will its answer be.
    fn is_damaged(&mut self, head: &RequestHead) -> bool {
        let start = format!("{} {}", head.method, head.target);
        let damaged = is_damaged(&start, &head.headers);
        self.seals = !damaged && head.headers.get(SEAL).is_some();
        damaged
    }

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(Incoming::Database(body)) = &mut self.request {
                match body.next() {
                    Ok(Some(part)) => return Some(Event::Part(Box::new(part))),
                    Ok(None) if body.wants_input() => {}
                    Ok(None) => return None,
                    Err(database::Malformed(text)) => return Some(Event::Malformed(text)),
                }
            }
            match (self.server.next()?, &mut self.request) {
                (ServerEvent::Head(head), _) => return Some(Event::Head(head)),
                (ServerEvent::Data(bytes), Some(Incoming::Database(body))) => body.receive(bytes),
                (ServerEvent::Data(bytes), Some(Incoming::Whole(_, body, bytes_max)))
                    if body.len() + bytes.len() <= *bytes_max =>
                {
                    body.extend_from_slice(bytes)
                }
                (ServerEvent::Data(_), Some(Incoming::Whole(..))) => {
                    if let Some(Incoming::Whole(head, ..)) = self.request.take() {
                        return Some(Event::TooLarge(head));
                    }
                }
                (ServerEvent::End, Some(Incoming::Database(body))) => body.end(),
                (ServerEvent::End, Some(Incoming::Whole(..))) => {
                    if let Some(Incoming::Whole(head, body, _)) = self.request.take() {
                        return Some(Event::Whole(head, body.into()));
                    }
                }
                (ServerEvent::Data(_) | ServerEvent::End, None) => {} // a request that was answered already
            }
        }
    }

    /// Whether to read from the socket.
    pub fn wants_input(&self) -> bool {
        let is_held = matches!(&self.request, Some(Incoming::Database(b)) if !b.wants_input());
        !is_held && self.server.wants_input()
    }

    /// A part of a database was taken: what follows is read again.
    pub fn part_taken(&mut self, now_ns: u64) {
        if let Some(Incoming::Database(body)) = &mut self.request {
            body.taken();
            self.server.wait_anew(now_ns);
        }
    }

    pub fn answer(&mut self, mut answer: Answer, now_ns: u64) {
        self.request = None;
        self.state = State::Free;
        self.idle_since_ns = now_ns;
        if self.seals {
            let headers = &mut answer.headers;
            headers.push((CHECKSUM, checksum(&answer.body)));
            seal(&answer.status.to_string(), headers);
        }
        let fields = fields(&answer.headers);
        self.server
            .respond(answer.status, &fields, &answer.body, now_ns);
    }

    fn stream(&mut self, mut headers: Vec<(&'static str, String)>, stream: Stream) {
        if self.seals {
            seal("200", &mut headers);
        }
        self.server
            .respond_stream(200, &fields(&headers), stream.written_ns);
        self.state = State::Stream(stream);
    }

    /// Writes a message to the stream. False if too much waits there already.
    pub fn write(&mut self, message: &Message, now_ns: u64) -> bool {
        let State::Stream(stream) = &mut self.state else {
            return false;
        };
        let full =
            self.server.output_bytes() > STREAM_BYTES_MAX || stream.messages >= STREAM_MESSAGES_MAX;
        if full {
            return false;
        }
        stream.messages += 1;
        stream.written_ns = now_ns;
        let frame = stream.encoder.message(message);
        self.server.chunk(frame.len(), now_ns, |out| {
            out.extend_from_slice(frame);
        });
        stream.encoder.shrink(FRAME_KEPT_BYTES);
        true
    }

    pub fn beat(&mut self, now_ns: u64) -> bool {
        let State::Stream(stream) = &mut self.state else {
            return false;
        };
        if now_ns < stream.written_ns + BEAT_NS || self.server.output_bytes() > 0 {
            return false;
        }
        stream.written_ns = now_ns;
        let frame = stream.encoder.heartbeat();
        self.server.chunk(frame.len(), now_ns, |out| {
            out.extend_from_slice(frame);
        });
        true
    }

    pub fn sent(&mut self) {
        if let State::Stream(stream) = &mut self.state {
            stream.messages = 0;
            stream.stalled_ns = None;
        }
    }

    pub fn is_overdue(&mut self, now_ns: u64) -> bool {
        if matches!(&self.request, Some(Incoming::Database(body)) if body.is_busy()) {
            return false; // it is this member that lets the other one wait
        }
        let State::Stream(stream) = &mut self.state else {
            return self.server.is_overdue(now_ns);
        };
        let taken = self.server.output().taken_bytes();
        match stream.stalled_ns {
            _ if self.server.output_bytes() == 0 => stream.stalled_ns = None,
            Some((since_ns, then)) if then == taken => {
                return now_ns.saturating_sub(since_ns) > WRITE_NS_MAX;
            }
            _ => stream.stalled_ns = Some((now_ns, taken)),
        }
        false
    }

    pub fn idle_since_ns(&self) -> Option<u64> {
        matches!(self.state, State::Free).then_some(self.idle_since_ns)
    }

    /// Bytes of a request that is coming in.
    pub fn held_bytes(&self) -> usize {
        match &self.request {
            Some(Incoming::Whole(_, body, _)) => body.len(),
            Some(Incoming::Database(body)) => body.held_bytes(),
            None => 0,
        }
    }

    pub fn peer(&self) -> Option<u64> {
        match &self.state {
            State::Stream(stream) => Some(stream.peer),
            _ => None,
        }
    }
}

fn fields<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(n, v)| (*n, v.as_str())).collect()
}

impl Transport {
    pub(super) fn inbound(&mut self, id: u32) -> Option<&mut Inbound> {
        match self.connections.get_mut(&id).map(|c| &mut c.end) {
            Some(End::In(inbound)) => Some(inbound),
            _ => None,
        }
    }

    /// Looks at what came by a connection.
    pub(super) fn serve(&mut self, id: u32, now_ns: u64) {
        while let Some(inbound) = self.inbound(id) {
            let Some(event) = inbound.next() else {
                break;
            };
            match event {
                Event::Head(head) if inbound.is_damaged(&head) => {
                    self.answer(id, Answer::error(503, DAMAGED), now_ns)
                }
                Event::Head(head) => match self.admit(&head, now_ns) {
                    Ok(bytes_max) => {
                        let is_database = routes::brings_database(&head);
                        if is_database {
                            self.meet(&head, now_ns);
                        }
                        if let Some(inbound) = self.inbound(id) {
                            inbound.request = Some(match is_database {
                                true => Incoming::Database(Box::default()),
                                false => Incoming::Whole(head, Vec::new(), bytes_max),
                            });
                            if is_database {
                                inbound.state = State::Taking;
                            }
                        }
                    }
                    Err(answer) => self.answer(id, answer, now_ns),
                },
                Event::TooLarge(head) => {
                    if let Some(route) = Route::of(head.path()) {
                        self.answer(id, route.too_large(), now_ns);
                    }
                }
                Event::Whole(head, body) if is_body_damaged(&head.headers, &body) => {
                    self.answer(id, Answer::error(503, DAMAGED), now_ns)
                }
                Event::Whole(head, body) => self.route(id, &head, body, now_ns),
                Event::Part(part) => self.take_part(id, *part, now_ns),
                Event::Malformed(text) => {
                    let fields = self.config.local.response();
                    self.answer(id, Answer::error(400, text).with(fields), now_ns);
                }
            }
        }
        self.touch(id);
        self.count_held(id, now_ns);
    }

    /// The checks that need no more than the head.
    fn admit(&mut self, head: &RequestHead, now_ns: u64) -> Result<usize, Answer> {
        let bytes_max = routes::admit(head, &self.config.local)?;
        let is_raft = Route::of(head.path()).is_some_and(Route::is_raft);
        if let (true, Some(from)) = (is_raft, Remote::of(&head.headers).from) {
            if let Err(why) = self.check_standing(from, &head.headers, now_ns) {
                let answer = Answer::error(412, &why).with([(REFUSED, why)]);
                return Err(answer.with(self.config.local.response()));
            }
        }
        Ok(bytes_max)
    }

    /// Requests that come in share a bound. Above it, a large one is given up.
    fn count_held(&mut self, id: u32, now_ns: u64) {
        let Some(inbound) = self.inbound(id) else {
            return;
        };
        let held = inbound.held_bytes();
        let before = std::mem::replace(&mut inbound.counted_bytes, held);
        self.held_bytes = self.held_bytes - before + held;
        if self.held_bytes > HELD_BYTES_MAX && held > HELD_BYTES_FREE {
            self.end(id, Lost::Dropped, now_ns);
        }
    }

    pub(super) fn answer(&mut self, id: u32, answer: Answer, now_ns: u64) {
        if let Some(inbound) = self.inbound(id) {
            inbound.answer(answer, now_ns);
            self.touch(id);
        }
    }

    fn route(&mut self, id: u32, head: &RequestHead, body: Bytes, now_ns: u64) {
        match Route::of(head.path()) {
            Some(Route::Message) => {
                let answer = self.take_posted(head, body, now_ns);
                let fields = self.config.local.response();
                self.answer(id, answer.with(fields), now_ns);
            }
            Some(Route::Stream(rest)) => self.open_stream(id, head, rest, now_ns),
            Some(Route::Snapshot) => match self.take_piece(id, head, body, now_ns) {
                None => {
                    if let Some(inbound) = self.inbound(id) {
                        inbound.state = State::Taking;
                    }
                }
                Some(answer) => {
                    let fields = self.config.local.response();
                    self.answer(id, answer.with(fields), now_ns);
                }
            },
            Some(Route::Probing) => {
                let unix_ns = self.config.unix_ms.saturating_mul(1_000_000) + now_ns;
                let body = probe::answer(unix_ns).into();
                self.answer(id, Answer::of("text/plain; charset=utf-8", body), now_ns);
            }
            Some(route) => match question(route, body) {
                Ok((call, request)) => self.ask_member(id, call, request),
                Err(answer) => self.answer(id, answer, now_ns),
            },
            None => self.answer(id, Answer::error(404, "404 page not found"), now_ns),
        }
    }

    fn ask_member(&mut self, id: u32, call: Call, request: PeerRequest) {
        self.last_call = self.last_call.wrapping_add(1);
        let number = self.last_call;
        let Some(inbound) = self.inbound(id) else {
            return;
        };
        inbound.state = State::Called(number);
        self.calls.insert(
            number,
            Waiting {
                connection: id,
                call,
            },
        );
        self.inputs.push(Input::Ask {
            call: CallId::new(CallId::PEER_CONNECTION, number),
            request: Request::Peer(request),
        });
    }

    /// The member answered a question.
    pub fn reply(&mut self, number: u32, result: Result<Bytes, Status>, now_ns: u64) {
        let Some(waiting) = self.calls.remove(&number) else {
            return;
        };
        let answer = waiting.call.answer(result, &self.config.local);
        self.answer(waiting.connection, answer, now_ns);
        self.serve(waiting.connection, now_ns);
    }

    /// A single message.
    fn take_posted(&mut self, head: &RequestHead, body: Bytes, now_ns: u64) -> Answer {
        self.meet(head, now_ns);
        let Ok(message) = Message::decode(body) else {
            return Answer::error(400, "error unmarshalling raft message");
        };
        if self.removed.contains(&message.from()) {
            let text = r#"{"message":"cannot process message from removed member"}"#;
            return Answer {
                status: 403,
                ..Answer::of("application/json", text.into())
            };
        }
        if message.to() != self.config.local.member_id {
            // etcd answers 403 here as well; but whoever gets a 403 concludes that it was removed, and ends.
            return Answer::error(412, "to field mismatch");
        }
        if message.r#type() == proto::raftpb::MessageType::MsgSnap {
            return Answer::error(500, "error processing raft message");
        }
        self.take_message(Box::new(message));
        Answer::empty(204)
    }

    /// Remembers how to answer a member that is not known yet.
    pub(super) fn meet(&mut self, head: &RequestHead, now_ns: u64) {
        let remote = Remote::of(&head.headers);
        let Some(from) = remote.from.filter(|from| *from != 0) else {
            return;
        };
        let stranger = !self.peers.contains_key(&from)
            && from != self.config.local.member_id
            && !self.removed.contains(&from)
            && !remote.peer_urls.is_empty();
        if stranger {
            let remotes = self.peers.iter().filter(|(_, peer)| peer.is_remote);
            let remotes: Vec<(u64, u64)> = remotes.map(|(id, peer)| (peer.since_ns, *id)).collect();
            if remotes.len() >= REMOTES_MAX {
                if let Some((_, oldest)) = remotes.iter().min() {
                    self.forget_peer(*oldest, now_ns);
                }
            }
            let mut peer = Peer::new(now_ns);
            peer.is_remote = true;
            if peer.set_urls(&remote.peer_urls) {
                self.peers.insert(from, peer);
            }
        }
        self.learn_software(from, &head.headers);
    }

    /// Another member wants to receive.
    fn open_stream(&mut self, id: u32, head: &RequestHead, rest: &str, now_ns: u64) {
        let fields = self.config.local.stream_response();
        match self.check_stream(head, rest, now_ns) {
            Err(answer) => self.answer(id, answer.with(fields), now_ns),
            Ok((peer, kind)) => {
                let old = self.peers.get(&peer).and_then(|peer| peer.writer(kind));
                if let Some(old) = old {
                    self.end(old, Lost::Dropped, now_ns);
                }
                let checksums = Remote::of(&head.headers).checksums;
                let stream = Stream {
                    peer,
                    kind,
                    encoder: Encoder::new(kind, checksums),
                    written_ns: now_ns,
                    stalled_ns: None,
                    messages: 0,
                };
                if let Some(inbound) = self.inbound(id) {
                    inbound.stream(fields, stream);
                    self.streams_changed(peer, |peer| peer.set_writer(kind, Some(id)));
                }
            }
        }
    }

    fn check_stream(
        &mut self,
        head: &RequestHead,
        rest: &str,
        now_ns: u64,
    ) -> Result<(u64, Kind), Answer> {
        let (kind, from) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(kind) = Kind::from_name(kind) else {
            return Err(Answer::error(404, "invalid path"));
        };
        let digits = from.bytes().all(|byte| byte.is_ascii_hexdigit());
        let from = digits.then(|| u64::from_str_radix(from, 16).ok());
        let Some(from) = from.flatten() else {
            return Err(Answer::error(404, "invalid from"));
        };
        if self.removed.contains(&from) {
            return Err(Answer::error(410, "removed member"));
        }
        let known = self.peers.get(&from).is_some_and(|peer| !peer.is_remote);
        self.meet(head, now_ns);
        if !known {
            return Err(Answer::error(404, "error sender not found"));
        }
        if Remote::of(&head.headers).to != Some(self.config.local.member_id) {
            return Err(Answer::error(412, "to field mismatch"));
        }
        Ok((from, kind))
    }

    pub(super) fn inbound_ended(&mut self, id: u32, inbound: Inbound) {
        self.held_bytes -= inbound.counted_bytes;
        match inbound.state {
            State::Free => {}
            State::Called(number) => {
                self.calls.remove(&number);
                self.inputs.push(Input::Cancel {
                    call: CallId::new(CallId::PEER_CONNECTION, number),
                });
            }
            State::Taking => self.receiving.connection_lost(id),
            State::Stream(stream) => {
                let current = self.peers.get(&stream.peer);
                if current.and_then(|peer| peer.writer(stream.kind)) != Some(id) {
                    return;
                }
                self.streams_changed(stream.peer, |peer| peer.set_writer(stream.kind, None));
                self.inputs.push(Input::Unreachable { peer: stream.peer });
            }
        }
    }
}

/// What a request asks of the member.
fn question(route: Route<'_>, body: Bytes) -> Result<(Call, PeerRequest), Answer> {
    let undecodable = || Answer::error(400, "error unmarshalling request");
    Ok(match route {
        Route::Members => (Call::Members, PeerRequest::Members),
        Route::Version => (Call::Version, PeerRequest::Version),
        Route::DowngradeEnabled => (Call::DowngradeEnabled, PeerRequest::DowngradeEnabled),
        Route::HashKv => {
            let json: serde_json::Value =
                serde_json::from_slice(&body).map_err(|_| undecodable())?;
            let revision = match &json["revision"] {
                serde_json::Value::Null => 0,
                number => number.as_i64().ok_or_else(undecodable)?,
            };
            (Call::HashKv, PeerRequest::HashKv { revision })
        }
        Route::Results => (Call::Results, PeerRequest::Results(body)),
        Route::Copy => (Call::Copy, PeerRequest::Copy(body)),
        Route::KeepAlive => {
            let request = pb::LeaseKeepAliveRequest::decode(body).map_err(|_| undecodable())?;
            (Call::KeepAlive, PeerRequest::KeepAlive(request))
        }
        Route::TimeToLive => {
            let request = leasepb::LeaseInternalRequest::decode(body).map_err(|_| undecodable())?;
            let request = request.lease_time_to_live_request.ok_or_else(undecodable)?;
            (Call::TimeToLive, PeerRequest::TimeToLive(request))
        }
        Route::Promote(id) => {
            let text = format!("member {id} not found in cluster");
            let id = id.parse().map_err(|_| Answer::error(404, &text))?;
            (Call::Promote, PeerRequest::Promote { id })
        }
        Route::Message | Route::Snapshot | Route::Probing | Route::Stream(_) => {
            return Err(Answer::error(404, "404 page not found"));
        }
    })
}
