//! Comparing what the members made of the same log.
//!
//! Every store keeps a running hash of what its entries came to (`engine::store::results`). Once a second a member says to
//! each other ringd member which hash it has after its last applied entry and after the last ones of former eras, and gets
//! the same in return. Hashes of the same entry are compared; one of an entry that is not applied here yet waits until it is.
//!
//! A difference means that a member's data is wrong, by a defect of the program or of the machine, and that it may show that
//! to anybody who reads. Then all are asked for their hash of that very entry, and each member decides for itself:
//!
//! * a majority of all members has one other hash, or, once everybody had the time to answer, of at least three that did:
//!   this member is the one that is wrong, and stops at once. The others go on without it, and say so;
//! * nobody has a majority, as where one of two differs: nobody knows which data is right. Nobody stops; all say so, and the
//!   CORRUPT alarm is raised in nobody's name, as etcd does it, so that the cluster refuses requests until an operator has
//!   decided whom to believe.
//!
//! A member takes part by what it says. etcd members are never asked.

use super::{Effect, Member};
use crate::{peers::PeerAsk, request::CallId};
use bytes::Bytes;
use engine::store::results::{ERA_ENTRIES, VERSION};
use proto::etcdserverpb as pb;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// How often each other member is told.
const INTERVAL_NS: u64 = 1_000_000_000;
/// Where not all can be heard of, those who can decide after this time.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Last hashes of former eras in a report.
const CLOSED_TOLD: usize = 2;
/// Hashes of a member, of entries that are not applied here yet. More are not looked at: they come again.
const AHEAD_MAX: usize = 4;
/// Entries about which members differ that are remembered, one for each member and era: the oldest are forgotten.
const DISPUTES_MAX: usize = 8;
/// Lines of a report that are read.
const LINES_MAX: usize = 32;

/// What a member says of its hashes, as lines of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    from: u64,
    /// Of entries, by index.
    hashes: Vec<(u64, u64)>,
    /// Entries whose hash is wanted from the other one.
    wanted: Vec<u64>,
}

impl Report {
    fn encode(&self) -> Bytes {
        let mut text = format!("results {VERSION} {:x}\n", self.from);
        for (index, hash) in &self.hashes {
            let _ = writeln!(text, "at {index} {hash:016x}");
        }
        for index in &self.wanted {
            let _ = writeln!(text, "want {index}");
        }
        text.into()
    }

    /// None if it is none, or about hashes of another version.
    fn decode(body: &[u8]) -> Option<Report> {
        let mut lines = std::str::from_utf8(body).ok()?.lines().take(LINES_MAX);
        let mut head = lines.next()?.split(' ');
        let is_known = head.next()? == "results" && head.next()?.parse() == Ok(VERSION);
        if !is_known {
            return None;
        }
        let mut report = Report {
            from: u64::from_str_radix(head.next()?, 16).ok()?,
            ..Report::default()
        };
        for line in lines {
            let mut words = line.split(' ');
            match words.next()? {
                "at" => {
                    let index = words.next()?.parse().ok()?;
                    let hash = u64::from_str_radix(words.next()?, 16).ok()?;
                    report.hashes.push((index, hash));
                }
                "want" => report.wanted.push(words.next()?.parse().ok()?),
                // Something that a later version says as well.
                _ => {}
            }
        }
        Some(report)
    }
}

/// An entry of which members have different hashes.
#[derive(Debug)]
struct Dispute {
    own: u64,
    theirs: BTreeMap<u64, u64>,
    since_ns: u64,
}

/// Which chain an entry belongs to.
fn era_of(index: u64) -> u64 {
    index.saturating_sub(1) / ERA_ENTRIES
}

/// What a difference comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// There is none.
    Agreed,
    /// More members are to be heard first.
    Open,
    /// Most members have this hash, and this one has another.
    WrongHere(u64),
    /// Most members have this one's.
    WrongThere,
    Undecidable,
}

/// `members`: of the cluster, heard of or not. `waited`: for as long as anybody needs to answer.
fn decide(own: u64, theirs: &BTreeMap<u64, u64>, members: usize, waited: bool) -> Verdict {
    let mut counts = BTreeMap::from([(own, 1)]);
    for hash in theirs.values() {
        *counts.entry(*hash).or_insert(0) += 1;
    }
    if counts.len() == 1 {
        return Verdict::Agreed;
    }
    let heard = theirs.len() + 1;
    let is_most = |(_, count): &(&u64, &usize)| {
        2 * **count > members || waited && heard >= 3 && 2 * **count > heard
    };
    match counts.iter().find(is_most) {
        Some((hash, _)) if *hash == own => Verdict::WrongThere,
        Some((hash, _)) => Verdict::WrongHere(*hash),
        None if waited => Verdict::Undecidable,
        None => Verdict::Open,
    }
}

#[derive(Default)]
pub(super) struct Comparison {
    next_ns: u64,
    /// Questions under way: the member, and what was applied here then.
    asked: BTreeMap<u64, (u64, u64)>,
    /// What was applied here when a member was told last.
    told: BTreeMap<u64, u64>,
    /// Hashes of entries that are not applied yet: by index, then by member.
    ahead: BTreeMap<u64, BTreeMap<u64, u64>>,
    disputes: BTreeMap<u64, Dispute>,
    /// Members whose difference the log was told of.
    accused: BTreeSet<u64>,
    /// The alarm for that is still to be raised.
    alarm_wanted: bool,
}

impl Comparison {
    /// The data is another one: what was found out about it counts no more.
    pub fn begin_anew(&mut self) {
        self.ahead.clear();
        self.disputes.clear();
        self.told.clear();
    }

    /// It may be another process, with other data.
    pub fn connected(&mut self, peer: u64) {
        self.told.remove(&peer);
        self.asked.retain(|_, (id, _)| *id != peer);
        self.next_ns = 0;
    }

    /// A member has the same hash of this entry, and so of all earlier ones of the same chain, whatever it said of them before:
    /// if it had another one, its data was replaced since.
    fn agrees(&mut self, member: u64, index: u64) {
        let era = era_of(index);
        for (earlier, dispute) in self.disputes.range_mut(..=index) {
            if era_of(*earlier) == era {
                dispute.theirs.insert(member, dispute.own);
            }
        }
        let differs = |dispute: &Dispute| {
            let theirs = dispute.theirs.get(&member);
            theirs.is_some_and(|hash| *hash != dispute.own)
        };
        if !self.disputes.values().any(differs) {
            self.accused.remove(&member);
        }
    }

    fn differs(&mut self, member: u64, index: u64, own: u64, theirs: u64, now_ns: u64) {
        let differed = |(earlier, dispute): (&u64, &Dispute)| {
            let known = dispute.theirs.get(&member);
            era_of(*earlier) == era_of(index) && known.is_some_and(|hash| *hash != dispute.own)
        };
        if self.disputes.range(..index).any(differed) {
            return; // it follows from that
        }
        if !self.disputes.contains_key(&index) {
            // Everybody is asked at once.
            self.next_ns = 0;
            self.disputes.insert(
                index,
                Dispute {
                    own,
                    theirs: BTreeMap::new(),
                    since_ns: now_ns,
                },
            );
        }
        if let Some(dispute) = self.disputes.get_mut(&index) {
            dispute.theirs.insert(member, theirs);
        }
        while self.disputes.len() > DISPUTES_MAX {
            self.disputes.pop_first();
        }
    }
}

impl Member {
    /// Tells the others, if it is time.
    pub(super) fn compare_results(&mut self, now_ns: u64) {
        if self.halted || now_ns < self.comparison.next_ns {
            return;
        }
        self.comparison.next_ns = now_ns + INTERVAL_NS;
        let (applied, _) = self.store.applied();
        let in_dispute = !self.comparison.disputes.is_empty();
        for peer in self.peers() {
            let is_asked = self.comparison.asked.values().any(|(id, _)| *id == peer.id);
            let is_told = self.comparison.told.get(&peer.id) == Some(&applied);
            if is_asked || (is_told && !in_dispute) {
                continue;
            }
            let ask = self.next_ask();
            self.comparison.asked.insert(ask, (peer.id, applied));
            let body = self.report(&[]).encode();
            self.effects.push(Effect::AskPeer {
                ask,
                peer: peer.id,
                request: PeerAsk::Results(body),
            });
        }
        self.judge_results(now_ns);
    }

    /// This member's hashes, those that are wanted among them.
    fn report(&self, wanted: &[u64]) -> Report {
        let (applied, _) = self.store.applied();
        let closed = self.store.closed_result_hashes().rev();
        let mut indexes: BTreeSet<u64> = closed.take(CLOSED_TOLD).map(|(index, _)| index).collect();
        indexes.insert(applied);
        indexes.extend(wanted.iter().take(DISPUTES_MAX));
        let disputes = &self.comparison.disputes;
        indexes.extend(disputes.keys());
        let known = |index: u64| Some((index, self.own_result_hash(index)?));
        Report {
            from: self.config.member_id,
            hashes: indexes.into_iter().filter_map(known).collect(),
            wanted: disputes.keys().copied().collect(),
        }
    }

    /// What is disputed is remembered for longer than the store does.
    fn own_result_hash(&self, index: u64) -> Option<u64> {
        let disputed = self.comparison.disputes.get(&index);
        let disputed = disputed.map(|dispute| dispute.own);
        disputed.or_else(|| self.store.result_hash(index))
    }

    /// Another member tells its hashes, and is told this one's.
    pub(super) fn results_told(&mut self, call: CallId, body: &[u8], now_ns: u64) {
        let heard = Report::decode(body).unwrap_or_default();
        let answer = self.report(&heard.wanted).encode();
        self.hear_results(&heard, now_ns);
        // Even if that was the end of this member: it acknowledges nothing, and the other one should know why.
        self.reply(call, Ok(answer));
    }

    /// The answer to an own report, if it is one.
    pub(super) fn results_answered(&mut self, ask: u64, body: Option<&Bytes>) -> bool {
        let Some((peer, applied)) = self.comparison.asked.remove(&ask) else {
            return false;
        };
        if let Some(heard) = body.and_then(|body| Report::decode(body)) {
            self.comparison.told.insert(peer, applied);
            self.hear_results(&heard, self.now_ns);
        }
        true
    }

    fn hear_results(&mut self, report: &Report, now_ns: u64) {
        let from = report.from;
        if from == self.config.member_id || self.store.member(from).is_none() {
            return;
        }
        for (index, hash) in &report.hashes {
            self.hear_result(from, *index, *hash, now_ns);
        }
        self.judge_results(now_ns);
    }

    fn hear_result(&mut self, from: u64, index: u64, theirs: u64, now_ns: u64) {
        let (applied, _) = self.store.applied();
        if index > applied {
            let ahead = &mut self.comparison.ahead;
            let waiting = ahead.values().filter(|said| said.contains_key(&from));
            if waiting.count() < AHEAD_MAX {
                ahead.entry(index).or_default().insert(from, theirs);
            }
        } else if let Some(own) = self.own_result_hash(index) {
            match own == theirs {
                true => self.comparison.agrees(from, index),
                false => self.comparison.differs(from, index, own, theirs, now_ns),
            }
        }
    }

    /// Looks at what was said of entries that are applied by now.
    pub(super) fn compare_applied(&mut self, now_ns: u64) {
        let (applied, _) = self.store.applied();
        let mut compared = false;
        while let Some(first) = self.comparison.ahead.first_entry() {
            let index = *first.key();
            if index > applied {
                break;
            }
            for (member, hash) in first.remove() {
                self.hear_result(member, index, hash, now_ns);
            }
            compared = true;
        }
        if compared {
            self.judge_results(now_ns);
        }
    }

    fn judge_results(&mut self, now_ns: u64) {
        let mut disputes = std::mem::take(&mut self.comparison.disputes);
        let members = self.store.members().count();
        disputes.retain(|index, dispute| {
            // Who was removed says nothing any more.
            dispute
                .theirs
                .retain(|id, _| self.store.member(*id).is_some());
            let waited = now_ns.saturating_sub(dispute.since_ns) >= PATIENCE_NS;
            let verdict = decide(dispute.own, &dispute.theirs, members, waited);
            match verdict {
                Verdict::WrongHere(hash) => self.stop_for_difference(*index, dispute, hash),
                Verdict::WrongThere | Verdict::Undecidable => {
                    self.accuse(*index, dispute, verdict);
                }
                Verdict::Agreed | Verdict::Open => {}
            }
            verdict != Verdict::Agreed
        });
        self.comparison.disputes = disputes;
        if self.comparison.alarm_wanted {
            self.comparison.alarm_wanted = !self.raise_for(0, pb::AlarmType::Corrupt);
        }
    }

    fn stop_for_difference(&mut self, index: u64, dispute: &Dispute, hash: u64) {
        let others = with_hash(dispute, |theirs| theirs == hash);
        self.halt(format!(
            "this member's data differs from that of most members, at log entry {index} or before: the hash of all results \
             up to it is {:016x} here and {hash:016x} at {others}. A defect of the program or of this machine made an entry \
             come to something else here; do not use this data. Keep the data directory and the logs for a report, remove \
             this member from the cluster, and add it again with an empty data directory",
            dispute.own
        ));
    }

    /// Says, once, that others differ; and has the cluster refuse requests where nobody knows who is right.
    fn accuse(&mut self, index: u64, dispute: &Dispute, verdict: Verdict) {
        let differs = |hash| hash != dispute.own;
        let ids = dispute.theirs.iter().filter(|(_, hash)| differs(**hash));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        if ids.iter().all(|id| self.comparison.accused.contains(id)) {
            return;
        }
        self.comparison.accused.extend(ids);
        let others = with_hash(dispute, differs);
        let what = format!(
            "the data of {others} differs from this member's, at log entry {index} or before (hash {:016x} here)",
            dispute.own
        );
        self.notices.push(match verdict {
            Verdict::WrongThere => format!(
                "{what}. Most members have this one's: the other is wrong and stops by itself. Remove it from the cluster, and \
                 add it again with an empty data directory"
            ),
            _ => format!(
                "{what}, and no majority says which one is right. The CORRUPT alarm is raised: stop one of them, compare \
                 what they hold, remove the wrong one and add it again with an empty data directory, then lift the alarm"
            ),
        });
        self.comparison.alarm_wanted |= verdict == Verdict::Undecidable;
    }
}

/// The members whose hash is like that, in words.
fn with_hash(dispute: &Dispute, is_meant: impl Fn(u64) -> bool) -> String {
    let ids = dispute.theirs.iter().filter(|(_, hash)| is_meant(**hash));
    let ids: Vec<String> = ids.map(|(id, _)| format!("{id:x}")).collect();
    match ids.len() {
        1 => format!("member {}", ids[0]),
        _ => format!("members {}", ids.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back_as_written_and_nothing_else_is_taken_for_one() {
        let report = Report {
            from: 0xabc,
            hashes: vec![(1, 2), (u64::MAX, u64::MAX)],
            wanted: vec![9],
        };
        let body = report.encode();
        assert_eq!(Report::decode(&body), Some(report));
        for bad in [
            "",
            "results",
            "results 1",
            "results 2 abc",
            "results 1 xyz",
            "results 1 abc\nat 1",
            "results 1 abc\nat -1 2",
            "results 1 abc\nwant",
            "404 page not found",
        ] {
            assert_eq!(Report::decode(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(Report::decode(&[0xff, 0xfe]), None);
        let later = Report::decode(b"results 1 1\nwhatever 3\nat 5 6\n").unwrap();
        assert_eq!(later.hashes, [(5, 6)]);
        let long = format!("results 1 1\n{}", "at 1 1\n".repeat(10_000));
        assert_eq!(
            Report::decode(long.as_bytes()).unwrap().hashes.len(),
            LINES_MAX - 1
        );
    }

    #[test]
    fn the_minority_stops_and_without_a_majority_nobody() {
        let said = |hashes: &[u64]| {
            (1..)
                .zip(hashes.iter().copied())
                .collect::<BTreeMap<_, _>>()
        };
        for (members, theirs, at_once, after_patience) in [
            (2, &[1][..], Verdict::Agreed, Verdict::Agreed),
            (2, &[2], Verdict::Open, Verdict::Undecidable),
            (3, &[2, 2], Verdict::WrongHere(2), Verdict::WrongHere(2)),
            (3, &[1, 2], Verdict::WrongThere, Verdict::WrongThere),
            (3, &[2, 3], Verdict::Open, Verdict::Undecidable),
            (3, &[2], Verdict::Open, Verdict::Undecidable),
            (5, &[2, 2], Verdict::Open, Verdict::WrongHere(2)),
            (5, &[1, 2], Verdict::Open, Verdict::WrongThere),
            (5, &[2, 2, 2], Verdict::WrongHere(2), Verdict::WrongHere(2)),
            (
                5,
                &[1, 2, 2, 2],
                Verdict::WrongHere(2),
                Verdict::WrongHere(2),
            ),
            (5, &[1, 2, 2], Verdict::Open, Verdict::Undecidable),
            (4, &[1, 2, 2], Verdict::Open, Verdict::Undecidable),
        ] {
            let theirs = said(theirs);
            assert_eq!(
                decide(1, &theirs, members, false),
                at_once,
                "{members}: {theirs:?}"
            );
            assert_eq!(
                decide(1, &theirs, members, true),
                after_patience,
                "{members}: {theirs:?}"
            );
        }
    }

    #[test]
    fn agreement_later_in_the_same_chain_ends_a_dispute_and_in_the_next_one_does_not() {
        let mut comparison = Comparison::default();
        comparison.differs(7, 10, 1, 2, 0);
        comparison.differs(8, 10, 1, 3, 0);
        comparison.agrees(7, ERA_ENTRIES + 1);
        let said = |comparison: &Comparison| comparison.disputes[&10].theirs.clone();
        assert_eq!(said(&comparison), BTreeMap::from([(7, 2), (8, 3)]));
        comparison.agrees(7, ERA_ENTRIES);
        comparison.agrees(9, 11);
        let expected = BTreeMap::from([(7, 1), (8, 3), (9, 1)]);
        assert_eq!(said(&comparison), expected);
        // What follows from an earlier difference does not take the place of it.
        for index in 20..60 {
            comparison.differs(8, index, 1, 3, 0);
        }
        assert_eq!(comparison.disputes.len(), 1);
        for member in 20..60 {
            comparison.differs(member, member, 1, 3, 0);
        }
        assert_eq!(comparison.disputes.len(), DISPUTES_MAX);
    }
}
