//! Leases.

use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use ringd_tests::server::PATIENCE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use super::{bytes, put, refused, revision, Etcd};

const NOT_FOUND: &str = "etcdserver: requested lease not found";

async fn put_with(etcd: &mut Etcd, key: &str, lease: i64) {
    let request = pb::PutRequest {
        lease,
        ..put(key, "v")
    };
    etcd.kv.put(request).await.expect("a put");
}

async fn time_to_live(etcd: &mut Etcd, id: i64) -> pb::LeaseTimeToLiveResponse {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    let answer = etcd.lease.lease_time_to_live(request).await;
    let mut answer = answer.expect("a time to live").into_inner();
    answer.keys.sort();
    answer
}

/// Sends keep-alives on one stream and gives the answers.
async fn keep_alive(etcd: &mut Etcd, ids: &[i64]) -> Vec<pb::LeaseKeepAliveResponse> {
    let (send, requests) = mpsc::unbounded_channel();
    for id in ids {
        send.send(pb::LeaseKeepAliveRequest { id: *id })
            .expect("the other end is held here");
    }
    drop(send);
    let stream = etcd
        .lease
        .lease_keep_alive(UnboundedReceiverStream::new(requests));
    let mut stream = stream.await.expect("a stream").into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await.expect("a good end") {
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn grant_takes_an_id_or_chooses_one() {
    let mut etcd = Etcd::fresh().await;
    let given = etcd.grant(-5, 600).await;
    assert_eq!((given.id, given.ttl, revision(&given.header)), (-5, 600, 1));
    let chosen = etcd.grant(0, 600).await;
    assert!(chosen.id > 0);
    assert_ne!(etcd.grant(0, 600).await.id, chosen.id);
    let again = pb::LeaseGrantRequest { ttl: 10, id: -5 };
    refused(
        etcd.lease.lease_grant(again).await,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
}

#[tokio::test]
async fn grant_has_a_shortest_and_a_longest_time() {
    let mut etcd = Etcd::fresh().await;
    assert_eq!(etcd.grant(1, 0).await.ttl, 2);
    assert_eq!(etcd.grant(2, -9).await.ttl, 2);
    assert_eq!(etcd.grant(3, 9_000_000_000).await.ttl, 9_000_000_000);
    let request = pb::LeaseGrantRequest {
        ttl: 9_000_000_001,
        id: 4,
    };
    refused(
        etcd.lease.lease_grant(request).await,
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
    );
}

#[tokio::test]
async fn revoke_deletes_the_keys_in_one_revision() {
    let mut etcd = Etcd::fresh().await;
    etcd.grant(7, 600).await;
    for key in ["b", "a", "c"] {
        put_with(&mut etcd, key, 7).await;
    }
    let request = pb::LeaseRevokeRequest { id: 7 };
    let answer = etcd
        .lease
        .lease_revoke(request)
        .await
        .expect("a revocation");
    assert_eq!(revision(&answer.into_inner().header), 5);
    assert_eq!(etcd.get("\0", "\0").await.count, 0);
    refused(
        etcd.lease.lease_revoke(request).await,
        Code::NotFound,
        NOT_FOUND,
    );
    etcd.grant(8, 600).await;
    let empty = pb::LeaseRevokeRequest { id: 8 };
    let answer = etcd.lease.lease_revoke(empty).await.expect("a revocation");
    assert_eq!(
        revision(&answer.into_inner().header),
        5,
        "nothing was deleted"
    );
}

#[tokio::test]
async fn a_put_moves_or_ends_the_attachment() {
    let mut etcd = Etcd::fresh().await;
    etcd.grant(1, 600).await;
    etcd.grant(2, 600).await;
    put_with(&mut etcd, "k", 1).await;
    put_with(&mut etcd, "l", 1).await;
    put_with(&mut etcd, "k", 2).await;
    assert_eq!(time_to_live(&mut etcd, 1).await.keys, [bytes("l")]);
    assert_eq!(time_to_live(&mut etcd, 2).await.keys, [bytes("k")]);
    etcd.put("l", "free").await;
    assert!(time_to_live(&mut etcd, 1).await.keys.is_empty());
    let keeping = pb::PutRequest {
        ignore_lease: true,
        ..put("k", "new")
    };
    etcd.kv.put(keeping).await.expect("a put");
    assert_eq!(time_to_live(&mut etcd, 2).await.keys, [bytes("k")]);
}

#[tokio::test]
async fn unknown_leases() {
    let mut etcd = Etcd::fresh().await;
    let answers = keep_alive(&mut etcd, &[404]).await;
    assert_eq!((answers[0].id, answers[0].ttl), (404, 0));
    let answer = time_to_live(&mut etcd, 404).await;
    assert_eq!((answer.ttl, answer.granted_ttl), (-1, 0));
    let request = pb::PutRequest {
        lease: 404,
        ..put("k", "v")
    };
    refused(etcd.kv.put(request).await, Code::NotFound, NOT_FOUND);
}

#[tokio::test]
async fn keep_alive_tells_the_granted_time_and_time_to_live_the_rest() {
    let mut etcd = Etcd::fresh().await;
    etcd.grant(7, 600).await;
    etcd.put("k", "v").await;
    let answers = keep_alive(&mut etcd, &[7, 7, 404]).await;
    let told: Vec<_> = answers.iter().map(|a| (a.id, a.ttl)).collect();
    assert_eq!(told, [(7, 600), (7, 600), (404, 0)]);
    assert!(answers.iter().all(|a| revision(&a.header) == 2));
    let rest = time_to_live(&mut etcd, 7).await;
    assert_eq!(rest.granted_ttl, 600);
    assert!((590..=600).contains(&rest.ttl), "{}", rest.ttl);
}

#[tokio::test]
async fn leases_are_listed_by_their_ends() {
    let mut etcd = Etcd::fresh().await;
    for (id, ttl) in [(1, 900), (2, 300), (3, 600)] {
        etcd.grant(id, ttl).await;
    }
    let answer = etcd.lease.lease_leases(pb::LeaseLeasesRequest {}).await;
    let leases = answer.expect("a list").into_inner().leases;
    let ids: Vec<_> = leases.iter().map(|l| l.id).collect();
    assert_eq!(ids, [2, 3, 1]);
}

#[tokio::test]
async fn expiry_deletes_all_keys_at_once_and_not_early() {
    let mut etcd = Etcd::fresh().await;
    let started = Instant::now();
    etcd.grant(7, 2).await;
    put_with(&mut etcd, "a", 7).await;
    put_with(&mut etcd, "b", 7).await;
    let end = Instant::now() + PATIENCE;
    loop {
        let left = etcd.get("\0", "\0").await;
        if left.count == 0 {
            assert_eq!(revision(&left.header), 4, "one revision for both");
            break;
        }
        assert_eq!(left.count, 2, "both or none");
        assert!(Instant::now() < end, "the lease does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(2), "too early");
    assert_eq!(time_to_live(&mut etcd, 7).await.ttl, -1);
}

#[tokio::test]
async fn keep_alives_keep_a_lease() {
    let mut etcd = Etcd::fresh().await;
    etcd.grant(7, 2).await;
    put_with(&mut etcd, "k", 7).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let answers = keep_alive(&mut etcd, &[7]).await;
        assert_eq!(answers[0].ttl, 2, "lost after {:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(etcd.get("k", "").await.count, 1);
}
