//! Message compression: gzip in both directions, never beyond the message limit.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use flate2::Compression;

use super::status::{Code, Status};

/// `grpc-accept-encoding` of our answers.
pub(super) const ACCEPTED: &[u8] = b"gzip";

/// What `grpc-encoding` of a request says; responses follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Encoding {
    #[default]
    Identity,
    Gzip,
}

/// Inflates at most `max_bytes`: a bomb is cut off there, not later.
pub(super) fn inflate(compressed: &[u8], max_bytes: usize) -> Result<Bytes, Status> {
    let mut out = Vec::new();
    let mut reader = MultiGzDecoder::new(compressed).take(max_bytes as u64 + 1);
    if let Err(error) = reader.read_to_end(&mut out) {
        return Err(Status::internal(format!(
            "grpc: failed to decompress the received message: {error}"
        )));
    }
    if out.len() > max_bytes {
        let text =
            format!("grpc: received message after decompression larger than max {max_bytes}");
        return Err(Status::new(Code::RESOURCE_EXHAUSTED, text));
    }
    Ok(Bytes::from(out))
}

pub(super) fn deflate(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(
        Vec::with_capacity(message.len() / 2 + 32),
        Compression::fast(),
    );
    // Writing to a Vec cannot fail.
    let written = encoder
        .write_all(message)
        .and_then(|()| encoder.try_finish());
    debug_assert!(written.is_ok());
    encoder.finish().unwrap_or_default()
}
