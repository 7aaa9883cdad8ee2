//! The data of one member of three becomes a cluster of its own, whatever its log ends in and wherever it is interrupted.

use super::super::{
    assemble::{self, change_entry, Assembled, LogMedium, Origin, Plan},
    page_options, store_options, Failure,
};
use crate::{
    identity::{Founding, InitialCluster},
    member::{self, Effect, Input, Member},
};
use engine::{
    lease,
    page::SimFile,
    wal::{self, Expect, FileOp, LogDir, MemoryDir, SegmentFile, SegmentId, Wal, Write},
};
use prost::Message;
use proto::{
    etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest},
    raftpb::{ConfChangeType, Entry, EntryType, HardState},
};
use std::{
    cell::Cell,
    io,
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        Arc,
    },
};

const TERM: u64 = 3;
const TICK_NS: u64 = 100_000_000;
const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// A log directory that can lose power.
struct Log {
    dir: MemoryDir,
    /// Operations until the power goes.
    left: AtomicU32,
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
struct Machine {
    log: Log,
    pages: SimFile,
    lives: Cell<u64>,
    /// It joined with this identifier.
    joined: Option<u64>,
}

fn founding() -> Founding {
    let list = NAMES.map(|name| format!("{name}=http://{name}:2380"));
    let cluster = InitialCluster::parse(&list.join(",")).unwrap();
    Founding::of(&cluster, "token", "n1")
}

fn me() -> u64 {
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
    fn start(&self, alone: Option<&str>) -> Result<Assembled, String> {
        self.lives.set(self.lives.get() + 1);
        let config = super::config(&["--name=n1"]);
        let plan = Plan {
            pages: page_options(),
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
                    request_ids: lease::RequestIds::new(ids.member_id, 1),
                    seed: 1,
                    strict_reconfig_check: true,
                    unix_ms: 1,
                    checkpoint: member::Thresholds::default(),
                })
            },
        };
        let file = Arc::new(self.pages.clone());
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
            None => assemble::open(plan, file, &self.log, originate),
            Some(url) => assemble::open_alone(plan, file, &self.log, originate, &[url.to_owned()]),
        }
        .map_err(|error| error.to_string())
    }

    /// Founds the cluster and goes on with the log as another member's leader would have it, up to this commit index.
    fn with_log(entries: &[Entry], commit: u64) -> Machine {
        Machine::default().go_on(entries, commit)
    }

    /// A member that joined, with what the leader sent it.
    fn joined(entries: &[Entry], commit: u64) -> Machine {
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
    fn run(&self, mut member: Member) -> Member {
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

    fn carry_out(&self, member: &mut Member, effect: Effect, now_ns: u64) {
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

fn put(key: &str) -> Entry {
    let put = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: b"value".to_vec().into(),
        ..Default::default()
    };
    let request = InternalRaftRequest {
        put: Some(put),
        ..Default::default()
    };
    Entry {
        data: Some(request.encode_to_vec().into()),
        ..Default::default()
    }
}

fn change(kind: ConfChangeType, member: u64, context: serde_json::Value) -> Entry {
    change_entry(0, 0, kind, member, Some(context))
}

#[track_caller]
fn assert_serves_alone(member: &Member, keys: &[&str]) {
    assert_eq!(member.node().role(), raft::Role::Leader);
    assert_eq!(member.node().conf_state().voters, [me()]);
    assert!(member.node().conf_state().learners.is_empty());
    let listed = member.store().member_list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, listed[0].is_learner), (me(), false));
    assert!(member.is_ready());
    for key in keys {
        let request = RangeRequest {
            key: key.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let found = member.store().range(&request).unwrap().unwrap();
        assert_eq!(found.count, 1, "{key}");
    }
}

#[test]
fn one_of_three_serves_all_its_data_alone() {
    // The last put may have been acknowledged: the commit index is stored with the entries that follow.
    let machine = Machine::with_log(&[put("a"), put("b"), put("c")], 5);
    // Without the flag it waits for the others.
    let waiting = machine.run(machine.start(None).unwrap().member);
    assert!(!waiting.has_leader());
    assert_eq!(waiting.store().member_list().len(), 3);

    let assembled = machine.start(Some("http://n1:2380")).unwrap();
    assert_eq!(
        (
            assembled.new,
            assembled.ids.member_id,
            assembled.ids.cluster_id
        ),
        (false, me(), founding().cluster_id)
    );
    let member = machine.run(assembled.member);
    assert_serves_alone(&member, &["a", "b", "c"]);
    // It keeps its recorded URL, and the others never come back.
    assert_eq!(
        member.store().member_list()[0].peer_ur_ls,
        ["http://n1:2380"]
    );
    let others = founding().members.into_iter().map(|m| m.id);
    let mut removed: Vec<u64> = others.filter(|id| *id != me()).collect();
    removed.sort_unstable();
    assert_eq!(
        member.store().removed_members().collect::<Vec<_>>(),
        removed
    );

    // Once more with the flag changes nothing; and then without.
    let applied = member.node().last_index();
    let again = machine.start(Some("http://n1:2380")).unwrap().member;
    assert_eq!(again.node().last_index(), applied);
    assert_serves_alone(&machine.run(again), &["a", "b", "c"]);
    let plain = machine.start(None).unwrap().member;
    assert_serves_alone(&machine.run(plain), &["a", "b", "c"]);
}

#[test]
fn membership_changes_in_the_log_count() {
    let learner = ConfChangeType::ConfChangeAddLearnerNode;
    let others: Vec<u64> = founding().members.iter().map(|m| m.id).collect();
    let other = *others.iter().find(|id| **id != me()).unwrap();
    let remove = ConfChangeType::ConfChangeRemoveNode;
    let entries = [
        added(learner, "n4", JOINED),
        put("a"),
        change(remove, other, serde_json::json!({})),
    ];
    let machine = Machine::with_log(&entries, 4);
    let member = machine.run(machine.start(Some("http://n1:2380")).unwrap().member);
    assert_serves_alone(&member, &["a"]);
    assert!(member.store().is_removed_member(JOINED));
}

/// Another member, which joined the cluster of the three.
const JOINED: u64 = 77;

fn added(kind: ConfChangeType, name: &str, id: u64) -> Entry {
    let is_learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
    let urls = [format!("http://{name}:2380")];
    let context = serde_json::json!({ "id": id, "peerURLs": urls, "isLearner": is_learner });
    change(kind, id, context)
}

fn founders() -> Vec<Entry> {
    let founders = founding().members;
    let founders = founders.iter();
    let add = ConfChangeType::ConfChangeAddNode;
    founders
        .map(|founder| added(add, &founder.name, founder.id))
        .collect()
}

#[test]
fn a_learner_is_promoted_and_a_stranger_added() {
    let learner = added(ConfChangeType::ConfChangeAddLearnerNode, "n4", JOINED);
    for own in [vec![learner], vec![]] {
        let entries = [founders(), own, vec![put("a")]].concat();
        let machine = Machine::joined(&entries, 3);
        let member = machine.run(machine.start(Some("http://n4:2380")).unwrap().member);
        assert_eq!(member.node().role(), raft::Role::Leader);
        let listed = member.store().member_list();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].id, listed[0].is_learner), (JOINED, false));
        assert_eq!(listed[0].peer_ur_ls, ["http://n4:2380"]);
    }
}

#[test]
fn what_cannot_be_a_cluster_is_refused() {
    let forced = |machine: Machine, url| match machine.start(Some(url)) {
        Ok(_) => panic!("it must not start"),
        Err(error) => error,
    };
    let remove = ConfChangeType::ConfChangeRemoveNode;
    let removed = Machine::with_log(&[change(remove, me(), serde_json::json!({}))], 4);
    let error = forced(removed, "http://n1:2380");
    assert!(error.contains("was removed from its cluster"), "{error}");
    let empty = forced(Machine::joined(&[], 0), "http://n4:2380");
    assert!(empty.contains("holds no cluster yet"), "{empty}");
    let taken = forced(Machine::joined(&founders(), 3), "http://n2:2380");
    assert!(
        taken.contains("http://n2:2380, which is that of member"),
        "{taken}"
    );
    let joint = Entry {
        r#type: Some(EntryType::EntryConfChangeV2 as i32),
        ..Entry::default()
    };
    let joint = forced(Machine::with_log(&[joint], 4), "http://n1:2380");
    assert!(joint.contains("log entry 4 is a joint"), "{joint}");
}

#[test]
fn power_lost_anywhere_leaves_three_members_or_one() {
    let complete = {
        let machine = Machine::with_log(&[put("a")], 4);
        machine.log.left.store(u32::MAX, Relaxed);
        machine.start(Some("http://n1:2380")).unwrap();
        u32::MAX - machine.log.left.load(Relaxed)
    };
    assert!(complete > 0);
    for operations in 0..complete {
        let machine = Machine::with_log(&[put("a")], 4);
        machine.log.left.store(operations, Relaxed);
        assert!(machine.start(Some("http://n1:2380")).is_err());
        machine.log.left.store(u32::MAX, Relaxed);
        let member = machine.run(machine.start(None).unwrap().member);
        match member.store().member_list().len() {
            3 => assert!(!member.has_leader()),
            _ => assert_serves_alone(&member, &["a"]),
        }
        let member = machine.run(machine.start(Some("http://n1:2380")).unwrap().member);
        assert_serves_alone(&member, &["a"]);
    }
}
