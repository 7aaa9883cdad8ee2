//! The index of a checkpoint: which runs it wrote, and which pages are free (FORMAT.md, "Checkpoint index").

use crate::page::{u32_at, Extent, PageNo, META_PAGES};

const COUNTS: usize = 12;
const WRITTEN: usize = 12;
pub(super) const EXTENT: usize = 8;

/// Contiguous pages written by a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub extent: Extent,
    /// Over all bytes of the run: ties the pages to this very checkpoint.
    pub crc: u32,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub written: Vec<Written>,
    pub free: Vec<Extent>,
    /// Pages that this checkpoint no longer needs but the one before does.
    pub retired: Vec<Extent>,
}

/// Bytes of an index with so many runs at most; one more for what stays over of its own reservation.
pub(super) fn bytes_max(written: usize, extents: usize) -> usize {
    COUNTS + written * WRITTEN + (extents + 1) * EXTENT
}

impl Index {
    pub(super) fn bytes(&self) -> usize {
        COUNTS + self.written.len() * WRITTEN + (self.free.len() + self.retired.len()) * EXTENT
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        for count in [self.written.len(), self.free.len(), self.retired.len()] {
            out.extend_from_slice(&(count as u32).to_le_bytes());
        }
        let mut put = |extent: &Extent, crc: Option<u32>| {
            out.extend_from_slice(&extent.start.0.to_le_bytes());
            out.extend_from_slice(&extent.pages.to_le_bytes());
            if let Some(crc) = crc {
                out.extend_from_slice(&crc.to_le_bytes());
            }
        };
        self.written
            .iter()
            .for_each(|w| put(&w.extent, Some(w.crc)));
        self.free
            .iter()
            .chain(&self.retired)
            .for_each(|e| put(e, None));
        out
    }

    /// Reads the payload of an index whose checksum held, for a file of `high` pages.
    pub(super) fn decode(payload: &[u8], high: u32) -> Result<Index, &'static str> {
        if payload.len() < COUNTS {
            return Err("the index is too short");
        }
        let count = |at: usize| u32_at(payload, at) as usize;
        let (written, free, retired) = (count(0), count(4), count(8));
        let extents = free.saturating_add(retired);
        let needed = written
            .saturating_mul(WRITTEN)
            .saturating_add(extents.saturating_mul(EXTENT));
        if payload.len() - COUNTS < needed {
            return Err("the index states more than it holds");
        }
        let extent = |at: usize| Extent {
            start: PageNo(u32_at(payload, at)),
            pages: u32_at(payload, at + 4),
        };
        let run = |n: usize| Written {
            extent: extent(COUNTS + n * WRITTEN),
            crc: u32_at(payload, COUNTS + n * WRITTEN + 8),
        };
        let written: Vec<Written> = (0..written).map(run).collect();
        let base = COUNTS + written.len() * WRITTEN;
        let mut free: Vec<Extent> = (0..extents).map(|n| extent(base + n * EXTENT)).collect();
        let outside = |e: &Extent| e.start.0 < META_PAGES || e.pages == 0 || e.end() > high;
        if written.iter().any(|w| outside(&w.extent)) || free.iter().any(outside) {
            return Err("the index names pages outside of the file");
        }
        let retired = free.split_off(free.len() - retired);
        Ok(Index {
            written,
            free,
            retired,
        })
    }
}
