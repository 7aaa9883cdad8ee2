//! etcd's messages: the client API, the payload of log entries, and Raft's own messages.
//!
//! The `.proto` files in `proto/` are the schema; the types are generated from them at build time. Bytes fields are
//! [`bytes::Bytes`], so that decoding from a receive buffer copies no key and no value.

#[allow(clippy::all, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}

pub use generated::grpc::health::v1 as health;
pub use generated::*;
