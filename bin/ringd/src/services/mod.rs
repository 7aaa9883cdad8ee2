//! From a method and its message to a request of the member: decoding, and the checks that need no state.
//!
//! Flows in: a method id and a complete gRPC message. Flows out: a [`Request`] for the member, a call of the lock and
//! election services, or the status that refuses it. Nothing here knows connections or the store.

mod maintenance;

pub use maintenance::parse_version;

use crate::{
    concurrency::Recipe,
    methods::MethodId,
    request::Request,
    status::{code, Status},
};
use bytes::Bytes;
use engine::store::{decode_txn, validate, DecodeError};
use prost::Message;
use proto::{etcdserverpb as pb, health, v3electionpb as election, v3lockpb as lock};

/// The limits that a request is checked against before it is proposed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub txn_ops_max: usize,
    pub request_bytes_max: usize,
}

/// What a complete message asks for.
#[derive(Debug)]
pub enum Call {
    Member(Request),
    Concurrency(Recipe),
    /// Answered without asking the member.
    Answer(Vec<u8>),
    /// As `Answer`, but the stream stays open.
    AnswerAndHold(Vec<u8>),
}

/// Decodes and validates the message of a unary or server-streaming call, or one message of a bidirectional one.
pub fn decode(method: MethodId, message: Bytes, limits: &Limits) -> Result<Call, Status> {
    use MethodId as M;
    let request = match method {
        M::Range => {
            let range = parse::<pb::RangeRequest>(message)?;
            validate::validate_range(&range)?;
            Request::Range(range)
        }
        M::RangeStream => {
            let range = parse::<pb::RangeRequest>(message)?;
            validate::validate_range(&range)?;
            validate_range_stream(&range)?;
            Request::RangeStream(range)
        }
        M::Put => Request::Put(parse(message)?),
        M::DeleteRange => Request::DeleteRange(parse(message)?),
        M::Txn => Request::Txn(Box::new(txn(message, limits)?)),
        M::Compact => Request::Compact(parse(message)?),
        M::Watch => Request::Watch(parse(message)?),
        M::LeaseGrant => Request::LeaseGrant(parse(message)?),
        M::LeaseRevoke => Request::LeaseRevoke(parse(message)?),
        M::LeaseKeepAlive => Request::LeaseKeepAlive(parse(message)?),
        M::LeaseTimeToLive => Request::LeaseTimeToLive(parse(message)?),
        M::LeaseLeases => {
            parse::<pb::LeaseLeasesRequest>(message)?;
            Request::LeaseLeases
        }
        M::MemberList => Request::MemberList(parse(message)?),
        M::Alarm => Request::Alarm(maintenance::alarm(parse(message)?)?),
        M::Status => {
            parse::<pb::StatusRequest>(message)?;
            Request::Status
        }
        M::Defragment => {
            parse::<pb::DefragmentRequest>(message)?;
            Request::Defragment
        }
        M::Snapshot => {
            parse::<pb::SnapshotRequest>(message)?;
            Request::Snapshot
        }
        M::Hash => {
            parse::<pb::HashRequest>(message)?;
            Request::Hash
        }
        M::HashKv => Request::HashKv(parse(message)?),
        M::MoveLeader => Request::MoveLeader(parse(message)?),
        M::Downgrade => Request::Downgrade(maintenance::downgrade(parse(message)?)?),
        M::Lock | M::Unlock | M::Campaign | M::Proclaim | M::Leader | M::Observe | M::Resign => {
            return concurrency(method, message)
        }
        M::HealthCheck | M::HealthWatch | M::HealthList => return health_of(method, message),
        M::MemberAdd => Request::MemberAdd(parse(message)?),
        M::MemberRemove => Request::MemberRemove(parse(message)?),
        M::MemberUpdate => Request::MemberUpdate(parse(message)?),
        M::MemberPromote => Request::MemberPromote(parse(message)?),
        M::AuthEnable
        | M::AuthDisable
        | M::AuthStatus
        | M::Authenticate
        | M::UserAdd
        | M::UserGet
        | M::UserList
        | M::UserDelete
        | M::UserChangePassword
        | M::UserGrantRole
        | M::UserRevokeRole
        | M::RoleAdd
        | M::RoleGet
        | M::RoleList
        | M::RoleDelete
        | M::RoleGrantPermission
        | M::RoleRevokePermission => {
            return Err(Status::with_text(
                code::UNIMPLEMENTED,
                format!("ringd does not implement {method:?} yet"),
            ))
        }
    };
    Ok(Call::Member(request))
}

/// A learner may be behind: it shows what it has where that was asked for, and nothing else.
pub fn is_served_by_learners(method: MethodId, message: &Bytes) -> bool {
    match method {
        MethodId::Status | MethodId::Snapshot => true,
        // What cannot be read is refused for that.
        MethodId::Range => {
            pb::RangeRequest::decode(message.clone()).map_or(true, |range| range.serializable)
        }
        _ => false,
    }
}

fn concurrency(method: MethodId, message: Bytes) -> Result<Call, Status> {
    Ok(Call::Concurrency(match method {
        MethodId::Lock => Recipe::Lock(parse::<lock::LockRequest>(message)?),
        MethodId::Unlock => Recipe::Unlock(parse::<lock::UnlockRequest>(message)?),
        MethodId::Campaign => Recipe::Campaign(parse::<election::CampaignRequest>(message)?),
        MethodId::Proclaim => Recipe::Proclaim(parse::<election::ProclaimRequest>(message)?),
        MethodId::Leader => Recipe::Leader(parse::<election::LeaderRequest>(message)?),
        MethodId::Observe => Recipe::Observe(parse::<election::LeaderRequest>(message)?),
        _ => Recipe::Resign(parse::<election::ResignRequest>(message)?),
    }))
}

fn health_of(method: MethodId, message: Bytes) -> Result<Call, Status> {
    use health::health_check_response::ServingStatus;
    let answer = |status: ServingStatus| health::HealthCheckResponse {
        status: status as i32,
    };
    if method == MethodId::HealthList {
        parse::<health::HealthListRequest>(message)?;
        let whole = (String::new(), answer(ServingStatus::Serving));
        let list = health::HealthListResponse {
            statuses: [whole].into(),
        };
        return Ok(Call::Answer(list.encode_to_vec()));
    }
    // The server as a whole is the one service that has a status.
    let request = parse::<health::HealthCheckRequest>(message)?;
    let known = request.service.is_empty();
    match method {
        MethodId::HealthWatch => {
            let status = match known {
                true => ServingStatus::Serving,
                false => ServingStatus::ServiceUnknown, // it might appear later
            };
            Ok(Call::AnswerAndHold(answer(status).encode_to_vec()))
        }
        _ if known => Ok(Call::Answer(answer(ServingStatus::Serving).encode_to_vec())),
        _ => Err(Status::new(code::NOT_FOUND, "unknown service")),
    }
}

fn parse<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| unreadable(&error.to_string()))
}

/// The text after the colon is free: it is the decoder's own.
fn unreadable(reason: &str) -> Status {
    let cut_short = [
        "buffer underflow",
        "delimited length exceeded",
        "invalid varint",
    ];
    let reason = match cut_short.iter().any(|text| reason.contains(text)) {
        true => "unexpected EOF".to_string(),
        false => wrong_wire_type(reason).unwrap_or_else(|| reason.to_string()),
    };
    Status::with_text(
        code::INTERNAL,
        format!("grpc: error unmarshalling request: {reason}"),
    )
}

/// etcd's words for a field of the wrong wire type, which ours name as `Message.field: invalid wire type: Varint (...)`.
fn wrong_wire_type(reason: &str) -> Option<String> {
    let (place, found) = reason.split_once(": invalid wire type: ")?;
    let field = place.rsplit_once('.')?.1;
    let number = match found.split(' ').next()? {
        "Varint" => 0,
        "SixtyFourBit" => 1,
        "LengthDelimited" => 2,
        "StartGroup" => 3,
        "EndGroup" => 4,
        _ => 5,
    };
    let name: String = field
        .split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters)
        })
        .collect();
    Some(format!("proto: wrong wireType = {number} for field {name}"))
}

/// Lists a little too long are decoded all the same: the quota is checked before the number of operations is.
fn txn(message: Bytes, limits: &Limits) -> Result<pb::TxnRequest, Status> {
    decode_txn(message.clone(), limits.txn_ops_max)
        .or_else(|error| match error {
            DecodeError::TooManyOps => decode_txn(message, limits.txn_ops_max.saturating_mul(2)),
            other => Err(other),
        })
        .map_err(txn_refusal)
}

fn txn_refusal(error: DecodeError) -> Status {
    match error.request_error() {
        Some(refusal) => refusal.into(),
        None => unreadable(&error.to_string()),
    }
}

fn validate_range_stream(range: &pb::RangeRequest) -> Result<(), Status> {
    use pb::range_request::{SortOrder, SortTarget};
    let plain =
        range.sort_order == SortOrder::None as i32 && range.sort_target == SortTarget::Key as i32;
    let ascending =
        range.sort_order == SortOrder::Ascend as i32 && range.sort_target == SortTarget::Key as i32;
    if !plain && !ascending {
        return Err(Status::new(
            code::UNIMPLEMENTED,
            "RangeStream does not support custom sort orders",
        ));
    }
    let filtered = [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ]
    .iter()
    .any(|bound| *bound != 0);
    if filtered {
        return Err(Status::new(
            code::UNIMPLEMENTED,
            "RangeStream does not support revision filters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_wire_types_are_told_in_etcds_words() {
        let message = Bytes::from_static(&[0x08, 0x01]);
        let status = parse::<pb::PutRequest>(message).unwrap_err();
        assert_eq!(
            status.message,
            "grpc: error unmarshalling request: proto: wrong wireType = 0 for field Key"
        );
    }
}
