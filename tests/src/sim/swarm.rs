//! What a seed runs: how large the cluster is, which faults and client operations exist at all, and how often.

use super::chance::Chance;

pub const MILLISECOND_NS: u64 = 1_000_000;
pub const SECOND_NS: u64 = 1_000_000_000;
/// Time between two ticks of a member.
pub const TICK_NS: u64 = 100 * MILLISECOND_NS;
pub const ELECTION_TICKS: u32 = 10;
/// Ten simulated minutes.
pub const DURATION_NS: u64 = 600 * SECOND_NS;
/// Seeds with a crowd of readers.
const CROWDED_PERCENT: u64 = 8;
/// They have this part of the time that others have.
const CROWDED_SHORTER: u64 = 2;
/// What may be resident there; others draw more.
const CROWDED_RESIDENT_BYTES: u64 = 8 << 10;
/// Seeds in which disks lose and garble what they hold all the time.
const DECAYING_PERCENT: u64 = 8;
/// Mean time between two such losses there.
const DECAY_NS: u64 = 6 * SECOND_NS;
/// Seeds whose leaders fall soon and whose members change two at a time.
const RESTLESS_PERCENT: u64 = 5;
/// Seeds in which one disk spoils its pages again and again, while members change.
const SPOILING_PERCENT: u64 = 4;
/// Seeds in which disks forget what they acknowledged last.
const FORGETFUL_PERCENT: u64 = 3;
/// A restless leader falls within this from when it leads: with some of its entries at some of the others.
const YOUNG_MAX_NS: u64 = 150 * MILLISECOND_NS;
/// Mean time between two changes of members in seeds that are about these.
const CHANGE_NS: u64 = 4 * SECOND_NS;
/// Machines that a run has at most, and one in which they decay.
const MACHINES_MAX: usize = 14;
const DECAYING_MACHINES_MAX: usize = 40;
/// Clocks run at least this slow and at most this fast, in nanoseconds per million.
pub const RATE_MIN: u64 = 900_000;
pub const RATE_MAX: u64 = 1_100_000;
/// Members that reckon with clocks as slow as this against theirs never end a lease early in true time.
pub const DRIFT_BOUND_PPM: u32 = (RATE_MAX - 1_000_000) as u32;

/// The network between members, and between clients and members.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// Per million messages.
    pub loss: u64,
    pub duplicates: u64,
    /// Messages of one link arrive in order.
    pub in_order: bool,
    pub delay_min_ns: u64,
    pub delay_max_ns: u64,
    /// Per million messages, delayed by up to `spike_ns` more.
    pub spikes: u64,
    pub spike_ns: u64,
    /// A member whose process died is reported as such by the transport.
    pub refusals: bool,
    /// Snapshots travel in pieces of any size.
    pub small_pieces: bool,
    /// Per million pieces of snapshots, with a bit flipped.
    pub damage: u64,
    /// Per million pieces of snapshots: the connection breaks behind it, before the receiver's answer.
    pub resets: u64,
}

/// What disks do to what they hold, where they do anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rot {
    /// Files are lost, bits flip, writes go astray or never arrive.
    #[default]
    Any,
    /// One disk spoils its pages, again as soon as they are whole again.
    Pages,
    /// The last writes of a log were acknowledged and never arrived. Nothing on that disk shows it.
    Tails,
}

/// Mean time between two faults of a kind, 0 for never.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    pub crash_ns: u64,
    pub crash_all_ns: u64,
    pub power_loss: bool,
    pub partition_ns: u64,
    pub one_way_ns: u64,
    pub bridge_ns: u64,
    pub isolate_leader_ns: u64,
    pub pause_ns: u64,
    pub machine_pause_ns: u64,
    pub clock_jump_ns: u64,
    pub clock_rate_ns: u64,
    pub disk_stall_ns: u64,
    pub disk_error_ns: u64,
    pub disk_full_ns: u64,
    pub transfer_ns: u64,
    pub membership_ns: u64,
    pub rot_ns: u64,
    pub rot: Rot,
    /// Of members that begin to lead, those that are cut off or die within [`FaultPlan::young_max_ns`].
    pub young_leader_percent: u64,
    pub young_max_ns: u64,
    /// Two members are asked for a change of members at the same time.
    pub changes_at_once: bool,
    /// How long a partition, pause or stall lasts at most.
    pub lasts_max_ns: u64,
}

/// How members are configured.
#[derive(Clone, Debug)]
pub struct MemberPlan {
    pub segment_bytes: u64,
    pub batch_bytes: usize,
    pub writes_in_flight: usize,
    pub resident_bytes: u64,
    pub checkpoint_dirty_bytes: u64,
    pub checkpoint_log_bytes: u64,
    pub checkpoint_interval_ns: u64,
    pub pre_vote: bool,
    /// A log write takes up to this long.
    pub write_max_ns: u64,
    /// Reading a page, or a step of a checkpoint.
    pub page_max_ns: u64,
    /// Inputs gather for up to this long before they are decided upon.
    pub turn_max_ns: u64,
    pub progress_interval_ns: u64,
    /// Entries that one message carries.
    pub message_bytes: u64,
    /// Rot is looked for this often: all the time, so that what is found where there is none shows, or so seldom that whoever
    /// needs a garbled page meets it first.
    pub scrub_interval_ns: u64,
    /// How much slower than theirs the members reckon clients' clocks to be.
    pub drift_bound_ppm: u32,
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub workers: usize,
    pub watchers: usize,
    pub holders: usize,
    /// Mean time between two operations of a worker.
    pub think_ns: u64,
    pub keys: u64,
    pub value_bytes_max: u64,
    /// Weights of the operations.
    pub weights: [(Operation, u64); Operation::ALL.len()],
    pub ttl_max_s: u64,
    /// Ranges have no limit, and most of them are long.
    pub wide_ranges: bool,
    /// Watchers ask how far they are.
    pub asks_progress: bool,
}

impl ClientPlan {
    pub fn has(&self, operation: Operation) -> bool {
        let mut weights = self.weights.iter();
        weights.any(|(kind, weight)| *kind == operation && *weight > 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put,
    Range,
    StaleRange,
    OldRange,
    Delete,
    Txn,
    Compact,
    Defragment,
    Status,
}

impl Operation {
    pub const ALL: [Operation; 9] = [
        Operation::Put,
        Operation::Range,
        Operation::StaleRange,
        Operation::OldRange,
        Operation::Delete,
        Operation::Txn,
        Operation::Compact,
        Operation::Defragment,
        Operation::Status,
    ];
}

#[derive(Clone, Debug)]
pub struct Swarm {
    pub members: usize,
    /// Machines that there are in the course of time at most, those that were removed included.
    pub machines_max: usize,
    pub duration_ns: u64,
    pub network: NetworkPlan,
    pub faults: FaultPlan,
    pub member: MemberPlan,
    pub clients: ClientPlan,
}

impl Swarm {
    pub fn draw(seed: u64, duration_ns: u64) -> Swarm {
        let mut chance = Chance::stream(seed, 1);
        let chance = &mut chance;
        let members = *chance.pick(&[1, 3, 3, 3, 3, 3, 5, 5]);
        let mut swarm = Swarm {
            members,
            machines_max: MACHINES_MAX,
            duration_ns,
            network: draw_network(chance),
            faults: draw_faults(chance, members),
            member: draw_member(chance),
            clients: draw_clients(chance),
        };
        // Drawn apart, so that the others are what they were without it.
        let mut apart = Chance::stream(seed, 9);
        swarm.network.resets = *apart.pick(&[0, 0, 200_000]);
        swarm.clients.asks_progress = apart.percent(50);
        swarm.member.progress_interval_ns = *apart.pick(&[SECOND_NS / 2, 20 * SECOND_NS]);
        swarm.member.message_bytes = *apart.pick(&[1 << 20, 1 << 20, 16 << 10, 1 << 10]);
        swarm.member.scrub_interval_ns = *apart.pick(&[3 * SECOND_NS, 100 * SECOND_NS]);
        swarm.member.drift_bound_ppm = *apart.pick(&[0, DRIFT_BOUND_PPM]);
        if Chance::stream(seed, 8).percent(CROWDED_PERCENT) {
            swarm.crowd();
        } else if members >= 3 {
            swarm.single_out(Chance::stream(seed, 11).below(100));
        }
        swarm
    }

    /// Some seeds are all about one thing that happens too rarely in others.
    fn single_out(&mut self, percentile: u64) {
        let mut below = 0;
        let mut within = |share| {
            below += share;
            percentile < below
        };
        if within(DECAYING_PERCENT) {
            self.decay();
        } else if within(RESTLESS_PERCENT) {
            self.restless();
        } else if within(SPOILING_PERCENT) {
            self.spoil();
        } else if within(FORGETFUL_PERCENT) {
            self.forget();
        }
    }

    /// Leaders fall before their first entries are everywhere, where few fit into a message, so that entries of many terms
    /// stand at the ends of the logs (Raft paper, figure 8). Two members are asked for changes at once.
    fn restless(&mut self) {
        let (faults, member) = (&mut self.faults, &mut self.member);
        self.machines_max = DECAYING_MACHINES_MAX;
        (faults.rot_ns, faults.disk_error_ns, faults.disk_full_ns) = (0, 0, 0);
        (faults.young_leader_percent, faults.young_max_ns) = (80, YOUNG_MAX_NS);
        (faults.membership_ns, faults.changes_at_once) = (CHANGE_NS, true);
        for others in [
            &mut faults.crash_ns,
            &mut faults.crash_all_ns,
            &mut faults.partition_ns,
            &mut faults.bridge_ns,
            &mut faults.machine_pause_ns,
            &mut faults.pause_ns,
            &mut faults.disk_stall_ns,
        ] {
            *others *= 4;
        }
        faults.lasts_max_ns = 4 * SECOND_NS;
        member.message_bytes = 1 << 10;
        member.write_max_ns = 2 * MILLISECOND_NS;
        self.network.loss = self.network.loss.min(30_000);
        self.network.delay_max_ns = 50 * MILLISECOND_NS;
        let clients = &mut self.clients;
        clients.think_ns = 100 * MILLISECOND_NS;
        clients.value_bytes_max = 3_000;
    }

    /// Entries wait for pages that are damaged, changes of members among those behind them, and leaders fall meanwhile. The
    /// second damage is repaired late, so that what waits gets old.
    fn spoil(&mut self) {
        let (faults, member) = (&mut self.faults, &mut self.member);
        self.machines_max = DECAYING_MACHINES_MAX;
        (faults.rot_ns, faults.rot) = (DECAY_NS, Rot::Pages);
        faults.membership_ns = 2 * CHANGE_NS;
        for others in [
            &mut faults.crash_ns,
            &mut faults.crash_all_ns,
            &mut faults.machine_pause_ns,
            &mut faults.pause_ns,
            &mut faults.disk_stall_ns,
        ] {
            *others *= 8;
        }
        faults.isolate_leader_ns = 2 * DECAY_NS;
        faults.lasts_max_ns = 4 * SECOND_NS;
        (faults.disk_error_ns, faults.disk_full_ns) = (0, 0);
        member.resident_bytes = CROWDED_RESIDENT_BYTES;
        member.checkpoint_dirty_bytes = 64 << 10;
        member.checkpoint_log_bytes = 32 << 10;
        member.checkpoint_interval_ns = 2 * SECOND_NS;
        let clients = &mut self.clients;
        clients.keys = 60;
        clients.value_bytes_max = 200;
        clients.think_ns = clients.think_ns.max(100 * MILLISECOND_NS);
    }

    /// Disks acknowledge writes that never arrive, and nothing else is wrong: who noticed what was acknowledged is there to say so.
    fn forget(&mut self) {
        self.machines_max = DECAYING_MACHINES_MAX;
        self.faults = FaultPlan {
            rot_ns: DECAY_NS,
            rot: Rot::Tails,
            membership_ns: 2 * DECAY_NS,
            lasts_max_ns: SECOND_NS,
            ..FaultPlan::default()
        };
        let network = &mut self.network;
        // Until a heartbeat tells it, a member refuses the appends that it lacks the beginning of, and is sent them again: with
        // each of these repeated there would be no end of them.
        (network.loss, network.spikes, network.duplicates) = (0, 0, 0);
        network.delay_max_ns = network.delay_max_ns.min(2 * MILLISECOND_NS);
        self.member.write_max_ns = 2 * MILLISECOND_NS;
    }

    /// Disks decay, and what else happens leaves the others time to make up for it. What becomes of a loss depends on how far
    /// log and checkpoint were: checkpoints are rare, so that much is in the log alone, and little stays in memory, so that
    /// garbled pages are met.
    fn decay(&mut self) {
        let (faults, member) = (&mut self.faults, &mut self.member);
        self.machines_max = DECAYING_MACHINES_MAX;
        faults.rot_ns = DECAY_NS;
        faults.membership_ns = 2 * DECAY_NS;
        for others in [
            &mut faults.crash_ns,
            &mut faults.crash_all_ns,
            &mut faults.partition_ns,
            &mut faults.one_way_ns,
            &mut faults.bridge_ns,
            &mut faults.isolate_leader_ns,
            &mut faults.machine_pause_ns,
            &mut faults.pause_ns,
            &mut faults.disk_stall_ns,
        ] {
            *others *= 4;
        }
        (faults.disk_error_ns, faults.disk_full_ns) = (0, 0);
        member.resident_bytes = 64 << 10;
        member.checkpoint_dirty_bytes = 1 << 20;
        member.checkpoint_log_bytes = 256 << 10;
        member.checkpoint_interval_ns = 30 * SECOND_NS;
    }

    /// Many readers of much where next to nothing may stay in memory, so that they meet absent pages side by side. A simulated
    /// minute of that takes ten times as long as another, so there are fewer of them.
    fn crowd(&mut self) {
        self.duration_ns /= CROWDED_SHORTER;
        self.member.resident_bytes = CROWDED_RESIDENT_BYTES;
        self.member.page_max_ns = 200_000;
        self.member.turn_max_ns = 5 * MILLISECOND_NS;
        let clients = &mut self.clients;
        clients.workers = 16;
        clients.think_ns = 500 * MILLISECOND_NS;
        clients.keys = 60;
        clients.value_bytes_max = 3_000;
        clients.wide_ranges = true;
        for (operation, weight) in &mut clients.weights {
            // What was written last is in memory anyway.
            *weight = match operation {
                Operation::OldRange => 60,
                Operation::Put => 20,
                Operation::Range | Operation::StaleRange => 10,
                Operation::Compact | Operation::Defragment => 0,
                _ => *weight / 4,
            };
        }
    }
}

fn draw_network(chance: &mut Chance) -> NetworkPlan {
    let slow = *chance.pick(&[
        200_000,
        2 * MILLISECOND_NS,
        2 * MILLISECOND_NS,
        50 * MILLISECOND_NS,
    ]);
    NetworkPlan {
        loss: *chance.pick(&[0, 0, 1_000, 30_000, 300_000]),
        duplicates: *chance.pick(&[0, 0, 10_000, 300_000]),
        in_order: chance.percent(60),
        delay_min_ns: 50_000,
        delay_max_ns: slow,
        spikes: *chance.pick(&[0, 0, 1_000, 20_000]),
        spike_ns: *chance.pick(&[100 * MILLISECOND_NS, 5 * SECOND_NS]),
        refusals: chance.percent(50),
        small_pieces: chance.percent(50),
        damage: *chance.pick(&[0, 0, 20_000]),
        resets: 0,
    }
}

fn draw_faults(chance: &mut Chance, members: usize) -> FaultPlan {
    let pace = *chance.pick(&[5, 15, 15, 60]) * SECOND_NS;
    let mut maybe = |percent| match chance.percent(percent) {
        true => pace + chance.below(pace),
        false => 0,
    };
    let many = if members > 1 { 45 } else { 0 };
    let mut plan = FaultPlan {
        crash_ns: maybe(60),
        crash_all_ns: maybe(20),
        partition_ns: maybe(many),
        one_way_ns: maybe(many / 2),
        bridge_ns: maybe(many / 3),
        isolate_leader_ns: maybe(many / 2),
        pause_ns: maybe(30),
        machine_pause_ns: maybe(20),
        clock_jump_ns: maybe(15),
        clock_rate_ns: maybe(30),
        disk_stall_ns: maybe(35),
        disk_error_ns: maybe(15),
        disk_full_ns: maybe(10),
        transfer_ns: maybe(many),
        membership_ns: maybe(many),
        rot_ns: maybe(many / 2),
        ..FaultPlan::default()
    };
    plan.power_loss = chance.percent(60);
    plan.lasts_max_ns = *chance.pick(&[SECOND_NS, 10 * SECOND_NS, 30 * SECOND_NS]);
    plan
}

fn draw_member(chance: &mut Chance) -> MemberPlan {
    let segment_bytes = *chance.pick(&[64 << 10, 128 << 10, 1 << 20]);
    MemberPlan {
        segment_bytes,
        batch_bytes: *chance.pick(&[8 << 10, 32 << 10]),
        writes_in_flight: chance.between(1, 4) as usize,
        resident_bytes: *chance.pick(&[64 << 10, 1 << 20, 16 << 20]),
        checkpoint_dirty_bytes: *chance.pick(&[64 << 10, 1 << 20]),
        checkpoint_log_bytes: *chance.pick(&[32 << 10, 256 << 10]),
        checkpoint_interval_ns: *chance.pick(&[2 * SECOND_NS, 30 * SECOND_NS]),
        pre_vote: chance.percent(80),
        write_max_ns: *chance.pick(&[200_000, 2 * MILLISECOND_NS, 100 * MILLISECOND_NS]),
        page_max_ns: *chance.pick(&[200_000, 20 * MILLISECOND_NS]),
        turn_max_ns: *chance.pick(&[1, 1, 50_000, 5 * MILLISECOND_NS]),
        progress_interval_ns: 20 * SECOND_NS,
        message_bytes: 1 << 20,
        scrub_interval_ns: 3 * SECOND_NS,
        drift_bound_ppm: 0,
    }
}

fn draw_clients(chance: &mut Chance) -> ClientPlan {
    let weights = Operation::ALL.map(|operation| {
        let (percent, weight) = match operation {
            Operation::Put => (100, 40),
            Operation::Range => (90, 30),
            Operation::StaleRange => (60, 10),
            Operation::OldRange => (60, 10),
            Operation::Delete => (60, 12),
            Operation::Txn => (70, 20),
            Operation::Compact => (50, 2),
            Operation::Defragment => (20, 1),
            Operation::Status => (30, 3),
        };
        let weight = match chance.percent(percent) {
            true => weight,
            false => 0,
        };
        (operation, weight)
    });
    // Values are kept by every member, the model and the checkers.
    let think_ns = *chance.pick(&[
        20 * MILLISECOND_NS,
        100 * MILLISECOND_NS,
        500 * MILLISECOND_NS,
        2 * SECOND_NS,
    ]);
    let value_bytes_max = match think_ns < 100 * MILLISECOND_NS {
        true => *chance.pick(&[20, 200]),
        false => *chance.pick(&[20, 200, 3_000]),
    };
    ClientPlan {
        workers: chance.between(1, 6) as usize,
        watchers: chance.below(4) as usize,
        holders: chance.below(4) as usize,
        think_ns,
        keys: *chance.pick(&[3, 12, 60]),
        value_bytes_max,
        weights,
        ttl_max_s: *chance.pick(&[2, 5, 12]),
        wide_ranges: false,
        asks_progress: false,
    }
}
