//! The invariants I1 to I14 that hold after every step, whatever happens.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, EntryType, Message, MessageType};

use super::member::Member;
use crate::{Configuration, ProgressState, Ready, Role, Status};

/// What was last seen of a living node.
#[derive(Clone, Debug)]
struct Seen {
    status: Status,
    last_term: u64,
}

/// Everything that was ever decided, by anyone.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    leaders: BTreeMap<u64, u64>,
    /// (index, term) to the payload and the term of the entry before.
    entries: BTreeMap<(u64, u64), (i32, Bytes, Option<u64>)>,
    /// Index to term, as committed by anyone.
    committed: BTreeMap<u64, u64>,
    /// Index to the entry and the configuration after it.
    applied: BTreeMap<u64, (u64, Bytes, ConfState)>,
    seen: BTreeMap<u64, Seen>,
    pub(super) commit_max: u64,
    pub(super) checks: u64,
}

impl History {
    /// A member crashed: only what is durable must still be there.
    pub(super) fn crashed(&mut self, id: u64) {
        self.seen.remove(&id);
    }

    /// The configuration after the highest index applied anywhere.
    pub(super) fn latest_conf(&self) -> Option<&ConfState> {
        self.applied.values().next_back().map(|(_, _, conf)| conf)
    }

    /// What a node hands out: entries agree with all others (I3), and nothing is promised that is not durable (I8).
    pub(super) fn check_ready(&mut self, member: &Member, ready: &Ready) {
        let Some(node) = &member.node else {
            return;
        };
        let mut prev = ready
            .entries
            .first()
            .and_then(|entry| node.entry_term(entry.index() - 1));
        for entry in &ready.entries {
            self.check_entry(member.id, entry, prev);
            prev = Some(entry.term());
        }
        let own_changes = ready.entries.iter().filter(|entry| {
            node.role() == Role::Leader
                && entry.term() == node.term()
                && entry.r#type() != EntryType::EntryNormal
        });
        if own_changes.count() > 0 {
            assert!(
                node.unapplied_conf_changes() <= 1,
                "I10: a second change at n{}",
                member.id
            );
        }
        for m in &ready.messages {
            check_promise(member, m);
        }
    }

    fn check_entry(&mut self, id: u64, entry: &Entry, prev: Option<u64>) {
        let kind = entry.r#type.unwrap_or(0);
        let data = entry.data.clone().unwrap_or_default();
        let known = self
            .entries
            .entry((entry.index(), entry.term()))
            .or_insert_with(|| (kind, data.clone(), prev));
        assert_eq!(
            (known.0, &known.1),
            (kind, &data),
            "I3: entry differs at n{id}"
        );
        if let (Some(known), Some(prev)) = (known.2, prev) {
            assert_eq!(
                known,
                prev,
                "I3: logs differ before {} at n{id}",
                entry.index()
            );
        }
    }

    /// An entry was applied: the same one everywhere (I5), with the same configuration.
    pub(super) fn check_applied(&mut self, member: &Member, entry: &Entry) {
        let data = entry.data.clone().unwrap_or_default();
        let own = (entry.term(), data, member.conf_state.clone());
        let known = self
            .applied
            .entry(entry.index())
            .or_insert_with(|| own.clone());
        assert_eq!(*known, own, "I5: n{} applied something else", member.id);
        let term = self.committed.get(&entry.index());
        assert_eq!(term, Some(&entry.term()), "I5: applied and not committed");
    }

    /// The state of one node after a step.
    pub(super) fn check_node(&mut self, members: &BTreeMap<u64, Member>, id: u64) {
        self.checks += 1;
        let member = &members[&id];
        let Some(node) = &member.node else {
            return;
        };
        let status = node.status();
        let ordered = status.applied <= status.commit && status.commit <= status.last;
        assert!(ordered, "I14: {status:?}");
        let campaigns = matches!(status.role, Role::PreCandidate | Role::Candidate);
        let unsure = node.has_unapplied_conf_change();
        assert!(
            !campaigns || !unsure,
            "I9: n{id} campaigns with an old configuration"
        );
        let before = self.seen.get(&id).cloned();
        if let Some(before) = &before {
            check_monotonic(&before.status, &status);
            if status.role == Role::Leader && before.status.role == Role::Leader {
                let kept = node.entry_term(before.status.last);
                let compacted = before.status.last < node.first_index() - 1;
                let same = before.status.term == status.term;
                assert!(
                    !same || compacted || kept == Some(before.last_term),
                    "I2: leader n{id} lost entries"
                );
            }
        }
        let was_leader = before
            .as_ref()
            .is_some_and(|b| b.status.role == Role::Leader && b.status.term == status.term);
        if status.role == Role::Leader && !was_leader {
            self.check_new_leader(node, &status);
        }
        let commit_before = before.map_or(0, |before| before.status.commit);
        if was_leader && status.commit > commit_before {
            let own = node.entry_term(status.commit) == Some(status.term);
            assert!(own, "I4: n{id} counted an entry of an earlier term");
        }
        self.check_commit(members, id, commit_before, &status);
        check_progress(members, &status);
        let last_term = node.entry_term(status.last).unwrap_or(0);
        self.seen.insert(id, Seen { status, last_term });
    }

    fn check_new_leader(&mut self, node: &crate::Node, status: &Status) {
        let id = status.id;
        let known = *self.leaders.entry(status.term).or_insert(id);
        assert_eq!(known, id, "I1: two leaders in term {}", status.term);
        assert!(
            node.configuration().voters.contains(id),
            "I11: n{id} is no voter"
        );
        for (index, term) in self.committed.range(node.first_index()..) {
            let own = node.entry_term(*index);
            assert_eq!(own, Some(*term), "I4: leader n{id} lacks entry {index}");
        }
    }

    /// Newly committed entries are the same for all, and when a leader counts them they are durable (I7).
    fn check_commit(
        &mut self,
        members: &BTreeMap<u64, Member>,
        id: u64,
        before: u64,
        now: &Status,
    ) {
        let Some(node) = &members[&id].node else {
            return;
        };
        for index in (before + 1).max(node.first_index())..=now.commit {
            let Some(term) = node.entry_term(index) else {
                continue;
            };
            let known = *self.committed.entry(index).or_insert(term);
            assert_eq!(known, term, "I5: n{id} commits another entry at {index}");
        }
        if now.role == Role::Leader && now.commit > self.commit_max {
            let index = now.commit;
            let term = node.entry_term(index).unwrap_or(0);
            let stored = |id: u64| {
                // What a disk lost had been stored there.
                let held = |m: &Member| m.disk.holds(index, term) || m.is_refetching();
                Some(members.get(&id).is_some_and(held))
            };
            let result = node.configuration().voters.vote_result(stored);
            let majority = result == crate::quorum::VoteResult::Won;
            assert!(majority, "I7: entry {index} is not durable on a majority");
        }
        self.commit_max = self.commit_max.max(now.commit);
    }
}

/// I8: a vote or an acknowledgement speaks of durable state only.
fn check_promise(member: &Member, m: &Message) {
    let (disk, hard) = (&member.disk, &member.disk.hard_state);
    let durable_term = hard.term() >= m.term();
    match m.r#type() {
        MessageType::MsgVoteResp if !m.reject() => {
            let kept = hard.term() > m.term() || hard.vote() == m.to();
            assert!(
                durable_term && kept,
                "I8: n{} voted before it was durable",
                member.id
            );
        }
        MessageType::MsgVote => {
            let kept = hard.term() > m.term() || hard.vote() == member.id;
            assert!(
                durable_term && kept,
                "I8: n{} campaigns before it is durable",
                member.id
            );
        }
        MessageType::MsgAppResp if !m.reject() && m.index() > 0 => {
            // An answer that was free to go before a later leader replaced the entry in memory was right, too.
            let node = member.node.as_ref().filter(|node| node.term() == m.term());
            let own = node.and_then(|node| node.entry_term(m.index()));
            let stored = m.index() <= disk.start.0
                || (m.index() <= disk.last() && own.is_none_or(|term| disk.holds(m.index(), term)));
            assert!(
                durable_term && stored,
                "I8: n{} acknowledges {} before it is durable",
                member.id,
                m.index()
            );
        }
        _ => {}
    }
}

/// I6: nothing goes back on a living node.
fn check_monotonic(before: &Status, now: &Status) {
    let id = now.id;
    assert!(now.term >= before.term, "I6: term of n{id}");
    let kept_vote = now.term > before.term || before.vote == 0 || now.vote == before.vote;
    assert!(kept_vote, "I6: n{id} changed its vote");
    assert!(now.commit >= before.commit, "I6: commit of n{id}");
    assert!(now.applied >= before.applied, "I6: applied of n{id}");
}

/// I13: what a leader believes of its followers.
fn check_progress(members: &BTreeMap<u64, Member>, status: &Status) {
    for peer in &status.peers {
        assert!(peer.matched < peer.next, "I13: {peer:?}");
        assert!(
            peer.inflight_messages <= super::cluster::INFLIGHT_MESSAGES_MAX,
            "I13: {peer:?}"
        );
        let bytes_max = super::cluster::INFLIGHT_BYTES_MAX + super::cluster::MESSAGE_WEIGHT_MAX;
        assert!(peer.inflight_bytes <= bytes_max, "I13: {peer:?}");
        let window = peer.state == ProgressState::Replicate || peer.inflight_messages == 0;
        assert!(window, "I13: {peer:?}");
        if let Some(member) = members.get(&peer.id) {
            let same_term = member.disk.hard_state.term() == status.term;
            let stored = peer.matched <= member.disk.last();
            assert!(
                !same_term || stored,
                "I13: n{} does not store {}",
                peer.id,
                peer.matched
            );
        }
    }
}

/// I9: two majorities that decide in adjacent configurations intersect.
pub(super) fn check_adjacent(old: &ConfState, new: &ConfState) {
    let (Ok(old), Ok(new)) = (
        Configuration::from_conf_state(old),
        Configuration::from_conf_state(new),
    ) else {
        return;
    };
    let all: Vec<u64> = (0..64)
        .filter(|id| old.voters.contains(*id) || new.voters.contains(*id))
        .collect();
    if all.len() > 8 || old.voters.incoming.ids.is_empty() {
        return;
    }
    for set in 0..1u32 << all.len() {
        let inside = |id: u64| {
            Some(
                all.iter()
                    .position(|a| *a == id)
                    .is_some_and(|at| set & (1 << at) != 0),
            )
        };
        let outside = |id: u64| inside(id).map(|inside| !inside);
        let won = crate::quorum::VoteResult::Won;
        let disjoint =
            old.voters.vote_result(inside) == won && new.voters.vote_result(outside) == won;
        assert!(!disjoint, "I9: disjoint majorities of {old:?} and {new:?}");
    }
}
