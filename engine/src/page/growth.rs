//! Making the file longer before anything needs it, so that a full file system shows while there is still a reserve.

use super::{PageFile, Pages};
use std::{io, sync::Arc};

/// Allocates what the pages in use need, and the reserve behind it. Runs on any thread.
pub struct GrowJob {
    file: Arc<dyn PageFile>,
    bytes: u64,
}

impl GrowJob {
    /// Bytes that the file is to have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the file that are there then. "No space left" is no failure: [`Pages::grow_done`] takes it.
    pub fn run(self) -> io::Result<u64> {
        self.file.grow(self.bytes)?;
        Ok(self.bytes)
    }
}

impl Pages {
    /// A job that makes the file longer, if it is shorter than what is in use and the reserve. None while one is under way,
    /// or while the file is being cut.
    pub fn grow_job(&mut self) -> Option<GrowJob> {
        let reserve = self.options.reserve_bytes;
        if reserve == 0 || self.is_growing || self.is_shrinking() || self.is_read_only() {
            return None;
        }
        let step = self.options.growth_bytes.max(1);
        let bytes = self.file_bytes().div_ceil(step) * step + reserve;
        if bytes <= self.allocated_bytes {
            return None;
        }
        self.is_growing = true;
        let file = self.file.clone();
        Some(GrowJob { file, bytes })
    }

    pub fn grow_done(&mut self, result: &io::Result<u64>) {
        self.is_growing = false;
        if let Ok(bytes) = result {
            self.allocated_bytes = self.allocated_bytes.max(*bytes);
        }
    }

    /// The file's length was looked up.
    pub(crate) fn note_length(&mut self, bytes: u64) {
        self.allocated_bytes = bytes;
    }
}
