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

/// Parts of a log entry that are rare: on the heap, so that the common ones stay small.
const RARE: &[&str] = &[
    "range",
    "alarm",
    "authenticate",
    "auth_enable",
    "auth_disable",
    "auth_status",
    "auth_user_add",
    "auth_user_delete",
    "auth_user_get",
    "auth_user_change_password",
    "auth_user_grant_role",
    "auth_user_revoke_role",
    "auth_user_list",
    "auth_role_list",
    "auth_role_add",
    "auth_role_delete",
    "auth_role_get",
    "auth_role_grant_permission",
    "auth_role_revoke_permission",
    "cluster_version_set",
    "cluster_member_attr_set",
    "downgrade_info_set",
    "downgrade_version_test",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let files: Vec<_> = FILES.iter().map(|name| dir.join(name)).collect();
    let descriptors = protox::compile(&files, [&dir])?;
    let mut config = prost_build::Config::new();
    for field in RARE {
        config.boxed(format!(".etcdserverpb.InternalRaftRequest.{field}"));
    }
    config
        .bytes(["."])
        .include_file("all.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
