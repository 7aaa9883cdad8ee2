#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        net::planted::plant(Some(net::planted::Fault::LimitIgnored));
    },
    |input: &[u8]| net::fuzzing::grpc_frame(input)
);
