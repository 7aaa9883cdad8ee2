//! PING in both directions: ours to find out whether the peer is alive, the peer's rationed.

use crate::frame::Error;
use crate::limits;

/// etcd's `--grpc-keepalive-*`.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// PINGs of the peer closer together than this are strikes, unless data flows.
    pub ping_interval_min_ns: u64,
    /// PINGs while no stream is open are held to the same interval, else to two hours.
    pub ping_without_streams: bool,
    /// Silence after which we ask with a PING; `u64::MAX` for never.
    pub interval_ns: u64,
    /// Silence after that PING which ends the connection.
    pub timeout_ns: u64,
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive {
            ping_interval_min_ns: limits::PING_INTERVAL_NS,
            ping_without_streams: false,
            interval_ns: limits::KEEPALIVE_INTERVAL_NS,
            timeout_ns: limits::KEEPALIVE_TIMEOUT_NS,
        }
    }
}

#[derive(Debug)]
pub(super) struct Pings {
    keepalive: Keepalive,
    strikes: u32,
    /// When the peer's last PING came.
    received_ns: Option<u64>,
    /// We sent HEADERS or DATA since: the peer has reason to measure the way.
    excused: bool,
    /// When anything last came.
    heard_ns: u64,
    /// When our PING went out, if nothing has come since.
    asked_ns: Option<u64>,
}

/// What keepalive wants at a moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    Ping,
    Close,
}

impl Pings {
    pub fn new(keepalive: Keepalive, now_ns: u64) -> Pings {
        Pings {
            keepalive,
            strikes: 0,
            received_ns: None,
            excused: false,
            heard_ns: now_ns,
            asked_ns: None,
        }
    }

    #[inline]
    pub fn heard(&mut self, now_ns: u64) {
        self.heard_ns = now_ns;
        self.asked_ns = None;
    }

    /// HEADERS or DATA go out.
    #[inline]
    pub fn excuse(&mut self) {
        self.excused = true;
    }

    /// A PING of the peer came.
    pub fn receive(&mut self, any_streams: bool, now_ns: u64) -> Result<(), Error> {
        let last = self.received_ns.replace(now_ns);
        if std::mem::take(&mut self.excused) {
            self.strikes = 0;
            return Ok(());
        }
        let interval = if any_streams || self.keepalive.ping_without_streams {
            self.keepalive.ping_interval_min_ns
        } else {
            limits::PING_IDLE_INTERVAL_NS
        };
        if last.is_some_and(|last| last.saturating_add(interval) > now_ns) {
            self.strikes += 1;
        }
        if self.strikes > limits::PING_STRIKES_MAX {
            return Err(Error::calm("too_many_pings"));
        }
        Ok(())
    }

    pub fn deadline_ns(&self) -> u64 {
        match self.asked_ns {
            Some(asked) => asked.saturating_add(self.keepalive.timeout_ns),
            None => self.heard_ns.saturating_add(self.keepalive.interval_ns),
        }
    }

    pub fn want(&mut self, now_ns: u64) -> Want {
        if self.deadline_ns() > now_ns {
            return Want::Nothing;
        }
        match self.asked_ns {
            Some(_) => Want::Close,
            None => {
                self.asked_ns = Some(now_ns);
                Want::Ping
            }
        }
    }
}
