//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::{env, error::Error, path::PathBuf};

const FILES: &[&str] = &[
    "rpc.proto",
    "raft_internal.proto",
    "raft.proto",
    "lease.proto",
    "membership.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let files: Vec<_> = FILES.iter().map(|name| dir.join(name)).collect();
    let descriptors = protox::compile(&files, [&dir])?;
    prost_build::Config::new()
        .bytes(["."])
        .include_file("all.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
