//! Watch streams: requests to the hub, its messages to the front.

use super::{Effect, Member};
use crate::request::CallId;
use engine::watch::{Permission, StreamKey, WatchOut};
use proto::etcdserverpb as pb;

impl Member {
    pub(super) fn ask_watch(&mut self, call: CallId, request: pb::WatchRequest, now_ns: u64) {
        use pb::watch_request::RequestUnion;
        let stream = StreamKey(call.0);
        self.store.watch_open(stream, now_ns, self.config.watch_jitter(call.0));
        self.store.watch_header(self.node.term());
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                self.store.watch_create(stream, &create, Permission::Granted)
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.store.watch_cancel(stream, cancel.watch_id)
            }
            Some(RequestUnion::ProgressRequest(_)) => self.store.watch_progress(stream),
            None => {}
        }
    }

    pub(super) fn close_watch(&mut self, call: CallId) {
        self.store.watch_close(StreamKey(call.0));
    }

    pub(super) fn set_blocked(&mut self, call: CallId, blocked: bool) {
        self.store.watch_blocked(StreamKey(call.0), blocked);
    }

    pub(super) fn watch_timer(&mut self, now_ns: u64) {
        self.store.watch_timer(now_ns);
    }

    pub(super) fn emit_watch_events(&mut self) {
        let mut out: Vec<WatchOut> = Vec::new();
        self.store.watch_take_out(&mut out);
        for message in out {
            self.effects.push(Effect::Stream {
                call: CallId(message.stream.0),
                message: message.message(),
            });
        }
    }
}
