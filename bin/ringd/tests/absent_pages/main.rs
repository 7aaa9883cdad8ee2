//! Pages that are not in memory, met by a member without I/O that may keep next to none: every step ends all the same. Two
//! bugs that the simulator found once, each of which kept a member from ever ending a turn, or a read.

#[path = "../stalled_disks/world.rs"]
#[allow(dead_code)]
mod world;

use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd::request::Request;
use std::{sync::mpsc, thread, time::Duration};
use world::{Settings, World};

/// A turn that takes longer never ends.
const TURN_MAX: Duration = Duration::from_secs(120);
/// Longer than two intervals between checkpoints: nothing is left to write then, and what is unused is evicted.
const CHECKPOINTS_OVER_MS: u64 = 70_000;
const KEYS: usize = 96;
const READERS: usize = 12;

/// A single member that may keep this many bytes of clean pages.
fn filled_world(resident_bytes_max: u64) -> World {
    let mut world = World::new(Settings {
        members: 1,
        resident_bytes_max,
        ..Settings::default()
    });
    for n in 0..KEYS {
        let call = world.put(0, &format!("k{n:03}"), 3_000);
        assert!(matches!(world.answer(call), Some(Ok(_))), "put {n}");
    }
    world
}

/// Has everything written back, and then evicted.
fn forget_pages(world: &mut World) {
    world.pass_ms(CHECKPOINTS_OVER_MS);
    let pages = world.machines[0].member.store().pages();
    assert_eq!((pages.dirty_bytes(), pages.frozen_bytes()), (0, 0));
}

/// Fails, instead of waiting for ever, when a turn does not end.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let running = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match ended.recv_timeout(TURN_MAX) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the member never ends its turn"),
        _ => running.join().expect("the test itself"),
    }
}

/// Raft takes a membership change once, however often the store has to wait for the page of the members. Told of it again
/// at each try, it was ready again each time, and the turn went on for good.
#[test]
fn a_membership_change_ends_though_the_page_of_the_members_is_absent() {
    in_time(|| {
        let mut world = filled_world(0);
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec!["http://n9:2380".into()],
            is_learner: true,
        };
        let call = world.ask(0, Request::MemberAdd(request));
        let Some(Ok(answer)) = world.answer(call) else {
            panic!("the learner was not added");
        };
        let added = pb::MemberAddResponse::decode(answer).expect("an answer");
        let id = added.member.expect("the learner").id;
        let learners = |world: &World| {
            world.machines[0]
                .member
                .node()
                .configuration()
                .learners
                .len()
        };
        assert_eq!(learners(&world), 1);
        forget_pages(&mut world);
        let before = world.fetches;
        let call = world.ask(0, Request::MemberRemove(pb::MemberRemoveRequest { id }));
        let Some(Ok(answer)) = world.answer(call) else {
            panic!("the learner was not removed");
        };
        assert!(world.fetches > before, "no page was absent");
        let answer = pb::MemberRemoveResponse::decode(answer).expect("an answer");
        assert_eq!((answer.members.len(), learners(&world)), (1, 0));
    });
}

/// Pages go once per turn, after whoever waits for them had another try, however many fetches ended in the turn. When each
/// of them turned the clock, reads evicted what the others had touched, and none ever ended.
#[test]
fn reads_side_by_side_end_though_few_pages_may_be_resident() {
    in_time(|| {
        let mut world = filled_world(8 << 10);
        forget_pages(&mut world);
        let share = KEYS / READERS;
        let range = |reader: usize| {
            Request::Range(pb::RangeRequest {
                key: format!("k{:03}", reader * share).into(),
                range_end: format!("k{:03}", (reader + 1) * share).into(),
                serializable: true,
                ..Default::default()
            })
        };
        let before = world.fetches;
        let calls = world.ask_together(0, (0..READERS).map(range).collect());
        assert!(world.fetches >= before + READERS, "the pages were there");
        for call in calls {
            let Some(Ok(answer)) = world.answer(call) else {
                panic!("a read has not ended");
            };
            let answer = pb::RangeResponse::decode(answer).expect("an answer");
            assert_eq!(answer.kvs.len(), share);
        }
    });
}
