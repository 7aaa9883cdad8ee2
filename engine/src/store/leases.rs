//! Lease entries: records in the trees, existence and deadlines in the lessor.

use super::txn::Evaluated;
use super::{Store, PLANNED};
use crate::error::RequestError;
use crate::lease::{GrantError, LeaseRecord};
use crate::mvcc::batch::Batch;
use crate::mvcc::row::WELL_FORMED;
use crate::mvcc::write::LEASE_ID_BYTES;
use crate::page::Miss;
use prost::Message;
use proto::etcdserverpb::{
    LeaseCheckpointRequest, LeaseCheckpointResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeResponse,
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

    /// All keys of the lease go in one revision, in byte order, together with the lease.
    pub(super) fn apply_lease_revoke(&mut self, id: i64) -> Evaluated<LeaseRevokeResponse> {
        if !self.lessor.contains(id) {
            return Ok(Err(RequestError::LeaseNotFound));
        }
        let mut batch = Batch::new(self.revision + 1);
        for key in self.lease_keys(id)? {
            batch.delete_key(&key, id);
        }
        let mut missing = Miss::default();
        let key = id.to_be_bytes();
        self.trees
            .leases
            .plan_remove(&self.pages, &key, &mut missing);
        if !missing.is_empty() {
            return Err(missing);
        }
        self.write(&batch)?;
        let known = self
            .trees
            .leases
            .remove(&mut self.pages, &key)
            .expect(PLANNED);
        debug_assert!(known, "a lease of the lessor has its record");
        self.lessor.revoke(id);
        self.results.lease(id);
        Ok(Ok(LeaseRevokeResponse {
            header: Some(self.header()),
        }))
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
        let from = id.to_be_bytes();
        let to = id.wrapping_add(1).to_be_bytes();
        // Ids are ordered as unsigned numbers here, so the one before 0 is the last.
        let end = match to == [0; LEASE_ID_BYTES] {
            true => Bound::Unbounded,
            false => Bound::Excluded(&to[..]),
        };
        let tree = &self.trees.lease_keys;
        let mut cursor = tree.range(&self.pages, Bound::Included(&from[..]), end);
        let mut keys = Vec::new();
        while let Some((key, _)) = cursor.next()? {
            keys.push(key[LEASE_ID_BYTES..].to_vec());
        }
        Ok(keys)
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
