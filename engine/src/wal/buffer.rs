//! Memory that direct I/O accepts: aligned to the block, a whole number of blocks long.

/// Unit of placement and alignment in the log, in bytes. Direct I/O on every common device accepts 4 KiB; 512 bytes and
/// 4 KiB cost a device the same.
pub const BLOCK_BYTES: usize = 4096;

/// Number of blocks that `bytes` bytes fill, the last one perhaps partly.
pub fn blocks_for(bytes: usize) -> u32 {
    // A batch is bounded by its segment, whose blocks are counted in u32 (checked by the configuration).
    bytes.div_ceil(BLOCK_BYTES) as u32
}

/// A growable-within-capacity byte buffer whose first byte lies on a block boundary.
///
/// The alignment is found inside a larger allocation, so no `unsafe` is needed; the allocation is zeroed lazily by the
/// system and never moves while the buffer lives.
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
    len: usize,
    capacity: usize,
}

impl AlignedBuf {
    /// An empty buffer for `bytes` bytes, rounded up to whole blocks.
    pub fn with_capacity(bytes: usize) -> AlignedBuf {
        let capacity = bytes.div_ceil(BLOCK_BYTES).max(1) * BLOCK_BYTES;
        let raw = vec![0u8; capacity + BLOCK_BYTES];
        let past = raw.as_ptr() as usize % BLOCK_BYTES;
        let start = (BLOCK_BYTES - past) % BLOCK_BYTES;
        AlignedBuf {
            raw,
            start,
            len: 0,
            capacity,
        }
    }

    /// A buffer of `bytes` zero bytes.
    pub fn zeroed(bytes: usize) -> AlignedBuf {
        let mut buf = AlignedBuf::with_capacity(bytes);
        buf.len = bytes;
        buf
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }

    /// Appends `bytes`. The caller has made sure that they fit (`capacity`).
    pub fn put(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        assert!(
            self.len + bytes.len() <= self.capacity,
            "record larger than its batch buffer"
        );
        self.raw[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends zeros until the length is `len`, or cuts down to it.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity, "length beyond the buffer's capacity");
        if len > self.len {
            self.raw[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }

    /// Appends zeros up to the next block boundary.
    pub fn pad_to_block(&mut self) {
        self.resize(self.len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES);
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_lies_on_a_block_boundary() {
        for bytes in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let buf = AlignedBuf::zeroed(bytes);
            assert_eq!(buf.as_slice().as_ptr() as usize % BLOCK_BYTES, 0);
            assert!(buf.capacity() >= bytes && buf.capacity() % BLOCK_BYTES == 0);
        }
    }

    #[test]
    fn padding_overwrites_what_a_reused_buffer_held() {
        let mut buf = AlignedBuf::with_capacity(BLOCK_BYTES);
        buf.put(&[0xff; BLOCK_BYTES]);
        buf.clear();
        buf.put(b"abc");
        buf.pad_to_block();
        assert_eq!(buf.len(), BLOCK_BYTES);
        assert_eq!(&buf.as_slice()[..3], b"abc");
        assert!(buf.as_slice()[3..].iter().all(|b| *b == 0));
    }
}
