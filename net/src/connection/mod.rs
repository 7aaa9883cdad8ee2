//! The state of one HTTP/2 connection: frames in, messages of streams and bytes out.
//!
//! ```text
//! bytes -> [Input] -> frames -> Connection::receive -> Incoming (heads, data, trailers, ends)
//!                                      |
//! heads, data, trailers of the floor above -> queues, windows -> [Output] -> bytes
//! ```
//!
//! A pure state machine: time comes in with the calls, nothing is awaited. It owns what RFC 9113 is about (streams, windows,
//! settings, header compression, graceful and abrupt ends) and every defence against peers that abuse it. What a request
//! means is the business of the floor above, which keeps a value of its own in each stream (`S`) and says what it makes
//! of a head ([`ReadHead`]); heads whose block was seen before are neither decoded nor read again.
//!
//! Invariants: windows never pass 2^31-1 nor does the peer see one that we did not open; every header block is decoded,
//! whatever becomes of its stream; all memory that a peer can fill has a bound in [`crate::limits`].

mod flow;
mod head;
mod head_cache;
mod input;
mod keepalive;
mod memory;
mod output;
mod rate;
mod receive;
mod send;
mod streams;
mod timers;

use std::collections::VecDeque;

use crate::frame::{go_away::GoAway, ping::Ping, reset::Reset, settings::Settings};
use crate::frame::{Error, Reason, StreamId};
use crate::hpack::{Decoder, Encoder, FieldList, Prepared};
use crate::limits;

pub use head::{Head, Malformed, RequestHead, ResponseHead};
pub use input::Input;
pub use keepalive::Keepalive;
pub use output::Output;
pub use send::Opening;
pub use streams::{End, Key, Stream};
pub use timers::Expiry;

use flow::{ReceiveWindow, SendWindow};
use head_cache::HeadCache;
use keepalive::Pings;
use memory::{ResetStreams, SkippedStreams};
use rate::Rates;
use streams::Streams;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// What the floor above makes of message heads. The value is kept with the header block and cloned when an equal block
/// comes again, so it depends on the head alone.
pub trait ReadHead {
    type Output: Clone;
    fn read(&mut self, head: &Head<'_>) -> Self::Output;
}

/// What a frame meant for the floor above.
#[derive(Debug)]
pub enum Incoming<'a, S, H> {
    /// Nothing.
    Nothing,
    /// A request (server) or a response (client) begins.
    Head { key: Key, head: H, end_stream: bool },
    /// Part of a body. Its window is given back already.
    Data {
        key: Key,
        data: &'a [u8],
        end_stream: bool,
    },
    /// The body has ended with these.
    Trailers { key: Key, head: H },
    /// The peer takes no more streams (client): those above `last` it has not looked at.
    GoAway { last: StreamId, reason: Reason },
    /// The stream was reset by the peer or because of what the peer sent. It is gone.
    Closed {
        id: StreamId,
        state: S,
        reason: Reason,
    },
}

/// Header fields that are sent again and again, kept encoded: see [`Prepared`].
pub type KnownFields = &'static [(&'static [u8], &'static [u8])];

#[derive(Debug, Clone)]
pub struct Config {
    pub role: Role,
    /// SETTINGS_MAX_CONCURRENT_STREAMS; `u32::MAX` is not announced.
    pub concurrent_streams_max: u32,
    pub keepalive: Keepalive,
    /// Close a connection that has no streams for this long; `u64::MAX` for never.
    pub idle_ns: u64,
    /// Blocks for [`Connection::send_known_head`] and [`End::Prepared`].
    pub known_fields: &'static [KnownFields],
}

/// What the peer's SETTINGS say.
#[derive(Debug, Clone, Copy)]
struct PeerSettings {
    initial_window: u32,
    frame_bytes_max: u32,
    header_list_bytes_max: u32,
    concurrent_streams_max: u32,
}

/// The way to the end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The peer's first frame, SETTINGS, has not come.
    Opening {
        until_ns: u64,
    },
    Open,
    /// GOAWAY(2^31-1) and a PING are out: new streams are still welcome until the PING's answer.
    Announced {
        until_ns: u64,
        give_up_ns: u64,
    },
    /// GOAWAY(last) is out: streams above it are ignored.
    Draining {
        last: StreamId,
        give_up_ns: u64,
    },
    /// The peer has sent GOAWAY (client): open streams may finish.
    Leaving,
    Closed,
}

/// A header block that has begun and not ended.
#[derive(Debug, Clone, Copy)]
struct OpenBlock {
    stream: StreamId,
    end_stream: bool,
    continuations: u32,
    until_ns: u64,
}

/// What the PING of a graceful stop carries.
const SHUTDOWN_PING: [u8; 8] = *b"shutdown";

#[derive(Debug)]
pub struct Connection<S, R: ReadHead> {
    role: Role,
    concurrent_streams_max: usize,
    idle_ns: u64,
    phase: Phase,
    now_ns: u64,
    /// The floor above's reader of heads.
    pub reader: R,

    streams: Streams<S>,
    /// Largest id that was opened.
    largest: StreamId,
    reset_streams: ResetStreams,
    skipped: SkippedStreams,

    decoder: Decoder,
    fields: FieldList,
    heads: HeadCache<R::Output>,
    block: Option<OpenBlock>,
    block_bytes: Vec<u8>,

    encoder: Encoder,
    known: Vec<(KnownFields, Prepared)>,

    receive_window: ReceiveWindow,
    send_window: SendWindow,
    peer: PeerSettings,
    /// Streams with data queued and window to send it.
    ready: VecDeque<StreamId>,
    /// Sum of the streams' queues.
    queued_bytes: usize,
    output: Output,

    rates: Rates,
    pings: Pings,
    /// No stream's deadline is before this.
    streams_due_ns: u64,
    streams_checked_ns: u64,
    settings_ack_until_ns: u64,
    idle_since_ns: u64,
    /// Total output taken by the socket when it was last seen to move, and when that was.
    output_progress: (u64, u64),
}

impl<S, R: ReadHead> Connection<S, R> {
    /// Nothing is sent before [`Connection::greet`].
    pub fn new(config: &Config, reader: R, now_ns: u64) -> Connection<S, R> {
        Connection {
            role: config.role,
            concurrent_streams_max: (config.concurrent_streams_max as usize)
                .min(limits::STREAMS_OPEN_MAX),
            idle_ns: config.idle_ns,
            phase: Phase::Opening {
                until_ns: now_ns + limits::PREFACE_NS,
            },
            now_ns,
            reader,
            streams: Streams::new(),
            largest: StreamId::CONNECTION,
            reset_streams: ResetStreams::default(),
            skipped: SkippedStreams::default(),
            decoder: Decoder::new(limits::HPACK_TABLE_BYTES),
            fields: FieldList::new(),
            heads: HeadCache::default(),
            block: None,
            block_bytes: Vec::new(),
            encoder: Encoder::new(limits::HPACK_TABLE_BYTES),
            known: config
                .known_fields
                .iter()
                .map(|&fields| (fields, Prepared::default()))
                .collect(),
            receive_window: ReceiveWindow::new(limits::CONNECTION_WINDOW_BYTES),
            send_window: SendWindow::new(limits::WINDOW_BYTES_INITIAL),
            peer: PeerSettings {
                initial_window: limits::WINDOW_BYTES_INITIAL,
                frame_bytes_max: limits::FRAME_PAYLOAD_BYTES_MAX,
                header_list_bytes_max: u32::MAX,
                concurrent_streams_max: u32::MAX,
            },
            ready: VecDeque::new(),
            queued_bytes: 0,
            output: Output::default(),
            rates: Rates::new(now_ns),
            pings: Pings::new(config.keepalive, now_ns),
            streams_due_ns: u64::MAX,
            streams_checked_ns: now_ns,
            settings_ack_until_ns: now_ns + limits::SETTINGS_ACK_NS,
            idle_since_ns: now_ns,
            output_progress: (0, now_ns),
        }
    }

    /// Writes our SETTINGS and opens the connection's window: a client at once, a server when it has seen the preface.
    pub fn greet(&mut self, config: &Config) {
        let out = self.output.buffer();
        if self.role == Role::Client {
            out.extend_from_slice(crate::frame::PREFACE);
        }
        let announced = Some(config.concurrent_streams_max).filter(|&max| max != u32::MAX);
        Settings {
            enable_push: (self.role == Role::Client).then_some(false),
            max_concurrent_streams: announced.filter(|_| self.role == Role::Server),
            initial_window_size: Some(limits::STREAM_WINDOW_BYTES),
            max_frame_size: Some(limits::FRAME_PAYLOAD_BYTES_MAX),
            max_header_list_size: Some(limits::HEADER_LIST_BYTES_MAX as u32),
            ..Settings::default()
        }
        .encode(out);
        let increment = limits::CONNECTION_WINDOW_BYTES - limits::WINDOW_BYTES_INITIAL;
        crate::frame::window_update::WindowUpdate { increment }.encode(StreamId::CONNECTION, out);
    }

    pub fn find(&self, id: StreamId) -> Option<Key> {
        self.streams.find(id)
    }

    pub fn stream(&self, key: Key) -> &Stream<S> {
        self.streams.get(key)
    }

    pub fn stream_mut(&mut self, key: Key) -> &mut Stream<S> {
        self.streams.get_mut(key)
    }

    pub fn streams(&self) -> impl Iterator<Item = &Stream<S>> {
        self.streams.iter()
    }

    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Everything that may be sent now, of queued data too.
    pub fn output(&mut self) -> &mut Output {
        self.pump();
        &mut self.output
    }

    /// False while the peer does not read what we send: then neither should we read.
    pub fn wants_input(&self) -> bool {
        self.output.len() < limits::OUTPUT_BYTES_MAX
    }

    /// The connection is over: nothing is accepted any more, and it can be closed once the output is written.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Answers that the peer does not take fill their bound.
    pub fn is_queue_full(&self) -> bool {
        self.queued_bytes >= limits::QUEUED_BYTES_MAX
    }

    /// The socket can be closed once the output is written.
    pub fn should_close(&self) -> bool {
        match self.phase {
            Phase::Closed => true,
            Phase::Draining { .. } | Phase::Leaving => self.streams.is_empty(),
            _ => false,
        }
    }

    /// Ends the connection with a GOAWAY and hands out what the live streams held.
    pub fn fail(&mut self, error: Error) -> Vec<(StreamId, S)> {
        if self.phase != Phase::Closed {
            let last = if self.role == Role::Server {
                self.largest
            } else {
                StreamId::CONNECTION
            };
            GoAway {
                last,
                reason: error.reason,
                debug: error.text.as_bytes(),
            }
            .encode(self.output.buffer());
        }
        self.disconnect()
    }

    /// The transport is gone, or the GOAWAY is written: nothing more is sent or received.
    pub fn disconnect(&mut self) -> Vec<(StreamId, S)> {
        self.phase = Phase::Closed;
        self.ready.clear();
        self.queued_bytes = 0;
        self.block_bytes = Vec::new();
        let streams = std::mem::replace(&mut self.streams, Streams::new());
        streams
            .into_streams()
            .map(|stream| (stream.id, stream.state))
            .collect()
    }

    /// Begins a graceful stop: GOAWAY(2^31-1) and PING now, GOAWAY(last) once the peer has answered, so that no request
    /// on its way is lost. Accepted streams have [`limits::SHUTDOWN_NS`] to finish.
    pub fn shutdown(&mut self) {
        if !matches!(self.phase, Phase::Opening { .. } | Phase::Open) {
            return;
        }
        let out = self.output.buffer();
        GoAway {
            last: StreamId::MAX,
            reason: Reason::NO_ERROR,
            debug: b"",
        }
        .encode(out);
        Ping {
            payload: SHUTDOWN_PING,
            ack: false,
        }
        .encode(out);
        self.phase = Phase::Announced {
            until_ns: self.now_ns + limits::SHUTDOWN_PING_NS,
            give_up_ns: self.now_ns + limits::SHUTDOWN_NS,
        };
    }

    /// The peer may still open streams: neither has the connection ended, nor has a graceful stop got so far.
    pub fn accepts_streams(&self) -> bool {
        !matches!(self.phase, Phase::Draining { .. } | Phase::Closed)
    }

    fn takes_new_streams(&self) -> bool {
        matches!(self.phase, Phase::Opening { .. } | Phase::Open)
    }

    fn drain(&mut self) {
        if let Phase::Announced { give_up_ns, .. } = self.phase {
            let last = self.largest;
            GoAway {
                last,
                reason: Reason::NO_ERROR,
                debug: b"",
            }
            .encode(self.output.buffer());
            self.phase = Phase::Draining { last, give_up_ns };
        }
    }

    /// The peer's END_STREAM is dealt with (client): forgets the stream, and tells the peer if our side was still open.
    pub fn forget(&mut self, key: Key) -> S {
        if self.streams.get(key).is_local_closed() {
            self.remove(key).state
        } else {
            self.reset(key, Reason::CANCEL)
        }
    }

    /// Resets a live stream for a reason of ours and hands out what it held.
    pub fn reset(&mut self, key: Key, reason: Reason) -> S {
        let stream = self.remove(key);
        Reset { reason }.encode(stream.id, self.output.buffer());
        self.reset_streams.remember(stream.id, self.now_ns);
        stream.state
    }

    /// A reset that the peer provoked: it counts against all of the budgets, since making us reset streams is an attack
    /// (CVE-2023-44487, CVE-2025-8671).
    fn provoked_reset(&mut self, id: StreamId, reason: Reason) -> Result<(), Error> {
        let now_ns = self.now_ns;
        if !self.rates.glitches.take(now_ns) || !self.rates.resets.take(now_ns) {
            return Err(Error::calm("too many faulty requests"));
        }
        self.count_control_frame()?;
        Reset { reason }.encode(id, self.output.buffer());
        self.reset_streams.remember(id, now_ns);
        Ok(())
    }

    fn count_control_frame(&mut self) -> Result<(), Error> {
        if self.output.count_control_frame() {
            Ok(())
        } else {
            Err(Error::calm("answers are not read"))
        }
    }

    fn remove(&mut self, key: Key) -> Stream<S> {
        let stream = self.streams.remove(key);
        self.queued_bytes -= stream.backlog_bytes();
        if self.streams.is_empty() {
            self.idle_since_ns = self.now_ns;
        }
        stream
    }

    /// A message is complete: small DATA frames have served a purpose.
    #[inline]
    pub fn message_completed(&mut self) {
        self.rates.small_data = limits::SMALL_DATA_BUDGET;
    }
}
