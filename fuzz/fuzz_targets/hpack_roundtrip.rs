#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        net::planted::plant(Some(net::planted::Fault::ResizeUntold));
    },
    |input: &[u8]| net::fuzzing::hpack_round_trip(input)
);
