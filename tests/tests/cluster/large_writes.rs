//! What a write of very many keys leaves of the member that applies it: whoever wants its heartbeats, votes and renewals
//! meanwhile has to get them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};

const KEYS: usize = 300_000;
const KEYS_PER_TXN: usize = 100;
const MANY: i64 = 1;
const OTHER: i64 = 2;
const TTL_S: i64 = 600;

fn key(number: usize) -> String {
    format!("many/{number:07}")
}

async fn fill(client: &Client) {
    for first in (0..KEYS).step_by(KEYS_PER_TXN) {
        let put = |number| pb::RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest {
                key: key(number).into(),
                value: "value".into(),
                lease: MANY,
                ..Default::default()
            })),
        };
        let txn = pb::TxnRequest {
            success: (first..first + KEYS_PER_TXN).map(put).collect(),
            ..Default::default()
        };
        let answer: Result<pb::TxnResponse, _> = client.ask("KV/Txn", &txn).await;
        answer.expect("a transaction");
    }
}

/// What is asked for meanwhile.
#[derive(Clone, Copy)]
enum Call {
    /// Answered when a majority has confirmed the leader.
    Renewal,
    Status,
    /// Has to wait until the write is whole.
    Read,
}

/// The longest that one call after the other took, until told to stop. A refusal is an answer: the member was there.
async fn longest(client: Client, call: Call, stop: Arc<AtomicBool>) -> Duration {
    let first = key(0);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match call {
            Call::Renewal => drop(client.keep_alive(OTHER).await),
            Call::Status => drop(client.status().await),
            Call::Read => drop(client.range(&first, false).await),
        }
        longest = longest.max(begun.elapsed());
    }
    longest
}

/// `RINGD_TEST_SERVER` measures another server.
async fn measure(name: &str, write: impl AsyncFn(&Client)) {
    let cluster = Cluster::start(Plan::of(3)).await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader).deadline(Duration::from_secs(120));
    for lease in [MANY, OTHER] {
        client.grant(lease, TTL_S).await.expect("a lease");
    }
    fill(&client).await;
    cluster.agree().await;
    let before = cluster.status(leader).await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls = [Call::Renewal, Call::Status, Call::Read];
    let asking = calls.map(|call| {
        let client = cluster.client(leader);
        tokio::spawn(longest(client, call, stop.clone()))
    });
    let begun = Instant::now();
    write(&client).await;
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut waited = Vec::new();
    for asking in asking {
        waited.push(asking.await.expect("no panic"));
    }
    let left = client.range(&key(KEYS - 1), false).await.expect("a range");
    assert_eq!(left.count, 0);
    let after = cluster.status(cluster.leader().await).await;
    println!(
        "{name} of {KEYS} keys: answered after {took:?}; the longest renewal, status and read {waited:?}; {} elections",
        after.raft_term - before.raft_term
    );
}

/// `cargo test --release -p ringd-tests --test cluster large_writes:: -- --ignored --nocapture --test-threads 1`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_a_revoked_lease_holds_up_its_member() {
    measure("a revoked lease", async |client| {
        client.revoke(MANY).await.expect("a revocation");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_a_transaction_holds_up_its_member() {
    measure("a delete in a transaction", async |client| {
        let delete = pb::DeleteRangeRequest {
            key: key(0).into(),
            range_end: key(KEYS).into(),
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(Request::RequestDeleteRange(delete)),
            }],
            ..Default::default()
        };
        let answer: Result<pb::TxnResponse, _> = client.ask("KV/Txn", &txn).await;
        answer.expect("a transaction");
    })
    .await;
}
