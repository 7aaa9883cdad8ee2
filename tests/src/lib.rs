//! What the tests of the real binaries share.
//!
//! * [`model`]: a naive etcd in memory, the reference.
//! * [`wire`]: etcd's messages as data, read from the `.proto` files.
//! * [`recording`]: answers of a real etcd and their replay against a server or the model.
pub mod model;
pub mod recording;
pub mod wire;
