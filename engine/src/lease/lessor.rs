//! The table of leases and the order of their deadlines.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{CheckpointConfig, Schedule};
use super::expiry::Pass;
use crate::planted::{planted, Fault};

pub(super) const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Longest TTL that can be granted, seconds.
pub const TTL_MAX_SECONDS: i64 = 9_000_000_000;
/// From this number of leases on, a promotion spreads their deadlines.
pub const PILE_UP_LEASES_MIN: usize = 1000;
/// Most deadlines within one second after a promotion that spreads: three quarters of what expiry can do.
pub const PILE_UP_PER_SECOND_MAX: usize = 750;
/// Most lease checkpoints in one log entry.
pub const CHECKPOINTS_PER_ENTRY_MAX: usize = 1000;
/// Time between two checkpoints of a lease.
pub const CHECKPOINT_INTERVAL_DEFAULT_NS: u64 = 300 * NANOS_PER_SECOND;
/// Most keep-alives that wait for the revocation of their expired lease; more are told [`Renewal::Busy`].
pub const RENEW_WAITERS_MAX: usize = 65_536;

/// The smallest TTL that is granted: one and a half election timeouts (in whole ticks, rounded down), rounded up to whole
/// seconds. 2 s by default (10 ticks of 100 ms).
pub fn min_ttl_seconds(election_ticks: u64, tick_ns: u64) -> i64 {
    let ticks = election_ticks.saturating_mul(3) / 2;
    let seconds = ticks.saturating_mul(tick_ns).div_ceil(NANOS_PER_SECOND);
    seconds.min(TTL_MAX_SECONDS as u64) as i64
}

#[derive(Clone, Debug)]
pub struct Config {
    /// See [`min_ttl_seconds`]. Requests below it, zero and negative ones included, are raised to it.
    pub min_ttl_seconds: i64,
    /// A revoke proposal without an outcome for this long is proposed again.
    pub revoke_retry_ns: u64,
    /// How much slower than ours a client's clock may run, in parts per million: a lease ends only after TTL x (1 + bound).
    pub drift_bound_ppm: u32,
    /// `None`: leases are not checkpointed.
    pub checkpoint: Option<CheckpointConfig>,
}

/// As at etcd's default election timeout.
impl Default for Config {
    fn default() -> Config {
        Config {
            min_ttl_seconds: 2,
            revoke_retry_ns: 7_000_000_000,
            drift_bound_ppm: 0,
            checkpoint: None,
        }
    }
}

/// What is stored of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    pub id: i64,
    pub ttl_seconds: i64,
    /// Remaining TTL of the last checkpoint; 0 when there is none or it was cleared by a renewal.
    pub remaining_seconds: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// Answered as `etcdserver: too large lease TTL`.
    TtlTooLarge,
    /// Answered as `etcdserver: lease already exists`.
    Exists,
    /// Id 0 means "no lease"; the server picks an id before it proposes, so only a forged entry asks for it.
    NoId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The deadline is now + TTL; the answer carries the granted TTL.
    Renewed { ttl_seconds: i64 },
    /// No such lease: answered with TTL 0 and no error.
    Unknown,
    /// Expired but its revocation is not applied yet: the answer comes out of [`Lessor::take_answers`].
    Pending,
    /// A checkpointed remaining TTL must be cleared first: propose a checkpoint with 0 and renew again once it is applied.
    /// Confirming earlier would let a new leader end the lease before its time.
    ClearCheckpoint,
    /// Only the leader renews: forward, or tell the client to retry.
    NotPrimary,
    /// [`RENEW_WAITERS_MAX`] keep-alives wait already: tell the client to retry.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub granted_seconds: i64,
    /// Truncated toward zero; negative when the lease is overdue by a second or more.
    pub remaining_seconds: i64,
}

#[derive(Debug)]
pub(super) struct Lease {
    ttl_seconds: i64,
    remaining_seconds: i64,
    attached: u64,
    /// End on the monotonic clock of the primary, drift margin included. Meaningless on a secondary.
    deadline_ns: u64,
    checkpoint_at_ns: Option<u64>,
    /// When the revoke proposal in flight counts as lost.
    pub(super) revoke_retry_at_ns: Option<u64>,
    /// A revocation asked for by a client is on its way: no renewal may be confirmed any more.
    pub(super) revoke_proposed: bool,
}

impl Lease {
    /// What a refresh grants: the checkpointed rest, otherwise everything.
    fn left_seconds(&self) -> i64 {
        if self.remaining_seconds > 0 {
            self.remaining_seconds
        } else {
            self.ttl_seconds
        }
    }
}

/// All leases of the cluster as this member sees them.
#[derive(Debug)]
pub struct Lessor {
    pub(super) config: Config,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) primary: bool,
    /// `(deadline, id)` of every lease while primary; empty otherwise.
    pub(super) deadlines: BTreeSet<(u64, i64)>,
    /// `(retry at, id)` of expired leases whose revocation was handed out.
    pub(super) revoking: BTreeSet<(u64, i64)>,
    pub(super) pass: Pass,
    pub(super) checkpoints: Schedule,
    waiting: BTreeMap<i64, Vec<u64>>,
    waiting_count: usize,
    answers: Vec<(u64, Renewal)>,
}

impl Lessor {
    pub fn new(config: Config) -> Lessor {
        Lessor {
            config,
            leases: BTreeMap::new(),
            primary: false,
            deadlines: BTreeSet::new(),
            revoking: BTreeSet::new(),
            pass: Pass { at_ns: 0, left: 0 },
            checkpoints: Schedule::default(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            answers: Vec::new(),
        }
    }

    /// Takes back the stored leases, as a secondary: no time passes for them until [`Lessor::promote`].
    pub fn open(config: Config, records: impl IntoIterator<Item = LeaseRecord>) -> Lessor {
        let mut lessor = Lessor::new(config);
        for record in records {
            lessor.insert(record);
        }
        lessor
    }

    /// Installs a snapshot: the given leases replace all others. A member that installs snapshots is no primary.
    pub fn restore(&mut self, records: impl IntoIterator<Item = LeaseRecord>) {
        self.demote();
        self.leases.clear();
        for record in records {
            self.insert(record);
        }
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn is_primary(&self) -> bool {
        self.primary
    }

    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// What to store for this lease.
    pub fn record(&self, id: i64) -> Option<LeaseRecord> {
        self.leases.get(&id).map(|lease| LeaseRecord {
            id,
            ttl_seconds: lease.ttl_seconds,
            remaining_seconds: lease.remaining_seconds,
        })
    }

    /// The answer a grant will have, without granting: `Ok` is the effective TTL.
    pub fn check_grant(&self, id: i64, ttl_seconds: i64) -> Result<i64, GrantError> {
        if id == 0 {
            return Err(GrantError::NoId);
        }
        if ttl_seconds > TTL_MAX_SECONDS {
            return Err(GrantError::TtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(GrantError::Exists);
        }
        Ok(ttl_seconds.max(self.config.min_ttl_seconds))
    }

    /// Applies a grant and returns the effective TTL.
    pub fn grant(&mut self, id: i64, ttl_seconds: i64, now_ns: u64) -> Result<i64, GrantError> {
        let ttl_seconds = self.check_grant(id, ttl_seconds)?;
        self.insert(LeaseRecord {
            id,
            ttl_seconds,
            remaining_seconds: 0,
        });
        if self.primary {
            self.refresh(id, now_ns, 0);
        }
        Ok(ttl_seconds)
    }

    /// Applies a revocation. `false`: no such lease (`etcdserver: requested lease not found`).
    pub fn revoke(&mut self, id: i64) -> bool {
        let Some(lease) = self.leases.remove(&id) else {
            return false;
        };
        if self.primary {
            self.deadlines.remove(&(lease.deadline_ns, id));
            self.checkpoints.forget(id, lease.checkpoint_at_ns);
        }
        if let Some(at) = lease.revoke_retry_at_ns {
            self.revoking.remove(&(at, id));
        }
        self.answer_waiting(id, Renewal::Unknown);
        true
    }

    /// Counts a key that names this lease. `false`: no such lease.
    pub fn attach(&mut self, id: i64) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.attached += 1;
                true
            }
            None => false,
        }
    }

    /// The key was deleted or put with another lease.
    pub fn detach(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.attached = lease.attached.saturating_sub(1);
        }
    }

    /// Keys attached since this process began to count; not a replicated number.
    pub fn attached(&self, id: i64) -> u64 {
        self.leases.get(&id).map_or(0, |lease| lease.attached)
    }

    /// Keep-alive. `token` names the request in [`Lessor::take_answers`] when the result is [`Renewal::Pending`].
    pub fn renew(&mut self, id: i64, token: u64, now_ns: u64) -> Renewal {
        self.renew_asked(id, token, now_ns, now_ns)
    }

    /// As `renew`, of a renewal that came in earlier: it counts if the lease had time left by then and has not been revoked.
    pub fn renew_asked(&mut self, id: i64, token: u64, asked_ns: u64, now_ns: u64) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        let Some(lease) = self.leases.get(&id) else {
            return Renewal::Unknown;
        };
        if lease.deadline_ns <= asked_ns
            || lease.revoke_retry_at_ns.is_some()
            || lease.revoke_proposed
        {
            return self.wait_for_revocation(id, token);
        }
        if lease.remaining_seconds > 0 {
            return Renewal::ClearCheckpoint;
        }
        let ttl_seconds = lease.ttl_seconds;
        self.refresh(id, now_ns, 0);
        Renewal::Renewed { ttl_seconds }
    }

    /// `None`: no such lease (answered with TTL -1 and no error). On a secondary the remaining time is that of "for ever":
    /// the caller asks the leader instead.
    pub fn time_to_live(&self, id: i64, now_ns: u64) -> Option<TimeToLive> {
        let lease = self.leases.get(&id)?;
        let remaining_seconds = if self.primary {
            let margin_ns = self.margin_ns(lease.left_seconds());
            let left_ns =
                i128::from(lease.deadline_ns) - i128::from(margin_ns) - i128::from(now_ns);
            (left_ns / i128::from(NANOS_PER_SECOND)) as i64
        } else {
            i64::MAX / NANOS_PER_SECOND as i64
        };
        Some(TimeToLive {
            granted_seconds: lease.ttl_seconds,
            remaining_seconds,
        })
    }

    /// Ids of all leases: by remaining time on the primary (then by id), by id elsewhere.
    pub fn leases_by_remaining(&self) -> impl Iterator<Item = i64> + '_ {
        let by_time = self.deadlines.iter().map(|&(_, id)| id);
        let by_id = self.leases.keys().copied().filter(|_| !self.primary);
        by_time.chain(by_id)
    }

    /// This member leads and has applied the first entry of its term: every lease gets its remaining TTL of the last
    /// checkpoint, or its full TTL, plus `extend_ns` (one election timeout), because nobody knows how much was left.
    pub fn promote(&mut self, now_ns: u64, extend_ns: u64) {
        self.demote();
        self.primary = true;
        self.pass = Pass {
            at_ns: now_ns,
            left: 0,
        };
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            self.refresh(id, now_ns, extend_ns);
        }
        if self.leases.len() >= PILE_UP_LEASES_MIN {
            self.spread_deadlines();
        }
        self.check();
    }

    /// This member no longer leads: leases never end here, and keep-alives that waited go elsewhere.
    pub fn demote(&mut self) {
        self.primary = false;
        self.deadlines.clear();
        self.revoking.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            lease.checkpoint_at_ns = None;
            lease.revoke_retry_at_ns = None;
            lease.revoke_proposed = false;
        }
        for (_, tokens) in std::mem::take(&mut self.waiting) {
            self.answers
                .extend(tokens.into_iter().map(|token| (token, Renewal::NotPrimary)));
        }
        self.waiting_count = 0;
    }

    /// Remaining TTLs to record through the log: `(id, seconds)`, at most [`CHECKPOINTS_PER_ENTRY_MAX`] and `max`.
    pub fn take_checkpoints(&mut self, now_ns: u64, max: usize) -> Vec<(i64, i64)> {
        let mut due = Vec::new();
        while due.len() < max.min(CHECKPOINTS_PER_ENTRY_MAX) {
            let Some(id) = self.checkpoints.pop_due(now_ns) else {
                break;
            };
            let Some(lease) = self.leases.get_mut(&id) else {
                continue;
            };
            lease.checkpoint_at_ns = None;
            if lease.deadline_ns <= now_ns {
                continue;
            }
            let left_seconds = (lease.deadline_ns - now_ns).div_ceil(NANOS_PER_SECOND) as i64;
            // The extension at a promotion or the drift margin can put more on the clock than was ever granted.
            let left_seconds = left_seconds.min(lease.left_seconds());
            lease.checkpoint_at_ns =
                self.checkpoints
                    .plan(self.config.checkpoint, id, None, now_ns, left_seconds);
            if left_seconds < lease.ttl_seconds {
                due.push((id, left_seconds));
            }
        }
        due
    }

    /// Applies one lease of a checkpoint entry; 0 clears. `false`: no such lease, which is not an error.
    pub fn checkpoint(&mut self, id: i64, remaining_seconds: i64) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.remaining_seconds = remaining_seconds;
                true
            }
            None => false,
        }
    }

    /// Outcomes of keep-alives that were [`Renewal::Pending`], by token: `Unknown` once the revocation was applied,
    /// `NotPrimary` when leadership was lost, `Busy` when the revocation was dropped.
    pub fn take_answers(&mut self, out: &mut Vec<(u64, Renewal)>) {
        out.append(&mut self.answers);
    }

    fn insert(&mut self, record: LeaseRecord) {
        self.leases.insert(
            record.id,
            Lease {
                ttl_seconds: record.ttl_seconds,
                remaining_seconds: record.remaining_seconds,
                attached: 0,
                deadline_ns: u64::MAX,
                checkpoint_at_ns: None,
                revoke_retry_at_ns: None,
                revoke_proposed: false,
            },
        );
    }

    fn refresh(&mut self, id: i64, now_ns: u64, extend_ns: u64) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        let left_seconds = lease.left_seconds();
        let left_ns = match planted(Fault::ExpireEarly) {
            true => nanos(left_seconds) / 4 * 3,
            false => nanos(left_seconds),
        };
        let deadline_ns = now_ns
            .saturating_add(left_ns)
            .saturating_add(self.margin_ns(left_seconds))
            .saturating_add(extend_ns);
        self.move_deadline(id, deadline_ns);
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.checkpoint_at_ns = self.checkpoints.plan(
            self.config.checkpoint,
            id,
            lease.checkpoint_at_ns,
            now_ns,
            left_seconds,
        );
    }

    fn move_deadline(&mut self, id: i64, deadline_ns: u64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            self.deadlines.remove(&(lease.deadline_ns, id));
            lease.deadline_ns = deadline_ns;
            self.deadlines.insert((deadline_ns, id));
        }
    }

    fn margin_ns(&self, seconds: i64) -> u64 {
        if planted(Fault::DriftIgnored) {
            return 0;
        }
        let margin =
            u128::from(nanos(seconds)) * u128::from(self.config.drift_bound_ppm) / 1_000_000;
        u64::try_from(margin).unwrap_or(u64::MAX)
    }

    /// Delays deadlines, in their order, until no second holds more than [`PILE_UP_PER_SECOND_MAX`]: each comes at least one
    /// second after the one that many places before it. Deadlines are only ever delayed.
    fn spread_deadlines(&mut self) {
        let sorted: Vec<(u64, i64)> = self.deadlines.iter().copied().collect();
        let mut spread: Vec<u64> = Vec::with_capacity(sorted.len());
        for (place, &(deadline_ns, id)) in sorted.iter().enumerate() {
            let earliest = match place.checked_sub(PILE_UP_PER_SECOND_MAX) {
                Some(before) => spread[before].saturating_add(NANOS_PER_SECOND),
                None => 0,
            };
            let at = deadline_ns.max(earliest);
            spread.push(at);
            if at != deadline_ns {
                self.move_deadline(id, at);
            }
        }
    }

    fn wait_for_revocation(&mut self, id: i64, token: u64) -> Renewal {
        if self.waiting_count >= RENEW_WAITERS_MAX {
            return Renewal::Busy;
        }
        self.waiting_count += 1;
        self.waiting.entry(id).or_default().push(token);
        Renewal::Pending
    }

    pub(super) fn answer_waiting(&mut self, id: i64, answer: Renewal) {
        let tokens = self.waiting.remove(&id).unwrap_or_default();
        self.waiting_count -= tokens.len();
        self.answers
            .extend(tokens.into_iter().map(|token| (token, answer)));
    }

    fn check(&self) {
        let timed = if self.primary { self.leases.len() } else { 0 };
        assert_eq!(
            self.deadlines.len(),
            timed,
            "each lease has exactly one deadline on the primary and none elsewhere"
        );
    }
}

/// Nanoseconds of a TTL; no time at all for a negative one, the far end of the clock for one that does not fit.
fn nanos(seconds: i64) -> u64 {
    u64::try_from(seconds)
        .unwrap_or(0)
        .saturating_mul(NANOS_PER_SECOND)
}
