//! What the cluster agrees on besides keys: members, alarms, cluster version, downgrade.
//!
//! One small tree holds it all; its keys begin with a letter for the kind. A copy in memory answers every read.

use super::members::Members;
use super::{Store, PLANNED};
use crate::error::RequestError;
use crate::interchange::backend::Facts;
use crate::mvcc::row::WELL_FORMED;
use crate::page::{Miss, Pages};
use crate::tree::Tree;
use prost::Message;
use proto::etcdserverpb::{
    alarm_request::AlarmAction, AlarmMember, AlarmRequest, AlarmResponse, AlarmType,
};
use proto::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

const KIND_ALARM: u8 = b'a';
const KIND_CLUSTER_VERSION: u8 = b'c';
const KIND_DOWNGRADE: u8 = b'd';
const KIND_MEMBER: u8 = b'm';
const KIND_REMOVED_MEMBER: u8 = b'r';

/// From this version on, every member checks direct ranges of writing transactions (`store::wrap`).
const DIRECT_RANGES_CHECKED: ClusterVersion = ClusterVersion::new(3, 7);
/// From this version on, checkpointed remaining TTLs are stored.
const CHECKPOINTS_STORED: ClusterVersion = ClusterVersion::new(3, 6);

/// The version that all members can speak; the patch level is always zero in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl ClusterVersion {
    pub const fn new(major: u32, minor: u32) -> ClusterVersion {
        ClusterVersion {
            major,
            minor,
            patch: 0,
        }
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for ClusterVersion {
    type Err = RequestError;

    /// `major.minor.patch`, digits only, without suffixes.
    fn from_str(text: &str) -> Result<ClusterVersion, RequestError> {
        let bad = RequestError::WrongDowngradeVersionFormat;
        let mut parts = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten().ok_or(bad)
        });
        let mut next = || parts.next().unwrap_or(Err(bad));
        let version = ClusterVersion {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(bad),
        }
    }
}

/// The copy in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    /// (member id, alarm type), with the number of the entry that raised it.
    pub alarms: BTreeMap<(u64, i32), u64>,
    pub cluster_version: Option<ClusterVersion>,
    pub downgrade: Option<DowngradeInfoSetRequest>,
    pub members: Members,
}

impl Settings {
    pub fn load(tree: &Tree, pages: &Pages) -> Result<Settings, Miss> {
        let mut settings = Settings::default();
        let mut cursor = tree.range(pages, Bound::Unbounded, Bound::Unbounded);
        while let Some((key, value)) = cursor.next()? {
            settings.take(&key, value).expect(WELL_FORMED);
        }
        Ok(settings)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (&kind, rest) = key.split_first()?;
        let id = || Some(u64::from_be_bytes(*rest.first_chunk()?));
        match kind {
            KIND_ALARM => {
                let alarm = i32::from_be_bytes(*rest.get(8..)?.first_chunk()?);
                let raised = u64::from_be_bytes(*value.first_chunk()?);
                self.alarms.insert((id()?, alarm), raised);
            }
            KIND_CLUSTER_VERSION => {
                self.cluster_version = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
            }
            KIND_DOWNGRADE => {
                self.downgrade = Some(DowngradeInfoSetRequest::decode(value).ok()?);
            }
            KIND_MEMBER => {
                let member = proto::membershippb::Member::decode(value).ok()?;
                self.members.current.insert(id()?, member);
            }
            KIND_REMOVED_MEMBER => {
                self.members.removed.insert(id()?);
            }
            _ => return None,
        }
        Some(())
    }

    /// The kind of alarm that decides what is refused: the one raised last, as in etcd.
    pub fn ruling_alarm(&self) -> Option<AlarmType> {
        let last = self.alarms.iter().max_by_key(|(_, raised)| **raised);
        last.and_then(|((_, kind), _)| AlarmType::try_from(*kind).ok())
    }

    pub fn checks_direct_ranges(&self) -> bool {
        self.cluster_version
            .is_some_and(|version| version >= DIRECT_RANGES_CHECKED)
    }

    pub fn stores_checkpoints(&self) -> bool {
        self.cluster_version
            .is_some_and(|version| version >= CHECKPOINTS_STORED)
    }
}

fn alarm_key(member: u64, alarm: i32) -> Vec<u8> {
    let mut key = vec![KIND_ALARM];
    key.extend_from_slice(&member.to_be_bytes());
    key.extend_from_slice(&alarm.to_be_bytes());
    key
}

pub(super) fn member_key(id: u64) -> Vec<u8> {
    let mut key = vec![KIND_MEMBER];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

pub(super) fn removed_member_key(id: u64) -> Vec<u8> {
    let mut key = vec![KIND_REMOVED_MEMBER];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// The entries of a settings tree for what a database of etcd's holds.
pub(crate) fn records(facts: &Facts) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    for (member, alarm) in &facts.alarms {
        // etcd lets the alarm about damage rule after it opened a database; an alarm that is raised later rules both.
        let raised = u64::from(*alarm == AlarmType::Corrupt as i32);
        records.push((alarm_key(*member, *alarm), raised.to_be_bytes().to_vec()));
    }
    let membership = &facts.membership;
    if let Some(version) = membership.cluster_version {
        let version = version.to_string().into_bytes();
        records.push((vec![KIND_CLUSTER_VERSION], version));
    }
    if let Some(downgrade) = &facts.downgrade {
        records.push((vec![KIND_DOWNGRADE], downgrade.encode_to_vec()));
    }
    for (id, member) in &membership.members {
        records.push((member_key(*id), member.encode_to_vec()));
    }
    for id in &membership.removed {
        records.push((removed_member_key(*id), Vec::new()));
    }
    records
}

impl Store {
    /// Active alarms, by member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms_of(AlarmType::None as i32)
    }

    pub fn cluster_version(&self) -> Option<ClusterVersion> {
        self.settings.cluster_version
    }

    /// The running downgrade, if there is one.
    pub fn downgrade(&self) -> Option<&DowngradeInfoSetRequest> {
        let downgrade = self.settings.downgrade.as_ref();
        downgrade.filter(|downgrade| downgrade.enabled)
    }

    fn alarms_of(&self, alarm: i32) -> Vec<AlarmMember> {
        let wanted = |kind: i32| alarm == AlarmType::None as i32 || alarm == kind;
        self.settings
            .alarms
            .keys()
            .filter(|&&(_, kind)| wanted(kind))
            .map(|&(member_id, alarm)| AlarmMember { member_id, alarm })
            .collect()
    }

    pub(super) fn apply_alarm(
        &mut self,
        request: &AlarmRequest,
    ) -> Result<Result<AlarmResponse, RequestError>, Miss> {
        let entry = (request.member_id, request.alarm);
        let key = alarm_key(entry.0, entry.1);
        let mut alarms = vec![AlarmMember {
            member_id: request.member_id,
            alarm: request.alarm,
        }];
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => alarms = self.alarms_of(request.alarm),
            Ok(AlarmAction::Activate) => match AlarmType::try_from(request.alarm) {
                Err(_) => return Ok(Err(RequestError::UnknownAlarmType)),
                Ok(AlarmType::None) => alarms.clear(),
                Ok(_) if self.settings.alarms.contains_key(&entry) => {}
                Ok(_) => {
                    let raised = self.applied_index + 1;
                    self.set(&key, &raised.to_be_bytes())?;
                    self.settings.alarms.insert(entry, raised);
                }
            },
            Ok(AlarmAction::Deactivate) => {
                if self.settings.alarms.contains_key(&entry) {
                    self.trees.settings.remove(&mut self.pages, &key)?;
                    self.results.setting(&key, None);
                    self.settings.alarms.remove(&entry);
                } else {
                    alarms.clear();
                }
            }
            Err(_) => return Ok(Err(RequestError::UnknownAlarmAction)),
        }
        Ok(Ok(AlarmResponse {
            header: Some(self.header()),
            alarms,
        }))
    }

    /// A version that etcd cannot parse panics all its members; here the entry has no effect.
    pub(super) fn apply_cluster_version(
        &mut self,
        request: &ClusterVersionSetRequest,
    ) -> Result<Result<(), RequestError>, Miss> {
        let version: ClusterVersion = match request.ver.parse() {
            Ok(version) => version,
            Err(error) => return Ok(Err(error)),
        };
        self.set(&[KIND_CLUSTER_VERSION], version.to_string().as_bytes())?;
        self.settings.cluster_version = Some(version);
        Ok(Ok(()))
    }

    pub(super) fn apply_downgrade_info(
        &mut self,
        request: &DowngradeInfoSetRequest,
    ) -> Result<Result<(), RequestError>, Miss> {
        let mut request = request.clone();
        if !request.enabled {
            request = DowngradeInfoSetRequest::default();
        }
        self.set(&[KIND_DOWNGRADE], &request.encode_to_vec())?;
        self.settings.downgrade = Some(request);
        Ok(Ok(()))
    }

    /// Writes one setting, or nothing on a miss.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Miss> {
        self.trees.settings.insert(&mut self.pages, key, value, 1)?;
        self.results.setting(key, Some(value));
        Ok(())
    }

    /// Writes one setting and removes another, or nothing on a miss.
    pub(super) fn replace(&mut self, removed: &[u8], key: &[u8]) -> Result<(), Miss> {
        let mut missing = Miss::default();
        let tree = &mut self.trees.settings;
        tree.plan_remove(&self.pages, removed, &mut missing);
        tree.plan_insert(&self.pages, key, &mut missing);
        if !missing.is_empty() {
            return Err(missing);
        }
        tree.remove(&mut self.pages, removed).expect(PLANNED);
        tree.insert(&mut self.pages, key, &[], 1).expect(PLANNED);
        self.results.setting(removed, None);
        self.results.setting(key, Some(&[]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_three_numbers() {
        let version: ClusterVersion = "3.5.0".parse().unwrap();
        assert_eq!(version, ClusterVersion::new(3, 5));
        assert!(version < DIRECT_RANGES_CHECKED);
        assert_eq!(version.to_string(), "3.5.0");
        for bad in [
            "", "3", "3.5", "3.5.0.1", "a.b.c", "3.5.0-rc", "+3.5.0", "3..0",
        ] {
            assert!(bad.parse::<ClusterVersion>().is_err(), "{bad}");
        }
    }
}
