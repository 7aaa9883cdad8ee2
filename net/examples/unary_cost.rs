//! What one unary call costs between socket buffer and socket buffer: frames, HPACK, stream table, gRPC.
//!
//! `cargo run --release -p ringd-net --example unary_cost`
//!
//! 32 calls of 100 bytes per read, each answered with 100 bytes. `indexed` repeats a header block that is all references,
//! as clients without deadlines send; `new timeout` puts a `grpc-timeout` of its own into every block and so into the
//! dynamic table, as grpc-go does for calls with a deadline.

use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use net::frame::{self, flag, kind, Header};
use net::grpc::{Config, Event, Method, MethodKind, Methods, Server, StreamId};
use net::hpack::{Encoder, Field};

const CALLS_PER_READ: u32 = 32;
const READS: u32 = 50_000;
const MESSAGE_BYTES: usize = 100;

static LIST: [Method; 2] = [
    Method {
        path: "/etcdserverpb.KV/Range",
        id: 0,
        kind: MethodKind::Unary,
    },
    Method {
        path: "/etcdserverpb.KV/Put",
        id: 1,
        kind: MethodKind::Unary,
    },
];
static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::new(&LIST));

fn fields(timeout: Option<&str>) -> Vec<Field<'_>> {
    let mut fields = vec![
        Field::new(b":method", b"POST"),
        Field::new(b":scheme", b"http"),
        Field::new(b":path", b"/etcdserverpb.KV/Put"),
        Field::new(b":authority", b"127.0.0.1:2379"),
        Field::new(b"content-type", b"application/grpc"),
        Field::new(b"user-agent", b"grpc-go/1.71.1"),
        Field::new(b"te", b"trailers"),
        Field::new(b"client-api-version", b"3.5"),
        Field::new(b"hasleader", b"true"),
    ];
    fields.extend(timeout.map(|value| Field::new(b"grpc-timeout", value.as_bytes())));
    fields
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    Header {
        length: payload.len() as u32,
        kind,
        flags,
        stream: StreamId::new(stream),
    }
    .encode(out);
    out.extend_from_slice(payload);
}

fn run(name: &str, with_timeout: bool) {
    let mut server = Server::new(&Arc::new(Config::default()), &METHODS, 0);
    let mut events = Vec::new();
    let mut encoder = Encoder::new(4_096);
    let mut input = frame::PREFACE.to_vec();
    frame(kind::SETTINGS, 0, 0, &[], &mut input);
    frame(kind::SETTINGS, flag::ACK, 0, &[], &mut input);
    server.receive(&input, 0, &mut events);
    let mut message = vec![0, 0, 0, 0, MESSAGE_BYTES as u8];
    message.resize(5 + MESSAGE_BYTES, b'm');
    let answer = [b'a'; MESSAGE_BYTES];
    let (mut stream, mut now_ns, mut spent_ns, mut sent_bytes) = (1, 0, 0, 0);
    for read in 0..READS {
        input.clear();
        for call in 0..CALLS_PER_READ {
            let timeout = format!("{}u", 4_000_000 + read * CALLS_PER_READ + call);
            let mut block = Vec::new();
            encoder.encode(
                fields(Some(timeout.as_str()).filter(|_| with_timeout)),
                &mut block,
            );
            frame(kind::HEADERS, flag::END_HEADERS, stream, &block, &mut input);
            frame(kind::DATA, flag::END_STREAM, stream, &message, &mut input);
            stream += 2;
        }
        // The client's side of flow control, of which there is one frame per read here.
        frame(
            kind::WINDOW_UPDATE,
            0,
            0,
            &(CALLS_PER_READ * 105).to_be_bytes(),
            &mut input,
        );
        now_ns += 100_000;
        let began = Instant::now();
        server.receive(black_box(&input), now_ns, &mut events);
        assert_eq!(events.len(), CALLS_PER_READ as usize);
        for event in events.drain(..) {
            if let Event::Request {
                stream, message, ..
            } = event
            {
                black_box(message);
                server.respond(stream, black_box(&answer));
            }
        }
        let output = server.output();
        black_box(output.bytes());
        sent_bytes += output.len();
        let length = output.len();
        output.consume(length);
        black_box(server.deadline_ns());
        spent_ns += began.elapsed().as_nanos();
    }
    let calls = u128::from(READS * CALLS_PER_READ);
    println!(
        "{name:12} {:6.0} ns per call, {} bytes out each",
        spent_ns as f64 / calls as f64,
        sent_bytes as u128 / calls
    );
}

fn main() {
    run("warm-up", false);
    run("indexed", false);
    run("new timeout", true);
}
