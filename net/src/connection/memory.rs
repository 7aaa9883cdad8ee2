//! What is remembered of streams that are gone.

use std::collections::VecDeque;

use crate::frame::StreamId;
use crate::limits;

/// Streams that we closed before the peer did: what it sent before it knew is dropped for a while.
#[derive(Debug, Default)]
pub struct ResetStreams {
    /// (id, until), in the order of closing.
    streams: VecDeque<(StreamId, u64)>,
}

impl ResetStreams {
    pub fn remember(&mut self, stream: StreamId, now_ns: u64) {
        if self.streams.len() >= limits::RESET_STREAMS_REMEMBERED_MAX {
            self.streams.pop_front();
        }
        self.streams
            .push_back((stream, now_ns + limits::RESET_STREAMS_REMEMBERED_NS));
    }

    /// Frames in flight for `stream` are expected. With `last` no more of them are.
    pub fn tolerate(&mut self, stream: StreamId, last: bool, now_ns: u64) -> bool {
        while self
            .streams
            .front()
            .is_some_and(|&(_, until)| until <= now_ns)
        {
            self.streams.pop_front();
        }
        let Some(at) = self.streams.iter().position(|&(id, _)| id == stream) else {
            return false;
        };
        if last {
            self.streams.remove(at);
        }
        true
    }
}

/// Ids that the peer jumped over. They count as closed, but opening one of them is a different mistake from using a
/// stream that has ended.
#[derive(Debug, Default)]
pub struct SkippedStreams {
    /// First and last id of a gap.
    ranges: VecDeque<(u32, u32)>,
}

impl SkippedStreams {
    /// The peer opened `opened` after `largest`.
    #[inline]
    pub fn note(&mut self, largest: StreamId, opened: StreamId) {
        let expected = largest.get() + if largest.is_connection() { 1 } else { 2 };
        if opened.get() > expected {
            if self.ranges.len() >= limits::SKIPPED_RANGES_MAX {
                self.ranges.pop_front();
            }
            self.ranges.push_back((expected, opened.get() - 1));
        }
    }

    pub fn contains(&self, stream: StreamId) -> bool {
        self.ranges
            .iter()
            .any(|&(first, last)| (first..=last).contains(&stream.get()))
    }
}
