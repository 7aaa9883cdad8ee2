//! Bits that flip, bytes that go, and a device that does not read: told apart from data, always.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringd_tests::model::Refusal;
use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup, PATIENCE};
use ringd_tests::shim::Shim;
use ringd_tests::transport::Connection;

use crate::member::{
    defragment, file_bytes, get, page_file, put, put_patiently, status, value, LOG_DIR,
};

const EIO: i32 = 5;
const CORRUPT: &str = "etcdserver: corrupt cluster";
/// Values of this size lie in pages of their own.
const VALUE_BYTES: usize = 3_000;
const KEYS: usize = 200;

fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}{n:04}")
}

fn value_of(key: &str) -> Vec<u8> {
    value(key, 0, VALUE_BYTES)
}

/// Writes keys of each prefix and brings them into the page file.
async fn fill(connection: &Connection, prefixes: &[&str]) {
    for prefix in prefixes {
        for n in 0..KEYS {
            let key = key(prefix, n);
            put(connection, &key, &value_of(&key)).await.expect("a put");
        }
    }
    defragment(connection).await.expect("a checkpoint");
}

/// Where the value of a key lies in the page file.
fn place_of(file: &Path, key: &str) -> u64 {
    let bytes = std::fs::read(file).expect("the page file");
    let wanted = value_of(key);
    let found = bytes.windows(64).position(|window| *window == wanted[..64]);
    found.unwrap_or_else(|| panic!("{key} is not in the page file")) as u64
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], offset)
        .expect("a byte");
    file.sync_all().expect("on the device");
}

/// The right value, or a refusal that says that the data are damaged: whether it was the value.
fn right_or_refused(key: &str, answer: &Result<Option<bytes::Bytes>, Refusal>) -> bool {
    match answer {
        Ok(Some(found)) => {
            assert!(found[..] == value_of(key)[..], "a wrong value of {key}");
            true
        }
        Err(refusal) => {
            assert_eq!(refusal.message, CORRUPT, "{key}");
            false
        }
        Ok(None) => panic!("{key} is gone"),
    }
}

async fn alarm_of_corruption(server: &Server, connection: &Connection) {
    let end = Instant::now() + PATIENCE;
    let is_raised = async || {
        let errors = status(connection).await.errors;
        errors.iter().any(|error| error.contains("alarm:CORRUPT"))
    };
    while !is_raised().await {
        assert!(Instant::now() < end, "no alarm\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The log names the file and, to the page, the offset.
fn told(server: &Server, file: &str, offset: u64) {
    let page = offset / 4096 * 4096;
    let log = server.log();
    let names = |at: u64| log.contains(&format!("at offset {at}"));
    assert!(
        log.contains(file) && (names(page) || names(offset)),
        "{file} and offset {page} are not named\n{}",
        server.log_tail()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_under_load_refuse_those_reads_only() {
    if !is_ringd() {
        return;
    }
    let mut server = Server::fresh().await;
    let connection = server.connect().await;
    fill(&connection, &["hot", "cold"]).await;
    server.kill();
    let file = page_file(&server);
    let damaged: Vec<usize> = (0..KEYS).step_by(10).collect();
    let places: Vec<u64> = damaged
        .iter()
        .map(|n| place_of(&file, &key("cold", *n)))
        .collect();
    // A new process has verified no page of theirs.
    server.restart().await;
    let connection = server.connect().await;
    let ended = Arc::new(AtomicBool::new(false));
    let (reader, flag) = (server.connect().await, ended.clone());
    let load = tokio::spawn(async move {
        let mut reads = 0;
        while !flag.load(Ordering::Relaxed) {
            let key = key("hot", reads % KEYS);
            let answer = get(&reader, &key).await;
            assert!(right_or_refused(&key, &answer), "{key} is not damaged");
            reads += 1;
        }
        reads
    });
    for place in &places {
        flip(&file, *place + 100);
    }
    let mut refused = Vec::new();
    for n in 0..KEYS {
        let key = key("cold", n);
        if !right_or_refused(&key, &get(&connection, &key).await) {
            refused.push(n);
        }
    }
    assert_eq!(refused, damaged);
    alarm_of_corruption(&server, &connection).await;
    for place in places {
        told(&server, "store.pages", place);
    }
    ended.store(true, Ordering::Relaxed);
    let reads = load.await.expect("no wrong value");
    assert!(reads > 0, "there was no load");
    assert_eq!(server.exited(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_mapped_file_refuses_reads_and_kills_nobody() {
    if !is_ringd() {
        return;
    }
    let mut server = Server::fresh().await;
    let connection = server.connect().await;
    fill(&connection, &["k"]).await;
    for n in 0..KEYS {
        let key = key("k", n);
        assert!(right_or_refused(&key, &get(&connection, &key).await));
    }
    let file = page_file(&server);
    let first = place_of(&file, &key("k", KEYS / 2)) / 4096 * 4096;
    let whole = file_bytes(&file);
    let handle = OpenOptions::new().write(true).open(&file).expect("a file");
    handle.set_len(first).expect("it can be cut");
    let mut refused = 0;
    for n in 0..KEYS {
        let key = key("k", n);
        refused += u32::from(!right_or_refused(&key, &get(&connection, &key).await));
    }
    assert!(refused > 0, "what was cut off was still read");
    alarm_of_corruption(&server, &connection).await;
    assert_eq!(server.exited(), None, "a member that lives");
    // Nor is it taken for a sound file afterwards.
    server.kill();
    let handle = OpenOptions::new().write(true).open(&file).expect("a file");
    handle.set_len(first).expect("it can be cut");
    server.respawn();
    let why = server.ready().await.expect_err("a short file is refused");
    assert!(why.contains("store.pages"), "{whole} to {first}: {why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_fail_are_refused_until_the_device_reads_again() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let shim = Shim::new(&dir.path().join("m0.etcd"));
    let mut server = Server::start(shim.under(Setup::default().dir(dir.path()))).await;
    let connection = server.connect().await;
    fill(&connection, &["k"]).await;
    server.terminate().await;
    server.restart().await;
    let connection = server.connect().await;
    shim.control(&format!("read fail {EIO} 0 0 store.pages"));
    let mut refused = 0;
    for n in 0..KEYS {
        let key = key("k", n);
        refused += usize::from(!right_or_refused(&key, &get(&connection, &key).await));
    }
    assert!(refused > KEYS / 2, "{refused} reads were refused");
    alarm_of_corruption(&server, &connection).await;
    let log = server.log();
    assert!(log.contains("store.pages") && log.contains("os error 5"));
    shim.calm();
    for n in 0..KEYS {
        let key = key("k", n);
        assert!(right_or_refused(&key, &get(&connection, &key).await));
    }
    assert_eq!(server.exited(), None);
}

/// Nobody reads the page; the scrub does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrub_finds_rot_in_cold_pages() {
    if !is_ringd() {
        return;
    }
    let setup = Setup::default().flags(["--scrub-interval=200ms"]);
    let server = Server::start(setup).await;
    let connection = server.connect().await;
    fill(&connection, &["cold", "other"]).await;
    // Passes over a file that is being written find nothing.
    for n in 0..KEYS {
        let key = key("cold", n);
        put(&connection, &key, &value_of(&key))
            .await
            .expect("a put");
        if n % 50 == 0 {
            defragment(&connection).await.expect("a checkpoint");
        }
    }
    defragment(&connection).await.expect("a checkpoint");
    assert_eq!(status(&connection).await.errors, [""; 0]);
    let file = page_file(&server);
    let place = place_of(&file, &key("cold", 77));
    flip(&file, place + 1_000);
    alarm_of_corruption(&server, &connection).await;
    told(&server, "store.pages", place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrub_finds_rot_in_sealed_log_segments() {
    if !is_ringd() {
        return;
    }
    let setup = Setup::default().flags(["--scrub-interval=200ms"]);
    let server = Server::start(setup).await;
    let connection = server.connect().await;
    let first = server.data_dir().join(LOG_DIR).join("0000000000000001.wal");
    // The first segment is sealed when the second one takes batches, and stays until two checkpoints are past it.
    let megabyte = value("big", 0, 1 << 20);
    for _ in 0..66 {
        put_patiently(&connection, "big", &megabyte)
            .await
            .expect("a put");
    }
    assert_eq!(status(&connection).await.errors, [""; 0]);
    flip(&first, 20 << 20);
    alarm_of_corruption(&server, &connection).await;
    let log = server.log();
    let named = log.contains("0000000000000001.wal is damaged at offset");
    assert!(named, "{}", server.log_tail());
}
