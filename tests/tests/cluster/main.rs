//! Clusters of three and five real members: what they promise while members are killed, stopped, cut off, added and removed.
//!
//! Most tests run writers (`ringd_tests::load`) that remember what they were told, and end by comparing all members with
//! one another and with that. `RINGD_SEED` repeats a run's choices, `RINGD_KILL_CYCLES`, `RINGD_PAUSE_CYCLES` and
//! `RINGD_PARTITION_CYCLES` make the repeated ones longer. `RINGD_TEST_SERVER=/path/to/etcd` runs the same against etcd.

mod clients;
mod divergence;
mod growing;
mod large_writes;
mod membership;
mod partitions;
mod pauses;
mod rebuild;
mod refetch;
mod restarts;
mod service;
mod snapshots;

use std::time::{Duration, Instant};

use ringd_tests::cluster::Cluster;
use ringd_tests::load::Load;
use ringd_tests::model::Refusal;
use ringd_tests::random::seed;

const WRITERS: u32 = 6;
const UNAVAILABLE: i32 = 14;
const FAILED_PRECONDITION: i32 = 9;
const DEADLINE_EXCEEDED: i32 = 4;

/// Writers on all members.
fn load(cluster: &Cluster) -> Load {
    load_after(cluster, 1)
}

/// Writers on all members of a cluster that has a history.
fn load_after(cluster: &Cluster, revision: i64) -> Load {
    Load::start(&cluster.clients(), WRITERS, seed(21), revision)
}

/// Ends the writers; all members must have the same history, and it must be the one that the writers were told.
async fn settle(cluster: &Cluster, load: Load) {
    let acknowledged = load.acknowledged();
    let witness = load.stop().await;
    assert!(acknowledged > 0, "nothing was written");
    cluster.leader().await;
    cluster.agree().await;
    for index in cluster.running() {
        let connection = cluster.member(index).server.connect().await;
        if let Err(why) = witness.check(&connection).await {
            panic!("m{index}: {why}");
        }
    }
    println!("{acknowledged} writes were acknowledged");
}

fn refusal(code: i32, message: &str) -> Refusal {
    Refusal {
        code,
        message: message.to_owned(),
    }
}

/// How often a test repeats what it does.
fn cycles(variable: &str, usual: u64) -> u64 {
    ringd_tests::random::amount(variable, usual)
}

fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

async fn pause_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
