//! HashKV: CRC-32C over the rows as etcd stores them.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;

use super::{compacted, future, Model, Refusal};

/// How many compactions' hashes etcd remembers.
const REMEMBERED_MAX: usize = 10;

/// CRC-32C (Castagnoli), bit by bit.
struct Crc(u32);

impl Crc {
    fn update(&mut self, bytes: &[u8]) {
        const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
        self.0 = !self.0;
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = self.0 & 1 == 1;
                self.0 >>= 1;
                if carry {
                    self.0 ^= REVERSED_POLYNOMIAL;
                }
            }
        }
        self.0 = !self.0;
    }
}

impl Model {
    pub(super) fn hash_kv(&self, r: &pb::HashKvRequest) -> Result<pb::HashKvResponse, Refusal> {
        // A remembered hash is found by its explicit revision only, and stays askable after later compactions.
        let remembered = self
            .compaction_hashes
            .iter()
            .find(|(at, _, _)| *at == r.revision && r.revision != 0);
        let (hash, compact_revision) = match remembered {
            Some((_, hash, before)) => (*hash, *before),
            None => {
                let revision = match r.revision {
                    0 => self.history.revision,
                    explicit => explicit,
                };
                if revision > self.history.revision {
                    return future();
                }
                // A negative revision passes, and no row is that old.
                if (1..self.history.compacted).contains(&revision) {
                    return compacted();
                }
                (self.hash_at(revision, false), self.history.compacted)
            }
        };
        Ok(pb::HashKvResponse {
            header: self.header(),
            hash,
            compact_revision,
            ..Default::default()
        })
    }

    /// Called before the compaction removes anything.
    pub(super) fn remember_hash(&mut self, revision: i64) {
        let hash = self.hash_at(revision, true);
        self.compaction_hashes
            .push((revision, hash, self.history.compacted));
        if self.compaction_hashes.len() > REMEMBERED_MAX {
            self.compaction_hashes.remove(0);
        }
    }

    /// `compacting`: what the compaction to `revision` computes on its way. It keeps deletions of that very revision, so
    /// that old rows are left out even when no key is alive.
    fn hash_at(&self, revision: i64, compacting: bool) -> u32 {
        let mut rows = Vec::new();
        let mut keep = BTreeSet::new();
        for (key, changes) in &self.history.keys {
            let newest = changes.iter().rev().find(|c| c.main <= revision);
            if let Some(change) =
                newest.filter(|c| c.kv.is_some() || compacting && c.main == revision)
            {
                keep.insert((change.main, change.sub));
            }
            for change in changes.iter().filter(|c| c.main <= revision) {
                rows.push((change.main, change.sub, key.clone(), change.kv.clone()));
            }
        }
        rows.sort_by_key(|(main, sub, _, _)| (*main, *sub));
        let mut crc = Crc(0);
        crc.update(b"key");
        for (main, sub, key, kv) in rows {
            let old = main <= self.history.compacted;
            if old && !keep.is_empty() && !keep.contains(&(main, sub)) {
                continue;
            }
            if main == self.history.compacted && kv.is_none() {
                continue;
            }
            let mut row = main.to_be_bytes().to_vec();
            row.push(b'_');
            row.extend(sub.to_be_bytes());
            if kv.is_none() {
                row.push(b't');
            }
            crc.update(&row);
            let value = kv.unwrap_or(KeyValue {
                key,
                ..Default::default()
            });
            crc.update(&value.encode_to_vec());
        }
        crc.0
    }
}
