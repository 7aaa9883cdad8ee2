//! What a client may ask any member of a healthy cluster.

use std::time::Instant;

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::mvccpb::event::EventType;
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::server::{is_ringd, PATIENCE};
use ringd_tests::transport::Stream;

use super::{load, pause_ms, refusal, settle, FAILED_PRECONDITION};

const RESOURCE_EXHAUSTED: i32 = 8;

/// The next events of a watch, as `(mod_revision, key, is_put)`.
pub async fn events(stream: &mut Stream, count: usize) -> Vec<(i64, String, bool)> {
    let mut events = Vec::new();
    while events.len() < count {
        let message = stream.next(PATIENCE).await.expect("an event in time");
        let message = message.unwrap_or_else(|end| panic!("the watch ended: {end:?}"));
        let message = pb::WatchResponse::decode(message).expect("a watch response");
        assert!(!message.canceled, "{message:?}");
        for event in message.events {
            let kv = event.kv.expect("an event has a key");
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            events.push((kv.mod_revision, key, event.r#type == EventType::Put as i32));
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_takes_writes_and_reads_what_others_wrote() {
    let cluster = Cluster::start(Plan::of(3)).await;
    let mut watches: Vec<_> = (0..3).map(|m| cluster.client(m).watch("k", 2)).collect();
    let mut expected = Vec::new();
    for writer in 0..3 {
        let key = format!("k{writer}");
        let revision = cluster.client(writer).put(&key, "v").await.expect("a put");
        expected.push((revision, key.clone(), true));
        for reader in 0..3 {
            let seen = cluster.client(reader).get(&key).await;
            assert_eq!(seen, Ok(Some("v".to_owned())), "m{reader} after m{writer}");
        }
    }
    cluster.agree().await;
    for member in 0..3 {
        let seen = cluster.client(member).get_serializable("k2").await;
        assert_eq!(seen, Ok(Some("v".to_owned())));
    }
    for writer in 0..3 {
        let client = cluster.client(writer);
        let put = pb::request_op::Request::RequestPut(pb::PutRequest {
            key: "k-txn".into(),
            value: "v".into(),
            ..Default::default()
        });
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(put) }],
            ..Default::default()
        };
        let answer: pb::TxnResponse = client.ask("KV/Txn", &txn).await.expect("a txn");
        assert!(answer.succeeded);
        let revision = answer.header.expect("a header").revision;
        expected.push((revision, "k-txn".to_owned(), true));
        let delete = pb::DeleteRangeRequest {
            key: format!("k{writer}").into(),
            ..Default::default()
        };
        let answer: pb::DeleteRangeResponse = client
            .ask("KV/DeleteRange", &delete)
            .await
            .expect("a deletion");
        assert_eq!(answer.deleted, 1);
        let revision = answer.header.expect("a header").revision;
        expected.push((revision, format!("k{writer}"), false));
    }
    for (member, watch) in watches.iter_mut().enumerate() {
        assert_eq!(events(watch, expected.len()).await, expected, "m{member}");
    }
    compact_through_each(&cluster).await;
}

/// A compaction that one member was asked for holds on all.
async fn compact_through_each(cluster: &Cluster) {
    for member in 0..3 {
        let request = pb::CompactionRequest {
            revision: 3 + member as i64,
            physical: true,
        };
        let client = cluster.client(member);
        let done: Result<pb::CompactionResponse, _> = client.ask("KV/Compact", &request).await;
        done.expect("a compaction");
        let again: Result<pb::CompactionResponse, _> = client.ask("KV/Compact", &request).await;
        let again = again.expect_err("it is compacted already");
        assert_eq!(
            again.message,
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_serves_leases() {
    let cluster = Cluster::start(Plan::of(3)).await;
    for granter in 0..3 {
        let id = 70 + granter as i64;
        let granted = cluster
            .client(granter)
            .grant(id, 600)
            .await
            .expect("a lease");
        assert_eq!((granted.id, granted.ttl), (id, 600));
        let key = format!("leased-{granter}");
        cluster
            .client(granter)
            .put_with(&key, "v", id)
            .await
            .expect("a put");
        for member in 0..3 {
            let client = cluster.client(member);
            assert_eq!(client.keep_alive(id).await, Ok(600), "m{member}");
            let told = client.time_to_live(id).await.expect("a time to live");
            assert_eq!((told.granted_ttl, told.keys.len()), (600, 1), "m{member}");
            assert!((590..=600).contains(&told.ttl), "m{member}: {}", told.ttl);
        }
        let revoker = (granter + 1) % 3;
        cluster
            .client(revoker)
            .revoke(id)
            .await
            .expect("a revocation");
        for member in 0..3 {
            let client = cluster.client(member);
            assert_eq!(client.get(&key).await, Ok(None), "m{member}");
            assert_eq!(client.keep_alive(id).await, Ok(0), "m{member}");
            assert_eq!(client.time_to_live(id).await.expect("an answer").ttl, -1);
        }
    }
    // Ends by itself on all members, whoever granted it.
    cluster.client(1).grant(80, 2).await.expect("a lease");
    cluster
        .client(2)
        .put_with("short", "v", 80)
        .await
        .expect("a put");
    let mut watch = cluster.client(0).watch("short", 0);
    assert_eq!(events(&mut watch, 1).await[0].1, "short");
    cluster.agree().await;
}

/// What a lease lost while its old leader ran counts no more, whether it stops in good order or is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_gives_each_lease_its_full_time() {
    const ID: i64 = 90;
    const TTL_S: i64 = 600;
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let leader = cluster.leader().await;
    cluster
        .client(leader)
        .grant(ID, TTL_S)
        .await
        .expect("a lease");
    let end = Instant::now() + PATIENCE;
    let left = |told: pb::LeaseTimeToLiveResponse| told.ttl;
    while left(cluster.client(leader).time_to_live(ID).await.expect("it")) > TTL_S - 4 {
        assert!(Instant::now() < end, "the lease's time does not run");
        pause_ms(100).await;
    }
    let heir = (leader + 1) % 3;
    cluster.kill(leader);
    let rest = cluster.others(leader);
    cluster.leader_of(&rest).await;
    let client = cluster.client(heir);
    // The full time and one election timeout are given from when the leader begins, so that a second may pass first.
    let told = left(client.time_to_live(ID).await.expect("it"));
    assert!(told > TTL_S - 4, "{told} s are left");
}

/// Calls that go through the leader are answered by the member that was asked, and signed by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_member_that_was_asked_signs_the_answer() {
    let cluster = Cluster::start(Plan::of(3)).await;
    let leader = cluster.leader().await;
    cluster.client(leader).grant(7, 600).await.expect("a lease");
    cluster.agree().await;
    let signer = |header: Option<pb::ResponseHeader>| header.expect("a header").member_id;
    for member in 0..3 {
        let (client, own) = (cluster.client(member), cluster.member(member).id());
        let told = client.time_to_live(7).await.expect("a time to live");
        assert_eq!(signer(told.header), own, "time to live, m{member}");
        let mut stream = client.stream("Lease/LeaseKeepAlive");
        stream.send(pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec().into());
        let renewed = stream.next(PATIENCE).await.expect("an answer in time");
        let renewed = pb::LeaseKeepAliveResponse::decode(renewed.expect("an answer"));
        let renewed = renewed.expect("a message");
        assert_eq!(
            (signer(renewed.header), renewed.ttl),
            (own, 600),
            "keep-alive, m{member}"
        );
        let read = client.range("k", false).await.expect("a read");
        assert_eq!(signer(read.header), own, "a read, m{member}");
        let granted = client.grant(100 + member as i64, 600).await;
        assert_eq!(
            signer(granted.expect("a lease").header),
            own,
            "a grant, m{member}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_is_maintained_by_itself() {
    let cluster = Cluster::start(Plan::of(3)).await;
    let leader = cluster.leader().await;
    for n in 0..20 {
        let client = cluster.client(n % 3);
        client.put(&format!("k{n}"), "v").await.expect("a put");
    }
    cluster.agree().await;
    for member in 0..3 {
        let status = cluster.status(member).await;
        let header = status.header.expect("a header");
        assert_eq!(header.member_id, cluster.member(member).id());
        assert_eq!(status.leader, cluster.member(leader).id());
        assert_eq!(status.raft_term, header.raft_term);
        assert!(status.raft_applied_index > 20 && status.raft_index >= status.raft_applied_index);
        assert!(status.db_size > 0 && !status.is_learner && status.errors.is_empty());
        let client = cluster.client(member);
        let done: Result<pb::DefragmentResponse, _> = client
            .ask("Maintenance/Defragment", &pb::DefragmentRequest {})
            .await;
        done.expect("a defragmentation");
        assert_eq!(client.get("k7").await, Ok(Some("v".to_owned())));
    }
    raise_and_lift_an_alarm(&cluster).await;
    cluster.agree().await;
}

/// An alarm of one member is everybody's.
async fn raise_and_lift_an_alarm(cluster: &Cluster) {
    let alarm = |action: pb::alarm_request::AlarmAction, member: usize| pb::AlarmRequest {
        action: action.into(),
        member_id: cluster.member(member).id(),
        alarm: pb::AlarmType::Nospace.into(),
    };
    let raise = alarm(pb::alarm_request::AlarmAction::Activate, 1);
    let client = cluster.client(1);
    let raised: pb::AlarmResponse = client
        .ask("Maintenance/Alarm", &raise)
        .await
        .expect("an alarm");
    assert_eq!(raised.alarms.len(), 1);
    for member in 0..3 {
        let client = cluster.client(member);
        let refused = client.put("k", "v").await;
        let expected = refusal(
            RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded",
        );
        assert_eq!(refused, Err(expected), "m{member}");
        let list = pb::AlarmRequest::default();
        let list: pb::AlarmResponse = client
            .ask("Maintenance/Alarm", &list)
            .await
            .expect("a list");
        assert_eq!(list.alarms, raised.alarms, "m{member}");
        let text = format!("memberID:{} alarm:NOSPACE ", cluster.member(1).id());
        assert_eq!(cluster.status(member).await.errors, [text], "m{member}");
    }
    let lift = alarm(pb::alarm_request::AlarmAction::Deactivate, 1);
    let lifted: Result<pb::AlarmResponse, _> =
        cluster.client(2).ask("Maintenance/Alarm", &lift).await;
    lifted.expect("an alarm can be lifted");
    for member in 0..3 {
        cluster.client(member).put("k", "v").await.expect("a put");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_under_load() {
    let cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    let mut watches: Vec<_> = (0..3).map(|m| cluster.client(m).watch("seen", 0)).collect();
    let mut expected = Vec::new();
    for round in 0..6 {
        let leader = cluster.leader().await;
        let target = (leader + 1) % 3;
        move_leader_errors(&cluster, leader).await;
        let id = cluster.member(target).id();
        cluster
            .client(leader)
            .move_leader(id)
            .await
            .expect("a transfer");
        // The one that was asked has seen it; the third hears of it soon.
        assert_eq!(cluster.status(leader).await.leader, id);
        let third = (leader + 2) % 3;
        let key = format!("seen-{round}");
        let revision = cluster.eventually_put(third, &key, "v").await;
        expected.push((revision, key, true));
        load.progress(20).await;
    }
    for (member, watch) in watches.iter_mut().enumerate() {
        let seen = events(watch, expected.len()).await;
        assert_eq!(seen, expected, "the watch on m{member}");
    }
    settle(&cluster, load).await;
}

async fn move_leader_errors(cluster: &Cluster, leader: usize) {
    let not_leader = refusal(FAILED_PRECONDITION, "etcdserver: not leader");
    let bad = refusal(FAILED_PRECONDITION, "etcdserver: bad leader transferee");
    let follower = (leader + 1) % 3;
    let own = cluster.member(follower).id();
    for target in [own, 1] {
        let answer = cluster.client(follower).move_leader(target).await;
        assert_eq!(answer, Err(not_leader.clone()));
    }
    let client = cluster.client(leader);
    assert_eq!(client.move_leader(1).await, Err(bad));
    let own = cluster.member(leader).id();
    assert_eq!(client.move_leader(own).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_agree_on_the_version_and_tell_it_on_the_peer_port() {
    let cluster = Cluster::start(Plan::of(3)).await;
    for member in 0..3 {
        let told = async || {
            cluster
                .member(member)
                .peer_get("/version")
                .await
                .unwrap_or_default()
        };
        let mut answer = told().await;
        let end = std::time::Instant::now() + PATIENCE;
        while !answer.contains("\"etcdcluster\":\"3.5.0\"") {
            assert!(std::time::Instant::now() < end, "{answer}");
            super::pause_ms(50).await;
            answer = told().await;
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\"etcdserver\":\"3.5."), "{answer}");
        let members = cluster
            .member(member)
            .peer_get("/members")
            .await
            .expect("an answer");
        assert!(
            members.to_lowercase().contains("x-etcd-cluster-id: "),
            "{members}"
        );
        for other in 0..3 {
            let url = cluster.member(other).peer_url();
            assert!(members.contains(url), "{members}");
        }
    }
    if is_ringd() {
        let downgrade = cluster.member(0).peer_get("/downgrade/enabled").await;
        assert!(downgrade.is_ok_and(|answer| answer.ends_with("false")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_serve_without_two_and_refuse_without_three() {
    let mut cluster = Cluster::start(Plan::of(5)).await;
    let load = load(&cluster);
    load.progress(50).await;
    let leader = cluster.leader().await;
    let killed = [leader, (leader + 1) % 5, (leader + 2) % 5];
    cluster.kill(killed[0]);
    cluster.kill(killed[1]);
    load.progress(50).await;
    let left = cluster.leader().await;
    let last = *cluster.others(left).last().expect("a third member");
    cluster.kill(last);
    let before = load.acknowledged();
    let survivor = cluster
        .client(left)
        .deadline(std::time::Duration::from_secs(3));
    assert!(
        survivor.put("k", "v").await.is_err(),
        "two of five took a write"
    );
    assert!(load.acknowledged() <= before + super::WRITERS as usize);
    for index in [killed[0], killed[1], last] {
        cluster.boot(index);
    }
    cluster.all_ready().await.expect("all serve");
    settle(&cluster, load).await;
}
