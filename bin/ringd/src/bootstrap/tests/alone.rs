//! The data of one member of three becomes a cluster of its own, whatever its log ends in and wherever it is interrupted.

use super::{
    super::assemble::change_entry,
    machine::{founding, me, Machine, JOINED},
};
use crate::member::Member;
use prost::Message;
use proto::{
    etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest},
    raftpb::{ConfChangeType, Entry, EntryType},
};
use std::sync::atomic::Ordering::Relaxed;

fn put(key: &str) -> Entry {
    let put = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: b"value".to_vec().into(),
        ..Default::default()
    };
    let request = InternalRaftRequest {
        put: Some(put),
        ..Default::default()
    };
    Entry {
        data: Some(request.encode_to_vec().into()),
        ..Default::default()
    }
}

fn change(kind: ConfChangeType, member: u64, context: serde_json::Value) -> Entry {
    change_entry(0, 0, kind, member, Some(context))
}

#[track_caller]
fn assert_serves_alone(member: &Member, keys: &[&str]) {
    assert_eq!(member.node().role(), raft::Role::Leader);
    assert_eq!(member.node().conf_state().voters, [me()]);
    assert!(member.node().conf_state().learners.is_empty());
    let listed = member.store().member_list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, listed[0].is_learner), (me(), false));
    assert!(member.is_ready());
    for key in keys {
        let request = RangeRequest {
            key: key.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let found = member.store().range(&request).unwrap().unwrap();
        assert_eq!(found.count, 1, "{key}");
    }
}

#[test]
fn one_of_three_serves_all_its_data_alone() {
    // The last put may have been acknowledged: the commit index is stored with the entries that follow.
    let machine = Machine::with_log(&[put("a"), put("b"), put("c")], 5);
    // Without the flag it waits for the others.
    let waiting = machine.run(machine.start(None).unwrap().member);
    assert!(!waiting.has_leader());
    assert_eq!(waiting.store().member_list().len(), 3);

    let assembled = machine.start(Some("http://n1:2380")).unwrap();
    assert_eq!(
        (
            assembled.new,
            assembled.ids.member_id,
            assembled.ids.cluster_id
        ),
        (false, me(), founding().cluster_id)
    );
    let member = machine.run(assembled.member);
    assert_serves_alone(&member, &["a", "b", "c"]);
    // It keeps its recorded URL, and the others never come back.
    assert_eq!(
        member.store().member_list()[0].peer_ur_ls,
        ["http://n1:2380"]
    );
    let others = founding().members.into_iter().map(|m| m.id);
    let mut removed: Vec<u64> = others.filter(|id| *id != me()).collect();
    removed.sort_unstable();
    assert_eq!(
        member.store().removed_members().collect::<Vec<_>>(),
        removed
    );

    // Once more with the flag changes nothing; and then without.
    let applied = member.node().last_index();
    let again = machine.start(Some("http://n1:2380")).unwrap().member;
    assert_eq!(again.node().last_index(), applied);
    assert_serves_alone(&machine.run(again), &["a", "b", "c"]);
    let plain = machine.start(None).unwrap().member;
    assert_serves_alone(&machine.run(plain), &["a", "b", "c"]);
}

#[test]
fn membership_changes_in_the_log_count() {
    let learner = ConfChangeType::ConfChangeAddLearnerNode;
    let others: Vec<u64> = founding().members.iter().map(|m| m.id).collect();
    let other = *others.iter().find(|id| **id != me()).unwrap();
    let remove = ConfChangeType::ConfChangeRemoveNode;
    let entries = [
        added(learner, "n4", JOINED),
        put("a"),
        change(remove, other, serde_json::json!({})),
    ];
    let machine = Machine::with_log(&entries, 4);
    let member = machine.run(machine.start(Some("http://n1:2380")).unwrap().member);
    assert_serves_alone(&member, &["a"]);
    assert!(member.store().is_removed_member(JOINED));
}

fn added(kind: ConfChangeType, name: &str, id: u64) -> Entry {
    let is_learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
    let urls = [format!("http://{name}:2380")];
    let context = serde_json::json!({ "id": id, "peerURLs": urls, "isLearner": is_learner });
    change(kind, id, context)
}

fn founders() -> Vec<Entry> {
    let founders = founding().members;
    let founders = founders.iter();
    let add = ConfChangeType::ConfChangeAddNode;
    founders
        .map(|founder| added(add, &founder.name, founder.id))
        .collect()
}

#[test]
fn a_learner_is_promoted_and_a_stranger_added() {
    let learner = added(ConfChangeType::ConfChangeAddLearnerNode, "n4", JOINED);
    for own in [vec![learner], vec![]] {
        let entries = [founders(), own, vec![put("a")]].concat();
        let machine = Machine::joined(&entries, 3);
        let member = machine.run(machine.start(Some("http://n4:2380")).unwrap().member);
        assert_eq!(member.node().role(), raft::Role::Leader);
        let listed = member.store().member_list();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].id, listed[0].is_learner), (JOINED, false));
        assert_eq!(listed[0].peer_ur_ls, ["http://n4:2380"]);
    }
}

#[test]
fn what_cannot_be_a_cluster_is_refused() {
    let forced = |machine: Machine, url| match machine.start(Some(url)) {
        Ok(_) => panic!("it must not start"),
        Err(error) => error,
    };
    let remove = ConfChangeType::ConfChangeRemoveNode;
    let removed = Machine::with_log(&[change(remove, me(), serde_json::json!({}))], 4);
    let error = forced(removed, "http://n1:2380");
    assert!(error.contains("was removed from its cluster"), "{error}");
    let empty = forced(Machine::joined(&[], 0), "http://n4:2380");
    assert!(empty.contains("holds no cluster yet"), "{empty}");
    let taken = forced(Machine::joined(&founders(), 3), "http://n2:2380");
    assert!(
        taken.contains("http://n2:2380, which is that of member"),
        "{taken}"
    );
    let joint = Entry {
        r#type: Some(EntryType::EntryConfChangeV2 as i32),
        ..Entry::default()
    };
    let joint = forced(Machine::with_log(&[joint], 4), "http://n1:2380");
    assert!(joint.contains("log entry 4 is a joint"), "{joint}");
}

#[test]
fn power_lost_anywhere_leaves_three_members_or_one() {
    let complete = {
        let machine = Machine::with_log(&[put("a")], 4);
        machine.log.left.store(u32::MAX, Relaxed);
        machine.start(Some("http://n1:2380")).unwrap();
        u32::MAX - machine.log.left.load(Relaxed)
    };
    assert!(complete > 0);
    for operations in 0..complete {
        let machine = Machine::with_log(&[put("a")], 4);
        machine.log.left.store(operations, Relaxed);
        assert!(machine.start(Some("http://n1:2380")).is_err());
        machine.log.left.store(u32::MAX, Relaxed);
        let member = machine.run(machine.start(None).unwrap().member);
        match member.store().member_list().len() {
            3 => assert!(!member.has_leader()),
            _ => assert_serves_alone(&member, &["a"]),
        }
        let member = machine.run(machine.start(Some("http://n1:2380")).unwrap().member);
        assert_serves_alone(&member, &["a"]);
    }
}
