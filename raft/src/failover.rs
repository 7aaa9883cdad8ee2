//! Fast failover: the process of the leader is known to be dead, so why wait for the election timeout?
//!
//! The evidence is the embedding's: the connection to the leader closed, and the reconnect was refused. It concerns the
//! leader and the term of that connection. The node then forgets the leader at once and stands for election, with
//! PreVote, after a random delay. Followers with the same evidence grant the PreVote; one without holds to its lease,
//! and then nothing has happened. If votes split, one more delay is drawn; after that the election timers decide.

use crate::node::{Node, Role};

/// Shortest delay before a node stands for election on evidence, ms.
pub const FAILOVER_DELAY_MS_MIN: u32 = 5;
/// Longest delay, ms.
pub const FAILOVER_DELAY_MS_MAX: u32 = 50;

/// How far a fast failover has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Failover {
    #[default]
    Idle,
    /// The first delay runs.
    Armed,
    /// It stood once; a second delay runs in case the votes split.
    Again,
}

impl Failover {
    pub(crate) fn cancel(&mut self) {
        *self = Failover::Idle;
    }
}

impl Node {
    /// The embedding saw that `leader`, to which it was connected in `term`, is dead: connection closed, reconnect
    /// refused. If this is evidence about the current leader, it is forgotten, and the answer is the delay in ms after
    /// which to call [`Node::failover_due`].
    pub fn leader_refused(&mut self, leader: u64, term: u64) -> Option<u32> {
        let about_current = leader != 0 && leader == self.leader && term == self.term;
        if !about_current || !self.config.pre_vote || !self.forget_leader() {
            return None;
        }
        let eligible = self.is_promotable()
            && !self.passive
            && self.lost.is_none()
            && !self.log.has_unapplied_conf_change();
        if !eligible {
            return None;
        }
        self.failover = Failover::Armed;
        Some(self.draw_delay_ms())
    }

    /// A delay has run out. The answer is another delay, if there is to be one. Does nothing if a leader was heard of
    /// in the meantime.
    pub fn failover_due(&mut self) -> Option<u32> {
        match self.failover {
            Failover::Idle => None,
            Failover::Armed => {
                self.campaign();
                if self.role == Role::Leader {
                    self.failover.cancel();
                    return None;
                }
                self.failover = Failover::Again;
                Some(self.draw_delay_ms())
            }
            Failover::Again => {
                self.failover.cancel();
                // Only a split vote is tried again: a refused PreVote means that others have no such evidence.
                if self.role == Role::Candidate {
                    self.campaign();
                }
                None
            }
        }
    }

    /// A leader exists: nothing is left to do.
    pub(crate) fn leader_heard(&mut self) {
        if self.leader != 0 {
            self.failover.cancel();
        }
    }

    fn draw_delay_ms(&mut self) -> u32 {
        let spread = u64::from(FAILOVER_DELAY_MS_MAX - FAILOVER_DELAY_MS_MIN + 1);
        FAILOVER_DELAY_MS_MIN + self.random.below(spread) as u32
    }
}
