//! A follower is so far behind that the log no longer has what it misses.

use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::proxy::Link;
use ringd_tests::random::seed;
use ringd_tests::server::is_ringd;

use super::{cycles, load_after, pause_ms, settle};

/// ringd keeps some log segments of 64 MiB for followers, so that it takes megabytes to be behind; etcd some thousand entries.
const LARGE: (usize, usize) = (280, 1 << 20);
const MANY: (usize, usize) = (6000, 10);
const KEYS: usize = 16;
const AT_ONCE: usize = 8;

fn plan() -> Plan {
    match is_ringd() {
        true => Plan::of(3).network(),
        false => Plan::of(3).network().setting("snapshot-count", "100"),
    }
}

/// Writes until the log no longer begins where a member that is down stopped; gives the revision at the end.
async fn leave_behind(cluster: &Cluster, left: usize) -> i64 {
    let (count, bytes) = if is_ringd() { LARGE } else { MANY };
    let leader = cluster.leader().await;
    let writers = (0..AT_ONCE).map(|writer| {
        let client = cluster.client(leader);
        tokio::spawn(async move {
            for n in 0..count / AT_ONCE {
                let key = format!("large/{}", (writer + n * AT_ONCE) % KEYS);
                let value = "x".repeat(bytes);
                while let Err(refusal) = client.put(&key, &value).await {
                    // So fast that the log's next segment is not there yet.
                    assert_eq!(refusal.message, "etcdserver: too many requests");
                    pause_ms(20).await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("all puts succeed");
    }
    let others = cluster.running();
    assert!(!others.contains(&left));
    let revision = cluster.agree().await;
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    let done: Result<pb::CompactionResponse, _> =
        cluster.client(leader).ask("KV/Compact", &request).await;
    done.expect("a compaction");
    for index in others {
        checkpoint(&cluster.client(index)).await;
    }
    revision
}

/// A defragmentation writes everything back, after which old parts of the log go.
async fn checkpoint(client: &Client) {
    let done: Result<pb::DefragmentResponse, _> = client
        .ask("Maintenance/Defragment", &pb::DefragmentRequest {})
        .await;
    done.expect("a defragmentation");
}

/// How often a member says that it took a snapshot over.
fn installed(cluster: &Cluster, index: usize) -> usize {
    let log = cluster.member(index).server.log();
    let text = match is_ringd() {
        true => "installed a snapshot",
        false => "applied snapshot",
    };
    log.matches(text).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_gets_a_snapshot_while_others_write() {
    let mut cluster = Cluster::start(plan()).await;
    let leader = cluster.leader().await;
    let left = cluster.others(leader)[0];
    cluster.kill(left);
    let revision = leave_behind(&cluster, left).await;
    let load = load_after(&cluster, revision);
    load.progress(20).await;
    cluster.restart(left).await;
    assert_eq!(installed(&cluster, left), 1, "it caught up by the log");
    let seen = cluster.client(left).get_serializable("large/0").await;
    assert!(seen.is_ok_and(|value| value.is_some()));
    load.progress(20).await;
    cluster.kill(left);
    cluster.restart(left).await;
    settle(&cluster, load).await;
}

/// The connection breaks again and again, and the receiver is killed, while a snapshot is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_survives_broken_connections_and_kills() {
    let mut rng = StdRng::seed_from_u64(seed(51));
    let mut cluster = Cluster::start(plan()).await;
    let leader = cluster.leader().await;
    let left = cluster.others(leader)[0];
    cluster.kill(left);
    let revision = leave_behind(&cluster, left).await;
    let load = load_after(&cluster, revision);
    let others = cluster.others(left);
    for _ in 0..cycles("RINGD_KILL_CYCLES", 6) {
        cluster.boot(left);
        for _ in 0..rng.random_range(0..3) {
            pause_ms(rng.random_range(0..400)).await;
            cluster.network().divide(&[left], &others, Link::Cut);
            pause_ms(rng.random_range(0..100)).await;
            cluster.network().heal();
        }
        pause_ms(rng.random_range(0..600)).await;
        cluster.kill(left);
    }
    cluster.restart(left).await;
    settle(&cluster, load).await;
}
