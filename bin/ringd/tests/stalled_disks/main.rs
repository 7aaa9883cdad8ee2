//! Never stall: a disk that hangs holds up what has to be durable on it, and nothing else. Faults 17 and 18 on members
//! without I/O; `tests/tests/disk_faults.rs` shows the same on processes.

mod world;

use proto::etcdserverpb as pb;
use raft::Role;
use ringd::request::Request;
use ringd::status::Status;
use std::collections::VecDeque;
use world::{Settings, World, ELECTION_TICKS, TICK_NS};

const ELECTION_MS: u64 = ELECTION_TICKS as u64 * TICK_NS / 1_000_000;

fn too_many_requests(answer: Option<Result<bytes::Bytes, Status>>) -> bool {
    let Some(Err(status)) = answer else {
        return false;
    };
    status.message == "etcdserver: too many requests"
}

#[test]
fn a_follower_whose_log_hangs_costs_nobody_anything() {
    let mut world = World::new(Settings::default());
    let (leader, follower) = (world.leader(), world.follower());
    world.machines[follower].log_stalled = true;
    for n in 0..200 {
        let call = world.put(leader, &format!("k{n}"), 100);
        assert!(
            matches!(world.answer(call), Some(Ok(_))),
            "put {n} took time"
        );
        let call = world.range(leader, &format!("k{n}"), false);
        assert!(
            matches!(world.answer(call), Some(Ok(_))),
            "read {n} took time"
        );
        // The follower's own clients see what is committed elsewhere.
        let call = world.put(follower, &format!("f{n}"), 100);
        assert!(
            matches!(world.answer(call), Some(Ok(_))),
            "forwarded put {n} took time"
        );
        let call = world.range(follower, &format!("f{n}"), false);
        assert!(
            matches!(world.answer(call), Some(Ok(_))),
            "forwarded read {n} took time"
        );
        world.pulse();
    }
    assert_eq!(world.leaders.len(), 1, "an election for nothing");
    let durable = world.machines[follower].member.log().durable_index();
    let commit = world.machines[leader].member.node().commit_index();
    assert!(durable + 400 <= commit, "{durable} of {commit} was durable");
    world.machines[follower].log_stalled = false;
    world.pass_ms(1_000);
    assert_eq!(
        world.machines[follower].member.log().durable_index(),
        world.machines[leader].member.node().commit_index()
    );
    assert_eq!(world.leaders.len(), 1);
}

#[test]
fn a_follower_whose_log_hangs_takes_no_more_than_it_may_hold() {
    let mut world = World::new(Settings {
        undurable_bytes_max: 64 << 10,
        ..Settings::default()
    });
    let (leader, follower) = (world.leader(), world.follower());
    world.machines[follower].log_stalled = true;
    for n in 0..100 {
        let call = world.put(leader, &format!("k{n}"), 4 << 10);
        assert!(matches!(world.answer(call), Some(Ok(_))), "put {n}");
        world.pulse();
    }
    let pending = world.machines[follower].member.log().pending_bytes();
    assert!(pending <= 80 << 10, "{pending} bytes wait");
    world.machines[follower].log_stalled = false;
    world.pass_ms(2_000);
    assert_eq!(
        world.machines[follower].member.store().applied(),
        world.machines[leader].member.store().applied()
    );
    assert_eq!(world.leaders.len(), 1);
}

#[test]
fn a_leader_whose_log_hangs_commits_through_the_others_and_hands_over() {
    let mut world = World::new(Settings::default());
    let (old, other) = (world.leader(), world.follower());
    world.machines[old].log_stalled = true;
    let mut late = Vec::new();
    let mut at_old = VecDeque::new();
    for n in 0..60 {
        let call = world.put(other, &format!("k{n}"), 100);
        if !matches!(world.answer(call), Some(Ok(_))) {
            late.push(call);
        }
        at_old.push_back(world.put(old, &format!("o{n}"), 100));
        // A client of the stalled member waits for the heartbeat that brings it the news, and no longer.
        if at_old.len() > 6 {
            let oldest = at_old.pop_front().and_then(|call| world.answer(call));
            assert!(matches!(oldest, Some(Ok(_))), "300 ms before put {n}");
        }
        world.pulse();
        let passed_ms = (n + 1) * TICK_NS / 2_000_000;
        if passed_ms <= ELECTION_MS / 2 - 100 {
            assert_eq!(world.leader(), old, "handed over after {passed_ms} ms");
            assert!(late.is_empty());
        }
        if passed_ms >= ELECTION_MS / 2 + 200 {
            assert_ne!(world.leader(), old, "still leads after {passed_ms} ms");
        }
    }
    // What was under way while leadership moved is not lost.
    assert!(late.len() <= 2, "{} puts waited", late.len());
    for call in late {
        assert!(matches!(world.answer(call), Some(Ok(_))));
    }
    assert_eq!(world.leaders.len(), 2, "{:?}", world.leaders);
    let stuck = &world.machines[old].member;
    assert!(stuck.log().durable_index() < stuck.store().applied().0);
    // What was applied from the others' disks goes into no checkpoint before it is durable here; see the world.
    world.machines[old].log_stalled = false;
    world.pass_ms(1_000);
    let applied = |at: usize| world.machines[at].member.store().applied();
    assert!((0..3).all(|at| applied(at) == applied(0)));
    assert!(world.machines.iter().all(|m| m.halted.is_none()));
    assert!(world.checkpoints > 0, "no checkpoint was tried");
}

/// Nobody to hand over to is no reason to go on for ever.
#[test]
fn what_is_committed_and_not_durable_here_ends_after_five_seconds() {
    let mut world = World::new(Settings {
        transfer_on_stall: false,
        ..Settings::default()
    });
    let leader = world.leader();
    world.machines[leader].log_stalled = true;
    let mut last_ms = 0;
    for n in 0..140 {
        let call = world.put(leader, &format!("k{n}"), 100);
        let answer = world.answer(call);
        if matches!(answer, Some(Ok(_))) {
            last_ms = n * TICK_NS / 2_000_000;
        } else {
            assert!(too_many_requests(answer), "put {n}");
        }
        world.pulse();
    }
    assert!(
        (4_800..=5_100).contains(&last_ms),
        "acknowledged for {last_ms} ms"
    );
    assert_eq!(world.leader(), leader);
    let call = world.range(leader, "k0", false);
    assert!(matches!(world.answer(call), Some(Ok(_))), "reads go on");
    world.machines[leader].log_stalled = false;
    world.pulse();
    let call = world.put(leader, "after", 100);
    assert!(matches!(world.answer(call), Some(Ok(_))));
}

#[test]
fn what_is_committed_and_not_durable_here_is_bounded_in_bytes() {
    let mut world = World::new(Settings {
        transfer_on_stall: false,
        undurable_bytes_max: 1 << 20,
        ..Settings::default()
    });
    let leader = world.leader();
    world.machines[leader].log_stalled = true;
    let mut taken = 0;
    for n in 0..40 {
        let call = world.put(leader, &format!("k{n}"), 64 << 10);
        let answer = world.answer(call);
        match &answer {
            Some(Ok(_)) => taken += 1,
            _ => assert!(too_many_requests(answer), "put {n}"),
        }
    }
    assert_eq!(
        taken, 15,
        "15 values of 64 KiB and their frames fit in 1 MiB"
    );
    world.machines[leader].log_stalled = false;
    world.pulse();
    let call = world.put(leader, "after", 64 << 10);
    assert!(matches!(world.answer(call), Some(Ok(_))));
}

/// A lease whose holder renews it at the old leader, all the while its disk hangs, is there at the end.
#[test]
fn no_lease_expires_because_a_disk_hangs() {
    let mut world = World::new(Settings::default());
    let old = world.leader();
    let grant = pb::LeaseGrantRequest { ttl: 3, id: 77 };
    let call = world.ask(old, Request::LeaseGrant(grant));
    assert!(matches!(world.answer(call), Some(Ok(_))));
    world.machines[old].log_stalled = true;
    let mut renewed = 0;
    for _ in 0..40 {
        world.put(old, "k", 100);
        let keep_alive = pb::LeaseKeepAliveRequest { id: 77 };
        let call = world.ask(old, Request::LeaseKeepAlive(keep_alive));
        world.pass_ms(250);
        renewed += usize::from(matches!(world.answer(call), Some(Ok(_))));
    }
    assert!(renewed >= 38, "{renewed} of 40 renewals were answered");
    assert_ne!(world.leader(), old);
    assert!((0..3).all(|at| world.machines[at]
        .member
        .store()
        .lessor()
        .leases_by_remaining()
        .count()
        == 1));
    // Without renewals it ends in time, wherever the disk hangs.
    world.pass_ms(6_000);
    assert!((0..3).all(|at| world.machines[at]
        .member
        .store()
        .lessor()
        .leases_by_remaining()
        .count()
        == 0));
}

#[test]
fn a_single_member_acknowledges_nothing_meanwhile_and_goes_on_afterwards() {
    let mut world = World::new(Settings {
        members: 1,
        ..Settings::default()
    });
    let call = world.put(0, "before", 100);
    assert!(matches!(world.answer(call), Some(Ok(_))));
    world.machines[0].log_stalled = true;
    let waiting: Vec<_> = (0..50)
        .map(|n| world.put(0, &format!("k{n}"), 100))
        .collect();
    for _ in 0..60 {
        world.pulse();
        let call = world.range(0, "before", true);
        assert!(
            matches!(world.answer(call), Some(Ok(_))),
            "serializable read"
        );
        let call = world.range(0, "before", false);
        assert!(
            matches!(world.answer(call), Some(Ok(_))),
            "linearizable read"
        );
    }
    for call in &waiting {
        assert!(
            world.answer(*call).is_none(),
            "answered while the disk hangs"
        );
    }
    assert_eq!(world.machines[0].member.node().role(), Role::Leader);
    world.machines[0].log_stalled = false;
    world.pulse();
    for call in &waiting {
        assert!(matches!(world.answer(*call), Some(Ok(_))));
    }
}

/// More than the log may hold: refused at once, and the member lives.
#[test]
fn a_single_member_refuses_what_it_can_not_hold() {
    let mut world = World::new(Settings {
        members: 1,
        ..Settings::default()
    });
    world.machines[0].log_stalled = true;
    let calls: Vec<_> = (0..100)
        .map(|n| world.put(0, &format!("k{n}"), 1 << 20))
        .collect();
    let answers: Vec<_> = calls.iter().map(|call| world.answer(*call)).collect();
    let refused = answers
        .into_iter()
        .filter(|a| a.is_some())
        .map(too_many_requests);
    let refused: Vec<bool> = refused.collect();
    assert!(refused.iter().all(|refused| *refused));
    assert!(
        (30..=40).contains(&refused.len()),
        "{} of 100",
        refused.len()
    );
    assert_eq!(world.machines[0].halted, None);
    world.machines[0].log_stalled = false;
    world.pulse();
    assert_eq!(world.machines[0].halted, None);
    let call = world.put(0, "after", 1 << 20);
    assert!(matches!(world.answer(call), Some(Ok(_))));
}

/// Its callers are told in time that the outcome is not known.
#[test]
fn who_waits_for_a_disk_that_hangs_is_told_in_time() {
    let mut world = World::new(Settings {
        members: 1,
        ..Settings::default()
    });
    world.machines[0].log_stalled = true;
    let call = world.put(0, "k", 100);
    world.pass_ms(6_500);
    assert!(world.answer(call).is_none());
    world.pass_ms(1_000);
    let Some(Err(status)) = world.answer(call) else {
        panic!("no answer");
    };
    assert_eq!(status.message, "etcdserver: request timed out");
}

/// A checkpoint that hangs: puts go on in memory up to a bound, then they are refused; everybody lives.
#[test]
fn a_checkpoint_that_hangs_bounds_what_is_applied() {
    let mut world = World::new(Settings::default());
    let (leader, follower) = (world.leader(), world.follower());
    world.machines[follower].pages_stalled = true;
    for n in 0..60 {
        let call = world.put(leader, &format!("k{n}"), 1 << 20);
        assert!(matches!(world.answer(call), Some(Ok(_))), "put {n}");
    }
    let pages = world.machines[follower].member.store().pages();
    let held = pages.dirty_bytes() + pages.frozen_bytes();
    assert!(
        (12 << 20..16 << 20).contains(&held),
        "{held} bytes are held"
    );
    world.machines[follower].pages_stalled = false;
    world.pass_ms(1_000);
    assert_eq!(
        world.machines[follower].member.store().applied(),
        world.machines[leader].member.store().applied()
    );
}

/// The target of a transfer can not take over; what the other member passes on meanwhile is not lost.
#[test]
fn what_is_passed_on_during_a_transfer_waits_for_its_end() {
    let mut world = World::new(Settings::default());
    let leader = world.leader();
    let (target, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.machines[target].log_stalled = true;
    world.put(leader, "k", 100);
    world.pass_ms(ELECTION_MS / 2 + 100);
    let target_id = world.machines[target].id;
    world.ask(
        leader,
        Request::MoveLeader(pb::MoveLeaderRequest { target_id }),
    );
    assert_eq!(
        world.machines[leader].member.node().transferee(),
        target_id,
        "no transfer is under way"
    );
    let passed_on = world.put(other, "passed on", 100);
    let own = world.put(leader, "own", 100);
    world.pass_ms(ELECTION_MS / 2);
    assert!(world.answer(passed_on).is_none());
    assert!(world.answer(own).is_none());
    world.pass_ms(ELECTION_MS);
    assert!(matches!(world.answer(passed_on), Some(Ok(_))));
    assert!(matches!(world.answer(own), Some(Ok(_))));
    assert_eq!(world.leader(), leader);
}

/// More than may be changed before a checkpoint ends: the writes wait for it, in their order, and are refused without effect
/// when it does not come.
#[test]
fn writes_wait_a_moment_for_a_checkpoint() {
    let mut world = World::new(Settings {
        members: 1,
        ..Settings::default()
    });
    world.machines[0].pages_stalled = true;
    let puts: Vec<_> = (0..20)
        .map(|n| world.put(0, &format!("k{n}"), 1 << 20))
        .collect();
    world.pass_ms(500);
    let (done, waiting): (Vec<_>, Vec<_>) = puts
        .into_iter()
        .map(|call| (call, world.answer(call)))
        .partition(|(_, answer)| answer.is_some());
    assert!((5..10).contains(&done.len()), "{} were taken", done.len());
    for (_, answer) in done {
        assert!(matches!(answer, Some(Ok(_))));
    }
    world.machines[0].pages_stalled = false;
    world.pass_ms(500);
    for (call, _) in waiting {
        assert!(matches!(world.answer(call), Some(Ok(_))));
    }

    world.machines[0].pages_stalled = true;
    let puts: Vec<_> = (0..20)
        .map(|n| world.put(0, &format!("l{n}"), 1 << 20))
        .collect();
    world.pass_ms(1_100);
    let refused = puts
        .iter()
        .filter(|call| too_many_requests(world.answer(**call)));
    assert!((10..16).contains(&refused.count()));
    world.pass_ms(100);
    assert!(world.answer(puts[19]).is_none(), "answered twice");
    assert_eq!(world.machines[0].halted, None);
}
