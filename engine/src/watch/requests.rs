//! What clients ask for: create, cancel, and the answers in etcd's words.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest};

use super::hub::{stream_mut, WatchHub, CONNECTION_WATCHERS_MAX, NO_WATCH_ID};
use super::ranges::End;
use super::targets::Span;
use super::types::{Permission, StreamKey};
use super::watchers::{State, Watcher, FRAGMENT, NIL, NO_DELETE, NO_PUT, PREV_KV, PROGRESS, QUIET};
use super::wire::{cancel_reason, HeadBuilder};

const REASON_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const REASON_TOO_MANY: &str = "etcdserver: too many requests";

impl WatchHub {
    /// Serves one request of a stream. Requests must come in the order in which the client sent them; answers leave in that
    /// order. `permission` matters for creates only.
    pub fn request(
        &mut self,
        key: StreamKey,
        request: &WatchRequest,
        permission: Permission,
        now_ns: u64,
    ) {
        match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                self.create(key, create, permission, now_ns)
            }
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(key, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress(key),
            None => {}
        }
    }

    /// Answers with `created`, and with `canceled` and watch id -1 besides if the watcher cannot be.
    pub fn create(
        &mut self,
        key: StreamKey,
        request: &WatchCreateRequest,
        permission: Permission,
        now_ns: u64,
    ) {
        let Some(&slot) = self.keys.get(&key) else {
            return;
        };
        let (start, span) = span_of(request);
        if let Some(reason) = self.refusal(slot, request, start, &span, permission) {
            let head = HeadBuilder::new(&self.identity, self.revision)
                .watch_id(NO_WATCH_ID)
                .created()
                .canceled();
            return self.send_control(slot, head, cancel_reason(reason));
        }
        let target = self.targets.acquire(start, &span);
        let stream = stream_mut(&mut self.streams, slot);
        let id = match request.watch_id {
            0 => stream.automatic_id(),
            id => id,
        };
        let watcher = self.watchers.add(Watcher {
            id,
            next: request.start_revision,
            stream: slot,
            target,
            before: NIL,
            after: NIL,
            flags: flags_of(request),
            state: State::Free,
        });
        stream.ids.insert(id, watcher);
        *self.connections.entry(stream.connection).or_default() += 1;
        if request.progress_notify {
            self.want_progress(slot, id, now_ns);
        }
        let head = HeadBuilder::new(&self.identity, self.revision)
            .watch_id(id)
            .created();
        self.send_control(slot, head, Bytes::new());
        if request.start_revision == 0 || request.start_revision > self.revision {
            self.link_synced(watcher);
            if request.start_revision > self.revision {
                let stream = stream_mut(&mut self.streams, slot);
                stream.forget_arrived(self.revision);
                stream.future.insert((request.start_revision, watcher));
            }
        } else {
            stream_mut(&mut self.streams, slot).unsynced += 1;
            self.make_ready(watcher, request.start_revision);
        }
    }

    /// Answers with `canceled`; unknown ids are ignored.
    pub fn cancel(&mut self, key: StreamKey, id: i64) {
        let Some(&slot) = self.keys.get(&key) else {
            return;
        };
        let Some(&watcher) = stream_mut(&mut self.streams, slot).ids.get(&id) else {
            return;
        };
        self.remove_watcher(watcher);
        let head = HeadBuilder::new(&self.identity, self.revision)
            .watch_id(id)
            .canceled();
        self.send_control(slot, head, Bytes::new());
    }

    fn refusal(
        &self,
        slot: u32,
        request: &WatchCreateRequest,
        start: &[u8],
        span: &Span,
        permission: Permission,
    ) -> Option<&'static str> {
        if request.start_revision < 0 {
            return Some(REASON_COMPACTED);
        }
        let denied = match permission {
            Permission::Granted => None,
            Permission::Denied => Some("rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
            Permission::InvalidToken => Some("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
            Permission::OldAuthRevision => {
                Some("rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old")
            }
            Permission::UserEmpty => Some("rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        };
        if denied.is_some() {
            return denied;
        }
        if matches!(span, Span::Until(End::At(end)) if start >= &**end) {
            return Some(REASON_EMPTY_RANGE);
        }
        let stream = self.streams[slot as usize].as_ref()?;
        if request.watch_id != 0 && stream.ids.contains_key(&request.watch_id) {
            return Some(REASON_DUPLICATE_ID);
        }
        let used = self
            .connections
            .get(&stream.connection)
            .copied()
            .unwrap_or(0);
        (used >= CONNECTION_WATCHERS_MAX).then_some(REASON_TOO_MANY)
    }

    pub(super) fn send_control(&mut self, slot: u32, head: HeadBuilder, tail: Bytes) {
        let stream = stream_mut(&mut self.streams, slot);
        self.outbox.push(stream, head.build(), tail);
    }
}

/// The keys that a request means. The end `\0` stands for infinity, and an empty key for `\0`.
fn span_of(request: &WatchCreateRequest) -> (&[u8], Span) {
    let start: &[u8] = match request.key.is_empty() {
        true => b"\0",
        false => &request.key,
    };
    let span = match &*request.range_end {
        b"" => Span::Key,
        b"\0" => Span::Until(End::Infinite),
        end => Span::Until(End::At(Arc::from(end))),
    };
    (start, span)
}

fn flags_of(request: &WatchCreateRequest) -> u8 {
    let mut flags = QUIET;
    for (set, flag) in [
        (request.prev_kv, PREV_KV),
        (request.fragment, FRAGMENT),
        (request.progress_notify, PROGRESS),
    ] {
        if set {
            flags |= flag;
        }
    }
    for filter in &request.filters {
        match FilterType::try_from(*filter) {
            Ok(FilterType::Noput) => flags |= NO_PUT,
            Ok(FilterType::Nodelete) => flags |= NO_DELETE,
            Err(_) => {}
        }
    }
    flags
}
