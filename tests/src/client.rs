//! The calls of a client of one member, by name: typed requests over [`Connection`].

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tonic::Code;

use crate::model::Refusal;
use crate::server::PATIENCE;
use crate::transport::{Connection, Extras, Stream};

/// Longer than any server lets a request wait (2 × (5 s + two election timeouts), linearizable reads without a quorum).
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Connects when it is used, again after every loss.
#[derive(Clone)]
pub struct Client {
    connection: Connection,
    extras: Extras,
}

/// `hasleader: true`, by which a caller asks to be told when there is no leader.
pub fn needs_leader() -> (String, String) {
    ("hasleader".to_owned(), "true".to_owned())
}

impl Client {
    pub fn new(url: &str) -> Self {
        Self {
            connection: Connection::lazy(url),
            extras: Extras {
                deadline: Some(CALL_DEADLINE),
                ..Default::default()
            },
        }
    }

    /// Over a connection that is there, and with as much patience as a test has.
    pub fn over(connection: Connection) -> Self {
        Self {
            connection,
            extras: Extras {
                deadline: Some(PATIENCE),
                ..Default::default()
            },
        }
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.extras.deadline = Some(deadline);
        self
    }

    /// Adds request metadata to every call.
    pub fn metadata(mut self, pair: (String, String)) -> Self {
        self.extras.metadata.push(pair);
        self
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// `method` as in `KV/Put`.
    pub async fn ask<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A, Refusal> {
        self.call(&format!("/etcdserverpb.{method}"), request).await
    }

    /// `path` as in `/v3lockpb.Lock/Lock`.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, Refusal> {
        let body = Bytes::from(request.encode_to_vec());
        let answer = self.connection.unary(path, body, &self.extras).await?;
        Ok(A::decode(answer).expect("the answer is a message"))
    }

    /// Gives the revision.
    pub async fn put(&self, key: &str, value: &str) -> Result<i64, Refusal> {
        self.put_with(key, value, 0).await
    }

    pub async fn put_with(&self, key: &str, value: &str, lease: i64) -> Result<i64, Refusal> {
        let request = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            lease,
            ..Default::default()
        };
        let answer: pb::PutResponse = self.ask("KV/Put", &request).await?;
        Ok(revision(answer.header))
    }

    /// The value of one key, by a linearizable read.
    pub async fn get(&self, key: &str) -> Result<Option<String>, Refusal> {
        Ok(value(&self.range(key, false).await?))
    }

    /// The value of one key as this member has it.
    pub async fn get_serializable(&self, key: &str) -> Result<Option<String>, Refusal> {
        Ok(value(&self.range(key, true).await?))
    }

    pub async fn range(&self, key: &str, serializable: bool) -> Result<pb::RangeResponse, Refusal> {
        let request = pb::RangeRequest {
            key: key.to_owned().into(),
            serializable,
            ..Default::default()
        };
        self.ask("KV/Range", &request).await
    }

    pub async fn grant(&self, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Refusal> {
        let request = pb::LeaseGrantRequest { ttl, id };
        self.ask("Lease/LeaseGrant", &request).await
    }

    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Refusal> {
        let request = pb::LeaseRevokeRequest { id };
        self.ask("Lease/LeaseRevoke", &request).await
    }

    pub async fn time_to_live(&self, id: i64) -> Result<pb::LeaseTimeToLiveResponse, Refusal> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        self.ask("Lease/LeaseTimeToLive", &request).await
    }

    /// One renewal on a stream of its own; the TTL, 0 if the lease is unknown.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, Refusal> {
        let mut stream = self.stream("Lease/LeaseKeepAlive");
        stream.send(pb::LeaseKeepAliveRequest { id }.encode_to_vec().into());
        match stream.next(CALL_DEADLINE).await {
            Some(Ok(answer)) => {
                let answer = pb::LeaseKeepAliveResponse::decode(answer);
                Ok(answer.expect("the answer is a message").ttl)
            }
            Some(Err(end)) => Err(end),
            None => Err(Refusal {
                code: Code::DeadlineExceeded as i32,
                message: crate::transport::OWN_DEADLINE.to_owned(),
            }),
        }
    }

    pub fn stream(&self, method: &str) -> Stream {
        let path = format!("/etcdserverpb.{method}");
        let extras = Extras {
            deadline: None,
            ..self.extras.clone()
        };
        self.connection.stream(&path, None, &extras)
    }

    /// Watches all keys with the prefix, from `start_revision` on (0: from now).
    pub fn watch(&self, prefix: &str, start_revision: i64) -> Stream {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let create = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end.into(),
            start_revision,
            ..Default::default()
        };
        let stream = self.stream("Watch/Watch");
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        stream.send(request.encode_to_vec().into());
        stream
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, Refusal> {
        self.ask("Maintenance/Status", &pb::StatusRequest {}).await
    }

    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Refusal> {
        let request = pb::HashKvRequest { revision };
        self.ask("Maintenance/HashKV", &request).await
    }

    pub async fn move_leader(&self, target_id: u64) -> Result<(), Refusal> {
        let request = pb::MoveLeaderRequest { target_id };
        let answer: Result<pb::MoveLeaderResponse, _> =
            self.ask("Maintenance/MoveLeader", &request).await;
        answer.map(drop)
    }

    pub async fn members(&self, linearizable: bool) -> Result<Vec<pb::Member>, Refusal> {
        let request = pb::MemberListRequest { linearizable };
        let answer: pb::MemberListResponse = self.ask("Cluster/MemberList", &request).await?;
        Ok(answer.members)
    }

    /// Gives the new member.
    pub async fn member_add(
        &self,
        peer_url: &str,
        is_learner: bool,
    ) -> Result<pb::Member, Refusal> {
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url.to_owned()],
            is_learner,
        };
        let answer: pb::MemberAddResponse = self.ask("Cluster/MemberAdd", &request).await?;
        Ok(answer.member.expect("the member that was added"))
    }

    /// Gives the members that are left.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<pb::Member>, Refusal> {
        let request = pb::MemberRemoveRequest { id };
        let answer: pb::MemberRemoveResponse = self.ask("Cluster/MemberRemove", &request).await?;
        Ok(answer.members)
    }

    pub async fn member_update(&self, id: u64, peer_url: &str) -> Result<(), Refusal> {
        let request = pb::MemberUpdateRequest {
            id,
            peer_ur_ls: vec![peer_url.to_owned()],
        };
        let answer: Result<pb::MemberUpdateResponse, _> =
            self.ask("Cluster/MemberUpdate", &request).await;
        answer.map(drop)
    }

    pub async fn member_promote(&self, id: u64) -> Result<(), Refusal> {
        let request = pb::MemberPromoteRequest { id };
        let answer: Result<pb::MemberPromoteResponse, _> =
            self.ask("Cluster/MemberPromote", &request).await;
        answer.map(drop)
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

fn value(answer: &pb::RangeResponse) -> Option<String> {
    let kv = answer.kvs.first()?;
    Some(String::from_utf8_lossy(&kv.value).into_owned())
}
