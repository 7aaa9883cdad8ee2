//! Bytes that wait for the socket.

use crate::limits;

#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    consumed: usize,
    /// Bytes that the socket has taken since the connection began.
    taken_bytes: u64,
    /// Frames that the peer provoked since the buffer was last empty.
    control_frames: u32,
}

impl Output {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.consumed
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that waits, contiguous.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// The same for vectored writes.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.bytes()).filter(|chunk| !chunk.is_empty())
    }

    /// The first `count` bytes were written.
    pub fn consume(&mut self, count: usize) {
        self.consumed += count;
        self.taken_bytes += count as u64;
        debug_assert!(self.consumed <= self.bytes.len());
        if self.consumed >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(limits::OUTPUT_KEPT_BYTES);
            self.consumed = 0;
            self.control_frames = 0;
        } else if self.consumed >= limits::OUTPUT_KEPT_BYTES && self.consumed >= self.len() {
            // A peer that reads, but never all of it, must not make the buffer grow: no more is moved than was sent.
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
    }

    /// Moves everything that waits into `empty`, whose memory is used for what comes next: for a driver that writes
    /// from a buffer of its own while the connection goes on.
    pub fn swap(&mut self, empty: &mut Vec<u8>) {
        debug_assert!(empty.is_empty());
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.taken_bytes += self.bytes.len() as u64;
        self.control_frames = 0;
        empty.clear();
        std::mem::swap(&mut self.bytes, empty);
    }

    /// Bytes that the socket has taken since the connection began.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How many more bytes of DATA may be appended.
    pub(super) fn room(&self) -> usize {
        limits::OUTPUT_BYTES_MAX.saturating_sub(self.len())
    }

    /// Counts an answer that the peer provoked; false when too many wait.
    pub(super) fn count_control_frame(&mut self) -> bool {
        self.control_frames += 1;
        self.control_frames <= limits::CONTROL_FRAMES_QUEUED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_empty_does_not_grow() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(&[0; 100_000]);
        for round in 0..1_000u32 {
            output.buffer().extend_from_slice(&[round as u8; 10_000]);
            let sent = output.bytes()[0];
            output.consume(10_000);
            assert_eq!(sent, round.saturating_sub(10) as u8);
        }
        assert_eq!(output.len(), 100_000);
        assert_eq!(output.taken_bytes(), 10_000_000);
        assert!(output.bytes.capacity() < 1_000_000);
    }
}
