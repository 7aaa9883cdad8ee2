//! Members whose data went back in time.

use super::*;

/// The process of member 2 begins anew, with a log that ends there.
fn begin_again(world: &mut World, boot: u64, index: u64) {
    world.kill(2, Reach::Listens);
    let mut member = transport(2);
    let life = world.now_ns;
    let term = 3;
    member.config.local.standing = Some(Standing {
        boot,
        life,
        term,
        index,
    });
    world.members.insert(2, member);
    world.introduce(2, &[1], &[]);
    world.told(1);
    world.told(2);
}

#[test]
fn a_member_that_comes_back_with_less_than_it_acknowledged_is_not_listened_to_and_told_so() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    let mut acknowledged = message(MessageType::MsgAppResp, 2, 1);
    acknowledged.index = Some(9);
    world.send(&acknowledged);
    world.settle();
    for (index, fits) in [(8, false), (9, true)] {
        begin_again(&mut world, 2, index);
        // By a post, and by the streams once they are open.
        world.send(&message(MessageType::MsgVoteResp, 2, 1));
        world.pass(1_000);
        world.send(&message(MessageType::MsgVoteResp, 2, 1));
        world.pass(1_000);
        let told = world.told(1);
        let heard = told.iter().any(|told| told == "MsgVoteResp from 2");
        assert_eq!(heard, fits, "began with entry {index}: {told:?}");
        let told = world.told(2);
        let text = "went back: member 1 refuses this one: it acknowledged entry 9 in term 3";
        let refused = told.iter().any(|told| told.starts_with(text));
        assert_eq!(refused, !fits, "began with entry {index}: {told:?}");
    }
    let notices = world.notices.join("\n");
    assert!(notices.contains("member 2 is refused: it acknowledged entry 9"));
}

#[test]
fn of_two_processes_with_one_number_the_later_one_is_refused() {
    let mut world = World::of(&[1, 2]);
    world.settle();
    for (boot, fits) in [(2, true), (3, true), (3, false), (2, false), (4, true)] {
        begin_again(&mut world, boot, 9);
        world.pass(1_000);
        let told = world.told(2);
        let refused = told
            .iter()
            .any(|told| told.contains("the data directory was copied"));
        assert_eq!(refused, !fits, "start {boot}: {told:?}");
    }
}
