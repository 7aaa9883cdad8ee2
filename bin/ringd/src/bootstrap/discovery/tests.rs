//! What follows from registrations; the service itself is a real server in the workspace's tests.

use super::*;

fn member(number: u32, value: &str) -> Registered {
    Registered {
        key: format!("{REGISTRY}/t/members/{number:x}"),
        value: value.to_owned(),
        create_revision: i64::from(number),
    }
}

fn of(size: usize, members: &[(u32, &str)]) -> Registration {
    let mut found = Registration {
        size,
        members: Vec::new(),
        revision: 1,
    };
    for (number, value) in members {
        found.add(member(*number, value), &Log::discard());
    }
    found
}

#[test]
fn the_first_ones_are_the_cluster() {
    let listed = [
        (7, "n7=http://a:7"),
        (5, "n5=http://a:5,n5=http://a:6"),
        (9, "n9=http://a:9"),
    ];
    let found = of(2, &listed);
    assert!(found.is_complete());
    let cluster = found.cluster().unwrap();
    assert_eq!(
        cluster.to_string(),
        "n5=http://a:5,n5=http://a:6,n7=http://a:7"
    );
    let key = |number| member(number, "").key;
    assert!(found.has_room_for(&key(7)));
    assert!(!found.has_room_for(&key(9)));
    assert!(!found.has_room_for(&key(3)));
    let found = of(4, &listed);
    assert!(!found.is_complete());
    assert!(found.has_room_for(&key(3)));
}

#[test]
fn what_is_no_member_does_not_count() {
    let found = of(
        2,
        &[(1, "n1=http://a:1"), (2, "nothing"), (1, "n1=http://b:1")],
    );
    assert_eq!(found.members, [member(1, "n1=http://a:1")]);
    let refused = |found: Registration| found.cluster().map(|_| ()).unwrap_err();
    let bad = of(1, &[(1, "n1=ftp://a:1")]);
    assert_eq!(refused(bad), Refused::InvalidPeerUrl);
    let same = of(2, &[(1, "n1=http://a:1"), (2, "n1=http://a:2")]);
    assert_eq!(refused(same), Refused::DuplicateName);
}

#[test]
fn refusals_have_etcds_texts() {
    let texts = [
        (Refused::SizeNotFound, "discovery: size key not found"),
        (Refused::BadSize, "discovery: size key is bad"),
        (Refused::InvalidPeerUrl, "discovery: invalid peer URL"),
        (Refused::Full, "discovery: cluster is full"),
        (Refused::DuplicateName, "discovery: duplicate name"),
        (
            Refused::Call(CallFailed::timed_out()),
            "context deadline exceeded",
        ),
    ];
    for (refused, text) in texts {
        assert_eq!(refused.to_string(), text);
    }
    assert_eq!(after(b"/members"), b"/membert");
}
