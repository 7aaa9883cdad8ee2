//! What the rest of the cluster waits for leaves before this member applies what is committed.

use super::machine::{founding, me, Machine, TERM};
use crate::member::{Effect, Input, Member};
use proto::raftpb::{Entry, Message, MessageType};

/// An append of one entry by another member, the leader, who has committed up to `commit`.
fn append(index: u64, commit: u64) -> Input {
    let others = founding().members.into_iter().map(|member| member.id);
    let entry = Entry {
        index: Some(index),
        term: Some(TERM),
        ..Entry::default()
    };
    Input::Message(Box::new(Message {
        r#type: Some(MessageType::MsgApp as i32),
        from: others.into_iter().find(|id| *id != me()),
        to: Some(me()),
        term: Some(TERM),
        index: Some(index - 1),
        log_term: Some(TERM),
        entries: vec![entry],
        commit: Some(commit),
        ..Message::default()
    }))
}

fn applied(member: &Member) -> u64 {
    member.store().applied().0
}

#[test]
fn a_follower_writes_what_it_got_before_it_applies_what_is_committed() {
    let machine = Machine::with_log(&[Entry::default(), Entry::default()], 5);
    let mut member = machine.run(machine.start(None).unwrap().member);
    let mut effects = Vec::new();
    let now_ns = 1;
    member.step(append(6, 5), now_ns);
    loop {
        member.settle(now_ns);
        member.take_effects(&mut effects);
        if effects.is_empty() {
            break;
        }
        for effect in effects.drain(..) {
            machine.carry_out(&mut member, effect, now_ns);
        }
    }
    assert_eq!(applied(&member), 5);

    member.step(append(7, 6), now_ns);
    member.settle(now_ns);
    assert!(member.wants_settle());
    assert_eq!(applied(&member), 5, "the log's write goes first");
    member.take_effects(&mut effects);
    let writes = |effect: &Effect| matches!(effect, Effect::WriteLog(_));
    assert!(effects.iter().any(writes));
    member.settle(now_ns);
    assert!(!member.wants_settle());
    assert_eq!(applied(&member), 6);
}
