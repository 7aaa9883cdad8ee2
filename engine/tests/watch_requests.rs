//! Requests of a watch stream are answered as etcd answers them. Where a test repeats a recorded session of etcd 3.5.33 the
//! expected lines are its answers.

mod watch_support;

use bytes::Bytes;
use engine::watch::{Permission, StreamKey, CONNECTION_WATCHERS_MAX};
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};
use watch_support::*;

fn with_id(key: &str, id: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        watch_id: id,
        ..request(key)
    }
}

fn from(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..request(key)
    }
}

#[test]
fn ids_are_counted_skipped_verbatim_and_refused_twice() {
    let mut f = Fixture::new();
    f.open(1);
    for id in [0, 0, 7, 7, -3, -1, 2, 0, 0, 1, i64::MAX, i64::MIN] {
        f.create(1, with_id("k", id));
    }
    let duplicate =
        "-1@1 created canceled \"mvcc: duplicate watch ID provided on the WatchStream\"";
    assert_eq!(
        lines(&f.got(1)),
        [
            "0@1 created",
            "1@1 created",
            "7@1 created",
            duplicate,
            "-3@1 created",
            "-1@1 created",
            "2@1 created",
            "3@1 created",
            "4@1 created",
            duplicate,
            "9223372036854775807@1 created",
            "-9223372036854775808@1 created",
        ]
    );
}

#[test]
fn automatic_ids_never_come_back_but_cancelled_ones_may_be_asked_for() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("e"));
    f.cancel(1, 0);
    f.create(1, request("e"));
    f.create(1, with_id("e", 44));
    f.cancel(1, 44);
    f.cancel(1, 44);
    f.create(1, with_id("e", 44));
    assert_eq!(
        lines(&f.got(1)),
        [
            "0@1 created",
            "0@1 canceled",
            "1@1 created",
            "44@1 created",
            "44@1 canceled",
            "44@1 created"
        ]
    );
}

#[test]
fn a_failed_create_takes_no_id() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, range("b", "a"));
    f.create(1, request("a"));
    let got = lines(&f.got(1));
    assert_eq!(got[1], "0@1 created");
}

#[test]
fn checks_come_in_order() {
    let mut f = Fixture::new();
    f.open(1);
    let hub = &mut f.hub;
    let mut bad = range("b", "a");
    bad.start_revision = -1;
    bad.watch_id = 9;
    hub.create(StreamKey(1), &with_id("x", 9), Permission::Granted, 0);
    hub.create(StreamKey(1), &bad, Permission::Denied, 0);
    bad.start_revision = 0;
    hub.create(StreamKey(1), &bad, Permission::Denied, 0);
    hub.create(StreamKey(1), &bad, Permission::Granted, 0);
    bad.range_end = Bytes::new();
    hub.create(StreamKey(1), &bad, Permission::Granted, 0);
    assert_eq!(
        lines(&f.got(1)),
        [
            "9@1 created",
            "-1@1 created canceled \"etcdserver: mvcc: required revision has been compacted\"",
            "-1@1 created canceled \"rpc error: code = PermissionDenied desc = etcdserver: permission denied\"",
            "-1@1 created canceled \"mvcc: watcher range is empty\"",
            "-1@1 created canceled \"mvcc: duplicate watch ID provided on the WatchStream\"",
        ]
    );
}

#[test]
fn permission_failures_name_the_error_and_its_code() {
    let cases = [
        (
            Permission::InvalidToken,
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
        (
            Permission::OldAuthRevision,
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
        ),
        (
            Permission::UserEmpty,
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
        ),
    ];
    for (permission, text) in cases {
        let mut f = Fixture::new();
        f.open(1);
        f.hub.create(StreamKey(1), &with_id("k", 5), permission, 0);
        // The stream survives.
        f.create(1, request("k"));
        let got = f.got(1);
        assert_eq!(line(&got[0]), format!("-1@1 created canceled \"{text}\""));
        assert_eq!(line(&got[1]), "0@1 created");
    }
}

#[test]
fn equal_or_reversed_ends_are_empty_but_a_single_zero_byte_is_infinity() {
    let mut f = Fixture::new();
    f.open(1);
    for (key, end) in [
        ("b", "a"),
        ("b", "b"),
        ("b", "\0\0"),
        ("b", "\0"),
        ("", "\0"),
        ("\0", "\0\0"),
        ("", ""),
    ] {
        f.create(1, range(key, end));
    }
    let empty = "-1@1 created canceled \"mvcc: watcher range is empty\"";
    assert_eq!(
        lines(&f.got(1)),
        [
            empty,
            empty,
            empty,
            "0@1 created",
            "1@1 created",
            "2@1 created",
            "3@1 created"
        ]
    );
    f.put("\0", "zero");
    assert_eq!(
        by_id(&f.got(1)),
        [
            "1@2 \0=zero(2,2,1)",
            "2@2 \0=zero(2,2,1)",
            "3@2 \0=zero(2,2,1)"
        ]
    );
    f.put("c", "x");
    assert_eq!(by_id(&f.got(1)), ["0@3 c=x(3,3,1)", "1@3 c=x(3,3,1)"]);
}

#[test]
fn unknown_cancels_and_empty_requests_are_ignored() {
    let mut f = Fixture::new();
    f.open(1);
    let requests = [
        None,
        Some(RequestUnion::CancelRequest(WatchCancelRequest {
            watch_id: 1234,
        })),
        Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
        Some(RequestUnion::CreateRequest(request("a"))),
        Some(RequestUnion::CancelRequest(WatchCancelRequest {
            watch_id: 0,
        })),
    ];
    for request_union in requests {
        let request = WatchRequest { request_union };
        f.hub
            .request(StreamKey(1), &request, Permission::Granted, 0);
    }
    assert_eq!(lines(&f.got(1)), ["0@1 created", "0@1 canceled"]);
    // Streams that are not there are ignored as well.
    f.hub.progress(StreamKey(9));
    f.hub.cancel(StreamKey(9), 0);
    f.hub.set_blocked(StreamKey(9), true);
    f.hub.close_stream(StreamKey(9));
    f.create(9, request("a"));
    assert!(f.got(9).is_empty());
}

#[test]
fn nothing_comes_after_a_cancel() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.create(1, from("a", 1));
    f.put("a", "1");
    f.cancel(1, 0);
    f.cancel(1, 1);
    f.put("a", "2");
    assert_eq!(
        lines(&f.got(1)),
        [
            "0@1 created",
            "1@1 created",
            "0@2 a=1(2,2,1)",
            "0@2 canceled",
            "1@2 canceled"
        ]
    );
}

#[test]
fn start_revisions_past_present_and_future() {
    let mut f = Fixture::new();
    f.put("a", "1");
    f.put("b", "1");
    f.put("a", "2");
    f.open(1);
    f.create(1, from("a", 0));
    f.create(1, from("a", 1));
    f.create(1, from("a", 3));
    f.create(1, from("a", 4));
    f.create(1, from("a", 5));
    f.create(1, from("a", 6));
    assert_eq!(
        by_id(&f.got(1)[6..]),
        [
            "1@4 a=1(2,2,1) a=2(2,4,2)",
            "2@4 a=2(2,4,2)",
            "3@4 a=2(2,4,2)"
        ]
    );
    f.put("a", "3");
    let ids = |got: &[proto::etcdserverpb::WatchResponse]| {
        let mut ids: Vec<i64> = got.iter().map(|response| response.watch_id).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(&f.got(1)), [0, 1, 2, 3, 4]);
    f.put("a", "4");
    assert_eq!(ids(&f.got(1)), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_start_below_the_compacted_revision_is_cancelled_after_created() {
    let mut f = Fixture::new();
    for i in 0..8 {
        f.put("a", &i.to_string());
    }
    f.store.compacted = 5;
    f.open(1);
    f.create(1, from("a", 4));
    f.create(
        1,
        WatchCreateRequest {
            watch_id: 33,
            ..from("a", 1)
        },
    );
    // The boundary itself is valid.
    f.create(1, from("a", 5));
    assert_eq!(
        by_id(&f.got(1)),
        [
            "0@9 created",
            "0@0 canceled compacted=5",
            "1@9 created",
            "1@9 a=3(2,5,4) a=4(2,6,5) a=5(2,7,6) a=6(2,8,7) a=7(2,9,8)",
            "33@9 created",
            "33@0 canceled compacted=5",
        ]
    );
    // Its id stays occupied, and it blocks progress, until the client cancels it.
    f.hub.progress(StreamKey(1));
    f.create(1, with_id("a", 33));
    f.cancel(1, 33);
    f.hub.progress(StreamKey(1));
    f.cancel(1, 0);
    f.hub.progress(StreamKey(1));
    f.create(1, with_id("a", 33));
    assert_eq!(
        lines(&f.got(1)),
        [
            "-1@9 created canceled \"mvcc: duplicate watch ID provided on the WatchStream\"",
            "33@9 canceled",
            "0@9 canceled",
            "-1@9",
            "33@9 created",
        ]
    );
}

#[test]
fn a_compacted_watcher_gets_no_events() {
    let mut f = Fixture::new();
    f.put("a", "0");
    f.put("a", "1");
    f.store.compacted = 3;
    f.open(1);
    f.create(1, from("a", 2));
    f.got(1);
    f.put("a", "2");
    assert!(f.got(1).is_empty());
}

#[test]
fn a_connection_has_a_bounded_number_of_watchers() {
    let mut f = Fixture::new();
    f.hub.open_stream(StreamKey(1), 77, 0, 0);
    f.hub.open_stream(StreamKey(2), 77, 0, 0);
    f.hub.open_stream(StreamKey(3), 78, 0, 0);
    for _ in 0..CONNECTION_WATCHERS_MAX - 1 {
        f.create(1, request("k"));
    }
    f.create(2, request("k"));
    f.create(2, request("k"));
    f.create(3, request("k"));
    let refused = "-1@1 created canceled \"etcdserver: too many requests\"";
    assert_eq!(lines(&f.got(2)), ["0@1 created", refused]);
    assert_eq!(lines(&f.got(3)), ["0@1 created"]);
    f.cancel(1, 5);
    f.create(2, request("k"));
    assert_eq!(lines(&f.got(2)), ["1@1 created"]);
    // Closing gives everything back, in slices.
    f.hub.close_stream(StreamKey(1));
    f.settle();
    assert_eq!(f.hub.stats().watchers, 3);
    assert_eq!(f.hub.stats().streams, 2);
}

#[test]
fn manual_progress_needs_every_watcher_synced_and_present() {
    let mut f = Fixture::new();
    f.put("a", "1");
    f.open(1);
    let progress = |f: &mut Fixture| {
        f.hub.progress(StreamKey(1));
        f.take();
        lines(&f.received.remove(&1).unwrap_or_default())
    };
    // No watcher, nothing to tell.
    assert!(progress(&mut f).is_empty());
    f.create(1, from("a", 4));
    f.got(1);
    // One waits for the future.
    assert!(progress(&mut f).is_empty());
    f.put("b", "1");
    assert!(progress(&mut f).is_empty());
    f.put("b", "1");
    assert_eq!(progress(&mut f), ["-1@4"]);
    assert_eq!(progress(&mut f), ["-1@4"]);
    // One is behind.
    f.create(1, from("a", 1));
    f.take();
    f.received.clear();
    assert!(progress(&mut f).is_empty());
    f.settle();
    f.received.clear();
    assert_eq!(progress(&mut f), ["-1@4"]);
    // A watcher of the next revision waits for the future, too, unless it asked for 0.
    f.create(1, from("a", 5));
    f.take();
    f.received.clear();
    assert!(progress(&mut f).is_empty());
    f.cancel(1, 2);
    f.create(1, from("a", 0));
    f.take();
    f.received.clear();
    assert_eq!(progress(&mut f), ["-1@4"]);
}

#[test]
fn progress_comes_behind_the_events_it_covers() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.put("a", "1");
    f.hub.progress(StreamKey(1));
    f.put("a", "2");
    assert_eq!(
        lines(&f.got(1)),
        ["0@1 created", "0@2 a=1(2,2,1)", "-1@2", "0@3 a=2(2,3,2)"]
    );
}
