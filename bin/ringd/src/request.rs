//! What the front asks of the member: decoded, validated calls.

use bytes::Bytes;
use proto::etcdserverpb as pb;

/// Names a call: the connection in the upper half, its HTTP/2 stream in the lower one. Calls that the server makes of
/// itself (locks, elections) use the connection number [`CallId::INTERNAL_CONNECTION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

impl CallId {
    pub const INTERNAL_CONNECTION: u32 = u32::MAX;
    /// Requests that came in at the peer port.
    pub const PEER_CONNECTION: u32 = u32::MAX - 1;
    /// A proposal or read that nobody waits for.
    pub const NOBODY: CallId = CallId(u64::MAX);

    pub fn new(connection: u32, stream: u32) -> CallId {
        CallId(u64::from(connection) << 32 | u64::from(stream))
    }

    pub fn connection(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn stream(self) -> u32 {
        self.0 as u32
    }
}

/// A decoded request that passed the checks which need no state.
#[derive(Clone, Debug)]
pub enum Request {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(Box<pb::TxnRequest>),
    Compact(pb::CompactionRequest),
    Watch(pb::WatchRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    MemberList(pb::MemberListRequest),
    Alarm(pb::AlarmRequest),
    Status,
    Defragment,
    /// Everything as a database of etcd's, in one stream.
    Snapshot,
    Hash,
    HashKv(pb::HashKvRequest),
    MoveLeader(pb::MoveLeaderRequest),
    Downgrade(pb::DowngradeRequest),
    MemberAdd(pb::MemberAddRequest),
    MemberRemove(pb::MemberRemoveRequest),
    MemberUpdate(pb::MemberUpdateRequest),
    MemberPromote(pb::MemberPromoteRequest),
    Peer(PeerRequest),
}

/// What another member asks of this one at the peer port. The answer is the body of an HTTP response.
#[derive(Clone, Debug)]
pub enum PeerRequest {
    /// The members as this one knows them, as JSON.
    Members,
    /// The versions of this server and of the cluster, as JSON.
    Version,
    /// The hash of all keys up to a revision, as JSON.
    HashKv {
        revision: i64,
    },
    /// What the other one's hashes of applied entries are, for this one's: see `member::divergence`.
    Results(Bytes),
    /// A copy of this member's pages, as the body says: see `member::rebuild`.
    Copy(Bytes),
    /// `true` while a downgrade is under way.
    DowngradeEnabled,
    /// A renewal that a follower passes on; only the leader can answer.
    KeepAlive(pb::LeaseKeepAliveRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    /// Only the leader knows whether a learner is in sync.
    Promote {
        id: u64,
    },
}
