//! The client stubs of etcd's gRPC services, generated at build time over the messages of the `proto` crate.

#[allow(clippy::all, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/stubs.rs"));
}

pub use generated::etcdserverpb::{
    auth_client, cluster_client, kv_client, lease_client, maintenance_client, watch_client,
};
pub use generated::grpc::health::v1::health_client;
pub use generated::v3electionpb::election_client;
pub use generated::v3lockpb::lock_client;
