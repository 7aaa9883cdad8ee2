//! Members of real processes are what the simulator and the tests take them for: a function of their inputs and their files.
//! Each process records what its member was told and did; replayed outside of the process, the member does the same again,
//! effect by effect. Only builds with debug assertions record; that others refuse to is tested as well.

use std::path::PathBuf;
use std::time::Duration;

use proto::etcdserverpb as pb;
use ringd::member::Input;
use ringd::recording::{encode_input, Record, Told, VARIABLE};
use ringd::request::Request;
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::replay::{records, replay, Replayed};
use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup, PATIENCE};
use tempfile::TempDir;

/// Kinds of inputs and effects that a trace must have, by their numbers in `ringd::recording`.
const ASK: u8 = 1;
const MESSAGE: u8 = 4;
const CONNECTED: u8 = 7;
const PEER_ANSWERED: u8 = 8;
const STOP: u8 = 10;
const PULSE: u8 = 12;
const WORK: u8 = 13;
const LOG_WRITTEN: u8 = 20;
const CHECKPOINTED: u8 = 24;
const STREAM: u8 = 2;
const REMOVED: u8 = 8;

fn records_here() -> bool {
    let here = is_ringd() && cfg!(debug_assertions);
    if !here {
        println!("skipped: only a ringd with debug assertions records");
    }
    here
}

/// Where the processes of a test record.
struct Recordings {
    dir: TempDir,
    made: Vec<PathBuf>,
}

impl Recordings {
    fn new() -> Self {
        Self {
            dir: temporary_dir(),
            made: Vec::new(),
        }
    }

    /// The next start of a server records in a directory of its own.
    fn next(&mut self, server: &mut Server) {
        let path = self.dir.path().join(format!("r{}", self.made.len()));
        let setup = server.setup_mut();
        *setup = setup
            .clone()
            .env(VARIABLE, path.to_str().expect("a UTF-8 path"));
        self.made.push(path);
    }

    /// Replays all, each with these inputs among its own.
    fn replay(&self, inputs: &[u8]) -> Vec<Replayed> {
        let mut all = Vec::new();
        for path in &self.made {
            let records = records(path).expect("a trace");
            let replayed = replay(path, &records).unwrap_or_else(|why| panic!("{path:?}: {why}"));
            println!("{replayed:?}");
            for kind in inputs {
                let count = replayed.inputs_by_kind.get(kind).copied().unwrap_or(0);
                assert!(count > 0, "{path:?} has no input of kind {kind}");
            }
            all.push(replayed);
        }
        all
    }
}

async fn txn(client: &Client, key: &str) {
    let put = |value: &str| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            prev_kv: true,
            ..Default::default()
        })),
    };
    let request = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: key.to_owned().into(),
            target: pb::compare::CompareTarget::Version as i32,
            target_union: Some(pb::compare::TargetUnion::Version(0)),
            ..Default::default()
        }],
        success: vec![put("first")],
        failure: vec![put("later")],
    };
    let answer: pb::TxnResponse = client.ask("KV/Txn", &request).await.expect("a txn");
    assert_eq!(answer.responses.len(), 1);
}

/// A bit of everything, with keys of its own.
async fn exercise(client: &Client, name: &str) {
    let mut watch = client.watch(name, 0);
    let created = watch.next(PATIENCE).await.expect("an answer");
    created.expect("a watch");
    let lease = client.grant(0, 60).await.expect("a lease");
    let mut revision = 0;
    for n in 0..12 {
        let key = format!("{name}/{}", n % 7);
        let value = "v".repeat(1 + n * 50);
        let holder = if n % 3 == 0 { lease.id } else { 0 };
        revision = client.put_with(&key, &value, holder).await.expect("a put");
        txn(client, &key).await;
        assert!(client.get(&key).await.expect("a read").is_some());
        assert!(client
            .get_serializable(&key)
            .await
            .expect("a read")
            .is_some());
    }
    client.keep_alive(lease.id).await.expect("a renewal");
    client.time_to_live(lease.id).await.expect("a time to live");
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    let _: pb::CompactionResponse = client.ask("KV/Compact", &request).await.expect("compacted");
    client.hash_kv(0).await.expect("a hash");
    client.revoke(lease.id).await.expect("revoked");
    let _: pb::DefragmentResponse = client
        .ask("Maintenance/Defragment", &pb::DefragmentRequest {})
        .await
        .expect("defragmented");
    let event = watch.next(PATIENCE).await.expect("an event");
    event.expect("an event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_does_the_same_again() {
    if !records_here() {
        return;
    }
    let mut recordings = Recordings::new();
    // The first process founds a cluster; it is killed. The second recovers, and ends in order.
    let first = recordings.dir.path().join("first");
    let setup = Setup::default().env(VARIABLE, first.to_str().unwrap());
    let mut server = Server::start(setup).await;
    recordings.made.push(first);
    exercise(&Client::over(server.connect().await), "a").await;
    server.kill();
    recordings.next(&mut server);
    server.restart().await;
    exercise(&Client::over(server.connect().await), "b").await;
    server.terminate().await;
    let all = recordings.replay(&[ASK, PULSE, LOG_WRITTEN, WORK, CHECKPOINTED]);
    let stopped = all.iter().map(|r| r.inputs_by_kind.contains_key(&STOP));
    assert_eq!(stopped.collect::<Vec<_>>(), [false, true]);
    assert!(all[0].effects_by_kind.contains_key(&STREAM));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_cluster_do_the_same_again() {
    if !records_here() {
        return;
    }
    let mut recordings = Recordings::new();
    let mut cluster = Cluster::prepared(Plan::of(3)).await;
    for member in 0..3 {
        recordings.next(&mut cluster.member_mut(member).server);
        cluster.boot(member);
    }
    cluster.all_ready().await.expect("a cluster");
    for member in 0..3 {
        exercise(&cluster.client(member), &format!("m{member}")).await;
    }
    let leader = cluster.leader().await;
    let killed = cluster.others(leader)[0];
    cluster.kill(killed);
    exercise(&cluster.client(leader), "without").await;
    recordings.next(&mut cluster.member_mut(killed).server);
    cluster.restart(killed).await;
    // A fourth joins, learns everything, and is removed.
    let joined = cluster.prepare().await;
    cluster.admit(leader, joined, false).await;
    recordings.next(&mut cluster.member_mut(joined).server);
    cluster.boot(joined);
    cluster.ready(joined).await.expect("the fourth member");
    exercise(&cluster.client(joined), "joined").await;
    cluster.agree().await;
    cluster.remove(leader, joined).await;
    cluster.member_mut(joined).server.exit().await;
    // The leader goes first: it hands over.
    let leader = cluster.leader().await;
    cluster.member_mut(leader).server.terminate().await;
    for member in cluster.running() {
        cluster.member_mut(member).server.terminate().await;
    }
    let all = recordings.replay(&[ASK, MESSAGE, CONNECTED, PULSE, LOG_WRITTEN]);
    let with = |input: u8| {
        let all = all.iter();
        all.filter(|replayed| replayed.inputs_by_kind.contains_key(&input))
            .count()
    };
    assert_eq!((all.len(), with(STOP)), (5, 3));
    assert!(with(PEER_ANSWERED) > 0, "no member asked another");
    let removed = all
        .iter()
        .filter(|r| r.effects_by_kind.contains_key(&REMOVED));
    assert_eq!(removed.count(), 1);
}

/// Takes one input of a trace for another one.
fn alter(records: &mut [Record], altered: impl Fn(&mut Input) -> bool) {
    for record in records {
        let Record::Input { bytes, .. } = record else {
            continue;
        };
        let Ok(Told::Input(mut input)) = Told::decode(bytes) else {
            continue;
        };
        if altered(&mut input) {
            *bytes = encode_input(&input);
            return;
        }
    }
    panic!("the trace has no such input");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_trace_is_noticed() {
    if !records_here() {
        return;
    }
    let dir = temporary_dir();
    let path = dir.path().join("trace");
    let mut server = Server::start(Setup::default().env(VARIABLE, path.to_str().unwrap())).await;
    let client = Client::over(server.connect().await);
    for n in 0..5 {
        client.put("key", &n.to_string()).await.expect("a put");
        assert_eq!(client.get("key").await, Ok(Some(n.to_string())));
    }
    client.grant(7, 60).await.expect("a lease");
    client.time_to_live(7).await.expect("a time to live");
    server.terminate().await;
    let unaltered = || records(&path).expect("a trace");
    replay(&path, &unaltered()).expect("the same again");
    let why = |records: &[Record]| replay(&path, records).expect_err("it differs");

    // One byte of a value that a client wrote.
    let mut altered = unaltered();
    alter(&mut altered, |input| match input {
        Input::Ask {
            request: Request::Put(put),
            ..
        } if put.value == "3" => {
            put.value = "4".into();
            true
        }
        _ => false,
    });
    assert!(why(&altered).contains("and was"));

    // The clock: the lease has less time left, or none.
    let mut altered = unaltered();
    for record in &mut altered {
        if let Record::Input { now_ns, .. } | Record::Settled { now_ns, .. } = record {
            *now_ns *= 1_000;
        }
    }
    assert!(why(&altered).contains("and was"));

    // One that is missing: the end of a write.
    let mut altered = unaltered();
    let is_write =
        |record: &Record| matches!(record, Record::Input { bytes, .. } if bytes[0] == LOG_WRITTEN);
    let written = altered.iter().position(is_write).expect("a write");
    altered.remove(written);
    assert!(why(&altered).contains("and was"));

    // What the process started with.
    let mut altered = unaltered();
    let Some(Record::Header(header)) = altered.first_mut() else {
        panic!("no header");
    };
    header.draws.incarnation ^= 1;
    assert!(why(&altered).contains("and was"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_builds_refuse_to_record() {
    if !is_ringd() || cfg!(debug_assertions) {
        println!("skipped: this build records");
        return;
    }
    let mut server = Server::spawn(Setup::default().env(VARIABLE, "/nowhere"));
    let status = tokio::time::timeout(PATIENCE + Duration::from_secs(1), server.exit()).await;
    assert!(!status.expect("an end").success());
    for word in [VARIABLE, "release build", "unset it"] {
        assert!(server.log().contains(word), "{}", server.log());
    }
}
