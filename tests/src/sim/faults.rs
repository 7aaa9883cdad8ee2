//! What goes wrong, and when it goes right again.

use proto::etcdserverpb as pb;
use raft::Role;
use ringd::member::Input;
use ringd::request::{CallId, Request};

use super::chance::Chance;
use super::membership::Standing;
use super::network::Links;
use super::node::name;
use super::swarm::{RATE_MAX, RATE_MIN, SECOND_NS};
use super::world::{Event, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Crash,
    CrashAll,
    Partition,
    OneWay,
    Bridge,
    IsolateLeader,
    Pause,
    MachinePause,
    ClockJump,
    ClockRate,
    DiskStall,
    DiskError,
    DiskFull,
    Transfer,
    Membership,
    Rot,
}

const ALL: [Fault; 16] = [
    Fault::Crash,
    Fault::CrashAll,
    Fault::Partition,
    Fault::OneWay,
    Fault::Bridge,
    Fault::IsolateLeader,
    Fault::Pause,
    Fault::MachinePause,
    Fault::ClockJump,
    Fault::ClockRate,
    Fault::DiskStall,
    Fault::DiskError,
    Fault::DiskFull,
    Fault::Transfer,
    Fault::Membership,
    Fault::Rot,
];

/// A clock jumps ahead by up to this much.
const JUMP_MAX_NS: u64 = 20 * SECOND_NS;
/// A crash strikes up to this many effects into a turn.
const EFFECTS_MAX: u64 = 4;

impl World {
    fn fault_mean(&self, fault: Fault) -> u64 {
        let plan = &self.plan.faults;
        match fault {
            Fault::Crash => plan.crash_ns,
            Fault::CrashAll => plan.crash_all_ns,
            Fault::Partition => plan.partition_ns,
            Fault::OneWay => plan.one_way_ns,
            Fault::Bridge => plan.bridge_ns,
            Fault::IsolateLeader => plan.isolate_leader_ns,
            Fault::Pause => plan.pause_ns,
            Fault::MachinePause => plan.machine_pause_ns,
            Fault::ClockJump => plan.clock_jump_ns,
            Fault::ClockRate => plan.clock_rate_ns,
            Fault::DiskStall => plan.disk_stall_ns,
            Fault::DiskError => plan.disk_error_ns,
            Fault::DiskFull => plan.disk_full_ns,
            Fault::Transfer => plan.transfer_ns,
            Fault::Membership => plan.membership_ns,
            Fault::Rot => plan.rot_ns,
        }
    }

    pub fn begin_faults(&mut self) {
        for fault in ALL {
            self.next_fault(fault);
        }
    }

    fn next_fault(&mut self, fault: Fault) {
        let mean = self.fault_mean(fault);
        if mean > 0 {
            let delay = self.chance.faults.around(mean);
            self.after(delay, Event::Fault(fault));
        }
    }

    pub fn fault(&mut self, fault: Fault) {
        if self.calm {
            return;
        }
        self.next_fault(fault);
        let victim = *self.chance.faults.pick(&self.members());
        match fault {
            Fault::Crash => self.crash_some_time(victim),
            Fault::CrashAll => {
                self.coverage.hit("crash of all");
                for number in self.members() {
                    self.crash(number);
                }
            }
            Fault::Partition => {
                let links = self.network.halves(&mut self.chance.faults);
                self.cut("partition", links);
            }
            Fault::OneWay => {
                let inbound = self.chance.faults.percent(50);
                let links = self.network.around(victim, inbound, !inbound);
                self.cut("one-way partition", links);
            }
            Fault::Bridge => {
                let links = self.network.pair(&mut self.chance.faults);
                self.cut("pair cut", links);
            }
            Fault::IsolateLeader => {
                if let Some(leader) = self.leader() {
                    let links = self.network.around(leader, true, true);
                    self.cut("leader isolated", links);
                }
            }
            Fault::Pause | Fault::MachinePause => {
                // A leader that stands still, and does not know what was decided without it.
                let leads = self.chance.faults.percent(50);
                let leader = self.leader().filter(|_| leads);
                self.pause(leader.unwrap_or(victim), fault == Fault::MachinePause);
            }
            Fault::ClockJump => self.jump_clock(victim),
            Fault::ClockRate => self.change_rate(victim),
            Fault::DiskStall => {
                let until = self.now + self.lasting();
                let state = self.node(victim).state();
                self.coverage.hit_in("disk stall", state);
                self.say(|| format!("the disk of {} stalls", name(victim)));
                self.node_mut(victim).stalled_until = until;
            }
            Fault::DiskError => self.node_mut(victim).write_errors = 1,
            Fault::DiskFull => {
                let times = self.chance.faults.between(1, 5);
                self.node_mut(victim).full_disk = times;
            }
            Fault::Transfer => self.transfer(victim),
            Fault::Membership => {
                self.operate();
                if self.plan.faults.changes_at_once {
                    self.operate();
                }
            }
            Fault::Rot => self.rot(),
        }
    }

    fn lasting(&mut self) -> u64 {
        let max = self.plan.faults.lasts_max_ns;
        1 + self.chance.faults.below(max)
    }

    /// The member that leads the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leaders = self.nodes.iter().filter_map(|node| {
            let node_of = node.running.as_ref()?.member.node();
            (node_of.role() == Role::Leader).then_some((node_of.term(), node.number))
        });
        leaders.max().map(|(_, number)| number)
    }

    /// Now, or between two effects of the next turn that has some.
    fn crash_some_time(&mut self, victim: usize) {
        if self.chance.faults.percent(40) {
            return self.crash(victim);
        }
        let after = self.chance.faults.below(EFFECTS_MAX) as usize;
        if let Some(running) = &mut self.node_mut(victim).running {
            running.dies_after = Some(after);
        }
    }

    /// A member begins to lead, and nothing of that has left it yet: in some seeds many are cut off at once or fall soon.
    pub fn began_to_lead(&mut self, leader: usize) {
        let plan = &self.plan.faults;
        let (percent, max_ns) = (plan.young_leader_percent, plan.young_max_ns);
        if percent == 0 || self.calm || !self.chance.faults.percent(percent) {
            return;
        }
        if self.chance.faults.percent(50) {
            return self.cut_young_leader(leader);
        }
        let life = self.node(leader).life;
        let delay = self.chance.faults.below(max_ns);
        self.after(delay, Event::Fell { node: leader, life });
    }

    pub fn young_leader_falls(&mut self, leader: usize, life: u64) {
        if self.calm || self.living(leader, life).is_none() {
            return;
        }
        match self.chance.faults.percent(30) {
            true => {
                self.coverage.hit("young leader fell");
                self.crash(leader);
            }
            false => self.cut_young_leader(leader),
        }
    }

    /// It is not heard any more; perhaps it still hears what the others answer.
    fn cut_young_leader(&mut self, leader: usize) {
        let inbound = self.chance.faults.percent(50);
        let links = self.network.around(leader, inbound, true);
        self.cut("young leader cut off", links);
    }

    fn cut(&mut self, kind: &'static str, links: Links) {
        self.coverage.hit(kind);
        self.say(|| format!("{kind}: {links:?}"));
        self.network.cut(&links);
        let lasts = self.lasting();
        self.after(lasts, Event::Mend(links));
    }

    pub fn mend(&mut self, links: &Links) {
        if self.calm {
            return; // everything was mended
        }
        self.say(|| format!("mended: {links:?}"));
        self.network.mend(links);
        for number in 1..=self.nodes.len() {
            if links.iter().any(|(from, _)| *from == number) {
                self.connect(number);
            }
        }
    }

    fn pause(&mut self, victim: usize, machine: bool) {
        let now = self.now;
        let state = self.node(victim).state();
        let life = self.node(victim).life;
        let Some(running) = &mut self.node_mut(victim).running else {
            return;
        };
        if running.paused {
            return;
        }
        running.paused = true;
        if machine {
            running.clock.stop(now);
        }
        let kind = if machine {
            "machine paused"
        } else {
            "process paused"
        };
        self.coverage.hit_in(kind, state);
        self.say(|| format!("{}: {kind}", name(victim)));
        let lasts = self.lasting();
        self.after(lasts, Event::Resume { node: victim, life });
    }

    pub fn resume(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(running) = self.living(node, life) else {
            return;
        };
        if !running.paused {
            return;
        }
        running.paused = false;
        running.turn_due = false;
        running.clock.go_on(now);
        // What waits in many sockets is read in any order: clients may come before the members' messages of hours ago.
        if Chance::stream(now, 10).percent(50) {
            running
                .inbox
                .sort_by_key(|input| !matches!(input, Input::Ask { .. }));
        }
        self.say(|| format!("{} goes on", name(node)));
        self.want_turn(node, life);
    }

    fn jump_clock(&mut self, victim: usize) {
        let now = self.now;
        let ahead = self.chance.faults.below(JUMP_MAX_NS);
        let Some(running) = &mut self.node_mut(victim).running else {
            return;
        };
        running.clock.jump(ahead, now);
        self.leases.clock_jumped();
        self.coverage.hit("clock jump");
        self.say(|| format!("the clock of {} jumps by {ahead} ns", name(victim)));
    }

    fn change_rate(&mut self, victim: usize) {
        let now = self.now;
        let rate = self.chance.faults.between(RATE_MIN, RATE_MAX);
        if let Some(running) = &mut self.node_mut(victim).running {
            running.clock.set_rate(rate, now);
            self.coverage.hit("clock rate");
        }
    }

    fn transfer(&mut self, target: usize) {
        let Some(leader) = self.leader() else {
            return;
        };
        let life = self.node(leader).life;
        let request = Request::MoveLeader(pb::MoveLeaderRequest {
            target_id: self.node(target).id,
        });
        self.coverage.hit("leader transfer");
        let call = CallId::NOBODY;
        self.input(leader, life, Input::Ask { call, request });
    }

    /// Everything works from now on, but for what a stalled disk had begun: that ends with the stall. Returns when the last
    /// one does.
    pub fn heal(&mut self) -> u64 {
        self.calm = true;
        let mut healed = self.now;
        self.say(|| "all is healed".to_string());
        self.network.calm();
        for number in 1..=self.nodes.len() {
            let node = self.node(number);
            if node.rotten || node.standing == Standing::Removed {
                self.retire(number);
                continue;
            }
            let life = self.node(number).life;
            let node = self.node_mut(number);
            let stalled_until = std::mem::take(&mut node.stalled_until);
            node.write_errors = 0;
            node.full_disk = 0;
            healed = healed.max(stalled_until);
            if let Some(running) = &mut node.running {
                running.dies_after = None;
            }
            self.resume(number, life);
            self.connect(number);
            if self.is_member(number) {
                self.after(0, Event::Start { node: number });
            }
        }
        healed
    }
}
