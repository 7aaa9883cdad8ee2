//! Length-prefixed messages in a stream of DATA.

use crate::planted::{planted, Fault};
use bytes::Bytes;

use super::status::{Code, Status};

/// A flag and a length before each message.
pub(super) const PREFIX_BYTES: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub compressed: bool,
    pub bytes: Bytes,
}

/// Puts messages together. A message that lies in one piece is copied once; of others only what has arrived is held, in one
/// buffer, however small the pieces.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have come.
    prefix_len: u8,
    compressed: bool,
    /// Length of the message begun.
    expected: usize,
    partial: Vec<u8>,
}

impl Assembler {
    /// The next whole message of `data`, which is moved behind it; `None` when more is needed. The limit is checked
    /// when the prefix is known: nothing of a message that is too large is kept.
    #[inline]
    pub fn next(&mut self, data: &mut &[u8], max_bytes: usize) -> Result<Option<Message>, Status> {
        if self.prefix_len == 0 {
            if let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() {
                let length = length_of(prefix, max_bytes)?;
                if rest.len() >= length {
                    let (message, rest) = rest.split_at(length);
                    *data = rest;
                    let bytes = Bytes::copy_from_slice(message);
                    return Ok(Some(Message {
                        compressed: prefix[0] == 1,
                        bytes,
                    }));
                }
            }
        }
        self.next_in_parts(data, max_bytes)
    }

    fn next_in_parts(
        &mut self,
        data: &mut &[u8],
        max_bytes: usize,
    ) -> Result<Option<Message>, Status> {
        let have = usize::from(self.prefix_len);
        if have < PREFIX_BYTES {
            let part = (PREFIX_BYTES - have).min(data.len());
            self.prefix[have..have + part].copy_from_slice(&data[..part]);
            self.prefix_len += part as u8;
            *data = &data[part..];
            if have + part < PREFIX_BYTES {
                return Ok(None);
            }
            self.expected = length_of(&self.prefix, max_bytes)?;
            self.compressed = self.prefix[0] == 1;
        }
        let part = (self.expected - self.partial.len()).min(data.len());
        self.partial.extend_from_slice(&data[..part]);
        *data = &data[part..];
        if self.partial.len() < self.expected {
            return Ok(None);
        }
        self.prefix_len = 0;
        let bytes = Bytes::from(std::mem::take(&mut self.partial));
        Ok(Some(Message {
            compressed: self.compressed,
            bytes,
        }))
    }

    /// Nothing is begun: the stream may end here.
    pub fn is_between_messages(&self) -> bool {
        self.prefix_len == 0
    }

    pub fn held_bytes(&self) -> usize {
        self.partial.len()
    }
}

#[inline]
fn length_of(prefix: &[u8; PREFIX_BYTES], max_bytes: usize) -> Result<usize, Status> {
    if prefix[0] > 1 {
        return Err(Status::internal(format!(
            "grpc: received unexpected payload format {}",
            prefix[0]
        )));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > max_bytes && !planted(Fault::LimitIgnored) {
        let text = format!("grpc: received message larger than max ({length} vs. {max_bytes})");
        return Err(Status::new(Code::RESOURCE_EXHAUSTED, text));
    }
    Ok(length)
}

/// The prefix of a message to send.
#[inline]
pub(super) fn prefix(compressed: bool, length: usize) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [u8::from(compressed), a, b, c, d]
}
