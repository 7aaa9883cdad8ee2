//! A connection that this member opened: a stream that it reads, or single requests.

use super::{connection::Lost, exchange::Exchange};
use bytes::Bytes;
use net::{
    http1::{Client, ClientEvent, Headers, ResponseHead},
    peer::{is_body_damaged, is_damaged, Decoder, Frame, Kind},
};
use proto::raftpb::Message;

/// A stream from which nothing comes for this long is given up. Its sender says every third of it that it is alive.
pub const READ_NS_MAX: u64 = 5_000_000_000;
/// Largest answer to a single request.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// An open connection without use is closed after this long.
const IDLE_NS_MAX: u64 = 90_000_000_000;

const DAMAGED: &str = "its answer was damaged on its way: the checksum does not fit";

pub struct Outbound {
    pub peer: u64,
    /// The number of the URL that it goes to.
    pub url: usize,
    pub client: Client,
    pub work: Work,
    /// When it was opened; `None` while it is being opened.
    pub opened_ns: Option<u64>,
    /// When it is given up unless something comes.
    deadline_ns: u64,
}

pub enum Work {
    Stream {
        kind: Kind,
        /// Once the other side has agreed.
        decoder: Option<Decoder>,
    },
    Exchange {
        exchange: Exchange,
        /// The connection served another request before.
        reused: bool,
        /// Something of the answer has come.
        heard: bool,
        head: Option<ResponseHead>,
        body: Vec<u8>,
    },
    Idle,
}

/// What came by a connection.
pub enum Heard {
    /// The answer to the request for a stream.
    Opened(ResponseHead),
    Message(Box<Message>),
    /// The answer to a single request.
    Answer {
        status: u16,
        headers: Headers,
        body: Bytes,
    },
    /// The connection is of no use any more; the text says why if that is remarkable.
    Ended(Lost, Option<&'static str>),
}

impl Outbound {
    pub fn new(peer: u64, url: usize, work: Work, deadline_ns: u64) -> Outbound {
        Outbound {
            peer,
            url,
            client: Client::default(),
            work,
            opened_ns: None,
            deadline_ns,
        }
    }

    pub fn opened(&mut self, now_ns: u64) {
        self.opened_ns = Some(now_ns);
        if let Work::Stream { .. } = self.work {
            self.deadline_ns = now_ns + READ_NS_MAX;
        }
    }

    pub fn is_overdue(&self, now_ns: u64) -> bool {
        now_ns >= self.deadline_ns
    }

    /// Takes up another request.
    pub fn begin(&mut self, exchange: Exchange, deadline_ns: u64) {
        self.work = Work::Exchange {
            exchange,
            reused: true,
            heard: false,
            head: None,
            body: Vec::new(),
        };
        self.deadline_ns = deadline_ns;
    }

    /// The request goes on: it is given up when nothing comes until then.
    pub fn extend(&mut self, deadline_ns: u64) {
        self.deadline_ns = deadline_ns;
    }

    pub fn rest(&mut self, now_ns: u64) {
        self.work = Work::Idle;
        self.deadline_ns = now_ns + IDLE_NS_MAX;
    }

    /// The stream is open.
    pub fn begin_stream(&mut self, new: Decoder) {
        if let Work::Stream { decoder, .. } = &mut self.work {
            *decoder = Some(new);
        }
    }

    pub fn receive(&mut self, bytes: &[u8], now_ns: u64) {
        self.client.receive(bytes);
        match &mut self.work {
            Work::Stream { .. } => self.deadline_ns = now_ns + READ_NS_MAX,
            Work::Exchange { heard, .. } => *heard = true,
            Work::Idle => {}
        }
    }

    /// What has come, one thing at a time.
    pub fn next(&mut self) -> Option<Heard> {
        loop {
            if let Work::Stream {
                decoder: Some(decoder),
                ..
            } = &mut self.work
            {
                match decoder.next() {
                    Ok(Some(Frame::Message(message))) => return Some(Heard::Message(message)),
                    Ok(Some(Frame::Heartbeat)) => continue,
                    Ok(None) => {}
                    Err(error) => return Some(Heard::Ended(Lost::Broken, Some(error.text()))),
                }
            }
            let event = match self.client.next() {
                Ok(Some(event)) => event,
                Ok(None) => return None,
                Err(_) => {
                    return Some(Heard::Ended(
                        Lost::Broken,
                        Some("it does not speak HTTP/1.1"),
                    ))
                }
            };
            match (&mut self.work, event) {
                (_, ClientEvent::Head(head))
                    if is_damaged(&head.status.to_string(), &head.headers) =>
                {
                    return Some(Heard::Ended(Lost::Broken, Some(DAMAGED)))
                }
                (Work::Stream { .. }, ClientEvent::Head(head)) => return Some(Heard::Opened(head)),
                (
                    Work::Stream {
                        decoder: Some(decoder),
                        ..
                    },
                    ClientEvent::Data(bytes),
                ) => decoder.receive(bytes),
                (Work::Stream { .. }, _) => return Some(Heard::Ended(Lost::Closed, None)),
                (Work::Exchange { head, .. }, ClientEvent::Head(found)) => *head = Some(found),
                (Work::Exchange { body, .. }, ClientEvent::Data(bytes)) => {
                    if body.len() + bytes.len() > ANSWER_BYTES_MAX {
                        let text = "its answer is larger than 8 MiB";
                        return Some(Heard::Ended(Lost::Broken, Some(text)));
                    }
                    body.extend_from_slice(bytes);
                }
                (Work::Exchange { .. }, ClientEvent::End) => return self.answer(),
                (Work::Idle, _) => return Some(Heard::Ended(Lost::Broken, None)),
            }
        }
    }

    /// The complete answer, if there is one.
    pub fn answer(&mut self) -> Option<Heard> {
        let Work::Exchange { head, body, .. } = &mut self.work else {
            return None;
        };
        let head = head.take()?;
        if is_body_damaged(&head.headers, body) {
            return Some(Heard::Ended(Lost::Broken, Some(DAMAGED)));
        }
        Some(Heard::Answer {
            status: head.status,
            headers: head.headers,
            body: std::mem::take(body).into(),
        })
    }
}
