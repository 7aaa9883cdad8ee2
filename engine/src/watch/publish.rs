//! The live path: the events of one new revision, to everyone who is up to date.

use bytes::Bytes;

use super::hub::{stream_mut, WatchHub};
use super::targets::Span;
use super::types::{EventKind, EventRef, Found, Previous};
use super::watchers::{State, Watcher, NIL, NO_DELETE, NO_PUT, PREV_KV, VARIANTS};
use super::wire::{event_len_max, put_event, HeadBuilder, Payload};
use crate::planted::{planted, Fault};

/// Events `from..to` of the revision concern the target.
#[derive(Clone, Copy, Debug)]
struct Run {
    target: u32,
    from: u32,
    to: u32,
}

/// Buffers that live from one publish to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    runs: Vec<Run>,
    found: Vec<u32>,
    needs: Vec<u8>,
    behind: Vec<u32>,
}

/// Someone wants the event without, or with, the previous value.
const NEED_PLAIN: u8 = 1;
const NEED_PREVIOUS: u8 = 2;

/// The events of the revision that someone needs, each encoded once.
struct Encoded {
    bytes: Bytes,
    /// Where each event ends; one that nobody needs takes no room.
    ends: Vec<usize>,
    /// Events whose previous value is not in memory.
    missing: Vec<bool>,
}

/// What the watchers of one target get, by variant; made when the first of them asks.
#[derive(Clone)]
enum Share {
    Unknown,
    /// The filters leave nothing.
    Nothing,
    /// A previous value is not in memory.
    Missing,
    Events(Payload),
}

impl WatchHub {
    /// Hands the events of one revision, in the order of execution, to the watchers that are synced. Called once for each new
    /// revision, right when it is applied. `previous` is asked for previous values that a watcher wants; where it misses, that
    /// watcher reads the revision in `catch_up` instead.
    pub fn publish(&mut self, revision: i64, events: &[EventRef<'_>], previous: &mut Previous<'_>) {
        assert!(
            revision > self.revision,
            "revisions are published in order, once each"
        );
        debug_assert!(events.iter().all(|event| event.kv.mod_revision == revision));
        self.revision = revision;
        if self.synced == 0 || revision % 61 == 0 && planted(Fault::WatchSkips) {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.find_runs(events, &mut scratch);
        if !scratch.runs.is_empty() {
            self.deliver(events, previous, &mut scratch);
        }
        for watcher in scratch.behind.drain(..) {
            self.unlink_synced(watcher);
            self.make_ready(watcher, revision);
        }
        scratch.runs.clear();
        scratch.needs.clear();
        self.scratch = scratch;
    }

    /// As [`WatchHub::publish`], for a revision with so many events that nobody is to be given them in one go: whoever watches one
    /// of its keys reads it in `catch_up`. `first_from` is the first key of the revision that is not before the one given.
    pub fn publish_large<'k>(
        &mut self,
        revision: i64,
        first_from: &dyn Fn(&[u8]) -> Option<&'k [u8]>,
    ) {
        assert!(
            revision > self.revision,
            "revisions are published in order, once each"
        );
        self.revision = revision;
        for watcher in self.watchers.in_state(State::Synced) {
            let Watcher { target, next, .. } = *self.watchers.get(watcher);
            let target = self.targets.get(target);
            let touches = first_from(&target.start).is_some_and(|key| match &target.span {
                Span::Key => *key == *target.start,
                Span::Until(end) => end.is_after(key),
            });
            if touches && next <= revision {
                self.unlink_synced(watcher);
                self.make_ready(watcher, revision);
            }
        }
    }

    fn find_runs(&mut self, events: &[EventRef<'_>], scratch: &mut Scratch) {
        let Scratch { runs, found, .. } = scratch;
        for (at, event) in (0u32..).zip(events) {
            self.targets
                .holding(event.kv.key, &mut |target| found.push(target));
            for number in found.drain(..) {
                let target = self.targets.get_mut(number);
                if target.head == NIL {
                    continue;
                }
                // `last_run` may be of an earlier publish; it counts only if the run it names is of this target.
                match runs.get_mut(target.last_run as usize) {
                    Some(run) if run.target == number && run.to == at => run.to += 1,
                    _ => {
                        target.last_run = runs.len() as u32;
                        runs.push(Run {
                            target: number,
                            from: at,
                            to: at + 1,
                        });
                    }
                }
            }
        }
        if events.len() > 1 {
            runs.sort_unstable_by_key(|run| (run.target, run.from));
        }
    }

    fn deliver(
        &mut self,
        events: &[EventRef<'_>],
        previous: &mut Previous<'_>,
        scratch: &mut Scratch,
    ) {
        scratch.needs.resize(events.len(), 0);
        for run in &scratch.runs {
            let target = self.targets.get(run.target);
            let plain = if target.without_previous > 0 {
                NEED_PLAIN
            } else {
                0
            };
            let with_previous = if target.with_previous > 0 {
                NEED_PREVIOUS
            } else {
                0
            };
            for need in &mut scratch.needs[run.from as usize..run.to as usize] {
                *need |= plain | with_previous;
            }
        }
        let plain = encode(events, &scratch.needs, NEED_PLAIN, None);
        let asked = (!planted(Fault::PreviousDropped)).then_some(previous);
        let with_previous = encode(events, &scratch.needs, NEED_PREVIOUS, asked);
        let header = HeadBuilder::new(&self.identity, self.revision);
        for runs in scratch.runs.chunk_by(|a, b| a.target == b.target) {
            let mut shares = [const { Share::Unknown }; VARIANTS];
            let mut next = self.targets.get(runs[0].target).head;
            while next != NIL {
                let at = next;
                let watcher = self.watchers.get(at);
                next = watcher.after;
                if self.revision < watcher.next {
                    continue;
                }
                let stream = stream_mut(&mut self.streams, watcher.stream);
                if stream.closed {
                    continue;
                }
                if !self.outbox.has_room(stream) {
                    // Nothing is copied for those who cannot take it.
                    if wanted(events, runs, watcher.flags).next().is_some() {
                        scratch.behind.push(at);
                    }
                    continue;
                }
                let share = &mut shares[watcher.variant()];
                if matches!(share, Share::Unknown) {
                    let encoded = if watcher.has(PREV_KV) {
                        &with_previous
                    } else {
                        &plain
                    };
                    *share = encoded.share(events, runs, watcher.flags);
                }
                match share {
                    Share::Nothing | Share::Unknown => {}
                    Share::Missing => scratch.behind.push(at),
                    Share::Events(payload) => self.send_events(at, header, payload),
                }
            }
        }
    }
}

/// The events of a target's runs that pass the filters.
fn wanted<'a>(
    events: &'a [EventRef<'_>],
    runs: &'a [Run],
    flags: u8,
) -> impl Iterator<Item = usize> + 'a {
    let all = runs
        .iter()
        .flat_map(|run| run.from as usize..run.to as usize);
    all.filter(move |&at| match events[at].kind {
        EventKind::Put => flags & NO_PUT == 0,
        EventKind::Delete => flags & NO_DELETE == 0,
    })
}

fn encode(
    events: &[EventRef<'_>],
    needs: &[u8],
    need: u8,
    mut previous: Option<&mut Previous<'_>>,
) -> Encoded {
    let needed = || {
        events
            .iter()
            .zip(needs)
            .filter(|(_, needs)| *needs & need != 0)
    };
    let mut encoded = Encoded {
        bytes: Bytes::new(),
        ends: Vec::new(),
        missing: Vec::new(),
    };
    let size: usize = needed().map(|(event, _)| event_len_max(event)).sum();
    if size == 0 {
        return encoded;
    }
    let mut bytes = Vec::with_capacity(size);
    encoded.ends.reserve_exact(events.len());
    for (at, event) in events.iter().enumerate() {
        let mut missing = false;
        if needs[at] & need != 0 {
            match previous
                .as_deref_mut()
                .filter(|_| event.may_have_previous())
            {
                Some(previous) => missing = !put_with_previous(&mut bytes, event, at, previous),
                None => put_event(&mut bytes, event, None),
            }
        }
        encoded.ends.push(bytes.len());
        if previous.is_some() {
            encoded.missing.push(missing);
        }
    }
    encoded.bytes = Bytes::from(bytes);
    encoded
}

/// `false`: the previous value is not in memory, and nothing was appended.
fn put_with_previous(
    out: &mut Vec<u8>,
    event: &EventRef<'_>,
    at: usize,
    previous: &mut Previous<'_>,
) -> bool {
    let start = out.len();
    let mut found = false;
    let on_found: &mut Found<'_> = &mut |kv| {
        if !found {
            put_event(out, event, Some(kv));
        }
        found = true;
    };
    let outcome = previous(at, on_found);
    match outcome {
        Err(_) => out.truncate(start),
        Ok(()) if !found => put_event(out, event, None),
        Ok(()) => {}
    }
    outcome.is_ok()
}

impl Encoded {
    /// What a watcher with these flags gets of the runs of its target: a part of the common bytes where it wants a stretch of
    /// them, a copy where it wants some in between and not others.
    fn share(&self, events: &[EventRef<'_>], runs: &[Run], flags: u8) -> Share {
        let wanted = || wanted(events, runs, flags);
        let Some(first) = wanted().next() else {
            return Share::Nothing;
        };
        if self.missing.iter().any(|&missing| missing) && wanted().any(|at| self.missing[at]) {
            return Share::Missing;
        }
        let start_of = |at: usize| at.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut ends = Vec::new();
        let mut end = 0;
        let mut last = first;
        for at in wanted() {
            end += self.ends[at] - start_of(at);
            if at != first && ends.is_empty() {
                ends.push(self.ends[first] - start_of(first));
            }
            if at != first {
                ends.push(end);
            }
            last = at;
        }
        let bytes = if self.ends[last] - start_of(first) == end {
            self.bytes.slice(start_of(first)..self.ends[last])
        } else {
            let mut copy = Vec::with_capacity(end);
            for at in wanted() {
                copy.extend_from_slice(&self.bytes[start_of(at)..self.ends[at]]);
            }
            Bytes::from(copy)
        };
        Share::Events(Payload { bytes, ends })
    }
}
