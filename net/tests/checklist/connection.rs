//! Rows C: connection and streams (RFC 9113 sections 3 to 5).

use net::frame::{self, flag, kind, Reason};
use net::grpc::{Config, Event};
use net::limits::{self, SECOND_NS};

use super::peer::*;

#[test]
fn unary_call_is_answered() {
    let mut peer = Peer::new();
    peer.call(1, b"request");
    match &peer.events()[..] {
        [Event::Request {
            stream,
            method,
            metadata,
            timeout_ns,
            message,
        }] => {
            assert_eq!((stream.get(), *method, *timeout_ns), (1, PUT, None));
            assert_eq!(&message[..], b"request");
            assert_eq!(metadata.authority(), b"localhost");
        }
        other => panic!("{other:?}"),
    }
    peer.server.respond(id(1), b"response");
    assert!(!peer.server.is_open(id(1)));
    assert_eq!(peer.sent(), ok_response(1, b"response"));
    for stream in [3, 5, 7] {
        peer.assert_alive(stream);
    }
}

#[test]
fn bidirectional_stream_carries_messages_both_ways() {
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.Watch/Watch");
    peer.data(1, &[prefixed(b"one"), prefixed(b"two")].concat(), false);
    let events = peer.events();
    assert!(matches!(&events[0], Event::Open { method: WATCH, .. }));
    assert!(matches!(&events[1], Event::Message { message, .. } if &message[..] == b"one"));
    assert!(matches!(&events[2], Event::Message { message, .. } if &message[..] == b"two"));
    assert!(peer.server.send(id(1), b"first".as_slice().into()));
    assert!(peer.server.send(id(1), b"second".as_slice().into()));
    let data = |message: &[u8]| Sent::Data {
        stream: 1,
        data: prefixed(message),
        end: false,
    };
    assert_eq!(peer.sent(), [head(1), data(b"first"), data(b"second")]);
    peer.data(1, b"", true);
    assert_eq!(peer.events(), [Event::HalfClose { stream: id(1) }]);
    assert!(peer.server.send(id(1), b"third".as_slice().into()));
    peer.server.finish(id(1));
    assert_eq!(
        peer.sent(),
        [data(b"third"), trailers(1, &[("grpc-status", "0")])]
    );
    peer.assert_alive(3);
}

#[test]
fn c1_wrong_preface() {
    // HTTP/1.1 on the shared port is handed over with every byte that came.
    for first in [
        &b"GET /health HTTP/1.1\r\n\r\n"[..],
        b"POST /v3/kv/put",
        b"PUT /",
        b"PRX",
        b"\x16\x03\x01",
    ] {
        let mut peer = Peer::silent(config());
        let (head, tail) = first.split_at(1);
        peer.bytes(head);
        peer.bytes(tail);
        let Some(Event::Http1 { bytes }) = peer.events.pop() else {
            panic!("not handed over: {first:?}")
        };
        assert!(first.starts_with(&bytes) && !bytes.is_empty());
        assert!(peer.output().is_empty());
        assert!(peer.server.should_close());
    }
    // On a port of its own, and after the method, it is closed with one GOAWAY at most.
    let gone: [(&[u8], bool); 3] = [
        (b"GET / HTTP/1.1\r\n\r\n", false),
        (b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", true),
        (&[0; 100], false),
    ];
    for (first, http1) in gone {
        let mut peer = Peer::silent(Config { http1, ..config() });
        peer.bytes(first);
        peer.bytes(first);
        assert!(peer.events().is_empty());
        assert_eq!(peer.goaway(), Some(Reason::PROTOCOL_ERROR));
    }
}

/// A valid exchange with a torn header block, padding, trailers and two calls.
fn exchange() -> Vec<u8> {
    let mut peer = Peer::silent(config());
    let block = peer.block(&request("/etcdserverpb.KV/Put"));
    let again = peer.block(&request("/etcdserverpb.KV/Put"));
    let trailers = peer.block(&[("x-done", "1")]);
    let (first, rest) = block.split_at(7);
    let message = prefixed(b"a message");
    [
        frame::PREFACE.to_vec(),
        raw(kind::SETTINGS, 0, 0, &[]),
        raw(kind::SETTINGS, flag::ACK, 0, &[]),
        raw(kind::HEADERS, 0, 1, first),
        raw(kind::CONTINUATION, flag::END_HEADERS, 1, rest),
        raw(
            kind::DATA,
            flag::PADDED,
            1,
            &[&[3][..], &message[..4], &[0; 3]].concat(),
        ),
        raw(kind::PING, 0, 0, &[7; 8]),
        raw(kind::DATA, flag::END_STREAM, 1, &message[4..]),
        raw(kind::HEADERS, flag::END_HEADERS, 3, &again),
        raw(0xbb, 0xff, 3, &[1, 2, 3]),
        raw(kind::DATA, 0, 3, &message),
        raw(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            3,
            &trailers,
        ),
    ]
    .concat()
}

#[test]
fn c2_any_split_gives_the_same_events() {
    let bytes = exchange();
    let mut whole = Peer::silent(config());
    whole.bytes(&bytes);
    let (events, output) = (whole.events(), whole.output());
    assert_eq!(events.len(), 2, "{events:?}");
    for size in 1..=40 {
        let mut peer = Peer::silent(config());
        bytes.chunks(size).for_each(|piece| peer.bytes(piece));
        assert_eq!(peer.events(), events, "pieces of {size}");
        assert_eq!(peer.output(), output, "pieces of {size}");
    }
    for at in 0..bytes.len() {
        let mut peer = Peer::silent(config());
        peer.bytes(&bytes[..at]);
        peer.bytes(&bytes[at..]);
        assert_eq!(peer.events(), events, "cut at {at}");
    }
}

#[test]
fn c3_first_frame_must_be_settings() {
    for (kind, flags) in [
        (kind::PING, 0),
        (kind::HEADERS, 0),
        (0xbb, 0),
        (kind::SETTINGS, flag::ACK),
    ] {
        let mut peer = Peer::silent(config());
        peer.bytes(frame::PREFACE);
        peer.frame(kind, flags, 0, &[]);
        assert_eq!(peer.goaway(), Some(Reason::PROTOCOL_ERROR));
    }
}

#[test]
fn c4_our_settings_first_and_theirs_acknowledged_once() {
    let mut peer = Peer::silent(config());
    assert!(peer.sent().is_empty(), "nothing before the preface");
    peer.bytes(frame::PREFACE);
    peer.settings(&[]);
    peer.call(1, b"x");
    peer.settings(&[(4, 70_000)]);
    peer.server.respond(id(1), b"y");
    let sent = peer.sent();
    let Sent::Settings(ours) = &sent[0] else {
        panic!("{sent:?}")
    };
    assert_eq!(ours.max_frame_size, Some(16_384));
    assert_eq!(ours.max_concurrent_streams, None, "2^32-1 is not announced");
    assert!(
        matches!(sent[1], Sent::Window { stream: 0, increment } if increment == (4 << 20) - 65_535)
    );
    assert_eq!(sent[2..4], [Sent::SettingsAck, Sent::SettingsAck]);
    assert_eq!(sent[4..], ok_response(1, b"y"));
}

#[test]
fn c5_settings_must_be_acknowledged() {
    let mut peer = Peer::silent(config());
    peer.bytes(frame::PREFACE);
    peer.settings(&[]);
    peer.sent();
    peer.wait(limits::SETTINGS_ACK_NS - 1);
    assert_eq!(peer.goaway(), None);
    assert!(peer
        .server
        .deadline_ns()
        .is_some_and(|at| at <= peer.now_ns + 1));
    peer.wait(1);
    assert_eq!(peer.goaway(), Some(Reason::SETTINGS_TIMEOUT));
}

#[test]
fn c6_frame_longer_than_max() {
    for kind in [kind::DATA, kind::HEADERS, kind::SETTINGS, 0xbb] {
        let mut peer = Peer::new();
        // The frame header alone decides: no payload is sent.
        peer.bytes(&raw(kind, 0, 1, &[0; 16_385])[..9]);
        assert_eq!(peer.goaway(), Some(Reason::FRAME_SIZE_ERROR));
        assert!(peer.server.held_bytes() < 64);
    }
    let mut peer = Peer::new();
    peer.frame(0xbb, 0, 0, &[0; 16_384]);
    peer.assert_alive(1);
}

#[test]
fn c7_unknown_types_flags_and_reserved_bits_are_ignored() {
    let mut peer = Peer::new();
    peer.frame(0xbb, 0xff, 5, b"whatever");
    peer.frame(kind::PING, 0xfe, 1 << 31, &[0; 8]);
    peer.frame(
        kind::WINDOW_UPDATE,
        0xff,
        1 << 31,
        &0x8000_0001u32.to_be_bytes(),
    );
    let block = peer.block(&request("/etcdserverpb.KV/Put"));
    peer.frame(kind::HEADERS, flag::END_HEADERS | 0xd0, 1 | 1 << 31, &block);
    peer.frame(kind::DATA, flag::END_STREAM | 0xf6, 1, &prefixed(b"m"));
    assert!(matches!(&peer.events()[..], [Event::Request { .. }]));
    peer.assert_alive(3);
}

#[test]
fn c8_only_continuation_inside_a_header_block() {
    let others = [
        kind::DATA,
        kind::HEADERS,
        kind::PING,
        kind::SETTINGS,
        kind::RST_STREAM,
        0xbb,
    ];
    for kind in others {
        let mut peer = Peer::new();
        peer.frame(kind::HEADERS, 0, 1, &[0x83]);
        peer.frame(
            kind,
            0,
            if matches!(kind, kind::PING | kind::SETTINGS) {
                0
            } else {
                1
            },
            &[],
        );
        assert_eq!(peer.goaway(), Some(Reason::PROTOCOL_ERROR), "{kind}");
    }
}

#[test]
fn c9_stream_ids_grow_and_are_odd() {
    for (first, second) in [(None, 2), (None, 0), (Some(5), 3), (Some(5), 4)] {
        let mut peer = Peer::new();
        first
            .into_iter()
            .for_each(|stream| peer.open(stream, "/etcdserverpb.Watch/Watch"));
        peer.open(second, "/etcdserverpb.Watch/Watch");
        assert_eq!(peer.goaway(), Some(Reason::PROTOCOL_ERROR), "{second}");
    }
}

#[test]
fn c10_skipped_ids_are_closed() {
    let mut peer = Peer::new();
    peer.open(7, "/etcdserverpb.Watch/Watch");
    for stream in [1, 3, 5] {
        peer.widen(stream, 1);
        peer.reset(stream);
    }
    peer.assert_alive(9);
    peer.data(3, b"", true);
    assert_eq!(peer.goaway(), Some(Reason::STREAM_CLOSED));
}

#[test]
fn c11_idle_stream() {
    let frames: [(u8, &[u8]); 4] = [
        (kind::DATA, b"x"),
        (kind::RST_STREAM, &[0; 4]),
        (kind::WINDOW_UPDATE, &[0, 0, 0, 1]),
        (kind::CONTINUATION, b""),
    ];
    for (kind, payload) in frames {
        for stream in [1, 2, 9] {
            let mut peer = Peer::new();
            peer.frame(kind, 0, stream, payload);
            assert_eq!(
                peer.goaway(),
                Some(Reason::PROTOCOL_ERROR),
                "{kind} on {stream}"
            );
        }
    }
    let mut peer = Peer::new();
    peer.frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 1, 7]);
    peer.assert_alive(1);
}

#[test]
fn c12_half_closed_remote() {
    let mut data = Peer::new();
    data.call(1, b"x");
    data.data(1, b"more", false);
    assert_eq!(data.goaway(), Some(Reason::STREAM_CLOSED));
    let mut headers = Peer::new();
    headers.call(1, b"x");
    headers.head(1, &[("x", "y")], true);
    assert_eq!(headers.goaway(), Some(Reason::STREAM_CLOSED));
    assert_eq!(
        headers.events().pop(),
        Some(Event::Cancel { stream: id(1) })
    );
    let mut continuation = Peer::new();
    continuation.call(1, b"x");
    continuation.frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]);
    assert_eq!(continuation.goaway(), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn c13_closed_by_the_peer() {
    for by_reset in [true, false] {
        let closed = || {
            let mut peer = Peer::new();
            peer.call(1, b"x");
            if by_reset {
                peer.reset(1);
            } else {
                peer.server.respond(id(1), b"y");
            }
            peer.sent();
            peer
        };
        let mut peer = closed();
        peer.widen(1, 5);
        peer.reset(1);
        peer.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 7]);
        peer.assert_alive(3);
        let mut peer = closed();
        peer.data(1, b"late", false);
        assert_eq!(peer.goaway(), Some(Reason::STREAM_CLOSED));
        let mut peer = closed();
        peer.head(1, &[("x", "y")], true);
        assert_eq!(peer.goaway(), Some(Reason::STREAM_CLOSED));
    }
}

#[test]
fn c14_frames_in_flight_after_our_reset() {
    let mut peer = Peer::new();
    peer.open(1, "/nowhere.Else/At");
    let [answer, reset] = &peer.sent()[..] else {
        panic!()
    };
    assert_eq!(
        *answer,
        failure(1, "200", "12", "unknown service nowhere.Else")
    );
    assert_eq!(
        *reset,
        Sent::Reset {
            stream: 1,
            reason: Reason::NO_ERROR
        }
    );
    // DATA is dropped and given back, trailers go through the decoder.
    for _ in 0..300 {
        peer.data(1, &[0; 16_384], false);
    }
    let widened: u32 = peer
        .sent()
        .iter()
        .map(|sent| match sent {
            Sent::Window {
                stream: 0,
                increment,
            } => *increment,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(widened > 2_000_000, "{widened}");
    peer.head(1, &[("x-new", "indexed")], true);
    peer.head(3, &altered(&[("x-new", "indexed")]), false);
    peer.data(3, &prefixed(b"m"), true);
    assert!(
        matches!(&peer.events()[..], [Event::Request { metadata, .. }] if metadata.get("x-new") == Some(b"indexed"))
    );
    // After END_STREAM, and after a second, it is an error.
    peer.data(1, b"x", false);
    assert_eq!(peer.goaway(), Some(Reason::STREAM_CLOSED));
    let mut peer = Peer::new();
    peer.open(1, "/nowhere.Else/At");
    peer.now_ns += SECOND_NS;
    peer.data(1, b"x", false);
    peer.sent();
    assert!(peer.server.should_close());
}

#[test]
fn c15_too_many_streams() {
    let mut peer = Peer::with(Config {
        concurrent_streams_max: 2,
        ..config()
    });
    peer.call(1, b"a");
    peer.call(3, b"b");
    peer.head(5, &altered(&[("x-new", "indexed")]), false);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 5,
            reason: Reason::REFUSED_STREAM
        }]
    );
    assert_eq!(peer.events().len(), 2);
    peer.server.respond(id(1), b"done");
    peer.sent();
    // The refused block was decoded: its entries are in the table.
    peer.head(7, &altered(&[("x-new", "indexed")]), false);
    peer.data(7, &prefixed(b"m"), true);
    assert!(
        matches!(&peer.events()[..], [Event::Request { metadata, .. }] if metadata.get("x-new") == Some(b"indexed"))
    );
    let mut peer = Peer::silent(Config {
        concurrent_streams_max: 2,
        ..config()
    });
    peer.bytes(frame::PREFACE);
    let Sent::Settings(settings) = &peer.sent()[0] else {
        panic!()
    };
    assert_eq!(settings.max_concurrent_streams, Some(2));
}

#[test]
fn h10_blocks_of_failed_requests_keep_the_tables_in_step() {
    // Each first request fails in its own way and brings an entry that the second one refers to.
    let large = "v".repeat(3_000);
    let faults: [&[(&str, &str)]; 5] = [
        &[("x-new", "indexed"), ("connection", "close")],
        &[("x-new", "indexed"), (":path", "/no.Such/Method")],
        &[("x-new", "indexed"), ("content-type", "text/plain")],
        &[("x-new", "indexed"), ("x-1", &large), ("x-2", &large)],
        &[("x-new", "indexed"), ("grpc-timeout", "x")],
    ];
    for fault in faults {
        let mut peer = Peer::new();
        peer.head(1, &altered(fault), true);
        peer.open(3, "/etcdserverpb.Watch/Watch");
        peer.reset(3);
        peer.head(5, &altered(&[("x-new", "indexed")]), false);
        peer.data(5, &prefixed(b"m"), true);
        let events = peer.events();
        let Some(Event::Request { metadata, .. }) = events.last() else {
            panic!("{fault:?}: {events:?}")
        };
        assert_eq!(metadata.get("x-new"), Some(&b"indexed"[..]));
    }
}

#[test]
fn c16_no_answer_to_an_answer() {
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.Watch/Watch");
    peer.reset(1);
    peer.reset(1);
    peer.frame(kind::PING, flag::ACK, 0, &[1; 8]);
    assert_eq!(peer.sent(), []);
    assert!(!peer.server.should_close());
}

#[test]
fn c17_last_stream_id() {
    let mut peer = Peer::new();
    peer.call((1 << 31) - 1, b"last");
    let sent = peer.sent();
    assert!(
        matches!(
            sent[0],
            Sent::GoAway {
                reason: Reason::NO_ERROR,
                ..
            }
        ),
        "{sent:?}"
    );
    assert!(matches!(&peer.events()[..], [Event::Request { .. }]));
    peer.server.respond(id((1 << 31) - 1), b"ok");
    assert_eq!(peer.sent(), ok_response((1 << 31) - 1, b"ok"));
}

#[test]
fn c18_graceful_stop() {
    let mut peer = Peer::new();
    peer.call(1, b"before");
    peer.server.shutdown();
    let sent = peer.sent();
    let [Sent::GoAway { last, reason, .. }, Sent::Ping {
        payload,
        ack: false,
    }] = &sent[..]
    else {
        panic!("{sent:?}")
    };
    assert_eq!((*last, *reason), ((1 << 31) - 1, Reason::NO_ERROR));
    // A call that was on its way is still taken, one after the second GOAWAY is not.
    peer.call(3, b"on its way");
    peer.frame(kind::PING, flag::ACK, 0, payload);
    peer.call(5, b"too late");
    assert_eq!(
        peer.sent(),
        [Sent::GoAway {
            last: 3,
            reason: Reason::NO_ERROR,
            debug: String::new()
        }]
    );
    assert_eq!(peer.events().len(), 2);
    assert!(!peer.server.should_close());
    peer.server.respond(id(1), b"one");
    peer.server.fail(id(3), 14, "etcdserver: server stopped");
    assert!(peer.server.should_close());
    let sent = peer.sent();
    assert_eq!(sent[..3], ok_response(1, b"one"));
    assert_eq!(
        sent[3],
        failure(3, "200", "14", "etcdserver: server stopped")
    );
    // Without an answer to the PING, and with a call that never ends, time decides.
    let mut peer = Peer::new();
    peer.call(1, b"never answered");
    peer.events();
    peer.server.shutdown();
    peer.sent();
    peer.wait(limits::SHUTDOWN_PING_NS);
    assert!(matches!(peer.sent()[..], [Sent::GoAway { last: 1, .. }]));
    peer.wait(limits::SHUTDOWN_NS);
    assert_eq!(peer.goaway(), Some(Reason::NO_ERROR));
    assert_eq!(peer.events(), [Event::Cancel { stream: id(1) }]);
}

#[test]
fn c19_connection_closed_in_the_middle() {
    let bytes = exchange();
    for at in 0..bytes.len() {
        let mut peer = Peer::silent(config());
        peer.bytes(&bytes[..at]);
        let requests = peer.events().len();
        let mut cancelled = Vec::new();
        peer.server.disconnect(&mut cancelled);
        assert_eq!(
            cancelled.len(),
            requests,
            "each call that was handed over is cancelled"
        );
        assert_eq!(peer.server.held_bytes() + peer.server.stream_count(), 0);
        // What comes later is ignored.
        peer.bytes(&bytes[at..]);
        peer.server.respond(id(1), b"late");
        assert!(peer.events().is_empty() && peer.server.should_close());
    }
}
