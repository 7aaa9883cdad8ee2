//! Alarms and the part of the quota that a request's own size decides.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::AlarmType;

use super::{refuse, Model, Refusal};

fn no_space<T>() -> Result<T, Refusal> {
    refuse(8, "etcdserver: mvcc: database space exceeded")
}

impl Model {
    /// What kind of alarm decides on writes: of two kinds the one raised last, as on etcd.
    fn alarm_in_force(&self) -> Option<i32> {
        self.alarms.last().map(|(_, kind)| *kind)
    }

    fn raise(&mut self, alarm: (u64, i32)) {
        if !self.alarms.contains(&alarm) {
            self.alarms.push(alarm);
        }
    }

    /// A request that alone exceeds the quota is refused before anything else and raises the alarm.
    pub(super) fn check_quota(&mut self, cost: u64) -> Result<(), Refusal> {
        if cost > 0 && self.limits.file_bytes + cost >= self.limits.quota_bytes {
            self.raise((self.identity.member_id, AlarmType::Nospace as i32));
            return no_space();
        }
        Ok(())
    }

    /// What is proposed while an alarm is active.
    pub(super) fn check_alarms(&self, cost: u64) -> Result<(), Refusal> {
        match self.alarm_in_force() {
            Some(kind) if kind == AlarmType::Corrupt as i32 => {
                refuse(15, "etcdserver: corrupt cluster")
            }
            Some(_) if cost > 0 => no_space(),
            _ => Ok(()),
        }
    }

    pub(super) fn alarm(&mut self, r: &pb::AlarmRequest) -> Result<pb::AlarmResponse, Refusal> {
        let one = (r.member_id, r.alarm);
        let known = AlarmType::try_from(r.alarm).is_ok();
        let listed: Vec<_> = match AlarmAction::try_from(r.action) {
            Ok(AlarmAction::Get) => {
                let wanted = |a: &&(u64, i32)| r.alarm == AlarmType::None as i32 || a.1 == r.alarm;
                self.alarms.iter().filter(wanted).copied().collect()
            }
            Ok(AlarmAction::Activate) if !known => return refuse(2, ""),
            Ok(AlarmAction::Activate) if r.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => {
                self.raise(one);
                vec![one]
            }
            Ok(AlarmAction::Deactivate) => {
                let active = self.alarms.contains(&one);
                self.alarms.retain(|alarm| *alarm != one);
                active.then_some(one).into_iter().collect()
            }
            Err(_) => return refuse(2, ""),
        };
        Ok(pb::AlarmResponse {
            header: self.header(),
            alarms: listed
                .into_iter()
                .map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm })
                .collect(),
        })
    }
}
