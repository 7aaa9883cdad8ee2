//! The `Hash` call: one number over everything stored, in the order and form of etcd's buckets. A test aid; only
//! HashKV is promised to equal etcd's.

use super::members::{is_learner, peer_urls};
use super::Store;
use crate::hash::{Sum, KEY_BUCKET};
use crate::mvcc::Revision;
use crate::page::Miss;
use prost::Message;
use proto::membershippb::Member;
use serde_json::{json, Map, Value};
use std::ops::Bound;

/// A hash under way. Rows that are written meanwhile are not covered, other changes may be.
#[derive(Clone, Debug)]
pub struct WholeHashJob {
    revision: i64,
    next: Revision,
    sum: Option<Sum>,
}

fn member_json(member: &Member) -> String {
    let mut fields = Map::new();
    fields.insert("id".into(), member.id.into());
    fields.insert("peerURLs".into(), peer_urls(member).into());
    if is_learner(member) {
        fields.insert("isLearner".into(), true.into());
    }
    let attributes = member.member_attributes.clone().unwrap_or_default();
    if !attributes.name.is_empty() {
        fields.insert("name".into(), attributes.name.into());
    }
    if !attributes.client_urls.is_empty() {
        fields.insert("clientURLs".into(), attributes.client_urls.into());
    }
    Value::Object(fields).to_string()
}

fn pair(sum: &mut Sum, key: &[u8], value: &[u8]) {
    sum.feed(key);
    sum.feed(value);
}

fn compaction_mark(revision: i64) -> [u8; 17] {
    let mut mark = [0; 17];
    mark[..8].copy_from_slice(&revision.to_be_bytes());
    mark[8] = b'_';
    mark
}

impl Store {
    /// Begins the hash over everything.
    pub fn hash(&self) -> WholeHashJob {
        WholeHashJob {
            revision: self.revision,
            next: Revision::default(),
            sum: None,
        }
    }

    fn hash_before_rows(&self) -> Sum {
        let mut sum = Sum::of(b"alarm");
        let mut alarms: Vec<_> = self.alarms().iter().map(Message::encode_to_vec).collect();
        alarms.sort();
        for alarm in alarms {
            sum.feed(&alarm);
        }
        sum.feed(b"auth");
        pair(&mut sum, b"authRevision", &1u64.to_be_bytes());
        sum.feed(b"authRoles");
        sum.feed(b"authUsers");
        sum.feed(b"cluster");
        if let Some(version) = self.settings.cluster_version {
            pair(&mut sum, b"clusterVersion", version.to_string().as_bytes());
        }
        if let Some(downgrade) = &self.settings.downgrade {
            let json = json!({"target-version": downgrade.ver, "enabled": downgrade.enabled});
            pair(&mut sum, b"downgrade", json.to_string().as_bytes());
        }
        sum.feed(KEY_BUCKET);
        sum
    }

    fn hash_after_rows(&self, sum: &mut Sum) -> Result<(), Miss> {
        sum.feed(b"lease");
        let leases = &self.trees.leases;
        let mut leases = leases.range(&self.pages, Bound::Unbounded, Bound::Unbounded);
        while let Some((id, record)) = leases.next()? {
            pair(sum, &id, record);
        }
        sum.feed(b"members");
        let hex = |id: u64| format!("{id:x}").into_bytes();
        let mut members: Vec<_> = self
            .members()
            .map(|m| (hex(m.id), member_json(m)))
            .collect();
        members.sort();
        for (id, member) in members {
            pair(sum, &id, member.as_bytes());
        }
        sum.feed(b"members_removed");
        let mut removed: Vec<_> = self.removed_members().map(hex).collect();
        removed.sort();
        for id in removed {
            pair(sum, &id, b"removed");
        }
        sum.feed(b"meta");
        let voters = &self.conf_state.voters;
        let mut conf_state = Map::new();
        conf_state.insert("voters".into(), voters.as_slice().into());
        conf_state.insert("auto_leave".into(), false.into());
        let conf_state = Value::Object(conf_state).to_string();
        pair(sum, b"confState", conf_state.as_bytes());
        if self.compacted >= 0 {
            let finished = compaction_mark(self.compactor.finished().max(0));
            pair(sum, b"finishedCompactRev", &finished);
            let scheduled = compaction_mark(self.compacted);
            pair(sum, b"scheduledCompactRev", &scheduled);
        }
        Ok(())
    }
}

impl WholeHashJob {
    /// Looks at up to `budget` rows; `None` until it is done.
    pub fn step(&mut self, store: &Store, budget: usize) -> Result<Option<u32>, Miss> {
        let mut sum = self.sum.unwrap_or_else(|| store.hash_before_rows());
        // No revision above the last one counts as compacted here, so no tombstone is left out.
        let end = self.revision + 1;
        let more = store.hash_rows(&mut self.next, &mut sum, end, budget.max(1))?;
        self.sum = Some(sum);
        if more {
            return Ok(None);
        }
        store.hash_after_rows(&mut sum)?;
        Ok(Some(sum.crc))
    }
}
