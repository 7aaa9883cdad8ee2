//! Members that come and go: an operator adds, promotes and removes, and replaces machines whose disk is damaged.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use ringd::member::Input;
use ringd::request::{CallId, Request};

use super::finish::INSPECTION;
use super::node::{name, peer_url, Node};
use super::swarm::{Rot, SECOND_NS};
use super::world::{Event, World};

/// With fewer voters nobody can make up for a damaged disk.
const VOTERS_MIN: usize = 3;
/// Members at once.
const MEMBERS_MAX: usize = 6;
/// The operator waits this long for an answer.
const PATIENCE_NS: u64 = 20 * SECOND_NS;
/// A change that has not come about by then does not keep the operator from other things.
const AWAITED_NS: u64 = 60 * SECOND_NS;
/// The operator's connection number.
const OPERATOR: u32 = INSPECTION - 1;
/// A machine with a damaged disk is found out within about this long.
const FOUND_OUT_NS: u64 = 15 * SECOND_NS;
/// How many of the machines with a damaged disk start again before somebody finds out.
const RESTARTED_PERCENT: u64 = 75;
/// How often whole files are lost, and not single bits.
const LOST_PERCENT: u64 = 50;

/// What a machine is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was asked for, and is not a member yet.
    Awaited,
    Member,
    Removed,
}

impl World {
    /// The numbers of the members that work or are to work again.
    pub fn members(&self) -> Vec<usize> {
        let works = |node: &&Node| node.standing == Standing::Member && !node.broken;
        self.nodes
            .iter()
            .filter(works)
            .map(|node| node.number)
            .collect()
    }

    pub fn is_member(&self, number: usize) -> bool {
        let node = self.node(number);
        node.standing == Standing::Member && !node.broken
    }

    /// The voters as the leader knows them.
    pub fn voters(&self) -> Vec<u64> {
        let leader = self
            .leader()
            .and_then(|number| self.node(number).running.as_ref());
        leader.map_or(Vec::new(), |leader| {
            leader.member.node().conf_state().voters
        })
    }

    /// The operator's next step.
    pub fn operate(&mut self) {
        let replaces = self.plan.faults.rot_ns > 0 && self.plan.faults.rot != Rot::Pages;
        if replaces {
            return self.refill();
        }
        let members = self.members();
        let Some(&asked) = members.get(self.chance.faults.below(members.len() as u64) as usize)
        else {
            return;
        };
        let Some(running) = &self.node(asked).running else {
            return;
        };
        let list = running.member.store().member_list();
        let learner = list.iter().find(|member| member.is_learner).map(|m| m.id);
        let voters: Vec<u64> = list
            .iter()
            .filter(|m| !m.is_learner)
            .map(|m| m.id)
            .collect();
        let stay = self.staying(&voters);
        let most = list.len() >= MEMBERS_MAX || self.nodes.len() >= self.plan.machines_max;
        let chance = &mut self.chance.faults;
        if let Some(id) = learner.filter(|_| chance.percent(60)) {
            self.coverage.hit("learner promoted");
            let promote = pb::MemberPromoteRequest { id };
            return self.tell(asked, Request::MemberPromote(promote));
        }
        let least = match self.plan.faults.rot_ns {
            0 => 2,
            // A member whose pages are damaged needs two others.
            _ => VOTERS_MIN,
        };
        let removes = most || chance.percent(45);
        if removes && stay > least {
            let any = *chance.pick(&voters);
            let leads = chance.percent(40);
            let leader = self.leader().map(|number| self.node(number).id);
            let id = match leader {
                Some(leader) if leads && voters.contains(&leader) => leader,
                _ => any,
            };
            let kind = match leader == Some(id) {
                true => "leader removed",
                false => "member removed",
            };
            self.coverage.hit(kind);
            if let Some(number) = self.number_of(id) {
                self.node_mut(number).leaves_ns = Some(self.now);
            }
            let remove = pb::MemberRemoveRequest { id };
            self.tell(asked, Request::MemberRemove(remove));
        } else if !most {
            let is_learner = chance.percent(60);
            self.add_member(asked, is_learner);
        }
    }

    /// How many of these are members whatever becomes of all that was asked for. Of two members none may be removed: the other
    /// one may not hear of it before the one that was removed is gone, and Raft has no way out of that.
    fn staying(&self, voters: &[u64]) -> usize {
        let stays = |node: &&Node| {
            let leaves = node.leaves_ns.is_some_and(|at| at + AWAITED_NS >= self.now);
            node.standing == Standing::Member && voters.contains(&node.id) && !leaves
        };
        self.nodes.iter().filter(stays).count()
    }

    fn add_member(&mut self, asked: usize, is_learner: bool) {
        let number = self.nodes.len() + 1;
        let mut node = Node::new(number);
        node.standing = Standing::Awaited;
        node.awaited_ns = self.now;
        self.nodes.push(node);
        self.network.set_members(number);
        self.coverage.hit(match is_learner {
            true => "learner added",
            false => "voter added",
        });
        let add = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url(number)],
            is_learner,
        };
        self.tell(asked, Request::MemberAdd(add));
    }

    fn tell(&mut self, asked: usize, request: Request) {
        self.say(|| format!("the operator asks {}: {request:?}", name(asked)));
        let life = self.node(asked).life;
        self.operator_calls += 1;
        let call = CallId::new(OPERATOR, self.operator_calls);
        self.input(asked, life, Input::Ask { call, request });
        let lost = Event::Lost {
            node: asked,
            life,
            call,
        };
        self.after(PATIENCE_NS, lost);
    }

    /// A member was the first to apply changes: machines that were added start, those removed are no more.
    pub fn membership_decided(&mut self, by: usize) {
        let Some(running) = &self.node(by).running else {
            return;
        };
        let store = running.member.store();
        let added = |node: &Node| {
            let url = peer_url(node.number);
            let mut members = store.members();
            members.find_map(|member| {
                let urls = &member.raft_attributes.as_ref()?.peer_urls;
                urls.contains(&url).then_some(member.id)
            })
        };
        let mut joining = Vec::new();
        let mut removed = Vec::new();
        for node in &self.nodes {
            match node.standing {
                Standing::Awaited => joining.extend(added(node).map(|id| (node.number, id))),
                Standing::Member if store.is_removed_member(node.id) => removed.push(node.number),
                _ => {}
            }
        }
        for number in removed {
            self.node_mut(number).standing = Standing::Removed;
            self.say(|| format!("{} is not a member any more", name(number)));
        }
        for (number, id) in joining {
            let node = self.node_mut(number);
            node.standing = Standing::Member;
            node.id = id;
            node.joins = true;
            let delay = self.chance.starts.around(SECOND_NS);
            self.after(delay, Event::Start { node: number });
        }
    }

    /// A disk loses or garbles what it had. One machine at a time: the others have everything.
    pub fn rot(&mut self) {
        let Some(victim) = self.rots() else {
            return;
        };
        let mut chance = super::chance::Chance::stream(self.chance.faults.draw(), 0);
        let kind = self.plan.faults.rot;
        let state = self.node(victim).state();
        let loses = match kind {
            Rot::Any => chance.percent(LOST_PERCENT),
            Rot::Pages => false,
            Rot::Tails => true,
        };
        if loses {
            self.crash(victim);
        }
        let disk = &mut self.node_mut(victim).disk;
        let what = match kind {
            Rot::Any if loses => Some(disk.lose(&mut chance)),
            Rot::Any => disk.rot(&mut chance),
            Rot::Pages => disk.rot_pages(&mut chance),
            Rot::Tails => disk.lose_tail(&mut chance),
        };
        let Some(what) = what else {
            return;
        };
        self.coverage.hit_in(what, state);
        self.say(|| format!("{}: {what}", name(victim)));
        let node = self.node_mut(victim);
        if kind == Rot::Tails {
            // What it had is known to nobody but those whom it told.
            (node.sure_index, node.sure_change) = (0, 0);
        }
        node.rotten = true;
        node.was_rotten = true;
        node.rotten_pages = what.contains("page");
        node.excused = true;
        if kind == Rot::Pages {
            return; // it lives with that
        }
        let delay = self.chance.faults.around(FOUND_OUT_NS);
        self.after(delay, Event::Replace { node: victim });
        if !loses && chance.percent(RESTARTED_PERCENT) {
            // Most damage shows at a start only.
            self.crash(victim);
        }
    }

    /// Whose disk it is that rots, if the others can make up for it.
    fn rots(&mut self) -> Option<usize> {
        let members = self.members();
        if self.voters().len() < VOTERS_MIN {
            return None;
        }
        if self.plan.faults.rot == Rot::Pages {
            // The oldest, as long as it is there: no other one has ever lost anything.
            return members.first().copied();
        }
        let settled = self.nodes.iter().all(|node| match node.standing {
            Standing::Removed => true,
            Standing::Awaited => node.awaited_ns + AWAITED_NS < self.now,
            Standing::Member => !node.broken && !node.rotten && !node.is_refetching(),
        });
        if !settled || self.nodes.len() >= self.plan.machines_max {
            return None;
        }
        match self.plan.faults.rot {
            Rot::Any | Rot::Pages => Some(*self.chance.faults.pick(&members)),
            // A leader that forgets what it counted itself has told nobody, and only who leads was told what others have.
            Rot::Tails => {
                let leader = self.leader()?;
                let follow: Vec<usize> = members
                    .iter()
                    .copied()
                    .filter(|member| *member != leader)
                    .collect();
                Some(*self.chance.faults.pick(&follow))
            }
        }
    }

    /// A machine whose disk is damaged is taken away, and another one put in its place.
    pub fn replace(&mut self, victim: usize) {
        let node = self.node(victim);
        if self.calm || node.standing != Standing::Member || !(node.rotten || node.broken) {
            return;
        }
        self.retire(victim);
        let members = self.members();
        let asked = *self.chance.faults.pick(&members);
        let id = self.node(victim).id;
        let up = self.node(asked).running.is_some();
        if up {
            self.disarm(asked, id);
            let remove = pb::MemberRemoveRequest { id };
            self.tell(asked, Request::MemberRemove(remove));
        }
        let delay = self.chance.faults.around(FOUND_OUT_NS);
        self.after(delay, Event::Replace { node: victim });
    }

    /// The machine does not come back.
    pub fn retire(&mut self, victim: usize) {
        if !self.node(victim).broken {
            self.say(|| format!("{} is taken away", name(victim)));
            self.node_mut(victim).broken = true;
            self.crash(victim);
        }
    }

    /// After the damage was seen to, writes are let in again.
    pub fn disarm(&mut self, asked: usize, id: u64) {
        for kind in [pb::AlarmType::Corrupt, pb::AlarmType::Nospace] {
            let alarm = pb::AlarmRequest {
                action: AlarmAction::Deactivate as i32,
                member_id: id,
                alarm: kind as i32,
            };
            self.tell(asked, Request::Alarm(alarm));
        }
    }

    /// A damaged machine was removed: another one joins.
    pub fn refill(&mut self) {
        let members = self.members();
        let asked = *self.chance.faults.pick(&members);
        let Some(running) = &self.node(asked).running else {
            return;
        };
        let list = running.member.store().member_list();
        if let Some(id) = list.iter().find(|m| m.is_learner).map(|m| m.id) {
            let promote = pb::MemberPromoteRequest { id };
            return self.tell(asked, Request::MemberPromote(promote));
        }
        let awaited = self.nodes.iter().any(|node| {
            node.standing == Standing::Awaited && node.awaited_ns + AWAITED_NS >= self.now
        });
        if members.len() < self.plan.members && !awaited {
            let is_learner = self.chance.faults.percent(50);
            self.add_member(asked, is_learner);
        }
    }
}
