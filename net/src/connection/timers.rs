//! Deadlines of the connection and of its streams.

use super::keepalive::Want;
use super::{Connection, Key, Phase, ReadHead, Stall};
use crate::frame::{ping::Ping, Error, Reason};
use crate::limits;

/// Why a stream's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The deadline that the floor above has set.
    Deadline,
    /// Data is queued, and for [`limits::STREAM_STALL_NS`] none of it could be sent.
    Stalled,
}

/// What our keepalive PINGs carry.
const KEEPALIVE_PING: [u8; 8] = *b"keepaliv";

impl<S, R: ReadHead> Connection<S, R> {
    /// Sets or, with `u64::MAX`, lifts the deadline of a stream.
    #[inline]
    pub fn set_deadline(&mut self, key: Key, deadline_ns: u64) {
        self.streams.get_mut(key).deadline_ns = deadline_ns;
        self.streams_due_ns = self.streams_due_ns.min(deadline_ns);
    }

    /// When [`Connection::on_timer`] wants to be called; `u64::MAX` for never. Earlier calls do no harm.
    pub fn deadline_ns(&self) -> u64 {
        if self.phase == Phase::Closed {
            return u64::MAX;
        }
        let mut due = self.pings.deadline_ns().min(self.settings_ack_until_ns);
        due = due.min(match self.phase {
            Phase::Opening { until_ns } => until_ns,
            Phase::Announced { until_ns, .. } => until_ns,
            Phase::Draining { give_up_ns, .. } => give_up_ns,
            Phase::Open | Phase::Leaving | Phase::Closed => u64::MAX,
        });
        if let Some(block) = &self.block {
            due = due.min(block.until_ns);
        }
        if self.streams.is_empty() {
            due = due.min(self.idle_since_ns.saturating_add(self.idle_ns));
        } else if self.streams_due_ns != u64::MAX {
            due = due.min(
                self.streams_due_ns
                    .max(self.streams_checked_ns + limits::STREAM_TIMER_NS),
            );
        }
        if !self.output.is_empty() {
            due = due.min(match self.stalled {
                Some(stall) => stall.since_ns + limits::CONNECTION_STALL_NS,
                None => self.now_ns, // to begin counting
            });
        }
        due
    }

    /// Acts on what is due. `expired` receives the streams whose time is over; an error ends the connection.
    pub fn on_timer(&mut self, now_ns: u64, expired: &mut Vec<(Key, Expiry)>) -> Result<(), Error> {
        self.now_ns = self.now_ns.max(now_ns);
        match self.phase {
            Phase::Closed => return Ok(()),
            Phase::Opening { until_ns } if now_ns >= until_ns => {
                return Err(Error::protocol("no SETTINGS in time"));
            }
            Phase::Announced { until_ns, .. } if now_ns >= until_ns => self.drain(),
            Phase::Draining { give_up_ns, .. } if now_ns >= give_up_ns => {
                return Err(Error::new(Reason::NO_ERROR, "shutdown"));
            }
            _ => {}
        }
        if now_ns >= self.settings_ack_until_ns {
            return Err(Error::new(
                Reason::SETTINGS_TIMEOUT,
                "SETTINGS not acknowledged",
            ));
        }
        if self
            .block
            .as_ref()
            .is_some_and(|block| now_ns >= block.until_ns)
        {
            return Err(Error::calm("header block takes too long"));
        }
        match self.pings.want(now_ns) {
            Want::Nothing => {}
            Want::Ping => Ping {
                payload: KEEPALIVE_PING,
                ack: false,
            }
            .encode(self.output.buffer()),
            Want::Close => return Err(Error::new(Reason::NO_ERROR, "keepalive timeout")),
        }
        self.check_output(now_ns)?;
        if self.streams.is_empty() && now_ns >= self.idle_since_ns.saturating_add(self.idle_ns) {
            self.idle_since_ns = now_ns;
            self.shutdown();
        }
        self.check_streams(now_ns, expired);
        Ok(())
    }

    fn check_output(&mut self, now_ns: u64) -> Result<(), Error> {
        let taken_bytes = self.output.taken_bytes();
        if self.output.is_empty() {
            self.stalled = None;
            return Ok(());
        }
        match self.stalled {
            Some(stall) if stall.taken_bytes == taken_bytes => {
                if now_ns >= stall.since_ns + limits::CONNECTION_STALL_NS {
                    return Err(Error::new(Reason::NO_ERROR, "output is not read"));
                }
            }
            // It may have begun to wait at any time after the last look, so that look does not count.
            _ => {
                self.stalled = Some(Stall {
                    since_ns: now_ns,
                    taken_bytes,
                });
            }
        }
        Ok(())
    }

    /// Looks at all streams, but only when one may be due: `streams_due_ns` is lowered when a deadline is set and made
    /// exact here, so under a steady load of calls with equal timeouts this runs once per timeout.
    fn check_streams(&mut self, now_ns: u64, expired: &mut Vec<(Key, Expiry)>) {
        if now_ns < self.streams_due_ns
            || now_ns < self.streams_checked_ns + limits::STREAM_TIMER_NS
        {
            return;
        }
        self.streams_checked_ns = now_ns;
        let mut due_ns = u64::MAX;
        for key in self.streams.keys() {
            let stream = self.streams.get(key);
            let stalled_ns = match &stream.queue {
                Some(queue) => queue.progress_ns + limits::STREAM_STALL_NS,
                None => u64::MAX,
            };
            if stream.deadline_ns <= now_ns {
                expired.push((key, Expiry::Deadline));
            } else if stalled_ns <= now_ns {
                expired.push((key, Expiry::Stalled));
            } else {
                due_ns = due_ns.min(stream.deadline_ns).min(stalled_ns);
            }
        }
        self.streams_due_ns = due_ns;
    }
}
