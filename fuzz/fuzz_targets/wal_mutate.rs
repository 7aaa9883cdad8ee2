#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::wal::wal_mutate(data));
