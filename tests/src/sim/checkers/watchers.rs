//! Watchers: each sees every event of its keys once, in order, revision by revision, across members and restarts.

use proto::etcdserverpb::{self as pb, watch_create_request::FilterType};
use proto::mvccpb::{event::EventType, Event};

use super::{history::History, Verdict};
use crate::model::KeyRange;

/// One watch as its client sees it.
#[derive(Clone, Debug)]
pub struct Watched {
    pub create: pb::WatchCreateRequest,
    /// The first revision not seen yet; 0 until the server has said where a watch without a start begins.
    pub next: i64,
    pub seen: u64,
}

/// What a message of the stream means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    More,
    Canceled,
}

impl Watched {
    pub fn new(create: pb::WatchCreateRequest) -> Watched {
        Watched {
            next: create.start_revision,
            create,
            seen: 0,
        }
    }

    /// The request that takes up where the last stream ended.
    pub fn resume(&self) -> pb::WatchCreateRequest {
        pb::WatchCreateRequest {
            start_revision: self.next,
            ..self.create.clone()
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        let range = KeyRange::new(&self.create.key, &self.create.range_end);
        let filter = match event.r#type() {
            EventType::Put => FilterType::Noput,
            EventType::Delete => FilterType::Nodelete,
        };
        range.contains(&kv.key) && !self.create.filters.contains(&(filter as i32))
    }

    pub fn receive(
        &mut self,
        response: &pb::WatchResponse,
        history: &History,
    ) -> Result<Seen, String> {
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled {
            return self.canceled(response, history);
        }
        if response.created {
            if self.next == 0 {
                self.next = header + 1;
            }
            return Ok(Seen::More);
        }
        let Some(last) = response.events.last() else {
            // A progress notification: nothing up to here is missing.
            self.expect(&[], header, history)?;
            self.next = self.next.max(header + 1);
            return Ok(Seen::More);
        };
        let last = revision_of(last);
        self.expect(&response.events, last, history)?;
        self.next = last + 1;
        self.seen += response.events.len() as u64;
        Ok(Seen::More)
    }

    fn canceled(&self, response: &pb::WatchResponse, history: &History) -> Result<Seen, String> {
        let at = response.compact_revision;
        if at == 0 {
            return Err(format!(
                "a watch was canceled: {:?}",
                response.cancel_reason
            ));
        }
        if at > history.compacted() || self.next >= at {
            return Err(format!(
                "a watch that waits for revision {} was canceled for a compaction at {at}; the last one is at {}",
                self.next,
                history.compacted()
            ));
        }
        Ok(Seen::Canceled)
    }

    /// The events from the next revision to `last` are these.
    fn expect(&self, events: &[Event], last: i64, history: &History) -> Verdict {
        if last > history.revision() {
            return Err(format!(
                "a watch is told of revision {last} before it is written"
            ));
        }
        let expected = history.events(self.next, last);
        let expected: Vec<&Event> = expected.filter(|event| self.wants(event)).collect();
        let same = expected.len() == events.len()
            && expected
                .iter()
                .zip(events)
                .all(|(expected, event)| self.same(expected, event, history.compacted()));
        if same {
            return Ok(());
        }
        let short = |event: &Event| {
            let kv = event.kv.clone().unwrap_or_default();
            (kv.mod_revision, kv.key, event.r#type())
        };
        Err(format!(
            "a watch from revision {} to {last} got {:?}, and should have got {:?}",
            self.next,
            events.iter().map(short).collect::<Vec<_>>(),
            expected
                .iter()
                .map(|event| short(event))
                .collect::<Vec<_>>()
        ))
    }

    /// A record before the event may be gone by a compaction.
    fn same(&self, expected: &Event, event: &Event, compacted: i64) -> bool {
        let prev = match self.create.prev_kv {
            true => {
                expected.prev_kv == event.prev_kv
                    || event.prev_kv.is_none() && revision_of(event) <= compacted + 1
            }
            false => event.prev_kv.is_none(),
        };
        prev && expected.r#type == event.r#type && expected.kv == event.kv
    }

    /// At the end, when everything is delivered.
    pub fn finish(&self, history: &History) -> Verdict {
        let missing = history.events(self.next.max(1), history.revision());
        match missing.filter(|event| self.wants(event)).count() {
            0 => Ok(()),
            count => Err(format!(
                "a watch waits for revision {}: {count} events up to revision {} never came",
                self.next,
                history.revision()
            )),
        }
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
