//! Members are killed, stopped and started again under load.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::random::seed;
use ringd_tests::server::{ended_well, PATIENCE};
use ringd_tests::transport::Stream;
use ringd_tests::witness::for_a_while;

use super::{cycles, load, seconds_since, settle};

/// Kills of one member after another; every second one hits the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_members_are_killed() {
    let mut rng = StdRng::seed_from_u64(seed(31));
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    for cycle in 0..cycles("RINGD_KILL_CYCLES", 8) {
        let leader = cluster.leader().await;
        let victim = match cycle % 2 {
            0 => leader,
            _ => *cluster.others(leader).choose(&mut rng).expect("a follower"),
        };
        for_a_while(&mut rng, 50..400).await;
        cluster.kill(victim);
        if rng.random() {
            load.progress(20).await;
        } else {
            for_a_while(&mut rng, 0..500).await;
        }
        cluster.restart(victim).await;
    }
    load.progress(20).await;
    settle(&cluster, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_killed_at_once_serve_again() {
    let mut rng = StdRng::seed_from_u64(seed(32));
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    for _ in 0..cycles("RINGD_KILL_CYCLES", 4) {
        load.progress(30).await;
        for_a_while(&mut rng, 0..200).await;
        for index in 0..3 {
            cluster.kill(index);
        }
        let started = Instant::now();
        for index in 0..3 {
            cluster.boot(index);
        }
        cluster.all_ready().await.expect("all serve again");
        println!("all serve {:.1} s after the start", seconds_since(started));
    }
    settle(&cluster, load).await;
}

/// SIGTERM hands leadership over; nothing is lost, and all but the stopped member go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    for index in 0..3 {
        load.progress(30).await;
        let status = cluster.member_mut(index).server.terminate().await;
        assert!(ended_well(status), "m{index} ended with {status}");
        load.progress(30).await;
        cluster.restart(index).await;
        cluster.leader().await;
    }
    settle(&cluster, load).await;
}

/// A leader that is told to stop has another one take over first, so that writes wait for no election timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let mut cluster = Cluster::start(Plan::of(3).setting("election-timeout", "3000")).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    cluster
        .client(others[0])
        .put("k", "v")
        .await
        .expect("a put");
    let before = cluster.status(others[0]).await.raft_term;
    let client = cluster.client(others[0]);
    let started = Instant::now();
    let status = cluster.member_mut(leader).server.terminate().await;
    assert!(ended_well(status), "it ended with {status}");
    client.put("k", "w").await.expect("a put");
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2500), "a put took {took:?}");
    assert_eq!(cluster.status(others[0]).await.raft_term, before + 1);
}

/// The disk of one member is lost: removed, added again with an empty directory, it catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_is_replaced() {
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    let leader = cluster.leader().await;
    for victim in [cluster.others(leader)[0], leader] {
        load.progress(50).await;
        cluster.kill(victim);
        cluster.lose_disk(victim);
        let rest = cluster.others(victim);
        let via = cluster.leader_of(&rest).await;
        let lost = cluster.member(victim).id();
        cluster.remove(via, victim).await;
        // The same member, on the same URLs, with another id.
        let id = cluster.admit(via, victim, false).await;
        assert_ne!(id, lost);
        cluster.restart(victim).await;
        assert_eq!(
            cluster
                .status(victim)
                .await
                .header
                .expect("a header")
                .member_id,
            id
        );
        load.progress(50).await;
    }
    settle(&cluster, load).await;
}

/// A watcher of one member, which goes on behind what it has seen when the member comes back.
struct Watcher {
    stream: Stream,
    seen: Vec<(i64, String)>,
}

const END: &str = "seen/end";

impl Watcher {
    fn on(client: &Client) -> Self {
        Self {
            stream: client.watch("seen/", 1),
            seen: Vec::new(),
        }
    }

    fn resume(&mut self, client: &Client) {
        let last = self.seen.last().map_or(0, |(revision, _)| *revision);
        self.stream = client.watch("seen/", last + 1);
    }

    /// Takes what has come until nothing comes for a while, the stream ends, or the last key is there.
    async fn take(&mut self, wait: Duration) {
        while self.seen.last().is_none_or(|(_, key)| key != END) {
            let Some(Ok(message)) = self.stream.next(wait).await else {
                return;
            };
            let message = pb::WatchResponse::decode(message).expect("a watch response");
            for event in message.events {
                let kv = event.kv.expect("an event has a key");
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                self.seen.push((kv.mod_revision, key));
            }
        }
    }
}

/// Every watcher sees every revision once and in order, whatever happens to leaders and to its own member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_miss_nothing_when_leaders_are_killed() {
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let mut watchers: Vec<_> = cluster.clients().iter().map(Watcher::on).collect();
    for round in 0..3 {
        let leader = cluster.leader().await;
        for index in 0..3 {
            let key = format!("seen/{round}-{index}");
            cluster.eventually_put(index, &key, "before").await;
        }
        cluster.kill(leader);
        for index in cluster.others(leader) {
            let key = format!("seen/{round}-{index}");
            cluster.eventually_put(index, &key, "after").await;
        }
        watchers[leader].take(Duration::from_millis(200)).await;
        cluster.restart(leader).await;
        watchers[leader].resume(&cluster.client(leader));
    }
    cluster.eventually_put(0, END, "v").await;
    let mut all = Watcher::on(&cluster.client(0));
    all.take(PATIENCE).await;
    // A put that was tried again is there twice.
    assert!(all.seen.len() > 3 * 5, "{:?}", all.seen);
    for (index, watcher) in watchers.iter_mut().enumerate() {
        watcher.take(PATIENCE).await;
        assert_eq!(watcher.seen, all.seen, "the watcher of m{index}");
    }
}
