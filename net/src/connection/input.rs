//! Bytes to frames.

use crate::frame::{Error, Header, HEADER_BYTES};
use crate::limits;
use crate::planted::{planted, Fault};

/// Cuts frames out of whatever pieces the socket delivers. A frame that lies in one piece is borrowed from it; only a
/// torn one is gathered, so the buffer holds less than one frame of the accepted size.
#[derive(Debug, Default)]
pub struct Input {
    torn: Vec<u8>,
    /// `torn` holds a whole frame that was handed out: dropped at the next call.
    spent: bool,
}

impl Input {
    /// The next whole frame of `bytes`, which is moved behind it; `None` when more bytes are needed.
    #[inline]
    pub fn next<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<(Header, &'s [u8])>, Error> {
        if self.spent {
            self.torn.clear();
            self.spent = false;
        }
        if !self.torn.is_empty() {
            return self.next_torn(bytes);
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            self.torn.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(None);
        };
        let header = checked(head)?;
        let length = header.length as usize;
        if rest.len() < length {
            self.torn.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(None);
        }
        let (payload, rest) = rest.split_at(length);
        *bytes = rest;
        Ok(Some((header, payload)))
    }

    fn next_torn<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<(Header, &'s [u8])>, Error> {
        self.gather(bytes, HEADER_BYTES);
        let Some(head) = self.torn.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = checked(head)?;
        let total = HEADER_BYTES + header.length as usize;
        self.gather(bytes, total);
        if self.torn.len() < total {
            return Ok(None);
        }
        self.spent = true;
        if planted(Fault::TornFrame) {
            self.torn[total - 1] ^= 1;
        }
        Ok(Some((header, &self.torn[HEADER_BYTES..total])))
    }

    fn gather(&mut self, bytes: &mut &[u8], total: usize) {
        let missing = total.saturating_sub(self.torn.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(missing);
        self.torn.extend_from_slice(head);
        *bytes = rest;
    }

    /// Bytes of a torn frame held.
    pub fn held_bytes(&self) -> usize {
        if self.spent {
            0
        } else {
            self.torn.len()
        }
    }
}

/// The length is checked before a byte of the payload is read or kept.
#[inline]
fn checked(head: &[u8; HEADER_BYTES]) -> Result<Header, Error> {
    let header = Header::parse(head);
    if header.length > limits::FRAME_PAYLOAD_BYTES_MAX {
        return Err(Error::frame_size("frame longer than MAX_FRAME_SIZE"));
    }
    Ok(header)
}
