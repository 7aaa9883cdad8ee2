//! The client's end of a connection, for peers, tests and the load generator.

use bytes::Bytes;

use super::compression::{self, Encoding};
use super::message::{self, Assembler};
use super::status::{percent_decode, Code};
use super::StreamId;
use crate::connection::{
    self, Connection, End, Expiry, Head, Incoming, Input, Keepalive, Key, Opening, Output,
    ReadHead, Role,
};
use crate::frame::{Error, Reason};
use crate::hpack::{Field, FieldList};

/// What a server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    Message {
        stream: StreamId,
        message: Bytes,
    },
    /// The call is over. Calls that the connection's end cut off have code 14.
    End {
        stream: StreamId,
        code: u32,
        message: String,
    },
}

/// A call's path and metadata, encoded once for many calls of one connection.
#[derive(Debug)]
pub struct CallTemplate(Opening);

impl CallTemplate {
    pub fn new(authority: &str, path: &str, metadata: &[(&str, &[u8])]) -> CallTemplate {
        let mut fields = FieldList::new();
        fields.push(Field::new(b":method", b"POST"));
        fields.push(Field::new(b":scheme", b"http"));
        fields.push(Field::new(b":path", path.as_bytes()));
        fields.push(Field::new(b":authority", authority.as_bytes()));
        fields.push(Field::new(b"content-type", b"application/grpc"));
        fields.push(Field::new(b"te", b"trailers"));
        for (name, value) in metadata {
            // Credentials stay out of the tables of both sides.
            match *name {
                "token" | "authorization" => {
                    fields.push(Field::never_indexed(name.as_bytes(), value))
                }
                _ => fields.push(Field::new(name.as_bytes(), value)),
            }
        }
        CallTemplate(Opening::new(fields))
    }
}

/// State of a call.
#[derive(Debug, Default)]
struct Exchange {
    assembler: Assembler,
    encoding: Encoding,
}

/// What a response's head or trailers say.
#[derive(Debug, Clone)]
struct Answer {
    http_status: u16,
    status: Option<(u32, String)>,
    encoding: Encoding,
}

#[derive(Debug)]
struct AnswerReader;

impl ReadHead for AnswerReader {
    type Output = Answer;

    fn read(&mut self, head: &Head<'_>) -> Answer {
        let (fields, http_status) = match head {
            Head::Response(response) => (response.fields, response.status),
            Head::Request(request) => (request.fields, 0),
            Head::Trailers(fields) => (*fields, 200),
        };
        let mut answer = Answer {
            http_status,
            status: None,
            encoding: Encoding::Identity,
        };
        let mut text = String::new();
        for field in fields.iter() {
            match field.name {
                b"grpc-status" => {
                    let code = std::str::from_utf8(field.value)
                        .ok()
                        .and_then(|digits| digits.parse().ok());
                    answer.status = Some((code.unwrap_or(Code::UNKNOWN.0), String::new()));
                }
                b"grpc-message" => text = percent_decode(field.value),
                b"grpc-encoding" if field.value == b"gzip" => answer.encoding = Encoding::Gzip,
                _ => {}
            }
        }
        if let Some((_, message)) = &mut answer.status {
            *message = text;
        }
        answer
    }
}

#[derive(Debug)]
pub struct Client {
    connection: Connection<Exchange, AnswerReader>,
    input: Input,
    message_bytes_max: usize,
    expired: Vec<(Key, Expiry)>,
}

impl Client {
    /// The preface and our SETTINGS are in the output at once; calls may follow without waiting.
    pub fn new(keepalive: Keepalive, message_bytes_max: usize, now_ns: u64) -> Client {
        let config = connection::Config {
            role: Role::Client,
            concurrent_streams_max: u32::MAX,
            keepalive,
            idle_ns: u64::MAX,
            known_fields: &[],
        };
        let mut connection = Connection::new(&config, AnswerReader, now_ns);
        connection.greet(&config);
        Client {
            connection,
            input: Input::default(),
            message_bytes_max,
            expired: Vec::new(),
        }
    }

    /// A call with one message. `None` when the server takes no stream now: try again after the end of another call.
    pub fn call(
        &mut self,
        template: &mut CallTemplate,
        timeout_ns: Option<u64>,
        message: &[u8],
    ) -> Option<StreamId> {
        let stream = self.open(template, timeout_ns)?;
        self.send(stream, message);
        self.half_close(stream);
        Some(stream)
    }

    /// A call whose messages follow.
    pub fn open(
        &mut self,
        template: &mut CallTemplate,
        timeout_ns: Option<u64>,
    ) -> Option<StreamId> {
        let value = timeout_ns.map(format_timeout);
        let timeout = value
            .as_ref()
            .map(|value| Field::without_indexing(b"grpc-timeout", value.as_bytes()));
        let key = self
            .connection
            .open(Exchange::default(), &mut template.0, timeout)?;
        if let Some(timeout_ns) = timeout_ns {
            let deadline_ns = self.connection.now_ns().saturating_add(timeout_ns);
            self.connection.set_deadline(key, deadline_ns);
        }
        Some(self.connection.stream(key).id)
    }

    pub fn send(&mut self, stream: StreamId, message: &[u8]) {
        if let Some(key) = self.connection.find(stream) {
            self.connection
                .send_data(key, [&message::prefix(false, message.len()), message]);
        }
    }

    pub fn half_close(&mut self, stream: StreamId) {
        if let Some(key) = self.connection.find(stream) {
            self.connection.end(key, End::Data);
        }
    }

    /// Gives a call up. No event follows.
    pub fn cancel(&mut self, stream: StreamId) {
        if let Some(key) = self.connection.find(stream) {
            self.connection.reset(key, Reason::CANCEL);
        }
    }

    /// Request bytes of a call that wait for windows or socket.
    pub fn backlog_bytes(&self, stream: StreamId) -> usize {
        self.connection
            .find(stream)
            .map_or(0, |key| self.connection.stream(key).backlog_bytes())
    }

    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, events: &mut Vec<ClientEvent>) {
        if self.connection.is_closed() {
            return;
        }
        self.connection.heard(now_ns);
        let mut input = std::mem::take(&mut self.input);
        let outcome = self.frames(&mut input, bytes, events);
        self.input = input;
        if let Err(error) = outcome {
            let lost = self.connection.fail(error);
            unavailable(lost, error.text, events);
        }
    }

    fn frames(
        &mut self,
        input: &mut Input,
        mut rest: &[u8],
        events: &mut Vec<ClientEvent>,
    ) -> Result<(), Error> {
        while let Some((header, payload)) = input.next(&mut rest)? {
            match self.connection.receive(header, payload)? {
                Incoming::Nothing => {}
                Incoming::Head {
                    key,
                    head,
                    end_stream,
                } => self.head(key, head, end_stream, events),
                Incoming::Data {
                    key,
                    data,
                    end_stream,
                } => self.data(key, data, end_stream, events),
                Incoming::Trailers { key, head } => self.end(key, head.status, events),
                Incoming::GoAway { last, reason } => self.go_away(last, reason, events),
                Incoming::Closed { id, reason, .. } => {
                    let code = match reason {
                        Reason::REFUSED_STREAM => Code::UNAVAILABLE,
                        Reason::CANCEL => Code::CANCELLED,
                        _ => Code::INTERNAL,
                    };
                    let message = format!("stream reset with error code {}", reason.0);
                    events.push(ClientEvent::End {
                        stream: id,
                        code: code.0,
                        message,
                    });
                }
            }
        }
        Ok(())
    }

    fn head(&mut self, key: Key, head: Answer, end_stream: bool, events: &mut Vec<ClientEvent>) {
        if end_stream {
            return self.end(key, head.status, events);
        }
        if head.http_status != 200 {
            let status = (
                Code::UNKNOWN.0,
                format!("unexpected HTTP status {}", head.http_status),
            );
            return self.end(key, Some(status), events);
        }
        self.connection.stream_mut(key).state.encoding = head.encoding;
    }

    fn data(&mut self, key: Key, mut data: &[u8], end_stream: bool, events: &mut Vec<ClientEvent>) {
        loop {
            let stream = self.connection.stream_mut(key);
            let id = stream.id;
            let exchange = &mut stream.state;
            let message = match exchange.assembler.next(&mut data, self.message_bytes_max) {
                Ok(None) => break,
                Ok(Some(message)) if !message.compressed => Ok(message.bytes),
                Ok(Some(message)) => compression::inflate(&message.bytes, self.message_bytes_max),
                Err(status) => Err(status),
            };
            match message {
                Ok(message) => events.push(ClientEvent::Message {
                    stream: id,
                    message,
                }),
                Err(status) => return self.end(key, Some((status.code.0, status.message)), events),
            }
            self.connection.message_completed();
        }
        if end_stream {
            self.end(key, None, events);
        }
    }

    fn end(&mut self, key: Key, status: Option<(u32, String)>, events: &mut Vec<ClientEvent>) {
        let stream = self.connection.stream(key).id;
        self.connection.forget(key);
        let (code, message) = status.unwrap_or_else(|| {
            (
                Code::INTERNAL.0,
                "server closed the stream without sending trailers".into(),
            )
        });
        events.push(ClientEvent::End {
            stream,
            code,
            message,
        });
    }

    /// Calls that the server has not looked at are over; they may be repeated elsewhere.
    fn go_away(&mut self, last: StreamId, reason: Reason, events: &mut Vec<ClientEvent>) {
        let refused: Vec<StreamId> = self
            .connection
            .streams()
            .map(|stream| stream.id)
            .filter(|&id| id > last)
            .collect();
        for id in refused {
            if let Some(key) = self.connection.find(id) {
                let state = self.connection.reset(key, Reason::CANCEL);
                unavailable(
                    [(id, state)],
                    &format!("server is going away with error code {}", reason.0),
                    events,
                );
            }
        }
    }

    pub fn output(&mut self) -> &mut Output {
        self.connection.output()
    }

    pub fn deadline_ns(&self) -> Option<u64> {
        Some(self.connection.deadline_ns()).filter(|&deadline| deadline != u64::MAX)
    }

    pub fn on_timer(&mut self, now_ns: u64, events: &mut Vec<ClientEvent>) {
        let mut expired = std::mem::take(&mut self.expired);
        let outcome = self.connection.on_timer(now_ns, &mut expired);
        for (key, _) in expired.drain(..) {
            let stream = self.connection.stream(key).id;
            self.connection.reset(key, Reason::CANCEL);
            let message = "context deadline exceeded".into();
            events.push(ClientEvent::End {
                stream,
                code: Code::DEADLINE_EXCEEDED.0,
                message,
            });
        }
        self.expired = expired;
        if let Err(error) = outcome {
            let lost = self.connection.fail(error);
            unavailable(lost, error.text, events);
        }
    }

    /// The transport is gone.
    pub fn disconnect(&mut self, events: &mut Vec<ClientEvent>) {
        let lost = self.connection.disconnect();
        unavailable(lost, "connection closed", events);
    }

    pub fn stream_count(&self) -> usize {
        self.connection.stream_count()
    }

    pub fn should_close(&self) -> bool {
        self.connection.should_close()
    }
}

fn unavailable(
    lost: impl IntoIterator<Item = (StreamId, Exchange)>,
    text: &str,
    events: &mut Vec<ClientEvent>,
) {
    for (stream, _) in lost {
        events.push(ClientEvent::End {
            stream,
            code: Code::UNAVAILABLE.0,
            message: text.into(),
        });
    }
}

/// The finest unit in which the value has at most eight digits, rounded up.
fn format_timeout(timeout_ns: u64) -> String {
    const UNITS: [(u64, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    for (unit_ns, unit) in UNITS {
        let count = timeout_ns.div_ceil(unit_ns);
        if count < 100_000_000 {
            return format!("{count}{unit}");
        }
    }
    "99999999H".into()
}
