//! Leases: a lease is its granted time to live and when it ends; what hangs on it stands in the keys.

use proto::etcdserverpb as pb;

use super::{refuse, KeyRange, Model, Refusal};

/// Shortest time to live with default election and heartbeat times.
pub const MIN_TTL_S: i64 = 2;
const MAX_TTL_S: i64 = 9_000_000_000;

const FIRST_CHOSEN_ID: i64 = 1 << 62;

/// What a lease costs of the quota.
const LEASE_COST_BYTES: u64 = 64;

#[derive(Clone, Debug)]
pub(super) struct Lease {
    ttl_s: i64,
    ends_ms: u64,
}

pub(super) fn not_found<T>() -> Result<T, Refusal> {
    refuse(5, "etcdserver: requested lease not found")
}

impl Model {
    /// Which id a server would choose cannot be foretold: without one, the model takes the first free one from
    /// [`FIRST_CHOSEN_ID`] on.
    pub(super) fn lease_grant(
        &mut self,
        r: &pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, Refusal> {
        self.check_quota(LEASE_COST_BYTES)?;
        self.check_alarms(LEASE_COST_BYTES)?;
        if r.ttl > MAX_TTL_S {
            return refuse(11, "etcdserver: too large lease TTL");
        }
        let id = match r.id {
            0 => (FIRST_CHOSEN_ID..)
                .find(|id| !self.leases.contains_key(id))
                .expect("not all ids are taken"),
            id => id,
        };
        if self.leases.contains_key(&id) {
            return refuse(9, "etcdserver: lease already exists");
        }
        let ttl_s = r.ttl.max(MIN_TTL_S);
        let ends_ms = self.now_ms + ttl_s as u64 * 1000;
        self.leases.insert(id, Lease { ttl_s, ends_ms });
        Ok(pb::LeaseGrantResponse {
            header: self.header(),
            id,
            ttl: ttl_s,
            error: String::new(),
        })
    }

    pub(super) fn lease_revoke(
        &mut self,
        r: &pb::LeaseRevokeRequest,
    ) -> Result<pb::LeaseRevokeResponse, Refusal> {
        self.check_alarms(0)?;
        if self.leases.remove(&r.id).is_none() {
            return not_found();
        }
        self.delete_keys_of(r.id);
        Ok(pb::LeaseRevokeResponse {
            header: self.header(),
        })
    }

    /// Ends a lease as its expiry would. Unknown ids are ignored.
    pub fn expire(&mut self, id: i64) {
        if self.leases.remove(&id).is_some() {
            self.delete_keys_of(id);
        }
    }

    /// Lets time pass until the next lease ends; false if there is none.
    pub fn expire_next(&mut self) -> bool {
        let next = self.leases.iter().min_by_key(|(_, lease)| lease.ends_ms);
        let Some((id, ends_ms)) = next.map(|(id, lease)| (*id, lease.ends_ms)) else {
            return false;
        };
        self.now_ms = self.now_ms.max(ends_ms);
        self.expire(id);
        true
    }

    fn delete_keys_of(&mut self, id: i64) {
        let main = self.history.revision + 1;
        for key in self.keys_of_lease(id) {
            self.history.delete(&KeyRange::new(&key, &"".into()), main);
        }
        if self.history.wrote(main) {
            self.commit(main);
        }
    }

    pub(super) fn lease_keep_alive(
        &mut self,
        r: &pb::LeaseKeepAliveRequest,
    ) -> pb::LeaseKeepAliveResponse {
        let header = self.header();
        let now_ms = self.now_ms;
        let ttl = self.leases.get_mut(&r.id).map_or(0, |lease| {
            lease.ends_ms = now_ms + lease.ttl_s as u64 * 1000;
            lease.ttl_s
        });
        pb::LeaseKeepAliveResponse {
            header,
            id: r.id,
            ttl,
        }
    }

    pub(super) fn lease_time_to_live(
        &self,
        r: &pb::LeaseTimeToLiveRequest,
    ) -> pb::LeaseTimeToLiveResponse {
        let mut response = pb::LeaseTimeToLiveResponse {
            header: self.header(),
            id: r.id,
            ttl: -1,
            ..Default::default()
        };
        if let Some(lease) = self.leases.get(&r.id) {
            response.ttl = (lease.ends_ms as i64 - self.now_ms as i64) / 1000;
            response.granted_ttl = lease.ttl_s;
            if r.keys {
                response.keys = self.keys_of_lease(r.id);
            }
        }
        response
    }

    /// By remaining time.
    pub(super) fn lease_leases(&self) -> pb::LeaseLeasesResponse {
        let mut leases: Vec<_> = self.leases.iter().collect();
        leases.sort_by_key(|(_, lease)| lease.ends_ms);
        pb::LeaseLeasesResponse {
            header: self.header(),
            leases: leases
                .into_iter()
                .map(|(id, _)| pb::LeaseStatus { id: *id })
                .collect(),
        }
    }
}
