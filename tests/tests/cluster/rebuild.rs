//! Running members whose page file rots: they get their pages anew from another member, without a restart and without an
//! operator.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::etcdserverpb as pb;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::server::{eventually, is_ringd};

use super::{load_after, settle};

/// Values of this size lie in pages of their own.
const VALUE_BYTES: usize = 3_000;
const KEYS: usize = 60;
const DAMAGED_EVERY: usize = 7;
const MADE_ANEW: &str = "pages were made anew";

fn key(n: usize) -> String {
    format!("cold{n:04}")
}

fn value(n: usize) -> String {
    let mut value = format!("the value of {} ", key(n)).repeat(VALUE_BYTES / 20);
    value.truncate(VALUE_BYTES);
    value
}

fn page_file(cluster: &Cluster, index: usize) -> PathBuf {
    let dir = cluster.member(index).data_dir();
    dir.join("member/store.pages")
}

/// Where values lie in the page file of a member.
fn places(file: &Path) -> Vec<u64> {
    let bytes = std::fs::read(file).expect("the page file");
    let place = |n: usize| {
        let wanted = value(n);
        let found = bytes
            .windows(64)
            .position(|window| *window == wanted.as_bytes()[..64]);
        found.unwrap_or_else(|| panic!("{} is not in the page file", key(n))) as u64
    };
    (0..KEYS).step_by(DAMAGED_EVERY).map(place).collect()
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file);
    let file = file.expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], offset)
        .expect("a byte");
    file.sync_all().expect("on the device");
}

/// Three members with values that nobody reads, in the page file of one that has none of them in memory; and the revision.
async fn with_cold_values(plan: Plan, victim: usize) -> (Cluster, i64) {
    let mut cluster = Cluster::start(plan).await;
    let leader = cluster.leader().await;
    for n in 0..KEYS {
        cluster.eventually_put(leader, &key(n), &value(n)).await;
    }
    let revision = cluster.agree().await;
    let defragment = pb::DefragmentRequest::default();
    let done: Result<pb::DefragmentResponse, _> = cluster
        .client(victim)
        .ask("Maintenance/Defragment", &defragment)
        .await;
    done.expect("a checkpoint");
    cluster.kill(victim);
    cluster.restart(victim).await;
    (cluster, revision)
}

async fn made_anew(cluster: &Cluster, victim: usize) {
    let server = &cluster.member(victim).server;
    eventually(MADE_ANEW, || server.log().contains(MADE_ANEW)).await;
}

async fn no_alarm(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let all = pb::AlarmRequest::default();
    let asked: Result<pb::AlarmResponse, _> =
        cluster.client(leader).ask("Maintenance/Alarm", &all).await;
    assert_eq!(asked.expect("the alarms").alarms, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_that_the_scrub_finds_is_mended_under_load() {
    if !is_ringd() {
        return;
    }
    let victim = 0;
    let plan = Plan::of(3).setting("scrub-interval", "1s");
    let (cluster, revision) = with_cold_values(plan, victim).await;
    let id = cluster.member(victim).id();
    let leader = cluster.leader().await;
    if leader != victim {
        let moved = cluster.client(leader).move_leader(id).await;
        moved.expect("leadership");
    }
    let load = load_after(&cluster, revision);
    load.progress(50).await;
    let pid = cluster.member(victim).server.pid();
    let file = page_file(&cluster, victim);
    for place in places(&file) {
        flip(&file, place + 100);
    }
    made_anew(&cluster, victim).await;
    assert_ne!(cluster.leader().await, victim, "it handed over");
    load.progress(50).await;
    settle(&cluster, load).await;
    no_alarm(&cluster).await;
    for n in 0..KEYS {
        let read = cluster.client(victim).get_serializable(&key(n)).await;
        assert_eq!(read, Ok(Some(value(n))));
    }
    assert_eq!(cluster.member(victim).server.pid(), pid);
    // What it has now outlives a restart.
    let mut cluster = cluster;
    cluster.kill(victim);
    cluster.restart(victim).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_need_a_rotten_page_wait_for_a_whole_one() {
    if !is_ringd() {
        return;
    }
    let victim = 0;
    let (cluster, _) = with_cold_values(Plan::of(3), victim).await;
    let file = page_file(&cluster, victim);
    for place in places(&file) {
        flip(&file, place + 100);
    }
    let through = cluster.others(victim)[0];
    for n in 0..KEYS {
        // Whoever applies this reads the value before.
        let put = pb::PutRequest {
            key: key(n).into_bytes().into(),
            value: b"new".to_vec().into(),
            prev_kv: true,
            ..Default::default()
        };
        let answer: Result<pb::PutResponse, _> = cluster.client(through).ask("KV/Put", &put).await;
        let before = answer.expect("a put").prev_kv.expect("the value before");
        assert_eq!(before.value, value(n).into_bytes());
    }
    made_anew(&cluster, victim).await;
    cluster.agree().await;
    no_alarm(&cluster).await;
    assert_eq!(
        cluster.client(victim).get(&key(3)).await,
        Ok(Some("new".to_owned()))
    );
}
