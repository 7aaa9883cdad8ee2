//! HTTP/2 by hand: frames that no library would send.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use ringd_tests::server::{Server, PATIENCE};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GO_AWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const CALM: u32 = 11;

const FRAME_HEAD_BYTES: usize = 9;
const FRAME_BYTES_MAX: usize = 16_384;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame");
    let mut out = length.to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

pub fn preface() -> Vec<u8> {
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
}

pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// A field that is neither compressed nor remembered (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        out.push(u8::try_from(text.len()).expect("a short text"));
        out.extend(text.as_bytes());
    }
    out
}

/// The header block of a gRPC request.
pub fn head(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(n, v)| field(n, v)).collect()
}

/// A gRPC message with its prefix.
pub fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a message");
    [&[0], &length.to_be_bytes()[..], body].concat()
}

/// A whole call with one message, which no more follow.
pub fn call(stream: u32, path: &str, body: &[u8]) -> Vec<u8> {
    let mut out = frame(HEADERS, END_HEADERS, stream, &head(path));
    let message = message(body);
    let mut parts = message.chunks(FRAME_BYTES_MAX).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() {
            END_STREAM
        } else {
            0
        };
        out.extend(frame(DATA, flags, stream, part));
    }
    out
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

pub fn connect(server: &Server) -> TcpStream {
    connect_to(server.client_port())
}

pub fn connect_to(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let patience = Some(PATIENCE);
    stream.set_read_timeout(patience).expect("a timeout");
    stream.set_write_timeout(patience).expect("a timeout");
    stream
}

/// A connection on which calls can be made.
pub fn open(server: &Server) -> TcpStream {
    let mut stream = connect(server);
    let hello = [preface(), settings(), frame(SETTINGS, ACK, 0, &[])].concat();
    stream.write_all(&hello).expect("a greeting");
    stream
}

/// Waits for a frame of this kind and skips others.
pub fn wait_for(stream: &mut TcpStream, kind: u8) {
    loop {
        let mut head = [0; FRAME_HEAD_BYTES];
        stream.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).expect("its payload");
        if head[3] == kind {
            return;
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub struct End {
    /// Code and text of the last GOAWAY.
    pub go_away: Option<(u32, String)>,
    /// What came before it.
    pub frames: Vec<(u8, u32, Vec<u8>)>,
}

impl End {
    #[track_caller]
    pub fn reason(&self) -> u32 {
        self.go_away.as_ref().expect("a GOAWAY").0
    }
}

/// Reads until the server has closed its side. Panics if it does not.
pub fn read_to_end(stream: &mut TcpStream) -> End {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server does not close the connection: {error}"),
    }
    let mut end = End {
        go_away: None,
        frames: Vec::new(),
    };
    let mut rest = &bytes[..];
    while let Some((head, after)) = rest.split_at_checked(FRAME_HEAD_BYTES) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else {
            break;
        };
        rest = after;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == GO_AWAY {
            let code = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
            let text = String::from_utf8_lossy(&payload[8..]).into_owned();
            end.go_away = Some((code, text));
        } else {
            end.frames.push((head[3], stream, payload.to_vec()));
        }
    }
    end
}

/// Sends what `next` gives until the server has closed its side, and goes on sending after that. Returns how the
/// connection ended, and how many bytes were written until nothing more was taken: `None` if `bytes_max` were.
pub fn flood(
    mut stream: TcpStream,
    bytes_max: usize,
    mut next: impl FnMut() -> Vec<u8>,
) -> (End, Option<usize>) {
    let mut reading = stream.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || read_to_end(&mut reading));
    let mut sent = 0;
    let mut refused = false;
    while sent < bytes_max {
        let bytes = next();
        match stream.write_all(&bytes) {
            Ok(()) => sent += bytes.len(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the server neither reads nor closes")
            }
            Err(_) => {
                refused = true;
                break;
            }
        }
    }
    let end = reader.join().expect("the server closes the connection");
    (end, refused.then_some(sent))
}
