//! What a new member asks of the others before it starts: whether it exists already, and, when it joins a running
//! cluster, who it is there.

use super::{fetch, Failure, CLUSTER_VERSION};
use crate::{
    config::{Config, Url},
    identity::{self, Founding, Resolver},
    services::parse_version,
};
use engine::wal::Identity;
use serde_json::Value;
use std::time::Duration;

/// Patience with each URL before a cluster is founded, where most often nobody answers yet.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// Patience with each URL of a cluster that runs.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// The oldest cluster that can be joined.
const CLUSTER_VERSION_MIN: (u64, u64) = (3, 0);

/// A member as the peer port lists it.
struct Listed {
    id: u64,
    name: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    is_learner: bool,
}

struct Cluster {
    id: u64,
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
    let Some(cluster) = urls.iter().find_map(|url| cluster_at(url, PROBE_PATIENCE)) else {
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
pub fn join(config: &Config, resolver: &dyn Resolver) -> Result<Identity, Failure> {
    let local = identity::joining(config)?;
    let mut others = local.other_urls(&config.name);
    others.sort();
    let cluster = others
        .iter()
        .find_map(|url| cluster_at(url, JOIN_PATIENCE))
        .ok_or(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        )?;
    let member_id = matched(config, &local, &cluster, resolver)
        .map_err(|why| format!("error validating peerURLs {}: {why}", shown(&cluster)))?;
    check_version(&others)?;
    Ok(Identity {
        cluster_id: cluster.id,
        member_id,
    })
}

fn cluster_at(url: &Url, patience: Duration) -> Option<Cluster> {
    let response = fetch::get(url, "/members", patience).ok()?;
    if response.status != 200 {
        return None;
    }
    let id = u64::from_str_radix(response.header("x-etcd-cluster-id")?, 16).ok()?;
    let list: Value = serde_json::from_slice(&response.body).ok()?;
    let members = list.as_array()?.iter().map(listed);
    Some(Cluster {
        id,
        members: members.collect::<Option<_>>()?,
    })
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
/// there gives the identifier.
fn matched(
    config: &Config,
    local: &identity::InitialCluster,
    cluster: &Cluster,
    resolver: &dyn Resolver,
) -> Result<u64, String> {
    let mut configured: Vec<(&str, &[Url])> = local.members().collect();
    if configured.len() != cluster.members.len() {
        return Err("member count is unequal".into());
    }
    let mut own = None;
    for member in &cluster.members {
        let urls: Result<Vec<Url>, _> = member.peer_urls.iter().map(|u| Url::parse(u)).collect();
        let urls = urls.map_err(|error| error.to_string())?;
        let mut last = None;
        let at = configured.iter().position(|(_, theirs)| {
            identity::urls_match(&urls, theirs, resolver)
                .map_err(|why| last = Some(why))
                .is_ok()
        });
        let Some(at) = at else {
            return Err(format!(
                "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({})",
                member.id,
                member.peer_urls.join(" "),
                last.map_or(String::new(), |why| why.to_string()),
            ));
        };
        let (name, _) = configured.remove(at);
        if name == config.name {
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

/// The cluster must not speak a newer version than this member.
fn check_version(others: &[Url]) -> Result<(), Failure> {
    let refused = || Failure::from("incompatible with current running cluster");
    let own = parse_version(CLUSTER_VERSION).ok_or_else(refused)?;
    let mut answered = false;
    for url in others {
        let Ok(response) = fetch::get(url, "/version", JOIN_PATIENCE) else {
            continue;
        };
        let Ok(versions) = serde_json::from_slice::<Value>(&response.body) else {
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
        let downgrading = fetch::get(url, "/downgrade/enabled", JOIN_PATIENCE)
            .is_ok_and(|response| response.body.trim_ascii() == b"true");
        if !downgrading || version != (own.0, own.1 + 1) {
            return Err(refused());
        }
    }
    match answered {
        true => Ok(()),
        false => Err(refused()),
    }
}
