//! v3 discovery with a real server as the service.

use super::{field, lines, put, refusal, values};
use ringd::identity::{cluster_id, member_id, Salt};
use ringd_tests::server::{eventually, Server, Setup};
use std::{net::TcpListener, time::Duration};

const REGISTRY: &str = "/_etcd/registry";

fn setup(name: &str, token: &str, endpoint: &str) -> Setup {
    Setup::default().flags([
        format!("--name={name}"),
        // The harness lists the member itself.
        "--initial-cluster=".to_owned(),
        format!("--discovery-token={token}"),
        format!("--discovery-endpoints={endpoint}"),
    ])
}

async fn set_size(service: &Server, token: &str, size: &str) {
    put(service, &format!("{REGISTRY}/{token}/_config/size"), size).await;
}

fn id(server: &Server, token: &str) -> u64 {
    member_id(&[server.peer_url()], Salt::Token(token))
}

#[tokio::test]
async fn members_find_one_another() {
    let service = Server::fresh().await;
    set_size(&service, "three", "3").await;
    let members = ["n1", "n2", "n3"];
    let mut members =
        members.map(|name| Server::spawn(setup(name, "three", &service.client_url())));
    let ids: Vec<u64> = members.iter().map(|member| id(member, "three")).collect();
    for (member, id) in members.iter().zip(&ids) {
        let local = field(member, "starting local member", "local-member-id").await;
        assert_eq!(local, format!("{id:x}"));
        let cluster = field(member, "starting local member", "cluster-id").await;
        assert_eq!(cluster, format!("{:x}", cluster_id(&ids)));
    }
    let mut expected: Vec<(String, String)> = members
        .iter()
        .zip(["n1", "n2", "n3"])
        .zip(&ids)
        .map(|((member, name), id)| {
            let key = format!("{REGISTRY}/three/members/{id:x}");
            (key, format!("{name}={}", member.peer_url()))
        })
        .collect();
    expected.sort();
    let registered = values(&service, &format!("{REGISTRY}/three/members/")).await;
    assert_eq!(registered, expected);

    for member in &mut members {
        member.ready().await.expect("a quorum");
    }

    // There is no room for a fourth one.
    let fourth = Server::spawn(setup("n4", "three", &service.client_url()));
    let error = refusal(fourth).await;
    assert_eq!(
        error,
        "failed to join discovery cluster (discovery: cluster is full)"
    );
    let registered = values(&service, &format!("{REGISTRY}/three/members/")).await;
    assert_eq!(registered.len(), 3);

    // A member with data needs no service.
    let member = &mut members[0];
    member.kill();
    drop(service);
    member.respawn();
    let message =
        "discovery token is ignored since cluster already initialized; valid logs are found";
    field(member, message, "wal-dir").await;
    assert_eq!(lines(member, "restarting local member").len(), 1);
}

#[tokio::test]
async fn a_member_that_lost_its_data_before_the_cluster_formed_registers_again() {
    let service = Server::fresh().await;
    set_size(&service, "two", "2").await;
    let mut first = Server::spawn(setup("n1", "two", &service.client_url()));
    field(&first, "waiting for peers from discovery service", "level").await;
    // It waits with signals in force.
    first.terminate().await;
    std::fs::remove_dir_all(first.data_dir()).expect("its data directory");
    first.respawn();
    eventually("it registers again", || {
        lines(&first, "register member itself successfully").len() == 2
    })
    .await;
    let second = Server::spawn(setup("n2", "two", &service.client_url()));
    let clusters = [
        field(&first, "starting local member", "cluster-id").await,
        field(&second, "starting local member", "cluster-id").await,
    ];
    let ids = [id(&first, "two"), id(&second, "two")];
    let expected = format!("{:x}", cluster_id(&ids));
    assert_eq!(clusters, [expected.clone(), expected]);
}

#[tokio::test]
async fn a_member_waits_through_a_restart_of_the_service() {
    let mut service = Server::fresh().await;
    set_size(&service, "two", "2").await;
    let first = Server::spawn(setup("n1", "two", &service.client_url()));
    field(&first, "waiting for peers from discovery service", "level").await;
    service.kill();
    let reason = field(&first, "retry connecting to discovery service", "reason").await;
    assert_eq!(reason, "waiting for peers");
    service.restart().await;
    let second = Server::spawn(setup("n2", "two", &service.client_url()));
    let ids = [id(&first, "two"), id(&second, "two")];
    for member in [&first, &second] {
        let cluster = field(member, "starting local member", "cluster-id").await;
        assert_eq!(cluster, format!("{:x}", cluster_id(&ids)));
    }
}

#[tokio::test]
async fn what_the_operator_left_out_is_named() {
    let service = Server::fresh().await;
    let refused = |token: &'static str| {
        let member = Server::spawn(setup("n1", token, &service.client_url()));
        async { refusal(member).await }
    };
    assert_eq!(
        refused("unknown").await,
        "failed to join discovery cluster (discovery: size key not found)"
    );
    for (token, size) in [("word", "three"), ("zero", "0"), ("negative", "-1")] {
        set_size(&service, token, size).await;
        assert_eq!(
            refused(token).await,
            "failed to join discovery cluster (discovery: size key is bad)",
            "{size}"
        );
    }
    set_size(&service, "broken", "2").await;
    put(
        &service,
        &format!("{REGISTRY}/broken/members/1"),
        "n9=ftp://a:1",
    )
    .await;
    assert_eq!(
        refused("broken").await,
        "failed to join discovery cluster (discovery: invalid peer URL)"
    );
    set_size(&service, "same", "2").await;
    put(
        &service,
        &format!("{REGISTRY}/same/members/1"),
        "n1=http://a.example:1",
    )
    .await;
    assert_eq!(
        refused("same").await,
        "failed to join discovery cluster (discovery: duplicate name)"
    );
    let existing =
        setup("n1", "two", &service.client_url()).flags(["--initial-cluster-state=existing"]);
    assert_eq!(
        refusal(Server::spawn(existing)).await,
        "discovery URL should not be set when joining existing initial cluster"
    );
}

#[tokio::test]
async fn a_service_that_is_late_or_silent_is_asked_again() {
    // Nobody listens yet.
    let mut service = Server::fresh().await;
    set_size(&service, "one", "1").await;
    service.kill();
    let member = Server::spawn(setup("n1", "one", &service.client_url()));
    field(&member, "retry connecting to discovery service", "error").await;
    service.restart().await;
    field(&member, "starting local member", "cluster-id").await;

    // Connections are taken and nothing is said.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = silent.local_addr().expect("an address").to_string();
    let impatient = setup("n1", "one", &endpoint).flags(["--discovery-request-timeout=50ms"]);
    let mut member = Server::spawn(impatient);
    let error = field(&member, "retry connecting to discovery service", "error").await;
    assert_eq!(error, "context deadline exceeded");
    let begun = std::time::Instant::now();
    member.terminate().await;
    assert!(begun.elapsed() < Duration::from_secs(30));
}
