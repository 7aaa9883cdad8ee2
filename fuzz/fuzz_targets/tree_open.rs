#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::tree::fuzzing::tree_open(data));
