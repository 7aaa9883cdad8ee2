//! Failures of the machine under a single member: it stops or goes on as promised, and says why.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use ringd_tests::model::Refusal;
use ringd_tests::server::{ended_well, is_ringd, temporary_dir, Server, Setup, PATIENCE};
use ringd_tests::shim::Shim;
use ringd_tests::transport::{Connection, Extras};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const NO_SPACE: i32 = 8;
const STALL_MS: u64 = 2000;
/// The log's place in a data directory.
const LOG_DIR: &str = "member/wal";

async fn put(connection: &Connection, key: &str, value: &str) -> Result<i64, Refusal> {
    let put = pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    let body = Bytes::from(put.encode_to_vec());
    let extras = Extras {
        deadline: Some(PATIENCE),
        ..Default::default()
    };
    let answer = connection
        .unary("/etcdserverpb.KV/Put", body, &extras)
        .await?;
    let answer = pb::PutResponse::decode(answer).expect("a put response");
    Ok(answer.header.expect("a header").revision)
}

async fn get(connection: &Connection, key: &str) -> Result<Option<Bytes>, Refusal> {
    let range = pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let body = Bytes::from(range.encode_to_vec());
    let path = "/etcdserverpb.KV/Range";
    let answer = connection.unary(path, body, &Extras::default()).await?;
    let answer = pb::RangeResponse::decode(answer).expect("a range response");
    Ok(answer.kvs.first().map(|kv| kv.value.clone()))
}

/// The server must end by itself with an error, and its log must contain the words.
async fn must_fail(server: &mut Server, words: &[&str]) {
    let status = server.exit().await;
    assert!(!status.success(), "it ended well\n{}", server.log_tail());
    let log = server.log();
    for word in words {
        let found = log.to_lowercase().contains(&word.to_lowercase());
        assert!(found, "no word of {word}\n{}", server.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_has_one_owner() {
    let dir = temporary_dir();
    let first = Server::start(Setup::default().dir(dir.path())).await;
    let mut second = Server::spawn(Setup::default().dir(dir.path()));
    // A real etcd waits for the lock; ringd ends at once and names the directory.
    if is_ringd() {
        must_fail(&mut second, &["m0.etcd"]).await;
    }
    let connection = first.connect().await;
    assert!(put(&connection, "k", "v").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named() {
    let first = Server::fresh().await;
    let mut second = Server::fresh().await;
    second.kill();
    second.set_client_port(first.client_port());
    second.respawn();
    let port = first.client_port().to_string();
    must_fail(&mut second, &[&port, "address already in use"]).await;
}

/// The token makes the identity of a new cluster; a member that exists keeps its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_its_cluster() {
    let dir = temporary_dir();
    let mut server = Server::start(Setup::default().dir(dir.path()).cluster_token("one")).await;
    let connection = server.connect().await;
    put(&connection, "k", "v").await.expect("a put");
    server.terminate().await;
    *server.setup_mut() = Setup::default().dir(dir.path()).cluster_token("two");
    server.restart().await;
    let connection = server.connect().await;
    assert_eq!(get(&connection, "k").await, Ok(Some("v".into())));
}

/// The log of one cluster beside the tree of another: refused, never mixed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_another_cluster_is_refused() {
    if !is_ringd() {
        return;
    }
    let mut servers = Vec::new();
    for token in ["one", "two"] {
        let mut server = Server::start(Setup::default().cluster_token(token)).await;
        let connection = server.connect().await;
        put(&connection, "k", token).await.expect("a put");
        server.terminate().await;
        servers.push(server);
    }
    let (mine, other) = (servers[0].data_dir(), servers[1].data_dir());
    std::fs::remove_dir_all(mine.join(LOG_DIR)).expect("a log directory");
    copy_dir(&other.join(LOG_DIR), &mine.join(LOG_DIR));
    servers[0].respawn();
    must_fail(&mut servers[0], &["wal"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_made_is_named() {
    let dir = temporary_dir();
    // A file where the data directory should be: nobody, not even root, can write below it.
    std::fs::write(dir.path().join("m0.etcd"), b"").expect("a file");
    let mut server = Server::spawn(Setup::default().dir(dir.path()));
    must_fail(&mut server, &["m0.etcd"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_lockable_memory_is_enough_or_named() {
    if !is_ringd() {
        return;
    }
    let mut server = Server::spawn(Setup::default().shell("ulimit -l 16 && exec \"$@\""));
    match server.ready().await {
        Ok(()) => {
            let connection = server.connect().await;
            put(&connection, "k", "v").await.expect("a put");
        }
        Err(why) => {
            // Root is not bound by the limit on some kernels; where it binds, the message tells what to raise.
            let why = why.to_lowercase();
            assert!(why.contains("memlock"), "no word of memlock\n{why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_well_and_keeps_everything() {
    let mut server = Server::fresh().await;
    let connection = server.connect().await;
    let revision = put(&connection, "k", "v").await.expect("a put");
    let started = Instant::now();
    let status = server.terminate().await;
    assert!(ended_well(status), "SIGTERM ended in {status}");
    assert!(started.elapsed() < PATIENCE);
    server.restart().await;
    let connection = server.connect().await;
    assert_eq!(get(&connection, "k").await, Ok(Some("v".into())));
    let next = put(&connection, "k", "w").await.expect("a put");
    assert_eq!(next, revision + 1);
}

/// A server under the fault layer.
struct Faulty {
    server: Server,
    shim: Shim,
    _dir: tempfile::TempDir,
}

impl Faulty {
    async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    async fn start_with(flags: &[&str]) -> Option<Self> {
        if !is_ringd() {
            println!("skipped: the layer needs a server that writes through the C library");
            return None;
        }
        let dir = temporary_dir();
        let shim = Shim::new(&dir.path().join("m0.etcd"));
        let setup = Setup::default()
            .dir(dir.path())
            .flags(flags.iter().copied());
        Some(Self {
            server: Server::start(shim.under(setup)).await,
            shim,
            _dir: dir,
        })
    }

    /// Puts until one fails; gives the revision of the last that was acknowledged.
    async fn put_until_refused(&self, connection: &Connection) -> i64 {
        let mut last = 0;
        for n in 0..10_000 {
            match put(connection, "k", &n.to_string()).await {
                Ok(revision) => last = revision,
                Err(_) => return last,
            }
        }
        panic!("no put failed");
    }
}

/// A disk that fails a write or a flush of the log ends the member, which never acknowledges again.
async fn broken_disk(operation: &str, errno: i32) {
    let Some(mut faulty) = Faulty::start().await else {
        return;
    };
    let connection = faulty.server.connect().await;
    put(&connection, "k", "before").await.expect("a put");
    faulty
        .shim
        .control(&format!("{operation} fail {errno} 3 0 -"));
    let last = faulty.put_until_refused(&connection).await;
    assert!(put(&connection, "k", "after").await.is_err());
    must_fail(
        &mut faulty.server,
        &["m0.etcd", &format!("os error {errno}")],
    )
    .await;
    faulty.shim.calm();
    faulty.server.restart().await;
    let connection = faulty.server.connect().await;
    let next = put(&connection, "k", "again").await.expect("a put");
    // The one without an answer may or may not have happened.
    assert!((last + 1..=last + 2).contains(&next), "{last} then {next}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_ends_the_right_to_acknowledge() {
    broken_disk("flush", EIO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_ends_the_right_to_acknowledge() {
    broken_disk("write", EIO).await;
}

/// No file can grow: writes are refused for lack of space, reads and deletions go on, and so does all once there is space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_recovers() {
    let Some(mut faulty) = Faulty::start().await else {
        return;
    };
    let connection = faulty.server.connect().await;
    put(&connection, "kept", "v").await.expect("a put");
    faulty.shim.control(&format!("space fail {ENOSPC} 0 0 -"));
    let value = "x".repeat(1 << 20);
    let mut refused = None;
    for n in 0..400 {
        if let Err(refusal) = put(&connection, &format!("k{}", n % 50), &value).await {
            refused = Some(refusal);
            break;
        }
    }
    let refused = refused.expect("400 MB do not fit into nothing");
    if let Some(status) = faulty.server.exited() {
        // Ending is allowed only with the reason, and never again and again: it starts once there is space.
        assert!(!status.success());
        assert!(faulty.server.log().contains(&format!("os error {ENOSPC}")));
        faulty.shim.calm();
        faulty.server.restart().await;
    } else {
        // Without room for the log itself nothing can be proposed, not even the alarm: that is an overload.
        let overload = refused.message == "etcdserver: too many requests";
        assert!(refused.code == NO_SPACE || overload, "{refused:?}");
        assert_eq!(get(&connection, "kept").await, Ok(Some("v".into())));
        faulty.shim.calm();
    }
    let connection = faulty.server.connect().await;
    assert_eq!(get(&connection, "kept").await, Ok(Some("v".into())));
    let end = Instant::now() + PATIENCE;
    while let Err(refusal) = put(&connection, "kept", "w").await {
        assert!(
            Instant::now() < end,
            "no write after space returned: {refusal:?}"
        );
        lift_alarms(&connection).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The alarm stays until it is lifted by member.
async fn lift_alarms(connection: &Connection) {
    let path = "/etcdserverpb.Maintenance/Alarm";
    let ask = async |request: pb::AlarmRequest| {
        let body = Bytes::from(request.encode_to_vec());
        let answer = connection
            .unary(path, body, &Extras::default())
            .await
            .ok()?;
        pb::AlarmResponse::decode(answer).ok()
    };
    let all = ask(pb::AlarmRequest::default()).await;
    for alarm in all.map(|a| a.alarms).unwrap_or_default() {
        ask(pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate as i32,
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        })
        .await;
    }
}

/// While a flush takes seconds, reads and keep-alives are answered, and the write that waits is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_flush_holds_up_writes_only() {
    let Some(faulty) = Faulty::start().await else {
        return;
    };
    let connection = faulty.server.connect().await;
    put(&connection, "k", "v").await.expect("a put");
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    let body = Bytes::from(grant.encode_to_vec());
    let path = "/etcdserverpb.Lease/LeaseGrant";
    connection
        .unary(path, body, &Extras::default())
        .await
        .expect("a lease");
    faulty
        .shim
        .control(&format!("flush stall {STALL_MS} 0 1 wal"));
    let writer = connection.clone();
    let started = Instant::now();
    let write = tokio::spawn(async move { put(&writer, "k", "slow").await });
    let mut keep_alive = connection.stream(
        "/etcdserverpb.Lease/LeaseKeepAlive",
        None,
        &Extras::default(),
    );
    let mut answered = 0;
    let half = Duration::from_millis(STALL_MS / 2);
    while started.elapsed() < half {
        assert_eq!(get(&connection, "k").await, Ok(Some("v".into())));
        keep_alive.send(pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec().into());
        let alive = keep_alive
            .next(PATIENCE)
            .await
            .expect("a keep-alive in time");
        assert!(alive.is_ok(), "{alive:?}");
        answered += 1;
        assert!(!write.is_finished(), "acknowledged during the flush");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answered >= 3, "only {answered} reads in half a flush");
    write.await.expect("no panic").expect("the put succeeds");
    assert_eq!(get(&connection, "k").await, Ok(Some("slow".into())));
}

/// Flips a byte in each segment of the log of a stopped server: it refuses to start, or everything acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_log_is_never_silent() {
    if !is_ringd() {
        return;
    }
    let mut server = Server::fresh().await;
    let connection = server.connect().await;
    for n in 0..200 {
        put(&connection, &format!("k{n}"), &"v".repeat(500))
            .await
            .expect("a put");
    }
    server.kill();
    let pristine = temporary_dir();
    copy_dir(&server.data_dir(), pristine.path());
    let log = newest_file(&server.data_dir().join(LOG_DIR));
    for offset in [0, 100, 5_000, 20_000, 50_000] {
        let mut bytes = std::fs::read(&log).expect("a segment");
        bytes[offset] ^= 0x40;
        std::fs::write(&log, &bytes).expect("a segment");
        server.respawn();
        match server.ready().await {
            Err(why) => assert!(
                why.contains(log.file_name().and_then(|n| n.to_str()).expect("a name")),
                "offset {offset}: the message does not name the file\n{why}"
            ),
            Ok(()) => {
                let connection = server.connect().await;
                let last = get(&connection, "k199").await;
                assert_eq!(last, Ok(Some("v".repeat(500).into())), "offset {offset}");
            }
        }
        server.kill();
        std::fs::remove_dir_all(server.data_dir()).expect("the directory can be removed");
        copy_dir(pristine.path(), &server.data_dir());
    }
    server.restart().await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

fn newest_file(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).expect("a log directory");
    let files = entries.map(|e| e.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|p| p.is_file()).collect();
    files.sort_by_key(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok());
    files.pop().expect("a segment")
}
