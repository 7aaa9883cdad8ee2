//! Fast failover: the process of the leader is known to be dead, so why wait for the election timeout?
//!
//! The evidence is the embedding's: the connection to the leader closed, and the reconnect was refused. It concerns the
//! leader and the term of that connection. The node then forgets the leader at once and stands for election, with
//! PreVote, after a random delay. Followers with the same evidence grant the PreVote; one without holds to its lease,
//! and then nothing has happened. If votes split, one more delay is drawn; after that the election timers decide, unless a
//! node with less in its log stands: it cannot win, but shows that the evidence is shared.

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
    /// The delays are over, and no leader was heard of.
    Spent,
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
            Failover::Idle | Failover::Spent => None,
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
                self.failover = Failover::Spent;
                // Only a split vote is tried again, be it that the other candidate's term is later: a refused PreVote means
                // that others have no such evidence.
                if matches!(self.role, Role::Candidate | Role::Follower) {
                    self.campaign();
                }
                None
            }
        }
    }

    /// Another node believes the leader dead, as this one does, and cannot be elected by it for what its log lacks. Then
    /// this node stands, if it does not wait for its own turn; once, because the other answers in the same way.
    pub(crate) fn stand_instead(&mut self) {
        if matches!(self.failover, Failover::Again | Failover::Spent) {
            self.failover.cancel();
            self.campaign();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Initial};
    use proto::raftpb::{ConfState, Message, MessageType};
    use std::collections::BTreeSet;

    fn follower_of_one(seed: u64) -> Node {
        let config = Config {
            seed,
            ..Config::new(3)
        };
        let initial = Initial {
            conf_state: ConfState {
                voters: vec![1, 2, 3],
                ..ConfState::default()
            },
            ..Initial::default()
        };
        let mut node = Node::new(config, initial).expect("a valid start");
        let heartbeat = Message {
            r#type: Some(MessageType::MsgHeartbeat as i32),
            from: Some(1),
            to: Some(3),
            term: Some(1),
            ..Message::default()
        };
        node.step(heartbeat).expect("a leader");
        let seq = node.ready().seq;
        node.persisted(seq);
        node
    }

    #[test]
    fn every_delay_from_5_to_50_ms_is_drawn_and_no_other() {
        let mut first = BTreeSet::new();
        let mut second = BTreeSet::new();
        for seed in 0..2000 {
            let mut node = follower_of_one(seed);
            let timer = node.election_elapsed;
            first.extend(node.leader_refused(1, 1));
            assert_eq!((node.leader(), node.term()), (0, 1));
            assert_eq!(node.election_elapsed, timer, "the timer goes on");
            second.extend(node.failover_due());
            assert_eq!(node.role(), Role::PreCandidate);
        }
        let all: BTreeSet<u32> = (FAILOVER_DELAY_MS_MIN..=FAILOVER_DELAY_MS_MAX).collect();
        assert_eq!((FAILOVER_DELAY_MS_MIN, FAILOVER_DELAY_MS_MAX), (5, 50));
        assert_eq!(first, all);
        assert_eq!(second, all);
    }

    #[test]
    fn evidence_is_used_once() {
        let mut node = follower_of_one(1);
        assert!(node.leader_refused(1, 1).is_some());
        assert_eq!(node.leader_refused(1, 1), None, "it was forgotten already");
        assert!(node.failover_due().is_some());
        assert_eq!(
            node.failover_due(),
            None,
            "only a split vote is tried again"
        );
        assert_eq!(node.failover_due(), None);
    }
}
