//! Rows M1 to M8: what a request must look like (RFC 9113 section 8).

use net::frame::Reason;
use net::grpc::Event;

use super::peer::*;

/// What a request with these changes gets, before any DATA.
pub fn answer(changes: &[(&str, &str)]) -> Vec<Sent> {
    let mut peer = Peer::new();
    peer.head(1, &altered(changes), false);
    let sent = peer.sent();
    assert!(peer.events().is_empty());
    peer.assert_alive(3);
    sent
}

pub fn assert_malformed(changes: &[(&str, &str)]) {
    let expected = [Sent::Reset {
        stream: 1,
        reason: Reason::PROTOCOL_ERROR,
    }];
    assert_eq!(answer(changes), expected, "{changes:?}");
}

pub fn assert_accepted(changes: &[(&str, &str)]) -> Event {
    let mut peer = Peer::new();
    peer.head(1, &altered(changes), false);
    peer.data(1, &prefixed(b"m"), true);
    let events = peer.events();
    assert!(
        matches!(&events[..], [Event::Request { .. }]),
        "{changes:?}: {events:?} {:?}",
        peer.sent()
    );
    events.into_iter().next().unwrap()
}

pub fn early(http: &str, code: &str, message: &str) -> Vec<Sent> {
    vec![
        failure(1, http, code, message),
        Sent::Reset {
            stream: 1,
            reason: Reason::NO_ERROR,
        },
    ]
}

#[test]
fn m1_field_names() {
    let names = [
        "Upper",
        "",
        "sp ace",
        "tab\t",
        "nul\0",
        "new\nline",
        "colon:inside",
        "del\x7f",
        "\u{e9}t\u{e9}",
        "x:",
    ];
    for name in names {
        assert_malformed(&[(name, "v")]);
    }
    assert_accepted(&[("x!#$%&'*+-.^_`|~09", "v")]);
}

#[test]
fn m2_field_values() {
    for value in [
        "nul\0",
        "cr\rx",
        "lf\nx",
        " leading",
        "trailing ",
        "\tleading",
        "trailing\t",
    ] {
        assert_malformed(&[("x-value", value)]);
        assert_malformed(&[(":path", value)]);
    }
    assert_accepted(&[("x-value", "")]);
    assert_accepted(&[("x-value", "in side\t\u{e9}\x01")]);
}

#[test]
fn m3_connection_specific_fields() {
    for name in [
        "connection",
        "proxy-connection",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    ] {
        assert_malformed(&[(name, "close")]);
    }
    assert_malformed(&[("te", "gzip")]);
    assert_malformed(&[("te", "trailers, gzip")]);
    assert_accepted(&[("te", "-")]);
}

#[test]
fn m4_pseudo_header_fields() {
    assert_malformed(&[(":unknown", "x")]);
    assert_malformed(&[(":status", "200")]);
    for missing in [":method", ":scheme", ":path"] {
        assert_malformed(&[(missing, "-")]);
    }
    assert_malformed(&[(":path", "")]);
    for repeated in [":method", ":scheme", ":path", ":authority"] {
        let mut fields = altered(&[]);
        fields.insert(0, (repeated, "x"));
        let mut peer = Peer::new();
        peer.head(1, &fields, true);
        assert_eq!(
            peer.sent(),
            [Sent::Reset {
                stream: 1,
                reason: Reason::PROTOCOL_ERROR
            }],
            "{repeated}"
        );
    }
    let mut fields = altered(&[]);
    fields.push((":authority", "late"));
    fields.remove(3);
    let mut peer = Peer::new();
    peer.head(1, &fields, true);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::PROTOCOL_ERROR
        }]
    );
    // In trailers: the call that the application has heard of is cancelled.
    let mut peer = Peer::new();
    peer.open(1, "/etcdserverpb.Watch/Watch");
    peer.head(1, &[(":path", "/")], true);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::PROTOCOL_ERROR
        }]
    );
    assert_eq!(peer.events().pop(), Some(Event::Cancel { stream: id(1) }));
    peer.assert_alive(3);
}

#[test]
fn m5_path_without_leading_slash() {
    let expected = early(
        "200",
        "12",
        "malformed method name: \"etcdserverpb.KV/Put\"",
    );
    assert_eq!(answer(&[(":path", "etcdserverpb.KV/Put")]), expected);
    let expected = early("200", "12", "malformed method name: \"/version\"");
    assert_eq!(answer(&[(":path", "/version")]), expected);
    let expected = early("200", "12", "malformed method name: \"*\"");
    assert_eq!(answer(&[(":path", "*")]), expected);
    for near in [
        "//etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Put/",
        "/etcdserverpb.KV/put",
        "/etcdserverpb.KV/Put?x=1",
    ] {
        assert!(
            matches!(&answer(&[(":path", near)])[0], Sent::Head { end: true, .. }),
            "{near}"
        );
    }
}

#[test]
fn m6_authority_and_host() {
    let authority = |changes: &[(&str, &str)]| match assert_accepted(changes) {
        Event::Request { metadata, .. } => metadata.authority().to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(authority(&[(":authority", "-")]), b"");
    assert_eq!(authority(&[(":authority", "-"), ("host", "h")]), b"h");
    assert_eq!(authority(&[(":authority", "h"), ("host", "h")]), b"h");
    assert_malformed(&[(":authority", "a"), ("host", "h")]);
}

#[test]
fn m7_content_length() {
    let message = prefixed(b"1234567890");
    for (length, frames, good) in [
        ("15", 1, true),
        ("15", 3, true),
        ("14", 1, false),
        ("16", 1, false),
        ("16", 3, false),
        ("0", 1, false),
        ("x", 1, false),
        ("-1", 1, false),
        ("99999999999999999999", 1, false),
    ] {
        let mut peer = Peer::new();
        peer.head(1, &altered(&[("content-length", length)]), false);
        if !peer.server.should_close() && peer.server.stream_count() == 1 {
            let pieces: Vec<&[u8]> = message.chunks(message.len() / frames).collect();
            for (at, piece) in pieces.iter().enumerate() {
                if peer.server.stream_count() == 1 {
                    peer.data(1, piece, at + 1 == pieces.len());
                }
            }
        }
        let handed_over = matches!(&peer.events()[..], [Event::Request { .. }]);
        assert_eq!(handed_over, good, "{length} in {frames} frames");
        let reset = peer.sent().contains(&Sent::Reset {
            stream: 1,
            reason: Reason::PROTOCOL_ERROR,
        });
        assert_eq!(reset, !good, "{length} in {frames} frames");
        peer.assert_alive(3);
    }
    let mut peer = Peer::new();
    peer.head(1, &altered(&[("content-length", "3")]), true);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::PROTOCOL_ERROR
        }]
    );
}

#[test]
fn m8_connect() {
    assert_malformed(&[(":method", "CONNECT")]);
    assert_malformed(&[(":method", "CONNECT"), (":path", "-"), (":scheme", "-")]);
    assert_malformed(&[(":method", "CONNECT"), (":protocol", "websocket")]);
}
