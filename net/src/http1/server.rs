//! The server's end of a connection.

use super::{
    body::put_chunk_size,
    head::{put_field, status_text, Refusal},
    Body, RequestHead, AHEAD_BYTES_MAX, BODY_STALL_NS, HEAD_NS, IDLE_NS, WRITE_STALL_NS,
};
use crate::connection::Output;

/// What a client sent. Events of one request come in this order; after [`ServerEvent::End`] it is to be answered, though
/// it may be answered before.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerEvent<'a> {
    Head(RequestHead),
    Data(&'a [u8]),
    End,
}

/// How far the request is.
enum Incoming {
    Head,
    Body(Body),
    /// The body is complete, and that is to be told.
    Ended,
    /// Told; the answer is awaited.
    Answering,
    /// Whatever comes is dropped: the connection ends.
    Drop,
}

/// How far the answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    None,
    /// A streamed body, in chunks unless the client knows none.
    Stream {
        chunked: bool,
    },
}

pub struct Server {
    input: Vec<u8>,
    consumed: usize,
    incoming: Incoming,
    outgoing: Outgoing,
    keeps_alive: bool,
    old_version: bool,
    /// The request was a HEAD: its answer has no body.
    to_head: bool,
    closing: bool,
    output: Output,
    /// When the client last did what it is waited for.
    progress_ns: u64,
    /// When the socket was last seen to take something, and how much it had taken then.
    written_ns: u64,
    taken_bytes: u64,
}

impl Server {
    pub fn new(now_ns: u64) -> Server {
        Server {
            input: Vec::new(),
            consumed: 0,
            incoming: Incoming::Head,
            outgoing: Outgoing::None,
            keeps_alive: true,
            old_version: false,
            to_head: false,
            closing: false,
            output: Output::default(),
            progress_ns: now_ns,
            written_ns: now_ns,
            taken_bytes: 0,
        }
    }

    /// Takes bytes in; [`Server::next`] says what they are.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64) {
        if matches!(self.incoming, Incoming::Drop) {
            return;
        }
        // A head has to come in one go, a body may rest between its parts.
        if !matches!(self.incoming, Incoming::Head) || self.waiting().is_empty() {
            self.progress_ns = now_ns;
        }
        self.input.extend_from_slice(bytes);
    }

    fn waiting(&self) -> &[u8] {
        &self.input[self.consumed..]
    }

    fn consume(&mut self, count: usize) {
        self.consumed += count;
        if self.consumed == self.input.len() {
            self.input.clear();
            self.input.shrink_to(AHEAD_BYTES_MAX);
            self.consumed = 0;
        }
    }

    /// The next thing that the client sent, until there is nothing more to tell for now.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<ServerEvent<'_>> {
        match &mut self.incoming {
            Incoming::Head => self.next_head().map(ServerEvent::Head),
            Incoming::Body(body) => match body.decode(&self.input[self.consumed..]) {
                Ok(decoded) => {
                    if body.is_done() {
                        self.incoming = Incoming::Ended;
                    }
                    let end = self.consumed + decoded.consumed;
                    if decoded.data == 0 {
                        self.consume(decoded.consumed);
                        return match self.incoming {
                            Incoming::Ended => self.next(),
                            _ => None,
                        };
                    }
                    // The buffer is tidied at the next call, while the data is not borrowed any more.
                    self.consumed = end;
                    Some(ServerEvent::Data(&self.input[end - decoded.data..end]))
                }
                Err(_) => {
                    self.refuse(Refusal::new(400, "400 Bad Request"));
                    None
                }
            },
            Incoming::Ended => {
                self.consume(0);
                self.incoming = Incoming::Answering;
                Some(ServerEvent::End)
            }
            Incoming::Answering | Incoming::Drop => None,
        }
    }

    fn next_head(&mut self) -> Option<RequestHead> {
        self.consume(0);
        // Empty lines between requests are harmless (RFC 9112 section 2.2).
        while self.waiting().starts_with(b"\r\n") {
            self.consume(2);
        }
        if self.waiting().is_empty() {
            return None;
        }
        match RequestHead::parse(self.waiting()) {
            Ok(None) => None,
            Ok(Some((length, head))) => {
                self.consume(length);
                self.keeps_alive = head.keeps_alive();
                self.old_version = head.minor_version == 0;
                self.to_head = head.method == "HEAD";
                self.incoming = match head.body.is_done() {
                    true => Incoming::Ended,
                    false => Incoming::Body(head.body.clone()),
                };
                let waits = head.headers.has_token("expect", "100-continue");
                if waits && !head.body.is_done() && self.waiting().is_empty() {
                    let out = self.output.buffer();
                    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                Some(head)
            }
            Err(refusal) => {
                self.refuse(refusal);
                None
            }
        }
    }

    /// Answers what cannot be understood, and ends the connection.
    fn refuse(&mut self, refusal: Refusal) {
        self.keeps_alive = false;
        if self.outgoing == Outgoing::None {
            let plain = [("Content-Type", "text/plain; charset=utf-8")];
            let now_ns = self.progress_ns;
            self.respond(refusal.status, &plain, refusal.text.as_bytes(), now_ns);
        }
        self.end();
    }

    /// Answers the request in hand.
    pub fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8], now_ns: u64) {
        self.put_head(status, headers, now_ns);
        let out = self.output.buffer();
        if status != 204 {
            put_field(out, "Content-Length", &body.len().to_string());
        }
        out.extend_from_slice(b"\r\n");
        if status != 204 && !self.to_head {
            out.extend_from_slice(body);
        }
        self.answered(now_ns);
    }

    /// Begins an answer whose end is not known; [`Server::chunk`] gives its parts.
    pub fn respond_stream(&mut self, status: u16, headers: &[(&str, &str)], now_ns: u64) {
        let chunked = !self.old_version;
        if !chunked {
            self.keeps_alive = false;
        }
        self.put_head(status, headers, now_ns);
        let out = self.output.buffer();
        if chunked {
            put_field(out, "Transfer-Encoding", "chunked");
        }
        out.extend_from_slice(b"\r\n");
        self.outgoing = Outgoing::Stream { chunked };
    }

    /// One part of a streamed answer, written by `put`, which must write `bytes` bytes.
    pub fn chunk(&mut self, bytes: usize, now_ns: u64, put: impl FnOnce(&mut Vec<u8>)) {
        let Outgoing::Stream { chunked } = self.outgoing else {
            return;
        };
        if bytes == 0 {
            return;
        }
        self.output_begins(now_ns);
        let out = self.output.buffer();
        if chunked {
            put_chunk_size(out, bytes);
        }
        let before = out.len();
        put(out);
        debug_assert_eq!(out.len() - before, bytes);
        if chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Ends a streamed answer.
    pub fn finish(&mut self, now_ns: u64) {
        if let Outgoing::Stream { chunked } = self.outgoing {
            if chunked {
                self.output.buffer().extend_from_slice(b"0\r\n\r\n");
            }
            self.answered(now_ns);
        }
    }

    /// What is written from here on waits for the socket since now, unless something waits already.
    fn output_begins(&mut self, now_ns: u64) {
        if self.output.is_empty() {
            self.written_ns = now_ns;
        }
    }

    fn put_head(&mut self, status: u16, headers: &[(&str, &str)], now_ns: u64) {
        self.output_begins(now_ns);
        // What is left of the request would have to be read before the next one: rather not.
        if !matches!(self.incoming, Incoming::Answering | Incoming::Ended) {
            self.keeps_alive = false;
        }
        let out = self.output.buffer();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status_text(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            put_field(out, name, value);
        }
        match (self.keeps_alive, self.old_version) {
            (false, _) => put_field(out, "Connection", "close"),
            (true, true) => put_field(out, "Connection", "keep-alive"),
            (true, false) => {}
        }
    }

    fn answered(&mut self, now_ns: u64) {
        self.outgoing = Outgoing::None;
        match self.keeps_alive {
            true => {
                self.incoming = Incoming::Head;
                self.progress_ns = now_ns;
            }
            false => self.end(),
        }
    }

    /// Ends the connection once the output is sent.
    pub fn end(&mut self) {
        self.closing = true;
        self.incoming = Incoming::Drop;
        self.input = Vec::new();
        self.consumed = 0;
    }

    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// Whether to read from the socket.
    pub fn wants_input(&self) -> bool {
        match self.incoming {
            Incoming::Head | Incoming::Body(_) | Incoming::Drop => true,
            Incoming::Ended | Incoming::Answering => self.waiting().len() <= AHEAD_BYTES_MAX,
        }
    }

    /// The client was not read from until now, and is waited for from now on.
    pub fn wait_anew(&mut self, now_ns: u64) {
        self.progress_ns = now_ns;
    }

    /// Nothing more will come from here.
    pub fn should_close(&self) -> bool {
        self.closing && self.output.is_empty()
    }

    /// Whether no request is in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.incoming, Incoming::Head) && self.waiting().is_empty()
    }

    /// When the client has to have done what is waited for, if anything is.
    pub fn deadline_ns(&self) -> Option<u64> {
        if !self.output.is_empty() {
            return Some(self.written_ns + WRITE_STALL_NS);
        }
        match self.incoming {
            Incoming::Head if self.waiting().is_empty() => Some(self.progress_ns + IDLE_NS),
            Incoming::Head => Some(self.progress_ns + HEAD_NS),
            Incoming::Body(_) => Some(self.progress_ns + BODY_STALL_NS),
            Incoming::Ended | Incoming::Answering => None,
            Incoming::Drop => Some(self.written_ns + WRITE_STALL_NS),
        }
    }

    /// Whether the connection is to be closed because the client is too slow.
    pub fn is_overdue(&mut self, now_ns: u64) -> bool {
        if self.output.taken_bytes() != self.taken_bytes {
            self.taken_bytes = self.output.taken_bytes();
            self.written_ns = now_ns;
        }
        self.deadline_ns()
            .is_some_and(|deadline_ns| deadline_ns <= now_ns)
    }
}
