#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        net::planted::plant(Some(net::planted::Fault::TornFrame));
    },
    |input: &[u8]| net::fuzzing::h2_conn(input)
);
