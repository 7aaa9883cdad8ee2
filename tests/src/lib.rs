//! What the tests of the real binaries share.
//!
//! * [`model`]: a naive etcd in memory, the reference.
//! * [`random`]: requests from a seed.
//! * [`wire`]: etcd's messages as data, read from the `.proto` files.
//! * [`recording`]: answers of a real etcd and their replay against a server or the model.
//! * [`server`]: a server process with a directory and ports of its own.
//! * [`shim`]: power cuts and failing disks under a server.
//! * [`sim`]: whole members in a simulated world.
//! * [`transport`]: a gRPC client for bytes, over an HTTP/2 implementation that is not the server's.
//! * [`witness`]: concurrent writers, and the check that nothing acknowledged is lost.

pub mod model;
pub mod random;
pub mod recording;
pub mod server;
pub mod shim;
pub mod sim;
pub mod transport;
pub mod wire;
pub mod witness;
