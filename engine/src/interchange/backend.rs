//! What etcd keeps in its database: names of buckets, forms of their keys, and the small buckets by what they mean.

use crate::mvcc::Revision;
use crate::store::ClusterVersion;
use proto::etcdserverpb::AlarmMember;
use proto::membershippb::{DowngradeInfoSetRequest, Member};
use std::collections::{BTreeMap, BTreeSet};

use super::v2_store;

pub const KEY: &str = "key";
pub const LEASE: &str = "lease";
const ALARM: &str = "alarm";
const AUTH: &str = "auth";
const AUTH_ROLES: &str = "authRoles";
const AUTH_USERS: &str = "authUsers";
const CLUSTER: &str = "cluster";
const MEMBERS: &str = "members";
const MEMBERS_REMOVED: &str = "members_removed";
const META: &str = "meta";

const SEPARATOR: u8 = b'_';
const TOMBSTONE_MARK: u8 = b't';
/// Bytes of a row's key; a tombstone's has one more.
pub const ROW_KEY_BYTES: usize = 17;
/// Entries of the buckets that are kept in memory, together: members, alarms, what is known of them.
const SMALL_ENTRIES_MAX: usize = 100_000;

/// The key of a row in the bucket `key`: with the mark of a tombstone, of which only that of one is part.
pub fn row_key(at: Revision) -> [u8; ROW_KEY_BYTES + 1] {
    let mut key = [0; ROW_KEY_BYTES + 1];
    key[..8].copy_from_slice(&at.main.to_be_bytes());
    key[8] = SEPARATOR;
    key[9..ROW_KEY_BYTES].copy_from_slice(&at.sub.to_be_bytes());
    key[ROW_KEY_BYTES] = TOMBSTONE_MARK;
    key
}

/// The revision of a row, and whether it is a tombstone.
pub fn parse_row_key(key: &[u8]) -> Option<(Revision, bool)> {
    let (row, mark) = key.split_at_checked(ROW_KEY_BYTES)?;
    let is_tombstone = match mark {
        [] => false,
        [TOMBSTONE_MARK] => true,
        _ => return None,
    };
    let main = i64::from_be_bytes(*row.first_chunk()?);
    let sub = i64::from_be_bytes(*row.last_chunk()?);
    let is_sound = row[8] == SEPARATOR && main > 0 && sub >= 0;
    is_sound.then_some((Revision::new(main, sub), is_tombstone))
}

/// The value under which a compaction's revision is kept.
pub fn compaction_mark(revision: i64) -> [u8; ROW_KEY_BYTES] {
    let key = row_key(Revision::new(revision, 0));
    let mut mark = [0; ROW_KEY_BYTES];
    mark.copy_from_slice(&key[..ROW_KEY_BYTES]);
    mark
}

/// The members of a cluster, and what goes with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    pub members: BTreeMap<u64, Member>,
    /// Ids that never come back.
    pub removed: BTreeSet<u64>,
    pub cluster_version: Option<ClusterVersion>,
}

/// What a database holds besides rows and leases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub applied_index: u64,
    pub applied_term: Option<u64>,
    /// The last compaction that was begun, and the last that was done; -1 for none.
    pub scheduled: i64,
    pub finished: i64,
    /// From 3.6 on.
    pub storage_version: Option<ClusterVersion>,
    pub membership: Membership,
    pub downgrade: Option<DowngradeInfoSetRequest>,
    pub alarms: BTreeSet<(u64, i32)>,
    pub auth_is_enabled: bool,
    /// Users and roles.
    pub auth_entries: usize,
    entries: usize,
}

impl Facts {
    pub fn new() -> Facts {
        Facts {
            scheduled: -1,
            finished: -1,
            ..Facts::default()
        }
    }

    /// Whether the bucket is one whose entries are for [`Facts::take`].
    pub fn wants(bucket: &[u8]) -> bool {
        bucket != KEY.as_bytes() && bucket != LEASE.as_bytes()
    }

    /// Takes an entry of a small bucket. What later versions of etcd add is left alone.
    pub fn take(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let known = [
            ALARM,
            AUTH,
            AUTH_ROLES,
            AUTH_USERS,
            CLUSTER,
            MEMBERS,
            MEMBERS_REMOVED,
            META,
        ];
        let Some(bucket) = known.into_iter().find(|name| name.as_bytes() == bucket) else {
            return Ok(());
        };
        self.entries += 1;
        if self.entries > SMALL_ENTRIES_MAX {
            return Err("there are more than 100,000 members, alarms and the like");
        }
        match bucket {
            META => self.take_meta(key, value),
            CLUSTER => self.take_cluster(key, value),
            MEMBERS => {
                let member = serde_json::from_slice(value).ok();
                let member = member.and_then(|json| v2_store::member_of_row(&json));
                let (id, member) = hex(key)
                    .zip(member)
                    .ok_or("a member's entry is malformed")?;
                if member.id != id {
                    return Err("a member's entry is another member's");
                }
                self.membership.members.insert(id, member);
                Ok(())
            }
            MEMBERS_REMOVED => {
                let id = hex(key).ok_or("a removed member's entry is malformed")?;
                self.membership.removed.insert(id);
                Ok(())
            }
            ALARM => {
                let alarm: AlarmMember =
                    prost::Message::decode(key).map_err(|_| "an alarm is malformed")?;
                self.alarms.insert((alarm.member_id, alarm.alarm));
                Ok(())
            }
            AUTH => {
                self.auth_is_enabled |= key == b"authEnabled" && value == [1];
                Ok(())
            }
            AUTH_USERS | AUTH_ROLES => {
                self.auth_entries += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || {
            let bytes = value.try_into().ok().map(u64::from_be_bytes);
            bytes.ok_or("a number of the bucket `meta` has not eight bytes")
        };
        let mark = || {
            let row = parse_row_key(value).filter(|_| value.len() == ROW_KEY_BYTES);
            let revision = row.map(|(at, _)| at.main);
            revision.ok_or("the mark of a compaction is malformed")
        };
        match key {
            b"consistent_index" => self.applied_index = number()?,
            b"term" => self.applied_term = Some(number()?),
            b"scheduledCompactRev" => self.scheduled = mark()?,
            b"finishedCompactRev" => self.finished = mark()?,
            b"storageVersion" => self.storage_version = Some(version(value)?),
            _ => {}
        }
        Ok(())
    }

    fn take_cluster(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"clusterVersion" => self.membership.cluster_version = Some(version(value)?),
            b"downgrade" => {
                let json: serde_json::Value =
                    serde_json::from_slice(value).map_err(|_| "the downgrade is malformed")?;
                self.downgrade = Some(DowngradeInfoSetRequest {
                    enabled: json["enabled"].as_bool().unwrap_or(false),
                    ver: json["target-version"].as_str().unwrap_or_default().into(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// The revision up to which the database is compacted, for readers.
    pub fn compacted(&self) -> i64 {
        self.scheduled.max(self.finished)
    }
}

fn version(text: &[u8]) -> Result<ClusterVersion, &'static str> {
    let text = std::str::from_utf8(text).ok();
    let version = text.and_then(|text| text.parse().ok());
    version.ok_or("a version is malformed")
}

/// An id as etcd writes it in names.
pub(super) fn hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_come_back() {
        let at = Revision::new(5, 3);
        let key = row_key(at);
        assert_eq!(parse_row_key(&key), Some((at, true)));
        assert_eq!(parse_row_key(&key[..17]), Some((at, false)));
        for cut in 0..17 {
            assert_eq!(parse_row_key(&key[..cut]), None);
        }
        assert_eq!(parse_row_key(&[0xff; 17]), None);
        assert_eq!(compaction_mark(34), *b"\0\0\0\0\0\0\0\x22_\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_is_malformed_is_told() {
        let mut facts = Facts::new();
        for (bucket, key, value) in [
            ("meta", "consistent_index", "1234567"),
            ("meta", "finishedCompactRev", "no revision"),
            ("cluster", "clusterVersion", "3"),
            ("members", "1", "{}"),
            ("members", "x", r#"{"id":1,"peerURLs":["http://a"]}"#),
            ("members", "2", r#"{"id":1,"peerURLs":["http://a"]}"#),
            ("members_removed", "-1", "removed"),
            ("alarm", "\u{7f}", ""),
        ] {
            let taken = facts.take(bucket.as_bytes(), key.as_bytes(), value.as_bytes());
            assert!(taken.is_err(), "{bucket} {key}");
        }
        assert!(facts.take(b"of later versions", b"a", b"b").is_ok());
    }
}
