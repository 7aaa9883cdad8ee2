//! The membership of a snapshot as etcd's old store has it: a tree of nodes in JSON.
//!
//! Up to 3.5 it is what a member goes by, whatever the database says; 3.6 wants it as well. Only what such a member needs
//! is written: anything else makes one of the versions stop.

use super::backend::{hex, Membership};
use crate::store::members::{is_learner, peer_urls};
use proto::membershippb::{Attributes, Member, RaftAttributes};
use serde_json::{json, Map, Value};

const MEMBERS: &str = "/0/members";
const REMOVED: &str = "/0/removed_members";
const VERSION: &str = "/0/version";
/// No end.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect()
        }
        _ => None,
    }
}

fn raft_attributes(json: &Value) -> Option<RaftAttributes> {
    let peer_urls = strings(&json["peerURLs"])?;
    (json.is_object() && !peer_urls.is_empty()).then(|| RaftAttributes {
        peer_urls,
        is_learner: json["isLearner"].as_bool().unwrap_or(false),
    })
}

fn attributes(json: &Value) -> Option<Attributes> {
    Some(Attributes {
        name: json["name"].as_str().unwrap_or_default().to_owned(),
        client_urls: strings(&json["clientURLs"])?,
    })
}

/// A member as a row of the bucket `members` has it.
pub fn member_of_row(json: &Value) -> Option<Member> {
    Some(Member {
        id: json["id"].as_u64()?,
        raft_attributes: Some(raft_attributes(json)?),
        member_attributes: Some(attributes(json)?),
    })
}

/// Reads the tree.
pub fn decode(data: &[u8]) -> Result<Membership, &'static str> {
    let json: Value = serde_json::from_slice(data).map_err(|_| "it is no JSON")?;
    let zero = &json["Root"]["Children"]["0"]["Children"];
    let children = |name: &str| zero[name]["Children"].as_object();
    let mut membership = Membership::default();
    for (id, node) in children("members").into_iter().flatten() {
        let id = hex(id.as_bytes()).ok_or("a member's id is malformed")?;
        let value = |name: &str| {
            let text = node["Children"][name]["Value"].as_str();
            text.and_then(|text| serde_json::from_str::<Value>(text).ok())
        };
        let raft = value("raftAttributes").and_then(|json| raft_attributes(&json));
        let member = Member {
            id,
            raft_attributes: Some(raft.ok_or("a member has no peer URLs")?),
            member_attributes: value("attributes").and_then(|json| attributes(&json)),
        };
        membership.members.insert(id, member);
    }
    for id in children("removed_members").into_iter().flatten() {
        let id = hex(id.0.as_bytes()).ok_or("a removed member's id is malformed")?;
        membership.removed.insert(id);
    }
    if let Some(text) = zero["version"]["Value"].as_str() {
        let version = text
            .parse()
            .map_err(|_| "the cluster version is malformed")?;
        membership.cluster_version = Some(version);
    }
    Ok(membership)
}

fn node(path: &str, value: String, children: Option<Map<String, Value>>) -> Value {
    json!({
        "Path": path,
        "CreatedIndex": 0,
        "ModifiedIndex": 0,
        "ExpireTime": NEVER,
        "Value": value,
        "Children": children,
    })
}

fn leaf(path: &str, value: String) -> Value {
    node(path, value, None)
}

fn directory(path: &str, children: Map<String, Value>) -> Value {
    node(path, String::new(), Some(children))
}

fn member_node(member: &Member) -> Value {
    let path = format!("{MEMBERS}/{:x}", member.id);
    let mut raft = Map::new();
    raft.insert("peerURLs".into(), peer_urls(member).into());
    if is_learner(member) {
        raft.insert("isLearner".into(), true.into());
    }
    let mut children = Map::new();
    let mut put = |name: &str, json: Map<String, Value>| {
        let value = leaf(&format!("{path}/{name}"), Value::Object(json).to_string());
        children.insert(name.into(), value);
    };
    put("raftAttributes", raft);
    let published = member.member_attributes.as_ref();
    if let Some(attributes) = published.filter(|a| **a != Attributes::default()) {
        let mut json = Map::new();
        if !attributes.name.is_empty() {
            json.insert("name".into(), attributes.name.as_str().into());
        }
        if !attributes.client_urls.is_empty() {
            json.insert(
                "clientURLs".into(),
                attributes.client_urls.as_slice().into(),
            );
        }
        put("attributes", json);
    }
    directory(&path, children)
}

/// Writes the tree.
pub fn encode(membership: &Membership) -> Vec<u8> {
    let members = membership.members.values();
    let members = members.map(|member| (format!("{:x}", member.id), member_node(member)));
    let removed = membership.removed.iter().map(|id| {
        let path = format!("{REMOVED}/{id:x}");
        (format!("{id:x}"), leaf(&path, String::new()))
    });
    let mut zero = Map::new();
    zero.insert("members".into(), directory(MEMBERS, members.collect()));
    zero.insert(
        "removed_members".into(),
        directory(REMOVED, removed.collect()),
    );
    if let Some(version) = membership.cluster_version {
        zero.insert("version".into(), leaf(VERSION, version.to_string()));
    }
    let mut root = Map::new();
    root.insert("0".into(), directory("/0", zero));
    root.insert("1".into(), directory("/1", Map::new()));
    let tree = json!({
        "Root": directory("/", root),
        "CurrentIndex": 0,
        "CurrentVersion": 2,
    });
    tree.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_comes_back() {
        let member = |id: u64, is_learner, name: &str| Member {
            id,
            raft_attributes: Some(RaftAttributes {
                peer_urls: vec![format!("http://{id}:2380")],
                is_learner,
            }),
            member_attributes: (!name.is_empty()).then(|| Attributes {
                name: name.into(),
                client_urls: vec!["http://a:1".into(), "http://b:1".into()],
            }),
        };
        let members = [member(1, false, "one"), member(u64::MAX, true, "")];
        let membership = Membership {
            members: members.into_iter().map(|m| (m.id, m)).collect(),
            removed: [7, 8].into(),
            cluster_version: Some(crate::store::ClusterVersion::new(3, 5)),
        };
        assert_eq!(decode(&encode(&membership)), Ok(membership));
        let empty = Membership::default();
        assert_eq!(decode(&encode(&empty)), Ok(empty));
    }

    #[test]
    fn what_is_malformed_is_told() {
        assert!(decode(b"").is_err());
        let tree = encode(&Membership {
            removed: [7].into(),
            ..Membership::default()
        });
        let text = String::from_utf8(tree).unwrap();
        assert!(decode(text.replace("\"7\"", "\"seven\"").as_bytes()).is_err());
    }
}
