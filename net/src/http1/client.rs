//! The client's end of a connection: one request at a time.

use super::{body::put_chunk_size, head::put_field, Body, ResponseHead, AHEAD_BYTES_MAX};
use crate::connection::Output;

/// What the server answered. Events of one answer come in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    Head(ResponseHead),
    Data(&'a [u8]),
    End,
}

/// Why the connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// What came is no HTTP/1.1 answer.
    Malformed,
    /// The connection ended before the answer did.
    Incomplete,
}

enum State {
    Idle,
    Head,
    Body(Body),
    Ended,
}

pub struct Client {
    input: Vec<u8>,
    consumed: usize,
    state: State,
    to_head: bool,
    keeps_alive: bool,
    /// The body of the request is not complete.
    is_sending: bool,
    output: Output,
}

impl Default for Client {
    fn default() -> Self {
        Client {
            input: Vec::new(),
            consumed: 0,
            state: State::Idle,
            to_head: false,
            keeps_alive: true,
            is_sending: false,
            output: Output::default(),
        }
    }
}

impl Client {
    /// Asks. Must be idle.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) {
        self.put_head(method, target, host, headers);
        let out = self.output.buffer();
        if let Some(body) = body {
            put_field(out, "Content-Length", &body.len().to_string());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.unwrap_or_default());
    }

    /// Begins a request whose body's length is not known; [`Client::chunk`] gives its parts. Must be idle.
    pub fn request_stream(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        headers: &[(&str, &str)],
    ) {
        self.put_head(method, target, host, headers);
        let out = self.output.buffer();
        put_field(out, "Transfer-Encoding", "chunked");
        out.extend_from_slice(b"\r\n");
        self.is_sending = true;
    }

    /// One part of a streamed body.
    pub fn chunk(&mut self, bytes: &[u8]) {
        if self.is_sending && !bytes.is_empty() {
            let out = self.output.buffer();
            put_chunk_size(out, bytes.len());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Ends a streamed body.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.is_sending) {
            self.output.buffer().extend_from_slice(b"0\r\n\r\n");
        }
    }

    fn put_head(&mut self, method: &str, target: &str, host: &str, headers: &[(&str, &str)]) {
        debug_assert!(matches!(self.state, State::Idle) && !self.is_sending);
        let out = self.output.buffer();
        for part in [method, " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        put_field(out, "Host", host);
        for (name, value) in headers {
            put_field(out, name, value);
        }
        self.to_head = method == "HEAD";
        self.state = State::Head;
    }

    pub fn receive(&mut self, bytes: &[u8]) {
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

    /// The next thing that the server sent, until there is nothing more to tell for now.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<ClientEvent<'_>>, ClientError> {
        loop {
            match &mut self.state {
                State::Idle => {
                    return match self.waiting().is_empty() {
                        true => Ok(None),
                        false => Err(ClientError::Malformed), // an answer to nothing
                    };
                }
                State::Head => {
                    self.consume(0);
                    if self.waiting().is_empty() {
                        return Ok(None);
                    }
                    let parsed = ResponseHead::parse(self.waiting(), self.to_head);
                    let Some((length, head)) = parsed.map_err(|_| ClientError::Malformed)? else {
                        return Ok(None);
                    };
                    self.consume(length);
                    match head.status {
                        101 => return Err(ClientError::Malformed),
                        100..=199 => continue, // the final answer follows
                        _ => {}
                    }
                    self.keeps_alive = head.keeps_alive();
                    self.state = match head.body.is_done() {
                        true => State::Ended,
                        false => State::Body(head.body.clone()),
                    };
                    return Ok(Some(ClientEvent::Head(head)));
                }
                State::Body(body) => {
                    let decoded = body
                        .decode(&self.input[self.consumed..])
                        .map_err(|_| ClientError::Malformed)?;
                    let done = body.is_done();
                    if done {
                        self.state = State::Ended;
                    }
                    let end = self.consumed + decoded.consumed;
                    if decoded.data > 0 {
                        // Tidied at the next call, while the data is not borrowed any more.
                        self.consumed = end;
                        return Ok(Some(ClientEvent::Data(
                            &self.input[end - decoded.data..end],
                        )));
                    }
                    self.consume(decoded.consumed);
                    if !done {
                        return Ok(None);
                    }
                }
                State::Ended => {
                    self.consume(0);
                    self.state = State::Idle;
                    return Ok(Some(ClientEvent::End));
                }
            }
        }
    }

    /// The server sends nothing more. True if that ended an answer whose end the connection's is.
    pub fn end_of_input(&mut self) -> Result<bool, ClientError> {
        self.keeps_alive = false;
        match self.state {
            State::Idle => Ok(false),
            State::Body(Body::UntilClose) | State::Ended => {
                self.state = State::Idle;
                Ok(true)
            }
            State::Head | State::Body(_) => Err(ClientError::Incomplete),
        }
    }

    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether another request can be sent.
    pub fn is_reusable(&self) -> bool {
        let is_idle = matches!(self.state, State::Idle) && !self.is_sending;
        self.keeps_alive && is_idle && self.waiting().is_empty()
    }
}
