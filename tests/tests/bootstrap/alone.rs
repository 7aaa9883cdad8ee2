//! `--force-new-cluster` with the real binary.

use super::{field, put, values};
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::server::{Server, Setup};

const KEYS: usize = 50;
const LEASE: i64 = 4711;

#[tokio::test]
async fn the_last_member_of_a_lost_cluster_goes_on_alone() {
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let client = cluster.client(0);
    client.grant(LEASE, 1000).await.expect("a lease");
    client
        .put_with("leased", "value", LEASE)
        .await
        .expect("a put");
    for key in 0..KEYS {
        client
            .put(&format!("key{key}"), "value")
            .await
            .expect("a put");
    }
    // All have it in their logs then; that the last of it is committed need not be written there.
    cluster.agree().await;
    for member in 0..3 {
        cluster.kill(member);
    }
    const LEFT: usize = 1;
    let before = cluster.member(LEFT).id();
    let plain = cluster.member_mut(LEFT).server.setup_mut().clone();
    let forced = plain.clone().flags(["--force-new-cluster"]);
    *cluster.member_mut(LEFT).server.setup_mut() = forced;
    cluster.was_removed(0);
    cluster.was_removed(2);
    cluster.restart(LEFT).await;

    let client = cluster.client(LEFT);
    let status = client.status().await.expect("a status");
    assert_eq!(
        (status.header.expect("a header").member_id, status.leader),
        (before, before)
    );
    let members = client.members(true).await.expect("the members");
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(members[0].peer_ur_ls, [cluster.member(LEFT).peer_url()]);
    let left = client.time_to_live(LEASE).await.expect("the lease");
    assert_eq!(left.granted_ttl, 1000);
    for key in (0..KEYS)
        .map(|key| format!("key{key}"))
        .chain(["leased".into()])
    {
        let value = client.get(&key).await.expect("a get");
        assert_eq!(value.as_deref(), Some("value"), "{key}");
    }
    client.put("after", "value").await.expect("a put");

    // It stays so without the flag, and grows again.
    cluster.kill(LEFT);
    *cluster.member_mut(LEFT).server.setup_mut() = plain;
    cluster.restart(LEFT).await;
    let members = cluster
        .client(LEFT)
        .members(true)
        .await
        .expect("the members");
    assert_eq!((members.len(), members[0].id), (1, before));
    let added = cluster.add(LEFT, false).await;
    cluster.ready(added).await.expect("a second member");
    let value = cluster.client(added).get("after").await.expect("a get");
    assert_eq!(value.as_deref(), Some("value"));
    cluster.agree().await;
}

/// A member that the forced one removed learns of it, with its old data or without.
#[tokio::test]
async fn a_member_that_was_left_behind_ends() {
    let mut cluster = Cluster::start(Plan::of(2)).await;
    cluster.client(0).put("key", "value").await.expect("a put");
    cluster.agree().await;
    cluster.kill(0);
    cluster.kill(1);
    let setup = cluster.member_mut(0).server.setup_mut();
    *setup = setup.clone().flags(["--force-new-cluster"]);
    cluster.restart(0).await;
    cluster.boot(1);
    let server = &mut cluster.member_mut(1).server;
    let status = server.exit().await;
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
}

#[tokio::test]
async fn a_member_that_is_alone_already_stays_as_it_is() {
    let mut server = Server::fresh().await;
    put(&server, "key-a", "1").await;
    put(&server, "key-b", "2").await;
    // Not a clean stop: the last put's commit index is not in the log.
    server.kill();
    *server.setup_mut() = Setup::default().flags(["--force-new-cluster"]);
    server.restart().await;
    let id = field(&server, "forcing restart member", "local-member-id").await;
    assert_eq!(
        id,
        field(&server, "starting local member", "local-member-id").await
    );
    let all = values(&server, "key-").await;
    assert_eq!(
        all,
        [("key-a".into(), "1".into()), ("key-b".into(), "2".into())]
    );
}
