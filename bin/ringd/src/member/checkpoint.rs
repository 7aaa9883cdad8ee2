//! When the tree is written back, and what that frees.

use super::{Effect, Member};
use crate::planted::{planted, Fault};
use engine::{
    page::{CheckpointDone, CheckpointJob},
    store::meta::LogMark,
    wal::{LogPosition, SegmentId},
};
use proto::raftpb::Entry;
use std::io;

/// Changed pages in memory, of the generation being written back and the next one together: so many times what begins a
/// checkpoint, and at least so many bytes.
const DIRTY_TIMES_MAX: u64 = 3;
const DIRTY_BYTES_MAX_MIN: u64 = 8 << 20;

/// A running checkpoint is to be done when four fifths of the way to the next one have passed: its flush comes after its
/// writes.
const NEXT_DUE_THOUSANDTHS: u64 = 1250;

/// Time between two attempts to make the page file longer on a full file system.
const FULL_DISK_RETRY_NS: u64 = 1_000_000_000;
/// Changed bytes at which a checkpoint begins while the page file has only its reserve: a part of that.
const SHORT_DIRTY_BYTES: u64 = 2 << 20;

/// Applied entries that the log keeps for other members, unless they fill more than [`RETAINED_SEGMENTS_MAX`] segments.
const RETAINED_ENTRIES: u64 = 5_000;
const RETAINED_SEGMENTS_MAX: u64 = 2;

/// When a checkpoint begins: whichever comes first. Until it is durable a restart applies what it was to hold, and what
/// came after: at most about twice the log that is named here.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub dirty_bytes: u64,
    /// Bytes of the entries.
    pub log_bytes: u64,
    /// Segments that the log went on to: a batch fills whole blocks, so that a lone client's puts take many times the bytes of
    /// their entries. What a checkpoint lets go of is enough for the next segments then, and none has to be filled anew.
    pub log_segments: u64,
    pub interval_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            dirty_bytes: 80 << 20,
            log_bytes: 24 << 20,
            log_segments: 2,
            interval_ns: 30_000_000_000,
        }
    }
}

pub(super) struct Checkpoints {
    thresholds: Thresholds,
    running: Option<Covered>,
    /// What the two meta pages cover; the older one decides which segments may go.
    last: Option<Covered>,
    last_begun_ns: u64,
    last_applied: u64,
    forced: bool,
    /// Entry bytes given to the log since the last checkpoint began.
    logged_bytes: u64,
    /// Where the log was when the last checkpoint began, or when this process first asked.
    begun_in: Option<SegmentId>,
    /// A checkpoint that found no room in the file system, and when it is tried again.
    full: Option<(Box<CheckpointJob>, u64)>,
    /// The last one found no room for the page file's reserve.
    is_short: bool,
    /// The operator was told that the file system is full.
    told_full: bool,
    /// The alarm for that is still to be taken by the log.
    alarm_wanted: bool,
}

#[derive(Clone, Copy)]
struct Covered {
    position: LogPosition,
    first_needed: SegmentId,
}

impl Checkpoints {
    pub fn new(thresholds: Thresholds) -> Checkpoints {
        Checkpoints {
            thresholds,
            running: None,
            last: None,
            last_begun_ns: 0,
            last_applied: 0,
            forced: false,
            logged_bytes: 0,
            begun_in: None,
            full: None,
            is_short: false,
            told_full: false,
            alarm_wanted: false,
        }
    }

    pub fn note_logged(&mut self, entries: &[Entry]) {
        let bytes = |entry: &Entry| entry.data.as_ref().map_or(0, |data| data.len()) as u64;
        self.logged_bytes += entries.iter().map(bytes).sum::<u64>();
    }

    /// Whether the file system has no room for the page file's reserve.
    pub fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    pub fn alarm_taken(&mut self) {
        self.alarm_wanted = false;
    }

    /// Whether this process has begun none yet.
    pub fn is_first(&self) -> bool {
        self.last_applied == 0
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The page file is another one, and is to say soon which log it goes with.
    pub fn begin_anew(&mut self) {
        self.last = None;
        self.last_applied = 0;
        self.forced = true;
    }

    /// Has one begin as soon as it can, whether anything was applied since the last one or not.
    pub fn force(&mut self) {
        self.forced = true;
    }
}

impl Member {
    /// The oldest segment that stays, if recovery needs those from `needed` on. Where there are other members, those that
    /// are a little behind catch up from the log.
    fn retained(&self, needed: SegmentId) -> SegmentId {
        if self.store.members().nth(1).is_none() {
            return needed;
        }
        let (applied, _) = self.store.applied();
        let wanted = self
            .wal
            .first_needed(applied.saturating_sub(RETAINED_ENTRIES));
        let most = SegmentId(needed.0.saturating_sub(RETAINED_SEGMENTS_MAX));
        let wanted_from = self.snapshots.log_wanted().into_iter();
        let kept = match wanted_from.chain(self.rebuild.log_wanted()).min() {
            Some(first) => self.wal.first_needed(first.saturating_sub(1)),
            None => needed,
        };
        wanted.max(most).min(needed).min(kept)
    }

    /// Changed pages are held in memory until they are written back; at this much, writes wait.
    pub(super) fn is_full(&self) -> bool {
        self.changed_bytes() >= self.changed_bytes_max()
    }

    /// Whether applying has to wait for a checkpoint, from half as much more on: a leader has refused proposals before, but
    /// a follower takes what comes, and where a checkpoint hangs its memory would fill.
    pub(super) fn is_overfull(&self) -> bool {
        let most = self.changed_bytes_max();
        self.changed_bytes() >= most + most / 2
    }

    /// How much of their bound the changed pages take, in percent: the closer to it, the faster a checkpoint has to be.
    pub fn checkpoint_pressure(&self) -> u64 {
        self.changed_bytes() * 100 / self.changed_bytes_max()
    }

    fn changed_bytes_max(&self) -> u64 {
        let begins_at = self.checkpoints.thresholds.dirty_bytes;
        (begins_at * DIRTY_TIMES_MAX).max(DIRTY_BYTES_MAX_MIN)
    }

    fn changed_bytes(&self) -> u64 {
        let pages = self.store.pages();
        pages.dirty_bytes() + pages.frozen_bytes()
    }

    /// Whether background work may change pages: what it changes is held in memory as well, so it waits for a checkpoint
    /// rather than have proposals wait.
    pub(super) fn has_room_for_background(&self) -> bool {
        self.store.pages().dirty_bytes() < self.checkpoints.thresholds.dirty_bytes
    }

    pub(super) fn maybe_checkpoint(&mut self, now_ns: u64) {
        self.store.pages_mut().shed_memory();
        if self.checkpoints.running.is_some() {
            let thousandths = self.next_checkpoint_due();
            return self.store.pages().press_checkpoint(thousandths);
        }
        let (applied, _) = self.store.applied();
        let segments = self.segments_since_checkpoint();
        let checkpoints = &self.checkpoints;
        let dirty_bytes = self.store.pages().dirty_bytes();
        // Background work changes pages without an entry.
        let nothing_new = applied == checkpoints.last_applied && dirty_bytes == 0;
        if self.halted
            || self.snapshots.is_installing()
            || self.rebuild.is_detached()
            || self.store.is_applying()
            || (nothing_new && !checkpoints.forced && !self.log_wants_checkpoint())
        {
            return;
        }
        let limits = &checkpoints.thresholds;
        let due = checkpoints.forced
            || dirty_bytes >= limits.dirty_bytes
            || (checkpoints.is_short && dirty_bytes >= SHORT_DIRTY_BYTES)
            || checkpoints.logged_bytes >= limits.log_bytes
            || segments >= limits.log_segments
            || now_ns.saturating_sub(checkpoints.last_begun_ns) >= limits.interval_ns
            || self.log_wants_checkpoint();
        // No meta page may state a position beyond what this member's own log has made durable.
        let is_ahead = self.wal.durable_index() < applied && !planted(Fault::CheckpointAhead);
        if !due || is_ahead {
            return;
        }
        let first_needed = self.wal.first_needed(applied);
        let position = self.wal.position();
        let mark = LogMark {
            position: position.to_bytes().to_vec().into(),
            first_needed_segment: first_needed.0,
            restarts: false,
        };
        self.hold_relocation();
        if let Some(job) = self.store.begin_checkpoint(mark) {
            self.checkpoints.running = Some(Covered {
                position,
                first_needed,
            });
            self.checkpoints.last_begun_ns = now_ns;
            self.checkpoints.last_applied = applied;
            self.checkpoints.forced = false;
            self.checkpoints.logged_bytes = 0;
            self.checkpoints.begun_in = Some(position.segment);
            self.effects.push(Effect::Checkpoint(job));
        }
    }

    fn segments_since_checkpoint(&mut self) -> u64 {
        let now = self.wal.position().segment;
        let begun_in = self.checkpoints.begun_in.get_or_insert(now);
        now.0.saturating_sub(begun_in.0)
    }

    /// How far the changes since the running checkpoint began have come on the way to the next one, in thousandths.
    fn next_checkpoint_due(&mut self) -> u32 {
        let segments = self.segments_since_checkpoint();
        let limits = &self.checkpoints.thresholds;
        let share = |bytes: u64, of: u64| bytes.saturating_mul(NEXT_DUE_THOUSANDTHS) / of.max(1);
        let dirty = share(self.store.pages().dirty_bytes(), limits.dirty_bytes);
        let logged = share(self.checkpoints.logged_bytes, limits.log_bytes);
        let moved_on = share(segments, limits.log_segments);
        u32::try_from(dirty.max(logged).max(moved_on)).unwrap_or(u32::MAX)
    }

    /// On a full file system the log goes on in segments that are needed no more. Whether another checkpoint would give
    /// it some.
    fn log_wants_checkpoint(&self) -> bool {
        let (applied, _) = self.store.applied();
        let oldest = self.wal.segment_ids().next();
        self.wal.disk_full()
            && oldest < Some(self.retained(self.wal.first_needed(applied)))
            && self.wal.durable_index() >= applied
    }

    /// The file system is full but for what was set aside: the rest of the log's segments, and the page file's reserve.
    /// What makes room may use that, and nothing else.
    pub(super) fn is_at_reserve(&self) -> bool {
        self.wal.disk_full() || self.checkpoints.is_short || self.checkpoints.full.is_some()
    }

    /// Reports a file system that became full, or has room again. The alarm stays until it is lifted.
    pub(super) fn look_at_space(&mut self) {
        let is_full = self.is_at_reserve();
        if is_full == std::mem::replace(&mut self.checkpoints.told_full, is_full) {
            return;
        }
        let file = self.store.pages().file_name();
        self.notices.push(match is_full {
            true => format!(
                "the file system of {file} or of the log is full: only what makes room is accepted, from a reserve. \
                 Free space, then lift the NOSPACE alarm if it is raised"
            ),
            false => format!(
                "the file system of {file} and of the log has room again: lift the NOSPACE alarm if it is raised"
            ),
        });
        // Once each time: after it was lifted only a refused write raises it again.
        self.checkpoints.alarm_wanted = is_full;
        if is_full {
            self.raise_disk_full();
        }
    }

    /// No room to make the page file longer. Nothing was written; it is tried again until there is.
    pub(super) fn checkpoint_found_full(&mut self, job: Box<CheckpointJob>, now_ns: u64) {
        self.checkpoints.full = Some((job, now_ns + FULL_DISK_RETRY_NS));
        self.look_at_space();
    }

    pub(super) fn retry_full_checkpoint(&mut self, now_ns: u64) {
        if self.checkpoints.alarm_wanted {
            // Nobody may write meanwhile who would bring it about.
            self.raise_disk_full();
        }
        let due = |(_, at_ns): &mut (Box<CheckpointJob>, u64)| *at_ns <= now_ns;
        if let Some((job, _)) = self.checkpoints.full.take_if(due) {
            self.effects.push(Effect::Checkpoint(*job));
        }
    }

    pub(super) fn checkpointed(&mut self, result: io::Result<CheckpointDone>) {
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                return self.halt(format!(
                    "writing a checkpoint of the page file failed: {error}. Nothing acknowledged is lost: the log holds \
                     it; check the disk and start again"
                ))
            }
        };
        self.checkpoints.set_short(done.is_short_of_space());
        self.store.pages_mut().checkpoint_done(done);
        self.look_at_space();
        let Some(covered) = self.checkpoints.running.take() else {
            return;
        };
        // Falling back to the older meta page must find its log: only what both are past may go.
        if let Some(older) = self.checkpoints.last.replace(covered) {
            self.wal.release(self.retained(older.first_needed));
            self.node.compact(self.wal.first_index().saturating_sub(1));
        }
        self.wal.checkpoint_covers(covered.position);
        self.start_snapshots();
        self.start_backups();
        self.defragmentation_checkpointed();
    }
}
