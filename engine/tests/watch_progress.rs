//! Periodic progress: one ticker per stream, silent after events and for watchers that are not up to date.

mod watch_support;

use engine::watch::{Config, StreamKey, PROGRESS_INTERVAL_DEFAULT_NS, PROGRESS_INTERVAL_MIN_NS};
use proto::etcdserverpb::WatchCreateRequest;
use watch_support::*;

const SECOND: u64 = 1000 * MILLISECOND;

fn notify(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        progress_notify: true,
        ..request(key)
    }
}

fn tick(f: &mut Fixture, now_ns: u64) -> Vec<String> {
    f.now_ns = now_ns;
    f.hub.on_timer(now_ns);
    by_id(&f.got(1))
}

#[test]
fn only_watchers_that_asked_and_are_up_to_date_are_told() {
    let mut f = Fixture::new();
    f.put("a", "1");
    f.open(1);
    f.create(1, notify("a"));
    f.create(1, request("b"));
    f.create(
        1,
        WatchCreateRequest {
            start_revision: 9,
            watch_id: 77,
            ..notify("zz")
        },
    );
    f.got(1);
    assert_eq!(tick(&mut f, SECOND - 1), [""; 0]);
    assert_eq!(tick(&mut f, SECOND), ["0@2"]);
    assert_eq!(tick(&mut f, 2 * SECOND), ["0@2"]);
}

#[test]
fn an_event_silences_the_next_tick() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, notify("a"));
    f.create(1, notify("c"));
    f.put("a", "2");
    f.put("other", "3");
    f.got(1);
    assert_eq!(tick(&mut f, SECOND), ["1@3"]);
    assert_eq!(tick(&mut f, 2 * SECOND), ["0@3", "1@3"]);
}

#[test]
fn an_event_that_the_filters_remove_silences_nothing() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(
        1,
        WatchCreateRequest {
            filters: vec![0],
            ..notify("a")
        },
    );
    f.put("a", "2");
    f.got(1);
    assert_eq!(tick(&mut f, SECOND), ["0@2"]);
}

#[test]
fn watchers_that_are_behind_are_skipped() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, notify("a"));
    f.hub.set_blocked(StreamKey(1), true);
    f.put("a", "1");
    f.put("b", "1");
    f.got(1);
    assert_eq!(tick(&mut f, SECOND), [""; 0]);
    f.hub.set_blocked(StreamKey(1), false);
    assert_eq!(lines(&f.got(1)), ["0@3 a=1(2,2,1)"]);
    assert_eq!(tick(&mut f, 2 * SECOND), [""; 0]);
    assert_eq!(tick(&mut f, 3 * SECOND), ["0@3"]);
}

#[test]
fn a_blocked_stream_is_told_nothing() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, notify("a"));
    f.got(1);
    f.hub.set_blocked(StreamKey(1), true);
    assert_eq!(tick(&mut f, SECOND), [""; 0]);
    f.hub.set_blocked(StreamKey(1), false);
    assert_eq!(tick(&mut f, 2 * SECOND), ["0@1"]);
}

#[test]
fn ticks_run_from_the_opening_of_the_stream_with_its_jitter() {
    let mut f = Fixture::new();
    f.hub.open_stream(StreamKey(1), 1, 50 * MILLISECOND, 0);
    assert_eq!(f.hub.deadline_ns(), None);
    f.now_ns = 2 * SECOND;
    f.create(1, notify("a"));
    assert_eq!(f.hub.deadline_ns(), Some(2 * (SECOND + 50 * MILLISECOND)));
    f.cancel(1, 0);
    assert_eq!(f.hub.deadline_ns(), None);
    f.create(1, notify("a"));
    f.hub.close_stream(StreamKey(1));
    assert_eq!(f.hub.deadline_ns(), None);
}

#[test]
fn late_timers_do_not_pile_up() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, notify("a"));
    f.got(1);
    assert_eq!(tick(&mut f, 10 * SECOND + 1), ["0@1"]);
    assert_eq!(f.hub.deadline_ns(), Some(11 * SECOND));
}

#[test]
fn a_tick_without_room_for_all_goes_on_with_the_others_next_time() {
    let mut f = Fixture::new();
    f.open(1);
    for _ in 0..20_000 {
        f.create(1, notify("a"));
        f.take();
    }
    f.got(1);
    let mut told = std::collections::BTreeSet::new();
    for round in 1..=8 {
        for response in tick(&mut f, round * SECOND) {
            told.insert(response);
        }
    }
    assert_eq!(told.len(), 20_000);
}

#[test]
fn intervals_have_a_default_and_a_minimum() {
    let deadline = |progress_interval_ns| {
        let config = Config {
            identity: IDENTITY,
            max_request_bytes: 1,
            progress_interval_ns,
            seed: 1,
        };
        let mut f = Fixture::with(config);
        f.open(1);
        f.create(1, notify("a"));
        f.hub.deadline_ns()
    };
    assert_eq!(deadline(0), Some(PROGRESS_INTERVAL_DEFAULT_NS));
    assert_eq!(deadline(1), Some(PROGRESS_INTERVAL_MIN_NS));
    assert_eq!(deadline(200 * MILLISECOND), Some(200 * MILLISECOND));
}
