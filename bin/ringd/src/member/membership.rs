//! Adding, removing, promoting and moving members: the checks before a change is proposed, and the callers that wait.
//!
//! The rules are etcd's `strict-reconfig-check`: a change must leave enough started members for a quorum, and enough of
//! them must be connected here. Whether a change holds for the members as they are is decided once more when its entry is
//! applied, alike on every member. A caller waits as long as it likes: the change is proposed again while nothing comes
//! of it, which is safe because a change that was applied already is refused the second time.

use super::{read::encode, Effect, Member};
use crate::{
    config::Url,
    identity::{self, Salt},
    peers::{PeerAsk, PeerFailure},
    request::{CallId, Request},
    status::{code, Status},
};
use bytes::Bytes;
use engine::error::RequestError;
use proto::{
    etcdserverpb as pb,
    raftpb::{ConfChange, ConfChangeType},
};
use raft::Role;
use std::collections::{BTreeMap, VecDeque};

/// Membership changes waiting at once; the next caller is told to slow down.
const CHANGES_WAITING_MAX: usize = 64;
/// A learner may become a voter when it holds this share of the leader's log, in tenths.
const LEARNER_READY_TENTHS: u64 = 9;

/// A change that was asked for here and is not applied yet.
struct Waiting {
    call: CallId,
    change: ConfChange,
    kind: Kind,
    propose_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Add,
    Remove,
    Update,
    Promote,
}

/// A promotion that the leader is to make.
struct Passed {
    call: CallId,
    learner: u64,
    deadline_ns: u64,
}

#[derive(Default)]
pub(super) struct Changes {
    waiting: VecDeque<Waiting>,
    passed: BTreeMap<u64, Passed>,
    /// Promotions that wait for a leader.
    unpassed: Vec<Passed>,
    /// Promotions that the leader has made and this member is yet to apply.
    promoted: Vec<Passed>,
}

impl Changes {
    pub fn forget(&mut self, call: CallId) {
        self.waiting.retain(|waiting| waiting.call != call);
        self.passed.retain(|_, passed| passed.call != call);
        self.unpassed.retain(|passed| passed.call != call);
        self.promoted.retain(|passed| passed.call != call);
    }

    /// Promotions that another member is to make.
    fn not_here(&self) -> usize {
        self.passed.len() + self.unpassed.len() + self.promoted.len()
    }
}

impl Member {
    pub(super) fn ask_change(&mut self, call: CallId, request: &Request, now_ns: u64) {
        let result = match request {
            Request::MemberAdd(request) => self.member_add(call, request, now_ns),
            Request::MemberRemove(request) => self.member_remove(call, request.id, now_ns),
            Request::MemberUpdate(request) => self.member_update(call, request, now_ns),
            Request::MemberPromote(request) => self.member_promote(call, request.id, now_ns),
            _ => Err(RequestError::UnknownMethod.into()),
        };
        if let Err(status) = result {
            self.reply(call, Err(status));
        }
    }

    fn member_add(
        &mut self,
        call: CallId,
        request: &pb::MemberAddRequest,
        now_ns: u64,
    ) -> Result<(), Status> {
        let mut urls = valid_urls(&request.peer_ur_ls)?;
        urls.sort();
        self.check_add(request.is_learner, now_ns)?;
        let unix_s = ((self.config.unix_ms + now_ns / 1_000_000) / 1_000) as i64;
        let id = identity::member_id(&urls, Salt::Added { unix_s });
        let mut context = serde_json::json!({ "id": id, "peerURLs": urls });
        let mut kind = ConfChangeType::ConfChangeAddNode;
        if request.is_learner {
            context["isLearner"] = true.into();
            kind = ConfChangeType::ConfChangeAddLearnerNode;
        }
        context["isPromote"] = false.into();
        self.change(call, Kind::Add, kind, id, Some(context), now_ns)
    }

    fn member_remove(&mut self, call: CallId, id: u64, now_ns: u64) -> Result<(), Status> {
        // Whether there is such a member is for the log to tell: this one may have missed its addition.
        self.check_remove(id, now_ns)?;
        let kind = ConfChangeType::ConfChangeRemoveNode;
        self.change(call, Kind::Remove, kind, id, None, now_ns)
    }

    /// Unlike etcd, which takes any text and crashes other members with it, only URLs are taken.
    fn member_update(
        &mut self,
        call: CallId,
        request: &pb::MemberUpdateRequest,
        now_ns: u64,
    ) -> Result<(), Status> {
        let urls = valid_urls(&request.peer_ur_ls)?;
        let context = serde_json::json!({ "id": request.id, "peerURLs": urls });
        let kind = ConfChangeType::ConfChangeUpdateNode;
        let context = Some(context);
        self.change(call, Kind::Update, kind, request.id, context, now_ns)
    }

    /// Only the leader knows how far the learner is.
    pub(super) fn member_promote(
        &mut self,
        call: CallId,
        id: u64,
        now_ns: u64,
    ) -> Result<(), Status> {
        if self.node.role() == Role::Leader {
            return self.promote(call, id, now_ns);
        }
        if self.changes.not_here() >= CHANGES_WAITING_MAX {
            return Err(RequestError::TooManyRequests.into());
        }
        let passed = Passed {
            call,
            learner: id,
            deadline_ns: now_ns + self.config.request_timeout_ns(),
        };
        self.pass_promotion(passed);
        Ok(())
    }

    fn promote(&mut self, call: CallId, id: u64, now_ns: u64) -> Result<(), Status> {
        self.check_promote(id)?;
        let context = serde_json::json!({ "id": id, "peerURLs": null, "isPromote": true });
        let kind = ConfChangeType::ConfChangeAddNode;
        self.change(call, Kind::Promote, kind, id, Some(context), now_ns)
    }

    fn pass_promotion(&mut self, passed: Passed) {
        if !self.has_leader() {
            return self.changes.unpassed.push(passed);
        }
        let ask = self.next_ask();
        let request = PeerAsk::Promote(passed.learner);
        self.changes.passed.insert(ask, passed);
        self.effects.push(Effect::AskPeer {
            ask,
            peer: self.node.leader(),
            request,
        });
    }

    /// The leader made the promotion, or says why not. False if the question was another one.
    pub(super) fn promotion_answered(
        &mut self,
        ask: u64,
        result: &Result<Bytes, PeerFailure>,
    ) -> bool {
        let Some(passed) = self.changes.passed.remove(&ask) else {
            return false;
        };
        let text = match result {
            Ok(_) => {
                self.changes.promoted.push(passed);
                self.answer_promoted();
                return true;
            }
            Err(failure) => String::from_utf8_lossy(&failure.body).into_owned(),
        };
        let known = [
            RequestError::LearnerNotReady,
            RequestError::MemberNotLearner,
            RequestError::MemberNotFound,
            RequestError::MemberNotEnoughStarted,
        ];
        let matching = |error: &&RequestError| text.contains(tail(error.message()));
        let not_found = text
            .contains("not found")
            .then_some(RequestError::MemberNotFound);
        match known.iter().find(matching).copied().or(not_found) {
            Some(error) => self.reply(passed.call, Err(error.into())),
            None => self.changes.unpassed.push(passed), // no leader there any more: again
        }
        true
    }

    /// Answers promotions once the members that are told are those after it.
    fn answer_promoted(&mut self) {
        if self.changes.promoted.is_empty() {
            return;
        }
        let members = self.store.member_list();
        let is_learner = |id| members.iter().any(|m| m.id == id && m.is_learner);
        for passed in std::mem::take(&mut self.changes.promoted) {
            if is_learner(passed.learner) && passed.deadline_ns > self.now_ns {
                self.changes.promoted.push(passed);
            } else {
                let response = self.change_response(passed.call, Kind::Promote, passed.learner);
                self.reply(passed.call, Ok(response));
            }
        }
    }

    /// Proposes a change, or keeps it until the one before it is applied.
    fn change(
        &mut self,
        call: CallId,
        kind: Kind,
        raft_kind: ConfChangeType,
        id: u64,
        context: Option<serde_json::Value>,
        now_ns: u64,
    ) -> Result<(), Status> {
        if self.changes.waiting.len() >= CHANGES_WAITING_MAX {
            return Err(RequestError::TooManyRequests.into());
        }
        let mut change = ConfChange {
            id: Some(self.next_request_id()),
            node_id: Some(id),
            context: context.map(|context| context.to_string().into_bytes().into()),
            ..Default::default()
        };
        change.set_type(raft_kind);
        self.changes.waiting.push_back(Waiting {
            call,
            change,
            kind,
            propose_ns: now_ns,
        });
        self.propose_changes(now_ns);
        Ok(())
    }

    pub(super) fn propose_changes(&mut self, now_ns: u64) {
        self.answer_promoted();
        for passed in std::mem::take(&mut self.changes.unpassed) {
            if passed.deadline_ns <= now_ns {
                self.reply(passed.call, Err(RequestError::NoLeader.into()));
            } else if self.node.role() == Role::Leader {
                if let Err(status) = self.promote(passed.call, passed.learner, now_ns) {
                    self.reply(passed.call, Err(status));
                }
            } else {
                self.pass_promotion(passed);
            }
        }
        let again_ns = now_ns + self.config.request_timeout_ns();
        for waiting in &mut self.changes.waiting {
            if waiting.propose_ns > now_ns || self.node.unapplied_conf_changes() > 0 {
                continue;
            }
            // A refused change leaves an empty entry and is proposed again like one that got lost.
            if self
                .node
                .propose_conf_change(waiting.change.clone())
                .is_ok()
            {
                waiting.propose_ns = again_ns;
            }
        }
    }

    /// A change was applied, or refused by the members as they are; its caller may be here.
    pub(super) fn changed(&mut self, change: &ConfChange, result: Result<(), RequestError>) {
        self.answer_promoted();
        let id = change.id();
        let at = self
            .changes
            .waiting
            .iter()
            .position(|waiting| waiting.change.id() == id);
        let Some(waiting) = at.and_then(|at| self.changes.waiting.remove(at)) else {
            return;
        };
        let response = match result {
            Ok(()) => Ok(self.change_response(waiting.call, waiting.kind, change.node_id())),
            Err(error) => Err(error.into()),
        };
        self.reply(waiting.call, response);
    }

    /// What a caller is told of a change that was made: a client, or another member.
    fn change_response(&self, call: CallId, kind: Kind, id: u64) -> Bytes {
        match call.connection() == CallId::PEER_CONNECTION {
            true => self.members_json().into(),
            false => self.members_response(kind, id),
        }
    }

    fn members_response(&self, kind: Kind, id: u64) -> Bytes {
        let header = Some(self.header(0));
        let members = self.store.member_list();
        match kind {
            Kind::Add => encode(&pb::MemberAddResponse {
                header,
                member: members.iter().find(|member| member.id == id).cloned(),
                members,
            }),
            Kind::Remove => encode(&pb::MemberRemoveResponse { header, members }),
            Kind::Update => encode(&pb::MemberUpdateResponse { header, members }),
            Kind::Promote => encode(&pb::MemberPromoteResponse { header, members }),
        }
    }

    fn voters(&self) -> Vec<pb::Member> {
        let mut members = self.store.member_list();
        members.retain(|member| !member.is_learner);
        members
    }

    fn check_add(&self, learner: bool, now_ns: u64) -> Result<(), RequestError> {
        if !self.config.strict_reconfig_check {
            return Ok(());
        }
        let voters = self.voters();
        let after = voters.len() + 1;
        let started = started(&voters);
        let grows_from_one = started == 1 && after == 2;
        if !learner && !grows_from_one && started < quorum(after) {
            return Err(RequestError::MemberNotEnoughStarted);
        }
        if voters.len() > 1 && self.healthy_voters(now_ns) < quorum(after) {
            return Err(RequestError::Unhealthy);
        }
        Ok(())
    }

    fn check_remove(&self, id: u64, now_ns: u64) -> Result<(), RequestError> {
        let mut voters = self.voters();
        let before = voters.len();
        voters.retain(|member| member.id != id);
        if !self.config.strict_reconfig_check || voters.len() == before {
            return Ok(()); // a learner takes nothing with it
        }
        if started(&voters) < quorum(voters.len()) {
            return Err(RequestError::MemberNotEnoughStarted);
        }
        if !self.is_connected(id) {
            return Ok(());
        }
        if self.healthy_voters(now_ns).saturating_sub(1) < 1 + (before - 1) / 2 {
            return Err(RequestError::Unhealthy);
        }
        Ok(())
    }

    fn check_promote(&self, id: u64) -> Result<(), RequestError> {
        if self.store.member(id).is_none() {
            return Err(RequestError::MemberNotFound);
        }
        let status = self.node.status();
        let matched = match id == self.config.member_id {
            true => status.durable,
            false => status
                .peers
                .iter()
                .find(|peer| peer.id == id)
                .map_or(0, |peer| peer.matched),
        };
        if matched.saturating_mul(10) < status.durable.saturating_mul(LEARNER_READY_TENTHS) {
            return Err(RequestError::LearnerNotReady);
        }
        if !self.config.strict_reconfig_check {
            return Ok(());
        }
        let voters = self.voters();
        // The learner runs, or it could not be in sync.
        let is_voter = voters.iter().any(|member| member.id == id);
        if !is_voter && started(&voters) + 1 < quorum(voters.len() + 1) {
            return Err(RequestError::MemberNotEnoughStarted);
        }
        Ok(())
    }

    /// The members as etcd's peer port shows them.
    pub(super) fn members_json(&self) -> String {
        let members = self.store.member_list();
        let shown: Vec<Shown<'_>> = members.iter().map(Shown::of).collect();
        // Strings and numbers always have a JSON form.
        serde_json::to_string(&shown).unwrap_or_default()
    }
}

/// A member in etcd's JSON; its fields stand in etcd's order.
#[derive(serde::Serialize)]
struct Shown<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

impl Shown<'_> {
    fn of(member: &pb::Member) -> Shown<'_> {
        Shown {
            id: member.id,
            peer_urls: &member.peer_ur_ls,
            is_learner: member.is_learner,
            name: &member.name,
            client_urls: &member.client_ur_ls,
        }
    }
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

fn started(members: &[pb::Member]) -> usize {
    members.iter().filter(|m| !m.name.is_empty()).count()
}

/// A message without the name of the server in front: etcd's peer port says `membership:` for some.
fn tail(message: &'static str) -> &'static str {
    message.split_once(": ").map_or(message, |(_, tail)| tail)
}

fn valid_urls(urls: &[String]) -> Result<Vec<String>, Status> {
    let parsed: Result<Vec<_>, _> = urls.iter().map(|url| Url::parse(url)).collect();
    match parsed {
        Ok(urls) if !urls.is_empty() => Ok(urls.iter().map(|url| url.to_string()).collect()),
        _ => Err(Status::new(
            code::INVALID_ARGUMENT,
            RequestError::MemberUrlsInvalid.message(),
        )),
    }
}
