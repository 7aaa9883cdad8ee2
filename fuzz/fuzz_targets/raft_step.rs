//! One node and arbitrary messages.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        raft::planted::plant(Some(raft::planted::Fault::HeartbeatTrusted));
    },
    |data: &[u8]| raft::fuzzing::raft_step(data)
);
