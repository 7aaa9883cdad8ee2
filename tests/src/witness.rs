//! Concurrent writers that remember what they were told, and the check that a restarted server still says the same.
//!
//! Every writer has keys of its own and writes values that occur once, so that each revision of the server's history can be
//! traced to the one operation that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;
use proto::mvccpb::Event;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::client::Client;
use crate::model::Refusal;
use crate::server::PATIENCE;
use crate::transport::{Connection, Extras};

const WRITERS_PREFIX: &str = "writer-";
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
    /// A revision of the history was found to be this operation's.
    happened: bool,
}

#[derive(Clone, Copy, Debug)]
struct Acknowledgement {
    at: Instant,
    effect: Effect,
}

/// What an acknowledged operation changed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Effect {
    Nothing,
    At(i64),
    /// Something at an unknown revision, or nothing.
    Unknown,
}

impl Effect {
    fn at(header: Option<pb::ResponseHeader>) -> Self {
        Self::At(header.expect("every answer has a header").revision)
    }
}

impl Attempt {
    /// The revision that it was acknowledged to have made.
    fn revision(&self) -> Option<i64> {
        match self.acknowledged?.effect {
            Effect::At(revision) => Some(revision),
            _ => None,
        }
    }

    /// It may have made a revision that no answer named.
    fn may_have_happened(&self) -> bool {
        self.acknowledged
            .is_none_or(|a| a.effect == Effect::Unknown)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LeaseFate {
    Granted,
    /// Revoked, or granting was tried, and no answer came.
    Unknown,
    Revoked,
}

/// One of several writers.
pub struct Writer {
    number: u32,
    rng: StdRng,
    /// Its newest lease, if it knows which keys are attached.
    lease: i64,
    /// Keys that it ever attached to that lease.
    attached: BTreeSet<Bytes>,
}

impl Writer {
    pub fn new(number: u32, seed: u64) -> Self {
        Self {
            number,
            rng: StdRng::seed_from_u64(seed),
            lease: 0,
            attached: BTreeSet::new(),
        }
    }

    fn key(&mut self) -> Bytes {
        let n = self.rng.random_range(0..KEYS_PER_WRITER);
        format!("{WRITERS_PREFIX}{}/{n:02}", self.number).into()
    }

    fn attach<'k>(&mut self, lease: i64, keys: impl Iterator<Item = &'k Bytes>) {
        if lease != 0 {
            self.attached.extend(keys.cloned());
        }
    }
}

/// What all writers were told, over all cycles.
#[derive(Default)]
pub struct Witness {
    attempts: Mutex<Vec<Attempt>>,
    leases: Mutex<BTreeMap<i64, LeaseFate>>,
    /// Up to where the history was checked, and its hash there.
    settled: Mutex<Settled>,
    next_id: Mutex<i64>,
    /// What was not answered may still happen after a check: a member that is cut off delivers it later.
    late_arrivals: bool,
    /// Others write as well, to other keys.
    shares_the_store: bool,
}

#[derive(Clone, Copy)]
struct Settled {
    revision: i64,
    /// None if the check begins there.
    hash: Option<u32>,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            revision: 1,
            hash: None,
        }
    }
}

impl Witness {
    /// For a cluster, where what was not answered may still happen after a check, beside tests that write keys of their own.
    /// The history is checked from behind a revision on.
    pub fn of_cluster(revision: i64) -> Self {
        Self {
            settled: Mutex::new(Settled {
                revision,
                hash: None,
            }),
            late_arrivals: true,
            shares_the_store: true,
            ..Self::default()
        }
    }

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
        let client = Client::over(connection);
        let mut writer = Writer::new(writer, seed);
        while self.step(&mut writer, &client).await {}
    }

    /// One operation; whether it was acknowledged. Panics on any answer that a healthy cluster would not give.
    pub async fn step(&self, writer: &mut Writer, client: &Client) -> bool {
        let done = match writer.rng.random_range(0..20) {
            0 => self.grant(writer, client).await,
            1 if writer.lease != 0 => self.revoke(writer, client).await,
            2..=3 => self.delete(writer, client).await,
            4..=8 => self.txn(writer, client).await,
            n => {
                let lease = if n % 2 == 0 { writer.lease } else { 0 };
                self.put(writer, lease, client).await
            }
        };
        match done {
            Ok(()) => true,
            Err(refusal) if UNKNOWN_OUTCOME.contains(&refusal.code) => {
                // What is still under way may attach another key, so the lease's keys are no longer known.
                writer.lease = 0;
                false
            }
            Err(refusal) => panic!("writer {} was refused: {refusal:?}", writer.number),
        }
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
            happened: false,
        });
        attempts.len() - 1
    }

    fn end(&self, attempt: usize, effect: Effect) {
        let mut attempts = self.attempts.lock().expect("no writer panicked");
        attempts[attempt].acknowledged = Some(Acknowledgement {
            at: Instant::now(),
            effect,
        });
    }

    async fn put(&self, writer: &mut Writer, lease: i64, client: &Client) -> Result<(), Refusal> {
        let put = pb::PutRequest {
            key: writer.key(),
            value: self.value(&mut writer.rng),
            lease,
            ..Default::default()
        };
        let puts = BTreeMap::from([(put.key.clone(), put.value.clone())]);
        writer.attach(lease, puts.keys());
        let attempt = self.begin(puts, BTreeSet::new());
        let answer: pb::PutResponse = client.ask("KV/Put", &put).await?;
        self.end(attempt, Effect::at(answer.header));
        Ok(())
    }

    async fn delete(&self, writer: &mut Writer, client: &Client) -> Result<(), Refusal> {
        let key = writer.key();
        let delete = pb::DeleteRangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let attempt = self.begin(BTreeMap::new(), BTreeSet::from([key]));
        let answer: pb::DeleteRangeResponse = client.ask("KV/DeleteRange", &delete).await?;
        let effect = match answer.deleted {
            0 => Effect::Nothing,
            _ => Effect::at(answer.header),
        };
        self.end(attempt, effect);
        Ok(())
    }

    /// Two puts and a deletion, of three different keys.
    async fn txn(&self, writer: &mut Writer, client: &Client) -> Result<(), Refusal> {
        let mut keys = BTreeSet::new();
        while keys.len() < 3 {
            keys.insert(writer.key());
        }
        let mut keys = keys.into_iter();
        let deleted = keys.next().expect("three keys");
        let puts: BTreeMap<_, _> = keys.map(|key| (key, self.value(&mut writer.rng))).collect();
        let lease = writer.lease;
        writer.attach(lease, puts.keys());
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
        let answer: pb::TxnResponse = client.ask("KV/Txn", &txn).await?;
        self.end(attempt, Effect::at(answer.header));
        Ok(())
    }

    fn set_fate(&self, lease: i64, fate: LeaseFate) {
        let mut leases = self.leases.lock().expect("no writer panicked");
        leases.insert(lease, fate);
    }

    async fn grant(&self, writer: &mut Writer, client: &Client) -> Result<(), Refusal> {
        let id = self.fresh_id();
        self.set_fate(id, LeaseFate::Unknown);
        let grant = pb::LeaseGrantRequest { ttl: TTL_S, id };
        let _: pb::LeaseGrantResponse = client.ask("Lease/LeaseGrant", &grant).await?;
        self.set_fate(id, LeaseFate::Granted);
        writer.lease = id;
        writer.attached.clear();
        Ok(())
    }

    async fn revoke(&self, writer: &mut Writer, client: &Client) -> Result<(), Refusal> {
        let id = std::mem::take(&mut writer.lease);
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let answer: pb::LeaseTimeToLiveResponse =
            client.ask("Lease/LeaseTimeToLive", &request).await?;
        // Only the one writer attaches keys to this lease, so a member that is alone has the same at the revocation.
        let mut keys: BTreeSet<_> = answer.keys.into_iter().collect();
        let changes = !keys.is_empty();
        if self.late_arrivals {
            // A leader that is cut off tells old keys, and a late arrival may change what is attached.
            keys.extend(std::mem::take(&mut writer.attached));
        }
        let attempt = self.begin(BTreeMap::new(), keys);
        self.set_fate(id, LeaseFate::Unknown);
        let revoke = pb::LeaseRevokeRequest { id };
        let answer: pb::LeaseRevokeResponse = client.ask("Lease/LeaseRevoke", &revoke).await?;
        self.set_fate(id, LeaseFate::Revoked);
        let effect = match (self.late_arrivals, changes) {
            (true, _) => Effect::Unknown,
            (false, true) => Effect::at(answer.header),
            (false, false) => Effect::Nothing,
        };
        self.end(attempt, effect);
        Ok(())
    }

    /// Compares a restarted server with everything that was acknowledged. An error says what is missing or too much.
    pub async fn check(&self, connection: &Connection) -> Result<(), String> {
        let client = &Client::over(connection.clone());
        let settled = *self.settled.lock().expect("no writer panicked");
        if settled.hash.is_some() {
            let hash = hash(client, settled.revision).await?;
            if Some(hash) != settled.hash {
                return Err(format!("the history up to {} changed", settled.revision));
            }
        }
        let (current, events) = history(client, settled.revision + 1).await?;
        self.check_history(settled.revision, current, &events)?;
        self.check_leases(client).await?;
        let hash = Some(hash(client, current).await?);
        let revision = current;
        *self.settled.lock().expect("no writer panicked") = Settled { revision, hash };
        // What is settled is not looked at again.
        let mut attempts = self.attempts.lock().expect("no writer panicked");
        attempts.retain(|a| self.late_arrivals && a.acknowledged.is_none() && !a.happened);
        Ok(())
    }

    fn check_history(
        &self,
        settled: i64,
        current: i64,
        events: &BTreeMap<i64, Vec<Event>>,
    ) -> Result<(), String> {
        let mut attempts = self.attempts.lock().expect("no writer panicked");
        if !events.keys().copied().eq(settled + 1..=current) {
            return Err(format!("revisions {}..={current} have gaps", settled + 1));
        }
        let mut of_revision = BTreeMap::new();
        for (index, attempt) in attempts.iter().enumerate() {
            if let Some(revision) = attempt.revision() {
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
        for (revision, events) in events {
            if self.shares_the_store && !events.iter().any(is_of_a_writer) {
                continue;
            }
            let index = match of_revision.get(revision) {
                Some(index) => *index,
                None => unanswered(&attempts, events).ok_or_else(|| {
                    format!("revision {revision} was never asked for: {events:?}")
                })?,
            };
            attempts[index].happened = true;
            let attempt = &attempts[index];
            fits(attempt, events).map_err(|why| format!("revision {revision}: {why}"))?;
            if let (Some(ack), Some(start)) = (attempt.acknowledged, latest_start) {
                if ack.at < start && ack.effect != Effect::Unknown {
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
    async fn check_leases(&self, client: &Client) -> Result<(), String> {
        let refused = |r: Refusal| format!("{r:?}");
        let list: pb::LeaseLeasesResponse = client
            .ask("Lease/LeaseLeases", &pb::LeaseLeasesRequest {})
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
        let all: pb::RangeResponse = client.ask("KV/Range", &all).await.map_err(refused)?;
        for id in present {
            let request = pb::LeaseTimeToLiveRequest { id, keys: true };
            let answer: pb::LeaseTimeToLiveResponse = client
                .ask("Lease/LeaseTimeToLive", &request)
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

async fn hash(client: &Client, revision: i64) -> Result<u32, String> {
    let request = pb::HashKvRequest { revision };
    let answer: pb::HashKvResponse = client
        .ask("Maintenance/HashKV", &request)
        .await
        .map_err(|r| format!("{r:?}"))?;
    Ok(answer.hash)
}

/// The newest revision, and all events from `first` on by revision.
async fn history(client: &Client, first: i64) -> Result<(i64, BTreeMap<i64, Vec<Event>>), String> {
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision: first,
            ..Default::default()
        })),
    };
    let path = "/etcdserverpb.Watch/Watch";
    let mut stream = client.connection().stream(path, None, &Extras::default());
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

fn is_of_a_writer(event: &Event) -> bool {
    let kv = event.kv.as_ref().expect("an event has a key");
    kv.key.starts_with(WRITERS_PREFIX.as_bytes())
}

fn is_put(event: &Event) -> bool {
    event.r#type == EventType::Put as i32
}

/// The attempt without an answer that may have made these events.
fn unanswered(attempts: &[Attempt], events: &[Event]) -> Option<usize> {
    attempts.iter().position(|attempt| {
        attempt.may_have_happened() && !attempt.happened && fits(attempt, events).is_ok()
    })
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
