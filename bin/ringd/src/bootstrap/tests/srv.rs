//! Clusters from SRV records.

use super::super::{
    assemble::Origin,
    dns::{
        tests::{asking, serve, Manner, Zone},
        NameServers,
    },
    originate,
    resolve::Resolver,
    Surroundings,
};
use crate::logging::Log;
use std::{io, net::SocketAddr};

const ZONE: Zone = &[
    (
        "_etcd-server._tcp.plain.example",
        &[
            (1, 2380, "n3.example"),
            (1, 2380, "n1.example"),
            (1, 2380, "gone.example"),
            (1, 2380, "n2.example"),
        ],
    ),
    (
        "_etcd-server-blue._tcp.plain.example",
        &[(1, 2380, "n1.example")],
    ),
    (
        "_etcd-server-ssl._tcp.tls.example",
        &[(1, 2380, "n1.example")],
    ),
    (
        "_etcd-server._tcp.gone.example",
        &[(1, 2380, "gone.example")],
    ),
    (
        "_etcd-server._tcp.others.example",
        &[(1, 2380, "n2.example")],
    ),
    (
        "_etcd-server-ssl._tcp.mixed.example",
        &[(1, 2380, "n2.example")],
    ),
    (
        "_etcd-server._tcp.mixed.example",
        &[(1, 2380, "n1.example")],
    ),
];

struct Hosts;

impl Resolver for Hosts {
    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        let (host, port) = address.rsplit_once(':').unwrap();
        let last = match host.trim_end_matches('.') {
            "n1.example" | "alias.example" => 1,
            "n2.example" => 2,
            "n3.example" => 3,
            _ => return Err(io::Error::other("no such host")),
        };
        Ok(SocketAddr::from(([10, 0, 0, last], port.parse().unwrap())))
    }
}

fn origin(servers: &NameServers, args: &[&str]) -> Result<Origin, String> {
    let log = Log::discard();
    let world = Surroundings {
        resolver: &Hosts,
        name_servers: servers.clone(),
        log: &log,
    };
    let all = [
        &[
            "--name=n1",
            "--initial-advertise-peer-urls=http://n1.example:2380",
        ],
        args,
    ]
    .concat();
    originate(&super::config(&all), &world).map_err(|error| error.to_string())
}

#[test]
fn records_make_the_same_cluster_as_a_list() {
    let servers = asking(serve(ZONE, Manner::Plain));
    let list = "--initial-cluster=n1=http://n1.example:2380,n2=http://n2.example:2380,n3=http://n3.example:2380";
    let ids = |origin| match origin {
        Ok(Origin::Founding(founding)) => (founding.cluster_id, founding.local_id),
        Ok(Origin::Joining(_)) => panic!("joined"),
        Err(error) => panic!("{error}"),
    };
    let listed = ids(origin(&servers, &[list]));
    // Other members have numbers for names; targets without an address are left out.
    assert_eq!(
        ids(origin(&servers, &["--discovery-srv=plain.example"])),
        listed
    );
    let alias = "--initial-advertise-peer-urls=http://alias.example:2380";
    assert_eq!(
        ids(origin(&servers, &["--discovery-srv=plain.example.", alias])),
        listed
    );
    let named = ["--discovery-srv=plain.example", "--discovery-srv-name=blue"];
    let alone = ids(origin(
        &servers,
        &["--initial-cluster=n1=http://n1.example:2380"],
    ));
    assert_eq!(ids(origin(&servers, &named)), alone);
}

#[test]
fn refusals_have_etcds_texts() {
    let server = serve(ZONE, Manner::Plain);
    let servers = asking(server);
    let refused = |args: &[&str]| origin(&servers, args).map(|_| ()).unwrap_err();
    const START: &str = "error setting up initial cluster: ";
    let ssl = |domain: &str| {
        format!("error querying DNS SRV records for _etcd-server-ssl lookup _etcd-server-ssl._tcp.{domain} on {server}: no such host")
    };
    let plain = |domain: &str, why: &str| {
        let domain = domain.to_owned();
        format!(
            "{START}{}; error querying DNS SRV records for _etcd-server {why}",
            ssl(&domain)
        )
    };
    assert_eq!(
        refused(&["--discovery-srv=none.example"]),
        plain(
            "none.example",
            &format!("lookup _etcd-server._tcp.none.example on {server}: no such host")
        )
    );
    // Joining asks the records first as well.
    assert_eq!(
        refused(&[
            "--discovery-srv=none.example",
            "--initial-cluster-state=existing"
        ]),
        refused(&["--discovery-srv=none.example"])
    );
    assert_eq!(
        refused(&["--discovery-srv=gone.example"]),
        plain("gone.example", "lookup gone.example.: no such host")
    );
    assert_eq!(
        refused(&["--discovery-srv=others.example"]),
        format!("{START}cannot find local etcd member \"n1\" in SRV records")
    );
    assert_eq!(
        refused(&["--discovery-srv=tls.example"]),
        format!("{START}error querying DNS SRV records for _etcd-server-ssl bootstrap at https://n1.example:2380 from DNS for etcd-server-ssl has scheme mismatch with expected peer http://n1.example:2380; error querying DNS SRV records for _etcd-server lookup _etcd-server._tcp.tls.example on {server}: no such host")
    );
    assert_eq!(
        refused(&["--discovery-srv=mixed.example"]),
        "TLS between members is not supported by this version of ringd: a member has https://n2.example:2380"
    );
    assert_eq!(
        refused(&[
            "--discovery-srv=plain.example",
            "--initial-advertise-peer-urls=http://none.example:1"
        ]),
        format!("{START}lookup none.example: no such host; lookup none.example: no such host")
    );
}
