//! The bodies of the fuzz targets, next to what they test; `fuzz/` holds the targets themselves. Built for fuzzing and for
//! tests only, which replay the stored corpora.

use std::sync::{Arc, LazyLock};

use crate::frame::{self, flag, kind, Header, StreamId};
use crate::grpc::{Config, Event, Method, MethodKind, Methods, Server};
use crate::hpack::{Decoder, Encoder, Field, FieldList, Indexing};
use crate::http1;
use crate::limits;
use crate::peer::{
    decode_piece, seal_frame, Decoder as PeerDecoder, Encoder as PeerEncoder, Frame, Kind,
    HEAD_BYTES,
};
use proto::raftpb::{Message, MessageType};

static LIST: [Method; 3] = [
    Method {
        path: "/t.S/U",
        id: 1,
        kind: MethodKind::Unary,
    },
    Method {
        path: "/t.S/B",
        id: 2,
        kind: MethodKind::Bidi,
    },
    Method {
        path: "/t.S/D",
        id: 3,
        kind: MethodKind::ServerStream,
    },
];
static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::new(&LIST));

/// Small, so that inputs of a few bytes reach the limit.
const MESSAGE_BYTES_MAX: usize = 1_000;

struct Run {
    server: Server,
    events: Vec<Event>,
    now_ns: u64,
    /// Events as text and everything sent: what must not depend on how the input was cut.
    log: Vec<String>,
    output: Vec<u8>,
}

impl Run {
    fn new() -> Run {
        let config = Config {
            request_bytes_max: MESSAGE_BYTES_MAX,
            ..Config::default()
        };
        Run {
            server: Server::new(&Arc::new(config), &METHODS, 0),
            events: Vec::new(),
            now_ns: 0,
            log: Vec::new(),
            output: Vec::new(),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.server.receive(bytes, self.now_ns, &mut self.events);
    }

    /// Answers what was asked; sums of lengths decide how, so that every kind of answer is met.
    fn answer(&mut self) {
        for event in std::mem::take(&mut self.events) {
            // How much of another protocol came first does depend on the cut.
            self.log.push(match &event {
                Event::Http1 { .. } => "not HTTP/2".into(),
                event => format!("{event:?}"),
            });
            match event {
                Event::Request {
                    stream,
                    method,
                    message,
                    ..
                } => match (method, message.len() % 4) {
                    (3, _) => {
                        if self.server.send(stream, message.clone()) {
                            let _ = self.server.send(stream, vec![0; 40_000].into());
                        }
                        self.server.finish(stream);
                    }
                    (_, 0) => self.server.fail(stream, 5, "no"),
                    (_, 1) => self.server.respond(stream, &[0; 100_000]),
                    _ => self.server.respond(stream, &message),
                },
                Event::Message { stream, message } => {
                    self.server.pause_receive(stream, message.len() % 3 == 0);
                    let _ = self.server.send(stream, message);
                }
                Event::HalfClose { stream } => self.server.finish(stream),
                Event::Open { .. } | Event::Cancel { .. } | Event::Http1 { .. } => {}
            }
        }
    }

    fn drain(&mut self) {
        loop {
            let output = self.server.output();
            if output.is_empty() {
                return;
            }
            self.output.extend_from_slice(output.bytes());
            let length = output.len();
            output.consume(length);
        }
    }
}

/// A connection from its first byte: no panic, the same events and output however the bytes are cut, output that parses,
/// memory bounded by the input.
pub fn connection(cuts: &[u8], bytes: &[u8]) {
    let mut whole = Run::new();
    whole.receive(bytes);
    whole.answer();
    whole.drain();
    let mut cut = Run::new();
    let mut rest = bytes;
    let mut sizes = cuts.iter().cycle();
    while !rest.is_empty() {
        let size = sizes
            .next()
            .map_or(1, |&size| usize::from(size).max(1))
            .min(rest.len());
        let (piece, tail) = rest.split_at(size);
        cut.receive(piece);
        rest = tail;
    }
    cut.answer();
    cut.drain();
    assert_eq!(whole.log, cut.log, "events depend on the cut");
    assert!(whole.output == cut.output, "output depends on the cut");
    assert!(whole.server.held_bytes() <= bytes.len());
    check_output(&whole.output);
    // Time passes and the transport breaks: nothing is left.
    for _ in 0..4 {
        whole.now_ns += limits::STREAM_STALL_NS;
        whole.server.on_timer(whole.now_ns, &mut whole.events);
        whole.answer();
        whole.drain();
    }
    whole.server.disconnect(&mut whole.events);
    assert_eq!(whole.server.stream_count() + whole.server.held_bytes(), 0);
}

/// As `connection`, behind a valid preface and settings.
pub fn opened_connection(cuts: &[u8], bytes: &[u8]) {
    let mut all = frame::PREFACE.to_vec();
    put(kind::SETTINGS, 0, 0, &[], &mut all);
    put(kind::SETTINGS, flag::ACK, 0, &[], &mut all);
    all.extend_from_slice(bytes);
    connection(cuts, &all);
}

fn put(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    Header {
        length: payload.len() as u32,
        kind,
        flags,
        stream: StreamId::new(stream),
    }
    .encode(out);
    out.extend_from_slice(payload);
}

/// Our frames are whole, of legal size, and their header blocks decode.
fn check_output(output: &[u8]) {
    let mut decoder = Decoder::new(limits::HPACK_TABLE_BYTES);
    let mut rest = output;
    let mut block = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<9>() {
        let header = Header::parse(head);
        assert!(header.length <= limits::FRAME_SENT_BYTES_MAX);
        let (payload, tail) = tail.split_at(header.length as usize);
        rest = tail;
        if matches!(header.kind, kind::HEADERS | kind::CONTINUATION) {
            block.extend_from_slice(payload);
            if header.has(flag::END_HEADERS) {
                let mut list = FieldList::new();
                decoder.decode(&block, &mut list).expect("our own block");
                block.clear();
            }
        }
    }
    assert!(rest.is_empty() && block.is_empty());
}

/// Blocks (each behind a length byte) decode or are refused; what is decoded encodes and decodes to itself.
pub fn hpack_decode(mut bytes: &[u8]) {
    let mut decoder = Decoder::new(limits::HPACK_TABLE_BYTES);
    while let Some((&length, rest)) = bytes.split_first() {
        let (block, rest) = rest.split_at(usize::from(length).min(rest.len()));
        bytes = rest;
        let mut list = FieldList::new();
        if decoder.decode(block, &mut list).is_err() {
            return;
        }
        assert!(
            list.len() <= limits::HEADER_COUNT_MAX
                && list.size_bytes() <= limits::HEADER_LIST_BYTES_CLOSE
        );
        let mut again = Vec::new();
        Encoder::new(limits::HPACK_TABLE_BYTES).encode(list.iter(), &mut again);
        let mut back = FieldList::new();
        Decoder::new(limits::HPACK_TABLE_BYTES)
            .decode(&again, &mut back)
            .expect("our own block");
        // A field that the peer sent as a literal may be a reference to the static table in our encoding; a secret stays one.
        let facts = |field: Field<'_>| {
            let secret = field.indexing == Indexing::Never;
            (field.name.to_vec(), field.value.to_vec(), secret)
        };
        assert!(back.iter().map(facts).eq(list.iter().map(facts)));
    }
}

/// Header lists through an encoder and a decoder that live on, with changes of the table size between the blocks.
pub fn hpack_round_trip(bytes: &[u8]) {
    let mut encoder = Encoder::new(limits::HPACK_TABLE_BYTES);
    let mut decoder = Decoder::new(limits::HPACK_TABLE_BYTES);
    let mut input = bytes.iter().copied();
    while let Some(op) = input.next() {
        if op & 0x80 != 0 {
            let size = usize::from(op & 0x7f) * 33;
            encoder.set_peer_max(size);
            decoder.set_table_bytes_max(size.min(limits::HPACK_TABLE_BYTES));
        }
        let mut list = FieldList::new();
        for _ in 0..op % 8 {
            let shape = input.next().unwrap_or(0);
            let indexing =
                [Indexing::Add, Indexing::Without, Indexing::Never][usize::from(shape % 3)];
            let name: Vec<u8> = input.by_ref().take(usize::from(shape / 3 % 9)).collect();
            let value: Vec<u8> = input.by_ref().take(usize::from(shape / 27)).collect();
            list.push(Field {
                name: &name,
                value: &value,
                indexing,
            });
        }
        let mut block = Vec::new();
        encoder.encode(list.iter(), &mut block);
        let mut back = FieldList::new();
        decoder.decode(&block, &mut back).expect("our own block");
        let pairs = |list: &FieldList| -> Vec<(Vec<u8>, Vec<u8>)> {
            list.iter()
                .map(|field| (field.name.to_vec(), field.value.to_vec()))
                .collect()
        };
        assert_eq!(pairs(&list), pairs(&back));
    }
}

/// A body behind valid headers, cut into DATA frames: each call gets its messages or a status, none larger than the limit.
pub fn grpc_body(shape: u8, bytes: &[u8]) {
    let path: &[u8] = if shape & 1 == 0 { b"/t.S/U" } else { b"/t.S/B" };
    let mut fields = vec![
        Field::new(b":method", b"POST"),
        Field::new(b":scheme", b"http"),
        Field::new(b":path", path),
        Field::new(b"content-type", b"application/grpc"),
    ];
    if shape & 2 != 0 {
        fields.push(Field::new(b"grpc-encoding", b"gzip"));
    }
    if shape & 4 != 0 {
        // The first bytes are a timeout instead.
        let cut = bytes.len().min(usize::from(shape >> 5));
        fields.push(Field::new(b"grpc-timeout", &bytes[..cut]));
    }
    let mut block = Vec::new();
    Encoder::new(limits::HPACK_TABLE_BYTES).encode(fields, &mut block);
    let mut stream = Vec::new();
    put(kind::HEADERS, flag::END_HEADERS, 1, &block, &mut stream);
    let size = usize::from(shape >> 3) * 7 + 1;
    let mut pieces = bytes.chunks(size).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() {
            flag::END_STREAM
        } else {
            0
        };
        put(kind::DATA, flags, 1, piece, &mut stream);
    }
    opened_connection(&[shape], &stream);
    let mut run = Run::new();
    run.receive(frame::PREFACE);
    let mut settings = Vec::new();
    put(kind::SETTINGS, 0, 0, &[], &mut settings);
    run.receive(&settings);
    run.receive(&stream);
    for event in &run.events {
        if let Event::Request { message, .. } | Event::Message { message, .. } = event {
            assert!(message.len() <= MESSAGE_BYTES_MAX);
        }
    }
    run.answer();
    run.drain();
    check_output(&run.output);
}

/// Target `h2_conn`: a byte that says where it begins, three that say how to cut, then the connection's bytes.
pub fn h2_conn(input: &[u8]) {
    let Some((&[mode, ref cuts @ ..], bytes)) = input.split_first_chunk::<4>() else {
        return;
    };
    if mode & 1 == 0 {
        opened_connection(cuts, bytes);
    } else {
        connection(cuts, bytes);
    }
}

/// Target `grpc_frame`: a byte of shape, then the body.
pub fn grpc_frame(input: &[u8]) {
    if let Some((&shape, bytes)) = input.split_first() {
        grpc_body(shape, bytes);
    }
}

/// An HTTP/1.1 connection of either side: no panic, the same events and output however the bytes are cut, memory bounded
/// by the input.
pub fn http1_connection(cuts: &[u8], bytes: &[u8]) {
    let pieces = |cut: bool| -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        let (mut rest, mut sizes) = (bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let size = match cut {
                true => sizes.next().map_or(1, |&size| usize::from(size).max(1)),
                false => rest.len(),
            };
            let (piece, tail) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        pieces
    };
    let whole = http1_server(&pieces(false));
    assert_eq!(
        whole,
        http1_server(&pieces(true)),
        "a server depends on the cut"
    );
    let whole = http1_client(&pieces(false));
    assert_eq!(
        whole,
        http1_client(&pieces(true)),
        "a client depends on the cut"
    );
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Requests and their bodies, and what was answered.
fn http1_server(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>, Vec<u8>) {
    let mut server = http1::Server::new(0);
    let (mut told, mut data) = (Vec::new(), Vec::new());
    for piece in pieces {
        server.receive(piece, 0);
        while let Some(event) = server.next() {
            match event {
                http1::ServerEvent::Head(head) => told.push(format!("{head:?}")),
                http1::ServerEvent::Data(bytes) => data.extend_from_slice(bytes),
                http1::ServerEvent::End => {
                    told.push("end".into());
                    server.respond(200, &[], b"a", 0);
                }
            }
        }
    }
    let output = server.output().bytes().to_vec();
    // Whether the client may go on is told as soon as its head is there, if nothing came with it.
    let mut output = output.as_slice();
    let mut settled = Vec::new();
    while let Some((first, rest)) = output.split_first() {
        match output.strip_prefix(CONTINUE) {
            Some(rest) => output = rest,
            None => {
                settled.push(*first);
                output = rest;
            }
        }
    }
    assert!(data.len() <= pieces.iter().map(|piece| piece.len()).sum());
    (told, data, settled)
}

fn http1_client(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
    let mut client = http1::Client::default();
    client.request("GET", "/", "h", &[], None);
    let (mut told, mut data) = (Vec::new(), Vec::new());
    for piece in pieces {
        client.receive(piece);
        loop {
            match client.next() {
                Ok(Some(http1::ClientEvent::Head(head))) => told.push(format!("{head:?}")),
                Ok(Some(http1::ClientEvent::Data(bytes))) => data.extend_from_slice(bytes),
                Ok(Some(http1::ClientEvent::End)) => told.push("end".into()),
                Ok(None) => break,
                Err(_) => {
                    told.push("error".into());
                    return (told, data);
                }
            }
        }
    }
    (told, data)
}

/// Target `http1`: three bytes that say how to cut, then the connection's bytes.
pub fn http1(input: &[u8]) {
    if let Some((cuts, bytes)) = input.split_first_chunk::<3>() {
        http1_connection(cuts, bytes);
    }
}

/// Target `peer_msg`: a byte that says which stream, then what comes by it. No panic, no memory that the input does not
/// fill, the same frames however it is cut, and frames that are written come back.
pub fn peer_msg(input: &[u8]) {
    let Some((&shape, bytes)) = input.split_first() else {
        return;
    };
    let kind = Kind::ALL[usize::from(shape & 1)];
    let checksums = shape & 2 != 0;
    // What comes is one frame whose checksums fit.
    let mut sealed = [&[0; HEAD_BYTES], bytes].concat();
    seal_frame(&mut sealed);
    let bytes = if checksums { &sealed } else { bytes };
    let read = |bytes: &[u8], size: usize| {
        let mut decoder = PeerDecoder::new(kind, checksums, 1, 2);
        let mut frames = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.receive(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            assert!(decoder.held_bytes() <= bytes.len());
        }
        (frames, None)
    };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, usize::from(shape >> 2) + 1));
    // An append that continues the one before it is written without what is known by then, so only what members send comes
    // back: appends, from the one end to the other.
    let is_sent = |frame: &Frame| match frame {
        Frame::Message(message) if kind == Kind::Append => {
            message.r#type() == MessageType::MsgApp
                && (message.snapshot.is_none() && message.context.is_none())
                && !message.reject()
                && message.reject_hint() == 0
        }
        _ => true,
    };
    let mut frames: Vec<Frame> = whole.0.into_iter().filter(is_sent).collect();
    for frame in &mut frames {
        if let Frame::Message(message) = frame {
            (message.from, message.to) = (Some(1), Some(2));
        }
    }
    let mut encoder = PeerEncoder::new(kind, checksums);
    let mut again = Vec::new();
    for frame in &frames {
        again.extend_from_slice(match frame {
            Frame::Heartbeat => encoder.heartbeat(),
            Frame::Message(message) => encoder.message(message),
        });
    }
    let (back, error) = read(&again, again.len().max(1));
    assert_eq!(error, None);
    assert_eq!(back.len(), frames.len());
    for (back, frame) in back.iter().zip(&frames) {
        match (back, frame) {
            (Frame::Message(back), Frame::Message(frame)) => assert!(same(back, frame)),
            _ => assert_eq!(back, frame),
        }
    }
    let _ = decode_piece(&bytes.to_vec().into());
}

/// A field that is not there is one with its default.
fn same(one: &Message, other: &Message) -> bool {
    let place = |m: &Message| {
        (
            m.from(),
            m.to(),
            m.term(),
            m.log_term(),
            m.index(),
            m.commit(),
        )
    };
    one.r#type() == other.r#type()
        && place(one) == place(other)
        && (one.reject(), one.reject_hint()) == (other.reject(), other.reject_hint())
        && one.entries == other.entries
        && (&one.snapshot, &one.context) == (&other.snapshot, &other.context)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let mut inputs = 0;
        for file in std::fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            body(&bytes);
            inputs += 1;
        }
        assert!(inputs > 0, "no corpus for {target}");
    }

    #[test]
    fn stored_corpora() {
        replay("h2_conn", super::h2_conn);
        replay("hpack_decode", super::hpack_decode);
        replay("hpack_roundtrip", super::hpack_round_trip);
        replay("grpc_frame", super::grpc_frame);
        replay("http1", super::http1);
        replay("peer_msg", super::peer_msg);
    }
}
