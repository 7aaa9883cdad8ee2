//! Linearizability without the log: for each key a search for an order of what its clients saw (Wing and Gong 1993, with
//! Lowe's set of configurations, 2017). It knows no revision and no entry, only calls, answers and their times.
//!
//! It looks at single keys: puts, deletes, and reads of one key. A delete of several keys is one of each of them, which
//! can only allow more. Seeds with transactions are left to the replay of the log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd::request::Request;
use ringd::status::Status;

use super::Verdict;
use crate::sim::operations;

/// Calls of a key with unknown outcomes; each doubles the possibilities, for good.
const UNKNOWN_MAX: usize = 6;
/// Configurations that the search of a key goes through in all.
const STEPS_MAX: usize = 300_000;
/// A search with more open possibilities than this is given up.
const CONFIGURATIONS_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Put(Bytes),
    Delete,
    /// What the read showed.
    Get(Option<Bytes>),
}

#[derive(Clone, Debug)]
struct Call {
    key: Bytes,
    kind: Kind,
    asked_ns: u64,
    /// `None` if nobody knows whether it took effect.
    answered_ns: Option<u64>,
}

struct Open {
    request: Request,
    asked_ns: u64,
}

#[derive(Default)]
pub struct Search {
    open: BTreeMap<u64, Open>,
    calls: Vec<Call>,
    /// All keys that were put.
    keys: BTreeSet<Bytes>,
    pub keys_searched: u64,
    pub given_up: u64,
}

impl Search {
    pub fn ask(&mut self, question: u64, request: &Request, now_ns: u64) {
        let wanted = match request {
            Request::Put(put) => {
                self.keys.insert(put.key.clone());
                true
            }
            Request::DeleteRange(_) => true,
            Request::Range(range) => {
                let plain = range.range_end.is_empty() && range.revision == 0;
                plain && !range.serializable && !range.keys_only && !range.count_only
            }
            _ => false,
        };
        if wanted {
            let request = request.clone();
            let asked_ns = now_ns;
            self.open.insert(question, Open { request, asked_ns });
        }
    }

    /// The client has its answer.
    pub fn answered(&mut self, question: u64, result: &Result<Bytes, Status>, now_ns: u64) {
        let unknown = matches!(result, Err(status) if operations::is_unknown(status));
        if unknown {
            return; // stays open
        }
        let Some(open) = self.open.remove(&question) else {
            return;
        };
        if let Ok(bytes) = result {
            self.note(&open, Some(bytes), Some(now_ns));
        }
    }

    fn note(&mut self, open: &Open, answer: Option<&Bytes>, answered_ns: Option<u64>) {
        let mut add = |key: &Bytes, kind: Kind| {
            self.calls.push(Call {
                key: key.clone(),
                kind,
                asked_ns: open.asked_ns,
                answered_ns,
            })
        };
        match &open.request {
            Request::Put(put) => add(&put.key, Kind::Put(put.value.clone())),
            Request::DeleteRange(delete) => {
                let end = &delete.range_end;
                let inside = self
                    .keys
                    .iter()
                    .filter(|key| **key >= delete.key && **key < *end);
                for key in inside {
                    add(key, Kind::Delete);
                }
            }
            Request::Range(range) => {
                let response =
                    answer.and_then(|bytes| pb::RangeResponse::decode(bytes.clone()).ok());
                if let Some(response) = response {
                    let value = response.kvs.first().map(|kv| kv.value.clone());
                    add(&range.key, Kind::Get(value));
                }
            }
            _ => {}
        }
    }

    /// Looks for an order for each key.
    pub fn finish(&mut self) -> Verdict {
        for open in std::mem::take(&mut self.open).into_values() {
            if !matches!(open.request, Request::Range(_)) {
                self.note(&open, None, None);
            }
        }
        let mut by_key: BTreeMap<Bytes, Vec<Call>> = BTreeMap::new();
        for call in std::mem::take(&mut self.calls) {
            by_key.entry(call.key.clone()).or_default().push(call);
        }
        for (key, calls) in by_key {
            match search(calls) {
                Found::Order => self.keys_searched += 1,
                Found::TooMuch => self.given_up += 1,
                Found::None(at) => {
                    return Err(format!(
                        "the calls of key {key:?} have no order that explains their answers: {at}"
                    ))
                }
            }
        }
        Ok(())
    }
}

enum Found {
    Order,
    TooMuch,
    None(String),
}

/// What the key holds, and which of the calls under way have taken effect.
type Configuration = (Option<usize>, BTreeSet<usize>);

/// Goes through the times of calls and answers, with all configurations that are possible so far.
fn search(mut calls: Vec<Call>) -> Found {
    // A write with an unknown outcome whose value nobody saw explains nothing.
    let seen: BTreeSet<Bytes> = calls
        .iter()
        .filter_map(|call| match &call.kind {
            Kind::Get(value) => value.clone(),
            _ => None,
        })
        .collect();
    calls.retain(|call| match (&call.kind, call.answered_ns) {
        (Kind::Put(value), None) => seen.contains(value),
        _ => true,
    });
    let unknown = calls.iter().filter(|call| call.answered_ns.is_none());
    if unknown.count() > UNKNOWN_MAX {
        return Found::TooMuch;
    }
    let mut steps = 0;
    let mut times: Vec<(u64, bool, usize)> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        times.push((call.asked_ns, false, number));
        times.extend(call.answered_ns.map(|at| (at, true, number)));
    }
    times.sort_unstable();
    let mut under_way: BTreeSet<usize> = BTreeSet::new();
    let mut possible: BTreeSet<Configuration> = BTreeSet::from([(None, BTreeSet::new())]);
    for (_, ends, number) in times {
        if !ends {
            under_way.insert(number);
            continue;
        }
        let mut after = BTreeSet::new();
        let mut work: Vec<Configuration> = possible.into_iter().collect();
        let mut known: BTreeSet<Configuration> = work.iter().cloned().collect();
        while let Some((holds, done)) = work.pop() {
            if done.contains(&number) {
                let mut done = done;
                done.remove(&number);
                after.insert((holds, done));
                continue;
            }
            for next in under_way.iter().filter(|next| !done.contains(*next)) {
                let Some(holds) = effect(&calls, holds, *next) else {
                    continue;
                };
                let mut done = done.clone();
                done.insert(*next);
                if known.insert((holds, done.clone())) {
                    work.push((holds, done));
                }
            }
            steps += 1;
            if known.len() > CONFIGURATIONS_MAX || steps > STEPS_MAX {
                return Found::TooMuch;
            }
        }
        under_way.remove(&number);
        if after.is_empty() {
            let call = &calls[number];
            return Found::None(format!(
                "{:?} asked at {} ns, answered at {:?} ns",
                call.kind, call.asked_ns, call.answered_ns
            ));
        }
        possible = after;
    }
    Found::Order
}

/// What the key holds after a call, by the number of the put; the outer `None` if the call cannot come here.
fn effect(calls: &[Call], holds: Option<usize>, call: usize) -> Option<Option<usize>> {
    match &calls[call].kind {
        Kind::Put(_) => Some(Some(call)),
        Kind::Delete => Some(None),
        Kind::Get(shown) => {
            let value = holds.map(|put| &calls[put].kind);
            let same = match (value, shown) {
                (Some(Kind::Put(value)), Some(shown)) => value == shown,
                (None, None) => true,
                _ => false,
            };
            same.then_some(holds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: Kind, asked_ns: u64, answered_ns: Option<u64>) -> Call {
        Call {
            key: Bytes::from_static(b"k"),
            kind,
            asked_ns,
            answered_ns,
        }
    }

    fn put(value: &'static str, from: u64, to: Option<u64>) -> Call {
        call(Kind::Put(value.into()), from, to)
    }

    fn get(value: Option<&'static str>, from: u64, to: u64) -> Call {
        call(Kind::Get(value.map(Bytes::from)), from, Some(to))
    }

    fn has_order(calls: Vec<Call>) -> bool {
        matches!(search(calls), Found::Order)
    }

    #[test]
    fn a_read_shows_the_last_write_or_one_under_way() {
        assert!(has_order(vec![put("a", 1, Some(2)), get(Some("a"), 3, 4)]));
        assert!(has_order(vec![put("a", 1, Some(9)), get(None, 3, 4)]));
        assert!(!has_order(vec![put("a", 1, Some(2)), get(None, 3, 4)]));
        let overwritten = vec![
            put("a", 1, Some(2)),
            put("b", 3, Some(4)),
            get(Some("a"), 5, 6),
        ];
        assert!(!has_order(overwritten));
    }

    #[test]
    fn reads_of_an_open_write_do_not_go_back() {
        let forth = vec![put("a", 1, Some(20)), get(None, 2, 3), get(Some("a"), 4, 5)];
        assert!(has_order(forth));
        let back = vec![put("a", 1, Some(20)), get(Some("a"), 2, 3), get(None, 4, 5)];
        assert!(!has_order(back));
    }

    #[test]
    fn an_unknown_write_may_take_effect_at_any_later_time() {
        let late = vec![
            put("a", 1, None),
            put("b", 2, Some(3)),
            get(Some("b"), 4, 5),
            get(Some("a"), 6, 7),
        ];
        assert!(has_order(late.clone()));
        let twice = [late, vec![put("c", 8, Some(9)), get(Some("a"), 10, 11)]].concat();
        assert!(!has_order(twice));
    }
}
