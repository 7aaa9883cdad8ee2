//! Rows B: attacks that are legal frame by frame.

use net::frame::settings::id as setting;
use net::frame::{flag, kind, Reason};
use net::grpc::{Config, Event};
use net::limits::{self, MILLISECOND_NS, SECOND_NS};

use super::peer::*;

const CALM: Option<Reason> = Some(Reason::ENHANCE_YOUR_CALM);
const WATCH_PATH: &str = "/etcdserverpb.Watch/Watch";

/// Repeats until the connection ends; panics when it does not within `most`.
fn until_closed(peer: &mut Peer, most: u32, mut step: impl FnMut(&mut Peer, u32)) -> u32 {
    for round in 0..most {
        step(peer, round);
        if peer.server.should_close() {
            return round + 1;
        }
        peer.output();
    }
    panic!("still open after {most}");
}

#[test]
fn b1_rapid_reset() {
    let mut peer = Peer::new();
    let rounds = until_closed(&mut peer, 5_000, |peer, round| {
        peer.call(2 * round + 1, b"x");
        peer.reset(2 * round + 1);
    });
    assert_eq!(rounds, limits::RESETS_BURST + 1);
    assert_eq!(peer.goaway(), CALM);
    // Every call that was handed over was cancelled.
    let events = peer.events();
    let cancelled = events
        .iter()
        .filter(|event| matches!(event, Event::Cancel { .. }))
        .count();
    assert_eq!(cancelled * 2, events.len());
    // A client that cancels now and then is not disturbed.
    let mut peer = Peer::new();
    for round in 0..3_000 {
        peer.call(2 * round + 1, b"x");
        peer.reset(2 * round + 1);
        peer.now_ns += 31 * MILLISECOND_NS;
    }
    peer.assert_alive(10_001);
}

/// The call whose fault uses up the last of the patience is cancelled like all others of the connection.
#[test]
fn b1_the_reset_too_many() {
    let config = config();
    let budget = config.budget.clone();
    let mut peer = Peer::with(config);
    for (stream, path) in [(1, WATCH_PATH), (3, "/etcdserverpb.KV/Put")] {
        let mut fields = request(path).to_vec();
        fields.push(("content-length", "10000"));
        peer.head(stream, &fields, false);
        peer.data(stream, &prefixed(&[0; 10_000])[..9_999], false);
    }
    assert!(budget.used_bytes() > 9_000);
    for round in 0..limits::RESETS_BURST {
        peer.call(2 * round + 5, b"x");
        peer.reset(2 * round + 5);
        peer.output();
    }
    peer.events();
    peer.data(1, b"xy", false);
    assert_eq!(peer.goaway(), CALM);
    assert_eq!(peer.events(), [Event::Cancel { stream: id(1) }]);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn b2_made_you_reset() {
    // Six ways to have the server reset a stream whose request is being handled.
    type Attack = (&'static str, fn(&mut Peer));
    let variants: [Attack; 6] = [
        ("WINDOW_UPDATE of 0", |peer| peer.widen(1, 0)),
        ("window overflow", |peer| peer.widen(1, (1 << 31) - 1)),
        ("PRIORITY of 4 bytes", |peer| {
            peer.frame(kind::PRIORITY, 0, 1, &[0; 4])
        }),
        ("PRIORITY on itself", |peer| {
            peer.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0])
        }),
        ("HEADERS after END_STREAM", |peer| {
            peer.head(1, &[("x", "y")], true)
        }),
        ("DATA after END_STREAM", |peer| peer.data(1, b"x", true)),
    ];
    for (name, attack) in variants {
        let mut peer = Peer::new();
        peer.call(1, b"x");
        attack(&mut peer);
        if name == "PRIORITY on itself" {
            assert!(peer.server.is_open(id(1)), "ignored, nothing is reset");
            continue;
        }
        assert!(peer.server.should_close(), "{name}");
        assert!(
            !peer
                .sent()
                .iter()
                .any(|sent| matches!(sent, Sent::Reset { .. })),
            "{name}"
        );
    }
    // Requests that we do reset share the budget.
    let mut peer = Peer::new();
    let rounds = until_closed(&mut peer, 5_000, |peer, round| {
        peer.head(2 * round + 1, &altered(&[("connection", "close")]), true);
    });
    assert_eq!(rounds, limits::GLITCHES_BURST + 1);
    assert_eq!(peer.goaway(), CALM);
}

#[test]
fn b3_continuation_flood() {
    let mut peer = Peer::new();
    peer.frame(kind::HEADERS, 0, 1, &[0x83]);
    let rounds = until_closed(&mut peer, 100, |peer, _| {
        peer.frame(kind::CONTINUATION, 0, 1, &[0x84])
    });
    assert_eq!(rounds, limits::CONTINUATION_FRAMES_MAX + 1);
    assert_eq!(peer.goaway(), CALM);
    // Few frames, but large ones.
    let mut peer = Peer::new();
    peer.frame(kind::HEADERS, 0, 1, &[0; 16_384]);
    let rounds = until_closed(&mut peer, 8, |peer, _| {
        peer.frame(kind::CONTINUATION, 0, 1, &[0; 16_384])
    });
    assert_eq!(rounds, 2);
    assert_eq!(peer.goaway(), CALM);
    // Slowly.
    let mut peer = Peer::new();
    peer.frame(kind::HEADERS, 0, 1, &[0x83]);
    peer.wait(limits::HEADER_BLOCK_NS - 1);
    assert!(!peer.server.should_close());
    peer.wait(1);
    assert_eq!(peer.goaway(), CALM);
}

#[test]
fn b4_hpack_bomb() {
    let bomb = |references: usize| {
        let mut peer = Peer::new();
        let large = "v".repeat(3_000);
        let mut block = peer.block(&altered(&[("x-large", &large)]));
        block.extend(std::iter::repeat_n(0xbe, references));
        peer.frame(kind::HEADERS, flag::END_HEADERS, 1, &block);
        peer
    };
    let mut peer = bomb(30);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::FRAME_SIZE_ERROR
        }]
    );
    peer.assert_alive(3);
    let mut peer = bomb(10_000);
    assert_eq!(peer.goaway(), CALM);
}

#[test]
fn b5_empty_frames() {
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    let rounds = until_closed(&mut peer, 1_000, |peer, _| peer.data(1, b"", false));
    assert_eq!(rounds, limits::EMPTY_FRAMES_BURST + 1);
    assert_eq!(peer.goaway(), CALM);
    // Within the rate they are fine, and END_STREAM is no empty frame.
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    for round in 0..1_000 {
        peer.data(1, b"", false);
        peer.now_ns += 11 * MILLISECOND_NS;
        peer.open(2 * round + 3, "/etcdserverpb.KV/Put");
        peer.data(2 * round + 3, &prefixed(b"m"), false);
        peer.data(2 * round + 3, b"", true);
        peer.server.respond(id(2 * round + 3), b"r");
        peer.sent();
    }
    peer.assert_alive(20_001);
}

#[test]
fn b6_tiny_data_frames() {
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    let message = prefixed(&vec![7; 20_000]);
    for byte in &message {
        peer.data(1, &[*byte], false);
    }
    assert!(
        matches!(&peer.events()[..], [Event::Open { .. }, Event::Message { message, .. }] if message.len() == 20_000)
    );
    let large = prefixed(&vec![7; 100_000]);
    peer.bytes(&raw(kind::DATA, 0, 1, &large[..5]));
    let rounds = until_closed(&mut peer, 100_000, |peer, _| peer.data(1, b"x", false));
    assert!(rounds <= limits::SMALL_DATA_BUDGET, "{rounds}");
    assert_eq!(peer.goaway(), CALM);
    // Small messages are not small frames of a large one.
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    for _ in 0..2 * limits::SMALL_DATA_BUDGET {
        peer.data(1, &prefixed(b"keep-alive"), false);
        peer.events.clear();
    }
    peer.assert_alive(3);
}

#[test]
fn b7_ping_flood() {
    let ping = |peer: &mut Peer| peer.frame(kind::PING, 0, 0, &[0; 8]);
    // With a stream open: two strikes are forgiven.
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    let rounds = until_closed(&mut peer, 100, |peer, _| ping(peer));
    assert_eq!(rounds, 1 + limits::PING_STRIKES_MAX + 1);
    assert_eq!(peer.goaway(), CALM);
    // At the permitted interval for ever.
    let mut peer = Peer::new();
    peer.open(1, WATCH_PATH);
    for _ in 0..100 {
        peer.now_ns += limits::PING_INTERVAL_NS;
        ping(&mut peer);
    }
    peer.assert_alive(3);
    // Without streams the same interval is too fast, unless it is permitted.
    for permitted in [false, true] {
        let mut config = config();
        config.keepalive.ping_without_streams = permitted;
        let mut peer = Peer::with(config);
        for _ in 0..4 {
            peer.now_ns += limits::PING_INTERVAL_NS;
            ping(&mut peer);
        }
        assert_eq!(peer.server.should_close(), !permitted);
    }
    // Where data flows, as many as answers can be queued.
    let mut peer = Peer::new();
    for round in 0..1_000 {
        peer.assert_alive(2 * round + 1);
        ping(&mut peer);
    }
    assert!(!peer.server.should_close());
    // Not read: the queue of answers is bounded.
    let mut config = config();
    config.keepalive.ping_interval_min_ns = 0;
    let mut peer = Peer::with(config);
    peer.open(1, WATCH_PATH);
    let mut rounds = 0;
    while !peer.server.should_close() {
        ping(&mut peer);
        rounds += 1;
    }
    assert_eq!(rounds, limits::CONTROL_FRAMES_QUEUED_MAX + 1);
}

#[test]
fn b8_settings_flood() {
    let mut peer = Peer::new();
    let rounds = until_closed(&mut peer, 100, |peer, _| peer.settings(&[]));
    assert_eq!(
        rounds,
        limits::SETTINGS_BURST,
        "the first came with the preface"
    );
    assert_eq!(peer.goaway(), CALM);
    let mut peer = Peer::new();
    for _ in 0..100 {
        peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 70_000)]);
        peer.now_ns += SECOND_NS / 2;
    }
    peer.assert_alive(1);
}

#[test]
fn b9_reset_answers_not_read() {
    let mut peer = Peer::new();
    let mut rounds = 0;
    while !peer.server.should_close() {
        peer.head(2 * rounds + 1, &altered(&[("upgrade", "h2c")]), true);
        rounds += 1;
    }
    assert_eq!(rounds, limits::CONTROL_FRAMES_QUEUED_MAX + 1);
    assert_eq!(peer.goaway_among_others(), CALM);
}

#[test]
fn b10_priority_churn() {
    let mut peer = Peer::new();
    let rounds = until_closed(&mut peer, 5_000, |peer, round| {
        peer.frame(
            kind::PRIORITY,
            0,
            2 * round + 1,
            &(2 * round + 3)
                .to_be_bytes()
                .iter()
                .copied()
                .chain([9])
                .collect::<Vec<_>>(),
        );
    });
    assert_eq!(rounds, limits::PRIORITIES_BURST + 1);
    assert_eq!(peer.goaway(), CALM);
}

#[test]
fn b11_empty_header_fields_count() {
    // A field without name or value costs 32 bytes of the list.
    let mut peer = Peer::new();
    let mut block = peer.block(&request("/etcdserverpb.KV/Put"));
    for _ in 0..1_100 {
        block.extend_from_slice(&[0x00, 0x00, 0x00]);
    }
    peer.frame(kind::HEADERS, flag::END_HEADERS, 1, &block);
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
fn b12_slow_reader() {
    // The window is opened byte by byte: the answer stays queued, the rest of the connection works.
    let mut peer = Peer::new();
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 64)]);
    peer.call(1, b"x");
    peer.server.respond(id(1), &[0; 10_000]);
    assert_eq!(peer.server.backlog_bytes(id(1)), 10_005 - 64);
    peer.sent();
    for _ in 0..100 {
        peer.widen(1, 1);
        assert!(matches!(&peer.sent()[..], [Sent::Data { data, .. }] if data.len() == 1));
    }
    peer.assert_alive(3);
    // Without progress the stream is reset, and its queue freed.
    peer.wait(limits::STREAM_STALL_NS - 1);
    assert_eq!(peer.server.stream_count(), 1);
    peer.wait(limits::STREAM_TIMER_NS);
    assert_eq!(
        peer.sent(),
        [Sent::Reset {
            stream: 1,
            reason: Reason::CANCEL
        }]
    );
    assert!(peer.events().is_empty(), "it was answered");
    // The socket is not read: output stops growing, then the connection is closed.
    let mut peer = Peer::with(Config {
        request_bytes_max: 1_000,
        ..config()
    });
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 30)]);
    peer.widen(0, 1 << 30);
    peer.open(1, WATCH_PATH);
    peer.output();
    for _ in 0..100 {
        assert!(peer.server.send(id(1), vec![0; 100_000].into()));
    }
    assert!(peer.server.output().len() <= limits::OUTPUT_BYTES_MAX + 100_000);
    assert!(peer.server.backlog_bytes(id(1)) > limits::STREAM_OUTPUT_BYTES_MAX);
    peer.wait(limits::CONNECTION_STALL_NS / 2);
    peer.server.output().consume(1); // one byte is progress
    peer.wait(1);
    peer.wait(limits::CONNECTION_STALL_NS - 1);
    assert!(!peer.server.should_close());
    peer.wait(2);
    assert!(peer.server.should_close());
    assert!(peer.events().contains(&Event::Cancel { stream: id(1) }));
}

#[test]
fn b12_answers_that_nobody_takes() {
    // Without window, answers pile up to a bound; then calls wait until some are taken.
    let mut peer = Peer::new();
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
    peer.output();
    let rounds = limits::QUEUED_BYTES_MAX as u32 / 1_000_000 + 1;
    for round in 0..rounds {
        peer.call(2 * round + 1, b"x");
        peer.server.respond(id(2 * round + 1), &[0; 1_000_000]);
    }
    assert_eq!(peer.events().len() as u32, rounds);
    peer.sent();
    let next = 2 * rounds + 1;
    peer.call(next, b"x");
    peer.call(next + 2, b"x");
    peer.wait(limits::STREAM_TIMER_NS);
    assert_eq!((peer.events(), peer.sent()), (vec![], vec![]));
    // One that is given up meanwhile is never heard of.
    peer.reset(next);
    for round in 0..rounds {
        peer.reset(2 * round + 1);
    }
    let asked = |event: &Event| match event {
        Event::Request { stream, .. } => Some(*stream),
        _ => None,
    };
    let asked: Vec<_> = peer.events().iter().filter_map(asked).collect();
    assert_eq!(asked, [id(next + 2)]);
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]);
    peer.assert_alive(next + 4);
    // With window but an unread socket, reading should stop.
    let mut peer = Peer::new();
    peer.settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 30)]);
    peer.widen(0, 1 << 30);
    let mut stream = 1;
    while peer.server.wants_input() {
        peer.call(stream, b"x");
        peer.server.respond(id(stream), &[0; 100_000]);
        peer.server.output();
        stream += 2;
    }
    assert!(peer.server.output().len() <= limits::OUTPUT_BYTES_MAX + 10_000);
    peer.output();
    assert!(peer.server.wants_input());
}

#[test]
fn idle_connection_is_closed_gracefully() {
    let mut peer = Peer::new();
    peer.assert_alive(1);
    peer.wait(limits::IDLE_NS - 1);
    assert_eq!(peer.sent(), []);
    peer.wait(1);
    assert!(matches!(
        peer.sent()[..],
        [
            Sent::GoAway {
                reason: Reason::NO_ERROR,
                ..
            },
            Sent::Ping { .. }
        ]
    ));
    peer.wait(limits::SHUTDOWN_PING_NS);
    assert!(peer.server.should_close());
}

#[test]
fn silent_connection_is_closed() {
    let mut peer = Peer::silent(config());
    peer.bytes(b"PRI * HT");
    peer.wait(limits::PREFACE_NS - 1);
    assert!(!peer.server.should_close());
    peer.wait(1);
    assert!(peer.server.should_close());
    let mut peer = Peer::silent(config());
    peer.bytes(net::frame::PREFACE);
    peer.wait(limits::PREFACE_NS);
    assert!(peer.server.should_close());
}

#[test]
fn silent_peer_is_asked_and_closed() {
    let mut config = config();
    config.keepalive.interval_ns = 10 * SECOND_NS;
    config.keepalive.timeout_ns = 2 * SECOND_NS;
    let mut peer = Peer::with(config);
    peer.open(1, WATCH_PATH);
    for _ in 0..3 {
        peer.wait(10 * SECOND_NS);
        let sent = peer.sent();
        let [Sent::Ping {
            payload,
            ack: false,
        }] = &sent[..]
        else {
            panic!("{sent:?}")
        };
        peer.frame(kind::PING, flag::ACK, 0, payload);
    }
    peer.wait(10 * SECOND_NS);
    assert_eq!(peer.server.deadline_ns(), Some(peer.now_ns + 2 * SECOND_NS));
    peer.sent();
    peer.wait(2 * SECOND_NS);
    assert!(peer.server.should_close());
}
