//! The client's half of gRPC over HTTP/2, cut down to what a load needs: requests are copied from templates, answers are
//! recognised by their frames. No allocation per request.

/// Frame types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const FRAME_HEADER_BYTES: usize = 9;
/// First dynamic index of HPACK.
const DYNAMIC_FIRST: usize = 62;
/// The windows that this side gives: as good as unlimited, topped up when half is used.
const WINDOW_BYTES: u32 = (1 << 31) - 1;
/// What every server accepts in one frame.
const FRAME_BYTES_MAX: usize = 16_384;
const WINDOW_INITIAL_BYTES: i64 = 65_535;

/// A request that differs from others of its kind in the digits of its key and in its stream id.
pub struct Template {
    path: &'static str,
    message: Vec<u8>,
    /// Where the digits of the key stand in the message.
    digits: Vec<(usize, usize)>,
}

impl Template {
    pub fn new(path: &'static str, message: Vec<u8>, digits: Vec<(usize, usize)>) -> Template {
        Template {
            path,
            message,
            digits,
        }
    }
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival<'a> {
    /// Bytes of a message on a stream.
    Message { stream: u32, payload: &'a [u8] },
    /// The stream ended; `ok` when a message had come before.
    End { stream: u32 },
    /// The server closes the connection.
    GoAway { code: u32 },
}

/// One connection: what waits to be sent, what was received, and the windows.
pub struct Wire {
    pub out: Vec<u8>,
    authority: String,
    next_stream: u32,
    /// Header fields in the dynamic table, oldest first.
    indexed: Vec<&'static str>,
    tail: Vec<u8>,
    /// The request that is being put into frames.
    body: Vec<u8>,
    send_window: i64,
    stream_window: i64,
    consumed: u32,
}

impl Wire {
    pub fn new(authority: &str) -> Wire {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = Vec::new();
        for (id, value) in [(2u16, 0u32), (4, WINDOW_BYTES)] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        frame(&mut out, SETTINGS, 0, 0, &settings);
        let more = WINDOW_BYTES - WINDOW_INITIAL_BYTES as u32;
        frame(&mut out, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Wire {
            out,
            authority: authority.to_string(),
            next_stream: 1,
            indexed: Vec::new(),
            tail: Vec::new(),
            body: Vec::new(),
            send_window: WINDOW_INITIAL_BYTES,
            stream_window: WINDOW_INITIAL_BYTES,
            consumed: 0,
        }
    }

    /// Whether the server's window takes this request now.
    pub fn has_room(&self, template: &Template) -> bool {
        let bytes = template.message.len() as i64 + 5;
        self.send_window >= bytes && self.stream_window >= bytes
    }

    /// Queues a request and gives its stream; `hold` keeps the stream's sending half open.
    pub fn request(&mut self, template: &Template, key: u64, hold: bool) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let at = self.out.len();
        self.out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        self.header_block(template.path);
        let bytes = self.out.len() - at - FRAME_HEADER_BYTES;
        self.out[at..at + FRAME_HEADER_BYTES].copy_from_slice(&frame_header(
            bytes,
            HEADERS,
            END_HEADERS,
            stream,
        ));
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.push(0);
        body.extend_from_slice(&(template.message.len() as u32).to_be_bytes());
        let at = body.len();
        body.extend_from_slice(&template.message);
        for (offset, width) in &template.digits {
            let mut rest = key;
            for place in (0..*width).rev() {
                body[at + offset + place] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        let mut chunks = body.chunks(FRAME_BYTES_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let is_end = chunks.peek().is_none() && !hold;
            let flags = if is_end { END_STREAM } else { 0 };
            frame(&mut self.out, DATA, flags, stream, chunk);
        }
        self.send_window -= body.len() as i64;
        self.body = body;
        stream
    }

    fn header_block(&mut self, path: &'static str) {
        self.out.push(0x83); // :method POST
        self.out.push(0x86); // :scheme http
        let authority = self.authority.clone();
        self.field(path, 4, path);
        self.field("authority", 1, &authority);
        self.field("type", 31, "application/grpc");
        self.field("te", 0, "trailers");
    }

    /// A field with incremental indexing the first time, one byte from then on.
    fn field(&mut self, id: &'static str, name: u8, value: &str) {
        if let Some(place) = self.indexed.iter().position(|known| *known == id) {
            let index = DYNAMIC_FIRST + self.indexed.len() - 1 - place;
            self.out.push(0x80 | index as u8);
            return;
        }
        self.out.push(0x40 | name);
        if name == 0 {
            self.out.push(2);
            self.out.extend_from_slice(b"te");
        }
        self.out.push(value.len() as u8); // all values here are shorter than 127 bytes
        self.out.extend_from_slice(value.as_bytes());
        self.indexed.push(id);
    }

    /// Takes received bytes in and reports what they complete.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mut report: impl FnMut(Arrival<'_>),
    ) -> Result<(), String> {
        let mut tail = std::mem::take(&mut self.tail);
        let mut rest = if tail.is_empty() {
            bytes
        } else {
            tail.extend_from_slice(bytes);
            &tail[..]
        };
        while rest.len() >= FRAME_HEADER_BYTES {
            let length =
                usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            if rest.len() < FRAME_HEADER_BYTES + length {
                break;
            }
            let (kind, flags) = (rest[3], rest[4]);
            let stream = u32::from_be_bytes([rest[5] & 0x7f, rest[6], rest[7], rest[8]]);
            let payload = &rest[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length];
            self.frame(kind, flags, stream, payload, &mut report)?;
            rest = &rest[FRAME_HEADER_BYTES + length..];
        }
        self.tail = rest.to_vec();
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        report: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), String> {
        match kind {
            DATA => {
                self.consumed += payload.len() as u32;
                if self.consumed > WINDOW_BYTES / 2 {
                    let used = std::mem::take(&mut self.consumed);
                    frame(&mut self.out, WINDOW_UPDATE, 0, 0, &used.to_be_bytes());
                }
                report(Arrival::Message { stream, payload });
                if flags & END_STREAM != 0 {
                    report(Arrival::End { stream });
                }
            }
            HEADERS if flags & END_STREAM != 0 => report(Arrival::End { stream }),
            RST_STREAM => report(Arrival::End { stream }),
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    let value =
                        u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    if setting[..2] == [0, 4] {
                        self.stream_window = i64::from(value);
                    }
                }
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 && payload.len() == 4 => {
                let more = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
                self.send_window += i64::from(more);
            }
            GOAWAY if payload.len() >= 8 => {
                let code = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
                report(Arrival::GoAway { code });
            }
            _ => {}
        }
        Ok(())
    }
}

fn frame_header(bytes: usize, kind: u8, flags: u8, stream: u32) -> [u8; FRAME_HEADER_BYTES] {
    let length = (bytes as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    [
        length[1], length[2], length[3], kind, flags, stream[0], stream[1], stream[2], stream[3],
    ]
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&frame_header(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}
