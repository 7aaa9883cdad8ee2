//! The bodies of the fuzz targets, fed with generated input, so that they work wherever there is no fuzzer.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use proto::raftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};

fn small() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![4 => (0u64..9).prop_map(Some), 1 => Just(None), 1 => any::<u64>().prop_map(Some)]
}

prop_compose! {
    fn any_entry()(kind in 0i32..4, term in small(), index in small(), data in prop::collection::vec(any::<u8>(), 0..6)) -> Entry {
        Entry { r#type: Some(kind), term, index, data: Some(Bytes::from(data)) }
    }
}

prop_compose! {
    fn any_snapshot()(index in small(), term in small(), voters in prop::collection::vec(0u64..5, 0..4), learners in prop::collection::vec(0u64..5, 0..2)) -> Snapshot {
        Snapshot {
            data: None,
            metadata: Some(SnapshotMetadata {
                conf_state: Some(ConfState { voters, learners, ..ConfState::default() }),
                index,
                term,
            }),
        }
    }
}

prop_compose! {
    fn any_message()(
        kind in prop_oneof![9 => prop::sample::select(vec![2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18]), 1 => 0i32..25],
        from in prop_oneof![9 => (2u64..5).prop_map(Some), 1 => small()],
        term in prop_oneof![9 => (1u64..6).prop_map(Some), 1 => small()], log_term in small(), index in small(),
        entries in prop::collection::vec(any_entry(), 0..4), commit in small(), reject in any::<bool>(),
        reject_hint in small(), snapshot in prop::option::of(any_snapshot()),
        context in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), in_order in prop::bool::weighted(0.9),
    ) -> Message {
        let mut entries: Vec<Entry> = entries;
        if in_order {
            let mut last_term = log_term.unwrap_or(0);
            for (entry, next) in entries.iter_mut().zip(index.unwrap_or(0).min(1 << 40) + 1..) {
                last_term = last_term.max(entry.term.unwrap_or(0).min(term.unwrap_or(0)));
                (entry.index, entry.term) = (Some(next), Some(last_term));
            }
        }
        Message {
            r#type: Some(kind), to: Some(1), from, term, log_term, index, entries, commit, snapshot,
            reject: Some(reject), reject_hint, context: context.map(Bytes::from),
        }
    }
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    let step = prop_oneof![
        1 => (0u8..56).prop_map(|action| vec![action]),
        6 => any_message().prop_map(|m| {
            let bytes = m.encode_to_vec();
            let mut step = vec![200, bytes.len().min(255) as u8];
            step.extend(bytes);
            step
        }),
    ];
    (
        prop::collection::vec(any::<u8>(), 8),
        prop::collection::vec(step, 1..40),
    )
        .prop_map(|(head, steps)| {
            let mut script = head;
            script.extend(steps.concat());
            script
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_node_survives_any_messages(script in script()) {
        raft::fuzzing::raft_step(&script);
    }

    #[test]
    fn a_node_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        raft::fuzzing::raft_step(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_cluster_survives_any_plan(plan in prop::collection::vec(any::<u8>(), 0..4000)) {
        raft::fuzzing::raft_cluster(&plan);
    }
}

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = format!("{}/../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for file in std::fs::read_dir(corpus).expect("a corpus") {
        let path = file.expect("a file").path();
        println!("{name} {}", path.display());
        target(&std::fs::read(path).expect("a readable file"));
        inputs += 1;
    }
    assert!(inputs > 30, "{name}: {inputs} inputs");
}

#[test]
fn stored_steps() {
    replay("raft_step", raft::fuzzing::raft_step);
}

#[test]
fn stored_plans() {
    replay("raft_cluster", raft::fuzzing::raft_cluster);
}
