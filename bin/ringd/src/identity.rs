//! Identifiers of members and clusters, and the checks of a static bootstrap.
//!
//! A member's identifier is the first eight bytes of SHA-1 over its sorted peer URLs (without separators) and a salt: the
//! cluster token when the cluster is founded, the clock when a member is added later. A cluster's identifier is the same
//! over its members' identifiers. They are fixed at bootstrap and stored from then on.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
};

use sha1::{Digest, Sha1};

use crate::config::{
    url::{self, quoted, UrlError},
    Config, Url,
};

/// What is hashed into a member's identifier after its URLs.
#[derive(Debug, Clone, Copy)]
pub enum Salt<'a> {
    /// The cluster token, for members known at bootstrap.
    Token(&'a str),
    /// Seconds since the epoch, for members added at run time.
    Added { unix_s: i64 },
}

/// The identifier of a member with these peer URLs, in any order.
pub fn member_id<T: AsRef<str>>(peer_urls: &[T], salt: Salt<'_>) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(T::as_ref).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    match salt {
        Salt::Token(token) => hash.update(token),
        Salt::Added { unix_s } => hash.update(unix_s.to_string()),
    }
    first_eight(&hash.finalize())
}

/// The identifier of a cluster that is founded by these members, in any order.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_eight(&hash.finalize())
}

fn first_eight(digest: &[u8]) -> u64 {
    digest
        .iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// Member names with their peer URLs, as `--initial-cluster` lists them. URLs are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    members: BTreeMap<String, Vec<Url>>,
}

/// One member of a cluster at bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<Url>,
}

/// A cluster as every member computes it at bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    pub cluster_id: u64,
    /// This member.
    pub local_id: u64,
    /// All members in ascending order of their identifiers.
    pub members: Vec<Founder>,
}

/// Why a cluster can't be founded, in etcd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapError(String);

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BootstrapError {}

/// Resolves host names; tests have their own.
pub trait Resolver {
    /// The first address of `host:port`.
    fn resolve(&self, address: &str) -> io::Result<SocketAddr>;
}

/// The system's resolver. It blocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        address
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other("no such host"))
    }
}

impl InitialCluster {
    /// Parses `name=url[,name=url...]`. A name that repeats has several URLs; empty items are skipped; an item without `=`
    /// has the empty URL, which is then refused for its scheme.
    pub fn parse(text: &str) -> Result<InitialCluster, UrlError> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let (name, url) = item.split_once('=').unwrap_or((item, ""));
            members
                .entry(name.to_owned())
                .or_default()
                .push(Url::parse(url)?);
        }
        for urls in members.values_mut() {
            urls.sort();
        }
        Ok(InitialCluster { members })
    }

    /// Names with their URLs, sorted by name.
    pub fn members(&self) -> impl Iterator<Item = (&str, &[Url])> {
        self.members
            .iter()
            .map(|(name, urls)| (name.as_str(), urls.as_slice()))
    }

    pub fn urls_of(&self, name: &str) -> Option<&[Url]> {
        self.members.get(name).map(Vec::as_slice)
    }

    /// The peer URLs of all members but one, sorted.
    pub fn other_urls(&self, name: &str) -> Vec<Url> {
        let others = self.members.iter().filter(|(n, _)| *n != name);
        let mut urls: Vec<Url> = others.flat_map(|(_, urls)| urls.iter().cloned()).collect();
        urls.sort();
        urls
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self
            .members
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        f.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}

/// The checks of a static bootstrap, in etcd's order, and the identifiers that follow. Asking other members whether this
/// one exists already is the caller's.
pub fn found(config: &Config, resolver: &dyn Resolver) -> Result<Founding, BootstrapError> {
    let cluster = parse_cluster(config)?;
    check_local_name(&cluster, &config.name)?;
    check_advertised(&cluster, config, resolver)?;
    check_duplicates(&cluster)?;
    if cluster.members.is_empty() {
        return Err(BootstrapError(
            "initial cluster unset and no discovery URL found".into(),
        ));
    }
    let salt = Salt::Token(&config.initial_cluster_token);
    let mut members: Vec<Founder> = cluster
        .members()
        .map(|(name, urls)| Founder {
            id: member_id(&texts(urls), salt),
            name: name.to_owned(),
            peer_urls: urls.to_vec(),
        })
        .collect();
    members.sort_by_key(|m| m.id);
    let ids: Vec<u64> = members.iter().map(|m| m.id).collect();
    let local_id = members
        .iter()
        .find(|m| m.name == config.name)
        .map_or(0, |m| m.id);
    Ok(Founding {
        cluster_id: cluster_id(&ids),
        local_id,
        members,
    })
}

/// The checks of a member that joins a running cluster: the advertised URLs and the token are not compared.
pub fn joining(config: &Config) -> Result<InitialCluster, BootstrapError> {
    let cluster = parse_cluster(config)?;
    check_local_name(&cluster, &config.name)?;
    check_duplicates(&cluster)?;
    Ok(cluster)
}

fn parse_cluster(config: &Config) -> Result<InitialCluster, BootstrapError> {
    InitialCluster::parse(&config.initial_cluster)
        .map_err(|e| BootstrapError(format!("error setting up initial cluster: {e}")))
}

fn check_local_name(cluster: &InitialCluster, name: &str) -> Result<(), BootstrapError> {
    match cluster.urls_of(name) {
        Some(_) => Ok(()),
        None => Err(BootstrapError(format!(
            "couldn't find local name {} in the initial cluster configuration",
            quoted(name)
        ))),
    }
}

fn check_duplicates(cluster: &InitialCluster) -> Result<(), BootstrapError> {
    let mut urls: Vec<&Url> = cluster.members.values().flatten().collect();
    let count = urls.len();
    urls.sort();
    urls.dedup();
    if urls.len() == count {
        return Ok(());
    }
    Err(BootstrapError(format!(
        "initial cluster {cluster} has duplicate url"
    )))
}

fn check_advertised(
    cluster: &InitialCluster,
    config: &Config,
    resolver: &dyn Resolver,
) -> Result<(), BootstrapError> {
    let listed = cluster.urls_of(&config.name).unwrap_or_default();
    let mut advertised = config.initial_advertise_peer_urls.clone();
    advertised.sort();
    let Err(why) = urls_match(&advertised, listed, resolver) else {
        return Ok(());
    };
    let named: Vec<String> = listed
        .iter()
        .map(|url| format!("{}={url}", config.name))
        .collect();
    if let Mismatch::Unresolved { url, text } = &why {
        return Err(BootstrapError(format!(
            "failed to resolve {url} to match --initial-cluster={} ({text})",
            named.join(",")
        )));
    }
    let missing: Vec<String> = listed
        .iter()
        .filter(|u| !advertised.contains(u))
        .map(|u| format!("{}={u}", config.name))
        .collect();
    if !missing.is_empty() {
        return Err(BootstrapError(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({why})",
            missing.join(","),
            url::join(&advertised)
        )));
    }
    let extra: Vec<String> = advertised
        .iter()
        .filter(|u| !listed.contains(u))
        .map(Url::to_string)
        .collect();
    Err(BootstrapError(format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
        extra.join(","),
        named.join(",")
    )))
}

/// How two lists of URLs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    Counts { ours: Vec<Url>, theirs: Vec<Url> },
    Different { ours: Url, theirs: Url },
    Unresolved { url: Url, text: String },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |urls: &[Url]| {
            urls.iter()
                .map(|u| quoted(u.as_str()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        match self {
            Mismatch::Counts { ours, theirs } => {
                write!(f, "len([{}]) != len([{}])", list(ours), list(theirs))
            }
            Mismatch::Different { ours, theirs } => {
                write!(
                    f,
                    "resolved urls: {} != {}",
                    quoted(ours.as_str()),
                    quoted(theirs.as_str())
                )
            }
            Mismatch::Unresolved { url, text } => {
                write!(f, "failed to resolve {} ({text})", quoted(url.as_str()))
            }
        }
    }
}

/// Whether two lists name the same places: as texts, or else after resolving every host but `localhost`.
pub fn urls_match(ours: &[Url], theirs: &[Url], resolver: &dyn Resolver) -> Result<(), Mismatch> {
    let sorted = |urls: &[Url]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    let (ours, theirs) = (sorted(ours), sorted(theirs));
    if ours.len() != theirs.len() {
        return Err(Mismatch::Counts { ours, theirs });
    }
    if ours == theirs {
        return Ok(());
    }
    let (ours, theirs) = (resolved(&ours, resolver)?, resolved(&theirs, resolver)?);
    match ours.into_iter().zip(theirs).find(|(a, b)| a != b) {
        Some((ours, theirs)) => Err(Mismatch::Different { ours, theirs }),
        None => Ok(()),
    }
}

fn resolved(urls: &[Url], resolver: &dyn Resolver) -> Result<Vec<Url>, Mismatch> {
    let mut out = Vec::with_capacity(urls.len());
    for url in urls {
        if url.scheme().is_unix()
            || url.host() == "localhost"
            || url.host().parse::<IpAddr>().is_ok()
        {
            out.push(url.clone());
            continue;
        }
        match resolver.resolve(url.address()) {
            Ok(address) => out.push(url.with_address(&address.to_string())),
            Err(error) => {
                let text = format!("lookup {}: {error}", url.host());
                return Err(Mismatch::Unresolved {
                    url: url.clone(),
                    text,
                });
            }
        }
    }
    out.sort();
    Ok(out)
}

fn texts(urls: &[Url]) -> Vec<&str> {
    urls.iter().map(Url::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load_on, System};

    fn ids(token: &str, urls: &[&str]) -> (Vec<u64>, u64) {
        let ids: Vec<u64> = urls
            .iter()
            .map(|url| member_id(&[*url], Salt::Token(token)))
            .collect();
        let cluster = cluster_id(&ids);
        (ids, cluster)
    }

    #[test]
    fn identifiers_are_etcds() {
        const SEED: &str = "PostgreSQL_HA_Cluster_1";
        for (token, url, member, cluster) in [
            (
                "etcd-cluster",
                "http://localhost:2380",
                0x8e9e05c52164694d,
                0xcdf818194e3a8c32,
            ),
            (
                SEED,
                "http://10.104.0.1:2380",
                0x4923373642ca36f2,
                0xc39bc92ce1ccfb2c,
            ),
            (
                SEED,
                "http://127.0.0.1:24180",
                0xd51654b112cbb62d,
                0x2b366bf97f831b92,
            ),
            (
                SEED,
                "http://127.0.0.1:24480",
                0x344688e470861e9,
                0xeddd888438369402,
            ),
            (
                "etcd-cluster",
                "http://127.0.0.1:24999",
                0xe7adbf4e009ddfe0,
                0xd08722c6af79246d,
            ),
        ] {
            assert_eq!(ids(token, &[url]), (vec![member], cluster), "{token} {url}");
        }
        let three = [
            "http://10.104.0.1:2380",
            "http://10.104.0.2:2380",
            "http://10.104.0.3:2380",
        ];
        let members = vec![0x4923373642ca36f2, 0x296fdbbe670632a6, 0xda001293f7f566f7];
        assert_eq!(ids(SEED, &three), (members, 0xcce2043ff061ead0));
        let three = [
            "http://127.0.0.1:2380",
            "http://127.0.0.1:22380",
            "http://127.0.0.1:32380",
        ];
        let members = vec![0xbf9071f4639c75cc, 0x91bc3c398fb3c146, 0xfd422379fda50e48];
        assert_eq!(ids("etcd-cluster-1", &three), (members, 0x059a05384c9b79ee));
    }

    #[test]
    fn several_urls_are_hashed_in_sorted_order() {
        let salt = Salt::Token("t");
        assert_eq!(
            member_id(&["http://b:1", "http://a:1"], salt),
            member_id(&["http://a:1", "http://b:1"], salt)
        );
        // The clock takes the token's place for a member added later.
        assert_eq!(
            member_id(&["http://a:1"], Salt::Added { unix_s: 17 }),
            member_id(&["http://a:1"], Salt::Token("17"))
        );
    }

    struct Table;
    impl Resolver for Table {
        fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
            match address {
                "a.example:1" | "alias.example:1" => Ok(SocketAddr::from(([10, 0, 0, 1], 1))),
                _ => Err(io::Error::other("no such host")),
            }
        }
    }

    fn config(args: &[&str]) -> Config {
        let args = ["ringd", "--data-dir=d"]
            .iter()
            .chain(args)
            .map(|a| a.to_string())
            .collect();
        load_on(&System, args, &[])
            .map(|l| l.config)
            .unwrap_or_else(|e| panic!("{}", e.stderr))
    }

    fn refused(args: &[&str]) -> String {
        found(&config(args), &Table).unwrap_err().to_string()
    }

    #[test]
    fn founding_orders_members_by_identifier() {
        let founding = found(
            &config(&[
                "--name=n2",
                "--initial-cluster-token=etcd-cluster-1",
                "--initial-advertise-peer-urls=http://127.0.0.1:22380",
                "--initial-cluster=n1=http://127.0.0.1:2380,n2=http://127.0.0.1:22380,n3=http://127.0.0.1:32380",
            ]),
            &Table,
        )
        .unwrap();
        assert_eq!(
            (founding.cluster_id, founding.local_id),
            (0x059a05384c9b79ee, 0x91bc3c398fb3c146)
        );
        assert_eq!(
            founding
                .members
                .iter()
                .map(|m| m.name.as_str())
                .collect::<Vec<_>>(),
            ["n2", "n1", "n3"]
        );
        assert_eq!(
            found(&config(&[]), &Table).unwrap().local_id,
            0x8e9e05c52164694d
        );
    }

    #[test]
    fn refusals_have_etcds_texts() {
        assert_eq!(
            refused(&["--initial-cluster=n1"]),
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "
        );
        assert_eq!(
            refused(&["--name=n1", "--initial-cluster=n2=http://a:1"]),
            "couldn't find local name \"n1\" in the initial cluster configuration"
        );
        assert_eq!(
            refused(&["--initial-cluster="]),
            "couldn't find local name \"default\" in the initial cluster configuration"
        );
        let advertise = "--initial-advertise-peer-urls=http://127.0.0.1:2";
        assert_eq!(
            refused(&["--name=n1", "--initial-cluster=n1=http://127.0.0.1:1", advertise]),
            "--initial-cluster has n1=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:2 (resolved urls: \"http://127.0.0.1:2\" != \"http://127.0.0.1:1\")"
        );
        assert_eq!(
            refused(&[
                "--name=n1",
                "--initial-cluster=n1=http://127.0.0.1:1",
                "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2"
            ]),
            "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from --initial-cluster=n1=http://127.0.0.1:1"
        );
        assert_eq!(
            refused(&["--name=n1", "--initial-cluster=n1=http://b.example:1", "--initial-advertise-peer-urls=http://127.0.0.1:1"]),
            "failed to resolve http://b.example:1 to match --initial-cluster=n1=http://b.example:1 (lookup b.example: no such host)"
        );
        assert_eq!(
            refused(&[
                "--name=n1",
                "--initial-cluster=n1=http://127.0.0.1:1,n2=http://127.0.0.1:1",
                "--initial-advertise-peer-urls=http://127.0.0.1:1"
            ]),
            "initial cluster n1=http://127.0.0.1:1,n2=http://127.0.0.1:1 has duplicate url"
        );
    }

    #[test]
    fn names_that_resolve_alike_match() {
        let urls = |text| url::parse_list(text).unwrap();
        assert!(urls_match(
            &urls("http://a.example:1"),
            &urls("http://alias.example:1"),
            &Table
        )
        .is_ok());
        assert!(urls_match(
            &urls("http://a.example:1"),
            &urls("http://10.0.0.1:1"),
            &Table
        )
        .is_ok());
        let counts = urls_match(
            &urls("http://10.0.0.1:1"),
            &urls("http://10.0.0.1:1,http://c:1"),
            &Table,
        )
        .unwrap_err();
        assert_eq!(
            counts.to_string(),
            "len([\"http://10.0.0.1:1\"]) != len([\"http://10.0.0.1:1\" \"http://c:1\"])"
        );
        let unresolved =
            urls_match(&urls("http://b:1"), &urls("http://10.0.0.1:1"), &Table).unwrap_err();
        assert_eq!(
            unresolved.to_string(),
            "failed to resolve \"http://b:1\" (lookup b: no such host)"
        );
    }

    #[test]
    fn joining_does_not_compare_advertised_urls() {
        let cluster = joining(&config(&[
            "--name=n1",
            "--initial-cluster=n1=http://127.0.0.1:1,n2=http://127.0.0.1:3,n2=http://127.0.0.1:2",
            "--initial-advertise-peer-urls=http://127.0.0.1:9",
        ]))
        .unwrap();
        assert_eq!(
            url::join(&cluster.other_urls("n1")),
            "http://127.0.0.1:2,http://127.0.0.1:3"
        );
        assert_eq!(
            cluster.to_string(),
            "n1=http://127.0.0.1:1,n2=http://127.0.0.1:2,n2=http://127.0.0.1:3"
        );
    }
}
