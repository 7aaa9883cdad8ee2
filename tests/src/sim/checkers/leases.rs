//! Leases: whoever had each renewal confirmed keeps the lease for its whole time to live after the last one was sent.

use std::collections::BTreeMap;

use engine::lease::TimeToLive;
use proto::etcdserverpb as pb;

use super::Verdict;
use crate::sim::swarm::{RATE_MAX, SECOND_NS};

#[derive(Debug)]
struct Held {
    ttl_s: i64,
    /// When the last confirmed renewal, or the grant, was sent.
    confirmed_ns: u64,
    /// A client asked for its end: it may come at any time.
    given_up: bool,
    ended_ns: Option<u64>,
}

#[derive(Default)]
pub struct Leases {
    held: BTreeMap<i64, Held>,
    /// A clock jumped ahead, which shortens what it counts: nothing can be said of times any more.
    unsure: bool,
    drift_bound_ppm: u32,
    pub renewals: u64,
    pub expiries: u64,
}

impl Leases {
    /// For members that are configured with this bound.
    pub fn new(drift_bound_ppm: u32) -> Leases {
        Leases {
            drift_bound_ppm,
            ..Leases::default()
        }
    }

    pub fn clock_jumped(&mut self) {
        self.unsure = true;
    }

    pub fn give_up(&mut self, id: i64) {
        if let Some(held) = self.held.get_mut(&id) {
            held.given_up = true;
        }
    }

    /// A grant or a renewal that was sent at that time was confirmed.
    pub fn confirmed(&mut self, id: i64, ttl_s: i64, sent_ns: u64) -> Verdict {
        self.renewals += 1;
        let held = self.held.entry(id).or_insert(Held {
            ttl_s,
            confirmed_ns: sent_ns,
            given_up: false,
            ended_ns: None,
        });
        held.confirmed_ns = held.confirmed_ns.max(sent_ns);
        match held.ended_ns {
            Some(ended_ns) => self.check(id, ended_ns),
            None => Ok(()),
        }
    }

    /// A renewal that was asked for at `sent_ns` is about to be confirmed at `now_ns`; the leader gives the lease this much time.
    pub fn counted(
        &self,
        renewal: &pb::LeaseKeepAliveResponse,
        (sent_ns, now_ns): (u64, u64),
        left: TimeToLive,
    ) -> Verdict {
        // The fastest clock counts what went by as this much; the seconds left are rounded down.
        let passed_ns = (now_ns - sent_ns) / 1_000_000 * RATE_MAX;
        let least_s = renewal.ttl - (passed_ns / SECOND_NS) as i64 - 1;
        if self.unsure || left.remaining_seconds >= least_s {
            return Ok(());
        }
        Err(format!(
            "a renewal of lease {:x} for {} s, sent at {sent_ns} ns, is confirmed, and the leader gives it {} s",
            renewal.id, renewal.ttl, left.remaining_seconds
        ))
    }

    /// The entry that ends a lease was applied for the first time anywhere.
    pub fn ended(&mut self, id: i64, now_ns: u64) -> Verdict {
        let Some(held) = self.held.get_mut(&id) else {
            return Ok(());
        };
        held.ended_ns.get_or_insert(now_ns);
        self.expiries += u64::from(!held.given_up);
        self.check(id, now_ns)
    }

    fn check(&self, id: i64, ended_ns: u64) -> Verdict {
        let Some(held) = self.held.get(&id) else {
            return Ok(());
        };
        if held.given_up || self.unsure {
            return Ok(());
        }
        // The fastest clock counts the time to live, and what is allowed for slow clocks, in this much.
        let counted = 1_000_000 + u64::from(self.drift_bound_ppm);
        let least_ns = held.ttl_s as u64 * SECOND_NS / RATE_MAX * counted;
        if ended_ns >= held.confirmed_ns + least_ns {
            return Ok(());
        }
        Err(format!(
            "lease {id:x} of {} s ended at {ended_ns} ns, but a renewal sent at {} ns was confirmed",
            held.ttl_s, held.confirmed_ns
        ))
    }
}
