//! Identifiers of members and clusters.
//!
//! A member's identifier is the first eight bytes of SHA-1 over its sorted peer URLs (without separators) and a salt: the
//! cluster token when the cluster is founded, the clock when a member is added later. A cluster's identifier is the same
//! over its members' identifiers. They are fixed at bootstrap and stored from then on.

use std::{collections::BTreeMap, fmt};

use sha1::{Digest, Sha1};

use crate::config::{url::UrlError, Config, Url};

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

impl Founding {
    /// The cluster that these members found with this token. `local_name` is one of theirs.
    pub fn of(cluster: &InitialCluster, token: &str, local_name: &str) -> Founding {
        let mut members: Vec<Founder> = cluster
            .members()
            .map(|(name, urls)| Founder {
                id: member_id(&texts(urls), Salt::Token(token)),
                name: name.to_owned(),
                peer_urls: urls.to_vec(),
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let local = members.iter().find(|member| member.name == local_name);
        Founding {
            cluster_id: cluster_id(&ids),
            local_id: local.map_or(0, |member| member.id),
            members,
        }
    }
}

/// Why a cluster can't be founded or joined, in etcd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapError(pub(crate) String);

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BootstrapError {}

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

    /// A member that knows no other yet, under its advertised URLs.
    pub fn alone(config: &Config) -> InitialCluster {
        let mut urls = config.initial_advertise_peer_urls.clone();
        urls.sort();
        InitialCluster {
            members: BTreeMap::from([(config.name.clone(), urls)]),
        }
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

fn texts(urls: &[Url]) -> Vec<&str> {
    urls.iter().map(Url::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            // Recorded from etcd 3.5.1.
            (
                "etcd-cluster",
                "http://127.0.0.1:24910",
                0xaf8dc170f146b071,
                0xa1fa1678141a1460,
            ),
            (
                "etcd-cluster",
                "http://LOCALHOST:24910",
                0x1208e4bee41b303a,
                0x9b3ca50417c1eab6,
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
        // Recorded from etcd 3.5.1.
        let two = ["http://127.0.0.1:24910", "http://127.0.0.1:24912"];
        let id = member_id(&two, Salt::Token("etcd-cluster"));
        assert_eq!(
            (id, cluster_id(&[id])),
            (0x7f07f8198ce6339f, 0x541f198054e4783f)
        );
        // The clock takes the token's place for a member added later.
        assert_eq!(
            member_id(&["http://a:1"], Salt::Added { unix_s: 17 }),
            member_id(&["http://a:1"], Salt::Token("17"))
        );
    }

    #[test]
    fn initial_clusters_are_read_as_etcd_reads_them() {
        let cluster = InitialCluster::parse(
            " n1=http://127.0.0.1:24910,,n3=http://127.0.0.1:24930 ,n2=http://127.0.0.1:24920",
        )
        .unwrap();
        // Recorded from etcd 3.5.1.
        let founding = Founding::of(&cluster, "tok 1", "n1");
        assert_eq!(
            (founding.local_id, founding.cluster_id),
            (0x3cf805603cbfecc2, 0x1a3bdef556b814ab)
        );
        let cluster = InitialCluster::parse("n1=http://a:1,n2=http://b:3,n2=http://b:2").unwrap();
        assert_eq!(
            cluster.to_string(),
            "n1=http://a:1,n2=http://b:2,n2=http://b:3"
        );
        assert_eq!(
            crate::config::url::join(&cluster.other_urls("n1")),
            "http://b:2,http://b:3"
        );
        assert_eq!(InitialCluster::parse("").unwrap().to_string(), "");
    }
}
