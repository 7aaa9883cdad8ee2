//! Where a new member comes from, asked of members that answer from a script.

mod advance;
mod alone;
mod machine;
mod order;
mod other_cluster;
mod refetch;
mod renewals;
mod segments;
mod srv;

use super::{assemble::Origin, dns::NameServers, originate, resolve::Resolver, Surroundings};
use crate::{
    config::{load_on, Config, System},
    logging::Log,
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

/// Paths with the bodies that they are answered with.
type Answers = Vec<(&'static str, Vec<String>)>;

/// A peer port that answers each path with a body of its own; the last of several bodies goes on.
pub(super) struct FakePeer {
    pub address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
}

impl FakePeer {
    pub fn start() -> FakePeer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let peer = FakePeer {
            address,
            answers: answers.clone(),
        };
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let _ = FakePeer::answer(socket.unwrap(), &answers);
            }
        });
        peer
    }

    fn answer(mut socket: std::net::TcpStream, answers: &Mutex<Answers>) -> io::Result<()> {
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            let count = socket.read(&mut buffer)?;
            request.extend_from_slice(&buffer[..count]);
        }
        let request = String::from_utf8(request).unwrap();
        let path = request.split(' ').nth(1).unwrap();
        let mut answers = answers.lock().unwrap();
        let known = answers.iter_mut().find(|(known, _)| *known == path);
        let (status, body) = match known {
            Some((_, bodies)) if bodies.len() > 1 => (200, bodies.remove(0)),
            Some((_, bodies)) => (200, bodies[0].clone()),
            None => (404, String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status} -\r\nX-Etcd-Cluster-Id: a1fa1678141a1460\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + &body).as_bytes())
    }

    pub fn on(self, path: &'static str, bodies: &[String]) -> FakePeer {
        self.answers.lock().unwrap().push((path, bodies.to_vec()));
        self
    }

    pub fn version(self, cluster: &str) -> FakePeer {
        let body = format!(r#"{{"etcdserver":"3.5.1","etcdcluster":"{cluster}"}}"#);
        self.on("/version", &[body])
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

const N2: &str = "http://127.0.0.1:24920";
/// The cluster that the fake peers belong to; member n1 has the peer's own URL.
const N1_ID: u64 = 0xaf8dc170f146b071;
const N2_ID: u64 = 0x73d60d4732e8a44a;

fn n1(url: &str) -> String {
    format!(
        r#"{{"id":{N1_ID},"peerURLs":["{url}"],"name":"n1","clientURLs":["http://127.0.0.1:24911"]}}"#
    )
}

fn list(members: &[String]) -> String {
    format!("[{}]\n", members.join(","))
}

fn learner_n2() -> String {
    format!(r#"{{"id":{N2_ID},"peerURLs":["{N2}"],"isLearner":true}}"#)
}

struct Numbers;

impl Resolver for Numbers {
    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        address
            .parse()
            .map_err(|_| io::Error::other("no such host"))
    }
}

pub(super) fn config(args: &[&str]) -> Config {
    let args = ["ringd", "--data-dir=d"].iter().chain(args);
    let args = args.map(|a| a.to_string()).collect();
    load_on(&System, args, &[])
        .map(|l| l.config)
        .unwrap_or_else(|e| panic!("{}", e.stderr))
}

fn origin(args: &[&str]) -> Result<Origin, String> {
    let log = Log::discard();
    let world = Surroundings {
        resolver: &Numbers,
        name_servers: NameServers::default(),
        log: &log,
    };
    originate(&config(args), &world).map_err(|error| error.to_string())
}

/// Member n2 joins the cluster that is listed so.
fn join(cluster: &[(&str, &str)]) -> Result<(u64, u64), String> {
    let pairs = cluster.iter().map(|(name, url)| format!("{name}={url}"));
    let list = pairs.collect::<Vec<_>>().join(",");
    let origin = origin(&[
        "--name=n2",
        "--initial-cluster-state=existing",
        // Neither is compared.
        "--initial-cluster-token=other",
        "--initial-advertise-peer-urls=http://127.0.0.1:9",
        &format!("--initial-cluster={list}"),
    ])?;
    match origin {
        Origin::Joining(identity) => Ok((identity.cluster_id, identity.member_id)),
        Origin::Founding(_) => Err("founded".into()),
    }
}

#[test]
fn a_joining_member_gets_its_identifiers_from_the_cluster() {
    let peer = FakePeer::start().version("3.5.0");
    let url = peer.url();
    let peer = peer.on("/members", &[list(&[learner_n2(), n1(&url)])]);
    // Names of the others do not matter.
    let joined = join(&[("other", &peer.url()), ("n2", N2)]);
    assert_eq!(joined, Ok((0xa1fa1678141a1460, N2_ID)));
}

#[test]
fn a_joining_member_waits_to_be_listed() {
    let peer = FakePeer::start().version("3.5.0");
    let url = peer.url();
    let answers = [list(&[n1(&url)]), list(&[n1(&url), learner_n2()])];
    let peer = peer.on("/members", &answers);
    let joined = join(&[("n1", &peer.url()), ("n2", N2)]);
    assert_eq!(joined, Ok((0xa1fa1678141a1460, N2_ID)));
}

#[test]
fn a_joining_member_is_refused_in_etcds_words() {
    let peer = FakePeer::start().version("3.5.0");
    let url = peer.url();
    let peer = peer.on("/members", &[list(&[n1(&url), learner_n2()])]);
    let url = peer.url();
    let cluster = format!(
        "{{ClusterID:a1fa1678141a1460 Members:[&{{ID:73d60d4732e8a44a RaftAttributes:{{PeerURLs:[{N2}] IsLearner:true}} Attributes:{{Name: ClientURLs:[]}}}} &{{ID:af8dc170f146b071 RaftAttributes:{{PeerURLs:[{url}] IsLearner:false}} Attributes:{{Name:n1 ClientURLs:[http://127.0.0.1:24911]}}}}] RemovedMemberIDs:[]}}"
    );
    let stranger = r#"{"id":1,"peerURLs":["http://127.0.0.1:1"],"name":"n3"}"#.to_owned();
    let three = FakePeer::start().on("/members", &[list(&[stranger, n1(&url), learner_n2()])]);
    let error = join(&[("n1", &three.url()), ("n2", N2)]).unwrap_err();
    assert!(
        error.ends_with(" RemovedMemberIDs:[]}: member count is unequal"),
        "{error}"
    );
    let error = join(&[("n1", &url), ("n2", "http://127.0.0.1:24925")]).unwrap_err();
    let start = format!("error validating peerURLs {cluster}: PeerURLs: no match found for existing member (73d60d4732e8a44a, [{N2}]), last resolver error (resolved urls: \"{N2}\" != \"");
    assert!(error.starts_with(&start), "{error}\n{start}");
    assert_eq!(
        join(&[("n2", N2)]),
        Err("cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs".into())
    );
    let unborn = FakePeer::start().on("/members", &[list(&[])]);
    assert_eq!(
        join(&[("n1", &unborn.url()), ("n2", N2)]),
        Err("cannot fetch cluster info from peer urls: failed to get raft cluster member(s) from the given URLs".into())
    );
}

#[test]
fn a_cluster_of_another_version_is_not_joined() {
    let with = |version: &str, downgrade: Option<&str>| {
        let mut peer = FakePeer::start().version(version);
        if let Some(answer) = downgrade {
            peer = peer.on("/downgrade/enabled", &[answer.to_owned()]);
        }
        let url = peer.url();
        let peer = peer.on("/members", &[list(&[n1(&url), learner_n2()])]);
        join(&[("n1", &peer.url()), ("n2", N2)]).map(|_| ())
    };
    let refused = Err("incompatible with current running cluster".to_owned());
    assert_eq!(with("3.4.0", None), Ok(()));
    assert_eq!(with("3.0.0", None), Ok(()));
    assert_eq!(with("not_decided", None), Ok(()));
    assert_eq!(with("2.3.0", None), refused);
    assert_eq!(with("3.6.0", None), refused);
    assert_eq!(with("3.6.0", Some("false")), refused);
    assert_eq!(with("3.6.0", Some("true")), Ok(()));
    assert_eq!(with("3.7.0", Some("true")), refused);
    // Nobody answers.
    let silent = FakePeer::start();
    let url = silent.url();
    let silent = silent.on("/members", &[list(&[n1(&url), learner_n2()])]);
    let joined = join(&[("n1", &silent.url()), ("n2", N2)]);
    assert_eq!(
        joined,
        Err("incompatible with current running cluster".to_owned())
    );
}

#[test]
fn a_member_that_lost_its_data_does_not_found_its_cluster_again() {
    let peer = FakePeer::start();
    let args = [
        "--name=n2".to_owned(),
        format!("--initial-advertise-peer-urls={N2}"),
        format!("--initial-cluster=n1={},n2={N2}", peer.url()),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Ok(Origin::Founding(founding)) = origin(&args) else {
        panic!("a peer that is no etcd does not matter");
    };
    let me = |clients: &str| {
        format!(
            r#"{{"id":{},"peerURLs":["{N2}"],"clientURLs":[{clients}]}}"#,
            founding.local_id
        )
    };
    let peer = peer.on(
        "/members",
        &[
            list(&[me("")]),
            list(&[n1("http://127.0.0.1:1"), me(r#""http://127.0.0.1:1""#)]),
        ],
    );
    // Listed by a member that founds the cluster at the same time.
    assert!(origin(&args).is_ok());
    let refused = origin(&args).map(|_| ()).unwrap_err();
    assert_eq!(
        refused,
        format!(
            "member {:x} has already been bootstrapped",
            founding.local_id
        )
    );
    drop(peer);
}

#[test]
fn names_are_resolved_only_where_texts_do_not_do() {
    let peer = FakePeer::start().version("3.5.0");
    let url = peer.url();
    let third = r#"{"id":7,"peerURLs":["http://c.invalid:1"],"name":"n3"}"#.to_owned();
    let peer = peer.on("/members", &[list(&[third, n1(&url), learner_n2()])]);
    let begun = std::time::Instant::now();
    let joined = join(&[
        ("n1", &peer.url()),
        ("n2", N2),
        ("n3", "http://c.invalid:1"),
    ]);
    assert_eq!(joined, Ok((0xa1fa1678141a1460, N2_ID)));
    assert!(begun.elapsed().as_secs() < 25, "it waited for a name");
    assert_eq!(
        join(&[("n1", &peer.url()), ("n2", N2), ("n3", "https://c.invalid:1")]),
        Err("TLS between members is not supported by this version of ringd: a member has https://c.invalid:1".into())
    );
}
