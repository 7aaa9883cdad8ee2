//! The writing side: gathers records into batches, places them, and knows how far the log is durable.

use std::collections::VecDeque;
use std::io;

use proto::raftpb::{Entry, HardState};

use super::batch::Batch;
use super::buffer::{blocks_for, AlignedBuf, BLOCK_BYTES};
use super::config::{Config, ConfigError, FULL_DISK_RETRY_NS, IN_FLIGHT_MAX};
use super::failure::{AppendError, WalFailed};
use super::format::{BatchHeader, LogState, BATCH_HEADER_BYTES};
use super::read::{Marks, ReadJob};
use super::record::{self, Mark};
use super::recover::Tail;
use super::scrub::ScrubJob;
use super::segment::{FileOp, Segments};
use super::{Identity, LogPosition, SegmentId, Ticket};

/// A batch for the disk: a durable write of `buf` at `offset` of the segment, all or nothing as far as the log knows.
#[derive(Debug)]
pub struct Write {
    /// Given back with the result.
    pub tag: u64,
    pub segment: SegmentId,
    pub offset: u64,
    pub buf: AlignedBuf,
}

struct InFlight {
    sequence: u64,
    segment: SegmentId,
    block: u32,
    bytes: usize,
    ticket: u64,
    /// Last entry once this batch is durable, unless a later truncation takes it back.
    last_index: u64,
    /// Smallest entry index in it; 0 where a snapshot takes the place of all that came before.
    index_min: Option<u64>,
    seal: bool,
    done: bool,
}

/// The write-ahead log. See the module's documentation.
pub struct Wal {
    config: Config,
    identity: Identity,
    segments: Segments,
    marks: Marks,
    /// State after everything appended.
    state: LogState,
    last_ticket: u64,
    /// Gathering batches, oldest first; records go to the last one.
    queue: VecDeque<Batch>,
    in_flight: VecDeque<InFlight>,
    /// Bytes in `queue` and `in_flight`.
    pending_bytes: usize,
    durable: LogPosition,
    durable_ticket: u64,
    next_sequence: u64,
    previous_crc: u32,
    /// No batch of this incarnation was placed yet.
    opening: bool,
    /// The last batches hold data and nothing claims them durable.
    unsealed: bool,
    seal_at_ns: u64,
    full_disk_retry_ns: Option<u64>,
    free: Vec<AlignedBuf>,
    failed: Option<WalFailed>,
}

impl Wal {
    /// A log that goes on where recovery found its end.
    pub fn new(config: Config, identity: Identity, tail: Tail) -> Result<Wal, ConfigError> {
        config.check()?;
        if let Some(found) = tail.identity.filter(|found| *found != identity) {
            return Err(ConfigError::Identity {
                found,
                expected: identity,
            });
        }
        if tail.incarnation == Some(config.incarnation) {
            return Err(ConfigError::Incarnation);
        }
        let mut segments = Segments::new(
            identity,
            config.segment_bytes,
            config.incarnation,
            tail.live,
            tail.spares,
            tail.block,
        );
        segments.add_released(tail.released);
        Ok(Wal {
            config,
            identity,
            segments,
            marks: tail.marks,
            state: tail.state,
            last_ticket: 0,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            pending_bytes: 0,
            durable: tail.durable,
            durable_ticket: 0,
            next_sequence: tail.durable.batch + 1,
            previous_crc: tail.previous_crc,
            opening: true,
            unsealed: tail.unsealed,
            seal_at_ns: 0,
            full_disk_retry_ns: None,
            free: Vec::new(),
            failed: None,
        })
    }

    /// Appends entries and, after them, the hard state. An entry at or below the last index takes the place of it and of
    /// all that follow. All or nothing.
    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<Ticket, AppendError> {
        let mut bytes = if hard_state.is_some() {
            record::HARD_STATE_BYTES
        } else {
            0
        };
        bytes += self.check_entries(entries)?;
        if bytes == 0 {
            return Ok(Ticket(self.last_ticket));
        }
        self.admit(bytes)?;
        if let Some(first) = entries.first() {
            self.truncate(
                first.index.unwrap_or(0),
                record::entry_bytes(first).unwrap_or(0),
            );
        }
        for entry in entries {
            // Checked above: every entry has a size.
            let bytes = record::entry_bytes(entry).unwrap_or(0);
            self.batch_for(bytes).put_entry(entry);
        }
        if let Some(state) = hard_state {
            self.batch_for(record::HARD_STATE_BYTES)
                .put_hard_state(state);
        }
        Ok(self.appended(bytes))
    }

    /// Appends a mark. [`Mark::Start`] forgets every entry before it.
    pub fn append_mark(&mut self, mark: &Mark) -> Result<Ticket, AppendError> {
        let bytes = record::mark_bytes(mark);
        self.check_size(bytes.len())?;
        self.admit(bytes.len())?;
        if let Mark::Start { index, .. } = mark {
            self.truncate(index.saturating_add(1), bytes.len());
        }
        self.batch_for(bytes.len()).put_mark(mark, &bytes);
        Ok(self.appended(bytes.len()))
    }

    /// Checks that the entries follow the log and one another, and returns their size as records.
    fn check_entries(&self, entries: &[Entry]) -> Result<usize, AppendError> {
        let mut total = 0;
        let mut last_index = self.state.last_index;
        for (i, entry) in entries.iter().enumerate() {
            let index = entry.index.unwrap_or(0);
            let follows = if i == 0 {
                index > 0 && index <= last_index + 1
            } else {
                index == last_index + 1
            };
            if !follows {
                return Err(AppendError::OutOfOrder { last_index, index });
            }
            last_index = index;
            let bytes = record::entry_bytes(entry).unwrap_or(usize::MAX);
            self.check_size(bytes)?;
            total += bytes;
        }
        Ok(total)
    }

    fn check_size(&self, bytes: usize) -> Result<(), AppendError> {
        let limit_bytes = self.config.record_bytes_max();
        if bytes > limit_bytes {
            return Err(AppendError::TooLarge { bytes, limit_bytes });
        }
        Ok(())
    }

    fn admit(&self, bytes: usize) -> Result<(), AppendError> {
        if self.failed.is_some() {
            return Err(AppendError::Failed);
        }
        let limit_bytes = self.config.pending_bytes_max;
        // An append larger than the whole bound must be possible when nothing waits, or it never would be.
        if self.pending_bytes > 0 && self.pending_bytes + bytes > limit_bytes {
            return Err(AppendError::Full {
                pending_bytes: self.pending_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }

    fn appended(&mut self, bytes: usize) -> Ticket {
        self.last_ticket += 1;
        self.pending_bytes += bytes;
        if let Some(batch) = self.queue.back_mut() {
            batch.ticket = self.last_ticket;
            self.state = batch.after;
        }
        Ticket(self.last_ticket)
    }

    /// Entries from `index` on are replaced by a record of `bytes` that comes next: what was durable of them no longer
    /// counts. The batch which takes that record replaces them in the same write, so it is not clipped.
    fn truncate(&mut self, index: u64, bytes: usize) {
        if index > self.state.last_index {
            return;
        }
        let last_index = index.saturating_sub(1);
        self.durable.index = self.durable.index.min(last_index);
        for write in &mut self.in_flight {
            write.last_index = write.last_index.min(last_index);
        }
        self.batch_for(bytes);
        let earlier = self.queue.len() - 1;
        for batch in self.queue.iter_mut().take(earlier) {
            batch.durable_index_max = batch.durable_index_max.min(last_index);
        }
    }

    /// The batch that takes a record of `bytes`, a new one where the last one is full.
    fn batch_for(&mut self, bytes: usize) -> &mut Batch {
        let limit = self.config.batch_bytes_max;
        let fits = |batch: &Batch| {
            // A record beyond the limit has a batch of its own.
            let limit = if batch.is_empty() {
                batch.capacity()
            } else {
                limit.min(batch.capacity())
            };
            !batch.seal && batch.bytes() + bytes <= limit
        };
        if !self.queue.back().is_some_and(fits) {
            let (state, ticket) = match self.queue.back() {
                Some(batch) => (batch.after, batch.ticket),
                None => (self.state, self.last_ticket),
            };
            let buf = self.buffer(BATCH_HEADER_BYTES + bytes);
            self.queue.push_back(Batch::new(buf, state, ticket));
        }
        let last = self.queue.len() - 1;
        &mut self.queue[last]
    }

    fn buffer(&mut self, bytes: usize) -> AlignedBuf {
        if bytes <= self.config.batch_bytes_max {
            self.free
                .pop()
                .unwrap_or_else(|| AlignedBuf::with_capacity(self.config.batch_bytes_max))
        } else {
            AlignedBuf::with_capacity(bytes)
        }
    }

    /// Takes the buffer of a completed write back, to be used again.
    pub fn reuse(&mut self, buf: AlignedBuf) {
        let ordinary = blocks_for(self.config.batch_bytes_max) as usize * BLOCK_BYTES;
        if buf.capacity() == ordinary && self.free.len() <= self.config.in_flight_max {
            self.free.push(buf);
        }
    }

    /// The next write, which takes everything appended since the last one, up to the size of a batch. `None` while there is
    /// nothing to write, enough is under way, or no segment is ready for it.
    pub fn next_write(&mut self, now_ns: u64) -> Option<Write> {
        if self.failed.is_some() || self.in_flight.len() >= self.config.in_flight_max {
            return None;
        }
        let blocks = self.queue.front()?.blocks();
        let sequence = self.next_sequence;
        let place = self.segments.place(blocks, sequence)?;
        let batch = self.queue.pop_front()?;
        self.marks.note(&place, &batch);
        let write = InFlight {
            sequence,
            segment: place.segment,
            block: place.block,
            bytes: batch.bytes() - BATCH_HEADER_BYTES,
            ticket: batch.ticket,
            last_index: batch.after.last_index.min(batch.durable_index_max),
            index_min: if batch.starts {
                Some(0)
            } else {
                batch.index_min
            },
            seal: batch.seal,
            done: false,
        };
        let header = BatchHeader {
            identity: self.identity,
            segment: place.segment,
            nonce: place.nonce,
            sequence,
            incarnation: self.config.incarnation,
            claim: self.durable.batch,
            block: place.block,
            blocks,
            payload_bytes: 0,
            records: 0,
            before: LogState::default(),
            payload_crc: 0,
            previous_crc: self.previous_crc,
            seal: batch.seal,
            opening: self.opening,
        };
        let (buf, crc) = batch.seal_into(header);
        self.opening = false;
        self.previous_crc = crc;
        self.next_sequence += 1;
        self.unsealed = !write.seal;
        self.seal_at_ns = now_ns.saturating_add(self.config.seal_after_ns);
        self.in_flight.push_back(write);
        Some(Write {
            tag: sequence,
            segment: place.segment,
            offset: u64::from(place.block) * BLOCK_BYTES as u64,
            buf,
        })
    }

    /// A write completed. Durability advances over the completed prefix; a failure is final.
    pub fn write_done(&mut self, tag: u64, result: io::Result<()>) -> Result<(), WalFailed> {
        self.check_failed()?;
        let position = self
            .in_flight
            .iter()
            .position(|write| write.sequence == tag && !write.done);
        // Each tag is answered exactly once; an unknown one is a defect of the shell that carries the writes out.
        let position = position.expect("completion of a log write that is not under way");
        if let Err(error) = result {
            let write = &self.in_flight[position];
            let (segment, offset) = (write.segment, u64::from(write.block) * BLOCK_BYTES as u64);
            return Err(self.fail(segment, offset, "writing", &error));
        }
        self.in_flight[position].done = true;
        while self.in_flight.front().is_some_and(|write| write.done) {
            let Some(write) = self.in_flight.pop_front() else {
                break;
            };
            self.segments.note_index(write.segment, write.index_min);
            self.durable = LogPosition {
                segment: write.segment,
                batch: write.sequence,
                index: write.last_index,
            };
            self.durable_ticket = self.durable_ticket.max(write.ticket);
            self.pending_bytes -= write.bytes;
        }
        Ok(())
    }

    fn check_failed(&self) -> Result<(), WalFailed> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail(
        &mut self,
        segment: SegmentId,
        offset: u64,
        doing: &'static str,
        error: &io::Error,
    ) -> WalFailed {
        let failed = WalFailed {
            file: self.config.directory.join(segment.file_name()),
            offset,
            errno: error.raw_os_error(),
            doing,
            message: error.to_string(),
        };
        self.failed = Some(failed.clone());
        failed
    }

    /// The next change of the directory, to be carried out off the executor. One is out at a time.
    pub fn next_file_op(&mut self) -> Option<FileOp> {
        if self.failed.is_some() {
            return None;
        }
        self.segments.next_op()
    }

    /// A file operation ended. A full file system is not a failure: the log works on in the segments that it has, and
    /// tries again later ([`Wal::disk_full`]). Anything else is final.
    pub fn file_op_done(
        &mut self,
        tag: u64,
        result: io::Result<()>,
        now_ns: u64,
    ) -> Result<(), WalFailed> {
        self.check_failed()?;
        let running = self
            .segments
            .running()
            .filter(|(running, _)| *running == tag);
        let (_, segment) = running.expect("completion of a file operation that is not under way");
        match result {
            Ok(()) => {
                self.segments.op_done();
                Ok(())
            }
            Err(error) if is_disk_full(&error) && self.segments.op_found_disk_full() => {
                self.full_disk_retry_ns = Some(now_ns.saturating_add(FULL_DISK_RETRY_NS));
                Ok(())
            }
            Err(error) => Err(self.fail(segment, 0, "preparing or removing", &error)),
        }
    }

    /// Whether the last attempt to make a segment found the file system full.
    pub fn disk_full(&self) -> bool {
        self.segments.disk_full
    }

    /// Everything appended up to this ticket is durable.
    pub fn durable(&self) -> Ticket {
        Ticket(self.durable_ticket)
    }

    /// Last entry of the log as it is now that is durable with all before it.
    pub fn durable_index(&self) -> u64 {
        self.durable.index
    }

    /// Index of the last entry appended.
    pub fn last_index(&self) -> u64 {
        self.state.last_index
    }

    /// Whether a full batch could be placed now.
    pub fn has_room(&self) -> bool {
        self.segments
            .has_room(blocks_for(self.config.batch_bytes_max))
    }

    /// Bytes appended and not yet durable.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether so much waits to become durable that nothing should be appended that could as well be refused. The other half
    /// of the bound is for what cannot: votes, and what a leader adds by itself.
    pub fn is_congested(&self) -> bool {
        self.pending_bytes > self.config.pending_bytes_max / 2
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Changes how many writes may be under way at once, within 1 to [`IN_FLIGHT_MAX`].
    pub fn set_in_flight_max(&mut self, writes: usize) {
        self.config.in_flight_max = writes.clamp(1, IN_FLIGHT_MAX);
    }

    pub fn failed(&self) -> Option<&WalFailed> {
        self.failed.as_ref()
    }

    /// When [`Wal::on_timer`] has something to do, if nothing happens before.
    pub fn deadline_ns(&self) -> Option<u64> {
        if self.failed.is_some() {
            return None;
        }
        let idle = self.queue.is_empty() && self.in_flight.is_empty();
        let seal = (self.unsealed && idle).then_some(self.seal_at_ns);
        match (seal, self.full_disk_retry_ns) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Seals a log that has been idle long enough, and lets a segment be tried again on a file system that was full.
    pub fn on_timer(&mut self, now_ns: u64) {
        if self.failed.is_some() {
            return;
        }
        if self.full_disk_retry_ns.is_some_and(|at| at <= now_ns) {
            self.full_disk_retry_ns = None;
            self.segments.try_again();
        }
        if now_ns >= self.seal_at_ns {
            self.seal();
        }
    }

    /// Queues a seal, if the log is idle and its last batches are not claimed durable yet. At a clean shutdown it is called
    /// without waiting for the timer.
    pub fn seal(&mut self) {
        if self.unsealed
            && self.queue.is_empty()
            && self.in_flight.is_empty()
            && self.failed.is_none()
        {
            let buf = self.buffer(BATCH_HEADER_BYTES);
            let mut batch = Batch::new(buf, self.state, self.last_ticket);
            batch.seal = true;
            self.queue.push_back(batch);
            self.unsealed = false;
        }
    }

    /// A checkpoint's meta page that states `position` is durable: it claims what a seal would claim.
    pub fn checkpoint_covers(&mut self, position: LogPosition) {
        let last = self.next_sequence - 1;
        if position.batch >= last {
            self.unsealed = false;
        }
    }

    /// The durable end of the log: what a checkpoint's meta page may state at most (P10).
    pub fn position(&self) -> LogPosition {
        self.durable
    }

    /// The oldest segment that recovery needs if the tree holds everything up to entry `index`: what a meta page states as
    /// [`super::Expect::first_needed`]. `SegmentId(0)` while nothing is durable.
    pub fn first_needed(&self, index: u64) -> SegmentId {
        let needed = self.segments.first_needed(index).unwrap_or_default();
        needed.min(self.durable.segment)
    }

    /// Lets go of the segments before `first_needed`, to be recycled: both meta pages are past them and no follower reads
    /// them. The segment of the last durable batch stays in any case.
    pub fn release(&mut self, first_needed: SegmentId) {
        self.segments
            .release(first_needed.min(self.durable.segment));
        let oldest = self
            .segments
            .live()
            .front()
            .map_or(SegmentId(0), |s| s.id());
        self.marks.release(oldest);
    }

    /// Oldest entry that can be read back, `last_index + 1` if none can.
    pub fn first_index(&self) -> u64 {
        self.marks
            .first_index()
            .unwrap_or(self.state.last_index + 1)
    }

    /// Number of segments that hold batches, and of those prepared.
    pub fn segment_counts(&self) -> (usize, usize) {
        (self.segments.live().len(), self.segments.spares())
    }

    /// A job that reads one segment again from the device and checks it, for a scrub; only segments that take no more
    /// batches are scrubbed.
    pub fn scrub_job(&self, segment: SegmentId) -> Option<ScrubJob> {
        self.segments
            .sealed(segment)
            .filter(|_| segment < self.durable.segment)
            .map(|(segment, batches)| ScrubJob::new(self.identity, segment, batches))
    }

    /// Segments that hold batches, oldest first.
    pub fn segment_ids(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.segments.live().iter().map(|segment| segment.id())
    }

    /// A job that reads durable entries back, to be run off the executor: from `from_index` to `to_index`, both included,
    /// or fewer once their data exceed `max_bytes`, one at least. `None` if the first is not in the log or not durable.
    pub fn read_job(&self, from_index: u64, to_index: u64, max_bytes: u64) -> Option<ReadJob> {
        let to = to_index.min(self.durable.index);
        self.marks.job(
            self.identity,
            self.segments.live(),
            from_index,
            to,
            max_bytes,
        )
    }
}

pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
