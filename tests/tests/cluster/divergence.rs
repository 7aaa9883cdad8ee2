//! Members whose data is wrong although their log is right: they find out by comparing what they made of it.

use std::path::Path;
use std::sync::Arc;

use engine::page::{Options as PageOptions, Pages, RealFile};
use engine::store::{ApplyError, Options as StoreOptions, Store};
use proto::etcdserverpb::{self as pb, InternalRaftRequest};
use ringd_tests::client::Client;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::model::Refusal;
use ringd_tests::server::{is_ringd, PATIENCE};

use super::{load, refusal};

const DATA_LOSS: i32 = 15;

/// Has the store of a member that is down take another entry for the next one of its log, with checksums that are right: what
/// a defect of the program would have done.
fn lead_astray(cluster: &Cluster, index: usize) {
    let path = cluster.member(index).data_dir().join("member/store.pages");
    let mut store = open_store(&path);
    let (applied, term) = store.applied();
    let request = InternalRaftRequest {
        put: Some(pb::PutRequest {
            key: b"astray".to_vec().into(),
            value: b"only here".to_vec().into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    while let Err(ApplyError::Miss(miss)) = store.apply(applied + 1, term, Some(&request), 0) {
        let pages = store.pages_mut();
        let job = pages.fetch_job(&miss).expect("absent pages");
        pages.fetch_done(job.run()).expect("pages that can be read");
    }
    let mark = store.log_mark().clone();
    let job = store.begin_checkpoint(mark).expect("no other checkpoint");
    job.run().expect("a checkpoint");
}

fn open_store(path: &Path) -> Store {
    let file = RealFile::open_or_create(path).expect("the page file");
    let opened = Pages::open(Arc::new(file), PageOptions::default()).expect("whole pages");
    let meta = opened.meta.expect("a checkpoint");
    Store::open(opened.pages, &meta, StoreOptions::default()).expect("a store")
}

async fn alarms(client: &Client) -> Result<Vec<pb::AlarmMember>, Refusal> {
    let all = pb::AlarmRequest::default();
    let asked: Result<pb::AlarmResponse, _> = client.ask("Maintenance/Alarm", &all).await;
    asked.map(|response| response.alarms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_with_other_data_stops_and_the_others_go_on() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    load.progress(100).await;
    let leader = cluster.leader().await;
    let victim = cluster.others(leader)[0];
    cluster.kill(victim);
    lead_astray(&cluster, victim);
    cluster.boot(victim);
    let status = cluster.member_mut(victim).server.exit().await;
    assert!(!status.success());
    let log = cluster.member(victim).server.log();
    assert!(
        log.contains("this member's data differs from that of most members"),
        "{log}"
    );
    // Whether the others say so as well depends on who asked first: one that finds out from what it is told is gone at once.
    load.progress(100).await;
    drop(load.stop().await);
    cluster.agree().await;
    assert_eq!(alarms(&cluster.client(leader)).await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_differ_raise_the_alarm_and_stay() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(2)).await;
    let load = load(&cluster);
    load.progress(100).await;
    drop(load.stop().await);
    let victim = cluster.leader().await;
    cluster.kill(victim);
    lead_astray(&cluster, victim);
    cluster.boot(victim);
    let end = std::time::Instant::now() + PATIENCE;
    let raised = loop {
        // Not before the process serves.
        let raised = alarms(&cluster.client(victim)).await;
        if raised.as_ref().is_ok_and(|raised| !raised.is_empty()) {
            break raised;
        }
        assert!(std::time::Instant::now() < end, "no alarm: {raised:?}");
        tokio::time::sleep(ringd_tests::server::POLL).await;
    };
    let corrupt = pb::AlarmMember {
        member_id: 0,
        alarm: pb::AlarmType::Corrupt as i32,
    };
    assert_eq!(raised, Ok(vec![corrupt]));
    for index in 0..2 {
        let refused = cluster.client(index).put("k", "v").await;
        let expected = refusal(DATA_LOSS, "etcdserver: corrupt cluster");
        assert_eq!(refused, Err(expected), "m{index}");
        let server = &cluster.member(index).server;
        assert!(server.log().contains("no majority says which one is right"));
        assert!(cluster.running().contains(&index));
    }
}
