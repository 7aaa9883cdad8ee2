//! HTTP/1.1 without I/O, both sides (RFC 9112).
//!
//! Bytes go in with `receive`, events are pulled with `next`, bytes to send collect in an output buffer. [`head`] reads and
//! writes start lines and header fields, [`body`] knows where a body ends, [`Server`] and [`Client`] are the two ends of a
//! connection. One request is in hand at a time: what a client sends ahead stays unread until the answer before it is
//! complete, so answers can never be mixed up.
//!
//! A request whose end is not beyond doubt is refused and ends the connection: two lengths, a length beside a transfer
//! coding, folded lines, bare line feeds in the chunk grammar.

mod body;
mod client;
mod head;
mod server;

pub use body::{Body, BodyError};
pub use client::{Client, ClientError, ClientEvent};
pub use head::{status_text, Headers, Refusal, RequestHead, ResponseHead};
pub use server::{Server, ServerEvent};

use crate::limits::SECOND_NS;

/// Start line and header fields of a request or response. Above: 431, or the response is refused.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header fields. Above: 431.
pub const HEADERS_MAX: usize = 100;
/// The line that begins a chunk, extensions included, and all trailer fields of a body.
pub const CHUNK_LINE_BYTES_MAX: usize = 1 << 10;
pub const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Bytes that a client may send ahead while its request is being answered; then nothing is read from it.
pub const AHEAD_BYTES_MAX: usize = 64 << 10;
/// From the first byte of a head to its last.
pub const HEAD_NS: u64 = 10 * SECOND_NS;
/// A body from which no byte came for this long ends the connection.
pub const BODY_STALL_NS: u64 = 30 * SECOND_NS;
/// A connection without a request.
pub const IDLE_NS: u64 = 5 * 60 * SECOND_NS;
/// A peer that takes nothing of an answer for this long.
pub const WRITE_STALL_NS: u64 = 30 * SECOND_NS;

#[cfg(test)]
mod tests;
