//! Whether the data of another member went back in time: an old image of its disk was put back, or its directory was copied
//! and runs twice. Such a member may vote again in a term in which it has voted, and lacks what it acknowledged.
//!
//! Every ringd process announces, when a connection begins, a number drawn for its life and where its durable state stood
//! when it began: its term, and the end of its log. Every member remembers the last acknowledgement that another one sent
//! it, by which that one's state cannot be less; what is durable never goes back in term, and within a term the log only
//! grows. So there is no false alarm. A member that finds less refuses the other one's connections and opens none of its
//! messages, and the refusal stops that one before it is heard of by others, unless they know nothing better.
//!
//! Limits: what is remembered is lost with the process that remembers; and a member whose data went back by less than
//! anybody who runs has heard of is not found out.

use super::{Input, Transport};
use net::{http1::Headers, peer::Standing, peer::REFUSED};
use proto::raftpb::{Message, MessageType};
use std::collections::VecDeque;

/// Earlier lives of a member that are remembered.
const LIVES_MAX: usize = 8;

/// What is known of another member's state.
#[derive(Debug, Default)]
pub struct Known {
    /// Term and index of the furthest acknowledgement.
    acknowledged: (u64, u64),
    /// The process that was last accepted.
    life: Option<u64>,
    /// Those before it.
    earlier: VecDeque<u64>,
}

impl Known {
    fn acknowledges(&mut self, term: u64, index: u64) {
        self.acknowledged = self.acknowledged.max((term, index));
    }

    /// Why a process that began like this is not the member that is known, if it is not.
    fn check(&mut self, standing: Standing) -> Result<(), String> {
        if self.life == Some(standing.life) {
            return Ok(());
        }
        if self.earlier.contains(&standing.life) {
            return Err(
                "a later process of the same member has been heard of: the data directory was copied, and two run with it"
                    .into(),
            );
        }
        let (term, index) = self.acknowledged;
        if (standing.term, standing.index) < (term, index) {
            return Err(format!(
                "it acknowledged entry {index} in term {term}, and began with term {} and a log that ends at {}: its data \
                 went back in time, as when an old copy of the data directory is put back",
                standing.term, standing.index
            ));
        }
        if let Some(before) = self.life.replace(standing.life) {
            if self.earlier.len() >= LIVES_MAX {
                self.earlier.pop_front();
            }
            self.earlier.push_back(before);
        }
        Ok(())
    }
}

impl Transport {
    /// Remembers what a member acknowledged to this one.
    pub(super) fn note_acknowledged(&mut self, message: &Message) {
        let acknowledges =
            message.r#type() == MessageType::MsgAppResp && !message.reject() && message.index() > 0;
        if !acknowledges {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&message.from()) {
            peer.standing.acknowledges(message.term(), message.index());
        }
    }

    /// Checks who is at the other end of a connection. An error is why nothing is taken from it.
    pub(super) fn check_standing(
        &mut self,
        from: u64,
        headers: &Headers,
        now_ns: u64,
    ) -> Result<(), String> {
        let (Some(standing), Some(peer)) = (Standing::of(headers), self.peers.get_mut(&from))
        else {
            return Ok(());
        };
        peer.standing.check(standing).inspect_err(|why| {
            let line = format!(
                "member {from:x} is refused: {why}. Stop it, remove it from the cluster, and add it again with an empty data \
                 directory"
            );
            self.notices.say(now_ns, line);
        })
    }

    /// Another member says that this one is not what it was.
    pub(super) fn hear_refusal(&mut self, from: u64, headers: &Headers) -> bool {
        let Some(why) = headers.get(REFUSED) else {
            return false;
        };
        let why = format!(
            "member {from:x} refuses this one: {why}. Remove this member from the cluster, and add it again with an empty \
             data directory"
        );
        self.inputs.push(Input::WentBack { why });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(life: u64, term: u64, index: u64) -> Standing {
        Standing { life, term, index }
    }

    #[test]
    fn a_state_is_refused_only_if_it_is_less_than_what_was_acknowledged() {
        for (standing, fits) in [
            (begins(2, 3, 9), false),
            (begins(2, 3, 10), true),
            (begins(2, 3, 11), true),
            (begins(2, 2, 100), false),
            // A later leader may have replaced what was acknowledged.
            (begins(2, 4, 1), true),
        ] {
            let mut known = Known::default();
            assert!(known.check(begins(1, 1, 1)).is_ok());
            known.acknowledges(3, 10);
            known.acknowledges(2, 50);
            assert_eq!(known.check(standing).is_ok(), fits, "{standing:?}");
            assert!(known.check(begins(1, 0, 0)).is_ok() != fits, "{standing:?}");
        }
    }

    #[test]
    fn a_life_that_is_over_does_not_come_back() {
        let mut known = Known::default();
        for life in 1..=20 {
            assert!(known.check(begins(life, 1, 1)).is_ok());
            assert!(known.check(begins(life, 1, 1)).is_ok());
        }
        for life in 12..20 {
            assert!(known.check(begins(life, 9, 9)).is_err());
        }
        assert!(known.check(begins(20, 1, 1)).is_ok());
    }
}
