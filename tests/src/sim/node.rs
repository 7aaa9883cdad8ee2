//! One simulated machine: its disk, and the member that runs on it between two crashes.

use engine::page::{CheckpointJob, Options as PageOptions, Relocation};
use engine::{lease, store, wal, watch};
use ringd::bootstrap::assemble::{self, Origin, Plan};
use ringd::config::Url;
use ringd::identity::{self, Founder, Founding, Salt};
use ringd::member::{self, Effect, Input, Member};

use super::chance::Chance;
use super::clock::Clock;
use super::disk::Disk;
use super::membership::Standing;
use super::swarm::{MemberPlan, ELECTION_TICKS, RATE_MAX, RATE_MIN, TICK_NS};

const REQUEST_BYTES_MAX: usize = 16 << 10;
const TXN_OPS_MAX: usize = 128;
/// Few, and not the same on all members: what is applied in slices here comes in others, or in one go, elsewhere.
const APPLY_SLICE_KEYS_MAX: u64 = 3;
/// Few: there are not many keys, and reads in slices are to be met.
const KEYS_AT_ONCE_MAX: i64 = 3;
/// Where pages are moved, whatever can be is: the files are small.
const RELOCATION: Relocation = Relocation {
    file_pages_min: 0,
    dead_percent_min: 0,
    live_pages_max: 63,
    cost_share: 1,
};
const TOKEN: &str = "simulation";
/// The wall clock at time 0: any will do.
const UNIX_MS: u64 = 1_700_000_000_000;

/// A member in operation.
pub struct Running {
    pub member: Member,
    pub clock: Clock,
    /// What happened and was not looked at yet.
    pub inbox: Vec<Input>,
    pub turn_due: bool,
    pub work_due: bool,
    /// Neither runs nor answers.
    pub paused: bool,
    pub checkpoint: Option<CheckpointJob>,
    /// Bytes of pages that it had moved when the last checkpoint began.
    pub relocated: u64,
    /// The revision when the turn began.
    pub revision: i64,
    /// Effects until the process dies.
    pub dies_after: Option<usize>,
    pub effects: Vec<Effect>,
}

pub struct Node {
    /// 1 for the first.
    pub number: usize,
    pub id: u64,
    pub disk: Disk,
    /// Starts so far; what an earlier life began is nothing to this one.
    pub life: u64,
    pub running: Option<Running>,
    /// A fault of the disk was injected: the member may stop for it.
    pub excused: bool,
    /// Nothing on this disk completes before.
    pub stalled_until: u64,
    /// Write errors and failing file operations to come.
    pub write_errors: u64,
    pub full_disk: u64,
    /// Last entry known to be durable, also while the member is down.
    pub durable_index: u64,
    /// Last entry that it had on disk and knew to be committed: no crash takes it, and after other damage it does not count
    /// before it has that again.
    pub sure_index: u64,
    /// Last entry that this life was seen to apply.
    pub applied_seen: u64,
    /// Last change of members that it was seen to apply.
    pub changed: u64,
    /// The same, as far as everything was written since that it wanted written: no crash makes it forget that it is committed.
    /// What it counts votes by would be the members of before, and whoever was removed may be gone.
    pub sure_change: u64,
    pub standing: Standing,
    /// Since when it is awaited.
    pub awaited_ns: u64,
    /// Since when the operator wants it removed.
    pub leaves_ns: Option<u64>,
    /// It joins a running cluster, or did.
    pub joins: bool,
    /// Its disk was damaged by more than a crash.
    pub rotten: bool,
    /// It ever was, whatever became of it.
    pub was_rotten: bool,
    /// The damage is in its pages, which it can have from another one while it runs.
    pub rotten_pages: bool,
    /// How often this life has done so.
    pub rebuilds: u64,
    /// Changes of members that this life has skipped while it did.
    pub skipped_changes: u64,
    /// It started without what it had, and may still do.
    pub refetches: bool,
    /// It is gone for good.
    pub broken: bool,
}

pub fn name(number: usize) -> String {
    format!("n{number}")
}

pub fn peer_url(number: usize) -> String {
    format!("http://{}:2380", name(number))
}

/// The identifier that the founding gives a member.
pub fn member_id(number: usize) -> u64 {
    identity::member_id(&[peer_url(number)], Salt::Token(TOKEN))
}

fn cluster_id(members: usize) -> u64 {
    let ids: Vec<u64> = (1..=members).map(member_id).collect();
    identity::cluster_id(&ids)
}

fn founding(number: usize, members: usize) -> Result<Founding, ringd::bootstrap::Failure> {
    let mut founders = Vec::new();
    for number in 1..=members {
        founders.push(Founder {
            id: member_id(number),
            name: name(number),
            peer_urls: vec![Url::parse(&peer_url(number))?],
        });
    }
    founders.sort_by_key(|founder| founder.id);
    Ok(Founding {
        cluster_id: cluster_id(members),
        local_id: member_id(number),
        members: founders,
    })
}

impl Node {
    pub fn new(number: usize) -> Node {
        Node {
            number,
            id: member_id(number),
            disk: Disk::default(),
            life: 0,
            running: None,
            excused: false,
            stalled_until: 0,
            write_errors: 0,
            full_disk: 0,
            durable_index: 0,
            sure_index: 0,
            applied_seen: 0,
            changed: 0,
            sure_change: 0,
            standing: Standing::Member,
            awaited_ns: 0,
            leaves_ns: None,
            joins: false,
            rotten: false,
            was_rotten: false,
            rotten_pages: false,
            rebuilds: 0,
            skipped_changes: 0,
            refetches: false,
            broken: false,
        }
    }

    /// Starts the process on what the disk holds.
    pub fn start(
        &mut self,
        plan: &MemberPlan,
        members: usize,
        chance: &mut Chance,
        now_ns: u64,
    ) -> Result<(), String> {
        self.life += 1;
        self.rebuilds = 0;
        self.skipped_changes = 0;
        self.excused = self.rotten;
        let number = self.number;
        let (id, joins) = (self.id, self.joins);
        let unix_ms = UNIX_MS + now_ns / 1_000_000;
        let seed = chance.draw();
        let checkpoint = member::Thresholds {
            dirty_bytes: plan.checkpoint_dirty_bytes,
            log_bytes: plan.checkpoint_log_bytes,
            log_segments: 2,
            interval_ns: plan.checkpoint_interval_ns,
        };
        let mut assembled = assemble::open(
            Plan {
                pages: PageOptions {
                    create: true,
                    resident_bytes_max: plan.resident_bytes,
                    growth_bytes: 64 << 10,
                    reserve_bytes: 64 << 10,
                },
                store: store_options(plan, number, chance.draw()),
                wal: wal_config(plan, number, chance.draw()),
                raft: raft_config(plan, chance.draw()),
                member: |ids: wal::Identity| {
                    Ok(member::Config {
                        cluster_id: ids.cluster_id,
                        member_id: ids.member_id,
                        name: name(number),
                        client_urls: vec![format!("http://{}:2379", name(number))],
                        version: ringd::bootstrap::VERSION,
                        cluster_version: "3.5.0",
                        tick_ns: TICK_NS,
                        election_ticks: ELECTION_TICKS,
                        request_bytes_max: REQUEST_BYTES_MAX,
                        txn_ops_max: TXN_OPS_MAX,
                        apply_slice_keys: 1 + (number as u64 % APPLY_SLICE_KEYS_MAX) as usize,
                        request_ids: lease::RequestIds::new(ids.member_id, unix_ms),
                        seed,
                        strict_reconfig_check: true,
                        unix_ms,
                        checkpoint,
                        keys_at_once_max: KEYS_AT_ONCE_MAX,
                    })
                },
            },
            &self.disk,
            || match joins {
                false => founding(number, members).map(Origin::Founding),
                true => Ok(Origin::Joining(wal::Identity {
                    cluster_id: cluster_id(members),
                    member_id: id,
                })),
            },
        )
        .map_err(|error| format!("{} does not start: {error}", name(number)))?;
        assembled.member.set_scrub_interval(plan.scrub_interval_ns);
        self.applied_seen = assembled.member.store().applied().0;
        let refetches = assembled.member.is_refetching();
        if refetches && !self.refetches && !self.rotten {
            return Err(format!(
                "{} begins anew although its disk lost nothing but what was not flushed: {}",
                name(number),
                assembled.notes.join("; ")
            ));
        }
        self.refetches = refetches;
        if self.refetches && self.rotten {
            // What was damaged is gone, and what comes instead is as good as any.
            (self.rotten, self.excused) = (false, false);
            self.disk.forget_writes();
        }
        self.running = Some(Running {
            member: assembled.member,
            clock: Clock::new(chance.between(RATE_MIN, RATE_MAX), now_ns),
            inbox: Vec::new(),
            turn_due: false,
            work_due: false,
            paused: false,
            checkpoint: None,
            relocated: 0,
            revision: 0,
            dies_after: None,
            effects: Vec::new(),
        });
        Ok(())
    }

    /// Just started, it must know of the changes of members that it acted upon.
    pub fn remembers_change(&mut self) -> Result<(), String> {
        let sure = std::mem::take(&mut self.sure_change);
        self.changed = 0;
        let Some(running) = &self.running else {
            return Ok(());
        };
        let node = running.member.node();
        let known = node.commit_index().max(node.applied_index());
        if known >= sure || self.refetches || self.rotten {
            return Ok(());
        }
        Err(format!(
            "had applied a change of members at entry {sure}, and after a crash knows only {known} to be committed"
        ))
    }

    /// Whether it lost what it had and has not enough of it again.
    pub fn is_refetching(&self) -> bool {
        let running = self.running.as_ref();
        self.refetches && running.is_none_or(|running| running.member.is_refetching())
    }

    /// Whether the disk has this entry.
    pub fn holds(&self, index: u64) -> bool {
        self.durable_index >= index
    }

    /// For the counters of faults: what the member was doing.
    pub fn state(&self) -> &'static str {
        let Some(running) = &self.running else {
            return "while down";
        };
        if running.checkpoint.is_some() {
            return "in a checkpoint";
        }
        match running.member.node().role() {
            raft::Role::Leader if self.disk.writes_under_way() > 0 => "as leader, writing",
            raft::Role::Leader => "as leader",
            raft::Role::Follower if self.disk.writes_under_way() > 0 => "as follower, writing",
            raft::Role::Follower => "as follower",
            raft::Role::Candidate | raft::Role::PreCandidate => "as candidate",
        }
    }
}

fn store_options(plan: &MemberPlan, number: usize, seed: u64) -> store::Options {
    let election = u64::from(ELECTION_TICKS);
    let lease = lease::Config {
        min_ttl_seconds: lease::min_ttl_seconds(election, TICK_NS),
        revoke_retry_ns: 5_000_000_000 + 2 * election * TICK_NS,
        drift_bound_ppm: plan.drift_bound_ppm,
        checkpoint: None,
    };
    let watch = watch::Config {
        identity: watch::Identity::default(),
        max_request_bytes: REQUEST_BYTES_MAX,
        progress_interval_ns: plan.progress_interval_ns,
        seed,
    };
    let mut options = store::Options::new(lease, watch);
    options.quota_bytes = None;
    // Every other member, so that their page files differ: nothing that they agree on may depend on it.
    options.relocation = Relocation {
        cost_share: number as u64 % 2,
        ..RELOCATION
    };
    options
}

fn wal_config(plan: &MemberPlan, number: usize, incarnation: u64) -> wal::Config {
    let mut config = wal::Config::new(name(number), incarnation);
    config.segment_bytes = plan.segment_bytes;
    config.batch_bytes_max = plan.batch_bytes;
    config.in_flight_max = plan.writes_in_flight;
    config
}

fn raft_config(plan: &MemberPlan, seed: u64) -> raft::Config {
    let mut config = raft::Config::new(0);
    config.election_ticks = ELECTION_TICKS;
    config.pre_vote = plan.pre_vote;
    config.seed = seed;
    config.gather_commits = true;
    config.ring_bytes_max = 16 << 20;
    config.message_bytes_max = plan.message_bytes;
    config
}
