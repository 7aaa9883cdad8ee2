#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        engine::planted::plant(Some(engine::planted::Fault::ElementsOverlap));
    },
    |data: &[u8]| engine::interchange::fuzzing::bbolt_read(data)
);
