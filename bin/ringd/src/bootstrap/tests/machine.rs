//! A machine with the data of one member of a cluster of three, and the log that can lose power under it.

use super::super::{
    assemble::{self, Assembled, Disk, LogMedium, Origin, Plan},
    page_options, store_options, Failure,
};
use crate::{
    identity::{Founding, InitialCluster},
    member::{self, Effect, Input, Member},
    promises::{MemoryPromises, PromiseFile},
};
use engine::{
    lease,
    page::{PageFile, SimFile},
    wal::{self, Expect, FileOp, LogDir, MemoryDir, SegmentFile, SegmentId, Wal, Write},
};
use proto::raftpb::{Entry, HardState};
use std::{
    cell::{Cell, RefCell},
    io,
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        Arc,
    },
};

pub const TERM: u64 = 3;
pub const TICK_NS: u64 = 100_000_000;
/// Another member, which joined the cluster of the three.
pub const JOINED: u64 = 77;
const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// A log directory that can lose power.
pub struct Log {
    pub dir: MemoryDir,
    /// Operations until the power goes.
    pub left: AtomicU32,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            dir: MemoryDir::default(),
            left: AtomicU32::new(u32::MAX),
        }
    }
}

impl Log {
    fn spend(&self) -> io::Result<()> {
        match self.left.load(Relaxed) {
            0 => Err(io::Error::other("no power")),
            left => {
                self.left.store(left - 1, Relaxed);
                Ok(())
            }
        }
    }
}

impl LogDir for Log {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        self.dir.segments()
    }
    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.dir.read_at(segment, offset, buf)
    }
    fn flush(&self, segment: SegmentId) -> io::Result<()> {
        self.dir.flush(segment)
    }
    fn name(&self, segment: SegmentId) -> String {
        self.dir.name(segment)
    }
}

impl LogMedium for Log {
    fn run(&self, op: &FileOp) -> io::Result<()> {
        self.spend()?;
        self.dir.run(op)
    }
    fn write(&self, write: &Write) -> io::Result<()> {
        self.spend()?;
        let bytes = write.buf.as_slice();
        self.dir.write_at(write.segment, write.offset, bytes)
    }
}

/// A machine with the data of member n1.
#[derive(Default)]
pub struct Machine {
    pub log: Log,
    pub pages: RefCell<SimFile>,
    pub promises: Arc<MemoryPromises>,
    /// How often its files were put aside.
    pub emptied: Cell<u32>,
    lives: Cell<u64>,
    /// It joined with this identifier.
    joined: Option<u64>,
}

impl Disk for Machine {
    fn pages(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(self.pages.borrow().clone()))
    }

    fn log(&self) -> &dyn LogMedium {
        &self.log
    }

    fn promises(&self) -> Arc<dyn PromiseFile> {
        self.promises.clone()
    }

    fn set_aside(&self) -> io::Result<Vec<String>> {
        self.log.spend()?;
        self.pages.replace(SimFile::new());
        self.log.spend()?;
        self.log.dir.files().clear();
        self.emptied.set(self.emptied.get() + 1);
        Ok(vec!["elsewhere".into()])
    }
}

pub fn founding() -> Founding {
    let list = NAMES.map(|name| format!("{name}=http://{name}:2380"));
    let cluster = InitialCluster::parse(&list.join(",")).unwrap();
    Founding::of(&cluster, "token", "n1")
}

pub fn me() -> u64 {
    founding().local_id
}

fn wal_config(incarnation: u64) -> wal::Config {
    let mut config = wal::Config::new("log", incarnation);
    config.segment_bytes = 1 << 20;
    config.batch_bytes_max = 64 << 10;
    config
}

impl Machine {
    /// Starts on what is there; alone if these URLs are given.
    pub fn start(&self, alone: Option<&str>) -> Result<Assembled, String> {
        self.lives.set(self.lives.get() + 1);
        let config = super::config(&["--name=n1"]);
        let plan = Plan {
            pages: page_options(1 << 30),
            store: store_options(&config, (10, TICK_NS), 1),
            wal: wal_config(self.lives.get()),
            raft: raft::Config::new(0),
            member: |ids: wal::Identity| {
                Ok(member::Config {
                    cluster_id: ids.cluster_id,
                    member_id: ids.member_id,
                    name: "n1".into(),
                    client_urls: vec!["http://n1:2379".into()],
                    version: "3.5.33",
                    cluster_version: "3.5.0",
                    tick_ns: TICK_NS,
                    election_ticks: 10,
                    request_bytes_max: 1 << 20,
                    txn_ops_max: 128,
                    apply_slice_keys: 2,
                    request_ids: lease::RequestIds::new(ids.member_id, 1),
                    seed: 1,
                    strict_reconfig_check: true,
                    unix_ms: 1,
                    checkpoint: member::Thresholds::default(),
                    keys_at_once_max: member::KEYS_AT_ONCE_MAX,
                })
            },
        };
        let originate = || {
            let founding = founding();
            Ok::<_, Failure>(match self.joined {
                None => Origin::Founding(founding),
                Some(member_id) => Origin::Joining(wal::Identity {
                    cluster_id: founding.cluster_id,
                    member_id,
                }),
            })
        };
        match alone {
            None => assemble::open(plan, self, originate),
            Some(url) => assemble::open_alone(plan, self, originate, &[url.to_owned()]),
        }
        .map_err(|error| error.to_string())
    }

    /// Founds the cluster and goes on with the log as another member's leader would have it, up to this commit index.
    pub fn with_log(entries: &[Entry], commit: u64) -> Machine {
        Machine::default().go_on(entries, commit)
    }

    /// A member that joined, with what the leader sent it.
    pub fn joined(entries: &[Entry], commit: u64) -> Machine {
        let joined = Some(JOINED);
        Machine {
            joined,
            ..Machine::default()
        }
        .go_on(entries, commit)
    }

    fn go_on(self, entries: &[Entry], commit: u64) -> Machine {
        let machine = self;
        machine.start(None).unwrap();
        let found = wal::recover(&machine.log, Expect::default()).unwrap();
        let ids = found.tail.identity().unwrap();
        let mut wal = Wal::new(wal_config(1000), ids, found.tail).unwrap();
        let state = HardState {
            term: Some(TERM),
            vote: Some(ids.member_id),
            commit: Some(commit),
        };
        let numbered = entries
            .iter()
            .zip(found.last_index + 1..)
            .map(|(entry, index)| Entry {
                index: Some(index),
                term: Some(TERM),
                ..entry.clone()
            });
        let numbered: Vec<Entry> = numbered.collect();
        assemble::write_now(&mut wal, &machine.log, "log", &numbered, &state).unwrap();
        machine
    }

    /// Lets a member run for two election timeouts.
    pub fn run(&self, mut member: Member) -> Member {
        let mut effects = Vec::new();
        for turn in 1..=40 {
            let now_ns = turn * TICK_NS / 2;
            member.step(Input::Pulse, now_ns);
            loop {
                member.settle(now_ns);
                member.take_effects(&mut effects);
                if effects.is_empty() {
                    break;
                }
                for effect in effects.drain(..) {
                    self.carry_out(&mut member, effect, now_ns);
                }
            }
        }
        member
    }

    pub fn carry_out(&self, member: &mut Member, effect: Effect, now_ns: u64) {
        match effect {
            Effect::WriteLog(write) => {
                let input = Input::LogWritten {
                    tag: write.tag,
                    result: self.log.write(&write),
                    buffer: write.buf,
                };
                member.step(input, now_ns);
            }
            Effect::LogFile(op) => {
                let result = self.log.run(&op);
                member.step(
                    Input::LogFile {
                        tag: op.tag,
                        result,
                    },
                    now_ns,
                );
            }
            Effect::Fetch(job) => member.step(Input::Fetched { done: job.run() }, now_ns),
            Effect::Halt(reason) => panic!("{reason}"),
            _ => {}
        }
    }
}
