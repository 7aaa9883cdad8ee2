//! Three nodes whose every choice is a byte of the plan.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        raft::planted::plant(Some(raft::planted::Fault::CountTwice));
    },
    |plan: &[u8]| raft::fuzzing::raft_cluster(plan)
);
