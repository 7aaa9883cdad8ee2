//! Front, member and recipes put together: bytes in, bytes and disk operations out. No I/O.
//!
//! The shell feeds in what the world did and then calls [`Server::settle`], which runs until nothing is left to decide
//! and hands out the operations that the shell is to carry out.

use crate::{
    concurrency::{Concurrency, Step},
    front::{Demand, Front},
    member::{Effect, Input, Member},
    peers::PeerFailure,
    request::CallId,
    status::Status,
};
use bytes::Bytes;
use std::sync::Arc;

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
        source: Arc<engine::page::CopySource>,
    },
    Stage {
        transfer: u64,
        job: engine::store::install::StageJob,
    },
    Install(Box<engine::store::install::InstallJob>),
    /// The member is to be woken then with an [`Input::Wake`].
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
    pub member: Member,
    concurrency: Concurrency,
    demands: Vec<Demand>,
    effects: Vec<Effect>,
    steps: Vec<Step>,
    /// Answers that the member gets at the next turn of [`Server::settle`].
    answers: Vec<Input>,
}

impl Server {
    pub fn new(front: Front, member: Member) -> Server {
        Server {
            front,
            member,
            concurrency: Concurrency::default(),
            demands: Vec::new(),
            effects: Vec::new(),
            steps: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub fn open(&mut self, now_ns: u64) -> u32 {
        self.front.open(now_ns)
    }

    pub fn close(&mut self, connection: u32, now_ns: u64) {
        self.front.close(connection, &mut self.demands);
        self.run_demands(now_ns);
    }

    pub fn receive(&mut self, connection: u32, bytes: &[u8], now_ns: u64) {
        self.front
            .receive(connection, bytes, now_ns, &mut self.demands);
        self.run_demands(now_ns);
    }

    /// Bytes of the connection's output were sent.
    pub fn sent(&mut self, connection: u32, now_ns: u64) {
        self.front.sent(connection, &mut self.demands);
        self.run_demands(now_ns);
    }

    pub fn complete(&mut self, input: Input, now_ns: u64) {
        self.member.step(input, now_ns);
    }

    /// The regular pulse: connection timers, and the member's tick when one is due.
    pub fn pulse(&mut self, now_ns: u64) {
        self.front.on_timer(now_ns, &mut self.demands);
        self.run_demands(now_ns);
        self.member.step(Input::Pulse, now_ns);
    }

    /// Runs until nothing is left to decide.
    pub fn settle(&mut self, now_ns: u64, operations: &mut Vec<Operation>) {
        loop {
            for answer in std::mem::take(&mut self.answers) {
                self.member.step(answer, now_ns);
            }
            self.member.settle(now_ns);
            self.member.take_effects(&mut self.effects);
            if self.effects.is_empty()
                && self.answers.is_empty()
                && self.steps.is_empty()
                && self.demands.is_empty()
            {
                break;
            }
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                self.run_effect(effect, operations);
            }
            self.effects = effects;
            self.run_demands(now_ns);
            self.run_steps(now_ns);
        }
        self.front.set_has_leader(self.member.has_leader());
    }

    /// Whether there is background work for an otherwise idle moment.
    pub fn wants_work(&self) -> bool {
        self.member.wants_work()
    }

    /// Stops taking calls and ends the streams.
    pub fn shutdown(&mut self, status: &Status) {
        self.front.shutdown();
        self.front.end_streams(status);
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

    fn run_effect(&mut self, effect: Effect, operations: &mut Vec<Operation>) {
        match effect {
            Effect::Reply { call, result } => match is_internal(call) {
                true => self.concurrency.answered(call, result, &mut self.steps),
                false => self.front.reply(call, result),
            },
            Effect::Stream { call, message } => match is_internal(call) {
                true => self.concurrency.watched(call, message, &mut self.steps),
                false => self.front.stream(call, message, &mut self.demands),
            },
            Effect::End { call, status } => {
                if !is_internal(call) {
                    self.front.end(call, status);
                }
            }
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
            Effect::Send(_)
            | Effect::MembersChanged
            | Effect::SendSnapshot { .. }
            | Effect::SnapshotBytes { .. }
            | Effect::CancelSnapshot { .. }
            | Effect::SnapshotTaken { .. } => {}
            Effect::AskPeer { ask, .. } => {
                let failure = PeerFailure {
                    code: 0,
                    body: Bytes::new(),
                };
                let result = Err(failure);
                self.answers.push(Input::PeerAnswered { ask, result });
            }
            Effect::Wake { after_ns } => operations.push(Operation::Wake { after_ns }),
            Effect::Removed => operations.push(Operation::Removed),
            Effect::Halt(reason) => operations.push(Operation::Halt(reason)),
        }
    }
}

fn is_internal(call: CallId) -> bool {
    call.connection() == CallId::INTERNAL_CONNECTION
}
