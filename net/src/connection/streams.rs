//! The streams of a connection.

use std::collections::VecDeque;

use bytes::Bytes;

use super::flow::{ReceiveWindow, SendWindow};
use crate::frame::{Reason, StreamId};
use crate::hpack::FieldList;

/// Place of a stream in the table; valid until the stream is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u32);

/// A live stream with what the floor above keeps for it.
#[derive(Debug)]
pub struct Stream<S> {
    pub id: StreamId,
    pub state: S,
    pub(super) send_window: SendWindow,
    pub(super) receive_window: ReceiveWindow,
    /// The peer has sent END_STREAM.
    pub(super) remote_closed: bool,
    /// Our last frame is queued or sent: nothing may be added.
    pub(super) ending: bool,
    /// Our HEADERS were sent.
    pub(super) head_sent: bool,
    /// The response's HEADERS came (client).
    pub(super) remote_head: bool,
    /// Consumed bytes are not announced, so that the peer stops sending.
    pub(super) receive_paused: bool,
    /// Stands in the list of streams that can send.
    pub(super) ready: bool,
    /// What content-length still announces.
    pub(super) body_left: Option<u64>,
    pub(super) queue: Option<Box<SendQueue>>,
    /// The floor above's deadline, `u64::MAX` for none.
    pub(super) deadline_ns: u64,
}

impl<S> Stream<S> {
    pub(super) fn new(id: StreamId, state: S, send_window: u32, receive_window: u32) -> Stream<S> {
        Stream {
            id,
            state,
            send_window: SendWindow::new(send_window),
            receive_window: ReceiveWindow::new(receive_window),
            remote_closed: false,
            ending: false,
            head_sent: false,
            remote_head: false,
            receive_paused: false,
            ready: false,
            body_left: None,
            queue: None,
            deadline_ns: u64::MAX,
        }
    }

    pub fn is_ending(&self) -> bool {
        self.ending
    }

    pub fn head_sent(&self) -> bool {
        self.head_sent
    }

    pub fn remote_closed(&self) -> bool {
        self.remote_closed
    }

    /// Our last frame has been written.
    pub fn is_local_closed(&self) -> bool {
        self.ending && self.queue.is_none()
    }

    pub fn backlog_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }
}

/// What a stream could not send yet.
#[derive(Debug)]
pub(super) struct SendQueue {
    pub pieces: VecDeque<Bytes>,
    /// Sum of the pieces.
    pub bytes: usize,
    pub end: Option<End>,
    /// When the queue began, or last got rid of something.
    pub progress_ns: u64,
}

/// How a stream ends.
#[derive(Debug)]
pub enum End {
    /// With one of the connection's prepared blocks.
    Prepared(usize),
    Trailers(Box<FieldList>),
    /// END_STREAM on the last DATA (a client's request).
    Data,
    /// RST_STREAM.
    Reset(Reason),
}

/// Slots plus an index by id. Ids only grow, so the index is a sorted queue: a lookup guesses the place from the
/// distance to the first id, which is right as long as the streams are dense, and otherwise searches. No hash that a peer
/// could choose ids against.
#[derive(Debug)]
pub struct Streams<S> {
    slots: Vec<Option<Stream<S>>>,
    free: Vec<u32>,
    /// (id, slot), or slot `GONE`. Neither the first nor more than half of the rest are gone for long.
    index: VecDeque<(u32, u32)>,
    live: usize,
}

const GONE: u32 = u32::MAX;
/// Below this the index is not worth compacting.
const INDEX_COMPACT_MIN: usize = 64;

impl<S> Streams<S> {
    pub fn new() -> Streams<S> {
        Streams {
            slots: Vec::new(),
            free: Vec::new(),
            index: VecDeque::new(),
            live: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.live
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// `stream.id` is larger than any before.
    pub fn insert(&mut self, stream: Stream<S>) -> Key {
        debug_assert!(self
            .index
            .back()
            .is_none_or(|last| last.0 < stream.id.get()));
        let id = stream.id.get();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.slots.push(Some(stream));
                (self.slots.len() - 1) as u32
            }
        };
        self.index.push_back((id, slot));
        self.live += 1;
        Key(slot)
    }

    #[inline]
    pub fn find(&self, id: StreamId) -> Option<Key> {
        let at = self.place(id.get())?;
        match self.index[at].1 {
            GONE => None,
            slot => Some(Key(slot)),
        }
    }

    #[inline]
    fn place(&self, id: u32) -> Option<usize> {
        let first = self.index.front()?.0;
        let guess = (id.checked_sub(first)? / 2) as usize;
        if self.index.get(guess).is_some_and(|entry| entry.0 == id) {
            return Some(guess);
        }
        self.index.binary_search_by_key(&id, |entry| entry.0).ok()
    }

    #[inline]
    pub fn get(&self, key: Key) -> &Stream<S> {
        self.slots[key.0 as usize]
            .as_ref()
            .expect("a key is dropped with its stream")
    }

    #[inline]
    pub fn get_mut(&mut self, key: Key) -> &mut Stream<S> {
        self.slots[key.0 as usize]
            .as_mut()
            .expect("a key is dropped with its stream")
    }

    pub fn remove(&mut self, key: Key) -> Stream<S> {
        let stream = self.slots[key.0 as usize]
            .take()
            .expect("a key is dropped with its stream");
        self.free.push(key.0);
        self.live -= 1;
        if let Some(at) = self.place(stream.id.get()) {
            self.index[at].1 = GONE;
        }
        while self.index.front().is_some_and(|entry| entry.1 == GONE) {
            self.index.pop_front();
        }
        if self.index.len() > INDEX_COMPACT_MIN && self.index.len() > 2 * self.live {
            self.index.retain(|entry| entry.1 != GONE);
        }
        stream
    }

    /// Keys in the order of the ids.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.index
            .iter()
            .filter(|entry| entry.1 != GONE)
            .map(|entry| Key(entry.1))
    }

    pub fn into_streams(self) -> impl Iterator<Item = Stream<S>> {
        self.slots.into_iter().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stream<S>> {
        self.keys().map(|key| self.get(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map: ids that grow with gaps, removed in any order.
        #[test]
        fn table_is_a_map(steps in proptest::collection::vec((0u32..4, any::<u16>()), 0..600)) {
            let mut table = Streams::new();
            let mut model = BTreeMap::new();
            let mut next = 1u32;
            for (step, pick) in steps {
                if step < 2 || model.is_empty() {
                    next += 2 * if pick % 11 == 0 { 1 + u32::from(pick) } else { 1 };
                    let key = table.insert(Stream::new(StreamId::new(next), next, 1, 1));
                    model.insert(next, key);
                } else {
                    let at = usize::from(pick) % model.len();
                    let (&id, &key) = model.iter().nth(at).unwrap();
                    prop_assert_eq!(table.remove(key).state, id);
                    model.remove(&id);
                    prop_assert_eq!(table.find(StreamId::new(id)), None);
                }
                prop_assert_eq!(table.len(), model.len());
                let first = model.keys().next().copied().unwrap_or(0);
                prop_assert_eq!(table.find(StreamId::new(first)), model.get(&first).copied());
                prop_assert!(table.find(StreamId::new(next + 2)).is_none());
            }
            for (&id, &key) in &model {
                prop_assert_eq!(table.find(StreamId::new(id)), Some(key));
                prop_assert_eq!(table.get(key).state, id);
                prop_assert!(table.find(StreamId::new(id + 1)).is_none());
            }
            let ids: Vec<u32> = table.iter().map(|stream| stream.id.get()).collect();
            prop_assert!(ids.iter().copied().eq(model.keys().copied()));
            prop_assert!(table.index.len() <= INDEX_COMPACT_MIN + 2 * model.len());
        }
    }
}
