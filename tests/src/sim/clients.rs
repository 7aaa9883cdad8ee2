//! Clients: workers that ask one thing at a time, watchers that resume wherever their stream ended, and holders that keep
//! a lease alive, let it end, or revoke it.
//!
//! A client speaks to one member over one session. A session ends when the member dies or the client moves on; what was
//! under way then is lost.

mod holders;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use ringd::member::Input;
use ringd::request::{CallId, Request};
use ringd::status::Status;

use super::checkers::watchers::{Seen, Watched};
use super::operations::Generator;
use super::swarm::{MILLISECOND_NS, SECOND_NS};
use super::world::{Event, World};
use holders::Holder;

/// How long a client waits for an answer at most.
const PATIENCE_MAX_NS: u64 = 15 * SECOND_NS;
const PROBE_PATIENCE_NS: u64 = 3 * SECOND_NS;
/// A client whose member is gone tries another after about this long.
const RETRY_NS: u64 = 200 * MILLISECOND_NS;
/// A watcher stays with a member for about this long.
const WATCH_NS: u64 = 40 * SECOND_NS;
pub enum ClientEvent {
    /// The client does its next thing, if it still is in that step.
    Wake {
        client: usize,
        step: u64,
    },
    /// A request reaches the member.
    Reach {
        client: usize,
        session: u32,
        node: usize,
        request: Box<Request>,
    },
    /// An answer reaches the client.
    Answer {
        client: usize,
        session: u32,
        result: Result<Bytes, Status>,
    },
    Message {
        client: usize,
        session: u32,
        message: Bytes,
    },
    Ended {
        client: usize,
        session: u32,
    },
}

#[derive(Debug)]
enum Kind {
    Worker,
    Watcher(Watched),
    Holder(Holder),
    /// Asks one thing at the end.
    Probe,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Nothing,
    /// The answer to a question.
    For(u64),
    Stream,
}

pub struct Client {
    kind: Kind,
    node: usize,
    session: u32,
    waits: Waits,
    asked_ns: u64,
    /// Counts what it did; older wake-ups are void.
    step: u64,
    /// When the last message of its session arrives.
    arrives_ns: u64,
}

#[derive(Default)]
pub struct Clients {
    all: Vec<Client>,
    /// Who has a session, by its number.
    sessions: BTreeMap<u32, usize>,
    next_session: u32,
    next_question: u64,
    next_lease: i64,
    /// No new question.
    quiet: bool,
    pub probe_answered: bool,
}

impl Clients {
    pub fn watched(&self) -> impl Iterator<Item = &Watched> {
        self.all.iter().filter_map(|client| match &client.kind {
            Kind::Watcher(watched) => Some(watched),
            _ => None,
        })
    }
}

impl World {
    pub fn begin_clients(&mut self) {
        let plan = self.plan.clients.clone();
        for _ in 0..plan.workers {
            self.add_client(Kind::Worker);
        }
        for number in 0..plan.watchers {
            let watched = self.draw_watch(number);
            self.add_client(Kind::Watcher(watched));
        }
        for _ in 0..plan.holders {
            self.add_client(Kind::Holder(Holder::default()));
        }
    }

    fn draw_watch(&mut self, number: usize) -> Watched {
        let chance = &mut self.chance.clients;
        let everything = Bytes::from_static(b"\0");
        let (key, range_end) = match number {
            0 => (everything.clone(), everything),
            _ => {
                let first = chance.below(self.plan.clients.keys);
                let last = first + chance.below(self.plan.clients.keys);
                let end = format!("k{:03}", last + 1);
                (format!("k{first:03}").into(), end.into())
            }
        };
        Watched::new(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: chance.below(2) as i64,
            prev_kv: chance.percent(50),
            progress_notify: chance.percent(50),
            filters: match chance.below(5) {
                0 => vec![0],
                1 => vec![1],
                _ => Vec::new(),
            },
            ..Default::default()
        })
    }

    fn add_client(&mut self, kind: Kind) {
        let client = self.clients.all.len();
        self.clients.all.push(Client {
            kind,
            node: 1,
            session: 0,
            waits: Waits::Nothing,
            asked_ns: 0,
            step: 0,
            arrives_ns: 0,
        });
        self.move_on(client);
        let delay = self.chance.clients.below(SECOND_NS);
        self.wake_client(client, delay);
    }

    /// The client turns to any member, with a new session.
    fn move_on(&mut self, client: usize) {
        self.close_session(client);
        self.clients.next_session += 1;
        let session = self.clients.next_session;
        let node = *self.chance.clients.pick(&self.members());
        self.clients.sessions.insert(session, client);
        let moved = &mut self.clients.all[client];
        moved.node = node;
        moved.session = session;
    }

    fn close_session(&mut self, client: usize) {
        let this = &mut self.clients.all[client];
        let (node, session, waits) = (this.node, this.session, this.waits);
        this.waits = Waits::Nothing;
        if self.clients.sessions.remove(&session).is_none() {
            return;
        }
        if let Waits::For(question) = waits {
            self.history.lose(question);
        }
        let life = self.node(node).life;
        let call = CallId::new(session, 1);
        self.input(node, life, Input::Cancel { call });
    }

    fn wake_client(&mut self, client: usize, delay: u64) {
        self.clients.all[client].step += 1;
        let step = self.clients.all[client].step;
        self.after(delay, Event::Client(ClientEvent::Wake { client, step }));
    }

    pub fn client_event(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Wake { client, step } => {
                if self.clients.all[client].step == step {
                    self.client_wakes(client);
                }
            }
            ClientEvent::Reach {
                client,
                session,
                node,
                request,
            } => self.reach(client, session, node, *request),
            ClientEvent::Answer {
                client,
                session,
                result,
            } => {
                if self.clients.all[client].session == session {
                    self.client_answered(client, result);
                }
            }
            ClientEvent::Message {
                client,
                session,
                message,
            } => {
                if self.clients.all[client].session == session {
                    self.client_streamed(client, message);
                }
            }
            ClientEvent::Ended { client, session } => {
                if self.clients.all[client].session == session {
                    self.move_on(client);
                    let delay = self.chance.clients.around(RETRY_NS);
                    self.wake_client(client, delay);
                }
            }
        }
    }

    fn client_wakes(&mut self, client: usize) {
        let this = &self.clients.all[client];
        match (&this.kind, this.waits) {
            // It waited long enough.
            (_, Waits::For(_)) => {
                self.coverage.hit("client gave up");
                self.move_on(client);
                self.wake_client(client, RETRY_NS);
            }
            (Kind::Watcher(_), _) => {
                self.move_on(client);
                self.watch(client);
            }
            (Kind::Worker, _) => self.work(client),
            (Kind::Holder(_), _) => self.hold(client),
            (Kind::Probe, _) => self.probe(client),
        }
    }

    /// Sends a question; its answer is awaited for a while.
    fn ask(&mut self, client: usize, question: u64, request: Request) {
        self.history.ask(question, &request);
        let now = self.now;
        if let Some(search) = &mut self.search {
            search.ask(question, &request, now);
        }
        let this = &mut self.clients.all[client];
        this.waits = Waits::For(question);
        this.asked_ns = now;
        self.dispatch(client, request);
        let most = match self.clients.all[client].kind {
            Kind::Probe => PROBE_PATIENCE_NS,
            _ => PATIENCE_MAX_NS,
        };
        let patience = 1 + self.chance.clients.below(most);
        self.wake_client(client, patience);
    }

    fn dispatch(&mut self, client: usize, request: Request) {
        let (session, node) = (
            self.clients.all[client].session,
            self.clients.all[client].node,
        );
        let delay = self.network.client_delay(&mut self.chance.clients);
        let request = Box::new(request);
        self.after(
            delay,
            Event::Client(ClientEvent::Reach {
                client,
                session,
                node,
                request,
            }),
        );
    }

    fn reach(&mut self, client: usize, session: u32, node: usize, request: Request) {
        if self.clients.all[client].session != session {
            return;
        }
        if self.node(node).running.is_none() {
            let ended = ClientEvent::Ended { client, session };
            return self.after(MILLISECOND_NS, Event::Client(ended));
        }
        let life = self.node(node).life;
        let call = CallId::new(session, 1);
        self.input(node, life, Input::Ask { call, request });
    }

    fn next_question(&mut self) -> u64 {
        self.clients.next_question += 1;
        self.clients.next_question
    }

    fn work(&mut self, client: usize) {
        if self.clients.quiet {
            return;
        }
        if self.chance.clients.percent(5) {
            self.move_on(client);
        }
        let question = self.next_question();
        let mut generator = Generator {
            plan: &self.plan.clients,
            chance: &mut self.chance.clients,
            revision: self.history.revision(),
            compacted: self.history.compacted(),
        };
        let request = generator.draw(question);
        self.ask(client, question, request);
    }

    fn watch(&mut self, client: usize) {
        let now = self.now;
        let this = &mut self.clients.all[client];
        let Kind::Watcher(watched) = &this.kind else {
            return;
        };
        let create = watched.resume();
        this.waits = Waits::Stream;
        this.asked_ns = now;
        let request = Request::Watch(pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        });
        self.dispatch(client, request);
        if !self.clients.quiet {
            let stays = self.chance.clients.around(WATCH_NS);
            self.wake_client(client, stays);
        }
    }

    /// How far is the watch? Asked while it may still read what it missed.
    fn ask_progress(&mut self, client: usize) {
        if self.plan.clients.asks_progress {
            self.coverage.hit("progress asked");
            let progress = pb::WatchProgressRequest {};
            self.dispatch(
                client,
                Request::Watch(pb::WatchRequest {
                    request_union: Some(RequestUnion::ProgressRequest(progress)),
                }),
            );
        }
    }

    fn probe(&mut self, client: usize) {
        if self.clients.probe_answered {
            return;
        }
        self.move_on(client);
        let question = self.next_question();
        let put = pb::PutRequest {
            key: "probe".into(),
            value: format!("#{question}#").into(),
            ..Default::default()
        };
        self.ask(client, question, Request::Put(put));
    }

    /// A member answers; what it says is checked before it travels.
    pub fn reply(&mut self, node: usize, call: CallId, result: Result<Bytes, Status>) {
        let Some(&client) = self.clients.sessions.get(&call.connection()) else {
            return;
        };
        let session = call.connection();
        if let (Waits::For(question), Some(running)) =
            (self.clients.all[client].waits, &self.node(node).running)
        {
            let (applied, revision) = (running.member.store().applied().0, running.revision);
            let verdict = self.history.answer(question, &result, applied, revision);
            self.judge(node, verdict);
        }
        self.deliver(
            client,
            ClientEvent::Answer {
                client,
                session,
                result,
            },
        );
    }

    fn client_answered(&mut self, client: usize, result: Result<Bytes, Status>) {
        let this = &mut self.clients.all[client];
        let Waits::For(question) = this.waits else {
            return;
        };
        this.waits = Waits::Nothing;
        let asked_ns = this.asked_ns;
        self.history.lose(question); // one that the member left open is unknown
        if let Some(search) = &mut self.search {
            search.answered(question, &result, self.now);
        }
        let refused = result.is_err();
        match &mut this.kind {
            Kind::Worker => {
                let mut pause = self.chance.clients.around(self.plan.clients.think_ns);
                if refused {
                    pause += RETRY_NS;
                    if self.chance.clients.percent(30) {
                        self.move_on(client);
                    }
                }
                self.wake_client(client, pause);
            }
            Kind::Holder(_) => self.holder_answered(client, asked_ns, result),
            Kind::Probe => {
                self.clients.probe_answered |= !refused;
                self.wake_client(client, RETRY_NS);
            }
            Kind::Watcher(_) => {}
        }
    }

    pub fn stream(&mut self, node: usize, call: CallId, message: Bytes) {
        let session = call.connection();
        let Some(&client) = self.clients.sessions.get(&session) else {
            return;
        };
        let verdict = self.check_renewal(client, &message);
        self.judge(node, verdict);
        let event = ClientEvent::Message {
            client,
            session,
            message,
        };
        self.deliver(client, event);
    }

    pub fn end(&mut self, _node: usize, call: CallId) {
        let session = call.connection();
        if let Some(&client) = self.clients.sessions.get(&session) {
            self.deliver(client, ClientEvent::Ended { client, session });
        }
    }

    /// What a session carries to its client keeps its order.
    fn deliver(&mut self, client: usize, event: ClientEvent) {
        let delay = self.network.client_delay(&mut self.chance.clients);
        let this = &mut self.clients.all[client];
        this.arrives_ns = (self.now + delay).max(this.arrives_ns + 1);
        let at = this.arrives_ns;
        self.at(at, Event::Client(event));
    }

    fn client_streamed(&mut self, client: usize, message: Bytes) {
        let this = &mut self.clients.all[client];
        match &mut this.kind {
            Kind::Watcher(watched) => {
                let response = match pb::WatchResponse::decode(message) {
                    Ok(response) => response,
                    Err(error) => return self.fail(format!("a watch response: {error}")),
                };
                match watched.receive(&response, &self.history) {
                    Ok(Seen::More) if response.created => self.ask_progress(client),
                    Ok(Seen::More) => {}
                    Ok(Seen::Canceled) => {
                        self.coverage.hit("watch compacted");
                        watched.next = response.compact_revision;
                        self.move_on(client);
                        self.wake_client(client, RETRY_NS);
                    }
                    Err(why) => self.fail(format!("watcher {client}: {why}")),
                }
            }
            Kind::Holder(_) => self.renewal_answered(client, message),
            Kind::Worker | Kind::Probe => {}
        }
    }

    /// All sessions with a member that died end.
    pub fn clients_lose(&mut self, node: usize) {
        for client in 0..self.clients.all.len() {
            let this = &self.clients.all[client];
            if this.node != node {
                continue;
            }
            let session = this.session;
            if let Waits::For(question) = this.waits {
                self.history.lose(question);
            }
            let ended = ClientEvent::Ended { client, session };
            self.after(MILLISECOND_NS, Event::Client(ended));
        }
    }

    /// Clients stop asking; one write has to go through.
    pub fn quiet_clients(&mut self) {
        self.clients.quiet = true;
        self.add_client(Kind::Probe);
    }

    /// Streams of watchers are still served while all else is quiet.
    pub fn clients_waiting(&self) -> usize {
        let waits = |client: &&Client| matches!(client.waits, Waits::For(_));
        self.clients.all.iter().filter(waits).count()
    }
}
