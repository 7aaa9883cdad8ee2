//! Rows F: frame types (RFC 9113 section 6).

use net::frame::settings::id as setting;
use net::frame::{flag, kind, Reason};
use net::grpc::Event;
use net::limits;

use super::peer::*;

const UPLOAD: &str = "/test.Upload/Upload";
const WATCH_PATH: &str = "/etcdserverpb.Watch/Watch";

/// One frame on a connection where stream 1 is open: the connection's end.
fn ends(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<Reason> {
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    peer.frame(kind, flags, stream, payload);
    peer.goaway()
}

const PROTOCOL: Option<Reason> = Some(Reason::PROTOCOL_ERROR);
const SIZE: Option<Reason> = Some(Reason::FRAME_SIZE_ERROR);
const FLOW: Option<Reason> = Some(Reason::FLOW_CONTROL_ERROR);
const CALM: Option<Reason> = Some(Reason::ENHANCE_YOUR_CALM);

#[test]
fn f1_data_on_stream_0_or_padded_too_far() {
    assert_eq!(ends(kind::DATA, 0, 0, b"x"), PROTOCOL);
    assert_eq!(ends(kind::DATA, flag::PADDED, 1, &[4, 0, 0, 0]), PROTOCOL);
    assert_eq!(ends(kind::DATA, flag::PADDED, 1, &[1]), PROTOCOL);
    assert_eq!(ends(kind::DATA, flag::PADDED, 1, &[]), SIZE);
    assert_eq!(ends(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]), None);
}

#[test]
fn f2_padding_counts_against_both_windows() {
    let mut peer = Peer::new();
    peer.open(1, UPLOAD);
    let payload = [&[100][..], &[0; 100]].concat();
    let frames = (2 << 20) / payload.len() + 1;
    let mut widened = [0u64; 2];
    for _ in 0..frames {
        peer.frame(kind::DATA, flag::PADDED, 1, &payload);
        peer.now_ns += 20_000_000; // frames without data are rationed
        for sent in peer.sent() {
            match sent {
                Sent::Window { stream, increment } => {
                    widened[stream as usize] += u64::from(increment)
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let total = (frames * payload.len()) as u64;
    assert!(
        widened[0] <= total && widened[0] + (2 << 20) > total,
        "{widened:?} of {total}"
    );
    assert!(
        widened[1] <= total && widened[1] + (512 << 10) > total,
        "{widened:?} of {total}"
    );
}

#[test]
fn f3_data_beyond_a_window() {
    // A paused stream gets nothing back: its window ends after 1 MiB.
    let mut peer = Peer::new();
    peer.open(1, UPLOAD);
    peer.server.pause_receive(id(1), true);
    let message = prefixed(&[0; 16_379]);
    for _ in 0..64 {
        peer.data(1, &message, false);
    }
    assert!(peer
        .sent()
        .iter()
        .all(|sent| matches!(sent, Sent::Window { stream: 0, .. })));
    assert!(!peer.server.should_close());
    peer.data(1, b"x", false);
    assert_eq!(peer.goaway(), FLOW);
    // Unpaused it is opened again at once.
    let mut peer = Peer::new();
    peer.open(1, UPLOAD);
    peer.server.pause_receive(id(1), true);
    for _ in 0..64 {
        peer.data(1, &message, false);
    }
    peer.sent();
    peer.server.pause_receive(id(1), false);
    assert_eq!(
        peer.sent(),
        [Sent::Window {
            stream: 1,
            increment: 1 << 20
        }]
    );
    peer.data(1, &message, false);
    peer.assert_alive(3);
}

#[test]
fn f4_headers_on_stream_0_or_too_short() {
    assert_eq!(ends(kind::HEADERS, flag::END_HEADERS, 0, &[0x83]), PROTOCOL);
    assert_eq!(
        ends(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 3, &[1]),
        PROTOCOL
    );
    assert_eq!(
        ends(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 3, &[]),
        SIZE
    );
    assert_eq!(
        ends(
            kind::HEADERS,
            flag::END_HEADERS | flag::PRIORITY,
            3,
            &[0; 4]
        ),
        SIZE
    );
    assert_eq!(
        ends(
            kind::HEADERS,
            flag::END_HEADERS | flag::PRIORITY | flag::PADDED,
            3,
            &[2; 7]
        ),
        SIZE
    );
    // Padding and priority around a request.
    let mut peer = Peer::new();
    let block = peer.block(&request("/etcdserverpb.KV/Put"));
    let payload = [&[2, 0, 0, 0, 0, 9][..], &block, &[0; 2]].concat();
    peer.frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
        1,
        &payload,
    );
    peer.data(1, &prefixed(b"m"), true);
    assert!(matches!(&peer.events()[..], [Event::Request { .. }]));
}

#[test]
fn f5_trailers_must_end_the_stream() {
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    peer.head(1, &[("x", "y")], false);
    assert_eq!(peer.goaway(), PROTOCOL);
}

#[test]
fn f6_f7_priority() {
    assert_eq!(ends(kind::PRIORITY, 0, 0, &[0; 5]), PROTOCOL);
    assert_eq!(ends(kind::PRIORITY, 0, 1, &[0; 4]), SIZE);
    assert_eq!(ends(kind::PRIORITY, 0, 1, &[0; 6]), SIZE);
    assert_eq!(
        ends(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]),
        None,
        "on itself"
    );
}

#[test]
fn f8_reset() {
    assert_eq!(ends(kind::RST_STREAM, 0, 0, &[0; 4]), PROTOCOL);
    assert_eq!(ends(kind::RST_STREAM, 0, 3, &[0; 4]), PROTOCOL);
    assert_eq!(ends(kind::RST_STREAM, 0, 1, &[0; 3]), SIZE);
    assert_eq!(ends(kind::RST_STREAM, 0, 1, &[0; 5]), SIZE);
    assert_eq!(ends(kind::RST_STREAM, 0, 1, &[0xff; 4]), None);
}

#[test]
fn f9_settings_form() {
    assert_eq!(ends(kind::SETTINGS, 0, 1, &[]), PROTOCOL);
    assert_eq!(ends(kind::SETTINGS, flag::ACK, 0, &[0; 6]), SIZE);
    assert_eq!(ends(kind::SETTINGS, 0, 0, &[0; 5]), SIZE);
}

fn settings_end(entries: &[(u16, u32)]) -> Option<Reason> {
    let mut peer = Peer::new();
    peer.settings(entries);
    peer.goaway()
}

#[test]
fn f10_f11_settings_out_of_range() {
    assert_eq!(settings_end(&[(setting::ENABLE_PUSH, 2)]), PROTOCOL);
    assert_eq!(settings_end(&[(setting::MAX_FRAME_SIZE, 16_383)]), PROTOCOL);
    assert_eq!(
        settings_end(&[(setting::MAX_FRAME_SIZE, 1 << 24)]),
        PROTOCOL
    );
    assert_eq!(
        settings_end(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]),
        FLOW
    );
    let good = [
        (setting::ENABLE_PUSH, 1),
        (setting::MAX_FRAME_SIZE, (1 << 24) - 1),
        (setting::INITIAL_WINDOW_SIZE, (1 << 31) - 1),
    ];
    assert_eq!(settings_end(&good), None);
}

#[test]
fn f12_initial_window_changes() {
    let mut peer = Peer::new();
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]);
    peer.call(1, b"x");
    peer.server.respond(id(1), &[7; 295]);
    let data = |sent: &[Sent]| -> usize {
        sent.iter()
            .map(|s| {
                if let Sent::Data { data, .. } = s {
                    data.len()
                } else {
                    0
                }
            })
            .sum()
    };
    assert_eq!(data(&peer.sent()), 100);
    assert_eq!(peer.server.backlog_bytes(id(1)), 200);
    // Lowered by 90: the window is at -90, and 90 more do not open it.
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 10)]);
    peer.widen(1, 90);
    assert_eq!(peer.sent(), [Sent::SettingsAck]);
    peer.widen(1, 50);
    assert_eq!(data(&peer.sent()), 50);
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 60)]);
    assert_eq!(data(&peer.sent()), 50);
    peer.widen(1, 1_000);
    let sent = peer.sent();
    assert_eq!(data(&sent), 100);
    assert_eq!(sent.last(), Some(&trailers(1, &[("grpc-status", "0")])));
    // Raised so that a widened stream passes 2^31-1.
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    peer.widen(1, (1 << 31) - 1 - 65_535);
    assert!(!peer.server.should_close());
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 65_536)]);
    assert_eq!(peer.goaway(), FLOW);
}

#[test]
fn f13_header_table_size() {
    for size in [0, 1, 100, 4_096, u32::MAX] {
        let mut peer = Peer::new();
        peer.assert_alive(1);
        peer.settings(&[(setting::HEADER_TABLE_SIZE, size)]);
        // The peer's decoder insists on the announcement when it lowered the limit.
        peer.decoder.set_table_bytes_max(size.min(4_096) as usize);
        peer.assert_alive(3);
        peer.assert_alive(5);
        peer.settings(&[
            (setting::HEADER_TABLE_SIZE, 10),
            (setting::HEADER_TABLE_SIZE, 4_096),
        ]);
        peer.decoder.set_table_bytes_max(10);
        peer.decoder.set_table_bytes_max(4_096);
        peer.assert_alive(7);
        peer.assert_alive(9);
    }
}

#[test]
fn f14_tiny_header_list() {
    let mut peer = Peer::new();
    peer.settings(&[(setting::MAX_HEADER_LIST_SIZE, 50)]);
    peer.call(1, b"x");
    peer.call(3, b"x");
    peer.open(5, WATCH_PATH);
    peer.sent();
    peer.server.respond(id(1), b"y");
    peer.server.fail(id(3), 3, "no");
    assert!(!peer.server.send(id(5), b"message".as_slice().into()));
    peer.server.finish(id(5));
    let reset = |stream| Sent::Reset {
        stream,
        reason: Reason::INTERNAL_ERROR,
    };
    assert_eq!(peer.sent(), [reset(1), reset(3), reset(5)]);
    peer.settings(&[(setting::MAX_HEADER_LIST_SIZE, 102)]);
    peer.assert_alive(7);
}

#[test]
fn f15_settings_unknown_many_twice() {
    let mut peer = Peer::new();
    peer.settings(&[
        (0xf000, 1),
        (setting::INITIAL_WINDOW_SIZE, 5),
        (0, 9),
        (setting::INITIAL_WINDOW_SIZE, 70_000),
    ]);
    peer.call(1, b"x");
    peer.server.respond(id(1), &[0; 69_000]);
    peer.widen(0, 100_000);
    assert_eq!(
        peer.sent().last(),
        Some(&trailers(1, &[("grpc-status", "0")]))
    );
    assert_eq!(settings_end(&[(0xf000, 1); 32]), None);
    assert_eq!(settings_end(&[(0xf000, 1); 33]), CALM);
    assert_eq!(
        settings_end(&[(setting::MAX_CONCURRENT_STREAMS, 1); 1_000]),
        CALM
    );
}

#[test]
fn f16_push_promise() {
    assert_eq!(
        ends(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]),
        PROTOCOL
    );
}

#[test]
fn f17_ping() {
    assert_eq!(ends(kind::PING, 0, 1, &[0; 8]), PROTOCOL);
    assert_eq!(ends(kind::PING, 0, 0, &[0; 7]), SIZE);
    assert_eq!(ends(kind::PING, flag::ACK, 0, &[0; 9]), SIZE);
    let mut peer = Peer::new();
    peer.frame(kind::PING, 0, 0, b"12345678");
    assert_eq!(
        peer.sent(),
        [Sent::Ping {
            payload: *b"12345678",
            ack: true
        }]
    );
}

#[test]
fn f18_goaway() {
    assert_eq!(ends(kind::GOAWAY, 0, 1, &[0; 8]), PROTOCOL);
    assert_eq!(ends(kind::GOAWAY, 0, 0, &[0; 7]), SIZE);
    assert_eq!(ends(kind::GOAWAY, 0, 0, &[b'x'; 16_384]), None);
}

#[test]
fn f19_f20_f21_window_update() {
    assert_eq!(ends(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 1]), SIZE);
    assert_eq!(ends(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1, 0]), SIZE);
    for stream in [0, 1] {
        assert_eq!(ends(kind::WINDOW_UPDATE, 0, stream, &[0; 4]), PROTOCOL);
        assert_eq!(
            ends(kind::WINDOW_UPDATE, 0, stream, &[0x80, 0, 0, 0]),
            PROTOCOL
        );
        assert_eq!(
            ends(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
            FLOW
        );
        let most = (1u32 << 31) - 1 - 65_535;
        assert_eq!(
            ends(kind::WINDOW_UPDATE, 0, stream, &most.to_be_bytes()),
            None
        );
    }
}

#[test]
fn f22_continuation_out_of_place() {
    for (first, stream) in [
        (None, 1),
        (None, 0),
        (Some(3), 1),
        (Some(3), 5),
        (Some(3), 0),
    ] {
        let mut peer = Peer::new();
        peer.open(1, WATCH_PATH);
        first
            .into_iter()
            .for_each(|first| peer.frame(kind::HEADERS, 0, first, &[0x83]));
        peer.frame(kind::CONTINUATION, flag::END_HEADERS, stream, &[0x84]);
        assert_eq!(peer.goaway(), PROTOCOL, "{stream}");
    }
}

#[test]
fn f23_empty_header_frames_are_allowed() {
    let mut peer = Peer::new();
    let block = peer.block(&request("/etcdserverpb.KV/Put"));
    peer.frame(kind::HEADERS, 0, 1, &[]);
    peer.frame(kind::CONTINUATION, 0, 1, &[]);
    peer.frame(kind::CONTINUATION, 0, 1, &block);
    peer.frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]);
    peer.data(1, &prefixed(b"m"), true);
    assert!(matches!(&peer.events()[..], [Event::Request { .. }]));
}

#[test]
fn large_responses_are_cut_into_frames_under_both_windows() {
    let mut peer = Peer::new();
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]);
    peer.call(1, b"x");
    peer.call(3, b"x");
    let message: Vec<u8> = (0..400_000u32).map(|n| n as u8).collect();
    peer.server.respond(id(1), &message);
    // Kept, not copied: the same on the wire.
    assert!(message.len() > limits::STREAM_OUTPUT_BYTES_MAX);
    peer.server.respond_with(id(3), message.clone().into());
    assert!(!peer.server.is_open(id(1)));
    let mut got = [Vec::new(), Vec::new()];
    let mut ended = 0;
    let mut allowed = 65_535;
    loop {
        let mut round = 0;
        for sent in peer.sent() {
            match sent {
                Sent::Data { stream, data, .. } => {
                    round += data.len();
                    got[stream as usize / 2].extend_from_slice(&data);
                }
                Sent::Head { end: true, .. } => ended += 1,
                _ => {}
            }
        }
        assert!(
            round <= allowed,
            "{round} bytes through a window of {allowed}"
        );
        if ended == 2 {
            break;
        }
        assert_eq!(round, allowed);
        allowed = 50_000;
        peer.widen(0, 50_000);
    }
    assert_eq!(got, [prefixed(&message), prefixed(&message)]);
    assert_eq!(peer.server.stream_count(), 0);
}
