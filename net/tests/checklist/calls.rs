//! Rows M9 to M17: calls.

use std::io::Write;

use net::frame::settings::id as setting;
use net::frame::{flag, kind, Reason};
use net::grpc::{Event, Server, StreamId};
use net::limits::{self, MILLISECOND_NS, SECOND_NS};

use super::peer::*;
use super::requests::{answer, assert_accepted, early};

#[test]
fn m9_method_and_content_type() {
    let text = |content_type: &str| format!("invalid gRPC request content-type \"{content_type}\"");
    assert_eq!(
        answer(&[("content-type", "application/json")]),
        early("415", "3", &text("application/json"))
    );
    assert_eq!(
        answer(&[("content-type", "-")]),
        early("415", "3", &text(""))
    );
    assert_eq!(
        answer(&[("content-type", "application/grpc-web")]),
        early("415", "3", &text("application/grpc-web"))
    );
    let get = "Received a HEADERS frame with :method \"GET\" which should be POST";
    assert_eq!(answer(&[(":method", "GET")]), early("405", "13", get));
    let both = &[(":method", "GET"), ("content-type", "text/plain")];
    assert_eq!(answer(both), early("415", "3", &text("text/plain")));
    assert_accepted(&[("content-type", "application/grpc+proto")]);
    assert_accepted(&[("content-type", "application/grpc;x=y")]);
    assert_accepted(&[("content-type", "Application/gRPC")]);
}

#[test]
fn m10_timeout() {
    let timeout = |value: &str| match assert_accepted(&[("grpc-timeout", value)]) {
        Event::Request { timeout_ns, .. } => timeout_ns.unwrap(),
        other => panic!("{other:?}"),
    };
    for (value, ns) in [
        ("1H", 3_600 * SECOND_NS),
        ("2M", 120 * SECOND_NS),
        ("3S", 3 * SECOND_NS),
        ("99999999m", 99_999_999 * MILLISECOND_NS),
        ("5u", 5_000),
        ("00000006n", 6),
        ("99999999H", i64::MAX as u64),
    ] {
        assert_eq!(timeout(value), ns, "{value}");
    }
    assert_eq!(
        answer(&[("grpc-timeout", "0n")]),
        early("200", "4", "context deadline exceeded")
    );
    for (value, text) in [
        ("", "transport: timeout string is too short: \"\""),
        ("S", "transport: timeout string is too short: \"S\""),
        (
            "123456789S",
            "transport: timeout string is too long: \"123456789S\"",
        ),
        ("12", "transport: timeout unit is not recognized: \"12\""),
        ("1s", "transport: timeout unit is not recognized: \"1s\""),
        ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
    ] {
        let text = format!("malformed grpc-timeout: {text}");
        assert_eq!(
            answer(&[("grpc-timeout", value)]),
            early("400", "13", &text),
            "{value}"
        );
    }
}

/// The status of a unary call with this body, cut into frames; and what came before END_STREAM.
fn body(frames: &[&[u8]]) -> (Vec<Event>, Vec<Sent>) {
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.KV/Put");
    for (at, piece) in frames.iter().enumerate() {
        if peer.server.stream_count() > 0 {
            peer.data(1, piece, at + 1 == frames.len());
        }
    }
    let result = (peer.events(), peer.sent());
    peer.assert_alive(3);
    result
}

#[test]
fn m11_message_prefix() {
    let whole = prefixed(b"message");
    for cut in 0..whole.len() {
        let (events, _) = body(&[&whole[..cut], &whole[cut..]]);
        assert!(
            matches!(&events[..], [Event::Request { message, .. }] if &message[..] == b"message"),
            "{cut}"
        );
    }
    assert!(
        matches!(&body(&[&prefixed(b"")]).0[..], [Event::Request { message, .. }] if message.is_empty())
    );
    let internal = |frames: &[&[u8]], text: &str, ended: bool| {
        let (events, sent) = body(frames);
        assert!(events.is_empty());
        assert_eq!(sent[0], failure(1, "200", "13", text));
        assert_eq!(
            sent.len() == 1,
            ended,
            "reset while the peer still sends: {sent:?}"
        );
    };
    internal(
        &[&[2, 0, 0, 0, 0], b""],
        "grpc: received unexpected payload format 2",
        false,
    );
    internal(
        &[&[255, 0, 0, 0, 0]],
        "grpc: received unexpected payload format 255",
        true,
    );
    for cut in 1..whole.len() {
        internal(&[&whole[..cut]], "unexpected EOF", true);
    }
    let none = "cardinality violation: received no request message from non-client-streaming RPC";
    internal(&[b""], none, true);
    let two =
        "cardinality violation: received multiple request messages for non-client-streaming RPC";
    internal(&[&[&whole[..], &whole[..]].concat()], two, true);
    // The limit is decided by the prefix, before anything is held.
    let (events, sent) = body(&[&[0, 0, 15, 66, 65], b"x", b""]);
    assert!(events.is_empty());
    let text = "grpc: received message larger than max (1000001 vs. 1000000)";
    assert_eq!(sent, early("200", "8", text));
    // On a stream, too, and its messages before it count.
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.Watch/Watch");
    peer.data(
        1,
        &[&whole[..], &[0, 255, 255, 255, 255, 1, 2, 3]].concat(),
        false,
    );
    let events = peer.events();
    assert!(
        matches!(&events[1..], [Event::Message { .. }, Event::Cancel { .. }]),
        "{events:?}"
    );
    let text = "grpc: received message larger than max (4294967295 vs. 1000000)";
    assert_eq!(peer.sent(), early("200", "8", text));
    // No message, but END_STREAM on HEADERS.
    let mut peer = Peer::new();
    peer.head(1, &request("/etcdserverpb.KV/Put"), true);
    assert_eq!(peer.sent(), [failure(1, "200", "13", none)]);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(message: &[u8]) -> Vec<u8> {
    let mut bytes = prefixed(message);
    bytes[0] = 1;
    bytes
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    assert_eq!(data[0], 1, "compressed flag");
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&data[5..]), &mut out).unwrap();
    out
}

#[test]
fn m12_compression() {
    let call = |encoding: &[(&str, &str)], body: &[u8]| {
        let mut peer = Peer::new();
        peer.head(1, &altered(encoding), false);
        if peer.server.stream_count() > 0 {
            peer.data(1, body, true);
        }
        peer
    };
    let flagged = compressed(&gzip(b"hello"));
    let mut peer = call(&[("grpc-encoding", "gzip")], &flagged);
    assert!(
        matches!(&peer.events()[..], [Event::Request { message, .. }] if &message[..] == b"hello")
    );
    peer.server.respond(id(1), b"to you");
    let sent = peer.sent();
    assert!(matches!(&sent[0], Sent::Head { fields, .. }
        if fields.contains(&("grpc-encoding".to_string(), "gzip".to_string()))));
    assert!(matches!(&sent[1], Sent::Data { data, .. } if gunzip(data) == b"to you"));
    // Announced but not used for this message.
    let mut peer = call(&[("grpc-encoding", "gzip")], &prefixed(b"plain"));
    assert!(
        matches!(&peer.events()[..], [Event::Request { message, .. }] if &message[..] == b"plain")
    );
    for encoding in [&[][..], &[("grpc-encoding", "identity")]] {
        let mut peer = call(encoding, &flagged);
        let text = "grpc: compressed flag set with identity or empty encoding";
        assert_eq!(peer.sent(), [failure(1, "200", "13", text)]);
    }
    let mut peer = call(&[("grpc-encoding", "snappy")], &flagged);
    let Sent::Head { fields, .. } = &peer.sent()[0] else {
        panic!()
    };
    let has = |name: &str, value: &str| fields.contains(&(name.to_string(), value.to_string()));
    assert!(has("grpc-status", "12") && has("grpc-accept-encoding", "gzip"));
    assert!(has(
        "grpc-message",
        "grpc: Decompressor is not installed for grpc-encoding \"snappy\""
    ));
    // A bomb is cut off at the limit.
    let mut peer = call(
        &[("grpc-encoding", "gzip")],
        &compressed(&gzip(&vec![0; 8_000_000])),
    );
    let text = "grpc: received message after decompression larger than max 1000000";
    assert_eq!(peer.sent(), [failure(1, "200", "8", text)]);
    let mut peer = call(
        &[("grpc-encoding", "gzip")],
        &compressed(b"not gzip at all"),
    );
    assert!(
        matches!(&peer.sent()[0], Sent::Head { fields, end: true, .. }
        if fields.contains(&("grpc-status".to_string(), "13".to_string())))
    );
}

#[test]
fn m13_metadata() {
    let binary = |value: &str| match assert_accepted(&[("x-bin", value)]) {
        Event::Request { metadata, .. } => metadata.get_binary("x-bin").unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(binary("aGk="), b"hi");
    assert_eq!(binary("aGk"), b"hi");
    assert_eq!(binary(""), b"");
    let text = "malformed binary metadata \"a!b\" in header \"x-bin\": illegal base64 data at input byte 1";
    assert_eq!(answer(&[("x-bin", "a!b")]), early("400", "13", text));
    // Repeated names keep their order, the transport's own are not metadata.
    let Event::Request { metadata, .. } = assert_accepted(&[
        ("token", "secret"),
        ("user-agent", "grpc-go/1"),
        ("grpc-timeout", "1S"),
    ]) else {
        panic!()
    };
    let names: Vec<_> = metadata
        .iter()
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect();
    assert_eq!(names, [":authority", "token", "user-agent"]);
    assert!(!format!("{metadata:?}").contains("secret"));
    // Too many, or too large: the request is reset and the tables stay in step.
    let many: Vec<String> = (0..1_000).map(|n| format!("x-{n}")).collect();
    let mut peer = Peer::new();
    let mut fields = altered(&[]);
    fields.extend(many.iter().take(200).map(|name| (name.as_str(), "")));
    peer.head(1, &fields, false);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::FRAME_SIZE_ERROR
        }]
    );
    peer.assert_alive(3);
    let large = "a".repeat(16_000);
    let mut peer = Peer::new();
    let block = peer.block(&altered(&[
        ("x-a", &large),
        ("x-b", &large),
        ("x-c", &large),
    ]));
    let mut frames: Vec<&[u8]> = block.chunks(16_384).collect();
    let last = frames.pop().unwrap();
    for (at, fragment) in frames.iter().enumerate() {
        peer.frame(
            if at == 0 {
                kind::HEADERS
            } else {
                kind::CONTINUATION
            },
            0,
            1,
            fragment,
        );
    }
    peer.frame(kind::CONTINUATION, flag::END_HEADERS, 1, last);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::FRAME_SIZE_ERROR
        }]
    );
    peer.assert_alive(3);
}

#[test]
fn m14_unknown_service_and_method() {
    let text = "unknown method Nope for service etcdserverpb.KV";
    assert_eq!(
        answer(&[(":path", "/etcdserverpb.KV/Nope")]),
        early("200", "12", text)
    );
    assert_eq!(
        answer(&[(":path", "/foo.Bar/Baz")]),
        early("200", "12", "unknown service foo.Bar")
    );
    assert_eq!(
        answer(&[(":path", "/a/b/c")]),
        early("200", "12", "unknown service a/b")
    );
}

#[test]
fn m15_reset_during_a_handler() {
    let mut peer = Peer::new();
    peer.call(1, b"x");
    peer.open(3, "/etcdserverpb.Watch/Watch");
    peer.open(5, "/etcdserverpb.KV/Put"); // nothing handed over yet
    peer.events();
    [1, 3, 5].into_iter().for_each(|stream| peer.reset(stream));
    assert_eq!(
        peer.events(),
        [
            Event::Cancel { stream: id(1) },
            Event::Cancel { stream: id(3) }
        ]
    );
    assert!(!peer.server.is_open(id(1)));
    peer.server.respond(id(1), b"late");
    assert!(!peer.server.send(id(3), b"late".as_slice().into()));
    peer.server.fail(id(5), 2, "late");
    assert_eq!(peer.sent(), []);
    peer.assert_alive(7);
}

#[test]
fn m16_deadline_passes() {
    let mut peer = Peer::new();
    for (stream, path) in [
        (1, "/etcdserverpb.KV/Put"),
        (3, "/etcdserverpb.Watch/Watch"),
        (5, "/etcdserverpb.KV/Put"),
    ] {
        let mut fields = request(path).to_vec();
        fields.push(("grpc-timeout", "200m"));
        peer.head(stream, &fields, false);
    }
    peer.data(1, &prefixed(b"m"), true);
    assert!(peer.server.send(id(3), b"first".as_slice().into()));
    peer.events();
    peer.sent();
    peer.wait(199 * MILLISECOND_NS);
    assert_eq!(peer.sent(), []);
    assert_eq!(
        peer.server.deadline_ns(),
        Some(peer.now_ns + MILLISECOND_NS)
    );
    peer.wait(MILLISECOND_NS);
    // The application hears of the calls that it knows.
    assert_eq!(
        peer.events(),
        [
            Event::Cancel { stream: id(1) },
            Event::Cancel { stream: id(3) }
        ]
    );
    let text = "context deadline exceeded";
    let reset = |stream| Sent::Reset {
        stream,
        reason: Reason::NO_ERROR,
    };
    let expected = [
        failure(1, "200", "4", text),
        trailers(3, &[("grpc-status", "4"), ("grpc-message", text)]),
        reset(3),
        failure(5, "200", "4", text),
        reset(5),
    ];
    assert_eq!(peer.sent(), expected);
    peer.server.respond(id(1), b"late");
    assert_eq!(peer.sent(), []);
    // An answered call has no deadline any more.
    peer.head(7, &altered(&[("grpc-timeout", "1m")]), false);
    peer.data(7, &prefixed(b"m"), true);
    peer.server.respond(id(7), b"in time");
    peer.events();
    peer.sent();
    peer.wait(SECOND_NS);
    assert_eq!((peer.events(), peer.sent()), (vec![], vec![]));
    peer.assert_alive(9);
}

#[test]
fn m17_status_messages_are_percent_encoded() {
    let mut peer = Peer::new();
    for (stream, message, encoded) in [
        (
            1,
            "plain: text/with \"quotes\"",
            "plain: text/with \"quotes\"",
        ),
        (3, "100% \u{e9}\r\n\0\x7f", "100%25 %C3%A9%0D%0A%00%7F"),
        (5, " outer blanks ", "%20outer blanks%20"),
    ] {
        peer.call(stream, b"x");
        peer.server.fail(id(stream), 2, message);
        assert_eq!(peer.sent(), [failure(stream, "200", "2", encoded)]);
    }
    peer.call(7, b"x");
    peer.server.fail(id(7), 5, "");
    let bare = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "5"),
    ];
    assert_eq!(peer.sent(), [trailers(7, &bare)]);
    peer.call(9, b"x");
    peer.server.fail(id(9), 2, &"\u{e9}".repeat(20_000));
    assert!(matches!(
        &peer.sent()[..],
        [Sent::Head {
            stream: 9,
            end: true,
            ..
        }]
    ));
    peer.assert_alive(11);
}

#[test]
fn server_streaming_call() {
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.Maintenance/Snapshot");
    peer.data(1, &prefixed(b"from here"), true);
    assert!(matches!(
        &peer.events()[..],
        [Event::Request {
            method: SNAPSHOT,
            ..
        }]
    ));
    assert!(peer.server.send(id(1), b"a".as_slice().into()));
    peer.server.finish(id(1));
    assert_eq!(peer.sent(), ok_response(1, b"a"));
    // OK without a message is a head and a status in one.
    peer.open(3, "/etcdserverpb.Maintenance/Snapshot");
    peer.data(3, &prefixed(b""), true);
    peer.server.finish(id(3));
    let only = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "0"),
    ];
    assert_eq!(peer.sent(), [trailers(3, &only)]);
    // A status behind messages.
    peer.open(5, "/etcdserverpb.Maintenance/Snapshot");
    peer.data(5, &prefixed(b""), true);
    assert!(peer.server.send(id(5), b"a".as_slice().into()));
    peer.server.fail(id(5), 15, "lost");
    assert_eq!(
        peer.sent()[2],
        trailers(5, &[("grpc-status", "15"), ("grpc-message", "lost")])
    );
    peer.assert_alive(7);
}

#[test]
fn first_message_of_a_unary_call_is_due() {
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.KV/Put");
    peer.data(1, &prefixed(b"message")[..6], false);
    peer.open(3, "/etcdserverpb.Watch/Watch");
    peer.events();
    peer.wait(limits::FIRST_MESSAGE_NS - 1);
    assert_eq!(peer.sent(), []);
    peer.wait(1);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::CANCEL
        }]
    );
    assert!(peer.events().is_empty() && peer.server.is_open(id(3)));
}

/// A peer that takes no head of ours has its calls reset. What they held of the budget is given back all the same, and
/// the application is told at once.
#[test]
fn m17_heads_that_the_peer_does_not_take() {
    let small_heads = [(setting::MAX_HEADER_LIST_SIZE, 10)];
    type Answer = fn(&mut Server, StreamId);
    let answers: [(&str, Answer); 6] = [
        ("/etcdserverpb.Maintenance/Snapshot", |server, id| {
            assert!(!server.send(id, b"part".as_slice().into()));
            assert!(!server.send(id, b"part".as_slice().into()));
            server.finish(id);
        }),
        ("/etcdserverpb.Maintenance/Snapshot", |server, id| {
            server.finish(id)
        }),
        ("/etcdserverpb.KV/Put", |server, id| {
            server.respond(id, b"small")
        }),
        ("/etcdserverpb.KV/Put", |server, id| {
            server.respond_with(id, vec![0; 1 << 20].into())
        }),
        ("/etcdserverpb.KV/Put", |server, id| {
            server.fail(id, 5, "no")
        }),
        ("/etcdserverpb.Watch/Watch", |server, id| {
            assert!(!server.send(id, b"event".as_slice().into()));
        }),
    ];
    for (number, (path, answer)) in answers.into_iter().enumerate() {
        let config = config();
        let budget = config.budget.clone();
        let mut peer = Peer::with(config);
        peer.settings(&small_heads);
        peer.open(1, path);
        peer.data(1, &prefixed(&[0; 10_000]), true);
        peer.events();
        peer.sent();
        let held = path != "/etcdserverpb.Watch/Watch";
        assert_eq!(budget.used_bytes() > 0, held, "{number}");
        answer(&mut peer.server, id(1));
        assert_eq!(budget.used_bytes(), 0, "{number}");
        assert_eq!(peer.server.stream_count(), 0, "{number}");
        let reset = Sent::Reset {
            stream: 1,
            reason: Reason::INTERNAL_ERROR,
        };
        assert_eq!(peer.sent(), [reset], "{number}");
        assert_eq!(peer.events(), []);
    }
}
