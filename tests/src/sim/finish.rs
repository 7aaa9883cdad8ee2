//! The course of a run: trouble, then peace, in which everything must come to rest and agree.

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd::member::Input;
use ringd::request::{CallId, Request};
use ringd::status::Status;

use super::node::name;
use super::swarm::{ELECTION_TICKS, MILLISECOND_NS, SECOND_NS, TICK_NS};
use super::world::World;

/// A healed cluster takes a write within this.
const WRITE_WITHIN_NS: u64 = 20 * ELECTION_TICKS as u64 * TICK_NS;
/// And all members agree, watchers have everything, and leases are over within this.
const REST_WITHIN_NS: u64 = 60 * SECOND_NS;
/// Members answer the final questions within this: a hash reads everything, page by page.
const INSPECTED_WITHIN_NS: u64 = 300 * SECOND_NS;
const STEP_NS: u64 = 500 * MILLISECOND_NS;
/// The connection number of the final questions.
pub const INSPECTION: u32 = 1 << 31;

/// What every member says at the end.
#[derive(Default)]
pub struct Inspection {
    /// By member: the hash of its keys, and all its keys.
    pub hashes: Vec<(usize, pb::HashKvResponse)>,
    pub keys: Vec<(usize, pb::RangeResponse)>,
    hashes_asked: usize,
    keys_asked: usize,
}

impl Inspection {
    fn is_complete(&self) -> bool {
        self.hashes.len() == self.hashes_asked && self.keys.len() == self.keys_asked
    }
}

impl World {
    pub fn run(&mut self) {
        self.run_until(self.plan.duration_ns);
        if self.failure.is_some() {
            return;
        }
        let healed = self.heal();
        self.quiet_clients();
        while self.failure.is_none() && !self.clients.probe_answered {
            self.disarm_all();
            if self.now > healed + WRITE_WITHIN_NS {
                return self.fail(format!(
                    "no write went through within {} s after all faults ended",
                    WRITE_WITHIN_NS / SECOND_NS
                ));
            }
            self.run_until(self.now + STEP_NS);
        }
        let rested = self.now;
        while self.failure.is_none() {
            let unrest = match self.unrest() {
                None => break,
                Some(unrest) => unrest,
            };
            if self.now > rested + REST_WITHIN_NS {
                return self.fail(format!("no rest after all faults ended: {unrest}"));
            }
            self.run_until(self.now + STEP_NS);
        }
        if self.failure.is_none() {
            self.inspect();
        }
    }

    /// Damage was seen to: writes are let in again.
    fn disarm_all(&mut self) {
        let mut alarms = Vec::new();
        for number in self.members() {
            if let Some(running) = &self.node(number).running {
                alarms.extend(
                    running
                        .member
                        .store()
                        .alarms()
                        .iter()
                        .map(|alarm| (number, alarm.member_id)),
                );
            }
        }
        for (number, id) in alarms {
            self.disarm(number, id);
        }
    }

    /// What still goes on, or differs.
    fn unrest(&self) -> Option<String> {
        for number in self.members() {
            let node = self.node(number);
            let who = name(number);
            let Some(running) = &node.running else {
                return Some(format!("{who} is down"));
            };
            let store = running.member.store();
            let applied = store.applied().0;
            if applied < self.history.applied() {
                let all = self.history.applied();
                let leader = self
                    .leader()
                    .and_then(|number| self.node(number).running.as_ref());
                let leader = leader.map(|leader| leader.member.node());
                return Some(format!(
                    "{who} has applied {applied} of {all} entries: {:?}; the leader, whose log begins at {:?}: {:?}",
                    running.member.node().status(),
                    leader.map(|node| node.first_index()),
                    leader.map(|node| node.status()),
                ));
            }
            if running.member.calls_waiting() > 0 {
                return Some(format!("calls wait at {who}"));
            }
            if !store.lessor().is_empty() {
                return Some(format!("{who} has {} leases", store.lessor().len()));
            }
        }
        let unseen = self
            .clients
            .watched()
            .filter_map(|watched| watched.finish(&self.history).err());
        if let Some(unseen) = unseen.last() {
            return Some(unseen);
        }
        match self.clients_waiting() {
            0 => None,
            waiting => Some(format!("{waiting} clients wait")),
        }
    }

    /// Asks every member for all it has.
    fn inspect(&mut self) {
        let everything = Bytes::from_static(b"\0");
        let asked = self.members();
        let voters = self.voters();
        for number in asked {
            let life = self.node(number).life;
            let all = pb::RangeRequest {
                key: everything.clone(),
                range_end: everything.clone(),
                serializable: true,
                ..Default::default()
            };
            let hash = Request::HashKv(pb::HashKvRequest::default());
            self.inspection.keys_asked += 1;
            let mut requests = vec![(1, Request::Range(all))];
            if voters.contains(&self.node(number).id) {
                // Learners give no hash.
                self.inspection.hashes_asked += 1;
                requests.push((0, hash));
            }
            for (stream, request) in requests {
                let call = CallId::new(INSPECTION + number as u32, stream);
                self.input(number, life, Input::Ask { call, request });
            }
        }
        let until = self.now + INSPECTED_WITHIN_NS;
        while self.now < until && self.failure.is_none() && !self.inspection.is_complete() {
            self.run_until(self.now + STEP_NS);
        }
        let mut verdict = self.compare().and_then(|()| self.history.finish());
        if let (Ok(()), Some(search)) = (&verdict, &mut self.search) {
            verdict = search.finish();
            self.coverage
                .hit_times("keys searched", search.keys_searched);
            self.coverage
                .hit_times("searches given up", search.given_up);
        }
        if let Err(why) = verdict {
            self.fail(why);
        }
    }

    pub fn inspected(&mut self, call: CallId, result: Result<Bytes, Status>) {
        let number = (call.connection() - INSPECTION) as usize;
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(status) => return self.fail(format!("{} says: {}", name(number), status.message)),
        };
        if call.stream() == 0 {
            if let Ok(mut response) = pb::HashKvResponse::decode(bytes) {
                response.header = None;
                self.inspection.hashes.push((number, response));
            }
        } else if let Ok(mut response) = pb::RangeResponse::decode(bytes) {
            response.header = None;
            self.inspection.keys.push((number, response));
        }
    }

    fn compare(&mut self) -> Result<(), String> {
        let found = &self.inspection;
        if !found.is_complete() {
            return Err(format!(
                "{} of {} members gave their hash, {} of {} their keys",
                found.hashes.len(),
                found.hashes_asked,
                found.keys.len(),
                found.keys_asked
            ));
        }
        if found
            .hashes
            .iter()
            .any(|(_, hash)| *hash != found.hashes[0].1)
        {
            return Err(format!("the hashes differ: {:?}", found.hashes));
        }
        if let Some((_, hash)) = found.hashes.first() {
            let expected = self.history.hash(hash.hash_revision);
            if expected
                .as_ref()
                .is_some_and(|expected| expected.hash != hash.hash)
            {
                return Err(format!("the hash is {hash:?}, the model's {expected:?}"));
            }
        }
        let expected = self.history.all_keys();
        for (number, keys) in &found.keys {
            if *keys != expected {
                return Err(format!(
                    "{} has {} keys that are not the model's {}",
                    name(*number),
                    keys.count,
                    expected.count
                ));
            }
        }
        Ok(())
    }

    /// What the run did, for the coverage.
    pub fn count(&mut self) {
        let history = &self.history;
        let events: u64 = self.clients.watched().map(|watched| watched.seen).sum();
        for (kind, count) in [
            ("entries", history.applied()),
            ("writes answered", history.writes_known),
            ("reads checked", history.reads_known),
            ("outcomes unknown", history.unknown),
            ("watch events", events),
            ("lease renewals", self.leases.renewals),
            ("leases expired", self.leases.expiries),
            ("terms led", self.consensus.terms_led() as u64),
        ] {
            self.coverage.hit_times(kind, count);
        }
    }
}
