//! Generates the client stubs of etcd's gRPC services from the `.proto` files of the `proto` crate.
//!
//! Only the stubs are generated here: the messages are those of `proto`, so that a value decoded by the server's code and
//! one decoded by the client's are the same type.

use std::{env, error::Error, path::PathBuf};

const FILES: &[&str] = &[
    "rpc.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
];

/// Protobuf package → module of the `proto` crate that holds its messages.
const PACKAGES: &[(&str, &str)] = &[
    (".mvccpb", "::proto::mvccpb"),
    (".authpb", "::proto::authpb"),
    (".etcdserverpb", "::proto::etcdserverpb"),
    (".v3lockpb", "::proto::v3lockpb"),
    (".v3electionpb", "::proto::v3electionpb"),
    (".grpc.health.v1", "::proto::health"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../net/proto/proto");
    println!("cargo:rerun-if-changed={}", dir.display());
    let files: Vec<_> = FILES.iter().map(|name| dir.join(name)).collect();
    let descriptors = protox::compile(&files, [&dir])?;
    let mut builder = tonic_prost_build::configure()
        .build_server(false)
        .emit_rerun_if_changed(false)
        .include_file("stubs.rs");
    for (package, module) in PACKAGES {
        builder = builder.extern_path(*package, *module);
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
