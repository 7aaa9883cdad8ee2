//! Rows C: connection and streams (RFC 9113 sections 3 to 5).

use net::frame::Reason;
use net::grpc::Event;

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
    peer.server.send(id(1), b"first".as_slice().into());
    peer.server.send(id(1), b"second".as_slice().into());
    let data = |message: &[u8]| Sent::Data {
        stream: 1,
        data: prefixed(message),
        end: false,
    };
    assert_eq!(peer.sent(), [head(1), data(b"first"), data(b"second")]);
    peer.data(1, b"", true);
    assert_eq!(peer.events(), [Event::HalfClose { stream: id(1) }]);
    peer.server.send(id(1), b"third".as_slice().into());
    peer.server.finish(id(1));
    assert_eq!(
        peer.sent(),
        [data(b"third"), trailers(1, &[("grpc-status", "0")])]
    );
    peer.assert_alive(3);
}

#[test]
fn c3_first_frame_must_be_settings() {
    let mut peer = Peer::silent(config());
    peer.bytes(net::frame::PREFACE);
    peer.frame(net::frame::kind::PING, 0, 0, &[0; 8]);
    assert_eq!(peer.goaway(), Some(Reason::PROTOCOL_ERROR));
}
