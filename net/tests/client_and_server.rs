//! Our client and our server, joined by buffers that are cut at random places: every message arrives, once and in order.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use net::connection::Keepalive;
use net::grpc::{
    CallTemplate, Client, ClientEvent, Config, Event, Method, MethodKind, Methods, Server, StreamId,
};
use proptest::prelude::*;

const ECHO: u16 = 1;
const CHAT: u16 = 2;

static LIST: [Method; 2] = [
    Method {
        path: "/t.S/Echo",
        id: ECHO,
        kind: MethodKind::Unary,
    },
    Method {
        path: "/t.S/Chat",
        id: CHAT,
        kind: MethodKind::Bidi,
    },
];
static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::new(&LIST));

struct Pair {
    client: Client,
    server: Server,
    now_ns: u64,
    client_events: Vec<ClientEvent>,
    server_events: Vec<Event>,
}

impl Pair {
    fn new() -> Pair {
        let config = Config {
            request_bytes_max: 4 << 20,
            ..Config::default()
        };
        Pair {
            client: Client::new(Keepalive::default(), 16 << 20, 0),
            server: Server::new(&Arc::new(config), &METHODS, 0),
            now_ns: 0,
            client_events: Vec::new(),
            server_events: Vec::new(),
        }
    }

    /// Carries at most `most` bytes each way; false when nothing was waiting.
    fn carry(&mut self, most: usize) -> bool {
        self.now_ns += 1_000_000;
        let there: Vec<u8> = self
            .client
            .output()
            .bytes()
            .iter()
            .copied()
            .take(most)
            .collect();
        self.client.output().consume(there.len());
        self.server
            .receive(&there, self.now_ns, &mut self.server_events);
        let back: Vec<u8> = self
            .server
            .output()
            .bytes()
            .iter()
            .copied()
            .take(most)
            .collect();
        self.server.output().consume(back.len());
        self.client
            .receive(&back, self.now_ns, &mut self.client_events);
        assert!(!self.server.should_close() && !self.client.should_close());
        !there.is_empty() || !back.is_empty()
    }

    /// An echo server.
    fn serve(&mut self) {
        for event in self.server_events.drain(..) {
            match event {
                Event::Request {
                    stream, message, ..
                } => self.server.respond(stream, &message),
                Event::Message { stream, message } => {
                    assert!(self.server.send(stream, message));
                }
                Event::HalfClose { stream } => self.server.finish(stream),
                _ => {}
            }
        }
    }
}

#[derive(Default, PartialEq, Debug)]
struct Outcome {
    messages: Vec<usize>,
    status: Option<u32>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_message_arrives_once(
        calls in proptest::collection::vec((any::<bool>(), proptest::collection::vec(0usize..200_000, 0..6)), 1..12),
        pieces in proptest::collection::vec(1usize..40_000, 1..20),
    ) {
        let mut pair = Pair::new();
        let mut echo = CallTemplate::new("localhost", "/t.S/Echo", &[("token", b"secret")]);
        let mut chat = CallTemplate::new("localhost", "/t.S/Chat", &[]);
        let mut expected: BTreeMap<u32, Outcome> = BTreeMap::new();
        let mut pieces = pieces.into_iter().cycle();
        for (unary, sizes) in calls {
            let message = |size: usize| vec![size as u8; size];
            if unary {
                let size = sizes.first().copied().unwrap_or(0);
                let stream = pair.client.call(&mut echo, Some(3_600_000_000_000), &message(size)).unwrap();
                expected.insert(stream.get(), Outcome { messages: vec![size], status: Some(0) });
            } else {
                let stream = pair.client.open(&mut chat, None).unwrap();
                sizes.iter().for_each(|&size| pair.client.send(stream, &message(size)));
                pair.client.half_close(stream);
                expected.insert(stream.get(), Outcome { messages: sizes, status: Some(0) });
            }
            pair.carry(pieces.next().unwrap());
            pair.serve();
        }
        while pair.carry(pieces.next().unwrap()) {
            pair.serve();
        }
        let mut got: BTreeMap<u32, Outcome> = BTreeMap::new();
        for event in pair.client_events.drain(..) {
            match event {
                ClientEvent::Message { stream, message } => {
                    prop_assert!(message.iter().all(|&byte| byte == message.len() as u8));
                    got.entry(stream.get()).or_default().messages.push(message.len());
                }
                ClientEvent::End { stream, code, .. } => {
                    let status = &mut got.entry(stream.get()).or_default().status;
                    prop_assert_eq!(status.replace(code), None);
                }
            }
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(pair.server.stream_count() + pair.client.stream_count(), 0);
    }
}

#[test]
fn failures_reach_the_client() {
    let mut pair = Pair::new();
    let mut unknown = CallTemplate::new("localhost", "/t.S/Nope", &[]);
    let stream = pair.client.call(&mut unknown, None, b"x").unwrap();
    while pair.carry(1_000) {}
    let message = "unknown method Nope for service t.S".to_string();
    assert_eq!(
        pair.client_events.pop(),
        Some(ClientEvent::End {
            stream,
            code: 12,
            message
        })
    );
    // The server fails a call with a text that needs encoding.
    let mut chat = CallTemplate::new("localhost", "/t.S/Chat", &[]);
    let stream = pair.client.open(&mut chat, None).unwrap();
    while pair.carry(1_000) {}
    pair.server.fail(stream, 9, "h\u{e9} 100%\n");
    while pair.carry(1_000) {}
    let message = "h\u{e9} 100%\n".to_string();
    assert_eq!(
        pair.client_events.pop(),
        Some(ClientEvent::End {
            stream,
            code: 9,
            message
        })
    );
    // A deadline passes at the client.
    let stream = pair.client.open(&mut chat, Some(5_000_000_000)).unwrap();
    while pair.carry(1_000) {}
    let mut events = Vec::new();
    pair.client
        .on_timer(pair.now_ns + 5_000_000_000, &mut events);
    assert!(matches!(events[..], [ClientEvent::End { code: 4, .. }]));
    while pair.carry(1_000) {}
    assert!(pair.server_events.contains(&Event::Cancel { stream }));
    assert_eq!(pair.client.stream_count() + pair.server.stream_count(), 0);
    // A cancelled call is cancelled at the server.
    let stream = pair.client.open(&mut chat, None).unwrap();
    pair.client.cancel(stream);
    while pair.carry(1_000) {}
    assert_eq!(pair.server_events.last(), Some(&Event::Cancel { stream }));
    // A graceful stop: calls finish, then the client is told, and takes no more calls.
    let stream = pair.client.open(&mut chat, None).unwrap();
    while pair.carry(1_000) {}
    pair.server.shutdown();
    let there: Vec<u8> = pair.server.output().bytes().to_vec();
    pair.client.receive(&there, pair.now_ns, &mut events);
    assert!(pair.client.open(&mut chat, None).is_none());
    let mut events = Vec::new();
    pair.client.disconnect(&mut events);
    assert!(
        matches!(&events[..], [ClientEvent::End { stream: ended, code: 14, .. }] if *ended == stream)
    );
    assert!(pair.client.call(&mut chat, None, b"").is_none());
    assert_eq!(StreamId::new(1 << 31), StreamId::CONNECTION);
}
