//! The invariants of Raft (Ongaro's thesis, figure 3.2), on what running members say of themselves after every turn, and on
//! the messages that they send.

use std::collections::BTreeMap;

use proto::raftpb::{EntryType, Message, MessageType};
use raft::Role;
use ringd::member::Member;

use super::{history::History, Verdict};

/// What was last seen of one life of a member.
#[derive(Clone, Debug, Default)]
struct Seen {
    life: u64,
    term: u64,
    commit: u64,
    applied: u64,
    leads: bool,
    /// Last entry of a leader, and its term.
    last: (u64, u64),
    voters: Vec<u64>,
}

#[derive(Default)]
pub struct Consensus {
    leaders: BTreeMap<u64, u64>,
    /// (voter, term) to the candidate.
    votes: BTreeMap<(u64, u64), u64>,
    seen: BTreeMap<u64, Seen>,
    commit_max: u64,
}

impl Consensus {
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// The latest term that anybody was seen to lead.
    pub fn term_led(&self) -> u64 {
        self.leaders.keys().next_back().copied().unwrap_or(0)
    }

    /// Whether this life of a member was last seen to lead the given term.
    pub fn leads(&self, id: u64, life: u64, term: u64) -> bool {
        let seen = self.seen.get(&id);
        seen.is_some_and(|seen| seen.life == life && seen.term == term && seen.leads)
    }

    /// After a turn. `durable` gives, for an entry, how many members have it on disk.
    pub fn check(
        &mut self,
        member: &Member,
        life: u64,
        history: &History,
        durable: impl Fn(u64, &[u64]) -> usize,
    ) -> Verdict {
        let node = member.node();
        let (id, term, commit) = (node.id(), node.term(), node.commit_index());
        let (applied, last) = (member.store().applied().0, node.last_index());
        if applied > commit || commit > last {
            return Err(format!("applied {applied}, commit {commit}, last {last}"));
        }
        let before = self.seen.get(&id).filter(|seen| seen.life == life).cloned();
        let before = before.unwrap_or_default();
        if term < before.term || commit < before.commit || applied < before.applied {
            return Err(format!(
                "term, commit or applied index went back from {before:?} to {term}, {commit}, {applied}"
            ));
        }
        let leads = node.role() == Role::Leader;
        if leads {
            self.check_changes(member)?;
            let was = before.leads && before.term == term;
            self.check_leader(member, was.then_some(before.last), history)?;
            let voters = node.conf_state().voters;
            if before.voters == voters {
                self.check_durable(commit, &voters, durable)?;
            } else {
                // What one turn commits and applies may be counted by the voters before it and after it.
                self.commit_max = self.commit_max.max(commit);
            }
        }
        let seen = Seen {
            life,
            term,
            commit,
            applied,
            leads,
            last: (last, node.entry_term(last).unwrap_or(0)),
            voters: node.conf_state().voters,
        };
        self.seen.insert(id, seen);
        Ok(())
    }

    fn check_leader(
        &mut self,
        member: &Member,
        before: Option<(u64, u64)>,
        history: &History,
    ) -> Verdict {
        let node = member.node();
        let leader = *self.leaders.entry(node.term()).or_insert(node.id());
        if leader != node.id() {
            return Err(format!(
                "two leaders in term {}: {leader:x} and {:x}",
                node.term(),
                node.id()
            ));
        }
        match before {
            Some((last, term)) => {
                let kept = node.entry_term(last);
                let compacted = last < node.first_index();
                if !compacted && kept != Some(term) {
                    return Err(format!("a leader lost its own entry {last} of term {term}"));
                }
            }
            None => {
                for index in node.first_index()..=history.applied() {
                    // One that hears late of its votes, when there is a later leader already, lacks what that one committed.
                    if history.term_of(index) > Some(node.term()) {
                        break;
                    }
                    if node.entry_term(index) != history.term_of(index) {
                        return Err(format!(
                            "the new leader of term {} lacks entry {index}, which was applied",
                            node.term()
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// A leader takes a change of members into its log only when all earlier ones are applied there: whoever counts votes by
    /// the members before and after a change has at least one of them in common, which does not hold of two changes.
    fn check_changes(&self, member: &Member) -> Verdict {
        let node = member.node();
        if node.unapplied_conf_changes() < 2 {
            return Ok(());
        }
        let behind = member.store().applied().0 + 1..=node.last_index();
        let changes = behind.filter_map(|index| node.recent_entry(index));
        let last = changes
            .filter(|entry| entry.r#type() != EntryType::EntryNormal)
            .last();
        match last {
            Some(entry) if entry.term() == node.term() => Err(format!(
                "a leader took a change of members as entry {} although an earlier one is not applied",
                entry.index()
            )),
            _ => Ok(()),
        }
    }

    /// Whoever asks for votes counts them by the members as of all it knows to be committed.
    fn check_candidate(member: &Member) -> Verdict {
        let node = member.node();
        let stands = matches!(node.role(), Role::Candidate | Role::PreCandidate);
        match stands && node.has_unapplied_conf_change() {
            true => Err(format!(
                "asks for votes in term {} although it has not applied a change of members that it knows to be committed",
                node.term()
            )),
            false => Ok(()),
        }
    }

    fn check_durable(
        &mut self,
        commit: u64,
        voters: &[u64],
        durable: impl Fn(u64, &[u64]) -> usize,
    ) -> Verdict {
        if commit <= self.commit_max {
            return Ok(());
        }
        self.commit_max = commit;
        let copies = durable(commit, voters);
        if copies * 2 > voters.len() {
            return Ok(());
        }
        Err(format!(
            "entry {commit} is committed with {copies} durable copies among the voters {voters:x?}"
        ))
    }

    /// A message that leaves a member.
    pub fn sent(&mut self, member: &Member, message: &Message) -> Verdict {
        match message.r#type() {
            MessageType::MsgVoteResp if !message.reject() => {
                self.vote(message.from(), message.term(), message.to())
            }
            MessageType::MsgPreVote => Consensus::check_candidate(member),
            MessageType::MsgVote => {
                Consensus::check_candidate(member)?;
                self.vote(message.from(), message.term(), message.from())
            }
            MessageType::MsgAppResp if !message.reject() => {
                let durable = member.log().durable_index();
                // What was acknowledged to the leader of an earlier term was durable then: in the same turn the next leader's
                // entries may have taken its place.
                let is_of_earlier_term = message.term() < member.node().term();
                if message.index() <= durable || is_of_earlier_term {
                    return Ok(());
                }
                Err(format!(
                    "entry {} is acknowledged to {:x}, and only {durable} is durable",
                    message.index(),
                    message.to()
                ))
            }
            _ => Ok(()),
        }
    }

    fn vote(&mut self, voter: u64, term: u64, candidate: u64) -> Verdict {
        let given = *self.votes.entry((voter, term)).or_insert(candidate);
        if given == candidate {
            return Ok(());
        }
        Err(format!(
            "{voter:x} votes for {given:x} and for {candidate:x} in term {term}"
        ))
    }
}
