//! Concurrent writers that remember what they were told, and the check that a restarted server still says the same.
//!
//! Every writer has keys of its own and writes values that occur once, so that each revision of the server's history can be
//! traced to the one operation that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;
use proto::mvccpb::Event;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::model::Refusal;
use crate::server::PATIENCE;
use crate::transport::{Connection, Extras};

const KEYS_PER_WRITER: u32 = 20;
/// So long that no lease ends during a test.
const TTL_S: i64 = 90_000;
/// gRPC codes that say nothing about whether the operation happened: the connection broke, or the server went down.
const UNKNOWN_OUTCOME: [i32; 5] = [1, 2, 4, 13, 14];

/// One operation, from the request to what was heard of it.
#[derive(Clone, Debug)]
struct Attempt {
    /// Values that it puts, by key.
    puts: BTreeMap<Bytes, Bytes>,
    deletes: BTreeSet<Bytes>,
    started: Instant,
    acknowledged: Option<Acknowledgement>,
}

#[derive(Clone, Copy, Debug)]
struct Acknowledgement {
    at: Instant,
    /// `None` if the operation changed nothing.
    revision: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LeaseFate {
    Granted,
    /// Revoked, or granting was tried, and no answer came.
    Unknown,
    Revoked,
}

/// What all writers were told, over all cycles.
#[derive(Default)]
pub struct Witness {
    attempts: Mutex<Vec<Attempt>>,
    leases: Mutex<BTreeMap<i64, LeaseFate>>,
    /// Up to where the history was checked, and its hash there.
    settled: Mutex<Settled>,
    next_id: Mutex<i64>,
}

#[derive(Clone, Copy)]
struct Settled {
    revision: i64,
    hash: u32,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            revision: 1,
            hash: 0,
        }
    }
}

async fn ask<Q: Message, A: Message + Default>(
    connection: &Connection,
    method: &str,
    request: &Q,
) -> Result<A, Refusal> {
    let extras = Extras {
        deadline: Some(PATIENCE),
        ..Default::default()
    };
    let path = format!("/etcdserverpb.{method}");
    let body = Bytes::from(request.encode_to_vec());
    let answer = connection.unary(&path, body, &extras).await?;
    Ok(A::decode(answer).expect("the answer is a message"))
}

impl Witness {
    pub fn acknowledged(&self) -> usize {
        let attempts = self.attempts.lock().expect("no writer panicked");
        attempts.iter().filter(|a| a.acknowledged.is_some()).count()
    }

    fn fresh_id(&self) -> i64 {
        let mut next = self.next_id.lock().expect("no writer panicked");
        *next += 1;
        *next
    }

    /// Writes until the server is gone. Panics on any answer that a healthy server would not give.
    pub async fn write(self: Arc<Self>, writer: u32, seed: u64, connection: Connection) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut lease = 0;
        loop {
            let done = match rng.random_range(0..20) {
                0 => self.grant(&connection, &mut lease).await,
                1 if lease != 0 => self.revoke(&connection, &mut lease).await,
                2..=3 => self.delete(writer, &mut rng, &connection).await,
                4..=8 => self.txn(writer, &mut rng, lease, &connection).await,
                n => {
                    let lease = if n % 2 == 0 { lease } else { 0 };
                    self.put(writer, &mut rng, lease, &connection).await
                }
            };
            match done {
                Ok(()) => {}
                Err(refusal) if UNKNOWN_OUTCOME.contains(&refusal.code) => return,
                Err(refusal) => panic!("writer {writer} was refused: {refusal:?}"),
            }
        }
    }

    fn key(writer: u32, rng: &mut StdRng) -> Bytes {
        let n = rng.random_range(0..KEYS_PER_WRITER);
        format!("writer-{writer}/{n:02}").into()
    }

    fn value(&self, rng: &mut StdRng) -> Bytes {
        let length = match rng.random_range(0..20) {
            0 => rng.random_range(5_000..20_000),
            _ => rng.random_range(0..200),
        };
        format!("{}:{}", self.fresh_id(), "v".repeat(length)).into()
    }

    /// Records the attempt before it is sent; gives its place.
    fn begin(&self, puts: BTreeMap<Bytes, Bytes>, deletes: BTreeSet<Bytes>) -> usize {
        let mut attempts = self.attempts.lock().expect("no writer panicked");
        attempts.push(Attempt {
            puts,
            deletes,
            started: Instant::now(),
            acknowledged: None,
        });
        attempts.len() - 1
    }

    fn end(&self, attempt: usize, header: Option<pb::ResponseHeader>, changed: bool) {
        let revision = header.expect("every answer has a header").revision;
        let mut attempts = self.attempts.lock().expect("no writer panicked");
        attempts[attempt].acknowledged = Some(Acknowledgement {
            at: Instant::now(),
            revision: changed.then_some(revision),
        });
    }

    async fn put(
        &self,
        writer: u32,
        rng: &mut StdRng,
        lease: i64,
        connection: &Connection,
    ) -> Result<(), Refusal> {
        let put = pb::PutRequest {
            key: Self::key(writer, rng),
            value: self.value(rng),
            lease,
            ..Default::default()
        };
        let puts = BTreeMap::from([(put.key.clone(), put.value.clone())]);
        let attempt = self.begin(puts, BTreeSet::new());
        let answer: pb::PutResponse = ask(connection, "KV/Put", &put).await?;
        self.end(attempt, answer.header, true);
        Ok(())
    }

    async fn delete(
        &self,
        writer: u32,
        rng: &mut StdRng,
        connection: &Connection,
    ) -> Result<(), Refusal> {
        let key = Self::key(writer, rng);
        let delete = pb::DeleteRangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let attempt = self.begin(BTreeMap::new(), BTreeSet::from([key]));
        let answer: pb::DeleteRangeResponse = ask(connection, "KV/DeleteRange", &delete).await?;
        self.end(attempt, answer.header, answer.deleted > 0);
        Ok(())
    }

    /// Two puts and a deletion, of three different keys.
    async fn txn(
        &self,
        writer: u32,
        rng: &mut StdRng,
        lease: i64,
        connection: &Connection,
    ) -> Result<(), Refusal> {
        let mut keys = BTreeSet::new();
        while keys.len() < 3 {
            keys.insert(Self::key(writer, rng));
        }
        let mut keys = keys.into_iter();
        let deleted = keys.next().expect("three keys");
        let puts: BTreeMap<_, _> = keys.map(|key| (key, self.value(rng))).collect();
        let put = |(key, value): (&Bytes, &Bytes)| {
            Op::RequestPut(pb::PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease,
                ..Default::default()
            })
        };
        let delete = Op::RequestDeleteRange(pb::DeleteRangeRequest {
            key: deleted.clone(),
            ..Default::default()
        });
        let ops = puts.iter().map(put).chain([delete]);
        let txn = pb::TxnRequest {
            success: ops.map(|op| pb::RequestOp { request: Some(op) }).collect(),
            ..Default::default()
        };
        let attempt = self.begin(puts, BTreeSet::from([deleted]));
        let answer: pb::TxnResponse = ask(connection, "KV/Txn", &txn).await?;
        self.end(attempt, answer.header, true);
        Ok(())
    }

    fn set_fate(&self, lease: i64, fate: LeaseFate) {
        let mut leases = self.leases.lock().expect("no writer panicked");
        leases.insert(lease, fate);
    }

    async fn grant(&self, connection: &Connection, lease: &mut i64) -> Result<(), Refusal> {
        let id = self.fresh_id();
        self.set_fate(id, LeaseFate::Unknown);
        let grant = pb::LeaseGrantRequest { ttl: TTL_S, id };
        let _: pb::LeaseGrantResponse = ask(connection, "Lease/LeaseGrant", &grant).await?;
        self.set_fate(id, LeaseFate::Granted);
        *lease = id;
        Ok(())
    }

    async fn revoke(&self, connection: &Connection, lease: &mut i64) -> Result<(), Refusal> {
        let id = std::mem::take(lease);
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let answer: pb::LeaseTimeToLiveResponse =
            ask(connection, "Lease/LeaseTimeToLive", &request).await?;
        // Only the one writer attaches keys to this lease, so they are the same at the revocation.
        let keys: BTreeSet<_> = answer.keys.into_iter().collect();
        let changes = !keys.is_empty();
        let attempt = self.begin(BTreeMap::new(), keys);
        self.set_fate(id, LeaseFate::Unknown);
        let revoke = pb::LeaseRevokeRequest { id };
        let answer: pb::LeaseRevokeResponse = ask(connection, "Lease/LeaseRevoke", &revoke).await?;
        self.set_fate(id, LeaseFate::Revoked);
        self.end(attempt, answer.header, changes);
        Ok(())
    }

    /// Compares a restarted server with everything that was acknowledged. An error says what is missing or too much.
    pub async fn check(&self, connection: &Connection) -> Result<(), String> {
        let settled = *self.settled.lock().expect("no writer panicked");
        if settled.revision > 1 {
            let hash = hash(connection, settled.revision).await?;
            if hash != settled.hash {
                return Err(format!("the history up to {} changed", settled.revision));
            }
        }
        let (current, events) = history(connection, settled.revision + 1).await?;
        self.check_history(settled.revision, current, &events)?;
        self.check_leases(connection).await?;
        let hash = hash(connection, current).await?;
        let revision = current;
        *self.settled.lock().expect("no writer panicked") = Settled { revision, hash };
        // What is settled is not looked at again.
        self.attempts.lock().expect("no writer panicked").clear();
        Ok(())
    }

    fn check_history(
        &self,
        settled: i64,
        current: i64,
        events: &BTreeMap<i64, Vec<Event>>,
    ) -> Result<(), String> {
        let attempts = self.attempts.lock().expect("no writer panicked");
        if !events.keys().copied().eq(settled + 1..=current) {
            return Err(format!("revisions {}..={current} have gaps", settled + 1));
        }
        let mut of_revision = BTreeMap::new();
        for (index, attempt) in attempts.iter().enumerate() {
            if let Some(revision) = attempt.acknowledged.and_then(|a| a.revision) {
                if revision > current {
                    return Err(format!(
                        "revision {revision} was acknowledged, {current} is the newest: {attempt:?}"
                    ));
                }
                if of_revision.insert(revision, index).is_some() {
                    return Err(format!("revision {revision} was acknowledged twice"));
                }
            }
        }
        let mut latest_start: Option<Instant> = None;
        let mut used = BTreeSet::new();
        for (revision, events) in events {
            let index = match of_revision.get(revision) {
                Some(index) => *index,
                None => unanswered(&attempts, events, &used).ok_or_else(|| {
                    format!("revision {revision} was never asked for: {events:?}")
                })?,
            };
            used.insert(index);
            let attempt = &attempts[index];
            fits(attempt, events).map_err(|why| format!("revision {revision}: {why}"))?;
            if let (Some(ack), Some(start)) = (attempt.acknowledged, latest_start) {
                if ack.at < start {
                    return Err(format!(
                        "revision {revision} was acknowledged before an earlier one was asked for"
                    ));
                }
            }
            latest_start = latest_start.max(Some(attempt.started));
        }
        Ok(())
    }

    /// Leases that were granted are there with the keys that name them, those revoked are not, and no other is.
    async fn check_leases(&self, connection: &Connection) -> Result<(), String> {
        let refused = |r: Refusal| format!("{r:?}");
        let list: pb::LeaseLeasesResponse =
            ask(connection, "Lease/LeaseLeases", &pb::LeaseLeasesRequest {})
                .await
                .map_err(refused)?;
        let present: BTreeSet<_> = list.leases.iter().map(|lease| lease.id).collect();
        let expected = self.leases.lock().expect("no writer panicked").clone();
        for (id, fate) in &expected {
            match (fate, present.contains(id)) {
                (LeaseFate::Granted, false) => return Err(format!("lease {id} is lost")),
                (LeaseFate::Revoked, true) => return Err(format!("lease {id} is back")),
                _ => {}
            }
        }
        if let Some(id) = present.iter().find(|id| !expected.contains_key(id)) {
            return Err(format!("lease {id} was never asked for"));
        }
        let all = pb::RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            ..Default::default()
        };
        let all: pb::RangeResponse = ask(connection, "KV/Range", &all).await.map_err(refused)?;
        for id in present {
            let request = pb::LeaseTimeToLiveRequest { id, keys: true };
            let answer: pb::LeaseTimeToLiveResponse =
                ask(connection, "Lease/LeaseTimeToLive", &request)
                    .await
                    .map_err(refused)?;
            let attached: BTreeSet<_> = answer.keys.into_iter().collect();
            let naming = all.kvs.iter().filter(|kv| kv.lease == id);
            if !attached.iter().eq(naming.map(|kv| &kv.key)) || answer.granted_ttl != TTL_S {
                return Err(format!("lease {id} has other keys: {attached:?}"));
            }
        }
        Ok(())
    }
}

async fn hash(connection: &Connection, revision: i64) -> Result<u32, String> {
    let request = pb::HashKvRequest { revision };
    let answer: pb::HashKvResponse = ask(connection, "Maintenance/HashKV", &request)
        .await
        .map_err(|r| format!("{r:?}"))?;
    Ok(answer.hash)
}

/// The newest revision, and all events from `first` on by revision.
async fn history(
    connection: &Connection,
    first: i64,
) -> Result<(i64, BTreeMap<i64, Vec<Event>>), String> {
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision: first,
            ..Default::default()
        })),
    };
    let path = "/etcdserverpb.Watch/Watch";
    let mut stream = connection.stream(path, None, &Extras::default());
    stream.send(create.encode_to_vec().into());
    let mut current = None;
    let mut events: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    loop {
        let newest = events.keys().next_back().copied().unwrap_or(first - 1);
        if current.is_some_and(|current| newest >= current) {
            return Ok((newest, events));
        }
        let message = stream.next(PATIENCE).await;
        let message = message.ok_or("the watch of the history fell silent")?;
        let message = message.map_err(|end| format!("the watch ended: {end:?}"))?;
        let message = pb::WatchResponse::decode(message).expect("a watch response");
        if message.canceled {
            return Err(format!("the watch was cancelled: {message:?}"));
        }
        if message.created {
            current = message.header.map(|h| h.revision);
        }
        for event in message.events {
            let revision = event.kv.as_ref().expect("an event has a key").mod_revision;
            events.entry(revision).or_default().push(event);
        }
    }
}

fn is_put(event: &Event) -> bool {
    event.r#type == EventType::Put as i32
}

/// The attempt without an answer that may have made these events.
fn unanswered(attempts: &[Attempt], events: &[Event], used: &BTreeSet<usize>) -> Option<usize> {
    attempts
        .iter()
        .enumerate()
        .filter(|(index, attempt)| attempt.acknowledged.is_none() && !used.contains(index))
        .find(|(_, attempt)| fits(attempt, events).is_ok())
        .map(|(index, _)| index)
}

/// Whether the events are those of the attempt: all its puts, and no deletion but its own.
fn fits(attempt: &Attempt, events: &[Event]) -> Result<(), String> {
    let mut puts = BTreeMap::new();
    for event in events {
        let kv = event.kv.as_ref().expect("an event has a key");
        if is_put(event) {
            puts.insert(kv.key.clone(), kv.value.clone());
        } else if !attempt.deletes.contains(&kv.key) {
            return Err(format!("{:?} was not to be deleted by {attempt:?}", kv.key));
        }
    }
    if puts != attempt.puts {
        return Err(format!("{puts:?} is not what {attempt:?} put"));
    }
    Ok(())
}

/// Lets the writers run for a while.
pub async fn for_a_while(rng: &mut StdRng, ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(ms))).await;
}
