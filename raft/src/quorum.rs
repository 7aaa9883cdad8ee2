//! Quorum arithmetic: which index a set of acknowledgements commits, and how an election stands.
//!
//! A [`Joint`] configuration decides by the majorities of both of its halves (Raft thesis, section 4.3). Outside a
//! membership change the outgoing half is empty and has no say.

/// Voter sets up to this size are counted on the stack.
const SMALL_QUORUM_VOTERS: usize = 9;

/// A set of node ids, ascending and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(Vec<u64>);

impl Ids {
    /// The set of the given ids.
    pub fn new(ids: &[u64]) -> Ids {
        let mut set: Vec<u64> = ids.to_vec();
        set.sort_unstable();
        set.dedup();
        Ids(set)
    }

    /// Adds an id; false if it was there.
    pub fn insert(&mut self, id: u64) -> bool {
        match self.0.binary_search(&id) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, id);
                true
            }
        }
    }

    /// Removes an id; false if it was not there.
    pub fn remove(&mut self, id: u64) -> bool {
        match self.0.binary_search(&id) {
            Ok(at) => {
                self.0.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the id is in the set.
    pub fn contains(&self, id: u64) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// The ids, ascending.
    pub fn as_slice(&self) -> &[u64] {
        &self.0
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set has no id.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither side has what it needs.
    Pending,
    /// A majority refused, or so many that no majority can come together.
    Lost,
    /// A majority granted.
    Won,
}

/// One majority decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Majority {
    /// Who counts.
    pub ids: Ids,
}

impl Majority {
    /// The highest index that a majority has acknowledged. A missing acknowledgement is 0; the empty set, which has
    /// no say in a joint decision, answers `u64::MAX`.
    pub fn committed(&self, acked: impl Fn(u64) -> u64) -> u64 {
        let ids = self.ids.as_slice();
        match ids.len() {
            0 => u64::MAX,
            1 => acked(ids[0]),
            n if n <= SMALL_QUORUM_VOTERS => {
                let mut acks = [0; SMALL_QUORUM_VOTERS];
                for (ack, id) in acks.iter_mut().zip(ids) {
                    *ack = acked(*id);
                }
                majority_of(&mut acks[..n])
            }
            _ => {
                let mut acks: Vec<u64> = ids.iter().map(|id| acked(*id)).collect();
                majority_of(&mut acks)
            }
        }
    }

    /// The state of a vote. The empty set has won, so that the other half of a joint configuration decides.
    pub fn vote_result(&self, votes: impl Fn(u64) -> Option<bool>) -> VoteResult {
        let (mut granted, mut refused) = (0, 0);
        for id in self.ids.as_slice() {
            match votes(*id) {
                Some(true) => granted += 1,
                Some(false) => refused += 1,
                None => {}
            }
        }
        let needed = self.ids.len() / 2 + 1;
        if self.ids.is_empty() || granted >= needed {
            VoteResult::Won
        } else if self.ids.len() - refused < needed {
            VoteResult::Lost
        } else {
            VoteResult::Pending
        }
    }
}

/// The (n/2 + 1)-th largest value.
fn majority_of(acks: &mut [u64]) -> u64 {
    acks.sort_unstable();
    acks[acks.len() - (acks.len() / 2 + 1)]
}

/// Two majorities, both of which must agree. The outgoing one is empty outside a joint phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joint {
    /// The configuration that is, or is going to be.
    pub incoming: Majority,
    /// The configuration that is being left.
    pub outgoing: Majority,
}

impl Joint {
    /// The highest index that both majorities have acknowledged.
    pub fn committed(&self, acked: impl Fn(u64) -> u64) -> u64 {
        let incoming = self.incoming.committed(&acked);
        if self.outgoing.ids.is_empty() {
            return incoming;
        }
        incoming.min(self.outgoing.committed(&acked))
    }

    /// Lost if either half lost, won if both won.
    pub fn vote_result(&self, votes: impl Fn(u64) -> Option<bool>) -> VoteResult {
        match (
            self.incoming.vote_result(&votes),
            self.outgoing.vote_result(&votes),
        ) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            _ => VoteResult::Pending,
        }
    }

    /// Whether the id votes in either half.
    pub fn contains(&self, id: u64) -> bool {
        self.incoming.ids.contains(id) || self.outgoing.ids.contains(id)
    }

    /// Whether `id` alone decides.
    pub fn is_only(&self, id: u64) -> bool {
        self.incoming.ids.as_slice() == [id]
            && (self.outgoing.ids.is_empty() || self.outgoing.ids.as_slice() == [id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition itself: the largest index such that more than half have acknowledged it.
    fn committed_slowly(ids: &[u64], acked: impl Fn(u64) -> u64) -> u64 {
        if ids.is_empty() {
            return u64::MAX;
        }
        let mut best = 0;
        for candidate in ids.iter().map(|id| acked(*id)) {
            let have = ids.iter().filter(|id| acked(**id) >= candidate).count();
            if have * 2 > ids.len() {
                best = best.max(candidate);
            }
        }
        best
    }

    #[test]
    fn votes_are_won_lost_or_pending() {
        let joint = Joint {
            incoming: Majority {
                ids: Ids::new(&[1, 2, 3]),
            },
            outgoing: Majority {
                ids: Ids::new(&[3, 4, 5]),
            },
        };
        let result = |granted: &[u64], refused: &[u64]| {
            joint.vote_result(|id| {
                if granted.contains(&id) {
                    Some(true)
                } else if refused.contains(&id) {
                    Some(false)
                } else {
                    None
                }
            })
        };
        assert_eq!(result(&[], &[]), VoteResult::Pending);
        assert_eq!(result(&[1, 2], &[]), VoteResult::Pending);
        assert_eq!(result(&[1, 2, 4, 5], &[3]), VoteResult::Won);
        assert_eq!(result(&[1, 3, 4], &[]), VoteResult::Won);
        assert_eq!(result(&[1, 2, 3], &[4, 5]), VoteResult::Lost);
        assert_eq!(result(&[3, 4, 5], &[1, 2]), VoteResult::Lost);
        assert_eq!(Majority::default().vote_result(|_| None), VoteResult::Won);
    }

    proptest! {
        #[test]
        fn commit_index_equals_its_definition(
            one in prop::collection::vec(1u64..20, 0..12),
            two in prop::collection::vec(1u64..20, 0..12),
            acks in prop::collection::vec(0u64..8, 20),
        ) {
            let acked = |id: u64| acks[id as usize];
            let joint = Joint {
                incoming: Majority { ids: Ids::new(&one) },
                outgoing: Majority { ids: Ids::new(&two) },
            };
            let slow = committed_slowly(joint.incoming.ids.as_slice(), acked)
                .min(committed_slowly(joint.outgoing.ids.as_slice(), acked));
            prop_assert_eq!(joint.committed(acked), slow);
        }

        #[test]
        fn votes_equal_their_definition(
            ids in prop::collection::vec(1u64..12, 1..9),
            votes in prop::collection::vec(0u8..3, 12),
        ) {
            let majority = Majority { ids: Ids::new(&ids) };
            let vote = |id: u64| match votes[id as usize] { 0 => None, 1 => Some(false), _ => Some(true) };
            let count = |what: Option<bool>| majority.ids.as_slice().iter().filter(|id| vote(**id) == what).count();
            let (yes, open, all) = (count(Some(true)), count(None), majority.ids.len());
            let expected = if yes * 2 > all { VoteResult::Won }
                else if (yes + open) * 2 > all { VoteResult::Pending }
                else { VoteResult::Lost };
            prop_assert_eq!(majority.vote_result(vote), expected);
        }
    }
}
