//! Paths of the peer port, who may ask, and the texts of the answers. Members compare texts, so they are etcd's.

use crate::status::{code, Status};
use bytes::Bytes;
use engine::error::RequestError;
use net::{
    http1::RequestHead,
    peer::{Local, FRAME_BYTES_MAX, SNAPSHOT_PIECE},
};

/// Largest body of a request that carries no Raft message.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Answer {
    pub fn empty(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A line of text, as Go's server writes errors.
    pub fn error(status: u16, text: &str) -> Answer {
        Answer {
            status,
            headers: vec![
                ("Content-Type", "text/plain; charset=utf-8".to_owned()),
                ("X-Content-Type-Options", "nosniff".to_owned()),
            ],
            body: format!("{text}\n").into(),
        }
    }

    pub fn of(content_type: &str, body: Bytes) -> Answer {
        Answer {
            status: 200,
            headers: vec![("Content-Type", content_type.to_owned())],
            body,
        }
    }

    pub fn with(mut self, headers: impl IntoIterator<Item = (&'static str, String)>) -> Answer {
        self.headers.extend(headers);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    Message,
    Snapshot,
    Probing,
    /// With the kind and the dialler's id, not yet looked at.
    Stream(&'a str),
    Members,
    HashKv,
    Promote(&'a str),
    Version,
    DowngradeEnabled,
    KeepAlive,
    TimeToLive,
    Results,
    Copy,
}

/// Where ringd members compare results. etcd has nothing there, and is not asked.
pub const RESULTS_PATH: &str = "/ringd/results";
/// Where one asks for a copy of the pages.
pub const COPY_PATH: &str = "/ringd/copy";

impl<'a> Route<'a> {
    pub fn of(path: &'a str) -> Option<Route<'a>> {
        Some(match path {
            "/raft" => Route::Message,
            "/raft/snapshot" => Route::Snapshot,
            "/raft/probing" => Route::Probing,
            "/members" => Route::Members,
            "/members/hashkv" => Route::HashKv,
            "/version" => Route::Version,
            "/downgrade/enabled" => Route::DowngradeEnabled,
            "/leases" => Route::KeepAlive,
            "/leases/internal" => Route::TimeToLive,
            RESULTS_PATH => Route::Results,
            COPY_PATH => Route::Copy,
            path => match path.strip_prefix("/raft/stream/") {
                Some(rest) => Route::Stream(rest),
                None => Route::Promote(path.strip_prefix("/members/promote/")?),
            },
        })
    }

    fn method(self) -> Option<&'static str> {
        match self {
            Route::Probing => None,
            Route::Message
            | Route::Snapshot
            | Route::Promote(_)
            | Route::KeepAlive
            | Route::TimeToLive
            | Route::Results
            | Route::Copy => Some("POST"),
            _ => Some("GET"),
        }
    }

    /// Whether the sender has to be of this cluster, and what it was.
    pub fn is_raft(self) -> bool {
        matches!(
            self,
            Route::Message | Route::Snapshot | Route::Stream(_) | Route::Results | Route::Copy
        )
    }

    fn wrong_method(self, allowed: &str) -> Answer {
        match self {
            Route::KeepAlive | Route::TimeToLive => Answer::error(405, "Method Not Allowed"),
            Route::HashKv => Answer::error(405, "Method not allowed").with(allow(allowed)),
            _ => Answer::error(405, "Method Not Allowed").with(allow(allowed)),
        }
    }

    fn body_bytes_max(self) -> usize {
        match self {
            Route::Message | Route::Snapshot => FRAME_BYTES_MAX,
            _ => BODY_BYTES_MAX,
        }
    }

    /// The answer to a request whose body is too large.
    pub fn too_large(self) -> Answer {
        match self {
            Route::Message | Route::Snapshot => Answer::error(400, "error reading raft message"),
            _ => Answer::error(413, "request body too large"),
        }
    }
}

fn allow(method: &str) -> [(&'static str, String); 1] {
    [("Allow", method.to_owned())]
}

/// Whether the body is a database of etcd's, which may be long.
pub fn brings_database(head: &RequestHead) -> bool {
    let is_piece = head.headers.get(SNAPSHOT_PIECE).is_some();
    Route::of(head.path()) == Some(Route::Snapshot) && !is_piece
}

/// The checks that need no more than the head. The answer to one that passes is the largest body that it may have.
pub fn admit(head: &RequestHead, local: &Local) -> Result<usize, Answer> {
    let Some(route) = Route::of(head.path()) else {
        return Err(Answer::error(404, "404 page not found"));
    };
    if let Some(method) = route.method() {
        if head.method != method {
            return Err(route.wrong_method(method));
        }
    }
    let fields = match route {
        Route::Stream(_) => local.stream_response(),
        _ => local.response(),
    };
    if route.is_raft() {
        if let Err(why) = local.check(&head.headers) {
            return Err(Answer::error(412, why.text()).with(fields));
        }
    }
    if route == Route::HashKv {
        let cluster = head.headers.get("X-Etcd-Cluster-ID");
        let own = format!("{:x}", local.cluster_id);
        if cluster.is_some_and(|cluster| !cluster.is_empty() && cluster != own) {
            return Err(Answer::error(412, "cluster ID mismatch").with([local.cluster()]));
        }
    }
    Ok(route.body_bytes_max())
}

/// A question that the member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Members,
    Version,
    HashKv,
    DowngradeEnabled,
    KeepAlive,
    TimeToLive,
    Promote,
    Results,
    Copy,
}

impl Call {
    pub fn answer(self, result: Result<Bytes, Status>, local: &Local) -> Answer {
        let answer = match result {
            Ok(body) => self.found(body),
            Err(status) => self.failed(&status),
        };
        let with_cluster = match self {
            Call::Version | Call::KeepAlive | Call::TimeToLive => false,
            Call::Results | Call::Copy => false,
            Call::HashKv => answer.status == 200,
            Call::Members | Call::DowngradeEnabled | Call::Promote => true,
        };
        match with_cluster {
            true => answer.with([local.cluster()]),
            false => answer,
        }
    }

    fn found(self, body: Bytes) -> Answer {
        match self {
            Call::Members | Call::Promote => {
                let mut line = body.to_vec();
                line.push(b'\n');
                Answer::of("application/json", line.into())
            }
            Call::Version | Call::HashKv => Answer::of("application/json", body),
            Call::DowngradeEnabled | Call::Results | Call::Copy => Answer::of("text/plain", body),
            Call::KeepAlive | Call::TimeToLive => Answer::of("application/protobuf", body),
        }
    }

    fn failed(self, status: &Status) -> Answer {
        let is = |error: RequestError| status.message == error.message();
        let timed_out = status.code == code::UNAVAILABLE;
        match self {
            Call::KeepAlive | Call::TimeToLive => match () {
                _ if is(RequestError::LeaseNotFound) => Answer::error(404, "lease not found"),
                _ if is(RequestError::NotLeader) => Answer::error(400, "not a primary lessor"),
                _ if timed_out => Answer::error(
                    408,
                    "waiting for node to catch up its applied index has timed out",
                ),
                _ => Answer::error(400, &status.message),
            },
            Call::Promote => match () {
                _ if is(RequestError::MemberNotFound) => {
                    Answer::error(404, "membership: ID not found")
                }
                _ if is(RequestError::MemberNotLearner) => {
                    Answer::error(412, "membership: can only promote a learner member")
                }
                _ if is(RequestError::LearnerNotReady) => Answer::error(412, &status.message),
                _ if timed_out => Answer::error(408, &status.message),
                _ => Answer::error(500, &status.message),
            },
            Call::HashKv => Answer::error(400, without_server(&status.message)),
            Call::DowngradeEnabled => {
                Answer::error(500, &format!("failed linearized read: {}", status.message))
            }
            Call::Members | Call::Version | Call::Results | Call::Copy => {
                Answer::error(500, &status.message)
            }
        }
    }
}

/// Errors of the store carry no name of the server on the peer port.
fn without_server(message: &str) -> &str {
    message.strip_prefix("etcdserver: ").unwrap_or(message)
}
