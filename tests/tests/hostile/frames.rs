//! Sequences of frames whose only purpose is to make the server work or remember.

use std::io::Write as _;

use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd_tests::server::{is_ringd, Server};

use crate::raw::{
    self, call, flood, frame, head, message, read_to_end, reset, CALM, CONTINUATION, DATA,
    END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, WINDOW_UPDATE,
};
use crate::{ask, assert_serves, put, range, resident_bytes, PUT, RANGE, WATCH};

const FLOOD_BYTES_MAX: usize = 256 << 20;
/// What one attacker may cost, for as long as its connections last.
const GROWTH_BYTES_MAX: usize = 16 << 20;
/// Priorities have no effect (RFC 9113 section 5.3), so this one does no harm.
const IGNORED: &str = "PRIORITY on itself";

/// B1. Requests that are reset as soon as they are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = resident_bytes(&server);
    let body = range("served").encode_to_vec();
    for _ in 0..20 {
        let mut stream = 1;
        let (end, sent) = flood(raw::open(&server), FLOOD_BYTES_MAX, || {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                bytes.extend(call(stream, RANGE, &body));
                bytes.extend(reset(stream));
                stream += 2;
            }
            bytes
        });
        assert_eq!(end.go_away, Some((CALM, "too many resets".to_owned())));
        assert!(sent.is_some(), "it was listened to for ever");
        assert_serves(&server, &client).await;
    }
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

/// B2. Frames that would have a server reset streams of its own accord, on a stream that is open and has had its request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_not_made_to_reset() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest {
                key: "k".into(),
                ..Default::default()
            },
        )),
    };
    let open = call(1, WATCH, &create.encode_to_vec());
    let on_itself = [&1u32.to_be_bytes()[..], &[0]].concat();
    let overflow = 0x7fff_ffffu32.to_be_bytes();
    let variants = [
        ("no increment", frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
        ("window overflow", frame(WINDOW_UPDATE, 0, 1, &overflow)),
        ("PRIORITY too short", frame(PRIORITY, 0, 1, &[0; 4])),
        (IGNORED, frame(PRIORITY, 0, 1, &on_itself)),
        (
            "HEADERS after the end",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(WATCH)),
        ),
        ("DATA after the end", frame(DATA, END_STREAM, 1, b"more")),
    ];
    for (what, wrong) in variants {
        let mut bytes = [open.clone(), wrong].concat();
        if what == IGNORED {
            bytes.extend(frame(PING, 0, 1, &[0; 8])); // an error of its own
        }
        let mut stream = raw::open(&server);
        stream.write_all(&bytes).expect(what);
        let end = read_to_end(&mut stream);
        assert_ne!(end.reason(), 0, "{what}: {end:?}");
        let resets = end.frames.iter().filter(|f| f.0 == raw::RST_STREAM);
        assert_eq!(resets.count(), 0, "{what}: {end:?}");
    }
    assert_serves(&server, &client).await;
}

/// B3. A header block that never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_block_has_an_end() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    let before = resident_bytes(&server);
    for part in [&b""[..], &[0x82; 1], &[0x82; 16_000]] {
        let mut first = Some(frame(HEADERS, 0, 1, &head(RANGE)));
        let (end, sent) = flood(raw::open(&server), FLOOD_BYTES_MAX, || {
            let next = || frame(CONTINUATION, 0, 1, part);
            first.take().unwrap_or_else(next)
        });
        assert_eq!(end.reason(), CALM, "{end:?}");
        assert!(sent.is_some(), "it was listened to for ever");
    }
    assert_serves(&server, &client).await;
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

/// B6. A message byte by byte: one that comes to an end is served, one that goes on and on is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_in_single_bytes() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = resident_bytes(&server);
    let by_bytes = |size: usize| {
        let body = message(&put("bytes", vec![b'v'; size]).encode_to_vec());
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &head(PUT));
        for (n, byte) in body.iter().enumerate() {
            let flags = if n + 1 == body.len() { END_STREAM } else { 0 };
            bytes.extend(frame(DATA, flags, 1, &[*byte]));
        }
        bytes
    };
    let mut stream = raw::open(&server);
    stream.write_all(&by_bytes(20_000)).expect("a request");
    raw::wait_for(&mut stream, DATA);
    let answer: pb::RangeResponse = ask(&client, RANGE, &range("bytes")).await.expect("a range");
    assert_eq!(answer.kvs[0].value.len(), 20_000);
    let mut stream = raw::open(&server);
    let _ = stream.write_all(&by_bytes(1_500_000));
    assert_eq!(read_to_end(&mut stream).reason(), CALM);
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    assert_serves(&server, &client).await;
}

/// B7. PINGs without a pause, with and without somebody who takes the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_rationed() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    let pings = frame(PING, 0, 0, b"12345678").repeat(100);
    let (end, sent) = flood(raw::open(&server), FLOOD_BYTES_MAX, || pings.clone());
    assert_eq!(end.go_away, Some((CALM, "too_many_pings".to_owned())));
    assert!(sent.is_some(), "it was listened to for ever");
    let answers = end.frames.iter().filter(|f| f.0 == PING).count();
    assert!(answers <= 8, "{answers} answers");
    assert_serves(&server, &client).await;
}
