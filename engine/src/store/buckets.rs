//! What the store holds, in the buckets and in the form in which etcd keeps it: for hashes over everything, and for
//! databases that are written for others.

use super::members::{is_learner, peer_urls};
use super::Store;
use crate::interchange::backend::{compaction_mark, row_key, Membership, ROW_KEY_BYTES};
use crate::mvcc::row::{Row, WELL_FORMED};
use crate::mvcc::Revision;
use crate::page::Miss;
use prost::Message;
use proto::membershippb::Member;
use serde_json::{json, Map, Value};
use std::ops::Bound;

/// A bucket's name and its entries, in order.
pub(crate) type SmallBucket = (&'static str, Vec<(Vec<u8>, Vec<u8>)>);

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

fn hex(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

fn sorted(entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

impl Store {
    /// The buckets that come before the one of the rows.
    pub(crate) fn buckets_before_rows(&self) -> [SmallBucket; 5] {
        let alarms = self.alarms().into_iter();
        let alarms = sorted(alarms.map(|alarm| (alarm.encode_to_vec(), Vec::new())));
        let mut cluster = Vec::new();
        if let Some(version) = self.settings.cluster_version {
            let version = version.to_string().into_bytes();
            cluster.push((b"clusterVersion".to_vec(), version));
        }
        if let Some(downgrade) = &self.settings.downgrade {
            let json = json!({"target-version": downgrade.ver, "enabled": downgrade.enabled});
            cluster.push((b"downgrade".to_vec(), json.to_string().into_bytes()));
        }
        let revision = 1u64.to_be_bytes().to_vec();
        [
            ("alarm", alarms),
            ("auth", vec![(b"authRevision".to_vec(), revision)]),
            ("authRoles", Vec::new()),
            ("authUsers", Vec::new()),
            ("cluster", cluster),
        ]
    }

    /// The buckets that come after the one of the leases, but for what differs between members in the last one.
    pub(crate) fn buckets_after_leases(&self) -> [SmallBucket; 3] {
        let members = self.members();
        let members = members.map(|m| (hex(m.id), member_json(m).into_bytes()));
        let removed = self.removed_members();
        let removed = removed.map(|id| (hex(id), b"removed".to_vec()));
        let mut conf_state = Map::new();
        let state = &self.conf_state;
        conf_state.insert("voters".into(), state.voters.as_slice().into());
        if !state.learners.is_empty() {
            conf_state.insert("learners".into(), state.learners.as_slice().into());
        }
        conf_state.insert("auto_leave".into(), false.into());
        let conf_state = Value::Object(conf_state).to_string();
        let mut meta = vec![(b"confState".to_vec(), conf_state.into_bytes())];
        let mut mark = |name: &str, revision: i64| {
            if revision >= 0 {
                let mark = compaction_mark(revision).to_vec();
                meta.push((name.as_bytes().to_vec(), mark));
            }
        };
        mark("finishedCompactRev", self.compactor.finished());
        mark("scheduledCompactRev", self.compacted);
        [
            ("members", sorted(members)),
            ("members_removed", sorted(removed)),
            ("meta", meta),
        ]
    }

    /// What only this member's own database has in the bucket `meta`.
    pub(crate) fn applied_meta(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut meta = vec![
            (
                b"consistent_index".to_vec(),
                self.applied_index.to_be_bytes().to_vec(),
            ),
            (b"term".to_vec(), self.applied_term.to_be_bytes().to_vec()),
        ];
        let stored = self.settings.cluster_version;
        if let Some(version) = stored.filter(|_| self.settings.stores_checkpoints()) {
            meta.push((b"storageVersion".to_vec(), version.to_string().into_bytes()));
        }
        meta
    }

    pub(crate) fn membership(&self) -> Membership {
        Membership {
            members: self.settings.members.current.clone(),
            removed: self.settings.members.removed.clone(),
            cluster_version: self.settings.cluster_version,
        }
    }
}

impl Store {
    /// Goes through rows from `next` on, in etcd's form, while `each` says that it wants more. False at the end of them. On a
    /// miss of the first row nothing was done.
    pub(crate) fn each_row(
        &self,
        next: &mut Revision,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, Miss> {
        let from = next.to_key();
        let from = Bound::Included(&from[..]);
        let mut rows = self.trees.rows.range(&self.pages, from, Bound::Unbounded);
        let mut wants_more = true;
        while wants_more {
            let Some((at, row)) = rows.next()? else {
                return Ok(false);
            };
            let at = Revision::from_key(&at).expect(WELL_FORMED);
            let row = Row::decode(at, row).expect(WELL_FORMED);
            let key = row_key(at);
            let key_bytes = ROW_KEY_BYTES + usize::from(row.tombstone);
            *next = Revision::new(at.main, at.sub + 1);
            wants_more = each(&key[..key_bytes], &row.body());
        }
        Ok(true)
    }

    /// The same of leases, whose ids are ordered as unsigned numbers. `next` is none at the end.
    pub(crate) fn each_lease(
        &self,
        next: &mut Option<u64>,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, Miss> {
        let Some(from) = *next else {
            return Ok(false);
        };
        let from = from.to_be_bytes();
        let from = Bound::Included(&from[..]);
        let mut leases = self.trees.leases.range(&self.pages, from, Bound::Unbounded);
        let mut wants_more = true;
        while wants_more {
            let Some((id, record)) = leases.next()? else {
                return Ok(false);
            };
            let number = id.first_chunk().map(|id| u64::from_be_bytes(*id));
            *next = number.and_then(|number| number.checked_add(1));
            wants_more = each(&id, record) && next.is_some();
        }
        Ok(next.is_some())
    }
}
