//! A member's process stands still for a while (SIGSTOP, SIGCONT) and goes on as if nothing had happened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::register::Register;
use ringd_tests::server::is_ringd;
use tokio::sync::watch;

use super::{cycles, load, pause_ms, settle};

/// Shorter than a heartbeat matters, longer than an election timeout, longer than a request waits.
const PAUSES_MS: [u64; 3] = [500, 2500, 8000];

/// Whom to stop.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Leader,
    Follower,
}

/// Stops and continues; members must never answer a linearizable read with less than was acknowledged before.
async fn no_stale_read(victim: Victim) {
    let cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    for _ in 0..cycles("RINGD_PAUSE_CYCLES", 1) {
        for ms in PAUSES_MS {
            let leader = cluster.leader().await;
            let stopped = match victim {
                Victim::Leader => leader,
                Victim::Follower => cluster.others(leader)[0],
            };
            let rest = cluster.others(stopped);
            load.progress(20).await;
            cluster.member(stopped).server.signal("STOP");
            pause_ms(ms).await;
            if ms > 5000 {
                // Long enough for the others to have another leader and to go on.
                cluster.leader_of(&rest).await;
                load.progress(20).await;
            }
            let before = register.reads(stopped);
            cluster.member(stopped).server.signal("CONT");
            cluster.leader().await;
            let what = format!("m{stopped} answers reads after {ms} ms");
            ringd_tests::server::eventually(&what, || register.reads(stopped) > before + 5).await;
            let writes = register.writes();
            ringd_tests::server::eventually("writes", || register.writes() > writes + 5).await;
        }
    }
    register.stop().await;
    settle(&cluster, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_answers_no_stale_read() {
    no_stale_read(Victim::Leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_stood_still_answers_no_stale_read() {
    no_stale_read(Victim::Follower).await;
}

const TTL_S: i64 = 6;

/// Keeps a lease alive through any member that answers, and tells until when it must be alive at least.
async fn keep_alive(
    clients: Vec<Client>,
    id: i64,
    until: watch::Sender<Instant>,
    stop: watch::Receiver<bool>,
) {
    let mut member = 0;
    while !*stop.borrow() {
        let asked = Instant::now();
        let client = &clients[member % clients.len()];
        let patience = Duration::from_secs(1);
        match tokio::time::timeout(patience, client.keep_alive(id)).await {
            Ok(Ok(TTL_S)) => {
                until.send_replace(asked + Duration::from_secs(TTL_S as u64));
            }
            Ok(Ok(ttl)) => assert!(Instant::now() >= *until.borrow(), "renewed with TTL {ttl}"),
            _ => member += 1,
        }
        pause_ms(300).await;
    }
}

/// The leader stands still while a lease is kept alive through the others: the lease must outlive that, and end once nobody
/// renews it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_ends_early_when_its_leader_stood_still() {
    if !is_ringd() {
        println!("skipped: etcd before 3.5.13 ends leases early (its issue 15247)");
        return;
    }
    const ID: i64 = 77;
    let cluster = Cluster::start(Plan::of(3)).await;
    cluster.client(0).grant(ID, TTL_S).await.expect("a lease");
    cluster
        .client(0)
        .put_with("leased", "v", ID)
        .await
        .expect("a put");
    let until = watch::Sender::new(Instant::now());
    let alive_until = Arc::new(until.subscribe());
    let stop = watch::Sender::new(false);
    let keeper = keep_alive(cluster.clients(), ID, until, stop.subscribe());
    let keeper = tokio::spawn(keeper);
    for ms in [1500, 3000, 9000] {
        let leader = cluster.leader().await;
        let rest = cluster.others(leader);
        cluster.member(leader).server.signal("STOP");
        let paused = Instant::now();
        while paused.elapsed() < Duration::from_millis(ms) {
            still_there(&cluster, &rest, &alive_until).await;
            pause_ms(100).await;
        }
        cluster.member(leader).server.signal("CONT");
        let resumed = Instant::now();
        while resumed.elapsed() < Duration::from_millis(2000) {
            still_there(&cluster, &[0, 1, 2], &alive_until).await;
            pause_ms(50).await;
        }
    }
    stop.send_replace(true);
    keeper.await.expect("the lease was there");
    let client = cluster.client(1);
    let end = Instant::now() + Duration::from_secs(60);
    while client.get("leased").await.expect("a read").is_some() {
        assert!(Instant::now() < end, "the lease does not end");
        pause_ms(100).await;
    }
    cluster.agree().await;
}

/// A key must be there while its lease is alive by what its owner was told.
async fn still_there(cluster: &Cluster, members: &[usize], alive_until: &watch::Receiver<Instant>) {
    for index in members {
        let until = *alive_until.borrow();
        let client = cluster.client(*index).deadline(Duration::from_secs(3));
        if let Ok(None) = client.get("leased").await {
            let now = Instant::now();
            assert!(
                now > until,
                "m{index}: the lease ended {:?} early",
                until - now
            );
        }
    }
}
