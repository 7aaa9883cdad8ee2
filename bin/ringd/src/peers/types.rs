//! What the member and the peer transport say to each other.

use bytes::Bytes;

/// Another member and where its peer port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub id: u64,
    /// As the member published them, `http://host:port`.
    pub urls: Vec<String>,
}

/// A request to the peer port of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAsk {
    /// An encoded LeaseKeepAliveRequest, answered by a LeaseKeepAliveResponse.
    KeepAlive(Bytes),
    /// An encoded LeaseInternalRequest, answered by a LeaseInternalResponse.
    TimeToLive(Bytes),
    /// Makes a learner a voter; the answer is the member list as JSON.
    Promote(u64),
    /// The versions of the server and of its cluster, as JSON.
    Version,
    /// This member's hashes of applied entries, for the other one's. For ringd members only.
    Results(Bytes),
    /// A copy of its pages. For ringd members only.
    Copy(Bytes),
}

/// Why a request to another member came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFailure {
    /// HTTP status; 0 without a connection or an answer.
    pub code: u16,
    pub body: Bytes,
}
