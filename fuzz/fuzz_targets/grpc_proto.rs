#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        engine::planted::plant(Some(engine::planted::Fault::FailureTaken));
    },
    |data: &[u8]| engine::store::fuzzing::grpc_proto(data)
);
