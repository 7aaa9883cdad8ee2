//! Lock and Election.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::{v3electionpb as election, v3lockpb as lock};
use ringd_tests::server::PATIENCE;
use tonic::Code;

use super::{bytes, refused, revision, Etcd, SILENCE};

fn lock_request(lease: i64) -> lock::LockRequest {
    lock::LockRequest {
        name: bytes("m"),
        lease,
    }
}

#[tokio::test]
async fn a_lock_is_handed_on_in_the_order_of_asking() {
    let mut etcd = Etcd::fresh().await;
    for lease in [7000, 7001] {
        etcd.grant(lease, 600).await;
    }
    let first = etcd.lock.lock(lock_request(7000)).await.expect("a lock");
    let first = first.into_inner();
    assert_eq!(first.key, bytes("m/1b58"));
    let mut second_client = etcd.lock.clone();
    let second = tokio::spawn(async move { second_client.lock(lock_request(7001)).await });
    tokio::time::sleep(SILENCE).await;
    assert!(!second.is_finished(), "two owners");
    let again = etcd.lock.lock(lock_request(7000)).await.expect("the same");
    assert_eq!(again.into_inner().key, first.key);
    let unlock = lock::UnlockRequest { key: first.key };
    etcd.lock.unlock(unlock.clone()).await.expect("an unlock");
    let second = tokio::time::timeout(PATIENCE, second).await;
    let second = second.expect("in time").expect("no panic").expect("a lock");
    assert_eq!(second.into_inner().key, bytes("m/1b59"));
    etcd.lock
        .unlock(unlock)
        .await
        .expect("an absent one is fine");
}

#[tokio::test]
async fn a_lock_ends_with_its_lease() {
    let mut etcd = Etcd::fresh().await;
    for lease in [1, 2] {
        etcd.grant(lease, 600).await;
    }
    etcd.lock.lock(lock_request(1)).await.expect("a lock");
    let mut client = etcd.lock.clone();
    let waiting = tokio::spawn(async move { client.lock(lock_request(2)).await });
    tokio::time::sleep(SILENCE).await;
    let revoke = pb::LeaseRevokeRequest { id: 1 };
    etcd.lease.lease_revoke(revoke).await.expect("a revocation");
    let won = tokio::time::timeout(PATIENCE, waiting).await;
    won.expect("in time").expect("no panic").expect("a lock");
}

#[tokio::test]
async fn lock_errors_have_no_code_of_their_own() {
    let mut etcd = Etcd::fresh().await;
    refused(
        etcd.lock.lock(lock_request(404)).await,
        Code::Unknown,
        "etcdserver: requested lease not found",
    );
    let empty = lock::UnlockRequest { key: Bytes::new() };
    refused(
        etcd.lock.unlock(empty).await,
        Code::Unknown,
        "etcdserver: key is not provided",
    );
    let own = etcd
        .lock
        .lock(lock_request(0))
        .await
        .expect("a lease of its own");
    assert!(own.into_inner().key.starts_with(b"m/"));
}

fn campaign(lease: i64, value: &str) -> election::CampaignRequest {
    election::CampaignRequest {
        name: bytes("e"),
        lease,
        value: bytes(value),
    }
}

fn of_e() -> election::LeaderRequest {
    election::LeaderRequest { name: bytes("e") }
}

async fn observed(
    observer: &mut tonic::Streaming<election::LeaderResponse>,
) -> election::LeaderResponse {
    let message = tokio::time::timeout(PATIENCE, observer.message()).await;
    let message = message.expect("a leader is told in time");
    message.expect("a stream").expect("a leader")
}

#[tokio::test]
async fn an_election_from_campaign_to_resignation() {
    let mut etcd = Etcd::fresh().await;
    for lease in [1, 2] {
        etcd.grant(lease, 600).await;
    }
    refused(
        etcd.election.leader(of_e()).await,
        Code::Unknown,
        "election: no leader",
    );
    // The stream answers only once there is a leader, so it is awaited beside the campaign.
    let mut client = etcd.election.clone();
    let observing = tokio::spawn(async move { client.observe(of_e()).await });
    let won = etcd
        .election
        .campaign(campaign(1, "one"))
        .await
        .expect("a leader");
    let leader = won.into_inner().leader.expect("a key");
    assert_eq!(
        (leader.key.clone(), leader.rev, leader.lease),
        (bytes("e/1"), 2, 1)
    );
    let observing = tokio::time::timeout(PATIENCE, observing).await;
    let observing = observing.expect("in time").expect("no panic");
    let mut observer = observing.expect("a stream").into_inner();
    let seen = observed(&mut observer).await;
    assert_eq!(seen.kv.expect("a record").value, bytes("one"));

    let mut client = etcd.election.clone();
    let waiting = tokio::spawn(async move { client.campaign(campaign(2, "two")).await });
    tokio::time::sleep(SILENCE).await;
    assert!(!waiting.is_finished(), "two leaders");

    let proclaim = |leader: Option<election::LeaderKey>| election::ProclaimRequest {
        leader,
        value: bytes("uno"),
    };
    let said = etcd.election.proclaim(proclaim(Some(leader.clone()))).await;
    said.expect("a proclamation");
    let seen = observed(&mut observer).await;
    assert_eq!(seen.kv.expect("a record").value, bytes("uno"));
    let now = etcd
        .election
        .leader(of_e())
        .await
        .expect("a leader")
        .into_inner();
    assert_eq!(now.kv.expect("a record").value, bytes("uno"));

    let resign = election::ResignRequest {
        leader: Some(leader.clone()),
    };
    let resigned = etcd
        .election
        .resign(resign.clone())
        .await
        .expect("a resignation");
    let after = revision(&resigned.into_inner().header);
    let won = tokio::time::timeout(PATIENCE, waiting).await;
    let won = won.expect("in time").expect("no panic").expect("a leader");
    assert!(
        revision(&won.into_inner().header) < after,
        "of its first txn"
    );
    let seen = observed(&mut observer).await;
    assert_eq!(seen.kv.expect("a record").value, bytes("two"));

    let late = etcd.election.proclaim(proclaim(Some(leader))).await;
    refused(late, Code::Unknown, "election: not leader");
    etcd.election.resign(resign).await.expect("twice is fine");
    let missing = "\"leader\" field must be provided";
    refused(
        etcd.election.proclaim(proclaim(None)).await,
        Code::Unknown,
        missing,
    );
    let nobody = election::ResignRequest { leader: None };
    refused(etcd.election.resign(nobody).await, Code::Unknown, missing);
}

/// The lease of the record under a key, 0 if it has none.
async fn lease_of(etcd: &mut Etcd, key: &bytes::Bytes) -> i64 {
    let request = pb::RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let answer = etcd.kv.range(request).await.expect("a range").into_inner();
    answer.kvs.first().expect("a record").lease
}

async fn leases(etcd: &mut Etcd) -> Vec<i64> {
    let answer = etcd.lease.lease_leases(pb::LeaseLeasesRequest {}).await;
    let leases = answer.expect("the leases").into_inner().leases;
    leases.iter().map(|lease| lease.id).collect()
}

#[tokio::test]
async fn a_leader_without_a_lease_is_given_one() {
    let mut etcd = Etcd::fresh().await;
    etcd.grant(1, 600).await;
    let won = etcd.election.campaign(campaign(1, "one")).await;
    let won = won.expect("a leader").into_inner().leader.expect("a key");
    let leader = election::LeaderKey { lease: 0, ..won };
    let proclaim = |rev: i64| election::ProclaimRequest {
        leader: Some(election::LeaderKey {
            rev,
            ..leader.clone()
        }),
        value: bytes("uno"),
    };
    let said = etcd.election.proclaim(proclaim(leader.rev)).await;
    said.expect("a proclamation");
    let given = lease_of(&mut etcd, &leader.key).await;
    assert!(given > 1, "the key has lease {given}");
    let request = pb::LeaseTimeToLiveRequest {
        id: given,
        keys: true,
    };
    let told = etcd.lease.lease_time_to_live(request).await;
    let told = told.expect("a lease").into_inner();
    assert_eq!(
        (told.granted_ttl, told.keys),
        (60, vec![leader.key.clone()])
    );
    assert_eq!(leases(&mut etcd).await.len(), 2);
    // The lease comes before the question whether the caller leads.
    refused(
        etcd.election.proclaim(proclaim(leader.rev + 100)).await,
        Code::Unknown,
        "election: not leader",
    );
    assert_eq!(leases(&mut etcd).await.len(), 3);
    let resign = election::ResignRequest {
        leader: Some(leader),
    };
    etcd.election.resign(resign).await.expect("a resignation");
    assert_eq!(leases(&mut etcd).await.len(), 4);
    refused(
        etcd.election.leader(of_e()).await,
        Code::Unknown,
        "election: no leader",
    );
}
