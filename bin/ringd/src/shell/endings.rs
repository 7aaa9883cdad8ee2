//! Connections that the server has ended and whose peers have not closed them yet.
//!
//! Closing a socket at once would throw away what the peer has not read: the reason why it was ended, above all. So the last
//! bytes get some time to leave, then comes FIN, and then the peer has a moment to notice, in which what it still sends is
//! read and dropped (RFC 9112 section 9.6 describes it). All of it is bounded: a peer that never closes does not keep its
//! descriptor, and one that never stops sending is not listened to for ever.

use crate::server::Link;
use std::collections::BTreeMap;

/// How long the last bytes may take to leave.
const LAST_BYTES_NS: u64 = 10_000_000_000;
/// How long the peer has to close its side once they have left.
const LINGER_NS: u64 = 1_000_000_000;
/// What is read from an ended connection: what a conforming peer may have on its way, a stream's window.
const LINGER_BYTES: usize = net::limits::STREAM_WINDOW_BYTES as usize;

struct Ending {
    due_ns: u64,
    /// The last bytes have left, and FIN after them.
    is_sent: bool,
    read_bytes: usize,
}

/// Whether to read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Go,
    /// Not now.
    Wait,
    /// No more.
    Over,
}

#[derive(Default)]
pub struct Endings {
    ended: BTreeMap<Link, Ending>,
    /// None is due before this.
    next_due_ns: u64,
}

impl Endings {
    /// The server has ended the connection. Telling it again does no harm.
    pub fn begin(&mut self, link: Link, now_ns: u64) {
        let due_ns = now_ns + LAST_BYTES_NS;
        self.ended.entry(link).or_insert(Ending {
            due_ns,
            is_sent: false,
            read_bytes: 0,
        });
        self.next_due_ns = self.next_due_ns.min(due_ns);
    }

    /// Nothing waits to be sent. True the first time for an ended connection: then FIN is due.
    pub fn sent(&mut self, link: Link, now_ns: u64) -> bool {
        match self.ended.get_mut(&link) {
            Some(ending) if !ending.is_sent => {
                ending.is_sent = true;
                ending.due_ns = now_ns + LINGER_NS;
                self.next_due_ns = self.next_due_ns.min(ending.due_ns);
                true
            }
            _ => false,
        }
    }

    /// Bytes arrived. True if nobody wants them, because the connection has ended.
    pub fn swallows(&mut self, link: Link, bytes: usize) -> bool {
        match self.ended.get_mut(&link) {
            Some(ending) => {
                ending.read_bytes = ending.read_bytes.saturating_add(bytes);
                true
            }
            None => false,
        }
    }

    /// Whether to read from an ended connection; `None` for others.
    pub fn reading(&self, link: Link) -> Option<Reading> {
        self.ended.get(&link).map(|ending| {
            if ending.read_bytes > LINGER_BYTES {
                Reading::Over
            } else if ending.is_sent {
                Reading::Go
            } else {
                Reading::Wait
            }
        })
    }

    /// The next connection that has had its time, which is forgotten here.
    pub fn take_due(&mut self, now_ns: u64) -> Option<Link> {
        if self.ended.is_empty() || now_ns < self.next_due_ns {
            return None;
        }
        let is_due = |entry: &(&Link, &Ending)| entry.1.due_ns <= now_ns;
        let due = self.ended.iter().find(is_due).map(|(link, _)| *link);
        match due {
            Some(link) => self.forget(link),
            None => {
                let dues = self.ended.values().map(|ending| ending.due_ns);
                self.next_due_ns = dues.min().unwrap_or(u64::MAX);
            }
        }
        due
    }

    /// The connection is gone.
    pub fn forget(&mut self, link: Link) {
        self.ended.remove(&link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Link = Link::Client(1);
    const B: Link = Link::Peer(1);

    #[test]
    fn a_peer_that_does_not_close_has_a_moment() {
        let mut endings = Endings::default();
        endings.begin(A, 5);
        assert_eq!(endings.reading(A), Some(Reading::Wait));
        assert_eq!(endings.reading(B), None);
        assert!(!endings.sent(B, 6));
        assert!(endings.sent(A, 6));
        assert!(!endings.sent(A, 7), "one FIN");
        endings.begin(A, 8);
        assert_eq!(endings.reading(A), Some(Reading::Go));
        assert_eq!(endings.take_due(5 + LINGER_NS), None);
        assert_eq!(endings.take_due(6 + LINGER_NS), Some(A));
        assert_eq!(endings.take_due(u64::MAX), None);
    }

    #[test]
    fn last_bytes_that_do_not_leave_are_given_up() {
        let mut endings = Endings::default();
        endings.begin(A, 0);
        endings.begin(B, 1);
        assert!(endings.sent(B, 1));
        assert_eq!(endings.take_due(LINGER_NS), None);
        assert_eq!(endings.take_due(LINGER_NS + 1), Some(B));
        assert_eq!(endings.take_due(LAST_BYTES_NS - 1), None);
        assert_eq!(endings.take_due(LAST_BYTES_NS), Some(A));
    }

    #[test]
    fn a_peer_that_does_not_stop_is_not_listened_to() {
        let mut endings = Endings::default();
        assert!(!endings.swallows(A, 1 << 30));
        endings.begin(A, 0);
        assert!(endings.sent(A, 0));
        assert!(endings.swallows(A, LINGER_BYTES));
        assert_eq!(endings.reading(A), Some(Reading::Go));
        assert!(endings.swallows(A, 1));
        assert_eq!(endings.reading(A), Some(Reading::Over));
        endings.forget(A);
        assert_eq!(endings.reading(A), None);
    }
}
