//! The Lock and Election services: recipes over keys, leases and watches, run by the server as a client of itself.
//!
//! A session is one call. It asks the member one thing at a time and may hold one watch; the answers come back through
//! [`Concurrency::answered`] and [`Concurrency::watched`]. No I/O, no state beyond the calls under way.

mod observe;
mod requests;
mod tenure;
mod wait;

use crate::{
    request::{CallId, Request},
    status::{code, Status},
};
use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use std::collections::BTreeMap;

/// Questions have numbers like those of HTTP/2 streams.
const STREAM_MAX: u32 = 0x7fff_ffff;

/// A call of one of the two services.
#[derive(Clone, Debug)]
pub enum Recipe {
    Lock(lock::LockRequest),
    Unlock(lock::UnlockRequest),
    Campaign(election::CampaignRequest),
    Proclaim(election::ProclaimRequest),
    Leader(election::LeaderRequest),
    Observe(election::LeaderRequest),
    Resign(election::ResignRequest),
}

/// What a session wants done.
#[derive(Debug)]
pub enum Step {
    Ask {
        call: CallId,
        request: Request,
    },
    /// Ends a watch that the session had opened.
    Forget {
        call: CallId,
    },
    Reply {
        call: CallId,
        result: Result<Bytes, Status>,
    },
    Stream {
        call: CallId,
        message: Bytes,
    },
    End {
        call: CallId,
    },
}

/// Where a session stands.
enum Stage {
    /// A lease was asked for.
    Granting(wait::Claim),
    /// A lease was asked for, in the name of a leader.
    GrantingTenure(tenure::Tenure),
    /// The claim's transaction is under way.
    Claiming(wait::Claim),
    /// A campaign that had won its key before is changing the value.
    Updating(wait::Contest),
    /// Waiting for all older claims to go.
    Waiting(wait::Contest),
    /// A lock that waited makes sure that its key is still there.
    Confirming(wait::Contest),
    Unlocking,
    Proclaiming,
    Resigning,
    Leading,
    Observing(observe::Observer),
    /// The caller left; its key is being deleted.
    Leaving,
}

struct Session {
    call: CallId,
    stage: Stage,
    watch: Option<CallId>,
}

#[derive(Default)]
pub struct Concurrency {
    sessions: BTreeMap<u32, Session>,
    /// Internal calls under way, by their stream number.
    asks: BTreeMap<u32, u32>,
    calls: BTreeMap<CallId, u32>,
    next_session: u32,
    next_ask: u32,
}

impl Concurrency {
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Starts a call.
    pub fn start(&mut self, call: CallId, recipe: Recipe, steps: &mut Vec<Step>) {
        let mut lease = 0;
        let (stage, request) = match recipe {
            Recipe::Lock(request) => {
                lease = request.lease;
                wait::Claim::lock(request).start()
            }
            Recipe::Campaign(request) => {
                lease = request.lease;
                wait::Claim::campaign(request).start()
            }
            Recipe::Unlock(request) => (
                Stage::Unlocking,
                Request::DeleteRange(requests::delete(request.key)),
            ),
            Recipe::Proclaim(election::ProclaimRequest { leader, value }) => match leader {
                None => return steps.push(missing_leader(call)),
                Some(leader) => {
                    lease = leader.lease;
                    let value = Some(value);
                    tenure::Tenure { leader, value }.start()
                }
            },
            Recipe::Resign(election::ResignRequest { leader }) => match leader {
                None => return steps.push(missing_leader(call)),
                Some(leader) => {
                    lease = leader.lease;
                    let value = None;
                    tenure::Tenure { leader, value }.start()
                }
            },
            Recipe::Leader(request) => (
                Stage::Leading,
                Request::Range(requests::first_created(requests::prefix(&request.name))),
            ),
            Recipe::Observe(request) => {
                let observer = observe::Observer::new(&request.name);
                let first = Request::Range(observer.read());
                (Stage::Observing(observer), first)
            }
        };
        let id = self.free_session();
        self.sessions.insert(
            id,
            Session {
                call,
                stage,
                watch: None,
            },
        );
        self.calls.insert(call, id);
        if lease != 0 {
            // The lease is the caller's: one renewal, whose outcome the call itself will show.
            steps.push(Step::Ask {
                call: CallId::new(CallId::INTERNAL_CONNECTION, 0),
                request: Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: lease }),
            });
        }
        self.ask(id, request, steps);
    }

    /// The caller is gone.
    pub fn cancel(&mut self, call: CallId, steps: &mut Vec<Step>) {
        let Some(id) = self.calls.remove(&call) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(watch) = session.watch.take() {
            self.asks.remove(&watch.stream());
            steps.push(Step::Forget { call: watch });
        }
        let key = match &session.stage {
            Stage::Waiting(contest) | Stage::Confirming(contest) | Stage::Updating(contest) => {
                Some(contest.claim.key.clone())
            }
            Stage::Claiming(claim) => Some(claim.key.clone()),
            _ => None,
        };
        match key {
            Some(key) => {
                session.stage = Stage::Leaving;
                self.asks.retain(|_, owner| *owner != id);
                self.ask(id, Request::DeleteRange(requests::delete(key)), steps);
            }
            None => self.finish(id),
        }
    }

    /// The member answered an internal call.
    pub fn answered(&mut self, ask: CallId, result: Result<Bytes, Status>, steps: &mut Vec<Step>) {
        let Some(id) = self.asks.remove(&ask.stream()) else {
            return;
        };
        let Some(mut session) = self.sessions.remove(&id) else {
            return;
        };
        let stage = std::mem::replace(&mut session.stage, Stage::Leaving);
        let outcome = match result {
            Err(status) if matches!(stage, Stage::Observing(_)) => {
                let _ = status; // A read that fails inside ends the stream with OK.
                Ok(Outcome::End)
            }
            Err(status) => Err(status),
            Ok(message) => advance(stage, &message),
        };
        self.settle(id, session, outcome, steps);
    }

    /// A watch of a session delivered a response.
    pub fn watched(&mut self, ask: CallId, message: Bytes, steps: &mut Vec<Step>) {
        let Some(id) = self.asks.get(&ask.stream()).copied() else {
            return;
        };
        let Some(mut session) = self.sessions.remove(&id) else {
            return;
        };
        let stage = std::mem::replace(&mut session.stage, Stage::Leaving);
        let outcome = pb::WatchResponse::decode(message)
            .map_err(|error| Status::with_text(code::UNKNOWN, error.to_string()))
            .and_then(|response| match stage {
                Stage::Waiting(contest) => contest.watched(&response),
                Stage::Observing(observer) => observer.watched(&response, session.call, steps),
                other => Ok(Outcome::Stay(other)),
            });
        self.settle(id, session, outcome, steps);
    }

    fn settle(
        &mut self,
        id: u32,
        mut session: Session,
        outcome: Result<Outcome, Status>,
        steps: &mut Vec<Step>,
    ) {
        let call = session.call;
        match outcome {
            Ok(Outcome::Stay(stage)) => {
                session.stage = stage;
                self.sessions.insert(id, session);
            }
            Ok(Outcome::Ask(stage, request)) => {
                self.drop_watch(&mut session, steps);
                session.stage = stage;
                self.sessions.insert(id, session);
                self.ask(id, request, steps);
            }
            Ok(Outcome::Emit(stage, message, request)) => {
                steps.push(Step::Stream { call, message });
                self.drop_watch(&mut session, steps);
                session.stage = stage;
                self.sessions.insert(id, session);
                self.ask(id, request, steps);
            }
            Ok(Outcome::Reply(message)) => {
                self.drop_watch(&mut session, steps);
                self.calls.remove(&call);
                steps.push(Step::Reply {
                    call,
                    result: Ok(message.into()),
                });
            }
            Ok(Outcome::End) => {
                self.drop_watch(&mut session, steps);
                self.calls.remove(&call);
                steps.push(Step::End { call });
            }
            Ok(Outcome::Gone) => {
                self.calls.remove(&call);
            }
            Err(status) => {
                self.drop_watch(&mut session, steps);
                self.calls.remove(&call);
                steps.push(Step::Reply {
                    call,
                    result: Err(failed_inside(status)),
                });
            }
        }
    }

    fn drop_watch(&mut self, session: &mut Session, steps: &mut Vec<Step>) {
        if let Some(watch) = session.watch.take() {
            self.asks.remove(&watch.stream());
            steps.push(Step::Forget { call: watch });
        }
    }

    fn ask(&mut self, session: u32, request: Request, steps: &mut Vec<Step>) {
        let ask = self.free_ask();
        let call = CallId::new(CallId::INTERNAL_CONNECTION, ask);
        self.asks.insert(ask, session);
        if matches!(request, Request::Watch(_)) {
            if let Some(session) = self.sessions.get_mut(&session) {
                session.watch = Some(call);
            }
        }
        steps.push(Step::Ask { call, request });
    }

    /// Numbers come again; what waits for its turn for years keeps the one it has.
    fn free_session(&mut self) -> u32 {
        loop {
            self.next_session = self.next_session.wrapping_add(1);
            if !self.sessions.contains_key(&self.next_session) {
                return self.next_session;
            }
        }
    }

    fn free_ask(&mut self) -> u32 {
        loop {
            self.next_ask = self.next_ask.wrapping_add(1) & STREAM_MAX;
            // 0 is the renewal that nobody waits for.
            if self.next_ask != 0 && !self.asks.contains_key(&self.next_ask) {
                return self.next_ask;
            }
        }
    }

    fn finish(&mut self, id: u32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.calls.remove(&session.call);
            self.asks.retain(|_, owner| *owner != id);
        }
    }
}

/// What follows from an answer.
enum Outcome {
    /// Nothing yet.
    Stay(Stage),
    Ask(Stage, Request),
    /// A message for the caller's stream, then the next request.
    Emit(Stage, Bytes, Request),
    Reply(Vec<u8>),
    End,
    Gone,
}

fn advance(stage: Stage, message: &Bytes) -> Result<Outcome, Status> {
    match stage {
        Stage::Granting(claim) => claim.granted(parse(message)?),
        Stage::GrantingTenure(tenure) => tenure.granted(parse(message)?),
        Stage::Claiming(claim) => claim.claimed(parse(message)?),
        Stage::Updating(contest) => contest.updated(parse(message)?),
        Stage::Waiting(contest) => contest.looked(parse(message)?),
        Stage::Confirming(contest) => contest.confirmed(parse(message)?),
        Stage::Unlocking => {
            let deleted: pb::DeleteRangeResponse = parse(message)?;
            let header = deleted.header;
            Ok(Outcome::Reply(
                lock::UnlockResponse { header }.encode_to_vec(),
            ))
        }
        Stage::Proclaiming => {
            let txn: pb::TxnResponse = parse(message)?;
            if !txn.succeeded {
                return Err(Status::new(code::UNKNOWN, "election: not leader"));
            }
            let header = txn.header;
            Ok(Outcome::Reply(
                election::ProclaimResponse { header }.encode_to_vec(),
            ))
        }
        Stage::Resigning => {
            let txn: pb::TxnResponse = parse(message)?;
            let header = txn.header;
            Ok(Outcome::Reply(
                election::ResignResponse { header }.encode_to_vec(),
            ))
        }
        Stage::Leading => {
            let range: pb::RangeResponse = parse(message)?;
            let kv = range.kvs.into_iter().next();
            if kv.is_none() {
                return Err(Status::new(code::UNKNOWN, "election: no leader"));
            }
            let header = range.header;
            Ok(Outcome::Reply(
                election::LeaderResponse { header, kv }.encode_to_vec(),
            ))
        }
        Stage::Observing(observer) => observer.looked(parse(message)?),
        Stage::Leaving => Ok(Outcome::Gone),
    }
}

fn parse<M: Message + Default>(message: &Bytes) -> Result<M, Status> {
    M::decode(message.clone()).map_err(|error| Status::with_text(code::UNKNOWN, error.to_string()))
}

/// Whatever fails inside a recipe arrives with code UNKNOWN and the bare message, but for a time limit: that is no error
/// of the server's own, and keeps its code.
fn failed_inside(status: Status) -> Status {
    match status.code {
        code::DEADLINE_EXCEEDED => status,
        _ => Status {
            code: code::UNKNOWN,
            message: status.message,
        },
    }
}

fn missing_leader(call: CallId) -> Step {
    Step::Reply {
        call,
        result: Err(Status::new(
            code::UNKNOWN,
            "\"leader\" field must be provided",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a lock and gives the number of its question.
    fn start(concurrency: &mut Concurrency, stream: u32) -> u32 {
        let mut steps = Vec::new();
        let recipe = Recipe::Lock(lock::LockRequest::default());
        concurrency.start(CallId::new(1, stream), recipe, &mut steps);
        match &steps[..] {
            [Step::Ask { call, .. }] => call.stream(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_in_use_are_not_given_again() {
        let mut concurrency = Concurrency::default();
        let old = [start(&mut concurrency, 1), start(&mut concurrency, 3)];
        assert_eq!(old, [1, 2]);
        concurrency.next_ask = STREAM_MAX - 1;
        concurrency.next_session = u32::MAX;
        let new = [start(&mut concurrency, 5), start(&mut concurrency, 7)];
        assert_eq!(new, [STREAM_MAX, 3]);
        assert_eq!(concurrency.sessions.len(), 4);
        assert_eq!(concurrency.asks.len(), 4);
    }
}
