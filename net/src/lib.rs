//! The front of ringd: bytes of a connection to calls, and answers to bytes.
//!
//! Three floors without I/O, none of which looks up: [`hpack`] and [`frame`] turn bytes into header lists and frames,
//! [`connection`] keeps the state of an HTTP/2 connection, [`grpc`] knows calls and messages. [`grpc::Server`] is what a
//! driver feeds with received bytes and the time, and takes events and bytes to send from. Every bound is in [`limits`].

pub mod connection;
pub mod driver;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod grpc;
pub mod hpack;
pub mod http1;
pub mod limits;
pub mod peer;
pub mod planted;
