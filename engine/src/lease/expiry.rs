//! Which expired leases the primary revokes, and when.

use super::lessor::{Lessor, Renewal};

/// Expired leases are collected once per this time.
pub const EXPIRY_PASS_INTERVAL_NS: u64 = 500_000_000;
/// Most leases that one pass hands out; with the interval above this makes 1000 expiries per second.
pub const EXPIRY_PASS_LEASES_MAX: usize = 500;
/// Most revoke proposals of expired leases without an outcome; the rest of a pass waits for them.
pub const REVOKES_IN_FLIGHT_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Pass {
    /// When the running pass began: only what had expired by then belongs to it.
    pub(super) at_ns: u64,
    /// How many leases it may still hand out.
    pub(super) left: usize,
}

impl Lessor {
    /// Leases to revoke now, at most `max`: propose an ordinary LeaseRevoke for each. A pass begins every
    /// [`EXPIRY_PASS_INTERVAL_NS`] and hands out what had expired by then, up to [`EXPIRY_PASS_LEASES_MAX`] in all and with
    /// [`REVOKES_IN_FLIGHT_MAX`] undecided at a time; call again when revocations have been applied.
    pub fn take_expired(&mut self, now_ns: u64, max: usize) -> Vec<i64> {
        let mut expired = Vec::new();
        if !self.primary {
            return expired;
        }
        while let Some(&(at, id)) = self.revoking.first().filter(|&&(at, _)| at <= now_ns) {
            self.revoking.remove(&(at, id));
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.revoke_retry_at_ns = None;
            }
        }
        if now_ns >= self.next_pass_ns() {
            let intervals = (now_ns - self.pass.at_ns) / EXPIRY_PASS_INTERVAL_NS;
            self.pass = Pass {
                at_ns: self.pass.at_ns + intervals * EXPIRY_PASS_INTERVAL_NS,
                left: EXPIRY_PASS_LEASES_MAX,
            };
        }
        let room = REVOKES_IN_FLIGHT_MAX.saturating_sub(self.revoking.len());
        let max = max.min(room).min(self.pass.left);
        let retry_at = now_ns.saturating_add(self.config.revoke_retry_ns);
        expired.extend(self.expired_in_pass().take(max));
        for id in &expired {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.revoke_retry_at_ns = Some(retry_at);
            }
            self.revoking.insert((retry_at, *id));
        }
        self.pass.left -= expired.len();
        expired
    }

    /// When [`Lessor::take_expired`] or [`Lessor::take_checkpoints`] next has something to do; a time in the past means now.
    pub fn deadline_ns(&self) -> Option<u64> {
        if !self.primary {
            return None;
        }
        let mut next = self.checkpoints.first_ns();
        let mut consider = |at: u64| next = Some(next.map_or(at, |known| known.min(at)));
        if let Some(&(at, _)) = self.revoking.first() {
            consider(at);
        }
        let room = self.revoking.len() < REVOKES_IN_FLIGHT_MAX;
        if room && self.pass.left > 0 && self.expired_in_pass().next().is_some() {
            consider(self.pass.at_ns);
        } else if let Some(deadline) = self.first_undecided().filter(|_| room) {
            // The first pass that begins at or after the deadline.
            let wait = deadline.saturating_sub(self.pass.at_ns).max(1);
            let passes = wait.div_ceil(EXPIRY_PASS_INTERVAL_NS);
            consider(
                self.pass
                    .at_ns
                    .saturating_add(passes.saturating_mul(EXPIRY_PASS_INTERVAL_NS)),
            );
        }
        next
    }

    fn next_pass_ns(&self) -> u64 {
        self.pass.at_ns.saturating_add(EXPIRY_PASS_INTERVAL_NS)
    }

    fn undecided(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        self.deadlines.iter().copied().filter(|(_, id)| {
            self.leases
                .get(id)
                .is_some_and(|lease| lease.revoke_retry_at_ns.is_none())
        })
    }

    fn first_undecided(&self) -> Option<u64> {
        self.undecided().next().map(|(deadline, _)| deadline)
    }

    fn expired_in_pass(&self) -> impl Iterator<Item = i64> + '_ {
        self.undecided()
            .take_while(|&(deadline, _)| deadline <= self.pass.at_ns)
            .map(|(_, id)| id)
    }

    /// The revocation proposed earlier will certainly not be applied (dropped before it reached the log). Keep-alives that
    /// waited are told to retry; an expired lease is handed out again by the next pass.
    pub fn revoke_dropped(&mut self, id: i64) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.revoke_proposed = false;
        if let Some(at) = &mut lease.revoke_retry_at_ns {
            let next_pass_ns = self.pass.at_ns.saturating_add(EXPIRY_PASS_INTERVAL_NS);
            self.revoking.remove(&(*at, id));
            self.revoking.insert((next_pass_ns, id));
            *at = next_pass_ns;
        }
        self.answer_waiting(id, Renewal::Busy);
    }

    /// A client's LeaseRevoke of this lease was proposed here: keep-alives wait for its outcome from now on.
    pub fn revoke_proposed(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.revoke_proposed = true;
        }
    }
}
