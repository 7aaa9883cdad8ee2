//! Heads, data and ends that go out.

use bytes::Bytes;

use super::streams::SendQueue;
use super::{Connection, End, Key, KnownFields, ReadHead, Role, Stream};
use crate::frame::{continuation::Continuation, data::Data, headers::Headers, reset::Reset};
use crate::frame::{Header, Reason, StreamId, HEADER_BYTES};
use crate::hpack::{Field, FieldList, Prepared, ENTRY_OVERHEAD_BYTES};
use crate::limits;

/// What a header block is made of.
enum Block<'a> {
    Known(usize),
    Fields(&'a FieldList),
    Opening(&'a mut Opening, Option<Field<'a>>),
}

/// The head of a request that a client sends again and again; its block is kept.
#[derive(Debug, Default)]
pub struct Opening {
    fields: FieldList,
    prepared: Prepared,
}

impl Opening {
    pub fn new(fields: FieldList) -> Opening {
        Opening {
            fields,
            prepared: Prepared::default(),
        }
    }
}

fn known_fields(fields: KnownFields) -> impl Iterator<Item = Field<'static>> {
    fields.iter().map(|(name, value)| Field::new(name, value))
}

/// The peer's MAX_HEADER_LIST_SIZE does not admit the block.
struct TooLarge;

impl<S, R: ReadHead> Connection<S, R> {
    /// A whole response whose message fits the windows goes out as three frames in a row; else as far as they allow.
    pub fn send_response(&mut self, key: Key, head: usize, parts: [&[u8]; 2], trailers: usize) {
        let length = parts[0].len() + parts[1].len();
        let stream = self.streams.get_mut(key);
        debug_assert!(!stream.ending);
        let fits = length <= self.frame_bytes_max()
            && length <= self.streams.get(key).send_window.available()
            && length <= self.send_window.available()
            && length <= self.output.room();
        let stream = self.streams.get_mut(key);
        let id = stream.id;
        if !fits
            || stream.head_sent
            || stream.queue.is_some()
            || self.peer.header_list_bytes_max != u32::MAX
        {
            if self.streams.get(key).head_sent || self.send_known_head(key, head) {
                self.send_data(key, parts);
                self.end(key, End::Prepared(trailers));
            }
            return;
        }
        stream.send_window.take(length);
        self.send_window.take(length);
        self.pings.excuse();
        let out = self.output.buffer();
        out.reserve(3 * HEADER_BYTES + length + 128);
        let at = out.len();
        Headers::header(id, 0, false, true).encode(out);
        let (fields, prepared) = &mut self.known[head];
        self.encoder
            .encode_prepared(prepared, known_fields(fields), out);
        Header::patch_length(out, at);
        Data::header(id, length, false).encode(out);
        out.extend_from_slice(parts[0]);
        out.extend_from_slice(parts[1]);
        let at = out.len();
        Headers::header(id, 0, true, true).encode(out);
        let (fields, prepared) = &mut self.known[trailers];
        self.encoder
            .encode_prepared(prepared, known_fields(fields), out);
        Header::patch_length(out, at);
        self.local_end(key);
    }

    /// Sends the head of a message that goes on, made of one of [`super::Config::known_fields`].
    /// False when the peer takes no such head: the stream has been reset and is gone.
    #[must_use]
    pub fn send_known_head(&mut self, key: Key, known: usize) -> bool {
        self.send_head(key, Block::Known(known))
    }

    #[must_use]
    fn send_head(&mut self, key: Key, block: Block<'_>) -> bool {
        let stream = self.streams.get_mut(key);
        stream.head_sent = true;
        let id = stream.id;
        let written = self.write_block(id, block, false).is_ok();
        if !written {
            self.end(key, End::Reset(Reason::INTERNAL_ERROR));
        }
        written
    }

    /// Sends DATA, or queues what the windows and the output do not take.
    pub fn send_data(&mut self, key: Key, parts: [&[u8]; 2]) {
        if self.streams.get(key).ending {
            return;
        }
        let total = parts[0].len() + parts[1].len();
        let mut sent = 0;
        if self.streams.get(key).queue.is_none() {
            sent = self.write_data(key, parts);
        }
        if sent < total {
            let mut rest = Vec::with_capacity(total - sent);
            rest.extend_from_slice(&parts[0][sent.min(parts[0].len())..]);
            rest.extend_from_slice(&parts[1][sent.saturating_sub(parts[0].len())..]);
            self.enqueue(key, Bytes::from(rest));
        }
    }

    /// As `send_data`, keeping a large message as it is instead of copying what has to wait.
    pub fn send_message(&mut self, key: Key, prefix: [u8; 5], message: Bytes) {
        if message.len() < limits::FRAME_SENT_BYTES_MAX as usize {
            return self.send_data(key, [&prefix, &message]);
        }
        if self.streams.get(key).ending {
            return;
        }
        let mut sent = 0;
        if self.streams.get(key).queue.is_none() {
            sent = self.write_data(key, [&prefix, &message]);
        }
        if sent < prefix.len() {
            self.enqueue(key, Bytes::copy_from_slice(&prefix[sent..]));
        }
        let sent = sent.saturating_sub(prefix.len());
        if sent < message.len() {
            self.enqueue(key, message.slice(sent..));
        }
    }

    /// The last thing that is sent on a stream. Data queued before goes first, except before a reset.
    pub fn end(&mut self, key: Key, end: End) {
        let stream = self.streams.get_mut(key);
        if stream.ending && !matches!(end, End::Reset(_)) {
            return;
        }
        stream.ending = true;
        if matches!(end, End::Reset(_)) {
            self.drop_queue(key);
        }
        match &mut self.streams.get_mut(key).queue {
            Some(queue) => queue.end = Some(end),
            None => self.write_end(key, end),
        }
    }

    /// Drops data that has not been sent, for an end that must not wait.
    pub fn drop_queue(&mut self, key: Key) {
        let stream = self.streams.get_mut(key);
        self.queued_bytes -= stream.backlog_bytes();
        stream.queue = None;
    }

    /// A message of trailers only: head and end in one.
    pub fn send_only_head(&mut self, key: Key, fields: &FieldList) {
        let stream = self.streams.get_mut(key);
        stream.head_sent = true;
        stream.ending = true;
        let id = stream.id;
        if self.write_block(id, Block::Fields(fields), true).is_err() {
            return self.write_end(key, End::Reset(Reason::INTERNAL_ERROR));
        }
        self.local_end(key);
    }

    /// Opens a stream (client) with the head of its request and perhaps a field that changes from call to call; `None`
    /// when the peer takes no stream now.
    pub fn open(
        &mut self,
        state: S,
        opening: &mut Opening,
        extra: Option<Field<'_>>,
    ) -> Option<Key> {
        debug_assert_eq!(self.role, Role::Client);
        let next = if self.largest.is_connection() {
            1
        } else {
            self.largest.get().checked_add(2)?
        };
        let room = (self.peer.concurrent_streams_max as usize).min(self.concurrent_streams_max);
        if next > StreamId::MAX.get() || self.streams.len() >= room || !self.takes_new_streams() {
            return None;
        }
        self.largest = StreamId::new(next);
        let stream = Stream::new(
            self.largest,
            state,
            self.peer.initial_window,
            limits::STREAM_WINDOW_BYTES,
        );
        let key = self.streams.insert(stream);
        self.send_head(key, Block::Opening(opening, extra))
            .then_some(key)
    }

    #[inline]
    fn frame_bytes_max(&self) -> usize {
        self.peer.frame_bytes_max.min(limits::FRAME_SENT_BYTES_MAX) as usize
    }

    /// Writes as many DATA frames as the windows and the output admit; returns the bytes taken from `parts`.
    fn write_data(&mut self, key: Key, parts: [&[u8]; 2]) -> usize {
        let total = parts[0].len() + parts[1].len();
        let frame_max = self.frame_bytes_max();
        let stream = self.streams.get_mut(key);
        let mut room = stream
            .send_window
            .available()
            .min(self.send_window.available());
        room = room.min(self.output.room()).min(total);
        stream.send_window.take(room);
        self.send_window.take(room);
        let id = stream.id;
        if room > 0 {
            self.pings.excuse();
        }
        let out = self.output.buffer();
        out.reserve(room + (room / frame_max + 1) * HEADER_BYTES);
        let mut sent = 0;
        while sent < room {
            let length = frame_max.min(room - sent);
            Data::header(id, length, false).encode(out);
            let end = sent + length;
            let first = parts[0].len();
            out.extend_from_slice(&parts[0][sent.min(first)..end.min(first)]);
            out.extend_from_slice(&parts[1][sent.saturating_sub(first)..end.saturating_sub(first)]);
            sent = end;
        }
        sent
    }

    fn enqueue(&mut self, key: Key, piece: Bytes) {
        let now_ns = self.now_ns;
        let stream = self.streams.get_mut(key);
        let queue = stream.queue.get_or_insert_with(|| {
            Box::new(SendQueue {
                pieces: Default::default(),
                bytes: 0,
                end: None,
                progress_ns: now_ns,
            })
        });
        queue.bytes += piece.len();
        self.queued_bytes += piece.len();
        queue.pieces.push_back(piece);
        self.streams_due_ns = self.streams_due_ns.min(now_ns + limits::STREAM_STALL_NS);
        self.mark_ready(key);
    }

    /// Puts a stream that has data and window in line.
    pub(super) fn mark_ready(&mut self, key: Key) {
        let stream = self.streams.get_mut(key);
        if !stream.ready && stream.queue.is_some() && stream.send_window.available() > 0 {
            stream.ready = true;
            self.ready.push_back(stream.id);
        }
    }

    /// Moves queued data to the output, a frame per stream in turn.
    pub(super) fn pump(&mut self) {
        while !self.ready.is_empty() && self.send_window.available() > 0 && self.output.room() > 0 {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            if let Some(key) = self.streams.find(id) {
                self.streams.get_mut(key).ready = false;
                self.pump_frame(key);
            }
        }
    }

    fn pump_frame(&mut self, key: Key) {
        let frame_max = self.frame_bytes_max();
        let room = self
            .send_window
            .available()
            .min(self.output.room())
            .min(frame_max);
        let now_ns = self.now_ns;
        let stream = self.streams.get_mut(key);
        let Some(queue) = &mut stream.queue else {
            return;
        };
        let length = room.min(stream.send_window.available()).min(queue.bytes);
        if length > 0 {
            self.pings.excuse();
            let out = self.output.buffer();
            Data::header(stream.id, length, false).encode(out);
            queue.take(length, out);
            self.queued_bytes -= length;
            queue.progress_ns = now_ns;
            stream.send_window.take(length);
            self.send_window.take(length);
        }
        if queue.bytes > 0 {
            return self.mark_ready(key);
        }
        let end = queue.end.take();
        stream.queue = None;
        if let Some(end) = end {
            self.write_end(key, end);
        }
    }

    fn write_end(&mut self, key: Key, end: End) {
        let id = self.streams.get(key).id;
        let written = match &end {
            End::Prepared(known) => self.write_block(id, Block::Known(*known), true),
            End::Trailers(fields) => self.write_block(id, Block::Fields(fields), true),
            End::Data => {
                Data::header(id, 0, true).encode(self.output.buffer());
                Ok(())
            }
            End::Reset(_) => Err(TooLarge),
        };
        if written.is_ok() {
            return self.local_end(key);
        }
        let reason = match end {
            End::Reset(reason) => reason,
            _ => Reason::INTERNAL_ERROR,
        };
        self.reset(key, reason);
    }

    /// Our END_STREAM is written. A server is done then: a peer that still sends is asked to stop (RFC 9113 section 8.1),
    /// and what it sends until it hears that is dropped.
    fn local_end(&mut self, key: Key) {
        let remote_closed = self.streams.get(key).remote_closed;
        if remote_closed || self.role == Role::Server {
            let id = self.remove(key).id;
            if !remote_closed {
                Reset {
                    reason: Reason::NO_ERROR,
                }
                .encode(id, self.output.buffer());
                self.reset_streams.remember(id, self.now_ns);
            }
        } else {
            self.streams.get_mut(key).ending = true;
        }
    }

    fn write_block(
        &mut self,
        id: StreamId,
        block: Block<'_>,
        end_stream: bool,
    ) -> Result<(), TooLarge> {
        if self.block_list_bytes(&block) > self.peer.header_list_bytes_max as usize {
            return Err(TooLarge);
        }
        self.pings.excuse();
        let out = self.output.buffer();
        let at = out.len();
        Headers::header(id, 0, end_stream, true).encode(out);
        match block {
            Block::Known(known) => {
                let (fields, prepared) = &mut self.known[known];
                self.encoder
                    .encode_prepared(prepared, known_fields(fields), out);
            }
            Block::Fields(fields) => self.encoder.encode(fields.iter(), out),
            Block::Opening(opening, extra) => {
                let Opening { fields, prepared } = opening;
                self.encoder.encode_prepared(prepared, fields.iter(), out);
                self.encoder.encode(extra, out);
            }
        }
        if out.len() - at - HEADER_BYTES > limits::FRAME_SENT_BYTES_MAX as usize {
            self.split_block(id, at, end_stream);
        } else {
            Header::patch_length(out, at);
        }
        Ok(())
    }

    fn block_list_bytes(&self, block: &Block<'_>) -> usize {
        match block {
            Block::Known(known) => self.known[*known]
                .0
                .iter()
                .map(|(name, value)| name.len() + value.len() + ENTRY_OVERHEAD_BYTES)
                .sum(),
            Block::Fields(fields) => fields.size_bytes(),
            Block::Opening(opening, extra) => {
                opening.fields.size_bytes() + extra.as_ref().map_or(0, Field::size_bytes)
            }
        }
    }

    /// Cuts the block that was written behind a frame header at `at` into frames of legal size.
    fn split_block(&mut self, id: StreamId, at: usize, end_stream: bool) {
        let out = self.output.buffer();
        let block = out.split_off(at + HEADER_BYTES);
        out.truncate(at);
        let mut fragments = block
            .chunks(limits::FRAME_SENT_BYTES_MAX as usize)
            .peekable();
        let mut first = true;
        while let Some(fragment) = fragments.next() {
            let last = fragments.peek().is_none();
            match first {
                true => Headers::header(id, fragment.len(), end_stream, last).encode(out),
                false => Continuation::header(id, fragment.len(), last).encode(out),
            }
            out.extend_from_slice(fragment);
            first = false;
        }
    }
}

impl SendQueue {
    /// Appends the first `length` bytes to `out`.
    fn take(&mut self, mut length: usize, out: &mut Vec<u8>) {
        self.bytes -= length;
        while length > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                break;
            };
            let part = length.min(piece.len());
            out.extend_from_slice(&piece[..part]);
            length -= part;
            if part == piece.len() {
                self.pieces.pop_front();
            } else {
                bytes::Buf::advance(piece, part);
            }
        }
    }
}
