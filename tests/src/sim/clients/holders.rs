//! Holders of leases: each keeps one alive for a while, then lets it end or revokes it, and takes the next.

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd::request::Request;
use ringd::status::Status;

use super::{Kind, Waits};
use crate::sim::checkers::Verdict;
use crate::sim::swarm::SECOND_NS;
use crate::sim::world::World;

/// Keep-alives that a holder sends before it does something else.
const RENEWALS_MAX: u64 = 12;
/// It waits for an answer for so many thirds of the time to live, at most: the lease may end meanwhile.
const PATIENCE_THIRDS_MAX: u64 = 4;
/// How often a holder turns to another member with the next of them, be that one alive or not.
const WANDERS_PERCENT: u64 = 25;
/// Leases have numbers from here on.
const LEASE_BASE: i64 = 0x1000;

#[derive(Debug, Default)]
pub(super) struct Holder {
    /// 0 while it has none.
    lease: i64,
    ttl_s: i64,
    renewals_left: u64,
    /// The keep-alive under way was sent then.
    sent_ns: Option<u64>,
}

impl Holder {
    /// Time between two keep-alives, if each is answered.
    fn renews_every_ns(&self) -> u64 {
        self.ttl_s as u64 * SECOND_NS / 3
    }
}

impl World {
    pub(super) fn hold(&mut self, client: usize) {
        if self.clients.quiet {
            return;
        }
        let ttl_max_s = self.plan.clients.ttl_max_s;
        let chance = &mut self.chance.clients;
        let (stops, attaches) = (chance.percent(50), chance.percent(60));
        let wanders = chance.percent(WANDERS_PERCENT);
        let patience = chance.between(1, PATIENCE_THIRDS_MAX);
        let ttl_s = chance.between(2, ttl_max_s.max(2)) as i64;
        let renewals = chance.below(RENEWALS_MAX);
        let now = self.now;
        let this = &mut self.clients.all[client];
        let Kind::Holder(holder) = &mut this.kind else {
            return;
        };
        if holder.lease == 0 {
            self.clients.next_lease += 1;
            let id = LEASE_BASE + self.clients.next_lease;
            *holder = Holder {
                lease: id,
                ttl_s,
                renewals_left: renewals,
                sent_ns: None,
            };
            let question = self.next_question();
            let grant = pb::LeaseGrantRequest { ttl: ttl_s, id };
            return self.ask(client, question, Request::LeaseGrant(grant));
        }
        if holder.sent_ns.take().is_some() {
            // The last keep-alive was never answered: what comes late must not count for the next one.
            self.move_on(client);
            return self.wake_client(client, 1);
        }
        let lease = holder.lease;
        if holder.renewals_left == 0 {
            // The next lease; this one ends by itself, or is revoked.
            *holder = Holder::default();
            if stops {
                let long = 1 + self.chance.clients.below(3 * SECOND_NS);
                return self.wake_client(client, long);
            }
            self.leases.give_up(lease);
            let question = self.next_question();
            let revoke = pb::LeaseRevokeRequest { id: lease };
            return self.ask(client, question, Request::LeaseRevoke(revoke));
        }
        holder.renewals_left -= 1;
        if attaches && holder.renewals_left % 3 == 0 {
            let which = holder.renewals_left / 3;
            let question = self.next_question();
            // Several keys of a lease, so that revoking it takes slices; other leases take them over.
            let mut put = pb::PutRequest {
                key: format!("lease/{}/{}", lease % 7, which).into(),
                value: format!("#{question}#").into(),
                lease,
                ..Default::default()
            };
            put.prev_kv = stops;
            return self.ask(client, question, Request::Put(put));
        }
        let waits_ns = holder.renews_every_ns() * patience;
        holder.sent_ns = Some(now);
        if wanders {
            self.move_on(client);
        }
        let this = &mut self.clients.all[client];
        this.waits = Waits::Stream;
        let request = Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: lease });
        self.dispatch(client, request);
        self.wake_client(client, waits_ns);
    }

    /// A grant, a revocation or a put with the lease was answered.
    pub(super) fn holder_answered(
        &mut self,
        client: usize,
        asked_ns: u64,
        result: Result<Bytes, Status>,
    ) {
        let Kind::Holder(holder) = &mut self.clients.all[client].kind else {
            return;
        };
        let refused = result.is_err();
        let granted = result.ok().filter(|_| holder.sent_ns.is_none());
        let response = granted.and_then(|bytes| pb::LeaseGrantResponse::decode(bytes).ok());
        if let Some(grant) = response.filter(|grant| grant.id == holder.lease && grant.ttl > 0) {
            holder.ttl_s = grant.ttl;
            let verdict = self.leases.confirmed(grant.id, grant.ttl, asked_ns);
            if let Err(why) = verdict {
                self.fail(why);
            }
        } else if refused {
            *holder = Holder::default();
        }
        let pause = 1 + self.chance.clients.below(SECOND_NS / 2);
        self.wake_client(client, pause);
    }

    /// A keep-alive was answered.
    pub(super) fn renewal_answered(&mut self, client: usize, message: Bytes) {
        let Kind::Holder(holder) = &mut self.clients.all[client].kind else {
            return;
        };
        let Ok(response) = pb::LeaseKeepAliveResponse::decode(message) else {
            return self.fail("a keep-alive response cannot be decoded".to_string());
        };
        let sent_ns = holder.sent_ns.take();
        if response.id != holder.lease {
            return;
        }
        let next_ns = sent_ns.map(|sent_ns| sent_ns + holder.renews_every_ns());
        if response.ttl == 0 {
            *holder = Holder::default();
        } else if let Some(sent_ns) = sent_ns {
            let verdict = self.leases.confirmed(response.id, response.ttl, sent_ns);
            if let Err(why) = verdict {
                self.fail(why);
            }
        }
        if let Some(next_ns) = next_ns {
            let pause = next_ns.saturating_sub(self.now).max(1);
            self.wake_client(client, pause);
        }
    }

    /// A renewal counts where the lease's time runs: at the leader of the latest term. That one must know of it before the
    /// client is told, or became leader since it was asked for.
    pub(super) fn check_renewal(&self, client: usize, message: &Bytes) -> Verdict {
        let Kind::Holder(holder) = &self.clients.all[client].kind else {
            return Ok(());
        };
        let response = pb::LeaseKeepAliveResponse::decode(message.clone()).ok();
        let confirmed = response.filter(|r| r.id == holder.lease && r.ttl > 0);
        let leader = self.leader().map(|number| self.node(number));
        let leader = leader.and_then(|leader| leader.running.as_ref());
        let (Some(renewal), Some(sent_ns), Some(leader)) = (confirmed, holder.sent_ns, leader)
        else {
            return Ok(());
        };
        let lessor = leader.member.store().lessor();
        match lessor.time_to_live(renewal.id, leader.clock.now(self.now)) {
            Some(left) => self.leases.counted(&renewal, (sent_ns, self.now), left),
            // Ended meanwhile, which is another check's business, or not applied there yet.
            None => Ok(()),
        }
    }
}
