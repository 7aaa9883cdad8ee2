//! The world: time, the queue of what will happen, and the machines that it happens to.
//!
//! Events are ordered by time and then by a random number, so that what falls on one moment comes in any order. A member
//! gets its inputs in turns, as the shell gives them: what arrived together shares one turn. Its effects become events.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use engine::page::FetchJob;
use engine::wal::ReadJob;
use proto::raftpb::Message;
use ringd::member::{Input, UpkeepJob};
use ringd::peers::{PeerAsk, PeerFailure};
use ringd::request::CallId;

use super::chance::Chance;
use super::checkers::consensus::Consensus;
use super::checkers::history::History;
use super::checkers::leases::Leases;
use super::checkers::search::Search;
use super::clients::{ClientEvent, Clients};
use super::coverage::Coverage;
use super::faults::Fault;
use super::finish::Inspection;
use super::network::{Links, Network};
use super::node::{name, Node};
use super::snapshots::{SnapshotEvent, Transfers};
use super::swarm::{Operation, Swarm, MILLISECOND_NS};
use super::trace::Trace;

pub enum Event {
    Start {
        node: usize,
    },
    Turn {
        node: usize,
        life: u64,
    },
    Pulse {
        node: usize,
        life: u64,
    },
    Work {
        node: usize,
        life: u64,
    },
    Wake {
        node: usize,
        life: u64,
    },
    Arrive {
        to: usize,
        message: Box<Message>,
    },
    Unreachable {
        node: usize,
        peer: u64,
    },
    Refused {
        node: usize,
        peer: u64,
    },
    Connected {
        node: usize,
        life: u64,
        peer: usize,
        peer_life: u64,
    },
    Asked {
        to: usize,
        from: usize,
        life: u64,
        ask: u64,
        request: PeerAsk,
    },
    Answered {
        node: usize,
        life: u64,
        ask: u64,
        result: Result<bytes::Bytes, PeerFailure>,
    },
    LogWritten {
        node: usize,
        life: u64,
        tag: u64,
    },
    LogFile {
        node: usize,
        life: u64,
    },
    LogRead {
        node: usize,
        life: u64,
        from: u64,
        job: ReadJob,
    },
    Upkeep {
        node: usize,
        life: u64,
        job: UpkeepJob,
    },
    Fetched {
        node: usize,
        life: u64,
        job: FetchJob,
    },
    CheckpointStep {
        node: usize,
        life: u64,
    },
    Snapshot(SnapshotEvent),
    Client(ClientEvent),
    Fault(Fault),
    Mend(Links),
    Resume {
        node: usize,
        life: u64,
    },
    /// The operator does not wait for an answer any longer.
    Lost {
        node: usize,
        life: u64,
        call: CallId,
    },
    /// A member that leads since lately is cut off or dies.
    Fell {
        node: usize,
        life: u64,
    },
    /// The damage to a machine is found out.
    Replace {
        node: usize,
    },
    /// Another member says so.
    RemovedHere {
        node: usize,
        life: u64,
    },
}

struct Scheduled {
    at: u64,
    tie: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.tie, self.number).cmp(&(other.at, other.tie, other.number))
    }
}

/// Independent sources of chance.
pub struct Chances {
    pub order: Chance,
    pub network: Chance,
    pub disk: Chance,
    pub faults: Chance,
    pub clients: Chance,
    pub starts: Chance,
}

pub struct World {
    pub plan: Swarm,
    pub now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub chance: Chances,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub clients: Clients,
    pub history: History,
    pub consensus: Consensus,
    pub leases: Leases,
    /// In seeds without transactions.
    pub search: Option<Search>,
    pub coverage: Coverage,
    pub trace: Trace,
    /// Asks that came in at a peer port: (member that asked, its life, its number), by this world's number.
    pub peer_calls: std::collections::BTreeMap<u32, (usize, u64, u64)>,
    pub next_peer_call: u32,
    pub transfers: Transfers,
    pub operator_calls: u32,
    /// No fault begins any more.
    pub calm: bool,
    pub inspection: Inspection,
    pub failure: Option<String>,
}

impl World {
    pub fn new(seed: u64, plan: Swarm, trace: Trace) -> World {
        let stream = |number| Chance::stream(seed, number);
        let mut world = World {
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            chance: Chances {
                order: stream(2),
                network: stream(3),
                disk: stream(4),
                faults: stream(5),
                clients: stream(6),
                starts: stream(7),
            },
            nodes: (1..=plan.members).map(Node::new).collect(),
            network: Network::new(plan.network.clone(), plan.members),
            clients: Clients::default(),
            history: History::default(),
            consensus: Consensus::default(),
            leases: Leases::new(plan.member.drift_bound_ppm),
            search: (!plan.clients.has(Operation::Txn)).then(Search::default),
            coverage: Coverage::default(),
            trace,
            peer_calls: Default::default(),
            next_peer_call: 0,
            transfers: Transfers::default(),
            operator_calls: 0,
            calm: false,
            inspection: Inspection::default(),
            failure: None,
            plan,
        };
        for node in 1..=world.plan.members {
            let at = world.chance.starts.below(200 * MILLISECOND_NS);
            world.at(at, Event::Start { node });
        }
        world.begin_faults();
        world.begin_clients();
        world
    }

    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// The member with this Raft id.
    pub fn number_of(&self, id: u64) -> Option<usize> {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .map(|node| node.number)
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let scheduled = Scheduled {
            at: at.max(self.now),
            tie: self.chance.order.draw(),
            number: self.scheduled,
            event,
        };
        self.queue.push(Reverse(scheduled));
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    pub fn judge(&mut self, node: usize, verdict: Result<(), String>) {
        if let Err(why) = verdict {
            self.fail(format!("{}: {why}", name(node)));
        }
    }

    pub fn say(&mut self, words: impl FnOnce() -> String) {
        self.trace.say(self.now, words);
    }

    /// Lets time pass up to `until`, or to the first failure.
    pub fn run_until(&mut self, until: u64) {
        while self.failure.is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= until => {}
                _ => break,
            }
            if let Some(Reverse(next)) = self.queue.pop() {
                self.now = next.at;
                self.happen(next.event);
            }
        }
        self.now = self.now.max(until);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start { node } => self.start(node),
            Event::Turn { node, life } => self.turn(node, life),
            Event::Pulse { node, life } => self.pulse(node, life),
            Event::Work { node, life } => {
                if let Some(running) = self.living(node, life) {
                    running.work_due = false;
                    self.input(node, life, Input::Work);
                }
            }
            Event::Wake { node, life } => self.input(node, life, Input::Wake),
            Event::Arrive { to, message } => self.arrive(to, message),
            Event::Unreachable { node, peer } => {
                let life = self.node(node).life;
                self.input(node, life, Input::Unreachable { peer });
            }
            Event::Refused { node, peer } => {
                // Somebody listens again: the connection is not refused.
                let listens = self
                    .number_of(peer)
                    .is_some_and(|n| self.node(n).running.is_some());
                if !listens {
                    let life = self.node(node).life;
                    self.input(node, life, Input::Refused { peer });
                }
            }
            Event::Connected {
                node,
                life,
                peer,
                peer_life,
            } => {
                let up = self.node(peer).life == peer_life && self.node(peer).running.is_some();
                let (peer, connected) = (self.node(peer).id, true);
                if up {
                    self.input(node, life, Input::Connected { peer, connected });
                }
            }
            Event::Asked {
                to,
                from,
                life,
                ask,
                request,
            } => self.asked_by_peer(to, (from, life, ask), request),
            Event::Answered {
                node,
                life,
                ask,
                result,
            } => self.input(node, life, Input::PeerAnswered { ask, result }),
            Event::LogWritten { node, life, tag } => self.log_written(node, life, tag),
            Event::LogFile { node, life } => self.log_file(node, life),
            Event::LogRead {
                node,
                life,
                from,
                job,
            } => {
                if self.living(node, life).is_some() {
                    let result = job.run(&self.node(node).disk.log);
                    self.input(node, life, Input::LogRead { from, result });
                }
            }
            Event::Fetched { node, life, job } => {
                if self.living(node, life).is_some() {
                    let done = self.fetch(node, job);
                    self.input(node, life, Input::Fetched { done });
                }
            }
            Event::Upkeep { node, life, job } => {
                if self.living(node, life).is_some() {
                    let done = job.run(&self.node(node).disk.log);
                    self.input(node, life, Input::Upkeep(done));
                }
            }
            Event::CheckpointStep { node, life } => self.checkpoint_step(node, life),
            Event::Snapshot(event) => self.snapshot_event(event),
            Event::Client(event) => self.client_event(event),
            Event::Fault(fault) => self.fault(fault),
            Event::Mend(links) => self.mend(&links),
            Event::Resume { node, life } => self.resume(node, life),
            Event::Lost { node, life, call } => self.input(node, life, Input::Cancel { call }),
            Event::Fell { node, life } => self.young_leader_falls(node, life),
            Event::Replace { node } => self.replace(node),
            Event::RemovedHere { node, life } => self.input(node, life, Input::RemovedHere),
        }
    }

    pub fn living(&mut self, node: usize, life: u64) -> Option<&mut super::node::Running> {
        let node = self.node_mut(node);
        match node.life == life {
            true => node.running.as_mut(),
            false => None,
        }
    }

    /// Hands an input to the next turn of a member.
    pub fn input(&mut self, node: usize, life: u64, input: Input) {
        let Some(running) = self.living(node, life) else {
            return;
        };
        running.inbox.push(input);
        self.want_turn(node, life);
    }

    pub fn want_turn(&mut self, node: usize, life: u64) {
        let Some(running) = self.living(node, life) else {
            return;
        };
        if running.turn_due || running.paused {
            return;
        }
        running.turn_due = true;
        let delay = self.chance.order.below(self.plan.member.turn_max_ns);
        self.after(delay, Event::Turn { node, life });
    }
}
