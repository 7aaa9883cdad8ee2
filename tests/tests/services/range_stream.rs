//! RangeStream: a range in pieces, at one revision.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringd_tests::server::PATIENCE;
use tonic::{Code, Status};

use super::{keys, put, range, Etcd};

/// Waits for the next piece.
async fn piece(
    stream: &mut tonic::Streaming<pb::RangeStreamResponse>,
) -> Result<Option<pb::RangeResponse>, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    let message = message.expect("a piece in time")?;
    Ok(message.map(|message| message.range_response.expect("a range")))
}

async fn pieces(
    etcd: &mut Etcd,
    request: pb::RangeRequest,
) -> Result<Vec<pb::RangeResponse>, Status> {
    let mut stream = etcd.kv.range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(next) = piece(&mut stream).await? {
        pieces.push(next);
    }
    Ok(pieces)
}

fn lengths(pieces: &[pb::RangeResponse]) -> Vec<usize> {
    pieces.iter().map(|piece| piece.kvs.len()).collect()
}

fn all_keys(pieces: &[pb::RangeResponse]) -> Vec<String> {
    pieces.iter().flat_map(keys).collect()
}

fn all() -> pb::RangeRequest {
    range("k", "l")
}

/// A hundred keys, `k000` with the value `v0` first, and the revision after them.
async fn hundred() -> (Etcd, i64) {
    let mut etcd = Etcd::fresh().await;
    let mut revision = 0;
    for n in 0..100 {
        revision = etcd.put(&format!("k{n:03}"), &format!("v{n}")).await;
    }
    (etcd, revision)
}

async fn fails(etcd: &mut Etcd, request: pb::RangeRequest, code: Code, message: &str) {
    match pieces(etcd, request).await {
        Ok(pieces) => panic!("answered {:?} instead of {message:?}", lengths(&pieces)),
        Err(status) => assert_eq!((status.code(), status.message()), (code, message)),
    }
}

#[tokio::test]
async fn pieces_grow_and_the_last_one_has_the_header() {
    let (mut etcd, revision) = hundred().await;
    let pieces = pieces(&mut etcd, all()).await.expect("a range");
    assert_eq!(lengths(&pieces), [10, 20, 40, 30]);
    let whole = etcd.get("k", "l").await;
    assert_eq!(all_keys(&pieces), keys(&whole));
    let values = |piece: &pb::RangeResponse| piece.kvs.clone();
    assert_eq!(
        pieces.iter().flat_map(values).collect::<Vec<_>>(),
        whole.kvs
    );
    let (last, first) = pieces.split_last().expect("pieces");
    for piece in first {
        assert_eq!((piece.header, piece.more, piece.count), (None, false, 0));
    }
    assert_eq!((last.more, last.count), (false, 100));
    let header = last.header.expect("a header");
    assert_eq!(header.revision, revision);
    let expected = whole.header.expect("a header");
    assert_eq!(
        (header.cluster_id, header.member_id, header.raft_term),
        (expected.cluster_id, expected.member_id, expected.raft_term)
    );
}

#[tokio::test]
async fn a_limit_counts_over_all_pieces() {
    let (mut etcd, _) = hundred().await;
    for (limit, expected, more) in [
        (3, &[3][..], true),
        (10, &[10], true),
        (15, &[10, 5], true),
        (100, &[10, 20, 40, 30], false),
        (200, &[10, 20, 40, 30], false),
    ] {
        let request = pb::RangeRequest { limit, ..all() };
        let pieces = pieces(&mut etcd, request).await.expect("a range");
        assert_eq!(lengths(&pieces), expected, "limit {limit}");
        let last = pieces.last().expect("a piece");
        assert_eq!((last.more, last.count), (more, 100), "limit {limit}");
    }
}

#[tokio::test]
async fn only_what_was_asked_for_is_sent() {
    let (mut etcd, revision) = hundred().await;
    let counted = pb::RangeRequest {
        count_only: true,
        ..all()
    };
    let counted = pieces(&mut etcd, counted).await.expect("a count");
    assert_eq!(lengths(&counted), [0]);
    assert_eq!(counted[0].count, 100);
    assert_eq!(counted[0].header.expect("a header").revision, revision);
    let named = pb::RangeRequest {
        keys_only: true,
        ..all()
    };
    let named = pieces(&mut etcd, named).await.expect("keys");
    assert_eq!(all_keys(&named).len(), 100);
    let records = named.iter().flat_map(|piece| &piece.kvs);
    for record in records {
        assert!(record.value.is_empty(), "{record:?}");
        assert!(record.mod_revision > 1, "{record:?}");
    }
    let mut ascending = all();
    ascending.set_sort_order(SortOrder::Ascend);
    let ascending = pieces(&mut etcd, ascending).await.expect("a range");
    assert_eq!(all_keys(&ascending), all_keys(&named));
    let own = pb::RangeRequest {
        serializable: true,
        ..all()
    };
    let own = pieces(&mut etcd, own).await.expect("a serializable range");
    assert_eq!(all_keys(&own), all_keys(&named));
}

#[tokio::test]
async fn an_empty_range_is_one_piece() {
    let mut etcd = Etcd::fresh().await;
    let revision = etcd.put("a", "v").await;
    let pieces = pieces(&mut etcd, all()).await.expect("an answer");
    assert_eq!(lengths(&pieces), [0]);
    assert_eq!((pieces[0].count, pieces[0].more), (0, false));
    assert_eq!(pieces[0].header.expect("a header").revision, revision);
}

#[tokio::test]
async fn a_past_revision_is_read_as_it_was() {
    let (mut etcd, then) = hundred().await;
    etcd.put("k000", "later").await;
    etcd.delete("k001").await;
    let now = etcd.put("k100", "new").await;
    let at = |revision| pb::RangeRequest { revision, ..all() };
    let past = pieces(&mut etcd, at(then)).await.expect("a range");
    assert_eq!(all_keys(&past).len(), 100);
    assert_eq!(past[0].kvs[0].value, "v0");
    assert_eq!(past[0].kvs[1].key, "k001");
    let last = past.last().expect("a piece");
    // Which revision was read is the caller's knowledge; the header tells the present one.
    assert_eq!(last.header.expect("a header").revision, now);
    let future = "etcdserver: mvcc: required revision is a future revision";
    fails(&mut etcd, at(now + 1), Code::OutOfRange, future).await;
    etcd.compact(now).await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    fails(&mut etcd, at(then), Code::OutOfRange, compacted).await;
    let present = pieces(&mut etcd, at(now)).await.expect("a range");
    assert_eq!(all_keys(&present).len(), 100);
    assert_eq!(present[0].kvs[0].value, "later");
}

#[tokio::test]
async fn what_cannot_be_sent_in_pieces_is_refused() {
    let (mut etcd, _) = hundred().await;
    let no_key = "etcdserver: key is not provided";
    fails(&mut etcd, range("", ""), Code::InvalidArgument, no_key).await;
    let sorted = "RangeStream does not support custom sort orders";
    let mut descending = all();
    descending.set_sort_order(SortOrder::Descend);
    fails(&mut etcd, descending, Code::Unimplemented, sorted).await;
    let mut by_version = all();
    by_version.set_sort_target(SortTarget::Version);
    fails(&mut etcd, by_version, Code::Unimplemented, sorted).await;
    let filtered = "RangeStream does not support revision filters";
    for bounds in [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] {
        let [min_mod, max_mod, min_create, max_create] = bounds;
        let request = pb::RangeRequest {
            min_mod_revision: min_mod,
            max_mod_revision: max_mod,
            min_create_revision: min_create,
            max_create_revision: max_create,
            ..all()
        };
        fails(&mut etcd, request, Code::Unimplemented, filtered).await;
    }
    assert_eq!(
        all_keys(&pieces(&mut etcd, all()).await.expect("a range")).len(),
        100
    );
}

/// Far more than the windows of a connection hold, so that the server has most of it left when the caller turns away.
#[tokio::test]
async fn a_caller_that_leaves_half_way_leaves_nothing_behind() {
    let mut etcd = Etcd::fresh().await;
    let value = "v".repeat(512 << 10);
    for n in 0..40 {
        etcd.kv
            .put(put(&format!("k{n:03}"), &value))
            .await
            .expect("a put");
    }
    for _ in 0..20 {
        let stream = etcd.kv.range_stream(all()).await.expect("a stream");
        let mut stream = stream.into_inner();
        let first = piece(&mut stream).await.expect("a stream");
        let first = first.expect("the first piece");
        assert_eq!((first.kvs.len(), first.header), (10, None));
    }
    // Over the same connection, whose window would be used up by what was left.
    etcd.put("after", "v").await;
    let pieces = pieces(&mut etcd, all()).await.expect("a range");
    assert_eq!(all_keys(&pieces).len(), 40);
    assert!(
        lengths(&pieces)[1] < 10,
        "pieces of large values shrink: {:?}",
        lengths(&pieces)
    );
}
