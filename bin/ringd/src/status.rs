//! The outcome of a call that failed, as gRPC reports it.

use engine::error::RequestError;
use std::borrow::Cow;

/// gRPC status codes, by the names of the protocol.
pub mod code {
    pub const UNKNOWN: u32 = 2;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const NOT_FOUND: u32 = 5;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
}

/// A gRPC status other than OK. Clients of etcd match on the exact message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u32,
    pub message: Cow<'static, str>,
}

impl Status {
    pub const fn new(code: u32, message: &'static str) -> Status {
        Status {
            code,
            message: Cow::Borrowed(message),
        }
    }

    pub fn with_text(code: u32, message: String) -> Status {
        Status {
            code,
            message: Cow::Owned(message),
        }
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Status {
        Status::new(error.code() as u32, error.message())
    }
}
