//! Watch streams: requests to the hub, its messages to the front.

use super::{Effect, Member};
use crate::request::CallId;
use engine::watch::{Permission, StreamKey, WatchOut};
use proto::etcdserverpb as pb;

impl Member {
    pub(super) fn ask_watch(&mut self, call: CallId, request: pb::WatchRequest, now_ns: u64) {
        let stream = StreamKey(call.0);
        let hub = self.store.hub_mut();
        hub.set_term(self.node.term());
        if self.watch_streams.insert(stream) {
            let draw = self.config.seed ^ call.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hub.open_stream(stream, call.connection().into(), draw, now_ns);
        }
        hub.request(stream, &request, Permission::Granted, now_ns);
    }

    pub(super) fn close_watch(&mut self, call: CallId) {
        let stream = StreamKey(call.0);
        if self.watch_streams.remove(&stream) {
            self.store.hub_mut().close_stream(stream);
        }
    }

    pub(super) fn set_blocked(&mut self, call: CallId, blocked: bool) {
        let stream = StreamKey(call.0);
        if self.watch_streams.contains(&stream) {
            self.store.hub_mut().set_blocked(stream, blocked);
        }
        self.set_backup_blocked(call, blocked);
    }

    pub(super) fn watch_timer(&mut self, now_ns: u64) {
        self.store.hub_mut().on_timer(now_ns);
    }

    pub(super) fn emit_watch_events(&mut self) {
        if !self.store.hub().has_out() {
            return;
        }
        let mut out: Vec<WatchOut> = Vec::new();
        self.store.hub_mut().take_out(&mut out);
        for message in out {
            self.effects.push(Effect::Stream {
                call: CallId(message.stream.0),
                message: message.message(),
            });
        }
    }
}
