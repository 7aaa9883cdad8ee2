//! Watch streams.

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use ringd_tests::server::PATIENCE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::{bytes, put, Etcd, SILENCE};

struct Watch {
    send: Option<mpsc::UnboundedSender<pb::WatchRequest>>,
    receive: Streaming<pb::WatchResponse>,
}

fn all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        ..Default::default()
    }
}

impl Watch {
    /// Opens a stream with one watcher and takes its first answer.
    async fn open(etcd: &mut Etcd, create: pb::WatchCreateRequest) -> (Self, pb::WatchResponse) {
        let (send, requests) = mpsc::unbounded_channel();
        send.send(request(RequestUnion::CreateRequest(create)))
            .expect("the other end is held here");
        let requests = UnboundedReceiverStream::new(requests);
        let receive = etcd.watch.watch(requests).await.expect("a stream");
        let mut watch = Self {
            send: Some(send),
            receive: receive.into_inner(),
        };
        let created = watch.next().await;
        assert!(created.created, "{created:?}");
        (watch, created)
    }

    fn send(&self, union: RequestUnion) {
        let send = self.send.as_ref().expect("an open half");
        send.send(request(union)).expect("an open stream");
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let message = tokio::time::timeout(PATIENCE, self.receive.message());
        let message = message.await.expect("a message in time");
        let message = message.expect("the stream goes on").expect("not its end");
        assert!(message.header.is_some(), "the common client needs it");
        message
    }

    async fn silent(&mut self, time: Duration) {
        if let Ok(message) = tokio::time::timeout(time, self.receive.message()).await {
            panic!("{message:?} where nothing was due");
        }
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}

fn cancel(watch_id: i64) -> RequestUnion {
    RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })
}

fn progress() -> RequestUnion {
    RequestUnion::ProgressRequest(pb::WatchProgressRequest {})
}

fn changes(message: &pb::WatchResponse) -> Vec<(i32, i64)> {
    let of = |e: &proto::mvccpb::Event| (e.r#type, e.kv.as_ref().expect("a key").mod_revision);
    message.events.iter().map(of).collect()
}

#[tokio::test]
async fn events_arrive_as_they_happen() {
    let mut etcd = Etcd::fresh().await;
    let (mut watch, created) = Watch::open(&mut etcd, all()).await;
    assert_eq!(
        (created.watch_id, created.header.expect("a header").revision),
        (0, 1)
    );
    etcd.put("k", "v").await;
    etcd.delete("k").await;
    let first = watch.next().await;
    assert_eq!(
        (changes(&first), first.header.expect("a header").revision),
        (vec![(0, 2)], 2)
    );
    let second = watch.next().await;
    assert_eq!(changes(&second), [(1, 3)]);
    let kv = second.events[0].kv.as_ref().expect("a key");
    assert_eq!(
        (kv.key.clone(), kv.create_revision, kv.version),
        (bytes("k"), 0, 0)
    );
}

#[tokio::test]
async fn a_revision_arrives_in_one_piece() {
    let mut etcd = Etcd::fresh().await;
    let (mut watch, _) = Watch::open(&mut etcd, all()).await;
    let ops = (0..50).map(|n| pb::RequestOp {
        request: Some(Op::RequestPut(put(&format!("k{n:02}"), "v"))),
    });
    let txn = pb::TxnRequest {
        success: ops.collect(),
        ..Default::default()
    };
    etcd.kv.txn(txn).await.expect("a txn");
    assert_eq!(watch.next().await.events.len(), 50);
}

#[tokio::test]
async fn history_then_live_without_gap() {
    let mut etcd = Etcd::fresh().await;
    for n in 0..20 {
        etcd.put("k", &n.to_string()).await;
    }
    let create = pb::WatchCreateRequest {
        start_revision: 5,
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    for n in 20..40 {
        etcd.put("k", &n.to_string()).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 37 {
        seen.extend(changes(&watch.next().await));
    }
    assert!(seen.iter().map(|(_, r)| *r).eq(5..=41), "{seen:?}");
}

#[tokio::test]
async fn ids_are_chosen_or_given() {
    let mut etcd = Etcd::fresh().await;
    let (mut watch, first) = Watch::open(&mut etcd, all()).await;
    assert_eq!(first.watch_id, 0);
    let create =
        |watch_id| RequestUnion::CreateRequest(pb::WatchCreateRequest { watch_id, ..all() });
    watch.send(create(-7));
    assert_eq!(watch.next().await.watch_id, -7);
    watch.send(create(-7));
    let failed = watch.next().await;
    assert!(failed.created && failed.canceled);
    assert_eq!(failed.watch_id, -1);
    assert_eq!(
        failed.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    watch.send(cancel(12345));
    watch.send(create(0));
    assert_eq!(
        watch.next().await.watch_id,
        1,
        "an unknown id gets no answer"
    );
    watch.send(cancel(-7));
    let cancelled = watch.next().await;
    assert!(cancelled.canceled && cancelled.watch_id == -7);
    assert!(cancelled.cancel_reason.is_empty());
}

#[tokio::test]
async fn creates_that_fail_leave_the_stream_alone() {
    let mut etcd = Etcd::fresh().await;
    let (mut watch, _) = Watch::open(&mut etcd, all()).await;
    watch.send(RequestUnion::CreateRequest(pb::WatchCreateRequest {
        key: bytes("b"),
        range_end: bytes("a"),
        ..Default::default()
    }));
    let failed = watch.next().await;
    assert_eq!(
        (failed.watch_id, failed.cancel_reason.as_str()),
        (-1, "mvcc: watcher range is empty")
    );
    if ringd_tests::server::is_ringd() {
        watch.send(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            start_revision: -1,
            ..all()
        }));
        let failed = watch.next().await;
        assert_eq!(failed.watch_id, -1);
        assert_eq!(
            failed.cancel_reason,
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
    etcd.put("k", "v").await;
    assert_eq!(changes(&watch.next().await), [(0, 2)]);
}

#[tokio::test]
async fn compaction_cancels_and_keeps_the_id() {
    let mut etcd = Etcd::fresh().await;
    for _ in 0..5 {
        etcd.put("k", "v").await;
    }
    etcd.compact(5).await;
    let create = pb::WatchCreateRequest {
        start_revision: 4,
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    let cancelled = watch.next().await;
    assert!(cancelled.canceled && cancelled.cancel_reason.is_empty());
    assert_eq!(cancelled.compact_revision, 5);
    assert_eq!(cancelled.header.expect("a header").revision, 0);
    if ringd_tests::server::is_ringd() {
        watch.send(progress());
        watch.silent(SILENCE).await;
    }
    watch.send(cancel(0));
    assert!(watch.next().await.canceled);
}

#[tokio::test]
async fn the_compacted_revision_can_be_watched() {
    if !ringd_tests::server::is_ringd() {
        return;
    }
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let deleted = etcd.delete("k").await;
    etcd.put("other", "v").await;
    etcd.compact(deleted).await;
    let create = pb::WatchCreateRequest {
        start_revision: deleted,
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    assert_eq!(
        changes(&watch.next().await),
        [(1, deleted), (0, deleted + 1)]
    );
}

#[tokio::test]
async fn half_closing_does_not_end_it() {
    let mut etcd = Etcd::fresh().await;
    let (mut watch, _) = Watch::open(&mut etcd, all()).await;
    watch.send = None;
    tokio::time::sleep(SILENCE).await;
    etcd.put("k", "v").await;
    assert_eq!(changes(&watch.next().await), [(0, 2)]);
}

#[tokio::test]
async fn progress_is_told_when_all_are_up_to_date() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let (mut watch, _) = Watch::open(&mut etcd, all()).await;
    watch.send(progress());
    let told = watch.next().await;
    assert_eq!(
        (told.watch_id, told.header.expect("a header").revision),
        (-1, 2)
    );
    assert!(told.events.is_empty() && !told.created && !told.canceled);
    if ringd_tests::server::is_ringd() {
        watch.send(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            start_revision: 10,
            ..all()
        }));
        watch.next().await;
        watch.send(progress());
        watch.silent(SILENCE).await;
    }
}

#[tokio::test]
async fn progress_is_told_by_the_clock() {
    let mut etcd = Etcd::with(&["--experimental-watch-progress-notify-interval", "200ms"]).await;
    let create = pb::WatchCreateRequest {
        progress_notify: true,
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    etcd.put("k", "v").await;
    assert_eq!(changes(&watch.next().await), [(0, 2)]);
    let told = watch.next().await;
    assert_eq!(
        (told.watch_id, told.header.expect("a header").revision),
        (0, 2)
    );
    assert!(told.events.is_empty());
}

#[tokio::test]
async fn the_value_before_is_told_where_there_was_one() {
    let mut etcd = Etcd::fresh().await;
    let create = pb::WatchCreateRequest {
        prev_kv: true,
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    etcd.put("k", "1").await;
    etcd.put("k", "2").await;
    etcd.delete("k").await;
    let mut before = Vec::new();
    while before.len() < 3 {
        let message = watch.next().await;
        before.extend(
            message
                .events
                .into_iter()
                .map(|e| e.prev_kv.map(|kv| kv.value)),
        );
    }
    assert_eq!(before, [None, Some(bytes("1")), Some(bytes("2"))]);
}

#[tokio::test]
async fn filters_leave_kinds_out() {
    let mut etcd = Etcd::fresh().await;
    let create = pb::WatchCreateRequest {
        filters: vec![0],
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    etcd.put("k", "v").await;
    etcd.delete("k").await;
    assert_eq!(changes(&watch.next().await), [(1, 3)]);
}

/// More keys than are deleted in one go: their watchers get all of them as one revision, and others what concerns them.
#[tokio::test]
async fn a_large_delete_is_one_revision() {
    const KEYS: usize = 2_000;
    let mut etcd = Etcd::fresh().await;
    for n in 0..KEYS {
        etcd.put(&format!("k{n:05}"), "value").await;
    }
    let keys = pb::WatchCreateRequest {
        key: bytes("k"),
        range_end: bytes("l"),
        prev_kv: true,
        ..Default::default()
    };
    let one = pb::WatchCreateRequest {
        key: bytes("k00007"),
        ..Default::default()
    };
    let other = pb::WatchCreateRequest {
        key: bytes("other"),
        ..Default::default()
    };
    let (mut keys, created) = Watch::open(&mut etcd, keys).await;
    let (mut one, _) = Watch::open(&mut etcd, one).await;
    let (mut other, _) = Watch::open(&mut etcd, other).await;
    let before = created.header.expect("a header").revision;
    let delete = pb::DeleteRangeRequest {
        key: bytes("k"),
        range_end: bytes("l"),
        ..Default::default()
    };
    etcd.kv.delete_range(delete).await.expect("a delete");
    etcd.put("other", "value").await;
    let mut seen = Vec::new();
    while seen.len() < KEYS {
        seen.extend(keys.next().await.events);
    }
    for (n, event) in seen.iter().enumerate() {
        let (kv, previous) = (event.kv.as_ref(), event.prev_kv.as_ref());
        let kv = kv.expect("a key");
        assert_eq!(kv.key, bytes(&format!("k{n:05}")));
        assert_eq!(kv.mod_revision, before + 1);
        assert_eq!(previous.expect("its value").value, bytes("value"));
    }
    assert_eq!(one.next().await.events.len(), 1);
    let events = other.next().await.events;
    assert_eq!(
        events[0].kv.as_ref().expect("a key").mod_revision,
        before + 2
    );
}

#[tokio::test]
async fn large_responses_are_cut_on_request() {
    let mut etcd = Etcd::fresh().await;
    for n in 0..8 {
        etcd.put(&format!("k{n}"), &"v".repeat(700_000)).await;
    }
    let create = pb::WatchCreateRequest {
        start_revision: 2,
        fragment: true,
        ..all()
    };
    let (mut watch, _) = Watch::open(&mut etcd, create).await;
    let mut flags = Vec::new();
    let mut events = 0;
    while events < 8 {
        let message = watch.next().await;
        events += message.events.len();
        flags.push(message.fragment);
    }
    assert_eq!(flags, [true, true, true, false]);
}
