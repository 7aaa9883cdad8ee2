//! Random life of a lessor against a plain map.

use std::collections::{BTreeMap, BTreeSet};

use engine::lease::{
    CheckpointConfig, Config, GrantError, Lessor, Renewal, EXPIRY_PASS_INTERVAL_NS,
    EXPIRY_PASS_LEASES_MAX, REVOKES_IN_FLIGHT_MAX,
};

const SECOND: u64 = 1_000_000_000;
const RETRY: u64 = 7 * SECOND;
const ELECTION: u64 = SECOND;
const CHECKPOINT: u64 = 20 * SECOND;
const SEEDS: u64 = 300;
const STEPS: usize = 1500;

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

#[derive(Debug, Clone)]
struct Known {
    ttl: i64,
    remaining: i64,
    deadline: u64,
    proposed_at: Option<u64>,
}

struct Model {
    lessor: Lessor,
    leases: BTreeMap<i64, Known>,
    waiting: BTreeMap<i64, BTreeSet<u64>>,
    primary: bool,
    promoted_at: u64,
    now: u64,
    token: u64,
    taken_in_pass: BTreeMap<u64, usize>,
    state: u64,
    expired: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        let checkpoint = Some(CheckpointConfig {
            interval_ns: CHECKPOINT,
        });
        let config = Config {
            min_ttl_seconds: 2,
            revoke_retry_ns: RETRY,
            drift_bound_ppm: 0,
            checkpoint: checkpoint.filter(|_| seed % 2 == 0),
        };
        Model {
            lessor: Lessor::new(config),
            leases: BTreeMap::new(),
            waiting: BTreeMap::new(),
            primary: false,
            promoted_at: 0,
            now: 0,
            token: 0,
            taken_in_pass: BTreeMap::new(),
            state: seed,
            expired: 0,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        random(&mut self.state, below)
    }

    fn id(&mut self) -> i64 {
        self.random(60) as i64 - 20
    }

    fn step(&mut self) {
        match self.random(100) {
            0..=24 => self.grant(),
            25..=44 => self.renew(),
            45..=52 => self.revoke(),
            53..=74 => self.now += self.random(3 * SECOND),
            75..=89 => self.expire(),
            90 => self.promote(),
            91 => self.demote(),
            _ => self.checkpoint(),
        }
        self.compare();
    }

    fn grant(&mut self) {
        let (id, ttl) = (self.id(), self.random(60) as i64 - 5);
        let expected = match id {
            0 => Err(GrantError::NoId),
            id if self.leases.contains_key(&id) => Err(GrantError::Exists),
            _ => Ok(ttl.max(2)),
        };
        assert_eq!(self.lessor.grant(id, ttl, self.now), expected);
        if let Ok(ttl) = expected {
            let known = Known {
                ttl,
                remaining: 0,
                deadline: self.now + ttl as u64 * SECOND,
                proposed_at: None,
            };
            self.leases.insert(id, known);
        }
    }

    fn renew(&mut self) {
        let id = self.id();
        self.token += 1;
        let expected = match self.leases.get_mut(&id) {
            _ if !self.primary => Renewal::NotPrimary,
            None => Renewal::Unknown,
            Some(known) if known.deadline <= self.now => {
                self.waiting.entry(id).or_default().insert(self.token);
                Renewal::Pending
            }
            Some(known) if known.remaining > 0 => Renewal::ClearCheckpoint,
            Some(known) => {
                known.deadline = self.now + known.ttl as u64 * SECOND;
                Renewal::Renewed {
                    ttl_seconds: known.ttl,
                }
            }
        };
        assert_eq!(self.lessor.renew(id, self.token, self.now), expected);
    }

    fn revoke(&mut self) {
        let id = self.id();
        assert_eq!(self.lessor.revoke(id), self.leases.remove(&id).is_some());
        self.hear(id, Renewal::Unknown);
    }

    /// Everyone who waited for this lease, and nobody else, is answered.
    fn hear(&mut self, id: i64, answer: Renewal) {
        let mut out = Vec::new();
        self.lessor.take_answers(&mut out);
        let expected = self.waiting.remove(&id).unwrap_or_default();
        assert!(out.iter().all(|&(_, given)| given == answer));
        assert_eq!(
            out.into_iter()
                .map(|(token, _)| token)
                .collect::<BTreeSet<_>>(),
            expected
        );
    }

    fn expire(&mut self) {
        let wake = self.lessor.deadline_ns();
        let max = 1 + self.random(40) as usize;
        let batch = self.lessor.take_expired(self.now, max);
        assert!(self.primary || batch.is_empty());
        assert!(batch.len() <= max);
        if !batch.is_empty() {
            assert!(
                wake.is_some_and(|at| at <= self.now),
                "the deadline announces the work"
            );
        }
        let pass = (self.now - self.promoted_at) / EXPIRY_PASS_INTERVAL_NS;
        let taken = self.taken_in_pass.entry(pass).or_default();
        *taken += batch.len();
        assert!(*taken <= EXPIRY_PASS_LEASES_MAX);
        for id in &batch {
            let known = self.leases.get_mut(id).expect("only known leases expire");
            assert!(known.deadline <= self.now, "none before its time");
            assert!(known.proposed_at.is_none_or(|at| at + RETRY <= self.now));
            known.proposed_at = Some(self.now);
        }
        let now = self.now;
        let in_flight = self
            .leases
            .values()
            .filter(|known| known.proposed_at.is_some_and(|at| at + RETRY > now));
        assert!(in_flight.count() <= REVOKES_IN_FLIGHT_MAX);
        self.expired += batch.len();
        for id in batch {
            // Some revocations are lost.
            if self.random(4) > 0 {
                assert!(self.lessor.revoke(id));
                self.leases.remove(&id);
                self.hear(id, Renewal::Unknown);
            }
        }
    }

    fn promote(&mut self) {
        self.lose_leadership();
        self.primary = true;
        self.promoted_at = self.now;
        self.taken_in_pass.clear();
        for known in self.leases.values_mut() {
            let left = if known.remaining > 0 {
                known.remaining
            } else {
                known.ttl
            };
            known.deadline = self.now + left as u64 * SECOND + ELECTION;
            known.proposed_at = None;
        }
        self.lessor.promote(self.now, ELECTION);
    }

    fn demote(&mut self) {
        if self.random(3) == 0 {
            self.lose_leadership();
        }
    }

    fn lose_leadership(&mut self) {
        self.lessor.demote();
        self.primary = false;
        let mut out = Vec::new();
        self.lessor.take_answers(&mut out);
        let waiting: BTreeSet<u64> = std::mem::take(&mut self.waiting)
            .into_values()
            .flatten()
            .collect();
        assert!(out.iter().all(|&(_, given)| given == Renewal::NotPrimary));
        assert_eq!(
            out.into_iter()
                .map(|(token, _)| token)
                .collect::<BTreeSet<_>>(),
            waiting
        );
    }

    fn checkpoint(&mut self) {
        if self.random(2) == 0 {
            let id = self.id();
            let known = self.leases.get_mut(&id);
            assert_eq!(self.lessor.checkpoint(id, 0), known.is_some());
            if let Some(known) = known {
                known.remaining = 0;
            }
            return;
        }
        for (id, seconds) in self.lessor.take_checkpoints(self.now, 5) {
            let known = self
                .leases
                .get_mut(&id)
                .expect("only known leases are checkpointed");
            assert!(
                self.primary && seconds > 0 && seconds < known.ttl && known.deadline > self.now
            );
            let left = (known.deadline - self.now).div_ceil(SECOND) as i64;
            assert!(
                seconds <= left && left - seconds <= 1,
                "{seconds} of {left}"
            );
            assert!(self.lessor.checkpoint(id, seconds));
            known.remaining = seconds;
        }
    }

    fn compare(&mut self) {
        assert_eq!(self.lessor.len(), self.leases.len());
        let mut expected: Vec<(u64, i64)> = self
            .leases
            .iter()
            .map(|(&id, known)| (if self.primary { known.deadline } else { 0 }, id))
            .collect();
        expected.sort_unstable();
        let expected: Vec<i64> = expected.into_iter().map(|(_, id)| id).collect();
        assert_eq!(
            self.lessor.leases_by_remaining().collect::<Vec<_>>(),
            expected
        );
        let id = self.id();
        let told = self.lessor.time_to_live(id, self.now);
        assert_eq!(told.is_some(), self.leases.contains_key(&id));
        if let (Some(told), Some(known), true) = (told, self.leases.get(&id), self.primary) {
            let left = (known.deadline as i64 - self.now as i64) / SECOND as i64;
            assert_eq!(
                (told.granted_seconds, told.remaining_seconds),
                (known.ttl, left)
            );
        }
    }

    /// With a leader that works, every lease ends within a second of its time.
    fn finish(&mut self) {
        self.promote();
        let mut passes = 0;
        while let Some(wake) = self.lessor.deadline_ns() {
            assert!(wake >= self.now || !self.leases.is_empty());
            self.now = self.now.max(wake);
            self.lessor.take_checkpoints(self.now, 1000);
            for id in self.lessor.take_expired(self.now, 1000) {
                let known = self.leases.remove(&id).expect("a known lease");
                assert!(known.deadline <= self.now && self.now - known.deadline < SECOND);
                self.lessor.revoke(id);
            }
            passes += 1;
            assert!(passes < 10_000, "the deadline moves on");
        }
        assert!(self.lessor.is_empty());
    }
}

#[test]
fn agrees_with_a_plain_map() {
    let mut expired = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.step();
        }
        expired += model.expired;
        model.finish();
    }
    assert!(
        expired > 10_000,
        "the runs must have met expiries, not {expired}"
    );
}
