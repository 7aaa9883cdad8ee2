#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::store::fuzzing::store_apply(data));
