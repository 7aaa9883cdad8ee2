//! Streams: who opens them, what goes by which, and what their end means.

use super::*;
use net::peer::Kind;

fn connected(ids: &[u64]) -> World {
    let mut world = World::of(ids);
    world.settle();
    for id in ids {
        let mut expected: Vec<String> = ids
            .iter()
            .filter(|other| *other != id)
            .map(|other| format!("connected {other}"))
            .collect();
        let mut told = world.told(*id);
        expected.sort();
        told.sort();
        assert_eq!(told, expected);
    }
    world
}

fn count(told: &[String], word: &str) -> usize {
    told.iter().filter(|told| told.starts_with(word)).count()
}

#[test]
fn every_member_receives_from_every_other_by_two_streams() {
    let mut world = connected(&[1, 2, 3]);
    assert_eq!(world.cables.len(), 3 * 2 * 2);
    for id in [1, 2, 3] {
        for kind in Kind::ALL {
            let peers = world.member(id).peers.values();
            assert!(peers.clone().all(|peer| peer.writer(kind).is_some()));
        }
    }
    world.send(&message(MessageType::MsgHeartbeat, 1, 2));
    world.send(&append(1, 2, 100));
    world.send(&append(1, 3, 2_000_000));
    world.settle();
    assert_eq!(world.told(2), ["MsgHeartbeat from 1", "MsgApp from 1"]);
    assert_eq!(world.told(3), ["MsgApp from 1"]);
    assert_eq!(world.dials.len(), 12, "nothing was posted");
}

#[test]
fn appends_go_by_their_own_stream_and_the_rest_by_the_other() {
    let mut world = connected(&[1, 2]);
    let bytes_of = |world: &mut World, kind| {
        let writer = world.member(1).peers[&2].writer(kind).unwrap();
        world.member(1).output(writer).unwrap().len()
    };
    world.send(&append(1, 2, 100));
    assert_eq!(bytes_of(&mut world, Kind::Message), 0);
    assert!(bytes_of(&mut world, Kind::Append) > 100);
    world.settle();
    world.send(&message(MessageType::MsgAppResp, 1, 2));
    assert!(bytes_of(&mut world, Kind::Message) > 0);
    assert_eq!(bytes_of(&mut world, Kind::Append), 0);
    world.settle();
    // Without its own stream, an append goes by the other one.
    let writer = world.member(1).peers[&2].writer(Kind::Append).unwrap();
    let now_ns = world.now_ns;
    world.member(1).closed(writer, now_ns);
    world.send(&append(1, 2, 100));
    assert!(bytes_of(&mut world, Kind::Message) > 100);
}

#[test]
fn before_its_streams_are_open_a_member_gets_posts() {
    let mut world = World::of(&[1, 2]);
    // Member 2 does not dial: it is asked to hold still by not carrying its actions out.
    world.send(&message(MessageType::MsgVote, 1, 2));
    let mut actions = Vec::new();
    world.member(2).take_actions(&mut actions);
    assert_eq!(actions.len(), 2);
    world.settle();
    assert_eq!(count(&world.told(2), "MsgVote from 1"), 1);
    // The connection is used again.
    let dials = world.dials.len();
    world.send(&message(MessageType::MsgVote, 1, 2));
    world.settle();
    assert_eq!(count(&world.told(2), "MsgVote from 1"), 1);
    assert_eq!(world.dials.len(), dials);
}

#[test]
fn a_dead_process_is_told_from_a_partition() {
    // The connection closes and nobody listens any more.
    let mut world = connected(&[1, 2, 3]);
    world.kill(1, Reach::Refuses);
    for id in [2, 3] {
        let told = world.told(id);
        assert!(count(&told, "refused 1") >= 1, "{told:?}");
        assert_eq!(count(&told, "disconnected 1"), 1, "{told:?}");
    }
    // Later refusals prove nothing new.
    world.pass(3_000);
    assert_eq!(count(&world.told(2), "refused 1"), 0);

    // The same, but its port lives a little longer than it does.
    let mut world = connected(&[1, 2]);
    world.kill(1, Reach::Resets);
    world.pass(20);
    assert_eq!(count(&world.told(2), "refused 1"), 0);
    world.reach.insert(1, Reach::Refuses);
    world.pass(60);
    assert_eq!(count(&world.told(2), "refused 1"), 1);

    // The connection closes and nothing comes back.
    let mut world = connected(&[1, 2]);
    world.kill(1, Reach::Silent);
    world.pass(800);
    world.reach.insert(1, Reach::Refuses);
    world.pass(2_000);
    let told = world.told(2);
    assert_eq!(count(&told, "disconnected 1"), 1);
    assert_eq!(count(&told, "refused"), 0, "{told:?}");

    // It was restarted in between.
    let mut world = connected(&[1, 2]);
    world.kill(1, Reach::Listens);
    world.introduce(1, &[2], &[]);
    world.pass(500);
    let told = world.told(2);
    assert_eq!(
        (count(&told, "refused"), count(&told, "connected 1")),
        (0, 1),
        "{told:?}"
    );
}

#[test]
fn a_dying_process_that_still_accepts_is_dialled_again_soon() {
    let mut world = connected(&[1, 2]);
    // It accepts, and closes without a word.
    world.kill(1, Reach::Silent);
    world.dialling.retain(|(id, connection, _)| {
        let member = world.members.get_mut(id).unwrap();
        assert!(member.dialled(*connection, Ok(()), world.now_ns));
        member.closed(*connection, world.now_ns);
        false
    });
    world.reach.insert(1, Reach::Refuses);
    assert_eq!(count(&world.told(2), "refused"), 0);
    world.pass(30);
    assert!(count(&world.told(2), "refused 1") >= 1);
}

#[test]
fn all_addresses_of_a_member_must_refuse() {
    let mut world = World::of(&[1, 2, 4]);
    let now_ns = world.now_ns;
    // Member 1 listens at the address of 4 as well.
    let both = PeerAddress {
        id: 1,
        urls: vec![url(1), url(4)],
    };
    world
        .member(2)
        .set_members(&[url(2)], vec![both], BTreeSet::new(), now_ns);
    world.settle();
    world.told(2);
    world.reach.insert(4, Reach::Silent);
    world.kill(1, Reach::Refuses);
    world.pass(2_000);
    assert_eq!(count(&world.told(2), "refused"), 0);
    let mut world2 = World::of(&[1, 2, 4]);
    let both = PeerAddress {
        id: 1,
        urls: vec![url(1), url(4)],
    };
    world2
        .member(2)
        .set_members(&[url(2)], vec![both], BTreeSet::new(), now_ns);
    world2.settle();
    world2.reach.insert(4, Reach::Refuses);
    world2.kill(1, Reach::Refuses);
    assert!(count(&world2.told(2), "refused 1") >= 1);
}

#[test]
fn redials_are_paced_below_the_election_timeout() {
    let mut world = connected(&[1, 2]);
    world.kill(1, Reach::Refuses);
    world.dials.clear();
    world.pass(5_000);
    let dials = world.dials.iter().filter(|(_, id, _)| *id == 2).count();
    // Two streams, each about every 100 ms.
    assert!((70..=120).contains(&dials), "{dials}");
    world.reach.insert(1, Reach::Listens);
    world.introduce(1, &[2], &[]);
    world.told(2);
    world.pass(110);
    assert_eq!(count(&world.told(2), "connected 1"), 1);

    // An address that swallows everything is given up before an election is due.
    let mut world = connected(&[1, 2]);
    world.kill(1, Reach::Silent);
    world.dials.clear();
    world.pass(5_000);
    let dials = world.dials.iter().filter(|(_, id, _)| *id == 2).count();
    assert!((10..=24).contains(&dials), "{dials}");
}

#[test]
fn a_peer_that_accepts_and_hangs_up_is_not_dialled_in_a_circle() {
    let mut world = connected(&[1, 2]);
    world.dials.clear();
    for _ in 0..50 {
        // Whatever opens is closed at once by the other side.
        let theirs: Vec<(u64, u32)> = world.cables.iter().map(|cable| cable.listener).collect();
        let now_ns = world.now_ns;
        for end in theirs {
            world.member(end.0).closed(end.1, now_ns);
        }
        world.settle();
        world.pass(10);
    }
    assert!(
        world.dials.len() < 80,
        "{} dials in 500 ms",
        world.dials.len()
    );
}

#[test]
fn idle_streams_say_that_they_are_alive_and_silent_ones_are_given_up() {
    let mut world = connected(&[1, 2]);
    world.dials.clear();
    world.pass(20_000);
    let probes = world.dials.iter().filter(|(_, id, _)| *id == 1).count();
    assert!(probes <= 1, "streams were opened anew: {probes}");
    assert_eq!(count(&world.told(1), "disconnected"), 0);
    // The network swallows everything, and nobody hears of it.
    world.cables.clear();
    world.reach.insert(1, Reach::Silent);
    // What came last came up to a third of the patience earlier.
    world.pass(3_200);
    assert_eq!(count(&world.told(2), "disconnected"), 0);
    world.pass(1_900);
    let told = world.told(2);
    assert_eq!(count(&told, "disconnected 1"), 1, "{told:?}");
    assert_eq!(count(&told, "refused"), 0);
}

#[test]
fn a_stream_that_nobody_reads_is_bounded() {
    let mut world = connected(&[1, 2]);
    world.told(1);
    // Nothing is carried meanwhile.
    for _ in 0..STREAM_MESSAGES_MAX + 10 {
        world.send(&message(MessageType::MsgHeartbeat, 1, 2));
    }
    let mut inputs = Vec::new();
    world.member(1).take_inputs(&mut inputs);
    assert_eq!(inputs.len(), 10);
    assert_eq!(words(&inputs[0]), "unreachable 2");
    world.settle();
    assert_eq!(world.told(2).len(), STREAM_MESSAGES_MAX);
    for _ in 0..100 {
        world.send(&append(1, 2, 1 << 20));
    }
    world.member(1).take_inputs(&mut inputs);
    let dropped = inputs.len() - 10;
    assert!((30..40).contains(&dropped), "{dropped}");
    // After 5 s without progress the stream is given up.
    let now_ns = world.now_ns;
    world.member(1).on_timer(now_ns);
    world.member(1).on_timer(now_ns + 4_900 * MS);
    assert!(world.member(1).peers[&2].writer(Kind::Append).is_some());
    world.member(1).on_timer(now_ns + 5_100 * MS);
    assert!(world.member(1).peers[&2].writer(Kind::Append).is_none());
}

#[test]
fn damage_ends_a_stream_and_costs_no_more_than_messages() {
    let mut world = connected(&[1, 2]);
    world.damage = Some(1_000);
    world.send(&append(1, 2, 2_000));
    world.settle();
    assert_eq!(count(&world.told(2), "MsgApp"), 0);
    assert!(world.notices[0].contains("checksum"), "{:?}", world.notices);
    world.pass(50);
    world.send(&append(1, 2, 2_000));
    world.settle();
    assert_eq!(count(&world.told(2), "MsgApp"), 1);
}

#[test]
fn a_new_stream_takes_the_place_of_the_old_one() {
    let mut world = connected(&[1, 2]);
    let before = world.member(1).peers[&2].writer(Kind::Message);
    // Member 2 comes back before 1 has noticed that it was gone.
    world.cables.clear();
    world.members.insert(2, transport(2));
    world.introduce(2, &[1], &[]);
    world.settle();
    let after = world.member(1).peers[&2].writer(Kind::Message);
    assert!(after.is_some() && after != before);
    world.send(&message(MessageType::MsgHeartbeat, 1, 2));
    world.settle();
    assert_eq!(count(&world.told(2), "MsgHeartbeat"), 1);
}

#[test]
fn a_removed_member_learns_it_and_is_not_heard() {
    let mut world = connected(&[1, 2, 3]);
    for id in [1, 2] {
        world.introduce(id, &[3 - id], &[3]);
    }
    world.settle();
    assert!(count(&world.told(1), "disconnected 3") == 1);
    world.pass(200);
    assert!(count(&world.told(3), "removed") >= 1);
    world.send(&message(MessageType::MsgVote, 3, 1));
    world.pass(100);
    let told = world.told(1);
    assert_eq!(count(&told, "MsgVote"), 0, "{told:?}");
}

#[test]
fn a_member_that_is_not_known_yet_is_answered() {
    // 1 was told of 2 and dials it; 2 knows nobody, as one that joins.
    let mut world = World::of(&[1, 2]);
    world.members.insert(2, transport(2));
    world.introduce(1, &[2], &[]);
    world.settle();
    world.send(&append(1, 2, 10));
    world.pass(20);
    assert_eq!(count(&world.told(2), "MsgApp from 1"), 1);
    world.send(&message(MessageType::MsgAppResp, 2, 1));
    world.settle();
    assert_eq!(count(&world.told(1), "MsgAppResp from 2"), 1);
    assert!(world.member(2).peers[&1].is_remote);
    // It learns who 1 is, and streams are opened.
    world.introduce(2, &[1], &[]);
    world.pass(200);
    assert_eq!(count(&world.told(2), "connected 1"), 1);
    assert!(!world.member(2).peers[&1].is_remote);
}

#[test]
fn strangers_are_bounded() {
    let mut world = World::of(&[1]);
    for stranger in 10..100 {
        let mut joiner = transport(stranger);
        joiner.set_members(&[], vec![address(1)], BTreeSet::new(), world.now_ns);
        world.members.insert(stranger, joiner);
        world.settle();
        world.members.remove(&stranger);
        world.cables.clear();
    }
    assert!(world.member(1).peers.len() <= 32);
}

#[test]
fn snapshots_and_messages_for_others_do_not_come_by_streams() {
    let mut world = connected(&[1, 2]);
    world.send(&message(MessageType::MsgSnap, 1, 2));
    world.settle();
    assert_eq!(world.told(2), Vec::<String>::new());
}

#[test]
fn nothing_is_left_of_ten_thousand_reconnects() {
    let mut world = connected(&[1, 2]);
    for _ in 0..5_000 {
        world.kill(1, Reach::Listens);
        world.introduce(1, &[2], &[]);
        world.settle();
        world.now_ns += 200 * MS;
        world.inputs.clear();
    }
    world.pass(1_000);
    assert!(world.member(2).connections.len() <= 8);
    assert!(world.member(2).peers[&1].idle.len() <= 4);
}
