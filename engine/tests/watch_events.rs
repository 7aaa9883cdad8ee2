//! What watchers get: live, from history, filtered, with previous values, in fragments, and while their stream is slow.

mod watch_support;

use engine::watch::{Config, StreamKey, BATCH_REVISIONS_MAX, STREAM_QUEUE_RESPONSES_MAX};
use proto::etcdserverpb::WatchCreateRequest;
use watch_support::*;

const NO_PUT: i32 = 0;
const NO_DELETE: i32 = 1;

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..request
    }
}

fn prev(request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        prev_kv: true,
        ..request
    }
}

fn filter(filters: &[i32], request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        filters: filters.to_vec(),
        ..request
    }
}

fn fragment(request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        fragment: true,
        ..request
    }
}

/// The six watchers of the recorded session: filters and previous values over one range.
fn six(f: &mut Fixture) {
    f.open(1);
    let all = range("f", "g");
    f.create(1, filter(&[NO_PUT], all.clone()));
    f.create(1, prev(filter(&[NO_DELETE], all.clone())));
    f.create(1, filter(&[NO_PUT, NO_DELETE], all.clone()));
    f.create(1, prev(all.clone()));
    f.create(1, filter(&[NO_PUT, NO_PUT, 5], all.clone()));
    f.create(1, all);
    f.got(1);
}

#[test]
fn filters_and_previous_values() {
    let mut f = Fixture::new();
    six(&mut f);
    f.put("f1", "a");
    let put = "f1=a(2,2,1)";
    assert_eq!(
        by_id(&f.got(1)),
        [
            format!("1@2 {put}"),
            format!("3@2 {put}"),
            format!("5@2 {put}")
        ]
    );
    f.put("f1", "b");
    let put = "f1=b(2,3,2)";
    assert_eq!(
        by_id(&f.got(1)),
        [
            format!("1@3 {put}<a@2"),
            format!("3@3 {put}<a@2"),
            format!("5@3 {put}")
        ]
    );
    f.delete("f1");
    assert_eq!(
        by_id(&f.got(1)),
        ["0@4 -f1(4)", "3@4 -f1(4)<b@3", "4@4 -f1(4)", "5@4 -f1(4)"]
    );
    // Deleting nothing is no revision.
    f.delete("f1");
    assert!(f.got(1).is_empty());
}

#[test]
fn a_transaction_is_one_response_in_execution_order() {
    let mut f = Fixture::new();
    f.txn(&[put("f1", "1"), put("f2", "2")]);
    six(&mut f);
    f.txn(&[
        put("f3", "3"),
        delete("f1"),
        put("x", "outside"),
        delete("f2"),
        put("f4", "4"),
    ]);
    assert_eq!(
        by_id(&f.got(1)),
        [
            "0@3 -f1(3) -f2(3)",
            "1@3 f3=3(3,3,1) f4=4(3,3,1)",
            "3@3 f3=3(3,3,1) -f1(3)<1@2 -f2(3)<2@2 f4=4(3,3,1)",
            "4@3 -f1(3) -f2(3)",
            "5@3 f3=3(3,3,1) -f1(3) -f2(3) f4=4(3,3,1)",
        ]
    );
}

#[test]
fn a_key_put_and_deleted_in_one_revision_shows_both() {
    let mut f = Fixture::new();
    six(&mut f);
    f.txn(&[put("f5", "5"), delete("f5")]);
    assert_eq!(
        by_id(&f.got(1)),
        [
            "0@2 -f5(2)",
            "1@2 f5=5(2,2,1)",
            "3@2 f5=5(2,2,1) -f5(2)",
            "4@2 -f5(2)",
            "5@2 f5=5(2,2,1) -f5(2)",
        ]
    );
    // The same from history.
    f.create(1, prev(from(2, range("f", "g"))));
    assert_eq!(f.got(1).last().map(line).unwrap(), "6@2 f5=5(2,2,1) -f5(2)");
}

#[test]
fn each_watcher_of_overlapping_targets_gets_its_part() {
    let mut f = Fixture::new();
    f.open(1);
    for request in [
        request("p/1"),
        range("p/", "p0"),
        range("p/2", "\0"),
        range("p/1", "p/1\0"),
        range("", "\0"),
        request("p/1"),
    ] {
        f.create(1, request);
    }
    f.got(1);
    f.txn(&[put("p/1", "x"), put("o", "y"), put("p/2", "z")]);
    assert_eq!(
        by_id(&f.got(1)),
        [
            "0@2 p/1=x(2,2,1)",
            "1@2 p/1=x(2,2,1) p/2=z(2,2,1)",
            "2@2 p/2=z(2,2,1)",
            "3@2 p/1=x(2,2,1)",
            "4@2 p/1=x(2,2,1) o=y(2,2,1) p/2=z(2,2,1)",
            "5@2 p/1=x(2,2,1)",
        ]
    );
}

#[test]
fn history_comes_in_one_response_and_then_live() {
    let mut f = Fixture::new();
    f.put("a", "1");
    f.put("b", "1");
    f.put("a", "2");
    f.delete("b");
    f.open(1);
    f.create(1, prev(from(2, range("\0", "\0"))));
    assert_eq!(
        lines(&f.got(1)),
        [
            "0@5 created",
            "0@5 a=1(2,2,1) b=1(3,3,1) a=2(2,4,2)<1@2 -b(5)<1@3"
        ]
    );
    f.put("a", "3");
    assert_eq!(lines(&f.got(1)), ["0@6 a=3(2,6,3)<2@4"]);
}

#[test]
fn previous_values_below_the_compacted_revision_are_left_out() {
    let mut f = Fixture::new();
    f.put("pc", "1");
    f.put("pc", "2");
    f.put("pc", "3");
    f.store.compacted = 4;
    f.open(1);
    f.create(1, prev(from(4, request("pc"))));
    assert_eq!(lines(&f.got(1)), ["0@4 created", "0@4 pc=3(2,4,3)"]);
    f.put("pc", "4");
    assert_eq!(lines(&f.got(1)), ["0@5 pc=4(2,5,4)<3@4"]);
}

#[test]
fn history_comes_in_batches_of_a_thousand_revisions() {
    for budget in [1, 7, 1000, 1 << 20] {
        let mut f = Fixture::new();
        for _ in 0..2225 {
            f.put("h", "v");
        }
        f.open(1);
        f.create(1, from(2, request("h")));
        f.take();
        while f.hub.catch_up(&f.store, budget).unwrap() {
            f.take();
        }
        let sizes: Vec<usize> = f
            .got(1)
            .iter()
            .map(|response| response.events.len())
            .collect();
        assert_eq!(sizes, [0, 1000, 1000, 225], "budget {budget}");
        for (start, events) in [
            (1228, vec![0, 999]),
            (1227, vec![0, 1000]),
            (1226, vec![0, 1000, 1]),
        ] {
            f.create(1, from(start, request("h")));
            let got = f.got(1);
            assert!(got
                .iter()
                .all(|response| response.header.as_ref().unwrap().revision == 2226));
            let sizes: Vec<usize> = got.iter().map(|response| response.events.len()).collect();
            assert_eq!(sizes, events, "start {start}");
        }
    }
}

#[test]
fn a_batch_counts_revisions_not_events_and_ends_between_revisions() {
    let mut f = Fixture::new();
    for _ in 0..BATCH_REVISIONS_MAX + 1 {
        f.txn(&[put("h/1", "v"), put("h/2", "v"), put("h/3", "v")]);
    }
    f.open(1);
    f.create(1, from(2, range("h/", "h0")));
    let sizes: Vec<usize> = f
        .got(1)
        .iter()
        .map(|response| response.events.len())
        .collect();
    assert_eq!(sizes, [0, 3000, 3]);
}

#[test]
fn a_long_history_of_others_sends_nothing() {
    let mut f = Fixture::new();
    f.put("mine", "1");
    for _ in 0..40_000 {
        f.put("other", "v");
    }
    f.put("mine", "2");
    f.open(1);
    f.create(1, from(2, request("mine")));
    let got = f.got(1);
    let last = got.last().unwrap();
    let total: usize = got.iter().map(|response| response.events.len()).sum();
    assert_eq!(total, 2);
    assert_eq!(last.events.last().unwrap().kv.as_ref().unwrap().version, 2);
    assert_eq!(f.hub.stats().unsynced, 0);
}

#[test]
fn laggards_at_the_same_place_share_one_reading() {
    let mut f = Fixture::new();
    for i in 0..500 {
        f.put(&format!("k{}", i % 10), "v");
    }
    f.open(1);
    for i in 0..100 {
        f.create(1, from(2, request(&format!("k{}", i % 10))));
    }
    f.take();
    f.settle();
    let got = f.got(1);
    assert_eq!(got.len(), 200);
    assert_eq!(f.store.reads.get(), 500);
}

#[test]
fn a_reading_that_gives_way_moves_nobody_back() {
    let mut f = Fixture::new();
    let ops: Vec<Op> = (0..40).map(|i| put(&format!("k{i}"), "v")).collect();
    for _ in 0..900 {
        f.txn(&ops);
    }
    f.open(1);
    f.create(1, from(2, range("k", "l")));
    f.create(1, from(850, range("k", "l")));
    let mut next = [2, 850];
    for response in f.got(1).iter().filter(|response| !response.created) {
        let next = &mut next[response.watch_id as usize];
        for events in response.events.chunks(40) {
            assert!(events
                .iter()
                .all(|event| event.kv.as_ref().unwrap().mod_revision == *next));
            *next += 1;
        }
    }
    assert_eq!(next, [902, 902]);
}

#[test]
fn large_responses_are_cut_into_fragments_only_when_asked() {
    let mut f = Fixture::new();
    let big = "a".repeat(700_000);
    for _ in 0..8 {
        f.put("big", &big);
    }
    f.open(1);
    let shape = |f: &mut Fixture| -> Vec<(usize, bool)> {
        let got = f.got(1);
        got.iter()
            .filter(|response| !response.created)
            .map(|response| (response.events.len(), response.fragment))
            .collect()
    };
    f.create(1, from(2, request("big")));
    assert_eq!(shape(&mut f), [(8, false)]);
    f.create(1, fragment(from(2, request("big"))));
    assert_eq!(shape(&mut f), [(2, true), (2, true), (2, true), (2, false)]);
    f.create(1, prev(fragment(from(2, request("big")))));
    let mut pieces = vec![(1, true); 7];
    pieces.push((1, false));
    assert_eq!(shape(&mut f), pieces);
}

#[test]
fn live_responses_are_cut_too() {
    let mut f = Fixture::with(Config {
        identity: IDENTITY,
        max_request_bytes: 0,
        progress_interval_ns: 0,
        seed: 3,
    });
    f.open(1);
    f.create(1, fragment(range("b", "c")));
    f.create(1, range("b", "c"));
    f.create(1, fragment(request("b1")));
    f.got(1);
    let value = "v".repeat(300_000);
    f.txn(&[put("b1", &value), put("b2", &value), put("b3", "small")]);
    let got = f.got(1);
    let shape = |id: i64| -> Vec<(usize, bool)> {
        got.iter()
            .filter(|response| response.watch_id == id)
            .map(|response| (response.events.len(), response.fragment))
            .collect()
    };
    assert_eq!(shape(0), [(1, true), (2, false)]);
    assert_eq!(shape(1), [(3, false)]);
    assert_eq!(shape(2), [(1, false)]);
}

#[test]
fn a_slow_stream_keeps_its_place_and_disturbs_nobody() {
    let mut f = Fixture::new();
    for stream in [1, 2] {
        f.open(stream);
        f.create(stream, request("a"));
        f.create(stream, request("quiet"));
        f.got(stream);
    }
    f.hub.set_blocked(StreamKey(1), true);
    for i in 0..2000 {
        f.put("a", &i.to_string());
        f.settle();
    }
    assert_eq!(f.received.get(&1).map_or(0, Vec::len), 0);
    assert_eq!(f.got(2).len(), 2000);
    assert_eq!(f.hub.stats().unsynced, 1);
    f.hub.set_blocked(StreamKey(1), false);
    let got = f.got(1);
    let sizes: Vec<usize> = got.iter().map(|response| response.events.len()).collect();
    assert_eq!(sizes, [1000, 1000]);
    f.put("a", "live");
    assert_eq!(lines(&f.got(1)), ["0@2002 a=live(2,2002,2001)"]);
}

#[test]
fn answers_pass_on_a_blocked_stream() {
    let mut f = Fixture::new();
    f.open(1);
    f.hub.set_blocked(StreamKey(1), true);
    f.create(1, request("a"));
    f.cancel(1, 0);
    f.hub.progress(StreamKey(1));
    assert_eq!(lines(&f.got(1)), ["0@1 created", "0@1 canceled"]);
}

#[test]
fn a_full_queue_makes_its_watchers_catch_up() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.got(1);
    for _ in 0..STREAM_QUEUE_RESPONSES_MAX + 50 {
        f.put("a", "v");
    }
    // Nobody took the output meanwhile.
    f.take();
    let first = f.received.remove(&1).unwrap();
    assert_eq!(first.len(), STREAM_QUEUE_RESPONSES_MAX);
    let rest = f.got(1);
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].events.len(), 50);
}

#[test]
fn a_queue_of_many_bytes_is_full_too() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.got(1);
    let value = "v".repeat(100_000);
    for _ in 0..10 {
        f.put("a", &value);
    }
    f.take();
    assert_eq!(f.received.remove(&1).unwrap().len(), 3);
    assert_eq!(f.got(1)[0].events.len(), 7);
}

#[test]
fn a_slow_watcher_dies_only_by_compaction() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.put("a", "1");
    f.got(1);
    f.hub.set_blocked(StreamKey(1), true);
    f.put("a", "2");
    f.put("a", "3");
    f.store.compacted = 4;
    f.settle();
    f.hub.set_blocked(StreamKey(1), false);
    assert_eq!(lines(&f.got(1)), ["0@0 canceled compacted=4"]);
    f.cancel(1, 0);
    assert_eq!(lines(&f.got(1)), ["0@4 canceled"]);
}

#[test]
fn previous_values_out_of_memory_send_the_watcher_to_history() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, prev(request("a")));
    f.create(1, request("a"));
    f.put("a", "1");
    f.got(1);
    f.store.miss_one_in = 1;
    f.put("a", "2");
    f.take();
    assert_eq!(lines(&f.received.remove(&1).unwrap()), ["1@3 a=2(2,3,2)"]);
    assert!(f.hub.catch_up(&f.store, 100).is_err());
    f.store.miss_one_in = 0;
    f.put("a", "3");
    f.take();
    assert_eq!(lines(&f.received.remove(&1).unwrap()), ["1@4 a=3(2,4,3)"]);
    assert_eq!(lines(&f.got(1)), ["0@4 a=2(2,3,2)<1@2 a=3(2,4,3)<2@3"]);
}

#[test]
fn a_snapshot_sends_watchers_to_the_new_history() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.create(1, from(9, request("a")));
    f.put("a", "1");
    f.got(1);
    // Revisions that came with a snapshot were never published here.
    f.store.apply(&[put("a", "2")]);
    f.store.apply(&[put("a", "3")]);
    f.hub.restored(f.store.revision);
    f.put("a", "4");
    assert_eq!(lines(&f.got(1)), ["0@5 a=2(2,3,2) a=3(2,4,3) a=4(2,5,4)"]);
    f.store.apply(&[put("a", "5")]);
    f.store.apply(&[put("a", "6")]);
    f.store.compacted = 7;
    f.hub.restored(f.store.revision);
    assert_eq!(lines(&f.got(1)), ["0@0 canceled compacted=7"]);
}

#[test]
fn the_term_of_a_response_is_that_of_its_time() {
    let mut f = Fixture::new();
    f.open(1);
    f.create(1, request("a"));
    f.hub.set_term(9);
    f.put("a", "1");
    f.settle();
    let terms: Vec<u64> = f.received[&1]
        .iter()
        .map(|response| response.header.as_ref().unwrap().raft_term)
        .collect();
    assert_eq!(terms, [3, 9]);
}

#[test]
fn watchers_of_the_same_events_share_their_bytes() {
    let mut f = Fixture::new();
    for stream in 1..=3 {
        f.open(stream);
        f.create(stream, request("a"));
        f.create(stream, range("a", "b"));
    }
    f.settle();
    f.put("a", &"v".repeat(1000));
    let out = f.take();
    assert_eq!(out.len(), 6);
    assert!(out
        .iter()
        .all(|response| response.tail.as_ptr() == out[0].tail.as_ptr()));
}

#[test]
fn history_is_shared_between_watchers_of_the_same_events() {
    let mut f = Fixture::new();
    for i in 0..1500 {
        f.put("a", &i.to_string());
    }
    for stream in 1..=3 {
        f.open(stream);
        f.create(stream, from(2, request("a")));
        f.create(stream, from(2, range("a", "b")));
        f.create(stream, prev(from(2, request("a"))));
    }
    f.take();
    let mut tails = std::collections::BTreeMap::<(usize, usize), usize>::new();
    while f.hub.catch_up(&f.store, 1 << 20).unwrap() {
        for response in f.take() {
            *tails
                .entry((response.tail.as_ptr() as usize, response.tail.len()))
                .or_default() += 1;
        }
    }
    for response in f.take() {
        *tails
            .entry((response.tail.as_ptr() as usize, response.tail.len()))
            .or_default() += 1;
    }
    let mut counts: Vec<usize> = tails.into_values().collect();
    counts.sort_unstable();
    // Two batches, each once without and once with previous values.
    assert_eq!(counts, [3, 3, 6, 6]);
}

#[test]
fn many_watchers_of_one_stream_all_arrive() {
    let mut f = Fixture::new();
    f.put("a", "1");
    f.open(1);
    for _ in 0..3000 {
        f.create(1, from(2, request("a")));
    }
    f.put("a", "2");
    f.take();
    f.received.clear();
    let mut seen = std::collections::BTreeSet::new();
    for response in f.got(1) {
        assert_eq!(response.events.len(), 2);
        assert!(seen.insert(response.watch_id));
    }
    assert_eq!(seen.len(), 3000);
    // All of them share a stream that takes 128 responses at a time.
    f.put("a", "3");
    assert_eq!(f.got(1).len(), 3000);
    assert_eq!(f.hub.stats().unsynced, 0);
}
