//! Frames that arrive.

use super::{
    head, Connection, Head, Incoming, Malformed, OpenBlock, Phase, ReadHead, Role, Stream,
};
use super::{Key, SHUTDOWN_PING};
use crate::frame::continuation::Continuation;
use crate::frame::{
    data::Data, go_away::GoAway, headers::Headers, kind, ping::Ping, priority::Priority,
};
use crate::frame::{
    push_promise::PushPromise, reset::Reset, settings, window_update::WindowUpdate,
};
use crate::frame::{Error, Header, Reason, StreamId};
use crate::hpack::{DecodeError, Fit};
use crate::limits;

type Received<'a, S, R> = Result<Incoming<'a, S, <R as ReadHead>::Output>, Error>;

impl<S: Default, R: ReadHead> Connection<S, R> {
    /// Bytes came at `now_ns`; their frames follow.
    pub fn heard(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        self.pings.heard(self.now_ns);
    }

    /// Takes one frame, whose payload is as long as its header says. An error must be given to [`Connection::fail`].
    pub fn receive<'a>(&mut self, header: Header, payload: &'a [u8]) -> Received<'a, S, R> {
        if self.block.is_some() && header.kind != kind::CONTINUATION {
            return Err(Error::protocol("frame inside a header block"));
        }
        if let Phase::Opening { .. } = self.phase {
            if header.kind != kind::SETTINGS || header.has(crate::frame::flag::ACK) {
                return Err(Error::protocol("first frame is not SETTINGS"));
            }
            self.phase = Phase::Open;
        }
        match header.kind {
            kind::DATA => self.data(&header, payload),
            kind::HEADERS => self.headers(&header, payload),
            kind::CONTINUATION => self.continuation(&header, payload),
            kind::RST_STREAM => self.peer_reset(&header, payload),
            kind::WINDOW_UPDATE => self
                .window_update(&header, payload)
                .map(|()| Incoming::Nothing),
            kind::SETTINGS => self.settings(&header, payload).map(|()| Incoming::Nothing),
            kind::PING => self.ping(&header, payload).map(|()| Incoming::Nothing),
            kind::PRIORITY => self.priority(&header, payload).map(|()| Incoming::Nothing),
            kind::PUSH_PROMISE => match PushPromise::parse(&header, payload)? {},
            kind::GOAWAY => self.go_away(&header, payload),
            _ => Ok(Incoming::Nothing),
        }
    }

    /// No frame but HEADERS and PRIORITY may name a stream that was never opened.
    fn is_idle(&self, id: StreamId) -> bool {
        !id.is_client_initiated() || id > self.largest
    }

    fn data<'a>(&mut self, header: &Header, payload: &'a [u8]) -> Received<'a, S, R> {
        let frame = Data::parse(header, payload)?;
        // The whole payload counts, padding included, whatever becomes of the stream.
        let length = header.length;
        self.receive_window.receive(length).map_err(|_| {
            Error::new(
                Reason::FLOW_CONTROL_ERROR,
                "DATA beyond the connection window",
            )
        })?;
        self.consume_connection(length);
        let Some(key) = self.streams.find(header.stream) else {
            return self
                .stray(header.stream, frame.end_stream)
                .map(|()| Incoming::Nothing);
        };
        let stream = self.streams.get_mut(key);
        if stream.remote_closed {
            return Err(Error::new(Reason::STREAM_CLOSED, "DATA after END_STREAM"));
        }
        stream
            .receive_window
            .receive(length)
            .map_err(|_| Error::new(Reason::FLOW_CONTROL_ERROR, "DATA beyond the stream window"))?;
        stream.remote_closed = frame.end_stream;
        if !frame.end_stream {
            self.consume_stream(key, length);
            self.count_data(frame.data.len())?;
        }
        if !self.count_body(key, frame.data.len(), frame.end_stream) {
            return self.malformed(key);
        }
        Ok(Incoming::Data {
            key,
            data: frame.data,
            end_stream: frame.end_stream,
        })
    }

    /// A frame that opens nothing, on a stream that is not there.
    fn stray(&mut self, id: StreamId, last: bool) -> Result<(), Error> {
        if self.is_idle(id) {
            return Err(Error::protocol("frame on an idle stream"));
        }
        if self.is_beyond_goaway(id) || self.reset_streams.tolerate(id, last, self.now_ns) {
            return Ok(());
        }
        Err(Error::new(
            Reason::STREAM_CLOSED,
            "frame on a closed stream",
        ))
    }

    fn is_beyond_goaway(&self, id: StreamId) -> bool {
        matches!(self.phase, Phase::Draining { last, .. } if id > last)
    }

    fn count_data(&mut self, length: usize) -> Result<(), Error> {
        if length == 0 && !self.rates.empty_frames.take(self.now_ns) {
            return Err(Error::calm("too many empty DATA frames"));
        }
        if length < limits::SMALL_DATA_BYTES {
            self.rates.small_data = self
                .rates
                .small_data
                .checked_sub(1)
                .ok_or(Error::calm("too many small DATA frames"))?;
        }
        Ok(())
    }

    /// Checks the body against content-length; false when they differ.
    fn count_body(&mut self, key: Key, length: usize, end_stream: bool) -> bool {
        let Some(left) = &mut self.streams.get_mut(key).body_left else {
            return true;
        };
        match left.checked_sub(length as u64) {
            Some(rest) => {
                *left = rest;
                !end_stream || rest == 0
            }
            None => false,
        }
    }

    fn consume_connection(&mut self, length: u32) {
        self.receive_window.consume(length);
        if let Some(increment) = self.receive_window.reopen() {
            WindowUpdate { increment }.encode(StreamId::CONNECTION, self.output.buffer());
        }
    }

    /// Reopens the window of a stream that goes on; one that has ended needs none.
    fn consume_stream(&mut self, key: Key, length: u32) {
        let stream = self.streams.get_mut(key);
        stream.receive_window.consume(length);
        if stream.receive_paused {
            return;
        }
        if let Some(increment) = stream.receive_window.reopen() {
            WindowUpdate { increment }.encode(stream.id, self.output.buffer());
        }
    }

    /// While paused, the peer may use up the window of the stream, but gets nothing back.
    pub fn pause_receive(&mut self, key: Key, paused: bool) {
        let stream = self.streams.get_mut(key);
        stream.receive_paused = paused;
        if !paused && !stream.remote_closed {
            self.consume_stream(key, 0);
        }
    }

    fn headers<'a>(&mut self, header: &Header, payload: &'a [u8]) -> Received<'a, S, R> {
        let frame = Headers::parse(header, payload)?;
        if frame.end_headers {
            return self.header_block(header.stream, frame.end_stream, frame.fragment);
        }
        self.block = Some(OpenBlock {
            stream: header.stream,
            end_stream: frame.end_stream,
            continuations: 0,
            until_ns: self.now_ns + limits::HEADER_BLOCK_NS,
        });
        self.block_bytes.clear();
        self.add_fragment(frame.fragment)?;
        Ok(Incoming::Nothing)
    }

    fn continuation<'a>(&mut self, header: &Header, payload: &'a [u8]) -> Received<'a, S, R> {
        let frame = Continuation::parse(header, payload)?;
        let Some(mut block) = self
            .block
            .take()
            .filter(|block| block.stream == header.stream)
        else {
            return Err(Error::protocol("CONTINUATION without HEADERS"));
        };
        block.continuations += 1;
        if block.continuations > limits::CONTINUATION_FRAMES_MAX {
            return Err(Error::calm("too many CONTINUATION frames"));
        }
        self.add_fragment(frame.fragment)?;
        if !frame.end_headers {
            self.block = Some(block);
            return Ok(Incoming::Nothing);
        }
        let bytes = std::mem::take(&mut self.block_bytes);
        let received = self.header_block(block.stream, block.end_stream, &bytes);
        self.block_bytes = bytes;
        self.block_bytes.clear();
        received
    }

    fn add_fragment(&mut self, fragment: &[u8]) -> Result<(), Error> {
        if fragment.is_empty() && !self.rates.empty_frames.take(self.now_ns) {
            return Err(Error::calm("too many empty header frames"));
        }
        if self.block_bytes.len() + fragment.len() > limits::HEADER_BLOCK_BYTES_MAX {
            return Err(Error::calm("header block too large"));
        }
        self.block_bytes.extend_from_slice(fragment);
        Ok(())
    }

    fn header_block<'a>(
        &mut self,
        id: StreamId,
        end_stream: bool,
        block: &[u8],
    ) -> Received<'a, S, R> {
        let opens = self.role == Role::Server && id > self.largest && id.is_client_initiated();
        if !opens {
            if let Some(key) = self.streams.find(id) {
                return self.later_block(key, end_stream, block);
            }
            if self.skipped.contains(id) {
                return Err(Error::protocol("stream id below an earlier one"));
            }
            return self.stray_block(id, end_stream, block);
        }
        self.skipped.note(self.largest, id);
        self.largest = id;
        if id >= StreamId::MAX {
            self.shutdown();
        }
        self.open_stream(id, end_stream, block)
    }

    /// A block on a stream that is gone: only decoded, to keep the tables in step.
    fn stray_block<'a>(
        &mut self,
        id: StreamId,
        end_stream: bool,
        block: &[u8],
    ) -> Received<'a, S, R> {
        self.stray(id, end_stream)?;
        self.decode(block)?;
        Ok(Incoming::Nothing)
    }

    fn open_stream<'a>(
        &mut self,
        id: StreamId,
        end_stream: bool,
        block: &[u8],
    ) -> Received<'a, S, R> {
        let read = self.read_head(block, Kind::Request)?;
        if self.is_beyond_goaway(id) {
            return Ok(Incoming::Nothing);
        }
        let reason = match read {
            Ok(_) if self.is_full() => Reason::REFUSED_STREAM,
            Ok((_, content_length))
                if end_stream && content_length.is_some_and(|length| length > 0) =>
            {
                Reason::PROTOCOL_ERROR
            }
            Ok((head, content_length)) => {
                let mut stream = Stream::new(
                    id,
                    S::default(),
                    self.peer.initial_window,
                    limits::STREAM_WINDOW_BYTES,
                );
                stream.remote_closed = end_stream;
                stream.body_left = content_length;
                let key = self.streams.insert(stream);
                return Ok(Incoming::Head {
                    key,
                    head,
                    end_stream,
                });
            }
            Err(reason) => reason,
        };
        self.provoked_reset(id, reason)?;
        Ok(Incoming::Nothing)
    }

    fn is_full(&self) -> bool {
        self.streams.len() >= self.concurrent_streams_max
    }

    /// A block on a live stream: trailers, or what a client gets as response.
    fn later_block<'a>(&mut self, key: Key, end_stream: bool, block: &[u8]) -> Received<'a, S, R> {
        let stream = self.streams.get(key);
        if stream.remote_closed {
            return Err(Error::new(
                Reason::STREAM_CLOSED,
                "HEADERS after END_STREAM",
            ));
        }
        let is_response = self.role == Role::Client && !stream.remote_head;
        if !is_response && !end_stream {
            return Err(Error::protocol("second HEADERS without END_STREAM"));
        }
        let kind = if is_response {
            Kind::Response
        } else {
            Kind::Trailers
        };
        let (head, content_length) = match self.read_head(block, kind)? {
            Ok(read) => read,
            Err(_) => return self.malformed(key),
        };
        let stream = self.streams.get_mut(key);
        stream.remote_closed = end_stream;
        if is_response {
            stream.remote_head = true;
            stream.body_left = content_length;
            return Ok(Incoming::Head {
                key,
                head,
                end_stream,
            });
        }
        if stream.body_left.is_some_and(|left| left > 0) {
            return self.malformed(key);
        }
        Ok(Incoming::Trailers { key, head })
    }

    fn malformed<'a>(&mut self, key: Key) -> Received<'a, S, R> {
        // Where that ends the connection, the stream must still be there to be ended with the others.
        self.provoked_reset(self.streams.get(key).id, Reason::PROTOCOL_ERROR)?;
        let stream = self.remove(key);
        Ok(Incoming::Closed {
            id: stream.id,
            state: stream.state,
            reason: Reason::PROTOCOL_ERROR,
        })
    }

    fn decode(&mut self, block: &[u8]) -> Result<(), Error> {
        self.fields.clear();
        self.decoder
            .decode(block, &mut self.fields)
            .map_err(|error| match error {
                DecodeError::ListTooLarge => Error::calm(error.text()),
                _ => Error::new(Reason::COMPRESSION_ERROR, error.text()),
            })
    }

    /// The head of a block and its content-length, or why its stream must be reset.
    #[allow(clippy::type_complexity)]
    fn read_head(
        &mut self,
        block: &[u8],
        kind: Kind,
    ) -> Result<Result<(R::Output, Option<u64>), Reason>, Error> {
        let generation = self.decoder.generation();
        if kind == Kind::Request {
            if let Some(read) = self.heads.get(block, generation) {
                return Ok(Ok(read));
            }
        }
        self.decode(block)?;
        if self.fields.fit() == Fit::Truncated {
            return Ok(Err(Reason::FRAME_SIZE_ERROR));
        }
        let head = match kind {
            Kind::Request => head::request(&self.fields).map(Head::Request),
            Kind::Response => head::response(&self.fields).map(Head::Response),
            Kind::Trailers => head::trailers(&self.fields).map(|()| Head::Trailers(&self.fields)),
        };
        let head = match head {
            Ok(head) => head,
            Err(Malformed(_)) => return Ok(Err(Reason::PROTOCOL_ERROR)),
        };
        let content_length = match &head {
            Head::Request(request) => request.content_length,
            Head::Response(response) => response.content_length,
            Head::Trailers(_) => None,
        };
        let read = self.reader.read(&head);
        if kind == Kind::Request && self.decoder.generation() == generation {
            self.heads.put(block, generation, &read, content_length);
        }
        Ok(Ok((read, content_length)))
    }

    fn peer_reset<'a>(&mut self, header: &Header, payload: &'a [u8]) -> Received<'a, S, R> {
        let frame = Reset::parse(header, payload)?;
        if self.is_idle(header.stream) {
            return Err(Error::protocol("RST_STREAM on an idle stream"));
        }
        let Some(key) = self.streams.find(header.stream) else {
            return Ok(Incoming::Nothing);
        };
        if !self.rates.resets.take(self.now_ns) {
            return Err(Error::calm("too many resets"));
        }
        let stream = self.remove(key);
        Ok(Incoming::Closed {
            id: stream.id,
            state: stream.state,
            reason: frame.reason,
        })
    }

    fn window_update(&mut self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        let frame = WindowUpdate::parse(header, payload)?;
        let increment = i64::from(frame.increment);
        let overflow = |_| Error::new(Reason::FLOW_CONTROL_ERROR, "window beyond 2^31-1");
        if header.stream.is_connection() {
            self.send_window.shift(increment).map_err(overflow)?;
        } else if let Some(key) = self.streams.find(header.stream) {
            self.streams
                .get_mut(key)
                .send_window
                .shift(increment)
                .map_err(overflow)?;
            self.mark_ready(key);
        } else if self.is_idle(header.stream) {
            return Err(Error::protocol("WINDOW_UPDATE on an idle stream"));
        }
        Ok(())
    }

    fn settings(&mut self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        let change = match settings::Settings::parse(header, payload)? {
            settings::Frame::Ack => {
                self.settings_ack_until_ns = u64::MAX;
                return Ok(());
            }
            settings::Frame::Change(change) => change,
        };
        if !self.rates.settings.take(self.now_ns) {
            return Err(Error::calm("too many SETTINGS"));
        }
        self.count_control_frame()?;
        for size in [change.header_table_size_min, change.header_table_size]
            .into_iter()
            .flatten()
        {
            self.encoder.set_peer_max(size as usize);
        }
        if let Some(size) = change.max_frame_size {
            self.peer.frame_bytes_max = size;
        }
        if let Some(size) = change.max_header_list_size {
            self.peer.header_list_bytes_max = size;
        }
        if let Some(count) = change.max_concurrent_streams {
            self.peer.concurrent_streams_max = count;
        }
        if let Some(window) = change.initial_window_size {
            self.shift_windows(window)?;
        }
        settings::Settings::encode_ack(self.output.buffer());
        Ok(())
    }

    /// INITIAL_WINDOW_SIZE changes the windows of all streams, down to negative values.
    fn shift_windows(&mut self, window: u32) -> Result<(), Error> {
        let delta = i64::from(window) - i64::from(self.peer.initial_window);
        self.peer.initial_window = window;
        let keys: Vec<Key> = self.streams.keys().collect();
        for key in keys {
            self.streams
                .get_mut(key)
                .send_window
                .shift(delta)
                .map_err(|_| Error::new(Reason::FLOW_CONTROL_ERROR, "window beyond 2^31-1"))?;
            self.mark_ready(key);
        }
        Ok(())
    }

    fn ping(&mut self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        let frame = Ping::parse(header, payload)?;
        if frame.ack {
            if frame.payload == SHUTDOWN_PING {
                self.drain();
            }
            return Ok(());
        }
        self.count_control_frame()?;
        Ping { ack: true, ..frame }.encode(self.output.buffer());
        if self.role == Role::Server {
            self.pings.receive(!self.streams.is_empty(), self.now_ns)?;
        }
        Ok(())
    }

    /// A client's GOAWAY changes nothing for a server: it closes when it is done.
    fn go_away<'a>(&mut self, header: &Header, payload: &'a [u8]) -> Received<'a, S, R> {
        let frame = GoAway::parse(header, payload)?;
        if self.role == Role::Server {
            return Ok(Incoming::Nothing);
        }
        self.phase = Phase::Leaving;
        Ok(Incoming::GoAway {
            last: frame.last,
            reason: frame.reason,
        })
    }

    fn priority(&mut self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        Priority::parse(header, payload)?;
        if !self.rates.priorities.take(self.now_ns) {
            return Err(Error::calm("too many PRIORITY frames"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Trailers,
}
