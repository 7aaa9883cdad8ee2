//! More requests than there is memory for: the surplus is refused, and the member neither grows nor dies.

use std::path::PathBuf;
use std::time::Duration;

use ringd_tests::model::Refusal;
use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup};
use ringd_tests::shim::Shim;

use crate::member::{get, put, put_patiently, value, TOO_MANY};

const UNKNOWN: i32 = 2;
const VALUE_BYTES: usize = 1 << 20;
const CONNECTIONS: usize = 8;
/// On each connection at once.
const PUTS: usize = 16;

/// The most memory that a process ever had, in bytes.
fn peak_bytes(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.pid());
    let status = std::fs::read_to_string(path).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kilobytes.map_or(0, |kilobytes: u64| kilobytes * 1024)
}

/// Many large puts at once; what became of each.
async fn flood(server: &Server) -> Vec<Result<i64, Refusal>> {
    let mut running = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = server.connect().await;
        for n in 0..PUTS {
            let client = client.clone();
            running.push(tokio::spawn(async move {
                let key = format!("k{connection}-{n}");
                put(&client, &key, &value(&key, 0, VALUE_BYTES)).await
            }));
        }
    }
    let mut results = Vec::new();
    for put in running {
        results.push(put.await.expect("no panic"));
    }
    results
}

fn refused_as_overload(results: &[Result<i64, Refusal>]) -> usize {
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    refused
        .inspect(|refusal| {
            assert_eq!((refusal.code, &refusal.message[..]), (UNKNOWN, TOO_MANY));
        })
        .count()
}

/// 128 MB of requests against a bound of 8 MB, while the log does not move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_bound_are_refused() {
    if !is_ringd() {
        return;
    }
    let dir = temporary_dir();
    let shim = Shim::new(&dir.path().join("m0.etcd"));
    let setup = Setup::default()
        .dir(dir.path())
        .flags(["--requests-held-bytes=8388608"]);
    let mut server = Server::start(shim.under(setup)).await;
    let connection = server.connect().await;
    put(&connection, "k", b"v").await.expect("a put");
    let before = peak_bytes(&server);
    shim.control("write stall 500 0 0 wal");
    let results = flood(&server).await;
    let refused = refused_as_overload(&results);
    let grown = peak_bytes(&server).saturating_sub(before);
    println!(
        "{refused} of {} refused, {grown} bytes more at the peak",
        results.len()
    );
    assert!(refused > results.len() / 2, "only {refused} were refused");
    assert!(refused < results.len(), "some fit");
    // A request is there as bytes, as a message and as a log entry, and each connection has its windows.
    assert!(grown < 96 << 20, "{grown} bytes");
    shim.calm();
    // What was refused has left nothing behind: the whole bound is there for others.
    for n in 0..20 {
        let key = format!("after{n}");
        put_patiently(&connection, &key, &value(&key, 0, VALUE_BYTES))
            .await
            .expect("a put");
    }
    assert_eq!(get(&connection, "k").await, Ok(Some("v".into())));
    assert_eq!(server.exited(), None);
}

/// A control group of 256 MB, where one can be made: nobody is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_in_a_small_group_kills_nobody() {
    if !is_ringd() {
        return;
    }
    let Some(group) = Group::new(256 << 20) else {
        println!("skipped: no control group can be made here");
        return;
    };
    let script = format!(
        "echo $$ > '{}/cgroup.procs' && exec \"$@\"",
        group.0.display()
    );
    let mut server = Server::start(Setup::default().shell(&script)).await;
    for _ in 0..4 {
        refused_as_overload(&flood(&server).await);
    }
    assert_eq!(server.exited(), None, "killed");
    let connection = server.connect().await;
    put_patiently(&connection, "k", b"v").await.expect("a put");
    println!("{} bytes at the peak", peak_bytes(&server));
    server.kill();
    tokio::time::timeout(Duration::from_secs(10), group.emptied())
        .await
        .ok();
}

struct Group(PathBuf);

impl Group {
    fn new(memory_bytes: u64) -> Option<Group> {
        let name = format!("ringd-test-{}", std::process::id());
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
            let group = Group(PathBuf::from(root).join(&name));
            if std::fs::create_dir(&group.0).is_err() {
                continue;
            }
            for limit in ["memory.max", "memory.limit_in_bytes"] {
                let limit = group.0.join(limit);
                if limit.exists() && std::fs::write(&limit, memory_bytes.to_string()).is_ok() {
                    return Some(group);
                }
            }
        }
        None
    }

    /// Waits until no process is in it.
    async fn emptied(&self) {
        let path = self.0.join("cgroup.procs");
        while std::fs::read_to_string(&path).is_ok_and(|processes| !processes.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
