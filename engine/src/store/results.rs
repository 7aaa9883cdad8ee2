//! The running hash: what every applied entry came to, so that members can compare what they did with the same log.
//!
//! Into it goes, entry by entry: index and term; each change as its row holds it (key, value, revisions, version, lease, or
//! tombstone); what a transaction or `prev_kv` read; which alarms, members, leases and settings an entry was about; whether
//! it was refused; and the revision, the compacted revision and Raft's configuration after it. Left out is whatever may
//! differ between members that are right: how far a compaction has come (and with it a row's pointers to older ones), what
//! was resident, the quota, the time to live that a lease was granted (each member has its own minimum), why something was
//! refused (a later version may say it in other words), and when anything happened.
//!
//! The hash is a chain, so that members who differed once differ from then on. It begins anew with every *era* of
//! [`ERA_ENTRIES`] entries: whoever does not know it, because the data is an earlier version's or an etcd's, has it again
//! from the next era on. The last hashes of the former eras are kept, for members who come that far later. All of it lies
//! in the meta page with the applied index, and travels with a snapshot.
//!
//! A later version whose hash of the same entries is another one has another [`VERSION`]; it does not compare with this one.

use super::Response;
use crate::error::RequestError;
use crate::hash::Sum;
use crate::mvcc::varint::{put_varint, take_varint};
use prost::Message;
use proto::etcdserverpb::{
    response_op, AlarmResponse, DeleteRangeResponse, RangeResponse, TxnResponse,
};
use proto::mvccpb::KeyValue;
use std::collections::VecDeque;

/// Of the hash. To be raised by whoever changes what goes into it, or what a request comes to.
pub const VERSION: u8 = 1;

/// Entries after which the chain begins anew. More, and a member that does not know the hash compares nothing for longer;
/// fewer, and a member that is far behind may never meet a hash that the others still have.
pub const ERA_ENTRIES: u64 = 1 << 16;
/// Former eras whose last hash is kept: the log that a member can catch up from is shorter.
const CLOSED_MAX: usize = 8;
/// Entries whose hashes are kept, in memory only, so that others can ask for that of any entry of the era: 512 KiB.
const RECENT_ENTRIES: usize = ERA_ENTRIES as usize;

/// Digits of the golden ratio: any odd number without a pattern does.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Where a chain begins: digits of the square root of 2.
const BEGINNING: u64 = 0xb504_f333_f9de_6485;

/// One step of a chain: the halves of a product of 128 bits, folded.
fn step(chain: u64, next: u64) -> u64 {
    let product = u128::from(chain ^ next) * u128::from(MULTIPLIER);
    (product as u64) ^ ((product >> 64) as u64) ^ chain.rotate_left(29)
}

/// What the entry at hand has done so far. Nothing of it counts before the entry is applied.
#[derive(Clone, Copy, Debug, Default)]
struct Deeds(u64);

impl Deeds {
    fn number(&mut self, number: u64) {
        self.0 = step(self.0, number);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.number(u64::from(Sum::of(bytes).crc));
    }

    fn kv(&mut self, kv: &KeyValue) {
        self.bytes(&kv.key);
        self.bytes(&kv.value);
        for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
            self.number(number as u64);
        }
    }

    fn kvs<'a>(&mut self, kvs: impl ExactSizeIterator<Item = &'a KeyValue>) {
        self.number(kvs.len() as u64);
        kvs.for_each(|kv| self.kv(kv));
    }

    fn range(&mut self, range: &RangeResponse) {
        self.number(range.count as u64);
        self.kvs(range.kvs.iter());
    }

    fn delete(&mut self, delete: &DeleteRangeResponse) {
        self.number(delete.deleted as u64);
        self.kvs(delete.prev_kvs.iter());
    }

    fn alarms(&mut self, response: &AlarmResponse) {
        self.number(response.alarms.len() as u64);
        for alarm in &response.alarms {
            self.number(alarm.member_id);
            self.number(alarm.alarm as u64);
        }
    }

    /// Nested as deep as the request was, which is bounded.
    fn txn(&mut self, txn: &TxnResponse) {
        self.number(u64::from(txn.succeeded));
        for op in &txn.responses {
            match &op.response {
                None => self.number(0),
                Some(response_op::Response::ResponseRange(range)) => self.range(range),
                // What was written shows as a change.
                Some(response_op::Response::ResponsePut(put)) => self.kvs(put.prev_kv.iter()),
                Some(response_op::Response::ResponseDeleteRange(delete)) => self.delete(delete),
                Some(response_op::Response::ResponseTxn(nested)) => self.txn(nested),
            }
        }
    }

    fn outcome(&mut self, outcome: &Result<Response, RequestError>) {
        let Ok(response) = outcome else {
            return self.number(1);
        };
        match response {
            // By far the most frequent one, without anything that its row does not say.
            Response::Put(put) if put.prev_kv.is_none() => {}
            Response::Put(put) => self.kvs(put.prev_kv.iter()),
            Response::Range(range) => self.range(range),
            Response::DeleteRange(delete) => self.delete(delete),
            Response::Txn(txn) => self.txn(txn),
            Response::Alarm(alarm) => self.alarms(alarm),
            Response::LeaseGrant(grant) => self.number(grant.id as u64),
            Response::Empty
            | Response::Compaction(_)
            | Response::LeaseRevoke(_)
            | Response::LeaseCheckpoint(_) => {}
        }
    }
}

/// The running hash of a store.
pub(super) struct Results {
    deeds: Deeds,
    /// After the last applied entry; none where it is not known.
    chain: Option<u64>,
    /// The last hashes of former eras, by their entry's index.
    closed: VecDeque<(u64, u64)>,
    /// After the entries from `recent_from` to the last one, each at its index modulo the length. Empty until the first.
    recent: Vec<u64>,
    recent_from: u64,
}

impl Default for Results {
    /// Of an empty store.
    fn default() -> Results {
        Results {
            deeds: Deeds::default(),
            chain: Some(BEGINNING),
            closed: VecDeque::new(),
            recent: Vec::new(),
            recent_from: 0,
        }
    }
}

impl Results {
    /// An entry begins, perhaps again after a miss.
    pub fn begin(&mut self) {
        self.deeds = Deeds::default();
    }

    /// A row was written. `body` is the pair as the row holds it.
    pub fn change(&mut self, tombstone: bool, body: &[u8]) {
        let len = (body.len() as u64) << 33;
        let kind = u64::from(tombstone) << 32;
        self.deeds.number(len | kind | u64::from(Sum::of(body).crc));
    }

    /// A setting was written or removed.
    pub fn setting(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.deeds.bytes(key);
        match value {
            Some(value) => self.deeds.bytes(value),
            None => self.deeds.number(0),
        }
    }

    /// Something about a lease that is the same on all members.
    pub fn lease(&mut self, id: i64) {
        self.deeds.number(id as u64);
    }

    pub fn outcome(&mut self, outcome: &Result<Response, RequestError>) {
        self.deeds.outcome(outcome);
    }

    pub fn message(&mut self, message: &impl Message) {
        self.deeds.bytes(&message.encode_to_vec());
    }

    /// The entry is applied.
    pub fn end(&mut self, index: u64, term: u64, revision: i64, compacted: i64) {
        if index % ERA_ENTRIES == 1 {
            if self.chain.is_none() {
                self.recent_from = index;
            }
            self.chain = Some(BEGINNING);
        }
        let deeds = std::mem::take(&mut self.deeds);
        let Some(chain) = &mut self.chain else {
            return;
        };
        for number in [index, term, revision as u64, compacted as u64, deeds.0] {
            *chain = step(*chain, number);
        }
        let chain = *chain;
        self.note(index, chain);
        if index % ERA_ENTRIES == 0 {
            if self.closed.len() == CLOSED_MAX {
                self.closed.pop_front();
            }
            self.closed.push_back((index, chain));
        }
    }

    fn note(&mut self, index: u64, chain: u64) {
        if self.recent.is_empty() {
            self.recent = vec![0; RECENT_ENTRIES];
            self.recent_from = index;
        }
        self.recent[index as usize % RECENT_ENTRIES] = chain;
    }

    /// The hash after this entry, of a store that has applied up to `applied`; none if it is not known, or no more.
    pub fn at(&self, index: u64, applied: u64) -> Option<u64> {
        let closed = self.closed.iter().find(|(closed, _)| *closed == index);
        if let Some((_, hash)) = closed {
            return Some(*hash);
        }
        let is_recent = index > 0
            && index <= applied
            && index >= self.recent_from
            && applied - index < RECENT_ENTRIES as u64;
        let is_known = is_recent && self.chain.is_some() && !self.recent.is_empty();
        is_known.then(|| self.recent[index as usize % RECENT_ENTRIES])
    }

    pub fn closed(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.closed.iter().copied()
    }

    /// What a checkpoint holds of it.
    pub fn kept(&self) -> Kept {
        Kept {
            chain: self.chain,
            closed: self.closed.iter().copied().collect(),
        }
    }

    pub fn restore(kept: Kept, applied: u64) -> Results {
        let mut results = Results {
            chain: kept.chain,
            closed: kept.closed.into(),
            ..Results::default()
        };
        if let Some(chain) = kept.chain.filter(|_| applied > 0) {
            results.note(applied, chain);
        }
        results
    }
}

/// The running hash in a meta page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    chain: Option<u64>,
    closed: Vec<(u64, u64)>,
}

impl Kept {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(u8::from(self.chain.is_some()));
        if let Some(chain) = self.chain {
            out.extend_from_slice(&chain.to_le_bytes());
        }
        put_varint(out, self.closed.len() as u64);
        for (index, hash) in &self.closed {
            put_varint(out, *index);
            out.extend_from_slice(&hash.to_le_bytes());
        }
    }

    /// One of another version counts for nothing.
    pub fn decode(input: &mut &[u8]) -> Option<Kept> {
        let (&[version, is_known], rest) = input.split_first_chunk()?;
        *input = rest;
        let chain = match is_known {
            0 => None,
            1 => Some(take_hash(input)?),
            _ => return None,
        };
        let count = take_varint(input)?;
        if count > CLOSED_MAX as u64 {
            return None;
        }
        let mut closed = Vec::new();
        for _ in 0..count {
            closed.push((take_varint(input)?, take_hash(input)?));
        }
        let kept = Kept { chain, closed };
        Some(match version {
            VERSION => kept,
            _ => Kept::default(),
        })
    }
}

fn take_hash(input: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies entries up to `to`, each of which writes a row that says so.
    fn go_on(results: &mut Results, from: u64, to: u64) {
        for index in from..=to {
            results.begin();
            results.change(false, &index.to_le_bytes());
            results.end(index, 3, index as i64, -1);
        }
    }

    #[test]
    fn who_does_not_know_the_hash_has_it_from_the_next_era_on() {
        let mut all = Results::default();
        let mut late = Results::restore(Kept::default(), 100);
        go_on(&mut all, 1, ERA_ENTRIES + 3);
        go_on(&mut late, 101, ERA_ENTRIES + 3);
        let applied = ERA_ENTRIES + 3;
        for index in [101, ERA_ENTRIES] {
            assert_eq!(late.at(index, applied), None, "{index}");
            assert!(all.at(index, applied).is_some(), "{index}");
        }
        assert_eq!(all.at(3, applied), None, "so long ago");
        for index in ERA_ENTRIES + 1..=applied {
            assert!(late.at(index, applied).is_some());
            assert_eq!(late.at(index, applied), all.at(index, applied));
        }
        assert_eq!(late.at(applied + 1, applied), None, "not applied");
    }

    #[test]
    fn what_differed_differs_to_the_end_of_the_era_and_stays_known() {
        let (mut right, mut wrong) = (Results::default(), Results::default());
        go_on(&mut right, 1, 20 * ERA_ENTRIES);
        go_on(&mut wrong, 1, 15 * ERA_ENTRIES - 9);
        wrong.begin();
        wrong.change(true, &(15 * ERA_ENTRIES - 8).to_le_bytes());
        wrong.end(15 * ERA_ENTRIES - 8, 3, 15 * ERA_ENTRIES as i64 - 8, -1);
        go_on(&mut wrong, 15 * ERA_ENTRIES - 7, 20 * ERA_ENTRIES);
        let applied = 20 * ERA_ENTRIES;
        for era in 13..=20 {
            let last = era * ERA_ENTRIES;
            assert!(right.at(last, applied).is_some());
            let same = right.at(last, applied) == wrong.at(last, applied);
            assert_eq!(same, era != 15, "era {era}");
        }
        assert_eq!(right.at(12 * ERA_ENTRIES, applied), None, "so long ago");
    }

    #[test]
    fn what_is_kept_is_read_again_and_another_version_counts_for_nothing() {
        let mut results = Results::default();
        go_on(&mut results, 1, 2 * ERA_ENTRIES + 7);
        let mut bytes = Vec::new();
        results.kept().encode(&mut bytes);
        let again = Kept::decode(&mut &bytes[..]).unwrap();
        assert_eq!(again, results.kept());
        let applied = 2 * ERA_ENTRIES + 7;
        let mut restored = Results::restore(again, applied);
        assert_eq!(restored.at(applied, applied), results.at(applied, applied));
        assert_eq!(restored.at(applied - 1, applied), None);
        go_on(&mut restored, applied + 1, applied + 9);
        go_on(&mut results, applied + 1, applied + 9);
        assert_eq!(restored.kept(), results.kept());
        bytes[0] = VERSION + 1;
        assert_eq!(Kept::decode(&mut &bytes[..]), Some(Kept::default()));
        for cut in 0..bytes.len() {
            assert_eq!(Kept::decode(&mut &bytes[..cut]), None);
        }
    }
}
