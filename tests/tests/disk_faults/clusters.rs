//! Three members: a disk that hangs costs the others nothing, and a leader its leadership.

use std::time::{Duration, Instant};

use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::server::PATIENCE;

use super::Control;

/// The default election timeout.
const ELECTION: Duration = Duration::from_secs(1);
/// What a loaded machine may add to it.
const SLACK: Duration = Duration::from_secs(4);
/// Between two rounds of calls.
const PACE: Duration = Duration::from_millis(50);
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Three members, each with a disk of its own to control.
async fn start() -> Option<(Cluster, Vec<Control>)> {
    let controls: Vec<Control> = (0..3).map_while(|_| Control::new()).collect();
    if controls.len() < 3 {
        return None;
    }
    let mut cluster = Cluster::prepared(Plan::of(3)).await;
    for (index, control) in controls.iter().enumerate() {
        let server = &mut cluster.member_mut(index).server;
        *server.setup_mut() = control.over(server.setup_mut().clone());
        cluster.boot(index);
    }
    cluster.all_ready().await.expect("the cluster starts");
    Some((cluster, controls))
}

fn client(cluster: &Cluster, index: usize) -> Client {
    cluster.client(index).deadline(CALL_DEADLINE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_flush_hangs_costs_nobody_anything() {
    let Some((cluster, controls)) = start().await else {
        return;
    };
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.raft_term;
    let stalled = cluster.others(leader)[0];
    let writer = client(&cluster, leader);
    writer.put("k", "v").await.expect("a put");
    controls[stalled].say("log.flush stall");
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut puts = 0;
    while begun.elapsed() < 3 * ELECTION {
        // Not too many: a leader has no more than 512 messages under way to a member that answers none.
        tokio::time::sleep(PACE).await;
        let asked = Instant::now();
        writer.put("k", &puts.to_string()).await.expect("a put");
        slowest = slowest.max(asked.elapsed());
        // Its own clients are served, too.
        let through = client(&cluster, stalled);
        through.put("f", &puts.to_string()).await.expect("a put");
        let seen = through.get("f").await;
        assert_eq!(seen, Ok(Some(puts.to_string())));
        puts += 1;
    }
    assert!(slowest < ELECTION, "a put took {slowest:?}");
    assert!(puts > 10, "{puts} puts");
    let status = cluster.status(leader).await;
    assert_eq!(status.raft_term, term, "an election for nothing");
    controls[stalled].calm();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_flush_hangs_hands_over() {
    let Some((cluster, controls)) = start().await else {
        return;
    };
    let old = cluster.leader().await;
    let term = cluster.status(old).await.raft_term;
    let rest = cluster.others(old);
    let writer = client(&cluster, rest[0]);
    writer.put("k", "v").await.expect("a put");
    controls[old].say("log.flush stall");
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut moved = None;
    let mut puts = 0;
    while begun.elapsed() < 3 * ELECTION || moved.is_none() {
        assert!(begun.elapsed() < PATIENCE, "leadership did not move");
        let asked = Instant::now();
        writer.put("k", &puts.to_string()).await.expect("a put");
        slowest = slowest.max(asked.elapsed());
        puts += 1;
        let status = cluster.status(rest[0]).await;
        if moved.is_none() && status.leader != 0 && status.leader != cluster.member(old).id() {
            moved = Some(begun.elapsed());
        }
    }
    let moved = moved.expect("it has moved");
    assert!(moved < ELECTION / 2 + SLACK, "moved after {moved:?}");
    assert!(slowest < SLACK, "a put took {slowest:?}");
    let status = cluster.status(rest[0]).await;
    assert_eq!(status.raft_term, term + 1, "one transfer");
    // Clients of the member whose disk hangs are served.
    let through = client(&cluster, old);
    through.put("o", "v").await.expect("a put");
    assert_eq!(through.get("o").await, Ok(Some("v".to_owned())));
    controls[old].calm();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_flush_fails_ends_and_the_rest_goes_on() {
    let Some((mut cluster, controls)) = start().await else {
        return;
    };
    let old = cluster.leader().await;
    let rest = cluster.others(old);
    cluster.eventually_put(rest[0], "k", "before").await;
    controls[old].say("log.flush fail=EIO");
    let begun = Instant::now();
    cluster.eventually_put(rest[0], "k", "after").await;
    let status = cluster.member_mut(old).server.exit().await;
    assert!(!status.success());
    let log = cluster.member(old).server.log();
    for word in [".wal", "offset", "os error 5"] {
        assert!(log.contains(word), "no word of {word}");
    }
    cluster.leader_of(&rest).await;
    cluster.eventually_put(rest[1], "k", "again").await;
    println!("service again after {:?}", begun.elapsed());
    controls[old].calm();
    cluster.restart(old).await;
    cluster.agree().await;
}
