//! Checks of the maintenance calls.

use crate::status::{code, Status};
use proto::etcdserverpb as pb;

/// Refuses what makes etcd itself crash: an unknown action, and raising an alarm of an unknown type.
pub fn alarm(request: pb::AlarmRequest) -> Result<pb::AlarmRequest, Status> {
    let action = pb::alarm_request::AlarmAction::try_from(request.action);
    let unknown_type = pb::AlarmType::try_from(request.alarm).is_err();
    match action {
        Err(_) => Err(Status::new(
            code::INVALID_ARGUMENT,
            "etcdserver: unknown alarm action",
        )),
        Ok(pb::alarm_request::AlarmAction::Activate) if unknown_type => Err(Status::new(
            code::INVALID_ARGUMENT,
            "etcdserver: unknown alarm type",
        )),
        Ok(_) => Ok(request),
    }
}

/// An unknown action is refused before anything else, a malformed version before the cluster is asked.
pub fn downgrade(request: pb::DowngradeRequest) -> Result<pb::DowngradeRequest, Status> {
    use pb::downgrade_request::DowngradeAction as Action;
    match Action::try_from(request.action) {
        Err(_) => Err(Status::new(code::UNKNOWN, "etcdserver: unknown method")),
        Ok(Action::Cancel) => Ok(request),
        Ok(Action::Validate | Action::Enable) => match parse_version(&request.version) {
            Some(_) => Ok(request),
            None => Err(Status::new(
                code::INVALID_ARGUMENT,
                "etcdserver: wrong downgrade target version format",
            )),
        },
    }
}

/// The first two numbers of `major.minor`, or of a semantic version, which may name a pre-release and a build.
pub fn parse_version(text: &str) -> Option<(u64, u64)> {
    let is_identifier = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
    };
    let is_plain = !text.contains(['+', '-']);
    let (text, build) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, pre_release) = text.split_once('-').unwrap_or((text, ""));
    if !is_identifier(build) || !is_identifier(pre_release) {
        return None;
    }
    let number = |part: &str| -> Option<u64> {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| part.parse::<i64>().ok()).flatten()?;
        u64::try_from(number).ok()
    };
    let numbers: Option<Vec<u64>> = numbers.split('.').map(number).collect();
    match numbers?.as_slice() {
        [major, minor, _] => Some((*major, *minor)),
        // Nothing may follow where the patch is left out.
        [major, minor] if is_plain => Some((*major, *minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_two_or_three_numbers() {
        assert_eq!(parse_version("3.4"), Some((3, 4)));
        assert_eq!(parse_version("3.4.99"), Some((3, 4)));
        for bad in ["", "3", "x", "3.4.0.0", "v3.4.0", "3.", "+3.4"] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_full_version_may_name_a_pre_release_and_a_build() {
        for good in [
            "3.4.0-rc1",
            "3.4.0+x",
            "3.4.0-rc.1+b-2",
            "3.04.0",
            "3.4.0-",
            "3.4.0+",
        ] {
            assert_eq!(parse_version(good), Some((3, 4)), "{good}");
        }
        for bad in [
            "3.4-rc1",
            "3.4+x",
            "3.4.0-rc_1",
            "3.4.0+a+b",
            "3.-4.0",
            "3.99999999999999999999.0",
        ] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }
}
