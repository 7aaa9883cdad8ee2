#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| net::fuzzing::peer_msg(input));
