//! A client that can say anything: frames of its own making against a [`Server`].

use std::sync::{Arc, LazyLock};

use net::frame::{self, flag, kind, settings, Header, Reason};
use net::grpc::{Config, Event, Method, MethodKind, Methods, Server, StreamId};
use net::hpack::{Decoder, Encoder, Field, FieldList};

pub const PUT: u16 = 1;
pub const WATCH: u16 = 2;
pub const SNAPSHOT: u16 = 3;

static LIST: [Method; 4] = [
    Method {
        path: "/etcdserverpb.KV/Put",
        id: PUT,
        kind: MethodKind::Unary,
    },
    Method {
        path: "/etcdserverpb.Watch/Watch",
        id: WATCH,
        kind: MethodKind::Bidi,
    },
    Method {
        path: "/etcdserverpb.Maintenance/Snapshot",
        id: SNAPSHOT,
        kind: MethodKind::ServerStream,
    },
    Method {
        path: "/test.Upload/Upload",
        id: 4,
        kind: MethodKind::ClientStream,
    },
];

pub static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::new(&LIST));

/// What the server sent, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Data {
        stream: u32,
        data: Vec<u8>,
        end: bool,
    },
    Head {
        stream: u32,
        fields: Vec<(String, String)>,
        end: bool,
    },
    Reset {
        stream: u32,
        reason: Reason,
    },
    Settings(settings::Settings),
    SettingsAck,
    Ping {
        payload: [u8; 8],
        ack: bool,
    },
    GoAway {
        last: u32,
        reason: Reason,
        debug: String,
    },
    Window {
        stream: u32,
        increment: u32,
    },
}

pub struct Peer {
    pub server: Server,
    pub encoder: Encoder,
    pub decoder: Decoder,
    pub events: Vec<Event>,
    pub now_ns: u64,
}

pub fn config() -> Config {
    Config {
        request_bytes_max: 1_000_000,
        ..Config::default()
    }
}

pub fn id(stream: u32) -> StreamId {
    StreamId::new(stream)
}

impl Peer {
    /// Nothing sent yet.
    pub fn silent(config: Config) -> Peer {
        let now_ns = 1_000_000_000_000;
        Peer {
            server: Server::new(&Arc::new(config), &METHODS, now_ns),
            encoder: Encoder::new(4_096),
            decoder: Decoder::new(4_096),
            events: Vec::new(),
            now_ns,
        }
    }

    /// Preface and settings are exchanged.
    pub fn with(config: Config) -> Peer {
        let mut peer = Peer::silent(config);
        peer.bytes(frame::PREFACE);
        peer.frame(kind::SETTINGS, 0, 0, &[]);
        peer.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        peer.sent();
        peer
    }

    pub fn new() -> Peer {
        Peer::with(config())
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.server.receive(bytes, self.now_ns, &mut self.events);
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes(&raw(kind, flags, stream, payload));
    }

    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        let fields = fields
            .iter()
            .map(|(name, value)| Field::new(name.as_bytes(), value.as_bytes()));
        self.encoder.encode(fields, &mut block);
        block
    }

    pub fn head(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let block = self.block(fields);
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        self.frame(kind::HEADERS, flags, stream, &block);
    }

    pub fn open(&mut self, stream: u32, path: &str) {
        self.head(stream, &request(path), false);
    }

    pub fn data(&mut self, stream: u32, data: &[u8], end: bool) {
        self.frame(
            kind::DATA,
            if end { flag::END_STREAM } else { 0 },
            stream,
            data,
        );
    }

    /// A whole unary call.
    pub fn call(&mut self, stream: u32, message: &[u8]) {
        self.open(stream, "/etcdserverpb.KV/Put");
        self.data(stream, &prefixed(message), true);
    }

    pub fn settings(&mut self, entries: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (id, value) in entries {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.frame(kind::SETTINGS, 0, 0, &payload);
    }

    pub fn widen(&mut self, stream: u32, increment: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    }

    pub fn reset(&mut self, stream: u32) {
        self.frame(kind::RST_STREAM, 0, stream, &Reason::CANCEL.0.to_be_bytes());
    }

    pub fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
        self.server.on_timer(self.now_ns, &mut self.events);
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn output(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let output = self.server.output();
            if output.is_empty() {
                return all;
            }
            all.extend_from_slice(output.bytes());
            let length = output.len();
            output.consume(length);
        }
    }

    /// Everything that the server has sent since the last call.
    pub fn sent(&mut self) -> Vec<Sent> {
        let output = self.output();
        let mut rest = output.as_slice();
        let mut sent = Vec::new();
        let mut block: Option<(u32, bool, Vec<u8>)> = None;
        while let Some((head, tail)) = rest.split_first_chunk::<9>() {
            let header = Header::parse(head);
            assert!(header.length <= 16_384, "frame too long: {header:?}");
            let (payload, tail) = tail.split_at(header.length as usize);
            rest = tail;
            let stream = header.stream.get();
            if header.kind == kind::HEADERS {
                block = Some((stream, header.has(flag::END_STREAM), Vec::new()));
            }
            if matches!(header.kind, kind::HEADERS | kind::CONTINUATION) {
                let (stream, end, mut bytes) = block.take().unwrap();
                bytes.extend_from_slice(payload);
                if header.has(flag::END_HEADERS) {
                    sent.push(Sent::Head {
                        stream,
                        end,
                        fields: self.decode(&bytes),
                    });
                } else {
                    block = Some((stream, end, bytes));
                }
                continue;
            }
            assert!(block.is_none(), "frame inside a header block");
            sent.push(parse(&header, payload));
        }
        assert!(rest.is_empty(), "half a frame in the output");
        sent
    }

    fn decode(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let mut list = FieldList::new();
        self.decoder
            .decode(block, &mut list)
            .expect("the server's header block");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        list.iter()
            .map(|field| (text(field.name), text(field.value)))
            .collect()
    }

    /// The one GOAWAY that was sent, as its reason.
    pub fn goaway(&mut self) -> Option<Reason> {
        let mut reasons: Vec<Reason> = Vec::new();
        for sent in self.sent() {
            if let Sent::GoAway { reason, .. } = sent {
                reasons.push(reason);
            }
        }
        assert!(reasons.len() <= 1, "{reasons:?}");
        assert_eq!(
            reasons.len() == 1,
            self.server.should_close(),
            "closed exactly if told"
        );
        reasons.pop()
    }

    /// The connection goes on: a new call is understood and answered.
    pub fn assert_alive(&mut self, stream: u32) {
        self.sent();
        self.events.clear();
        self.call(stream, b"alive?");
        assert!(
            matches!(&self.events[..], [Event::Request { message, .. }] if &message[..] == b"alive?"),
            "{:?}",
            self.events
        );
        self.events.clear();
        self.server.respond(id(stream), b"alive");
        assert_eq!(self.sent(), ok_response(stream, b"alive"));
    }
}

fn parse(header: &Header, payload: &[u8]) -> Sent {
    let stream = header.stream.get();
    match header.kind {
        kind::DATA => Sent::Data {
            stream,
            data: payload.to_vec(),
            end: header.has(flag::END_STREAM),
        },
        kind::RST_STREAM => Sent::Reset {
            stream,
            reason: frame::reset::Reset::parse(header, payload).unwrap().reason,
        },
        kind::SETTINGS => match settings::Settings::parse(header, payload).unwrap() {
            settings::Frame::Ack => Sent::SettingsAck,
            settings::Frame::Change(change) => Sent::Settings(change),
        },
        kind::PING => {
            let ping = frame::ping::Ping::parse(header, payload).unwrap();
            Sent::Ping {
                payload: ping.payload,
                ack: ping.ack,
            }
        }
        kind::GOAWAY => {
            let goaway = frame::go_away::GoAway::parse(header, payload).unwrap();
            Sent::GoAway {
                last: goaway.last.get(),
                reason: goaway.reason,
                debug: String::from_utf8(goaway.debug.to_vec()).unwrap(),
            }
        }
        kind::WINDOW_UPDATE => Sent::Window {
            stream,
            increment: frame::window_update::WindowUpdate::parse(header, payload)
                .unwrap()
                .increment,
        },
        other => panic!("frame of kind {other}"),
    }
}

pub fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub fn request(path: &str) -> [(&'static str, &str); 6] {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
}

/// The request of a unary call with fields replaced (by name), removed (value "-") or added.
pub fn altered<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields: Vec<(&str, &str)> = request("/etcdserverpb.KV/Put").to_vec();
    for (name, value) in changes {
        match fields.iter().position(|field| field.0 == *name) {
            Some(at) if *value == "-" => drop(fields.remove(at)),
            Some(at) => fields[at].1 = value,
            None if name.starts_with(':') => fields.insert(0, (name, value)),
            None => fields.push((name, value)),
        }
    }
    fields
}

pub fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

fn strings(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

pub fn head(stream: u32) -> Sent {
    let fields = strings(&[(":status", "200"), ("content-type", "application/grpc")]);
    Sent::Head {
        stream,
        fields,
        end: false,
    }
}

pub fn trailers(stream: u32, fields: &[(&str, &str)]) -> Sent {
    Sent::Head {
        stream,
        fields: strings(fields),
        end: true,
    }
}

pub fn ok_response(stream: u32, message: &[u8]) -> Vec<Sent> {
    vec![
        head(stream),
        Sent::Data {
            stream,
            data: prefixed(message),
            end: false,
        },
        trailers(stream, &[("grpc-status", "0")]),
    ]
}

/// A trailers-only answer.
pub fn failure(stream: u32, http: &str, code: &str, message: &str) -> Sent {
    trailers(
        stream,
        &[
            (":status", http),
            ("content-type", "application/grpc"),
            ("grpc-status", code),
            ("grpc-message", message),
        ],
    )
}

impl Peer {
    /// As `goaway`, with other frames before it.
    pub fn goaway_among_others(&mut self) -> Option<Reason> {
        self.sent().into_iter().rev().find_map(|sent| match sent {
            Sent::GoAway { reason, .. } => Some(reason),
            _ => None,
        })
    }
}
