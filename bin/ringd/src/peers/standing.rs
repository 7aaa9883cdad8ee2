//! Whether the data of another member went back in time: an old image of its disk was put back, or its directory was copied
//! and runs twice. Such a member may vote again in a term in which it has voted, and lacks what it acknowledged.
//!
//! Every ringd process announces, when a connection begins, the number of its start, a number drawn for its life, and where
//! its durable state stood when it began: its term, and the end of its log. Every member remembers the last process of another
//! one and its furthest acknowledgement. What is durable never goes back in term, and within a term the log only grows; the
//! number of the start is durable before the process is heard of. So a process that began with less, or with a number that
//! another one has had, is not the member that is known. Nothing is taken from its connection, and it is told so and stops.
//!
//! There is no false alarm: bytes of a process that is dead may arrive late and be refused, but no later process is refused for
//! that. Limits: what is remembered is lost with the process that remembers; and a member whose data went back by less than
//! anybody who runs has heard of is not found out.

use super::{Input, Transport};
use net::{http1::Headers, peer::Standing, peer::REFUSED};
use proto::raftpb::{Message, MessageType};

/// What is known of another member's state.
#[derive(Debug, Default)]
pub struct Known {
    /// Term and index of the furthest acknowledgement.
    acknowledged: (u64, u64),
    /// The last process: the number of its start, and of its life.
    process: Option<(u64, u64)>,
}

impl Known {
    fn acknowledges(&mut self, term: u64, index: u64) {
        self.acknowledged = self.acknowledged.max((term, index));
    }

    /// Why a process that began like this is not the member that is known, if it is not.
    fn check(&mut self, standing: Standing) -> Result<(), String> {
        let process = (standing.boot, standing.life);
        if self.process == Some(process) {
            return Ok(());
        }
        let (term, index) = self.acknowledged;
        if (standing.term, standing.index) < (term, index) {
            return Err(format!(
                "it acknowledged entry {index} in term {term}, and began with term {} and a log that ends at {}: its data \
                 went back in time, as when an old copy of the data directory is put back",
                standing.term, standing.index
            ));
        }
        match self.process {
            Some((boot, _)) if standing.boot <= boot => Err(format!(
                "its process is number {} of this member, and another process with number {boot} was heard of before: the \
                 data directory was copied, and runs twice or was put back",
                standing.boot
            )),
            _ => {
                self.process = Some(process);
                Ok(())
            }
        }
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

    fn begins(boot: u64, life: u64, term: u64, index: u64) -> Standing {
        Standing {
            boot,
            life,
            term,
            index,
        }
    }

    #[test]
    fn a_state_is_refused_only_if_it_is_less_than_what_was_acknowledged() {
        for (term, index, fits) in [
            (3, 9, false),
            (3, 10, true),
            (3, 11, true),
            (2, 100, false),
            // A later leader may have replaced what was acknowledged.
            (4, 1, true),
        ] {
            let mut known = Known::default();
            assert!(known.check(begins(1, 7, 1, 1)).is_ok());
            known.acknowledges(3, 10);
            known.acknowledges(2, 50);
            let found = known.check(begins(2, 8, term, index));
            assert_eq!(found.is_ok(), fits, "{term}, {index}: {found:?}");
        }
    }

    #[test]
    fn a_start_has_its_number_for_itself_and_none_after_a_later_one() {
        let mut known = Known::default();
        // The second is heard of before the first, which is dead by then.
        assert!(known.check(begins(2, 8, 1, 1)).is_ok());
        assert!(known.check(begins(1, 7, 1, 1)).is_err());
        assert!(known.check(begins(2, 8, 1, 1)).is_ok(), "it lives");
        known.acknowledges(5, 5);
        assert!(known.check(begins(2, 8, 1, 1)).is_ok(), "and grows");
        assert!(known.check(begins(2, 9, 6, 6)).is_err(), "a copy");
        assert!(known.check(begins(3, 10, 6, 6)).is_ok());
        assert!(known.check(begins(2, 8, 1, 1)).is_err());
    }
}
