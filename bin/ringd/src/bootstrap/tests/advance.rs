//! A member that sees the others at its start does not wait out a whole election timeout.

use super::machine::{founding, me, Machine, TICK_NS};
use crate::member::{Input, Member};

/// Ticks until the member stands for election, if its peers connect at this time.
fn ticks_until_candidate(mut member: Member, connected_ns: u64) -> u64 {
    let others = founding().members.into_iter().map(|member| member.id);
    let mut others = Some(others.filter(|id| *id != me()).collect::<Vec<_>>());
    let mut effects = Vec::new();
    for turn in 1.. {
        let now_ns = turn * TICK_NS;
        for peer in others
            .take_if(|_| now_ns >= connected_ns)
            .unwrap_or_default()
        {
            let connected = true;
            member.step(Input::Connected { peer, connected }, now_ns);
        }
        member.step(Input::Pulse, now_ns);
        member.settle(now_ns);
        member.take_effects(&mut effects);
        if member.node().role() != raft::Role::Follower {
            return turn;
        }
    }
    unreachable!("it stands for election after twenty ticks at most")
}

fn founded() -> Member {
    Machine::default().start(None).unwrap().member
}

#[test]
fn the_election_timer_is_advanced_once_two_others_are_there() {
    let waiting = ticks_until_candidate(founded(), 1);
    let advanced = |connected_ns| {
        let mut member = founded();
        member.advance_first_election();
        ticks_until_candidate(member, connected_ns)
    };
    assert_eq!(advanced(1), waiting - 8);
    assert_eq!(advanced(3 * TICK_NS), waiting - 8);
    // Nobody came, or too late.
    assert_eq!(advanced(u64::MAX), waiting);
    assert!(waiting >= 10);
}
