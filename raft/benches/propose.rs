//! What one small entry costs the state machine: `cargo bench -p ringd-raft`.

use std::time::Instant;

use bytes::Bytes;
use proto::raftpb::{ConfState, Message, MessageType};
use raft::{Config, Initial, Node, Role};

const ENTRIES: u64 = 2_000_000;

fn leader(voters: Vec<u64>) -> Node {
    let initial = Initial {
        conf_state: ConfState {
            voters,
            ..ConfState::default()
        },
        ..Initial::default()
    };
    let config = Config {
        pre_vote: false,
        ..Config::new(1)
    };
    let mut node = Node::new(config, initial).expect("valid");
    node.campaign();
    let ready = node.ready();
    node.persisted(ready.seq);
    if node.role() != Role::Leader {
        node.step(answer(MessageType::MsgVoteResp, 2, 0))
            .expect("a vote");
    }
    assert_eq!(node.role(), Role::Leader);
    node
}

fn answer(kind: MessageType, from: u64, index: u64) -> Message {
    Message {
        r#type: Some(kind as i32),
        to: Some(1),
        from: Some(from),
        term: Some(1),
        index: Some(index),
        ..Message::default()
    }
}

/// Batches of entries through the whole course: propose, write, acknowledge, commit, apply.
fn run(name: &str, mut node: Node, followers: &[u64], batch: u64) {
    let data = Bytes::from(vec![7; 120]);
    let (mut proposing, mut applied) = (0, 0);
    let start = Instant::now();
    for _ in 0..ENTRIES / batch {
        let begin = Instant::now();
        for _ in 0..batch {
            node.propose(data.clone()).expect("leads");
        }
        proposing += begin.elapsed().as_nanos();
        let ready = node.ready();
        let last = node.last_index();
        for follower in followers {
            node.step(answer(MessageType::MsgAppResp, *follower, last))
                .expect("an answer");
        }
        node.persisted(ready.seq);
        drop(ready);
        let ready = node.ready();
        if let Some(last) = ready.committed.last() {
            applied = last.index.unwrap_or(0);
            node.applied(applied);
        }
    }
    assert!(
        applied >= ENTRIES / batch * batch,
        "everything was committed"
    );
    let all = start.elapsed().as_nanos();
    println!(
        "{name}, batches of {batch}: propose {} ns, all {} ns per entry",
        proposing / u128::from(ENTRIES),
        all / u128::from(ENTRIES)
    );
}

fn main() {
    for batch in [1, 32, 256] {
        run("one voter", leader(vec![1]), &[], batch);
        run("three voters", leader(vec![1, 2, 3]), &[2, 3], batch);
    }
}
