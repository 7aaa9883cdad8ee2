#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        net::planted::plant(Some(net::planted::Fault::ChunkSizeCut));
    },
    |input: &[u8]| net::fuzzing::http1(input)
);
