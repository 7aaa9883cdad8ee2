//! etcd's peer protocol without I/O: what stands in the header fields, and how messages are framed on the streams.
//!
//! [`Local`] and [`Remote`] are the two ends' identities as header fields carry them, with the checks that the receiver of
//! any Raft request makes. [`Kind`] names the two streams, [`Encoder`] and [`Decoder`] their frames. Between two ringd
//! members, which find out by a header field of their own, every frame ends in a checksum; nothing else differs.

mod header;
mod stream;
mod version;

pub use header::{
    Incompatible, Local, Remote, Standing, CAPABILITIES, CHECKSUM, REFUSED, SNAPSHOT_PIECE,
    SNAPSHOT_PLACE,
};
pub use stream::{decode_piece, encode_piece, Decoder, Encoder, Frame, FrameError, Kind};
pub use version::Version;

/// Largest frame, and largest body of a posted message. etcd sends appends of about 1 MiB, or of one larger entry.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// The checksum of a posted body, as its header field shows it.
pub fn checksum(body: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(body))
}

#[cfg(test)]
mod tests;
