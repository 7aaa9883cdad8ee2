//! Members in memory, in one thread: their logs, their messages and their clients. A log can be stalled.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use engine::page::{CheckpointJob, Options as PageOptions, PageFile, Progress, SimFile};
use engine::wal::{self, FileOp, LogDir, MemoryDir, SegmentFile, SegmentId, Write};
use engine::{lease, store, watch};
use prost::Message as _;
use proto::{etcdserverpb as pb, raftpb};
use raft::Role;
use ringd::bootstrap::assemble::{self, Disk, LogMedium, Origin, Plan};
use ringd::config::Url;
use ringd::identity::{self, Founder, Founding, Salt};
use ringd::member::{self, Effect, Input, Member};
use ringd::peers::{PeerAsk, PeerFailure};
use ringd::promises::{MemoryPromises, PromiseFile};
use ringd::request::{CallId, PeerRequest, Request};
use ringd::status::Status;

pub const TICK_NS: u64 = 100_000_000;
pub const ELECTION_TICKS: u32 = 10;
/// Two looks per tick, as in the shell.
const PULSE_NS: u64 = TICK_NS / 2;
const TOKEN: &str = "stalls";
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Turns after which messages that still cause messages are a defect.
const TURNS_MAX: usize = 10_000;

#[derive(Default)]
struct Log(MemoryDir);

impl LogDir for Log {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        self.0.segments()
    }

    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(segment, offset, buf)
    }

    fn flush(&self, segment: SegmentId) -> io::Result<()> {
        self.0.flush(segment)
    }

    fn name(&self, segment: SegmentId) -> String {
        self.0.name(segment)
    }
}

impl LogMedium for Log {
    fn run(&self, op: &FileOp) -> io::Result<()> {
        self.0.run(op)
    }

    fn write(&self, write: &Write) -> io::Result<()> {
        self.0
            .write_at(write.segment, write.offset, write.buf.as_slice())
    }
}

/// The disk of a member that was never started.
struct NewDisk<'a> {
    pages: SimFile,
    log: &'a Log,
    promises: Arc<MemoryPromises>,
}

impl Disk for NewDisk<'_> {
    fn pages(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(self.pages.clone()))
    }

    fn log(&self) -> &dyn LogMedium {
        self.log
    }

    fn promises(&self) -> Arc<dyn PromiseFile> {
        self.promises.clone()
    }

    fn set_aside(&self) -> io::Result<Vec<String>> {
        Err(io::Error::other("nothing here is ever damaged"))
    }
}

/// One member and what it runs on.
pub struct Machine {
    pub member: Member,
    pub id: u64,
    log: Log,
    /// Writes under way, oldest first; nothing of them ends while the log is stalled.
    writes: VecDeque<Write>,
    pub log_stalled: bool,
    checkpoint: Option<CheckpointJob>,
    pub pages_stalled: bool,
    inbox: Vec<Input>,
    pub halted: Option<String>,
}

/// What the members are told that differs between tests.
#[derive(Clone, Copy)]
pub struct Settings {
    pub members: usize,
    pub transfer_on_stall: bool,
    pub undurable_bytes_max: u64,
    pub checkpoint_bytes: u64,
    /// Clean pages that may stay in memory.
    pub resident_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            members: 3,
            transfer_on_stall: true,
            undurable_bytes_max: 64 << 20,
            checkpoint_bytes: 64 << 10,
            resident_bytes_max: PageOptions::default().resident_bytes_max,
        }
    }
}

/// All members, their network and the answers to their clients.
pub struct World {
    pub machines: Vec<Machine>,
    network: VecDeque<raftpb::Message>,
    pub now_ns: u64,
    calls: u32,
    answers: BTreeMap<CallId, Result<Bytes, Status>>,
    /// Who asked, with its question's number, by the call that answers it.
    questions: BTreeMap<CallId, (usize, u64)>,
    /// Terms that had a leader.
    pub leaders: BTreeMap<u64, u64>,
    pub checkpoints: usize,
    pub fetches: usize,
}

fn peer_url(number: usize) -> String {
    format!("http://n{number}:2380")
}

fn member_id(number: usize) -> u64 {
    identity::member_id(&[peer_url(number)], Salt::Token(TOKEN))
}

fn founding(number: usize, members: usize) -> Founding {
    let ids: Vec<u64> = (0..members).map(member_id).collect();
    let founder = |number: usize| Founder {
        id: member_id(number),
        name: format!("n{number}"),
        peer_urls: vec![Url::parse(&peer_url(number)).expect("a URL")],
    };
    let mut founders: Vec<Founder> = (0..members).map(founder).collect();
    founders.sort_by_key(|founder| founder.id);
    Founding {
        cluster_id: identity::cluster_id(&ids),
        local_id: member_id(number),
        members: founders,
    }
}

fn store_options() -> store::Options {
    let lease = lease::Config {
        min_ttl_seconds: lease::min_ttl_seconds(u64::from(ELECTION_TICKS), TICK_NS),
        revoke_retry_ns: 7_000_000_000,
        drift_bound_ppm: 0,
        checkpoint: None,
    };
    let watch = watch::Config {
        identity: watch::Identity::default(),
        max_request_bytes: REQUEST_BYTES_MAX,
        progress_interval_ns: 600_000_000_000,
        seed: 1,
    };
    store::Options::new(lease, watch)
}

fn member_config(number: usize, ids: wal::Identity, settings: Settings) -> member::Config {
    member::Config {
        cluster_id: ids.cluster_id,
        member_id: ids.member_id,
        name: format!("n{number}"),
        client_urls: vec![format!("http://n{number}:2379")],
        version: ringd::bootstrap::VERSION,
        cluster_version: "3.5.0",
        tick_ns: TICK_NS,
        election_ticks: ELECTION_TICKS,
        request_bytes_max: REQUEST_BYTES_MAX,
        txn_ops_max: 128,
        apply_slice_keys: 2,
        request_ids: lease::RequestIds::new(ids.member_id, 1),
        seed: number as u64 + 1,
        strict_reconfig_check: true,
        unix_ms: 1,
        checkpoint: member::Thresholds {
            dirty_bytes: settings.checkpoint_bytes,
            ..member::Thresholds::default()
        },
        keys_at_once_max: member::KEYS_AT_ONCE_MAX,
    }
}

fn machine(number: usize, settings: Settings) -> Machine {
    let log = Log::default();
    let mut raft = raft::Config::new(0);
    raft.election_ticks = ELECTION_TICKS;
    raft.seed = number as u64 + 1;
    raft.transfer_on_stall = settings.transfer_on_stall;
    raft.undurable_bytes_max = settings.undurable_bytes_max;
    let plan = Plan {
        pages: PageOptions {
            create: true,
            resident_bytes_max: settings.resident_bytes_max,
            ..PageOptions::default()
        },
        store: store_options(),
        wal: wal::Config::new(format!("n{number}"), number as u64 + 1),
        raft,
        member: |ids| Ok(member_config(number, ids, settings)),
    };
    let disk = NewDisk {
        pages: SimFile::new(),
        log: &log,
        promises: Arc::default(),
    };
    let assembled = assemble::open(plan, &disk, || {
        Ok(Origin::Founding(founding(number, settings.members)))
    });
    Machine {
        member: assembled.expect("a new member").member,
        id: member_id(number),
        log,
        writes: VecDeque::new(),
        log_stalled: false,
        checkpoint: None,
        pages_stalled: false,
        inbox: Vec::new(),
        halted: None,
    }
}

impl World {
    /// A cluster that has a leader and knows its members' names.
    pub fn new(settings: Settings) -> World {
        let mut world = World {
            machines: (0..settings.members)
                .map(|number| machine(number, settings))
                .collect(),
            network: VecDeque::new(),
            now_ns: 0,
            calls: 0,
            answers: BTreeMap::new(),
            questions: BTreeMap::new(),
            leaders: BTreeMap::new(),
            checkpoints: 0,
            fetches: 0,
        };
        for _ in 0..200 {
            world.pulse();
            if world.machines.iter().all(|m| m.member.is_ready()) {
                return world;
            }
        }
        panic!("no cluster came together");
    }

    pub fn leader(&self) -> usize {
        let leads = |m: &Machine| m.member.node().role() == Role::Leader;
        let term = |at: &usize| self.machines[*at].member.node().term();
        let leaders = (0..self.machines.len()).filter(|at| leads(&self.machines[*at]));
        leaders.max_by_key(term).expect("a leader")
    }

    pub fn follower(&self) -> usize {
        (self.leader() + 1) % self.machines.len()
    }

    /// Half a tick passes, and everything that follows from it happens.
    pub fn pulse(&mut self) {
        self.now_ns += PULSE_NS;
        for machine in &mut self.machines {
            machine.inbox.push(Input::Pulse);
        }
        self.run();
    }

    pub fn pass_ms(&mut self, ms: u64) {
        for _ in 0..(ms * 1_000_000).div_ceil(PULSE_NS) {
            self.pulse();
        }
    }

    /// Asks without waiting for anything but what needs no time.
    pub fn ask(&mut self, at: usize, request: Request) -> CallId {
        self.ask_together(at, vec![request])[0]
    }

    /// Asks for all in one turn.
    pub fn ask_together(&mut self, at: usize, requests: Vec<Request>) -> Vec<CallId> {
        let mut calls = Vec::new();
        for request in requests {
            self.calls += 1;
            let call = CallId::new(1, self.calls);
            let input = Input::Ask { call, request };
            self.machines[at].inbox.push(input);
            calls.push(call);
        }
        self.run();
        calls
    }

    pub fn answer(&mut self, call: CallId) -> Option<Result<Bytes, Status>> {
        self.answers.remove(&call)
    }

    pub fn put(&mut self, at: usize, key: &str, bytes: usize) -> CallId {
        self.ask(
            at,
            Request::Put(pb::PutRequest {
                key: key.to_owned().into(),
                value: vec![b'v'; bytes].into(),
                ..Default::default()
            }),
        )
    }

    pub fn range(&mut self, at: usize, key: &str, serializable: bool) -> CallId {
        self.ask(
            at,
            Request::Range(pb::RangeRequest {
                key: key.to_owned().into(),
                serializable,
                ..Default::default()
            }),
        )
    }

    /// Runs all members until nothing is left to do at this moment.
    pub fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            while let Some(message) = self.network.pop_front() {
                let to = message.to();
                if let Some(machine) = self.machines.iter_mut().find(|m| m.id == to) {
                    machine.inbox.push(Input::Message(Box::new(message)));
                }
            }
            let mut moved = false;
            for at in 0..self.machines.len() {
                moved |= self.turn(at);
            }
            if !moved && self.network.is_empty() {
                return;
            }
        }
        panic!("the members do not come to rest");
    }

    fn turn(&mut self, at: usize) -> bool {
        let now_ns = self.now_ns;
        let machine = &mut self.machines[at];
        machine.disks();
        if machine.inbox.is_empty() || machine.halted.is_some() {
            machine.inbox.clear();
            return false;
        }
        for input in std::mem::take(&mut machine.inbox) {
            machine.member.step(input, now_ns);
        }
        let mut effects = Vec::new();
        loop {
            machine.member.settle(now_ns);
            machine.member.take_effects(&mut effects);
            if !machine.member.wants_settle() {
                break;
            }
        }
        let node = machine.member.node();
        if node.role() == Role::Leader {
            let id = machine.id;
            let known = *self.leaders.entry(node.term()).or_insert(id);
            assert_eq!(known, id, "two leaders of one term");
        }
        for effect in effects {
            self.carry_out(at, effect);
        }
        true
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let machine = &mut self.machines[at];
        match effect {
            Effect::WriteLog(write) => machine.writes.push_back(write),
            Effect::LogFile(op) => {
                let result = machine.log.run(&op);
                let tag = op.tag;
                machine.inbox.push(Input::LogFile { tag, result });
            }
            Effect::ReadLog { from, job } => {
                let result = job.run(&machine.log);
                machine.inbox.push(Input::LogRead { from, result });
            }
            Effect::Fetch(job) => {
                machine.inbox.push(Input::Fetched { done: job.run() });
                self.fetches += 1;
            }
            Effect::Upkeep(job) => machine.inbox.push(Input::Upkeep(job.run(&machine.log))),
            Effect::Checkpoint(job) => {
                // P10: no meta page states a position beyond what the own log has made durable.
                let applied = machine.member.store().applied().0;
                assert!(applied <= machine.member.log().durable_index());
                machine.checkpoint = Some(job);
                self.checkpoints += 1;
            }
            Effect::Send(message) => self.network.push_back(*message),
            Effect::AskPeer { ask, peer, request } => self.ask_peer(at, ask, peer, request),
            Effect::Reply { call, result } => match self.questions.remove(&call) {
                Some((asker, ask)) => {
                    let result = result.map_err(|status| PeerFailure {
                        code: 503,
                        body: status.message.into_owned().into(),
                    });
                    self.machines[asker]
                        .inbox
                        .push(Input::PeerAnswered { ask, result });
                }
                None => {
                    self.answers.insert(call, result);
                }
            },
            Effect::Stream { call, message } => {
                self.answers.insert(call, Ok(message));
            }
            Effect::End { call, status } => {
                let status = status.unwrap_or(Status::new(0, "ended"));
                self.answers.insert(call, Err(status));
            }
            Effect::Halt(reason) => machine.halted = Some(reason),
            Effect::MembersChanged | Effect::Wake { .. } => {}
            _ => panic!("no snapshot and no removal is expected here"),
        }
    }

    fn ask_peer(&mut self, from: usize, ask: u64, peer: u64, request: PeerAsk) {
        let Some(to) = self.machines.iter().position(|m| m.id == peer) else {
            let unreached = PeerFailure {
                code: 0,
                body: Bytes::new(),
            };
            let result = Err(unreached);
            return self.machines[from]
                .inbox
                .push(Input::PeerAnswered { ask, result });
        };
        let request = match request {
            PeerAsk::KeepAlive(body) => {
                PeerRequest::KeepAlive(pb::LeaseKeepAliveRequest::decode(body).expect("encoded"))
            }
            PeerAsk::Version => PeerRequest::Version,
            PeerAsk::Results(body) => PeerRequest::Results(body),
            _ => panic!("nothing else is asked here"),
        };
        self.calls += 1;
        let call = CallId::new(CallId::PEER_CONNECTION, self.calls);
        self.questions.insert(call, (from, ask));
        self.machines[to].inbox.push(Input::Ask {
            call,
            request: Request::Peer(request),
        });
    }
}

impl Machine {
    /// Ends what the disks have done.
    fn disks(&mut self) {
        while !self.log_stalled {
            let Some(write) = self.writes.pop_front() else {
                break;
            };
            let result = self.log.write(&write);
            self.inbox.push(Input::LogWritten {
                tag: write.tag,
                result,
                buffer: write.buf,
            });
        }
        if self.pages_stalled {
            return;
        }
        if let Some(mut job) = self.checkpoint.take() {
            let done = loop {
                match job.step().expect("a sound page file") {
                    Progress::Finished(done) => break done,
                    Progress::Wrote(_) => {}
                }
            };
            let result = Ok(done);
            self.inbox.push(Input::Checkpointed { result });
        }
    }
}
