//! Random requests from a seed: the server answers what the model answers, field by field, across stops and kills.
//!
//! `RINGD_SEED` repeats a run, `RINGD_MODEL_STEPS` makes it longer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::Event;
use rand::Rng as _;
use ringd_tests::model::{Identity, Limits, Model, Refusal, Request, Response};
use ringd_tests::random::{amount, seed, Generator};
use ringd_tests::server::{ended_well, is_ringd, Server, PATIENCE};
use ringd_tests::transport::{Connection, Extras, Stream};

const STEPS: u64 = 1500;
/// A watch stream that stays open; the model has one of the same number.
const LIVE_STREAM: u64 = 1;
/// Streams that only read history.
const HISTORY_STREAM: u64 = 2;

struct Run {
    server: Server,
    connection: Connection,
    model: Model,
    generator: Generator,
    live: Live,
    step: u64,
}

/// A watcher of all keys.
struct Live {
    stream: Stream,
    expected: Vec<Event>,
    seen: Vec<Event>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_the_models() {
    run(seed(1), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_the_models_across_stops_and_kills() {
    run(seed(2), true).await;
}

async fn run(seed: u64, stops: bool) {
    let server = Server::fresh().await;
    let connection = server.connect().await;
    let mut model = Model::new(identity(&connection).await, Limits::default());
    let live = open_live(&connection, &mut model).await;
    let mut run = Run {
        server,
        connection,
        model,
        generator: Generator::new(seed, is_ringd()),
        live,
        step: 0,
    };
    for step in 0..amount("RINGD_MODEL_STEPS", STEPS) {
        run.step = step;
        match run.generator.rng.random_range(0..1000) {
            0..=4 if stops => run.stop_and_start(true).await,
            5..=9 if stops => run.stop_and_start(false).await,
            10..=12 => tokio::time::sleep(Duration::from_millis(150)).await,
            13..=50 => run.read_history().await,
            51..=60 => run.check_live().await,
            _ => run.call().await,
        }
    }
    run.check_live().await;
}

async fn identity(connection: &Connection) -> Identity {
    let status: pb::StatusResponse = unary(
        connection,
        "Maintenance/Status",
        &pb::StatusRequest::default(),
    )
    .await
    .expect("a status");
    let header = status.header.expect("a header");
    Identity {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        raft_term: header.raft_term,
    }
}

async fn unary<Q: Message, A: Message + Default>(
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

async fn open_live(connection: &Connection, model: &mut Model) -> Live {
    let create = create_request(pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    });
    let mut stream = connection.stream("/etcdserverpb.Watch/Watch", None, &Extras::default());
    stream.send(create.encode_to_vec().into());
    model.watch(LIVE_STREAM, &create);
    let created = next(&mut stream).await.expect("an answer to the create");
    assert_eq!(Some(created), model.watch_next(LIVE_STREAM));
    Live {
        stream,
        expected: Vec::new(),
        seen: Vec::new(),
    }
}

fn create_request(create: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }
}

async fn next(stream: &mut Stream) -> Option<pb::WatchResponse> {
    let message = stream.next(PATIENCE).await?;
    let message = message.unwrap_or_else(|end| panic!("the watch ended: {end:?}"));
    Some(pb::WatchResponse::decode(message).expect("a watch response"))
}

impl Run {
    async fn stop_and_start(&mut self, kill: bool) {
        self.check_live().await;
        if kill {
            self.server.kill();
        } else {
            let status = self.server.terminate().await;
            assert!(ended_well(status), "SIGTERM ended in {status}");
        }
        self.server.restart().await;
        self.connection = self.server.connect().await;
        self.model.restart();
        let identity = identity(&self.connection).await;
        self.model.set_term(identity.raft_term);
        self.live = open_live(&self.connection, &mut self.model).await;
    }

    async fn call(&mut self) {
        let request = self.generator.request(&self.model);
        let mut expected = self.model.call(&request);
        let mut got = self.ask(&request).await;
        for answer in [&mut expected, &mut got].into_iter().flatten() {
            normalize(answer);
        }
        assert!(
            got == expected,
            "step {}: {request:?}\n  expected {expected:?}\n  got      {got:?}",
            self.step
        );
        while let Some(message) = self.model.watch_next(LIVE_STREAM) {
            self.live.expected.extend(message.events);
        }
    }

    async fn ask(&self, request: &Request) -> Result<Response, Refusal> {
        let c = &self.connection;
        Ok(match request {
            Request::Range(r) => Response::Range(unary(c, "KV/Range", r).await?),
            Request::Put(r) => Response::Put(unary(c, "KV/Put", r).await?),
            Request::DeleteRange(r) => Response::DeleteRange(unary(c, "KV/DeleteRange", r).await?),
            Request::Txn(r) => Response::Txn(unary(c, "KV/Txn", r).await?),
            Request::Compact(r) => Response::Compact(unary(c, "KV/Compact", r).await?),
            Request::LeaseGrant(r) => Response::LeaseGrant(unary(c, "Lease/LeaseGrant", r).await?),
            Request::LeaseRevoke(r) => {
                Response::LeaseRevoke(unary(c, "Lease/LeaseRevoke", r).await?)
            }
            Request::LeaseTimeToLive(r) => {
                Response::LeaseTimeToLive(unary(c, "Lease/LeaseTimeToLive", r).await?)
            }
            Request::LeaseLeases(r) => {
                Response::LeaseLeases(unary(c, "Lease/LeaseLeases", r).await?)
            }
            Request::HashKv(r) => Response::HashKv(unary(c, "Maintenance/HashKV", r).await?),
            Request::Alarm(r) => Response::Alarm(unary(c, "Maintenance/Alarm", r).await?),
            Request::LeaseKeepAlive(r) => {
                let path = "/etcdserverpb.Lease/LeaseKeepAlive";
                let mut stream = c.stream(path, None, &Extras::default());
                stream.send(r.encode_to_vec().into());
                let answer = stream.next(PATIENCE).await.expect("a keep-alive in time")?;
                let answer = pb::LeaseKeepAliveResponse::decode(answer);
                Response::LeaseKeepAlive(answer.expect("a keep-alive"))
            }
        })
    }

    /// A new watcher from some revision on: its answers, up to the newest revision, equal the model's.
    async fn read_history(&mut self) {
        let key = self.generator.key();
        let end = self.generator.range_end(&key);
        // 3.5.1 forgets deletions at the compacted revision.
        let before_oldest = if self.generator.strict { -1 } else { 1 };
        let oldest = (self.model.compacted() + before_oldest).max(1);
        let rng = &mut self.generator.rng;
        let create = create_request(pb::WatchCreateRequest {
            range_end: end,
            key,
            start_revision: rng.random_range(oldest..=self.model.revision().max(oldest) + 1),
            prev_kv: rng.random_range(0..2) == 0,
            filters: (0..2).filter(|_| rng.random_range(0..5) == 0).collect(),
            ..Default::default()
        });
        self.model.watch(HISTORY_STREAM, &create);
        let path = "/etcdserverpb.Watch/Watch";
        let mut stream = self.connection.stream(path, None, &Extras::default());
        stream.send(create.encode_to_vec().into());
        while let Some(expected) = self.model.watch_next(HISTORY_STREAM) {
            let got = next(&mut stream).await;
            assert!(
                got.as_ref() == Some(&expected),
                "step {}: {create:?}\n  expected {expected:?}\n  got      {got:?}",
                self.step
            );
        }
        self.model.close_watch(HISTORY_STREAM);
    }

    /// The open watcher has had every event once and in order, each revision in one piece.
    async fn check_live(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.live.seen.len() < self.live.expected.len() && Instant::now() < end {
            let Some(message) = next(&mut self.live.stream).await else {
                break;
            };
            let last = self.live.seen.last().and_then(|e| e.kv.as_ref());
            let first = message.events.first().and_then(|e| e.kv.as_ref());
            if let (Some(last), Some(first)) = (last, first) {
                assert!(
                    last.mod_revision < first.mod_revision,
                    "step {}: revision {} came in two responses",
                    self.step,
                    first.mod_revision
                );
            }
            self.live.seen.extend(message.events);
        }
        let seen = std::mem::take(&mut self.live.seen);
        let expected = std::mem::take(&mut self.live.expected);
        for (n, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            assert_eq!(seen, expected, "step {}: event {n}", self.step);
        }
        assert_eq!(
            seen.len(),
            expected.len(),
            "step {}: number of events",
            self.step
        );
    }
}

/// Takes out what is free: remaining times, the order of a lease's keys and of leases.
fn normalize(answer: &mut Response) {
    match answer {
        Response::LeaseTimeToLive(r) => {
            r.ttl = r.ttl.clamp(-1, 1);
            r.keys.sort();
        }
        Response::LeaseLeases(r) => r.leases.sort_by_key(|lease| lease.id),
        _ => {}
    }
}
