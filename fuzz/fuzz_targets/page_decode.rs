#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        #[cfg(feature = "planted-bugs")]
        engine::planted::plant(Some(engine::planted::Fault::ShapeUnchecked));
    },
    |data: &[u8]| engine::tree::fuzzing::page_decode(data)
);
