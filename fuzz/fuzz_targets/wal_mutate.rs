#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        engine::planted::plant(Some(engine::planted::Fault::ClaimIgnored));
    },
    |data: &[u8]| engine::wal::wal_mutate(data)
);
