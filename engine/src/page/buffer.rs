//! Memory for direct I/O.

use super::PAGE_BYTES;

/// Zeroed bytes that start on a page boundary, as direct I/O wants them.
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    pub fn zeroed(len: usize) -> AlignedBuf {
        let raw = vec![0; len + PAGE_BYTES];
        // `align_offset` may decline by contract; the file then refuses the direct read, and nothing is misread.
        let start = match raw.as_ptr().align_offset(PAGE_BYTES) {
            offset if offset < PAGE_BYTES => offset,
            _ => 0,
        };
        AlignedBuf { raw, start, len }
    }

    pub fn copy_of(bytes: &[u8]) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.raw[self.start..][..self.len]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..][..self.len]
    }
}
