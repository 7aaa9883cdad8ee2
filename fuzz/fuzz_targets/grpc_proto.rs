#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::store::fuzzing::grpc_proto(data));
