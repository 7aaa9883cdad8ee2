//! Kills inside the long work of a member: compaction and checkpoints. What was acknowledged is there, and no more is gone
//! than was to go.

use std::time::Duration;

use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::SeedableRng;
use ringd_tests::model::Refusal;
use ringd_tests::random::seed;
use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup};
use ringd_tests::shim::{Loss, Shim};
use ringd_tests::transport::Connection;

use crate::member::{ask, compact, defragment, get, hash_kv, put, value};

const KEYS: u64 = 400;
const VERSIONS: u64 = 30;
const VALUE_BYTES: usize = 400;

/// Keys of many versions; the revision of the last one.
async fn history(connection: &Connection) -> i64 {
    let mut newest = 0;
    for version in 0..VERSIONS {
        let mut puts = pb::TxnRequest::default();
        for n in 0..KEYS {
            let key = format!("k{n:04}");
            let value = value(&key, version, VALUE_BYTES);
            let put = pb::PutRequest {
                key: key.into(),
                value: value.into(),
                ..Default::default()
            };
            puts.success.push(pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put)),
            });
            // A transaction takes 128 operations.
            if puts.success.len() == 100 {
                let answer: Result<pb::TxnResponse, _> =
                    ask(connection, "/etcdserverpb.KV/Txn", &puts).await;
                newest = answer
                    .expect("a transaction")
                    .header
                    .expect("a header")
                    .revision;
                puts.success.clear();
            }
        }
    }
    newest
}

/// Asks for a compaction and does not wait for the rows.
async fn compact_soon(connection: &Connection, revision: i64) -> Result<(), Refusal> {
    let compact = pb::CompactionRequest {
        revision,
        physical: false,
    };
    let path = "/etcdserverpb.KV/Compact";
    let answer: Result<pb::CompactionResponse, _> = ask(connection, path, &compact).await;
    answer.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_goes_on_after_a_kill() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let shim = Shim::new(&dir.path().join("m0.etcd"));
    let mut server = Server::start(shim.under(Setup::default().dir(dir.path()))).await;
    let twin = Server::fresh().await;
    let connection = server.connect().await;
    let newest = history(&connection).await;
    assert_eq!(history(&twin.connect().await).await, newest);
    let mut target = newest / 4;
    for round in 0..10 {
        target += newest / 20;
        let connection = server.connect().await;
        compact_soon(&connection, target)
            .await
            .expect("a compaction");
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        server.kill();
        if round % 2 == 0 {
            shim.power_cut(Loss::Everything);
        }
        server.restart().await;
        compact_soon(&twin.connect().await, target)
            .await
            .expect("a compaction");
    }
    // After one that is waited for both have removed the same rows.
    let (connection, twin) = (server.connect().await, twin.connect().await);
    target += 1;
    compact(&connection, target).await;
    compact(&twin, target).await;
    let hash = hash_kv(&connection).await;
    assert_eq!(hash.1, target);
    assert_eq!(hash, hash_kv(&twin).await);
    for n in 0..KEYS {
        let key = format!("k{n:04}");
        let found = get(&connection, &key)
            .await
            .expect("a read")
            .expect("a value");
        assert!(
            found[..] == value(&key, VERSIONS - 1, VALUE_BYTES)[..],
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_a_checkpoint_loses_nothing() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let shim = Shim::new(&dir.path().join("m0.etcd"));
    let mut server = Server::start(shim.under(Setup::default().dir(dir.path()))).await;
    let mut rng = StdRng::seed_from_u64(seed(41));
    let mut interrupted = 0;
    for round in 0..12_u64 {
        let connection = server.connect().await;
        for n in 0..200 {
            let key = format!("k{n:04}");
            put(&connection, &key, &value(&key, round, 2_000))
                .await
                .expect("a put");
        }
        // Each write of the page file takes a moment, so that the kill comes between two of them.
        let operation = ["write", "flush"][round as usize % 2];
        shim.control(&format!("{operation} stall 30 0 0 store.pages"));
        let checkpoint = tokio::spawn(async move { defragment(&connection).await });
        tokio::time::sleep(Duration::from_millis(5 + 11 * round)).await;
        server.kill();
        interrupted += u32::from(checkpoint.await.expect("no panic").is_err());
        shim.calm();
        shim.power_cut(match round % 3 {
            0 => Loss::Everything,
            _ => Loss::Some(&mut rng),
        });
        server.restart().await;
        let connection = server.connect().await;
        for n in 0..200 {
            let key = format!("k{n:04}");
            let found = get(&connection, &key)
                .await
                .expect("a read")
                .expect("a value");
            assert!(
                found[..] == value(&key, round, 2_000)[..],
                "{key} in round {round}"
            );
        }
    }
    assert!(
        interrupted >= 6,
        "only {interrupted} of 12 checkpoints were interrupted"
    );
}
