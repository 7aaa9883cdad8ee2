//! `--force-new-cluster`: the data of one member of a cluster that is lost becomes a cluster of its own.
//!
//! The log is continued with the changes that remove every other member, and the commit index is set behind them, in one
//! write: after a crash either none of it is there or all. Applying them is the member's ordinary business. Member and
//! cluster keep their identifiers and the member its recorded URLs.
//!
//! etcd drops what the log holds behind the stored commit index. Here it stays, as committed: ringd stores the commit index
//! along with the next entries, so that the last entries of a log may have been acknowledged without it.

use super::{assemble::change_entry, Failure};
use engine::store::Store;
use prost::Message;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use raft::Initial;
use std::collections::{BTreeMap, BTreeSet};

/// A member once everything in the log is applied.
struct Known {
    is_voter: bool,
    peer_urls: Vec<String>,
}

type Members = BTreeMap<u64, Known>;

/// Continues the log in `initial` so that member `me` ends up as the only one, all of it committed. The result is what
/// must be written for that, with the hard state of `initial`; nothing if the member is alone already.
pub fn leave_alone(
    me: u64,
    peer_urls: &[String],
    store: &Store,
    initial: &mut Initial,
) -> Result<Vec<Entry>, Failure> {
    let (members, removed) = members_at_end(store, initial)?;
    if store.is_removed_member(me) || removed.contains(&me) {
        return Err(format!(
            "member {me:x} was removed from its cluster and cannot be forced into a new one: take the data of another \
             member, or restore a snapshot"
        )
        .into());
    }
    if members.is_empty() {
        return Err(
            "the data directory holds no cluster yet: start it without --force-new-cluster".into(),
        );
    }
    let (last_index, last_term) = match initial.entries.last() {
        Some(last) => (last.index(), last.term()),
        None => initial.start,
    };
    let term = initial.hard_state.term().max(last_term);
    let mut changes = Vec::new();
    let mut change = |kind, member, context| {
        let index = last_index + 1 + changes.len() as u64;
        changes.push(change_entry(term, index, kind, member, context));
    };
    // This member first: a configuration without voters cannot be.
    match members.get(&me) {
        Some(known) if known.is_voter => {}
        Some(_) => {
            let context = serde_json::json!({ "id": me, "peerURLs": null, "isPromote": true });
            change(ConfChangeType::ConfChangeAddNode, me, Some(context));
        }
        None => {
            refuse_known_urls(&members, peer_urls)?;
            let context = serde_json::json!({ "id": me, "peerURLs": peer_urls });
            change(ConfChangeType::ConfChangeAddNode, me, Some(context));
        }
    }
    for other in members.keys().filter(|id| **id != me) {
        change(ConfChangeType::ConfChangeRemoveNode, *other, None);
    }
    initial.entries.extend(changes.iter().cloned());
    initial.hard_state.term = Some(term);
    initial.hard_state.commit = Some(last_index + changes.len() as u64);
    Ok(changes)
}

/// The members once everything in the log is applied, and those that the log removes.
fn members_at_end(store: &Store, initial: &Initial) -> Result<(Members, BTreeSet<u64>), Failure> {
    let state = store.conf_state();
    if !state.voters_outgoing.is_empty() {
        return Err(
            "the data directory is in the middle of a joint configuration change, which --force-new-cluster cannot end"
                .into(),
        );
    }
    let known = |id: &u64, is_voter: bool| {
        let attributes = store.member(*id).and_then(|m| m.raft_attributes.as_ref());
        let peer_urls = attributes.map_or(Vec::new(), |attributes| attributes.peer_urls.clone());
        let known = Known {
            is_voter,
            peer_urls,
        };
        (*id, known)
    };
    let voters = state.voters.iter().map(|id| known(id, true));
    let learners = state.learners.iter().map(|id| known(id, false));
    let mut members: Members = voters.chain(learners).collect();
    let mut removed = BTreeSet::new();
    let unapplied = initial
        .entries
        .iter()
        .filter(|entry| entry.index() > initial.applied);
    for entry in unapplied {
        match entry.r#type() {
            EntryType::EntryNormal => continue,
            EntryType::EntryConfChange => {}
            EntryType::EntryConfChangeV2 => {
                return Err(format!(
                    "log entry {} is a joint configuration change, which --force-new-cluster cannot carry out",
                    entry.index()
                )
                .into())
            }
        }
        let change = ConfChange::decode(entry.data.clone().unwrap_or_default())
            .map_err(|error| format!("log entry {} cannot be read: {error}", entry.index()))?;
        // One that will be refused when it is applied may count here: removing a member that is none changes nothing.
        let (id, kind) = (change.node_id(), change.r#type());
        if kind == ConfChangeType::ConfChangeRemoveNode {
            members.remove(&id);
            removed.insert(id);
            continue;
        }
        let adds_voter = kind == ConfChangeType::ConfChangeAddNode;
        let member = members.entry(id).or_insert(Known {
            is_voter: adds_voter,
            peer_urls: Vec::new(),
        });
        member.is_voter |= adds_voter;
        let urls = peer_urls_of(change.context.as_deref().unwrap_or_default());
        if !urls.is_empty() {
            member.peer_urls = urls;
        }
    }
    members.remove(&0);
    Ok((members, removed))
}

/// The URLs in the context of a change; a promotion has none.
fn peer_urls_of(context: &[u8]) -> Vec<String> {
    let context: serde_json::Value = serde_json::from_slice(context).unwrap_or_default();
    let urls = context["peerURLs"].as_array().into_iter().flatten();
    let urls = urls.filter_map(|url| url.as_str());
    urls.map(str::to_owned).collect()
}

/// A member that the log does not name yet is added with its configured URLs, which must be free.
fn refuse_known_urls(members: &Members, peer_urls: &[String]) -> Result<(), Failure> {
    for (id, member) in members {
        if let Some(url) = peer_urls.iter().find(|url| member.peer_urls.contains(url)) {
            return Err(format!(
                "the data directory does not list this member yet, and its --initial-advertise-peer-urls has {url}, which \
                 is that of member {id:x}: start with another URL"
            )
            .into());
        }
    }
    Ok(())
}
