//! Membership: the members as the log made them, and the check of a configuration change against them.
//!
//! Raft's own configuration follows what is decided here: an invalid change is a no-op for Raft too.

use super::settings::{member_key, removed_member_key};
use super::Store;
use crate::error::RequestError;
use crate::page::Miss;
use prost::Message;
use proto::etcdserverpb;
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, Member, RaftAttributes};
use proto::raftpb::{ConfChange, ConfChangeType, ConfState};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Members {
    pub current: BTreeMap<u64, Member>,
    /// Ids that never come back.
    pub removed: BTreeSet<u64>,
}

/// A configuration change that is valid for the present members.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberChange {
    Add(Member),
    Promote { id: u64 },
    Remove { id: u64 },
    Update { id: u64, peer_urls: Vec<String> },
}

/// A configuration change that no etcd member can apply either: the member must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConfChange {
    pub reason: String,
}

impl fmt::Display for BadConfChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration change in the log: {}", self.reason)
    }
}

impl std::error::Error for BadConfChange {}

/// The context of a change, as far as a change can have one.
struct Context {
    member: Member,
    promote: bool,
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

fn parse_context(context: &[u8]) -> Result<Context, BadConfChange> {
    let bad = |reason: &str| BadConfChange {
        reason: format!("context {reason}"),
    };
    let json: Value = serde_json::from_slice(context).map_err(|e| bad(&e.to_string()))?;
    let flag = |name: &str| json[name].as_bool().unwrap_or(false);
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let urls = |name: &str| strings(&json[name]).ok_or_else(|| bad("has urls that are no strings"));
    if !json.is_object() {
        return Err(bad("is no object"));
    }
    Ok(Context {
        member: Member {
            id: json["id"].as_u64().unwrap_or(0),
            raft_attributes: Some(RaftAttributes {
                peer_urls: urls("peerURLs")?,
                is_learner: flag("isLearner"),
            }),
            member_attributes: Some(Attributes {
                name: text("name"),
                client_urls: urls("clientURLs")?,
            }),
        },
        promote: flag("isPromote"),
    })
}

pub(crate) fn peer_urls(member: &Member) -> &[String] {
    let attributes = member.raft_attributes.as_ref();
    attributes.map_or(&[], |attributes| &attributes.peer_urls)
}

pub(crate) fn is_learner(member: &Member) -> bool {
    let attributes = member.raft_attributes.as_ref();
    attributes.is_some_and(|attributes| attributes.is_learner)
}

fn promote(member: &mut Member) {
    if let Some(attributes) = &mut member.raft_attributes {
        attributes.is_learner = false;
    }
}

fn set_peer_urls(member: &mut Member, peer_urls: &[String]) {
    let attributes = member.raft_attributes.get_or_insert_default();
    attributes.peer_urls = peer_urls.to_vec();
}

impl Members {
    /// Whether another member than `but` uses one of the URLs.
    fn uses_any(&self, urls: &[String], but: Option<u64>) -> bool {
        self.current
            .iter()
            .filter(|(&id, _)| Some(id) != but)
            .any(|(_, member)| urls.iter().any(|url| peer_urls(member).contains(url)))
    }

    fn check_add(&self, member: Member, learners_max: usize) -> Result<MemberChange, RequestError> {
        if self.current.contains_key(&member.id) {
            return Err(RequestError::MemberIdExists);
        }
        if self.uses_any(peer_urls(&member), None) {
            return Err(RequestError::PeerUrlsExist);
        }
        let learners = self.current.values().filter(|m| is_learner(m)).count();
        if is_learner(&member) && learners >= learners_max {
            return Err(RequestError::TooManyLearners);
        }
        Ok(MemberChange::Add(member))
    }

    fn check_promote(&self, id: u64) -> Result<MemberChange, RequestError> {
        match self.current.get(&id) {
            None => Err(RequestError::MemberNotFound),
            Some(member) if !is_learner(member) => Err(RequestError::MemberNotLearner),
            Some(_) => Ok(MemberChange::Promote { id }),
        }
    }

    fn check_update(&self, member: Member, id: u64) -> Result<MemberChange, RequestError> {
        let urls = peer_urls(&member);
        if !self.current.contains_key(&id) {
            return Err(RequestError::MemberNotFound);
        }
        if self.uses_any(urls, Some(id)) {
            return Err(RequestError::PeerUrlsExist);
        }
        Ok(MemberChange::Update {
            id,
            peer_urls: urls.to_vec(),
        })
    }

    fn check(
        &self,
        change: &ConfChange,
        learners_max: usize,
    ) -> Result<Result<MemberChange, RequestError>, BadConfChange> {
        let id = change.node_id.unwrap_or(0);
        let kind =
            ConfChangeType::try_from(change.r#type.unwrap_or(0)).map_err(|_| BadConfChange {
                reason: "unknown type".into(),
            })?;
        if self.removed.contains(&id) {
            return Ok(Err(RequestError::MemberNotFound));
        }
        if kind == ConfChangeType::ConfChangeRemoveNode {
            return Ok(match self.current.contains_key(&id) {
                true => Ok(MemberChange::Remove { id }),
                false => Err(RequestError::MemberNotFound),
            });
        }
        let mut context = parse_context(change.context.as_deref().unwrap_or_default())?;
        context.member.id = id;
        Ok(match kind {
            ConfChangeType::ConfChangeUpdateNode => self.check_update(context.member, id),
            _ if context.promote => self.check_promote(id),
            _ => self.check_add(context.member, learners_max),
        })
    }
}

impl Store {
    /// Decides whether a configuration change holds for the members as they are when its entry is applied. Anything
    /// but `Ok(Ok(..))` must reach Raft as a change of node 0, or stop the member.
    pub fn check_conf_change(
        &self,
        change: &ConfChange,
    ) -> Result<Result<MemberChange, RequestError>, BadConfChange> {
        let members = &self.settings.members;
        members.check(change, self.options.learners_max)
    }

    /// Applies a configuration change entry. `change` is what [`Store::check_conf_change`] accepted, `None` if it
    /// refused; `conf_state` is Raft's configuration after the change.
    pub fn apply_conf_change(
        &mut self,
        index: u64,
        term: u64,
        change: Option<&MemberChange>,
        conf_state: ConfState,
    ) -> Result<(), Miss> {
        if index <= self.applied_index {
            return Ok(());
        }
        self.results.begin();
        if let Some(change) = change {
            self.change_members(change)?;
        }
        self.results.message(&conf_state);
        self.conf_state = conf_state;
        self.entry_applied(index, term);
        Ok(())
    }

    /// Has later changes checked as if this one had been applied. For a store that is about to be replaced by one that has.
    pub fn note_conf_change(&mut self, change: &MemberChange) {
        let members = &mut self.settings.members;
        match change {
            MemberChange::Add(member) => {
                members.current.insert(member.id, member.clone());
            }
            MemberChange::Promote { id } => {
                if let Some(member) = members.current.get_mut(id) {
                    promote(member);
                }
            }
            MemberChange::Update { id, peer_urls } => {
                if let Some(member) = members.current.get_mut(id) {
                    set_peer_urls(member, peer_urls);
                }
            }
            MemberChange::Remove { id } => {
                members.current.remove(id);
                members.removed.insert(*id);
            }
        }
    }

    fn change_members(&mut self, change: &MemberChange) -> Result<(), Miss> {
        match change {
            MemberChange::Add(member) => self.set_member(member.clone()),
            MemberChange::Promote { id } => self.change_member(*id, promote),
            MemberChange::Update { id, peer_urls } => {
                self.change_member(*id, |member| set_peer_urls(member, peer_urls))
            }
            MemberChange::Remove { id } => {
                self.replace(&member_key(*id), &removed_member_key(*id))?;
                self.settings.members.current.remove(id);
                self.settings.members.removed.insert(*id);
                Ok(())
            }
        }
    }

    fn change_member(&mut self, id: u64, edit: impl FnOnce(&mut Member)) -> Result<(), Miss> {
        let Some(mut member) = self.settings.members.current.get(&id).cloned() else {
            return Ok(());
        };
        edit(&mut member);
        self.set_member(member)
    }

    fn set_member(&mut self, member: Member) -> Result<(), Miss> {
        self.set(&member_key(member.id), &member.encode_to_vec())?;
        self.settings.members.current.insert(member.id, member);
        Ok(())
    }

    /// A member publishes its name and client URLs. Ignored for a removed member; for an unknown one, or without
    /// attributes, etcd panics and this entry has no effect.
    pub(super) fn apply_member_attributes(
        &mut self,
        request: &ClusterMemberAttrSetRequest,
    ) -> Result<Result<(), RequestError>, Miss> {
        let id = request.member_id;
        if self.settings.members.removed.contains(&id) {
            return Ok(Ok(()));
        }
        let known = self.settings.members.current.contains_key(&id);
        let Some(attributes) = request.member_attributes.as_ref().filter(|_| known) else {
            return Ok(Err(RequestError::MemberNotFound));
        };
        self.change_member(id, |member| {
            member.member_attributes = Some(attributes.clone());
        })?;
        Ok(Ok(()))
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.settings.members.current.values()
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.settings.members.current.get(&id)
    }

    pub fn is_removed_member(&self, id: u64) -> bool {
        self.settings.members.removed.contains(&id)
    }

    pub fn removed_members(&self) -> impl Iterator<Item = u64> + '_ {
        self.settings.members.removed.iter().copied()
    }

    /// The members as MemberList shows them.
    pub fn member_list(&self) -> Vec<etcdserverpb::Member> {
        let show = |member: &Member| {
            let attributes = member.member_attributes.clone().unwrap_or_default();
            etcdserverpb::Member {
                id: member.id,
                name: attributes.name,
                peer_ur_ls: peer_urls(member).to_vec(),
                client_ur_ls: attributes.client_urls,
                is_learner: is_learner(member),
            }
        };
        self.members().map(show).collect()
    }

    /// Raft's configuration after the last applied change.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }
}
