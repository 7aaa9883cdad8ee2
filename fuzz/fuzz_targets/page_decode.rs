#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::tree::fuzzing::page_decode(data));
