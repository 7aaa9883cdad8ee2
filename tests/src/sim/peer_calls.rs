//! Requests at the peer port without HTTP: what the transport would make of them.

use bytes::Bytes;
use prost::Message as _;
use proto::{etcdserverpb as pb, leasepb};
use ringd::peers::{PeerAsk, PeerFailure};
use ringd::request::{PeerRequest, Request};
use ringd::status::Status;

pub fn request(ask: PeerAsk) -> Option<Request> {
    Some(Request::Peer(match ask {
        PeerAsk::KeepAlive(bytes) => {
            PeerRequest::KeepAlive(pb::LeaseKeepAliveRequest::decode(bytes).ok()?)
        }
        PeerAsk::TimeToLive(bytes) => {
            let request = leasepb::LeaseInternalRequest::decode(bytes).ok()?;
            PeerRequest::TimeToLive(request.lease_time_to_live_request?)
        }
        PeerAsk::Promote(id) => PeerRequest::Promote { id },
        PeerAsk::Version => PeerRequest::Version,
        PeerAsk::Results(body) => PeerRequest::Results(body),
        PeerAsk::Copy(body) => PeerRequest::Copy(body),
    }))
}

pub fn answer(result: Result<Bytes, Status>) -> Result<Bytes, PeerFailure> {
    const NOT_FOUND: u32 = 5;
    result.map_err(|status| PeerFailure {
        code: match status.code {
            NOT_FOUND => 404,
            _ => 503,
        },
        body: status.message.as_bytes().to_vec().into(),
    })
}
