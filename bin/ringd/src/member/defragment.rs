//! Defragment: the end of the page file moves down, slice by slice, until the file can be cut. Reads and writes go on.
//!
//! A run waits for the compactions that were asked for before it, and for two checkpoints, after which what was deleted is
//! free. Then it walks the trees in idle moments and moves what lies beyond the mark. The checkpoints that follow cut the
//! file. If that made it much shorter another round may find more. Killed anywhere in it, the member has lost nothing:
//! each checkpoint is whole, and a page is used again only when both meta pages are past it.

use super::{read::encode, Member};
use crate::{request::CallId, status::Status};
use engine::{error::RequestError, page::Miss, tree::Defragment};
use proto::etcdserverpb as pb;

/// Leaves that one slice looks at, and bytes of large values that it moves: some 100 µs of work.
const SLICE_LEAVES_MAX: usize = 8;
const SLICE_BYTES_MAX: usize = 256 << 10;
/// Checkpoints after which the pages of what was deleted can be used again.
const SETTLING_CHECKPOINTS: u8 = 2;
/// Rounds of one run. The second one moves what the first had no room for.
const ROUNDS_MAX: u8 = 3;
/// Another round is made if the last one cut off at least one part in so many.
const WORTH_SHARE: u64 = 16;
/// Callers that wait for a run; the next one is told to slow down.
const CALLERS_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct Defragmentation {
    stage: Stage,
    rounds: u8,
    /// Bytes of the file when the round began.
    begun_bytes: u64,
    /// Who waits for the run under way, and who came later and gets one of their own.
    callers: Vec<CallId>,
    later: Vec<CallId>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// Until this compaction has removed its rows.
    Compacting {
        number: u64,
    },
    Settling {
        checkpoints: u8,
    },
    Moving(Defragment),
    Cutting,
}

impl Defragmentation {
    fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether checkpoints are to follow one another without a pause.
    fn wants_checkpoint(&self) -> bool {
        matches!(self.stage, Stage::Settling { .. } | Stage::Cutting)
    }
}

impl Member {
    pub(super) fn defragment(&mut self, call: CallId) {
        let waiting = self.defragmentation.callers.len() + self.defragmentation.later.len();
        if waiting >= CALLERS_MAX {
            return self.reply(call, Err(RequestError::TooManyRequests.into()));
        }
        if self.defragmentation.is_idle() {
            self.defragmentation.callers.push(call);
            self.begin_defragmentation();
        } else {
            self.defragmentation.later.push(call);
        }
    }

    fn begin_defragmentation(&mut self) {
        self.store.hold_relocation(true);
        self.defragmentation.rounds = 0;
        self.defragmentation.stage = Stage::Compacting {
            number: self.store.compactions_scheduled(),
        };
        self.defragmentation_compacted();
    }

    /// A compaction ended, or none was under way.
    pub(super) fn defragmentation_compacted(&mut self) {
        match self.defragmentation.stage {
            Stage::Compacting { number } if self.store.compactions_done() >= number => {}
            _ => return,
        }
        // The one that runs now was frozen before.
        let running = u8::from(self.checkpoints.is_running());
        self.defragmentation.stage = Stage::Settling {
            checkpoints: SETTLING_CHECKPOINTS + running,
        };
        self.checkpoints.force();
    }

    /// A checkpoint became durable.
    pub(super) fn defragmentation_checkpointed(&mut self) {
        match &mut self.defragmentation.stage {
            Stage::Idle | Stage::Compacting { .. } | Stage::Moving(_) => {}
            Stage::Settling { checkpoints } => {
                *checkpoints -= 1;
                if *checkpoints == 0 {
                    self.begin_moving();
                }
            }
            Stage::Cutting if self.store.pages().is_shrinking() => {}
            Stage::Cutting => self.round_ended(),
        }
        if self.defragmentation.wants_checkpoint() {
            self.checkpoints.force();
        }
    }

    fn begin_moving(&mut self) {
        self.defragmentation.begun_bytes = self.store.pages().file_bytes();
        match self.store.begin_defragment() {
            Some(walk) => self.defragmentation.stage = Stage::Moving(walk),
            // Nothing to move, and perhaps something to cut.
            None if self.defragmentation.rounds == 0 => self.cut_end(),
            None => self.end_defragmentation(Ok(())),
        }
    }

    fn cut_end(&mut self) {
        self.store.pages_mut().shrink();
        self.defragmentation.stage = Stage::Cutting;
    }

    fn round_ended(&mut self) {
        let (before, after) = (
            self.defragmentation.begun_bytes,
            self.store.pages().file_bytes(),
        );
        self.defragmentation.rounds += 1;
        let worth = before.saturating_sub(after) >= before / WORTH_SHARE;
        if worth && self.defragmentation.rounds < ROUNDS_MAX {
            self.begin_moving();
        } else {
            self.end_defragmentation(Ok(()));
        }
    }

    pub(super) fn is_defragmenting(&self) -> bool {
        !self.defragmentation.is_idle()
    }

    pub(super) fn is_moving(&self) -> bool {
        matches!(self.defragmentation.stage, Stage::Moving(_))
    }

    pub(super) fn move_slice(&mut self) -> Result<(), Miss> {
        let Stage::Moving(walk) = &mut self.defragmentation.stage else {
            return Ok(());
        };
        self.background.has_changed_pages = true;
        let more = self
            .store
            .defragment_step(walk, SLICE_LEAVES_MAX, SLICE_BYTES_MAX)?;
        if !more {
            self.defragmentation.stage = Stage::Cutting;
            self.checkpoints.force();
        }
        Ok(())
    }

    fn end_defragmentation(&mut self, result: Result<(), Status>) {
        if let Stage::Moving(walk) = &self.defragmentation.stage {
            self.store.end_defragment(walk);
        }
        self.defragmentation.stage = Stage::Idle;
        for call in std::mem::take(&mut self.defragmentation.callers) {
            let answer = |()| encode(&pb::DefragmentResponse::default());
            self.reply(call, result.clone().map(answer));
        }
        self.defragmentation.callers = std::mem::take(&mut self.defragmentation.later);
        if !self.defragmentation.callers.is_empty() {
            self.begin_defragmentation();
        }
    }

    /// Ends the run without its walk: a page is damaged, or the store was replaced.
    pub(super) fn abort_defragmentation(&mut self, error: RequestError) {
        if !self.defragmentation.is_idle() {
            self.end_defragmentation(Err(error.into()));
        }
    }

    /// The store's content was replaced: its page file is another one, in which nothing was begun.
    pub(super) fn reset_defragmentation(&mut self) {
        if !self.defragmentation.is_idle() {
            self.defragmentation.stage = Stage::Idle;
            self.end_defragmentation(Err(RequestError::LeaderChanged.into()));
        }
    }
}
