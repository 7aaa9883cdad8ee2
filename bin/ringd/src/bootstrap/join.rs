//! What a new member asks of the others before it starts: whether it exists already, and, when it joins a running
//! cluster, who it is there.

use super::{fetch, resolve::Comparison, Failure, CLUSTER_VERSION};
use crate::{
    config::{Config, Url},
    identity::{Founding, InitialCluster},
    info,
    logging::Log,
    services::parse_version,
    warn,
};
use engine::wal::Identity;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Patience with each URL before a cluster is founded, where most often nobody answers yet.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// Patience with each URL of a cluster that runs.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// A member that was added a moment ago may not be listed by every other one yet: they answer from what they applied.
const LISTING_PATIENCE: Duration = Duration::from_secs(5);
const LISTING_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The oldest cluster that can be joined.
const CLUSTER_VERSION_MIN: (u64, u64) = (3, 0);

/// A member as the peer port lists it.
#[derive(Clone)]
struct Listed {
    id: u64,
    name: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    is_learner: bool,
}

struct Cluster {
    id: u64,
    /// In ascending order of their identifiers.
    members: Vec<Listed>,
}

/// Refuses to found a cluster in which this member has published itself already: its data directory was lost.
pub fn refuse_bootstrapped(founding: &Founding) -> Result<(), Failure> {
    let others = founding
        .members
        .iter()
        .filter(|m| m.id != founding.local_id);
    let mut urls: Vec<Url> = others.flat_map(|m| m.peer_urls.clone()).collect();
    urls.sort();
    // All at once: members that are started together do not answer yet, and each would be waited for.
    let answers = std::thread::scope(|scope| {
        let probes: Vec<_> = urls
            .iter()
            .map(|url| scope.spawn(|| cluster_at(url, PROBE_PATIENCE)))
            .collect();
        let answers = probes.into_iter().map(|probe| probe.join().ok().flatten());
        answers.collect::<Vec<Option<Cluster>>>()
    });
    let Some(cluster) = answers.into_iter().flatten().next() else {
        return Ok(());
    };
    let local = cluster.members.iter().find(|m| m.id == founding.local_id);
    match local {
        Some(local) if !local.client_urls.is_empty() => Err(format!(
            "member {:x} has already been bootstrapped",
            founding.local_id
        )
        .into()),
        _ => Ok(()),
    }
}

/// Finds out from the running members who this one is in their cluster.
pub fn join(
    config: &Config,
    local: &InitialCluster,
    comparison: &Comparison<'_>,
    log: &Log,
) -> Result<Identity, Failure> {
    let others = local.other_urls(&config.name);
    let end = Instant::now() + LISTING_PATIENCE;
    let cluster = loop {
        let cluster = first_answer(&others, JOIN_PATIENCE)
            .map_err(|why| format!("cannot fetch cluster info from peer urls: {why}"))?;
        let is_unlisted = cluster.members.len() < local.members().count();
        if !is_unlisted || Instant::now() >= end {
            break cluster;
        }
        info!(log, "the cluster lists fewer members than --initial-cluster; asking again",
            "listed" => cluster.members.len(), "retry-interval" => LISTING_RETRY_INTERVAL);
        std::thread::sleep(LISTING_RETRY_INTERVAL);
    };
    let member_id = matched(config, local, &cluster, comparison)
        .map_err(|why| format!("error validating peerURLs {}: {why}", shown(&cluster)))?;
    check_version(&cluster, member_id, log)?;
    Ok(Identity {
        cluster_id: cluster.id,
        member_id,
    })
}

fn first_answer(urls: &[Url], patience: Duration) -> Result<Cluster, &'static str> {
    let answer = urls.iter().find_map(|url| cluster_at(url, patience));
    let cluster = answer.ok_or("could not retrieve cluster information from the given URLs")?;
    match cluster.members.is_empty() {
        true => Err("failed to get raft cluster member(s) from the given URLs"),
        false => Ok(cluster),
    }
}

fn cluster_at(url: &Url, patience: Duration) -> Option<Cluster> {
    let response = fetch::get(url, "/members", patience).ok()?;
    if response.status != 200 {
        return None;
    }
    let id = u64::from_str_radix(response.header("x-etcd-cluster-id")?, 16).ok()?;
    let list: Value = serde_json::from_slice(&response.body).ok()?;
    let members = list.as_array()?.iter().map(listed);
    let mut members: Vec<Listed> = members.collect::<Option<_>>()?;
    members.sort_by_key(|member| member.id);
    Some(Cluster { id, members })
}

fn listed(member: &Value) -> Option<Listed> {
    let texts = |name: &str| -> Vec<String> {
        let items = member[name]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let texts = items.iter().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    Some(Listed {
        id: member["id"].as_u64()?,
        name: member["name"].as_str().unwrap_or_default().to_owned(),
        peer_urls: texts("peerURLs"),
        client_urls: texts("clientURLs"),
        is_learner: member["isLearner"].as_bool().unwrap_or(false),
    })
}

/// Every member of the cluster must be one of the configured ones, by its URLs; the one that matches this member's name
/// gives the identifier. Names of the others need not match.
fn matched(
    config: &Config,
    local: &InitialCluster,
    cluster: &Cluster,
    comparison: &Comparison<'_>,
) -> Result<u64, String> {
    // In etcd's order, which decides on the error that is shown.
    let mut configured = Founding::of(local, &config.initial_cluster_token, &config.name).members;
    if configured.len() != cluster.members.len() {
        return Err("member count is unequal".into());
    }
    let mut own = None;
    for member in &cluster.members {
        let urls: Result<Vec<Url>, _> = member.peer_urls.iter().map(|u| Url::parse(u)).collect();
        let mut urls = urls.map_err(|error| error.to_string())?;
        urls.sort();
        let mut last = None;
        // Names are resolved only where texts do not do: members that are down may have none.
        let alike = configured.iter().position(|f| f.peer_urls == urls);
        let at = alike.or_else(|| {
            configured.iter().position(|founder| {
                comparison
                    .check(&urls, &founder.peer_urls)
                    .map_err(|why| last = Some(why))
                    .is_ok()
            })
        });
        let Some(at) = at else {
            return Err(format!(
                "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({})",
                member.id,
                member.peer_urls.join(" "),
                last.map_or(String::new(), |why| why.to_string()),
            ));
        };
        if configured.remove(at).name == config.name {
            own = Some(member.id);
        }
    }
    own.ok_or_else(|| "this member is not among them".into())
}

/// A cluster in the form in which etcd prints it in this error.
fn shown(cluster: &Cluster) -> String {
    let members: Vec<String> = cluster
        .members
        .iter()
        .map(|member| {
            format!(
                "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
                member.id,
                member.peer_urls.join(" "),
                member.is_learner,
                member.name,
                member.client_urls.join(" ")
            )
        })
        .collect();
    format!(
        "{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}",
        cluster.id,
        members.join(" ")
    )
}

/// The cluster must not speak a newer version than this member. Members that do not answer are passed over, but one must.
fn check_version(cluster: &Cluster, local_id: u64, log: &Log) -> Result<(), Failure> {
    let refused = || Failure::from("incompatible with current running cluster");
    let own = parse_version(CLUSTER_VERSION).ok_or_else(refused)?;
    let mut answered = false;
    for member in cluster.members.iter().filter(|m| m.id != local_id) {
        let Some((url, versions)) = member.peer_urls.iter().find_map(|url| version_at(url)) else {
            warn!(log, "failed to get version of remote member",
                "remote-member-id" => format!("{:x}", member.id));
            continue;
        };
        answered = true;
        // A cluster that has not decided yet can decide for this member's version.
        let Some(version) = versions["etcdcluster"].as_str().and_then(parse_version) else {
            continue;
        };
        if (CLUSTER_VERSION_MIN..=own).contains(&version) {
            continue;
        }
        // Asked only now: the answer waits for a quorum, which a cluster that grows from one member lacks at this moment.
        let downgrading = fetch::get(&url, "/downgrade/enabled", JOIN_PATIENCE)
            .is_ok_and(|response| response.body.trim_ascii() == b"true");
        if !downgrading || version != (own.0, own.1 + 1) {
            warn!(log, "cluster version of remote member is not compatible",
                "remote-member-id" => format!("{:x}", member.id),
                "remote-member-cluster-version" => format!("{}.{}", version.0, version.1),
                "maximum-cluster-version-supported" => format!("{}.{}", own.0, own.1));
            return Err(refused());
        }
    }
    match answered {
        true => Ok(()),
        false => Err(refused()),
    }
}

fn version_at(url: &str) -> Option<(Url, Value)> {
    let url = Url::parse(url).ok()?;
    let response = fetch::get(&url, "/version", JOIN_PATIENCE).ok()?;
    let versions = serde_json::from_slice(&response.body).ok()?;
    Some((url, versions))
}
