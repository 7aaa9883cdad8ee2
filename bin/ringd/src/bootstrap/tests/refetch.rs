//! A member of a cluster of three whose files are damaged: when it may go on without them, and what it may do then.

use super::{
    super::assemble::{Assembled, Disk},
    machine::{me, Machine, TICK_NS},
};
use crate::{
    member::{Effect, Input, UpkeepJob},
    promises::{PromiseFile, Promises, Refetch},
};
use engine::page::{PageFile, SimFile};
use proto::raftpb::{Entry, Message, MessageType};
use raft::Role;
use std::sync::atomic::Ordering::Relaxed;

/// The term of the machine's log.
const LOG_TERM: u64 = 3;

fn promises(machine: &Machine) -> Promises {
    let content = machine.promises.read().unwrap().expect("promises");
    Promises::decode(&content).expect("whole")
}

/// A member that has run as one of three voters, and is down.
fn stopped() -> Machine {
    let machine = Machine::with_log(&[Entry::default(), Entry::default()], 5);
    let started = machine.start(None).unwrap();
    machine.run(started.member);
    let started = machine.start(None).unwrap();
    assert!(!started.member.is_refetching());
    // What it has heard of its cluster is written on a thread of its own, which these tests do without.
    let heard = Promises {
        voters: 3,
        is_voter: true,
        ..promises(&machine)
    };
    machine.promises.replace(&heard.encode()).unwrap();
    machine
}

/// Flips a bit in the second batch of the log, which later ones claim.
fn damage_log(machine: &Machine) {
    let mut files = machine.log.dir.files();
    let file = files.values_mut().next().expect("a segment");
    file[2 * 4096 + 8] ^= 1;
}

fn vote_of(started: &mut Assembled, machine: &Machine, term: u64) -> Option<bool> {
    let member = &mut started.member;
    let request = Message {
        r#type: Some(MessageType::MsgVote as i32),
        from: Some(77),
        to: Some(me()),
        term: Some(term),
        index: Some(1_000),
        log_term: Some(term - 1),
        ..Message::default()
    };
    let mut effects = Vec::new();
    let mut answer = None;
    member.step(Input::Message(Box::new(request)), 1);
    for _ in 0..10 {
        member.settle(1);
        member.take_effects(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(m) if m.r#type() == MessageType::MsgVoteResp => {
                    answer = Some(!m.reject());
                }
                Effect::Upkeep(job) => {
                    let done = job.run(machine.log());
                    member.step(Input::Upkeep(done), 1);
                }
                effect => machine.carry_out(member, effect, 1),
            }
        }
    }
    answer
}

#[test]
fn a_member_whose_log_is_damaged_goes_on_without_its_data_and_its_vote() {
    let machine = stopped();
    let before = promises(&machine);
    assert!(before.term_max > LOG_TERM, "{before:?}");
    damage_log(&machine);
    let mut started = machine.start(None).unwrap();
    assert_eq!(machine.emptied.get(), 1);
    let told = started.notes.join("\n");
    for words in ["the log is damaged", "at offset 8192", "kept as elsewhere"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(started.member.is_refetching());
    assert!(!started.new);
    assert_eq!(started.ids.member_id, me());
    let refetch = Some(Refetch {
        until: before.term_max,
        emptied: true,
    });
    assert_eq!(promises(&machine).refetch, refetch);
    assert_eq!(started.member.node().term(), before.term_max + 1);
    assert_eq!(started.member.node().last_index(), 0);
    assert_eq!(vote_of(&mut started, &machine, before.term_max + 2), None);
    let member = machine.run(started.member);
    assert_eq!(member.node().role(), Role::Follower, "it does not campaign");
    // It stays so over restarts, and nothing is put aside again.
    let started = machine.start(None).unwrap();
    assert!(started.member.is_refetching());
    assert_eq!(machine.emptied.get(), 1);
    assert_eq!(promises(&machine).refetch, refetch);
}

#[test]
fn a_crash_in_the_middle_brings_back_no_voter() {
    for left in 0..12 {
        let machine = stopped();
        damage_log(&machine);
        let until = promises(&machine).term_max;
        machine.log.left.store(left, Relaxed);
        let first = machine.start(None);
        machine.log.left.store(u32::MAX, Relaxed);
        if let Err(why) = first {
            assert!(why.contains("no power"), "{why}");
        }
        let started = machine.start(None).unwrap();
        assert!(started.member.is_refetching(), "after {left} operations");
        assert!(started.member.node().term() > until);
        assert_eq!(started.member.node().last_index(), 0);
    }
}

#[test]
fn pages_that_are_gone_or_damaged_are_fetched_again_too() {
    let machine = stopped();
    machine.pages.replace(SimFile::new());
    // All of its log is there: nothing is lost.
    let started = machine.start(None).unwrap();
    assert!(!started.member.is_refetching());
    drop(started);
    for page in 0..2 {
        let pages = machine.pages.borrow().clone();
        pages.damage(page * 4096 + 100, |byte| byte ^ 1);
    }
    assert!(machine.pages.borrow().len().unwrap() > 0);
    machine.log.dir.files().clear();
    let started = machine.start(None).unwrap();
    assert!(started.member.is_refetching());
}

#[test]
fn a_member_that_lost_everything_but_its_promises_is_not_a_new_one() {
    let machine = stopped();
    machine.pages.replace(SimFile::new());
    machine.log.dir.files().clear();
    let started = machine.start(None).unwrap();
    assert!(started.member.is_refetching());
    let told = started.notes.join("\n");
    assert!(told.contains("hold nothing, but promises says"), "{told}");
}

#[test]
fn where_the_others_cannot_elect_a_leader_it_refuses() {
    for (voters, words) in [
        (1, "remove this member"),
        (2, "cannot elect a leader without"),
    ] {
        let machine = stopped();
        let few = Promises {
            voters,
            ..promises(&machine)
        };
        machine.promises.replace(&few.encode()).unwrap();
        damage_log(&machine);
        let refused = machine.start(None).err().expect("a refusal");
        for words in ["the log is damaged", words] {
            assert!(refused.contains(words), "{voters} voters: {refused}");
        }
        assert_eq!(machine.emptied.get(), 0);
        assert_eq!(promises(&machine), few);
    }
}

#[test]
fn without_a_bound_of_its_promises_it_refuses() {
    let machine = stopped();
    damage_log(&machine);
    machine.promises.replace(&[0; 8192]).unwrap();
    let refused = machine.start(None).err().expect("a refusal");
    assert!(refused.contains("promises is damaged"), "{refused}");
    assert_eq!(machine.emptied.get(), 0);
    // Damaged alone, it leaves open whether the member may vote.
    let machine = stopped();
    machine.promises.replace(&[0; 8192]).unwrap();
    let refused = machine.start(None).err().expect("a refusal");
    assert!(
        refused.contains("whether this member may vote"),
        "{refused}"
    );
}

#[test]
fn another_members_promises_are_refused() {
    let machine = stopped();
    let other = Promises {
        member_id: 99,
        ..promises(&machine)
    };
    machine.promises.replace(&other.encode()).unwrap();
    let refused = machine.start(None).err().expect("a refusal");
    assert!(refused.contains("belongs to member 63"), "{refused}");
}

#[test]
fn a_member_that_fetches_its_data_again_founds_no_cluster_of_its_own() {
    let machine = stopped();
    damage_log(&machine);
    let refused = machine.start(Some("http://n1:2380")).err();
    let refused = refused.expect("a refusal");
    assert!(refused.contains("the log is damaged"), "{refused}");
    assert_eq!(machine.emptied.get(), 0);
    machine.start(None).unwrap();
    let refused = machine.start(Some("http://n1:2380")).err();
    let refused = refused.expect("a refusal");
    assert!(refused.contains("--force-new-cluster"), "{refused}");
}

/// A term is promised in only once the bound of the promises is above it.
#[test]
fn nothing_of_a_term_leaves_before_its_bound_is_durable() {
    let machine = stopped();
    let mut started = machine.start(None).unwrap();
    let term = promises(&machine).term_max + 5;
    let member = &mut started.member;
    let request = Message {
        r#type: Some(MessageType::MsgVote as i32),
        from: Some(77),
        to: Some(me()),
        term: Some(term),
        index: Some(1_000),
        log_term: Some(term - 1),
        ..Message::default()
    };
    member.step(Input::Message(Box::new(request)), TICK_NS);
    let (mut effects, mut late, mut voted) = (Vec::new(), Vec::new(), false);
    for _ in 0..10 {
        member.settle(TICK_NS);
        member.take_effects(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Upkeep(job @ UpkeepJob::Promises(_)) => late.push(job),
                Effect::Send(m) => voted |= m.r#type() == MessageType::MsgVoteResp,
                effect => machine.carry_out(member, effect, TICK_NS),
            }
        }
    }
    assert!(!voted, "the bound is not durable yet");
    assert_eq!(late.len(), 1);
    for job in late {
        let done = job.run(machine.log());
        assert!(promises(&machine).term_max >= term);
        member.step(Input::Upkeep(done), TICK_NS);
    }
    for _ in 0..10 {
        member.settle(TICK_NS);
        member.take_effects(&mut effects);
        for effect in effects.drain(..) {
            if let Effect::Send(m) = effect {
                voted |= m.r#type() == MessageType::MsgVoteResp && !m.reject();
            }
        }
    }
    assert!(voted);
}
