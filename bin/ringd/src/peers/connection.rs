//! A connection of either direction.

use super::{inbound::Inbound, outbound::Outbound};
use net::connection::Output;

pub struct Connection {
    pub dirty: bool,
    pub end: End,
}

pub enum End {
    /// Opened by somebody else: this member serves.
    In(Box<Inbound>),
    /// Opened by this member.
    Out(Box<Outbound>),
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The other side closed it, or the network said that it is gone.
    Closed,
    /// It could not be opened: nobody listens.
    Refused,
    /// It could not be opened for another reason.
    Failed,
    /// The other side was silent for too long.
    TimedOut,
    /// What came made no sense.
    Broken,
    /// This member has no use for it any more.
    Dropped,
}

impl Connection {
    pub fn output(&mut self) -> &mut Output {
        match &mut self.end {
            End::In(inbound) => inbound.server.output(),
            End::Out(outbound) => outbound.client.output(),
        }
    }

    pub fn wants_input(&self) -> bool {
        match &self.end {
            End::In(inbound) => inbound.wants_input(),
            End::Out(_) => true,
        }
    }

    pub fn should_close(&self) -> bool {
        match &self.end {
            End::In(inbound) => inbound.server.should_close(),
            End::Out(_) => false,
        }
    }

    pub fn sent(&mut self) {
        if let End::In(inbound) = &mut self.end {
            inbound.sent();
        }
    }

    /// The member at the other end, if that is known.
    pub fn peer(&self) -> Option<u64> {
        match &self.end {
            End::In(inbound) => inbound.peer(),
            End::Out(outbound) => Some(outbound.peer),
        }
    }

    pub fn is_overdue(&mut self, now_ns: u64) -> bool {
        match &mut self.end {
            End::In(inbound) => inbound.is_overdue(now_ns),
            End::Out(outbound) => outbound.is_overdue(now_ns),
        }
    }

    /// Says on an idle stream that the link is alive. True if there is something to send.
    pub fn beat(&mut self, now_ns: u64) -> bool {
        match &mut self.end {
            End::In(inbound) => inbound.beat(now_ns),
            End::Out(_) => false,
        }
    }
}
