//! Questions to other members: connections, addresses, time-outs.

use super::*;
use crate::status::{code, Status};
use engine::error::RequestError;

fn ask(world: &mut World, ask: u64, request: PeerAsk) {
    let now_ns = world.now_ns;
    world.member(1).ask(ask, 2, request, now_ns);
}

fn reply(world: &mut World, number: u32, result: Result<&'static str, Status>) {
    let now_ns = world.now_ns;
    let result = result.map(|text| text.as_bytes().into());
    world.member(2).reply(number, result, now_ns);
    world.settle();
}

/// The questions that member 2 got, by number.
fn calls(world: &mut World) -> Vec<(u32, String)> {
    let told = world.told(2);
    let calls = told.iter().filter_map(|told| told.strip_prefix("call "));
    calls
        .filter_map(|call| call.split_once(": "))
        .map(|(number, text)| (number.parse().unwrap(), text.to_owned()))
        .collect()
}

#[test]
fn questions_reach_the_member_and_answers_come_back() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    world.told(1);
    for (number, request, expected) in [
        (1, PeerAsk::Version, "Version"),
        (
            2,
            PeerAsk::KeepAlive(vec![0x08, 9].into()),
            "KeepAlive(LeaseKeepAliveRequest { id: 9 })",
        ),
        (
            3,
            PeerAsk::TimeToLive(vec![0x0a, 2, 0x08, 7].into()),
            "TimeToLive(LeaseTimeToLiveRequest { id: 7, keys: false })",
        ),
        (4, PeerAsk::Promote(77), "Promote { id: 77 }"),
    ] {
        ask(&mut world, number, request);
        world.settle();
        let calls = calls(&mut world);
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].1, format!("Peer({expected})"));
        reply(&mut world, calls[0].0, Ok("yes"));
        let line = if number == 4 { "yes\n" } else { "yes" };
        assert_eq!(world.told(1), [format!("answer {number}: {line}")]);
    }
}

#[test]
fn refusals_come_back_with_their_status() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    world.told(1);
    for (request, error, status) in [
        (
            PeerAsk::KeepAlive(vec![0x08, 9].into()),
            RequestError::LeaseNotFound,
            404,
        ),
        (
            PeerAsk::KeepAlive(vec![0x08, 9].into()),
            RequestError::NotLeader,
            400,
        ),
        (
            PeerAsk::KeepAlive(vec![0x08, 9].into()),
            RequestError::Timeout,
            408,
        ),
        (PeerAsk::Promote(7), RequestError::MemberNotFound, 404),
        (PeerAsk::Promote(7), RequestError::LearnerNotReady, 412),
        (PeerAsk::Promote(7), RequestError::MemberNotLearner, 412),
        (PeerAsk::Promote(7), RequestError::NotLeader, 500),
    ] {
        ask(&mut world, 1, request);
        world.settle();
        let calls = calls(&mut world);
        reply(&mut world, calls[0].0, Err(error.into()));
        assert_eq!(world.told(1), [format!("failed 1: {status}")]);
    }
    assert_eq!(Status::from(RequestError::Timeout).code, code::UNAVAILABLE);
}

#[test]
fn connections_are_shared_and_bounded() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    world.dials.clear();
    for number in 0..100 {
        ask(&mut world, number, PeerAsk::Version);
    }
    world.settle();
    assert_eq!(world.dials.len(), 16);
    let mut answered = 0;
    loop {
        let calls = calls(&mut world);
        if calls.is_empty() {
            break;
        }
        for (number, _) in calls {
            reply(&mut world, number, Ok("{}"));
            answered += 1;
        }
    }
    assert_eq!(answered, 100);
    let told = world.told(1);
    assert_eq!(
        told.iter()
            .filter(|told| told.starts_with("answer "))
            .count(),
        100
    );
    assert!(world.member(1).peers[&2].idle.len() <= 4);
    for number in 0..5_000 {
        ask(&mut world, number, PeerAsk::Version);
    }
    let mut inputs = Vec::new();
    world.member(1).take_inputs(&mut inputs);
    // As many wait as may, and 16 are under way.
    assert_eq!(inputs.len(), 5_000 - 4_096 - 16);
    assert_eq!(words(&inputs[0]), format!("failed {}: 0", 4_096 + 16));
}

#[test]
fn every_address_is_tried_before_a_question_fails() {
    let mut world = World::of(&[1, 2, 4]);
    let now_ns = world.now_ns;
    let both = PeerAddress {
        id: 2,
        urls: vec![url(4), url(2)],
    };
    world.reach.insert(4, Reach::Refuses);
    world
        .member(1)
        .set_members(&[url(1)], vec![both], BTreeSet::new(), now_ns);
    ask(&mut world, 1, PeerAsk::Version);
    world.settle();
    let calls = calls(&mut world);
    reply(&mut world, calls[0].0, Ok("{}"));
    assert!(world.told(1).contains(&"answer 1: {}".to_owned()));
    world.reach.insert(2, Reach::Refuses);
    world.kill(2, Reach::Refuses);
    world.told(1);
    ask(&mut world, 2, PeerAsk::Version);
    world.settle();
    assert!(world.told(1).contains(&"failed 2: 0".to_owned()));
}

#[test]
fn questions_have_an_end() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    world.told(1);
    ask(&mut world, 1, PeerAsk::Version);
    world.pass(6_900);
    let call = calls(&mut world)[0].0;
    assert_eq!(world.told(1), Vec::<String>::new());
    world.pass(200);
    assert_eq!(world.told(1), ["failed 1: 0"]);
    assert!(world.told(2).contains(&format!("cancel {call}")));
    // An answer that comes too late is nobody's.
    reply(&mut world, call, Ok("{}"));
    assert_eq!(world.told(1), Vec::<String>::new());
    // A member that nobody knows is not asked.
    let now_ns = world.now_ns;
    world.member(1).ask(9, 77, PeerAsk::Version, now_ns);
    world.settle();
    assert_eq!(world.told(1), ["failed 9: 0"]);
}

#[test]
fn a_connection_found_closed_is_no_failure() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    ask(&mut world, 1, PeerAsk::Version);
    world.settle();
    let call = calls(&mut world)[0].0;
    reply(&mut world, call, Ok("{}"));
    world.told(1);
    let idle = world.member(1).peers[&2].idle.clone();
    assert!(!idle.is_empty());
    // The request meets the news that the connection is closed.
    ask(&mut world, 2, PeerAsk::Version);
    let now_ns = world.now_ns;
    for connection in idle {
        world
            .cables
            .retain(|cable| cable.dialler != (1, connection));
        world.member(1).closed(connection, now_ns);
    }
    world.settle();
    let call = calls(&mut world)[0].0;
    reply(&mut world, call, Ok("{}"));
    assert_eq!(world.told(1), ["answer 2: {}"]);
}

#[test]
fn members_that_went_leave_no_question_open() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    world.told(1);
    for number in 0..20 {
        ask(&mut world, number, PeerAsk::Version);
    }
    world.settle();
    world.introduce(1, &[], &[2]);
    world.settle();
    let told = world.told(1);
    let failed = told
        .iter()
        .filter(|told| told.starts_with("failed "))
        .count();
    assert_eq!(failed, 20, "{told:?}");
}

#[test]
fn posts_that_fail_pause_the_posting() {
    let mut world = World::of(&[1, 2]);
    world.reach.insert(2, Reach::Refuses);
    world.members.insert(2, transport(2));
    world.settle();
    world.dials.clear();
    for _ in 0..100 {
        world.send(&message(MessageType::MsgVote, 1, 2));
        world.settle();
    }
    let told = world.told(1);
    assert_eq!(
        told.iter().filter(|told| *told == "unreachable 2").count(),
        100
    );
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn clocks_that_differ_are_reported() {
    let mut world = World::of(&[1, 2]);
    world.member(2).config.unix_ms = 3_000;
    world.pass(9_000);
    assert!(
        world
            .notices
            .iter()
            .any(|line| line.contains("clock of member 2 differs by 3 s")),
        "{:?}",
        world.notices
    );
    let mut world = World::of(&[1, 2]);
    world.pass(9_000);
    assert_eq!(world.notices, Vec::<String>::new());
}
