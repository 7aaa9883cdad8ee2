//! Membership changes as a pure function of a configuration and a list of changes (Raft thesis, chapter 4).
//!
//! A *simple* change alters at most one voter and takes effect in one step. Any other goes through a *joint* phase, in
//! which the majorities of the old and of the new voters both decide, and which a second, empty change leaves.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{
    self, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    EntryType,
};

use crate::message::conf_state;
use crate::quorum::{Ids, Joint, Majority};

/// A change as it is proposed: in etcd's old one-step encoding or in the new one.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfChange {
    /// One step, the only form that every etcd member can apply.
    V1(raftpb::ConfChange),
    /// Several steps, joint consensus.
    V2(ConfChangeV2),
}

impl From<raftpb::ConfChange> for ConfChange {
    fn from(change: raftpb::ConfChange) -> ConfChange {
        ConfChange::V1(change)
    }
}

impl From<ConfChangeV2> for ConfChange {
    fn from(change: ConfChangeV2) -> ConfChange {
        ConfChange::V2(change)
    }
}

impl ConfChange {
    /// Reads the payload of a configuration entry.
    pub fn decode(kind: EntryType, data: &[u8]) -> Result<ConfChange, prost::DecodeError> {
        match kind {
            EntryType::EntryConfChange => raftpb::ConfChange::decode(data).map(ConfChange::V1),
            _ => ConfChangeV2::decode(data).map(ConfChange::V2),
        }
    }

    /// The change in the form that [`crate::Node::apply_conf_change`] takes.
    pub fn to_v2(&self) -> ConfChangeV2 {
        match self {
            ConfChange::V1(change) => ConfChangeV2 {
                transition: Some(ConfChangeTransition::Auto as i32),
                changes: vec![ConfChangeSingle {
                    r#type: Some(change.r#type() as i32),
                    node_id: Some(change.node_id()),
                }],
                context: change.context.clone(),
            },
            ConfChange::V2(change) => change.clone(),
        }
    }

    /// Entry type and payload.
    pub(crate) fn encode(&self) -> (EntryType, Bytes) {
        match self {
            ConfChange::V1(change) => {
                let complete = raftpb::ConfChange {
                    id: Some(change.id()),
                    r#type: Some(change.r#type() as i32),
                    node_id: Some(change.node_id()),
                    context: change.context.clone(),
                };
                (EntryType::EntryConfChange, complete.encode_to_vec().into())
            }
            ConfChange::V2(change) if is_leave(change) && change.context().is_empty() => {
                (EntryType::EntryConfChangeV2, Bytes::new())
            }
            ConfChange::V2(change) => (EntryType::EntryConfChangeV2, change.encode_to_vec().into()),
        }
    }
}

/// Whether the change leaves the joint phase: it asks for nothing else.
pub(crate) fn is_leave(change: &ConfChangeV2) -> bool {
    change.changes.is_empty() && change.transition() == ConfChangeTransition::Auto
}

/// `Some(auto_leave)` if the change needs, or asks for, a joint phase.
fn joint_phase(change: &ConfChangeV2) -> Option<bool> {
    match change.transition() {
        ConfChangeTransition::JointImplicit => Some(true),
        ConfChangeTransition::JointExplicit => Some(false),
        ConfChangeTransition::Auto => (change.changes.len() > 1).then_some(true),
    }
}

/// Why a change, or a stored configuration, is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeError {
    /// A simple change may alter one voter at most: enter a joint phase instead.
    MoreThanOneVoter,
    /// The change would leave no voter.
    NoVoters,
    /// A joint phase is under way: leave it first.
    AlreadyJoint,
    /// There is no joint phase to leave.
    NotJoint,
    /// A stored configuration contradicts itself.
    Inconsistent,
}

impl fmt::Display for ConfChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfChangeError::MoreThanOneVoter => {
                "more than one voter changed without entering joint config"
            }
            ConfChangeError::NoVoters => "removed all voters",
            ConfChangeError::AlreadyJoint => "config is already joint",
            ConfChangeError::NotJoint => "can't leave a non-joint config",
            ConfChangeError::Inconsistent => "stored configuration contradicts itself",
        })
    }
}

impl std::error::Error for ConfChangeError {}

/// Who votes, who learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Voters; both halves during a joint phase.
    pub voters: Joint,
    /// Nodes that receive the log but do not count.
    pub learners: Ids,
    /// Outgoing voters that become learners when the joint phase ends.
    pub learners_next: Ids,
    /// The leader proposes the end of the joint phase by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// Reads a stored configuration.
    pub fn from_conf_state(state: &ConfState) -> Result<Configuration, ConfChangeError> {
        let config = Configuration {
            voters: Joint {
                incoming: Majority {
                    ids: Ids::new(&state.voters),
                },
                outgoing: Majority {
                    ids: Ids::new(&state.voters_outgoing),
                },
            },
            learners: Ids::new(&state.learners),
            learners_next: Ids::new(&state.learners_next),
            auto_leave: state.auto_leave(),
        };
        config.check()?;
        Ok(config)
    }

    /// The form in which it is stored and sent.
    pub fn to_conf_state(&self) -> ConfState {
        conf_state(
            self.voters.incoming.ids.as_slice(),
            self.learners.as_slice(),
            self.voters.outgoing.ids.as_slice(),
            self.learners_next.as_slice(),
            self.auto_leave,
        )
    }

    /// Whether a joint phase is under way.
    pub fn is_joint(&self) -> bool {
        !self.voters.outgoing.ids.is_empty()
    }

    /// Whether the node receives the log at all.
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(id) || self.learners.contains(id)
    }

    /// All nodes, ascending.
    pub fn members(&self) -> Ids {
        let mut all = self.voters.incoming.ids.clone();
        for id in self.voters.outgoing.ids.as_slice() {
            all.insert(*id);
        }
        for id in self.learners.as_slice() {
            all.insert(*id);
        }
        all
    }

    /// The configuration after the change; an error leaves everything as it is.
    pub fn apply(&self, change: &ConfChangeV2) -> Result<Configuration, ConfChangeError> {
        let next = if is_leave(change) {
            self.leave_joint()?
        } else if let Some(auto_leave) = joint_phase(change) {
            self.enter_joint(auto_leave, &change.changes)?
        } else {
            self.simple(&change.changes)?
        };
        next.check()?;
        Ok(next)
    }

    fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Configuration, ConfChangeError> {
        if self.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        let mut next = self.clone();
        next.alter(changes)?;
        let (old, new) = (&self.voters.incoming.ids, &next.voters.incoming.ids);
        let removed = old.as_slice().iter().filter(|id| !new.contains(**id));
        let added = new.as_slice().iter().filter(|id| !old.contains(**id));
        if removed.count() + added.count() > 1 {
            return Err(ConfChangeError::MoreThanOneVoter);
        }
        Ok(next)
    }

    fn enter_joint(
        &self,
        auto_leave: bool,
        changes: &[ConfChangeSingle],
    ) -> Result<Configuration, ConfChangeError> {
        if self.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if self.voters.incoming.ids.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        let mut next = self.clone();
        next.voters.outgoing = self.voters.incoming.clone();
        next.alter(changes)?;
        next.auto_leave = auto_leave;
        Ok(next)
    }

    fn leave_joint(&self) -> Result<Configuration, ConfChangeError> {
        if !self.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let mut next = self.clone();
        for id in self.learners_next.as_slice() {
            next.learners.insert(*id);
        }
        next.learners_next = Ids::default();
        next.voters.outgoing = Majority::default();
        next.auto_leave = false;
        Ok(next)
    }

    /// Applies the steps in order to the incoming half. Id 0 stands for "cancelled" and is skipped.
    fn alter(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for change in changes.iter().filter(|change| change.node_id() != 0) {
            let id = change.node_id();
            match change.r#type() {
                ConfChangeType::ConfChangeAddNode => {
                    self.drop_member(id);
                    self.voters.incoming.ids.insert(id);
                }
                ConfChangeType::ConfChangeAddLearnerNode => {
                    self.drop_member(id);
                    // A learner must not vote in the outgoing half, so it has to wait for the end of the joint phase.
                    if self.voters.outgoing.ids.contains(id) {
                        self.learners_next.insert(id);
                    } else {
                        self.learners.insert(id);
                    }
                }
                ConfChangeType::ConfChangeRemoveNode => self.drop_member(id),
                ConfChangeType::ConfChangeUpdateNode => {}
            }
        }
        if self.voters.incoming.ids.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        Ok(())
    }

    fn drop_member(&mut self, id: u64) {
        self.voters.incoming.ids.remove(id);
        self.learners.remove(id);
        self.learners_next.remove(id);
    }

    /// The rules that every configuration obeys, however it came about.
    fn check(&self) -> Result<(), ConfChangeError> {
        let learners = self.learners.as_slice();
        let next = self.learners_next.as_slice();
        let id_zero = self.voters.contains(0) || self.learners.contains(0);
        let learner_votes = learners.iter().any(|id| self.voters.contains(*id));
        let next_is_not_outgoing = next.iter().any(|id| {
            !self.voters.outgoing.ids.contains(*id) || self.voters.incoming.ids.contains(*id)
        });
        let joint_leftovers = !self.is_joint() && (self.auto_leave || !next.is_empty());
        let joint_without_voters = self.is_joint() && self.voters.incoming.ids.is_empty();
        if id_zero
            || learner_votes
            || next_is_not_outgoing
            || joint_leftovers
            || joint_without_voters
        {
            return Err(ConfChangeError::Inconsistent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
