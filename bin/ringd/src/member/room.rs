//! Writes that wait for room: in the log, or among the changed pages that a checkpoint is writing back. A burst beyond what
//! the disk takes is slowed down that way, as on etcd, and refused only when the disk does not follow for a while.

use super::propose::Caller;
use super::Member;
use crate::status::Status;
use engine::error::RequestError;
use proto::etcdserverpb::InternalRaftRequest;
use std::collections::VecDeque;

/// A write waits this long for room; then it is refused, without effect.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Writes that wait. Their bytes are bounded with those of all requests.
const WAITING_MAX: usize = 100_000;
/// Writes let in per turn: what they make of the room shows at its end.
const ADMITTED_PER_TURN_MAX: usize = 1_024;

struct Waiting {
    request: Box<InternalRaftRequest>,
    caller: Caller,
    until_ns: u64,
}

/// In the order of their arrival.
#[derive(Default)]
pub(super) struct Queue(VecDeque<Waiting>);

impl Queue {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Member {
    /// Whether one more write may go into the log.
    pub(super) fn has_room(&self) -> bool {
        self.wal.has_room() && !self.wal.is_congested() && !self.is_full()
    }

    pub(super) fn wait_for_room(
        &mut self,
        request: Box<InternalRaftRequest>,
        caller: Caller,
    ) -> Result<(), Status> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(RequestError::TooManyRequests.into());
        }
        self.waiting.0.push_back(Waiting {
            request,
            caller,
            until_ns: self.now_ns.saturating_add(PATIENCE_NS),
        });
        Ok(())
    }

    /// Lets writes in for which there is room now, and refuses those that waited too long.
    pub(super) fn admit_waiting(&mut self, now_ns: u64) {
        for _ in 0..ADMITTED_PER_TURN_MAX {
            let has_room = self.has_room() && !self.is_backlogged();
            let Some(first) = self.waiting.0.front() else {
                return;
            };
            if !has_room && now_ns < first.until_ns {
                return;
            }
            let Some(Waiting {
                request, caller, ..
            }) = self.waiting.0.pop_front()
            else {
                return;
            };
            let call = caller.call;
            let result = match has_room {
                true => self.propose_now(request, Some(caller)),
                false => Err(RequestError::TooManyRequests.into()),
            };
            if let Err(status) = result {
                self.reply(call, Err(status));
            }
        }
    }
}
