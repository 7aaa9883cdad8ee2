//! One history: the entries that members apply, executed once by the model, and the answers to clients held against it.
//!
//! The log is the order of all writes, so linearizability needs no search. An acknowledged write must be an entry that
//! was applied between question and answer, with the model's very answer. A linearizable read must show the model's
//! state at a revision that is at least the newest one anywhere when it was asked for. An entry that nobody was told of
//! must belong to a question with an unknown outcome, and each question takes effect at most once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use engine::store::Store;
use prost::Message as _;
use proto::etcdserverpb::{self as pb, alarm_request::AlarmAction, InternalRaftRequest};
use proto::mvccpb::Event;
use proto::raftpb::{Entry, EntryType};
use ringd::request::Request;
use ringd::status::Status;

use super::Verdict;
use crate::model::{self, Limits, Model, Refusal, Response};
use crate::sim::operations::{self, Mark};

/// An entry as all members must have applied it.
struct Decided {
    term: u64,
    hash: u64,
    /// After it.
    revision: i64,
    compacted: i64,
}

/// What an entry of a client did, and whether the client was told.
struct Done {
    index: u64,
    result: Result<Response, Refusal>,
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    Known,
    /// It may have taken effect or not, or may still.
    Unknown,
    /// It certainly has no effect.
    Refused,
}

/// A question of a client.
pub struct Asked {
    pub request: Request,
    mark: Option<Mark>,
    /// What was applied anywhere when it was asked.
    applied: u64,
    revision: i64,
    compacted: i64,
    outcome: Outcome,
}

pub struct History {
    model: Model,
    log: Vec<Decided>,
    done: BTreeMap<Mark, Vec<Done>>,
    asked: BTreeMap<u64, Asked>,
    events: BTreeMap<i64, Vec<Event>>,
    /// Leases that were ever granted.
    granted: BTreeSet<i64>,
    /// What members were seen to be at an applied index.
    states: BTreeMap<u64, u64>,
    /// Leases revoked by the last entry, for the lease checker.
    revoked: Vec<i64>,
    /// Members that reported damage to their data by the last entry.
    reported: Vec<u64>,
    pub writes_known: u64,
    pub reads_known: u64,
    pub unknown: u64,
}

impl Default for History {
    fn default() -> History {
        let mut model = Model::new(model::Identity::default(), Limits::default());
        model.keep_history();
        History {
            model,
            log: Vec::new(),
            done: BTreeMap::new(),
            asked: BTreeMap::new(),
            events: BTreeMap::new(),
            granted: BTreeSet::new(),
            states: BTreeMap::new(),
            revoked: Vec::new(),
            reported: Vec::new(),
            writes_known: 0,
            reads_known: 0,
            unknown: 0,
        }
    }
}

fn hash_entry(entry: &Entry) -> u64 {
    let mut trace = crate::sim::trace::Trace::default();
    trace.mix(entry.r#type() as u64);
    trace.mix_bytes(entry.data());
    trace.hash()
}

impl History {
    pub fn applied(&self) -> u64 {
        self.log.len() as u64
    }

    pub fn revision(&self) -> i64 {
        self.model.revision()
    }

    pub fn compacted(&self) -> i64 {
        self.model.compacted()
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        let at = index.checked_sub(1)? as usize;
        self.log.get(at).map(|decided| decided.term)
    }

    /// All events of the revisions from `from` to `to`.
    pub fn events(&self, from: i64, to: i64) -> impl Iterator<Item = &Event> {
        let range = from..=to.max(from - 1);
        let some = (from <= to).then(|| self.events.range(range));
        some.into_iter().flatten().flat_map(|(_, events)| events)
    }

    pub fn all_keys(&self) -> pb::RangeResponse {
        let everything = Bytes::from_static(b"\0");
        let request = pb::RangeRequest {
            key: everything.clone(),
            range_end: everything,
            ..Default::default()
        };
        self.model.range_as_of(&request, self.model.revision())
    }

    /// The model's hash of all keys, while nothing waits to be compacted.
    pub fn hash(&mut self, revision: i64) -> Option<pb::HashKvResponse> {
        match self
            .model
            .call(&model::Request::HashKv(pb::HashKvRequest { revision }))
        {
            Ok(Response::HashKv(response)) => Some(response),
            _ => None,
        }
    }

    pub fn lease_ids(&self) -> Vec<i64> {
        self.model.lease_ids()
    }

    /// A member applied an entry. The first one to do so decides; all others must agree.
    pub fn entry_applied(&mut self, index: u64, entry: &Entry) -> Verdict {
        if index <= self.applied() {
            let known = &self.log[index as usize - 1];
            if (known.term, known.hash) != (entry.term(), hash_entry(entry)) {
                return Err(format!(
                    "entry {index} is of term {} here and of term {} elsewhere: two members applied different entries",
                    entry.term(),
                    known.term
                ));
            }
            return Ok(());
        }
        if index != self.applied() + 1 {
            return Err(format!(
                "entry {index} is applied, but nobody has applied entry {}",
                self.applied() + 1
            ));
        }
        let before = self.model.revision();
        if entry.r#type() == EntryType::EntryNormal && !entry.data().is_empty() {
            self.execute(index, entry)?;
        }
        let revision = self.model.revision();
        if revision > before {
            self.events.insert(revision, self.model.events_of(revision));
        }
        self.log.push(Decided {
            term: entry.term(),
            hash: hash_entry(entry),
            revision,
            compacted: self.model.compacted(),
        });
        Ok(())
    }

    fn execute(&mut self, index: u64, entry: &Entry) -> Verdict {
        let request = InternalRaftRequest::decode(entry.data())
            .map_err(|error| format!("entry {index} cannot be decoded: {error}"))?;
        if let Some(alarm) = request.alarm.as_ref().filter(|alarm| {
            alarm.action() == AlarmAction::Activate && alarm.alarm() == pb::AlarmType::Corrupt
        }) {
            self.reported.push(alarm.member_id);
        }
        let Some((request, mark)) = operations::of_entry(&request) else {
            return Ok(());
        };
        let result = self.model.call(&request);
        if let Ok(Response::LeaseGrant(grant)) = &result {
            self.granted.insert(grant.id);
        }
        if let (model::Request::LeaseRevoke(revoke), Ok(_)) = (&request, &result) {
            self.revoked.push(revoke.id);
        }
        let Some(mark) = mark else { return Ok(()) };
        let done = self.done.entry(mark.clone()).or_default();
        if mark.is_unique() && !done.is_empty() {
            return Err(format!(
                "{mark:?} took effect twice: at entry {} and at entry {index}",
                done[0].index
            ));
        }
        done.push(Done {
            index,
            result,
            told: false,
        });
        Ok(())
    }

    /// Leases that ended since the last call.
    pub fn take_revoked(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.revoked)
    }

    /// Members that reported damage since the last call.
    pub fn take_reported(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.reported)
    }

    /// What a member shows of itself after it applied up to `index`.
    pub fn state_at(&self, index: u64, revision: i64, compacted: i64) -> Verdict {
        let Some(decided) = index
            .checked_sub(1)
            .and_then(|at| self.log.get(at as usize))
        else {
            return Ok(());
        };
        let expected = (decided.revision, decided.compacted);
        if expected == (revision, compacted) {
            return Ok(());
        }
        Err(format!(
            "at applied index {index} the revision and the compacted revision are {:?} here and {expected:?} in the model",
            (revision, compacted)
        ))
    }

    /// Members, configuration, alarms and leases are the same on all members that have applied as much.
    pub fn same_state(&mut self, index: u64, store: &Store) -> Verdict {
        let mut trace = crate::sim::trace::Trace::default();
        for member in store.member_list() {
            trace.mix_bytes(&member.encode_to_vec());
        }
        trace.mix_bytes(&store.conf_state().encode_to_vec());
        for alarm in store.alarms() {
            trace.mix_bytes(&alarm.encode_to_vec());
        }
        let lessor = store.lessor();
        let granted = self.granted.iter();
        let leases: Vec<_> = granted.filter_map(|id| lessor.record(*id)).collect();
        trace.mix(lessor.len() as u64);
        for lease in &leases {
            trace.mix(lease.id as u64);
            trace.mix(lease.ttl_seconds as u64);
        }
        let known = *self.states.entry(index).or_insert(trace.hash());
        if known == trace.hash() {
            return Ok(());
        }
        Err(format!(
            "at applied index {index} members, alarms or leases differ from another member's: {:?}, {:?}, {:?}, {:?}",
            store.member_list(),
            store.conf_state(),
            store.alarms(),
            leases
        ))
    }

    pub fn ask(&mut self, number: u64, request: &Request) {
        let asked = Asked {
            request: request.clone(),
            mark: operations::mark_of(request, number),
            applied: self.applied(),
            revision: self.model.revision(),
            compacted: self.model.compacted(),
            outcome: Outcome::Open,
        };
        self.asked.insert(number, asked);
    }

    pub fn is_open(&self, number: u64) -> bool {
        let asked = self.asked.get(&number);
        asked.is_some_and(|asked| asked.outcome == Outcome::Open)
    }

    /// The client gave up, or its connection broke.
    pub fn lose(&mut self, number: u64) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        if asked.outcome != Outcome::Open {
            return;
        }
        if asked.mark.is_some() {
            asked.outcome = Outcome::Unknown;
            self.unknown += 1;
        } else {
            self.asked.remove(&number);
        }
    }

    /// A member answers. `applied` is what it has applied, `revision` what it had when the turn began.
    pub fn answer(
        &mut self,
        number: u64,
        result: &Result<Bytes, Status>,
        applied: u64,
        revision: i64,
    ) -> Verdict {
        let Some(mut asked) = self.asked.remove(&number) else {
            return Ok(());
        };
        if asked.outcome != Outcome::Open {
            // The client is gone; what is said to nobody is checked no further.
            self.asked.insert(number, asked);
            return Ok(());
        }
        let verdict = match &asked.mark {
            Some(_) => self.written(&mut asked, result, applied),
            None => self.read(&asked, result, revision),
        };
        if asked.mark.is_some() && asked.outcome != Outcome::Known {
            self.asked.insert(number, asked);
        }
        verdict.map_err(|why| format!("question {number}: {why}"))
    }

    fn written(
        &mut self,
        asked: &mut Asked,
        result: &Result<Bytes, Status>,
        applied: u64,
    ) -> Verdict {
        if let Err(status) = result {
            if operations::is_unknown(status) {
                asked.outcome = Outcome::Unknown;
                self.unknown += 1;
                return Ok(());
            }
        }
        let Some(mark) = asked.mark.clone() else {
            return Ok(());
        };
        let said = operations::answer_of(&asked.request, result)?;
        let candidates = self.done.entry(mark).or_default();
        let fits = candidates.iter_mut().find(|done| {
            !done.told
                && done.index > asked.applied
                && done.index <= applied
                && operations::same_answer(&done.result, &said)
        });
        if let Some(done) = fits {
            done.told = true;
            asked.outcome = Outcome::Known;
            self.writes_known += 1;
            return Ok(());
        }
        if said.is_err() {
            asked.outcome = Outcome::Refused;
            return Ok(());
        }
        Err(format!(
            "{} was acknowledged with {said:?}; the entries that it may be are {:?}",
            crate::sim::words::ask(&asked.request),
            candidates
                .iter()
                .map(|done| (done.index, done.told, &done.result))
                .collect::<Vec<_>>()
        ))
    }

    fn read(&mut self, asked: &Asked, result: &Result<Bytes, Status>, revision: i64) -> Verdict {
        let Request::Range(range) = &asked.request else {
            return Ok(());
        };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(status) => return self.read_refused(range, &status.message, revision),
        };
        let mut response = pb::RangeResponse::decode(bytes.clone())
            .map_err(|error| format!("the answer cannot be decoded: {error}"))?;
        let shown = response.header.take().map_or(0, |header| header.revision);
        if shown > self.model.revision() {
            return Err(format!(
                "a read shows revision {shown}, which is not written yet"
            ));
        }
        if !range.serializable {
            if shown < asked.revision {
                return Err(format!(
                    "stale read: it shows revision {shown}, and revision {} was applied before it was asked for",
                    asked.revision
                ));
            }
            if range.revision > 0 && range.revision < asked.compacted {
                return Err(format!(
                    "revision {} was read after its compaction at {}",
                    range.revision, asked.compacted
                ));
            }
        }
        let expected = self.model.range_as_of(range, shown);
        self.reads_known += 1;
        if response == expected {
            return Ok(());
        }
        Err(format!(
            "a read of {range:?} at revision {shown} shows {response:?}, the model {expected:?}"
        ))
    }

    fn read_refused(&self, range: &pb::RangeRequest, message: &str, revision: i64) -> Verdict {
        let wrong = match message {
            "etcdserver: mvcc: required revision has been compacted" => {
                range.revision >= self.model.compacted()
            }
            "etcdserver: mvcc: required revision is a future revision" => {
                range.revision <= revision
            }
            _ => false,
        };
        match wrong {
            true => Err(format!("a read of {range:?} is refused: {message}")),
            false => Ok(()),
        }
    }

    /// At the end: what nobody was told of belongs to a question with an unknown outcome.
    pub fn finish(&self) -> Verdict {
        let mut unknown: BTreeMap<&Mark, usize> = BTreeMap::new();
        for asked in self.asked.values() {
            if let (Some(mark), Outcome::Unknown | Outcome::Open) = (&asked.mark, asked.outcome) {
                *unknown.entry(mark).or_default() += 1;
            }
        }
        for (mark, done) in &self.done {
            if matches!(mark, Mark::Revoke(_)) {
                continue; // the cluster itself ends leases as well
            }
            let untold = done.iter().filter(|done| !done.told && done.result.is_ok());
            let untold: Vec<u64> = untold.map(|done| done.index).collect();
            if untold.len() > unknown.get(mark).copied().unwrap_or(0) {
                return Err(format!(
                    "{mark:?} took effect at entries {untold:?} although its client was told that it did not"
                ));
            }
        }
        Ok(())
    }
}
