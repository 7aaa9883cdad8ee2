//! Lease entries: records in the trees, existence and deadlines in the lessor.

use super::txn::Evaluated;
use super::{Store, PLANNED};
use crate::error::RequestError;
use crate::lease::{GrantError, LeaseRecord};
use crate::mvcc::row::WELL_FORMED;
use crate::mvcc::write::LEASE_ID_BYTES;
use crate::page::Miss;
use prost::Message;
use proto::etcdserverpb::{
    LeaseCheckpointRequest, LeaseCheckpointResponse, LeaseGrantRequest, LeaseGrantResponse,
};
use proto::leasepb::Lease;
use std::ops::Bound;

impl From<GrantError> for RequestError {
    fn from(error: GrantError) -> RequestError {
        match error {
            GrantError::TtlTooLarge => RequestError::LeaseTtlTooLarge,
            GrantError::Exists => RequestError::LeaseExists,
            GrantError::NoId => RequestError::LeaseNotFound,
        }
    }
}

/// A way through the keys of a lease.
pub(super) struct AttachedKeys {
    lease: i64,
    /// The one that was visited last, as the tree has it.
    last: Option<Vec<u8>>,
}

impl AttachedKeys {
    pub fn of(lease: i64) -> AttachedKeys {
        AttachedKeys { lease, last: None }
    }
}

fn encode(record: LeaseRecord) -> Vec<u8> {
    Lease {
        id: record.id,
        ttl: record.ttl_seconds,
        remaining_ttl: record.remaining_seconds,
    }
    .encode_to_vec()
}

impl Store {
    pub(super) fn apply_lease_grant(
        &mut self,
        grant: &LeaseGrantRequest,
        now_ns: u64,
    ) -> Evaluated<LeaseGrantResponse> {
        let ttl = match self.lessor.check_grant(grant.id, grant.ttl) {
            Ok(ttl) => ttl,
            Err(error) => return Ok(Err(error.into())),
        };
        let record = encode(LeaseRecord {
            id: grant.id,
            ttl_seconds: ttl,
            remaining_seconds: 0,
        });
        let key = grant.id.to_be_bytes();
        self.trees
            .leases
            .insert(&mut self.pages, &key, &record, 1)?;
        let granted = self.lessor.grant(grant.id, grant.ttl, now_ns);
        debug_assert_eq!(granted, Ok(ttl));
        Ok(Ok(LeaseGrantResponse {
            header: Some(self.header()),
            id: grant.id,
            ttl,
            error: String::new(),
        }))
    }

    pub(super) fn check_revoke(&self, id: i64) -> Result<(), RequestError> {
        match self.lessor.contains(id) {
            true => Ok(()),
            false => Err(RequestError::LeaseNotFound),
        }
    }

    /// Names the absent pages that removing a lease needs.
    pub(super) fn plan_lease_removal(&self, id: i64) -> Result<(), Miss> {
        let mut missing = Miss::default();
        let key = id.to_be_bytes();
        self.trees
            .leases
            .plan_remove(&self.pages, &key, &mut missing);
        match missing.is_empty() {
            true => Ok(()),
            false => Err(missing),
        }
    }

    /// Removes a lease that no key is attached to any more; its pages are at hand.
    pub(super) fn remove_lease(&mut self, id: i64) {
        let known = self
            .trees
            .leases
            .remove(&mut self.pages, &id.to_be_bytes())
            .expect(PLANNED);
        debug_assert!(known, "a lease of the lessor has its record");
        self.lessor.revoke(id);
        self.results.lease(id);
    }

    /// The checkpoints before an unknown lease count, the ones after it do not.
    pub(super) fn apply_lease_checkpoint(
        &mut self,
        request: &LeaseCheckpointRequest,
    ) -> Evaluated<LeaseCheckpointResponse> {
        let persist = self.options.lease_checkpoint_persist || self.settings.stores_checkpoints();
        let known = request
            .checkpoints
            .iter()
            .take_while(|checkpoint| self.lessor.contains(checkpoint.id))
            .count();
        let known = &request.checkpoints[..known];
        let mut missing = Miss::default();
        for checkpoint in known.iter().filter(|_| persist) {
            let key = checkpoint.id.to_be_bytes();
            self.trees
                .leases
                .plan_insert(&self.pages, &key, &mut missing);
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        for checkpoint in known {
            self.lessor
                .checkpoint(checkpoint.id, checkpoint.remaining_ttl);
            self.results.lease(checkpoint.id);
            self.results.lease(checkpoint.remaining_ttl);
            if !persist {
                continue;
            }
            if let Some(record) = self.lessor.record(checkpoint.id) {
                let key = checkpoint.id.to_be_bytes();
                let leases = &mut self.trees.leases;
                leases
                    .insert(&mut self.pages, &key, &encode(record), 1)
                    .expect(PLANNED);
            }
        }
        Ok(match known.len() == request.checkpoints.len() {
            true => Ok(LeaseCheckpointResponse {
                header: Some(self.header()),
            }),
            false => Err(RequestError::LeaseNotFound),
        })
    }

    /// The keys attached to a lease, in byte order.
    pub fn lease_keys(&self, id: i64) -> Result<Vec<Vec<u8>>, Miss> {
        let mut keys = Vec::new();
        let mut attached = AttachedKeys::of(id);
        self.visit_attached(&mut attached, usize::MAX, &mut |key| {
            keys.push(key.to_vec())
        })?;
        Ok(keys)
    }

    /// Goes on through the keys of a lease by up to `keys_max`, and tells whether that were the last ones. What was visited
    /// before a miss is not visited again.
    pub(super) fn visit_attached(
        &self,
        attached: &mut AttachedKeys,
        keys_max: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Miss> {
        let id = attached.lease;
        let first = id.to_be_bytes();
        let from = match &attached.last {
            Some(last) => Bound::Excluded(&last[..]),
            None => Bound::Included(&first[..]),
        };
        let to = id.wrapping_add(1).to_be_bytes();
        // Ids are ordered as unsigned numbers here, so the one before 0 is the last.
        let end = match to == [0; LEASE_ID_BYTES] {
            true => Bound::Unbounded,
            false => Bound::Excluded(&to[..]),
        };
        let mut cursor = self.trees.lease_keys.range(&self.pages, from, end);
        for _ in 0..keys_max {
            let Some((key, _)) = cursor.next()? else {
                return Ok(true);
            };
            visit(&key[LEASE_ID_BYTES..]);
            attached.last = Some(key.into_owned());
        }
        Ok(false)
    }

    /// The stored leases, for opening.
    pub(super) fn lease_records(&self) -> Result<Vec<LeaseRecord>, Miss> {
        let tree = &self.trees.leases;
        let mut cursor = tree.range(&self.pages, Bound::Unbounded, Bound::Unbounded);
        let mut records = Vec::new();
        while let Some((_, record)) = cursor.next()? {
            let lease = Lease::decode(record).expect(WELL_FORMED);
            records.push(LeaseRecord {
                id: lease.id,
                ttl_seconds: lease.ttl,
                remaining_seconds: lease.remaining_ttl,
            });
        }
        Ok(records)
    }
}
