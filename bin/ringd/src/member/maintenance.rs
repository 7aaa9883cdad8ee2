//! Status, leader transfer, downgrade checks, and ranges sent as a stream.

use super::{read::encode, Effect, Member};
use crate::{
    request::CallId,
    services::parse_version,
    status::{code, Status},
};
use engine::{error::RequestError, page::Miss};
use proto::etcdserverpb::{self as pb, downgrade_request::DowngradeAction};

/// Keys in the first message of a range stream.
const STREAM_KEYS_FIRST: i64 = 10;

impl Member {
    /// Answered from what this member knows, leader or not.
    pub(super) fn status(&mut self, call: CallId) {
        let mut errors = Vec::new();
        if self.node.leader() == 0 {
            errors.push(RequestError::NoLeader.message().to_string());
        }
        for alarm in self.store.alarms() {
            let member = match alarm.member_id {
                0 => String::new(),
                id => format!("memberID:{id} "),
            };
            errors.push(format!("{member}alarm:{} ", alarm.alarm().as_str_name()));
        }
        let (applied, _) = self.store.applied();
        let size = self.store.pages().file_bytes();
        let response = pb::StatusResponse {
            header: Some(self.header(self.store.revision())),
            version: self.config.version.to_string(),
            db_size: size as i64,
            leader: self.node.leader(),
            raft_index: self.node.commit_index(),
            raft_term: self.node.term(),
            raft_applied_index: applied,
            errors,
            db_size_in_use: (size - self.store.pages().free_bytes().min(size)) as i64,
            is_learner: self.is_learner(),
            ..Default::default()
        };
        self.reply(call, Ok(encode(&response)));
    }

    /// The version's form was checked already; here it is held against the cluster's.
    pub(super) fn downgrade(&mut self, call: CallId, request: &pb::DowngradeRequest) {
        let result = self.check_downgrade(request).map(|version| {
            encode(&pb::DowngradeResponse {
                header: Some(self.header(self.store.revision())),
                version,
            })
        });
        self.reply(call, result);
    }

    fn check_downgrade(&self, request: &pb::DowngradeRequest) -> Result<String, Status> {
        let version = self
            .store
            .cluster_version()
            .ok_or(RequestError::ClusterVersionUnavailable)?
            .to_string();
        if request.action() == DowngradeAction::Cancel {
            return Err(RequestError::NoInflightDowngrade.into());
        }
        let (major, minor) =
            parse_version(&version).ok_or(RequestError::ClusterVersionUnavailable)?;
        let target =
            parse_version(&request.version).ok_or(RequestError::WrongDowngradeVersionFormat)?;
        if target.0 != major || target.1 + 1 != minor {
            return Err(RequestError::InvalidDowngradeTarget.into());
        }
        if request.action() == DowngradeAction::Enable {
            return Err(Status::new(
                code::UNIMPLEMENTED,
                "ringd does not downgrade clusters",
            ));
        }
        Ok(version)
    }

    /// Sends a range as a series of messages. All of them show one revision, because one step produces them all.
    pub(super) fn range_stream(
        &mut self,
        call: CallId,
        range: &pb::RangeRequest,
    ) -> Result<(), Miss> {
        let response = match self.store.range(range)? {
            Ok(response) => response,
            Err(error) => {
                self.effects.push(Effect::End {
                    call,
                    status: Some(error.into()),
                });
                return Ok(());
            }
        };
        let chunk_bytes_target = self.config.request_bytes_max;
        let revision = self.store.revision();
        let (more, count) = (response.more, response.count);
        let mut kvs = response.kvs.into_iter().peekable();
        let mut limit = STREAM_KEYS_FIRST;
        loop {
            let chunk: Vec<_> = kvs.by_ref().take(limit as usize).collect();
            let last = kvs.peek().is_none();
            let mut message = pb::RangeResponse {
                kvs: chunk,
                ..Default::default()
            };
            let bytes = prost::Message::encoded_len(&message);
            if bytes < chunk_bytes_target / 2 {
                limit = limit.saturating_mul(2);
            } else if bytes > chunk_bytes_target * 2 {
                limit = (limit / 2).max(1);
            }
            if last {
                message.header = Some(self.header(revision));
                message.more = more;
                message.count = count;
            }
            self.effects.push(Effect::Stream {
                call,
                message: encode(&pb::RangeStreamResponse {
                    range_response: Some(message),
                }),
            });
            if last {
                break;
            }
        }
        self.effects.push(Effect::End { call, status: None });
        Ok(())
    }
}
