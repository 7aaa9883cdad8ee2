//! etcd's peer protocol without I/O: what stands in the header fields, and how messages are framed on the streams.
//!
//! [`Local`] and [`Remote`] are the two ends' identities as header fields carry them, with the checks that the receiver of
//! any Raft request makes. [`Kind`] names the two streams, [`Encoder`] and [`Decoder`] their frames. Between two ringd
//! members, which find out by a header field of their own, every frame ends in a checksum, and so do heads and bodies
//! ([`seal`]).

mod header;
mod seal;
mod stream;
mod version;

pub use header::{
    Incompatible, Local, Remote, Standing, CAPABILITIES, REFUSED, SNAPSHOT_PIECE, SNAPSHOT_PLACE,
};
pub use seal::{checksum, is_body_damaged, is_damaged, seal, CHECKSUM, SEAL};
pub use stream::{decode_piece, encode_piece, Decoder, Encoder, Frame, FrameError, Kind};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use stream::{seal_frame, HEAD_BYTES};
pub use version::Version;

/// Largest frame, and largest body of a posted message. etcd sends appends of about 1 MiB, or of one larger entry.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests;
