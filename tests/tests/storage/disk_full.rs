//! A full file system: the alarm is raised, what makes room goes on, no start fails, and all is well once there is space.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup, PATIENCE};
use ringd_tests::shim::Shim;
use ringd_tests::transport::Connection;

use crate::member::{ask, compact, defragment, delete, get, put, put_patiently, status, value};

const ENOSPC: i32 = 28;
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const VALUE_BYTES: usize = 1 << 20;
/// More than the log's segments and the page file's reserve hold together.
const PUTS_MAX: usize = 600;

async fn lift_alarms(connection: &Connection) {
    let path = "/etcdserverpb.Maintenance/Alarm";
    let all: Result<pb::AlarmResponse, _> =
        ask(connection, path, &pb::AlarmRequest::default()).await;
    for alarm in all.expect("alarms").alarms {
        let lift = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate as i32,
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        let lifted: Result<pb::AlarmResponse, _> = ask(connection, path, &lift).await;
        lifted.expect("the alarm is lifted");
    }
}

/// Puts until the member says that there is no space.
async fn fill(connection: &Connection) {
    for n in 0..PUTS_MAX {
        let key = format!("big{}", n % 20);
        if let Err(refusal) =
            put_patiently(connection, &key, &value(&key, n as u64, VALUE_BYTES)).await
        {
            assert_eq!(refusal.message, NO_SPACE, "after {n} puts");
            return;
        }
    }
    panic!("{PUTS_MAX} puts of a megabyte were taken");
}

/// On a full disk: the alarm is there, puts are refused with it, and everything else goes on for as long as one likes.
async fn serves_without_space(connection: &Connection) {
    let end = Instant::now() + PATIENCE;
    while !status(connection)
        .await
        .errors
        .iter()
        .any(|e| e.contains("alarm:NOSPACE"))
    {
        assert!(Instant::now() < end, "no alarm");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = put(connection, "more", b"v").await.expect_err("no space");
    assert_eq!(refused.message, NO_SPACE);
    assert_eq!(get(connection, "kept").await, Ok(Some("v".into())));
    // Deletions are log entries and change pages: they live on the reserve.
    for n in 0..500 {
        assert_eq!(
            delete(connection, &format!("small{n:04}"), "")
                .await
                .map_err(|e| e.message),
            Ok(1),
            "deletion {n}"
        );
    }
    let newest = status(connection).await.header.expect("a header").revision;
    compact(connection, newest).await;
    defragment(connection).await.expect("a defragmentation");
    assert_eq!(get(connection, "kept").await, Ok(Some("v".into())));
    assert_eq!(get(connection, "small0001").await, Ok(None));
}

async fn small_keys(connection: &Connection) {
    put(connection, "kept", b"v").await.expect("a put");
    for n in 0..500 {
        put(connection, &format!("small{n:04}"), b"v")
            .await
            .expect("a put");
    }
}

/// After space returned it may take a moment, and the alarm is the operator's to lift.
async fn writes_again(connection: &Connection) {
    let end = Instant::now() + PATIENCE;
    loop {
        lift_alarms(connection).await;
        match put(connection, "more", b"w").await {
            Ok(_) => break,
            Err(refusal) => assert!(Instant::now() < end, "no put: {refusal:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for n in 0..100 {
        let (key, value) = (format!("after{n}"), value("after", n, VALUE_BYTES));
        put_patiently(connection, &key, &value)
            .await
            .expect("there is room");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_can_grow() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let shim = Shim::new(&dir.path().join("m0.etcd"));
    let setup = Setup::default().dir(dir.path());
    let mut server = Server::start(shim.under(setup)).await;
    let connection = server.connect().await;
    small_keys(&connection).await;
    shim.control(&format!("space fail {ENOSPC} 0 0 -"));
    fill(&connection).await;
    serves_without_space(&connection).await;
    // A start needs no space either.
    for _ in 0..2 {
        server.kill();
        server.restart().await;
        let connection = server.connect().await;
        assert_eq!(get(&connection, "kept").await, Ok(Some("v".into())));
        assert!(put(&connection, "more", b"v").await.is_err());
        assert_eq!(delete(&connection, "none", "").await, Ok(0));
    }
    shim.calm();
    let connection = server.connect().await;
    writes_again(&connection).await;
    server.terminate().await;
    server.restart().await;
    let connection = server.connect().await;
    assert_eq!(get(&connection, "more").await, Ok(Some("w".into())));
}

/// A real file system of 900 MB in a name space of the server's own. Needs neither root nor a device, but a kernel that
/// lets users have name spaces; the test above shows the same without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_system_is_filled_and_freed() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let data = dir.path().join("m0.etcd");
    std::fs::create_dir(&data).expect("a directory");
    let mounted = format!(
        "mount -t tmpfs -o size=900m none '{}' && chmod 700 '{0}'",
        data.display()
    );
    let can = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", &mounted])
        .output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: no mount in a name space here");
        return;
    }
    let script = format!("exec unshare -Urm sh -c \"{mounted} && exec \\\"\\$@\\\"\" sh \"$@\"");
    let setup = Setup::default().dir(dir.path()).shell(&script);
    let server = Server::start(setup).await;
    let connection = server.connect().await;
    small_keys(&connection).await;
    let Some(filler) = inside(&server, &data) else {
        println!("skipped: the name space cannot be entered here");
        return;
    };
    fill_up(&filler);
    fill(&connection).await;
    serves_without_space(&connection).await;
    std::fs::remove_file(&filler).expect("it can be removed");
    writes_again(&connection).await;
}

/// A file in the server's file system, by way of its process.
fn inside(server: &Server, data: &Path) -> Option<PathBuf> {
    let root = PathBuf::from(format!("/proc/{}/root", server.pid()));
    let filler = root.join(data.strip_prefix("/").ok()?).join("filler");
    std::fs::write(&filler, b"").ok()?;
    Some(filler)
}

/// Writes until nothing more goes in.
fn fill_up(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("a file");
    let block = vec![7; 1 << 16];
    while file.write_all(&block).is_ok() {}
}
