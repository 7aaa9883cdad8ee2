//! A batch while it gathers records.

use proto::raftpb::{Entry, HardState};

use super::buffer::{blocks_for, AlignedBuf};
use super::format::{BatchHeader, LogState, BATCH_HEADER_BYTES};
use super::record::{self, Mark};

/// Records encoded straight into the buffer that will be written: the one copy that an entry's data sees.
pub(super) struct Batch {
    buf: AlignedBuf,
    records: u32,
    pub before: LogState,
    /// State after the last record so far.
    pub after: LogState,
    /// Smallest entry index in the batch: tells a truncation of earlier batches.
    pub index_min: Option<u64>,
    /// A snapshot took the place of the log here: earlier entries are gone whatever their index.
    pub starts: bool,
    /// A truncation appended later took back everything after this index.
    pub durable_index_max: u64,
    /// Last append that is complete with this batch.
    pub ticket: u64,
    pub seal: bool,
}

impl Batch {
    pub fn new(mut buf: AlignedBuf, state: LogState, ticket: u64) -> Batch {
        buf.clear();
        buf.resize(BATCH_HEADER_BYTES);
        Batch {
            buf,
            records: 0,
            before: state,
            after: state,
            index_min: None,
            starts: false,
            durable_index_max: u64::MAX,
            ticket,
            seal: false,
        }
    }

    /// Length so far, header included.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    pub fn blocks(&self) -> u32 {
        blocks_for(self.buf.len())
    }

    pub fn put_entry(&mut self, entry: &Entry) {
        record::put_entry(&mut self.buf, entry);
        self.records += 1;
        let index = entry.index.unwrap_or(0);
        self.after.last_index = index;
        self.after.last_term = entry.term.unwrap_or(0);
        self.index_min = Some(self.index_min.map_or(index, |min| min.min(index)));
    }

    pub fn put_hard_state(&mut self, state: &HardState) {
        record::put_hard_state(&mut self.buf, state);
        self.records += 1;
        self.after.term = state.term.unwrap_or(0);
        self.after.vote = state.vote.unwrap_or(0);
        self.after.commit = state.commit.unwrap_or(0);
    }

    pub fn put_mark(&mut self, mark: &Mark, bytes: &[u8]) {
        self.buf.put(bytes);
        self.records += 1;
        if let Mark::Start { index, term } = *mark {
            self.after.last_index = index;
            self.after.last_term = term;
            self.index_min = None;
            self.starts = true;
        }
    }

    /// Pads the batch, completes and writes its header, and hands the bytes over. Returns the CRC of the header too.
    pub fn seal_into(mut self, mut header: BatchHeader) -> (AlignedBuf, u32) {
        let payload_bytes = self.buf.len() - BATCH_HEADER_BYTES;
        // A batch is smaller than its segment, whose length the configuration keeps below 4 GiB.
        header.payload_bytes = payload_bytes as u32;
        header.blocks = self.blocks();
        header.records = self.records;
        header.before = self.before;
        header.seal = self.seal;
        header.payload_crc = crc32fast::hash(&self.buf.as_slice()[BATCH_HEADER_BYTES..]);
        self.buf.pad_to_block();
        let crc = header.encode(self.buf.as_mut_slice());
        (self.buf, crc)
    }
}
