//! gRPC over HTTP/2: calls, messages, deadlines and statuses on top of [`crate::connection`].
//!
//! [`Server`] is one connection: bytes in, [`Event`]s out; answers in, bytes out. [`Client`] is the other end. The application sees whole messages and
//! never a frame. Calls that cannot reach a method are answered here (unknown method, wrong content type, message too
//! large, deadline passed, ...), with the codes and texts that grpc-go's server uses, since clients match on them.

mod base64;
mod budget;
mod call;
mod client;
mod compression;
mod message;
mod metadata;
mod method;
mod server;
mod status;
mod timeout;

pub use crate::frame::StreamId;
pub use budget::Budget;
pub use client::{CallTemplate, Client, ClientEvent};
pub use metadata::Metadata;
pub use method::{Method, MethodKind, Methods};
pub use server::{Config, Event, OpenCall, Server};
pub use status::Code;
