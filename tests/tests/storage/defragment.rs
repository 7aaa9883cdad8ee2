//! Defragment shortens the file while the member serves, and a kill inside it loses nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup};
use ringd_tests::shim::{Loss, Shim};
use ringd_tests::transport::Connection;

use crate::member::{
    compact, defragment, delete, file_bytes, get, hash_kv, page_file, put, status, value,
};

const VALUE_BYTES: usize = 64 << 10;
/// Of so many keys of that size one in [`KEPT_SHARE`] stays.
const KEYS: usize = 700;
const KEPT_SHARE: usize = 20;
/// The file grows in steps of 16 MiB: what stays fits into one, and one is the reserve.
const SHORT_BYTES: u64 = 32 << 20;

fn key(n: usize) -> String {
    format!("key{n:05}")
}

/// Fills the file, deletes most of it again, and gives what is left.
async fn fill(connection: &Connection) -> BTreeMap<String, Vec<u8>> {
    let writers = (0..8).map(|writer| {
        let connection = connection.clone();
        tokio::spawn(async move {
            for n in (writer..KEYS).step_by(8) {
                let key = key(n);
                put(&connection, &key, &value(&key, 0, VALUE_BYTES))
                    .await
                    .expect("a put");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    // Written back before it is deleted, or it would never reach the file.
    defragment(connection).await.expect("a defragmentation");
    let mut kept = BTreeMap::new();
    for n in (0..KEYS).step_by(KEPT_SHARE) {
        kept.insert(key(n), value(&key(n), 0, VALUE_BYTES));
        delete(connection, &key(n + 1), &key(n + KEPT_SHARE))
            .await
            .expect("a deletion");
    }
    // Small values live in leaves, which are moved as well.
    for n in 0..2_000 {
        let (key, value) = (format!("small{n:05}"), value("small", n, 100));
        put(connection, &key, &value).await.expect("a put");
        kept.insert(key, value);
    }
    let newest = put(connection, "last", b"v").await.expect("a put");
    kept.insert("last".into(), b"v".to_vec());
    compact(connection, newest).await;
    kept
}

async fn holds(connection: &Connection, kept: &BTreeMap<String, Vec<u8>>) {
    for (key, value) in kept {
        let found = get(connection, key).await.expect("a read");
        assert!(
            found.is_some_and(|found| found[..] == value[..]),
            "{key} is not what it was"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_gets_shorter_while_reads_and_writes_go_on() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let connection = server.connect().await;
    let mut kept = fill(&connection).await;
    let before = file_bytes(&page_file(&server));
    assert!(before > 40 << 20, "only {before} bytes were filled");
    let hash = hash_kv(&connection).await;

    let ended = Arc::new(AtomicBool::new(false));
    let (writer, flag) = (server.connect().await, ended.clone());
    let traffic = tokio::spawn(async move {
        let (mut slowest, mut rounds) = (Duration::ZERO, 0);
        while !flag.load(Ordering::Relaxed) {
            let begun = Instant::now();
            put(&writer, "moving", &value("moving", rounds, 100))
                .await
                .expect("a put during the defragmentation");
            get(&writer, "last").await.expect("a read");
            slowest = slowest.max(begun.elapsed());
            rounds += 1;
        }
        (slowest, rounds)
    });
    let begun = Instant::now();
    defragment(&connection).await.expect("a defragmentation");
    let took = begun.elapsed();
    ended.store(true, Ordering::Relaxed);
    let (slowest, rounds) = traffic.await.expect("no panic");
    let after = file_bytes(&page_file(&server));
    println!("{before} bytes to {after} in {took:?}; {rounds} puts and gets meanwhile, the slowest {slowest:?}");
    assert!(after <= SHORT_BYTES, "{before} bytes became {after}");
    assert!(status(&connection).await.db_size as u64 <= after);
    assert!(rounds > 10, "only {rounds} puts meanwhile");
    // A member that waited for the whole of it would have made one round.
    assert!(slowest < took / 2, "{slowest:?} of {took:?}");
    kept.insert("moving".into(), value("moving", rounds - 1, 100));
    holds(&connection, &kept).await;
    assert_ne!(hash_kv(&connection).await, hash, "it hashes what was put");

    // There is nothing left to do, and that is an answer too.
    defragment(&connection).await.expect("a defragmentation");
    assert!(file_bytes(&page_file(&server)) <= after);
}

/// What the hash covers is the same before, inside and after a defragmentation, whenever it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_a_defragmentation_loses_nothing() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let shim = Shim::new(&dir.path().join("m0.etcd"));
    let mut server = Server::start(shim.under(Setup::default().dir(dir.path()))).await;
    let connection = server.connect().await;
    let kept = fill(&connection).await;
    let hash = hash_kv(&connection).await;
    let before = file_bytes(&page_file(&server));
    // Later and later, until one comes through.
    let (mut delay, mut kills) = (Duration::from_millis(2), 0);
    loop {
        let connection = server.connect().await;
        let running = tokio::spawn(async move { defragment(&connection).await });
        tokio::time::sleep(delay).await;
        server.kill();
        let ended = running.await.expect("no panic").is_ok();
        // Half of the time what was not flushed is lost as well.
        if kills % 2 == 0 {
            shim.power_cut(Loss::Everything);
        }
        server.restart().await;
        let connection = server.connect().await;
        assert_eq!(hash_kv(&connection).await, hash, "killed after {delay:?}");
        if ended {
            break;
        }
        kills += 1;
        delay = delay * 5 / 4;
    }
    println!("{kills} kills inside, the last one after {delay:?}");
    assert!(kills >= 5, "it was over before it could be killed");
    let connection = server.connect().await;
    holds(&connection, &kept).await;
    defragment(&connection).await.expect("a defragmentation");
    let after = file_bytes(&page_file(&server));
    assert!(after <= SHORT_BYTES, "{before} bytes became {after}");
    assert_eq!(hash_kv(&connection).await, hash);
}
