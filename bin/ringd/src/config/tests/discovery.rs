//! How the members of a new cluster are to find one another.

use super::*;

#[test]
fn discovery_is_read_from_flags_and_from_a_file() {
    let from_flags = flags(&[
        "--name=n1",
        "--discovery-token=t",
        "--discovery-endpoints=http://a:1,b:2/",
        "--discovery-dial-timeout=3s",
    ]);
    let from_file = yaml(
        "name: n1\ndiscovery-config:\n  token: t\n  client:\n    endpoints: ['http://a:1', 'b:2/']\n    dial-timeout: 3000000000\n",
    )
    .unwrap();
    assert_eq!(messages(&from_file).len(), 2, "{:?}", messages(&from_file));
    let from_file = from_file.config;
    let discovery = from_flags.discovery.unwrap();
    assert_eq!(discovery.endpoints, ["a:1", "b:2"]);
    assert_eq!(discovery.dial_timeout.as_secs(), 3);
    assert_eq!(discovery.request_timeout.as_secs(), 5);
    assert_eq!(from_file.discovery, Some(discovery));
    // Nothing is derived from the name then.
    assert_eq!(
        (from_flags.initial_cluster, from_file.initial_cluster),
        Default::default()
    );
    let srv = flags(&[
        "--name=n1",
        "--discovery-srv=a.example",
        "--discovery-srv-name=x",
    ]);
    assert_eq!(
        (srv.discovery_srv.as_str(), srv.discovery_srv_name.as_str()),
        ("a.example", "x")
    );
    assert_eq!((srv.initial_cluster.as_str(), srv.discovery), ("", None));
}

#[test]
fn discovery_that_cannot_be_is_refused() {
    for (args, text) in [
        (&["--discovery-token=t"][..], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--discovery-token=t", "--discovery-endpoints=a:1,,b:1"],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            &["--discovery-token=t", "--discovery-endpoints=a:1", "--discovery-srv=b.c"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (
            &["--initial-cluster=a=http://a:1", "--discovery-srv=b.c"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \"discovery-srv\"",
        ),
        (
            &["--discovery-token=t", "--discovery-endpoints=https://a:1"],
            "--discovery-endpoints has \"https://a:1\", and this version of ringd speaks to the discovery service without TLS only: name it as http://host:port or host:port",
        ),
    ] {
        assert_eq!(refused(args), text, "{args:?}");
    }
    let unknown = yaml("discovery-config: {client: {end-points: [a]}}").unwrap();
    assert!(
        messages(&unknown)
            .iter()
            .any(|m| m.contains("key=discovery-config.client.end-points nearest=endpoints")),
        "{:?}",
        messages(&unknown)
    );
    assert!(
        yaml_refused("discovery-config: {client: {auth: {username: u, password: p}}}")
            .contains("--discovery-password")
    );
    assert!(yaml_refused("discovery-config: {client: 5}").contains("discovery-config.client"));
}

#[test]
fn the_example_file_is_read_whole() {
    let text = include_str!("../../../../../deploy/etcd.conf.yaml");
    let loaded = yaml(text).unwrap();
    assert_eq!(messages(&loaded), ["loaded server configuration, other configuration command line flags and environment variables will be ignored if provided path=c.yaml"]);
    let cluster = crate::identity::InitialCluster::parse(&loaded.config.initial_cluster).unwrap();
    assert_eq!(cluster.members().count(), 3);
    assert_eq!(
        cluster.urls_of("node1"),
        Some(&loaded.config.initial_advertise_peer_urls[..])
    );
    // What is recorded of etcd: an empty list in a file is not the same as none.
    let empty = yaml("name: n1\ninitial-cluster: \"\"").unwrap().config;
    assert_eq!(empty.initial_cluster, "");
    let none = yaml("name: n1\ninitial-cluster:").unwrap().config;
    assert_eq!(none.initial_cluster, "n1=http://localhost:2380");
}
