//! A follower is so far behind that the log no longer has what it misses.

use std::time::Duration;

use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::load::Load;
use ringd_tests::proxy::Link;
use ringd_tests::random::seed;
use ringd_tests::server::is_ringd;

use super::{cycles, load, pause_ms, settle};

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

/// Writes until the log no longer begins where a member that is down stopped.
async fn leave_behind(cluster: &Cluster, left: usize) {
    let (count, bytes) = if is_ringd() { LARGE } else { MANY };
    let leader = cluster.leader().await;
    let writers = (0..AT_ONCE).map(|writer| {
        let client = cluster.client(leader);
        tokio::spawn(async move {
            for n in 0..count / AT_ONCE {
                let key = format!("large/{}", (writer + n * AT_ONCE) % KEYS);
                let value = "x".repeat(bytes);
                client.put(&key, &value).await.expect("a put");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("all puts succeed");
    }
    let others = cluster.running();
    assert!(!others.contains(&left));
    let revision = cluster.agree_now().await;
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
}

/// A defragmentation writes everything back, after which old parts of the log go.
async fn checkpoint(client: &Client) {
    let done: Result<pb::DefragmentResponse, _> =
        client.ask("Maintenance/Defragment", &pb::DefragmentRequest {}).await;
    done.expect("a defragmentation");
}
