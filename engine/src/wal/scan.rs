//! Reading batches from segment files, each checked before it is used.

use std::io;

use bytes::Bytes;

use super::ahead::Ahead;
use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::dir::LogDir;
use super::format::{BatchHeader, BATCH_HEADER_BYTES};
use super::{Identity, SegmentId};

/// What a reader knows of a segment from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentView {
    pub id: SegmentId,
    pub nonce: u64,
    /// Length in blocks, the header's included.
    pub blocks: u32,
}

/// A place in the log whose reading failed.
#[derive(Debug)]
pub(super) struct ReadFailed {
    pub segment: SegmentId,
    pub offset: u64,
    pub error: io::Error,
}

/// Reads blocks of segments through a window, as one sequential read after another.
pub(super) struct Reader<'a> {
    dir: &'a dyn LogDir,
    identity: Identity,
    window: AlignedBuf,
    window_at: Option<(SegmentId, u32)>,
    ahead: Option<Ahead>,
}

impl<'a> Reader<'a> {
    pub fn new(dir: &'a dyn LogDir, identity: Identity, window_bytes: usize) -> Reader<'a> {
        Reader {
            dir,
            identity,
            window: AlignedBuf::zeroed(window_bytes.max(BLOCK_BYTES)),
            window_at: None,
            ahead: None,
        }
    }

    /// Has the next window read while this one is looked at.
    pub fn read_ahead(&mut self, ahead: Option<Ahead>) {
        self.ahead = ahead;
    }

    pub fn window_bytes(&self) -> usize {
        self.window.len()
    }

    /// One block; beyond the end of the file it is zero.
    pub fn block(&mut self, segment: SegmentId, block: u32) -> Result<&[u8], ReadFailed> {
        let blocks = (self.window.len() / BLOCK_BYTES) as u32;
        let hit = self
            .window_at
            .filter(|(id, at)| *id == segment && block >= *at && block - *at < blocks);
        let at = match hit {
            Some((_, at)) => at,
            None => {
                self.fill(segment, block)?;
                block
            }
        };
        let from = (block - at) as usize * BLOCK_BYTES;
        Ok(&self.window.as_slice()[from..from + BLOCK_BYTES])
    }

    fn fill(&mut self, segment: SegmentId, block: u32) -> Result<(), ReadFailed> {
        self.window_at = None;
        let offset = u64::from(block) * BLOCK_BYTES as u64;
        let window = &mut self.window;
        let early = self.ahead.as_mut();
        let early = early.and_then(|ahead| ahead.take(segment, offset, window));
        let read =
            early.unwrap_or_else(|| self.dir.read_at(segment, offset, window.as_mut_slice()));
        let read = read.map_err(|error| ReadFailed {
            segment,
            offset,
            error,
        })?;
        if let Some(ahead) = self.ahead.as_mut().filter(|_| read == window.len()) {
            ahead.ask(segment, offset + read as u64);
        }
        self.window.as_mut_slice()[read..].fill(0);
        self.window_at = Some((segment, block));
        Ok(())
    }

    /// The header of a batch of this log and this life of the segment that lies at `block`, if one does and fits there.
    pub fn header(
        &mut self,
        segment: &SegmentView,
        block: u32,
    ) -> Result<Option<(BatchHeader, u32)>, ReadFailed> {
        if block == 0 || block >= segment.blocks {
            return Ok(None);
        }
        let identity = self.identity;
        let parsed = BatchHeader::parse(self.block(segment.id, block)?);
        Ok(parsed.filter(|(header, _)| {
            header.identity == identity
                && header.segment == segment.id
                && header.nonce == segment.nonce
                && header.block == block
                && header.blocks <= segment.blocks - block
        }))
    }

    /// The payload of the batch with this header, if its CRC is right. The length is bounded by the segment's.
    pub fn payload(
        &mut self,
        segment: &SegmentView,
        header: &BatchHeader,
    ) -> Result<Option<Bytes>, ReadFailed> {
        let len = header.payload_bytes as usize;
        let mut payload = Vec::with_capacity(len);
        let mut from = BATCH_HEADER_BYTES;
        for block in header.block..header.block + header.blocks {
            let bytes = self.block(segment.id, block)?;
            let to = (from + len - payload.len()).min(BLOCK_BYTES);
            payload.extend_from_slice(&bytes[from..to]);
            from = 0;
        }
        Ok((crc32fast::hash(&payload) == header.payload_crc).then(|| Bytes::from(payload)))
    }
}
