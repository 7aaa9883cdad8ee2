//! Observe: the current leader, its changes of value, and the leaders after it.

use super::{requests, Outcome, Stage, Step};
use crate::{
    request::{CallId, Request},
    status::Status,
};
use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb::event::EventType, v3electionpb as election};

pub struct Observer {
    prefix: Bytes,
    /// Following one leader's key; otherwise looking for a first claim.
    following: bool,
}

impl Observer {
    pub fn new(name: &Bytes) -> Observer {
        Observer {
            prefix: requests::prefix(name),
            following: false,
        }
    }

    pub fn read(&self) -> pb::RangeRequest {
        requests::first_created(self.prefix.clone())
    }

    pub(super) fn looked(mut self, range: pb::RangeResponse) -> Result<Outcome, Status> {
        let revision = range.header.map_or(0, |header| header.revision);
        match range.kvs.into_iter().next() {
            Some(kv) => {
                self.following = true;
                let watch = requests::watch(kv.key.clone(), Bytes::new(), revision + 1);
                let message = announce(range.header, kv);
                Ok(Outcome::Emit(
                    Stage::Observing(self),
                    message,
                    Request::Watch(watch),
                ))
            }
            None => {
                self.following = false;
                let end = requests::prefix_end(&self.prefix);
                let watch = requests::watch(self.prefix.clone(), end, revision);
                Ok(Outcome::Ask(Stage::Observing(self), Request::Watch(watch)))
            }
        }
    }

    pub(super) fn watched(
        mut self,
        response: &pb::WatchResponse,
        call: CallId,
        steps: &mut Vec<Step>,
    ) -> Result<Outcome, Status> {
        if response.canceled {
            let again = Request::Range(self.read());
            return Ok(Outcome::Ask(Stage::Observing(self), again));
        }
        for event in &response.events {
            match (event.r#type(), &event.kv) {
                (EventType::Put, Some(kv)) if self.following => steps.push(Step::Stream {
                    call,
                    message: announce(response.header, kv.clone()),
                }),
                (EventType::Put, Some(kv)) => {
                    self.following = true;
                    let header = response.header.map(|header| pb::ResponseHeader {
                        revision: kv.mod_revision,
                        ..header
                    });
                    let watch = requests::watch(kv.key.clone(), Bytes::new(), kv.mod_revision + 1);
                    return Ok(Outcome::Emit(
                        Stage::Observing(self),
                        announce(header, kv.clone()),
                        Request::Watch(watch),
                    ));
                }
                (EventType::Delete, _) if self.following => {
                    let again = Request::Range(self.read());
                    return Ok(Outcome::Ask(Stage::Observing(self), again));
                }
                _ => {}
            }
        }
        Ok(Outcome::Stay(Stage::Observing(self)))
    }
}

fn announce(header: Option<pb::ResponseHeader>, kv: proto::mvccpb::KeyValue) -> Bytes {
    let kv = Some(kv);
    election::LeaderResponse { header, kv }
        .encode_to_vec()
        .into()
}
