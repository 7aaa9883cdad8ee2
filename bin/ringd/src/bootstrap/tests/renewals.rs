//! Renewals of leases while an entry is applied in slices.

use super::machine::{Machine, TICK_NS};
use crate::{
    member::{Effect, Input, Member},
    request::{CallId, Request},
};
use prost::Message;
use proto::etcdserverpb as pb;

const LEASE: i64 = 1;
const KEYS: usize = 16;
const TTL_S: i64 = 2;

/// A member that leads alone, its clock, and what it said by its streams.
struct Leader {
    machine: Machine,
    member: Member,
    now_ns: u64,
    renewals: Vec<pb::LeaseKeepAliveResponse>,
    deleted: Option<i64>,
}

impl Leader {
    fn start() -> Leader {
        let machine = Machine::with_log(&[], 2);
        let alone = machine.start(Some("http://n1:2380")).unwrap();
        let member = machine.run(alone.member);
        assert_eq!(member.node().role(), raft::Role::Leader);
        Leader {
            machine,
            member,
            now_ns: 100 * TICK_NS,
            renewals: Vec::new(),
            deleted: None,
        }
    }

    fn ask(&mut self, stream: u32, request: Request) {
        let call = CallId::new(1, stream);
        self.member.step(Input::Ask { call, request }, self.now_ns);
    }

    /// One settle, so that what is applied in slices goes on by one, and what follows from it.
    fn settle(&mut self) {
        let mut effects = Vec::new();
        self.member.settle(self.now_ns);
        self.member.take_effects(&mut effects);
        for effect in effects {
            match effect {
                Effect::Stream { message, .. } => {
                    let renewal = pb::LeaseKeepAliveResponse::decode(message).unwrap();
                    self.renewals.push(renewal);
                }
                Effect::Reply { call, result } if call.stream() == 9 => {
                    let answer = pb::DeleteRangeResponse::decode(result.unwrap()).unwrap();
                    self.deleted = Some(answer.deleted);
                }
                effect => self
                    .machine
                    .carry_out(&mut self.member, effect, self.now_ns),
            }
        }
    }

    fn settle_all(&mut self) {
        for _ in 0..4 * KEYS {
            self.settle();
        }
    }

    fn pulse(&mut self, later_ns: u64) {
        self.now_ns += later_ns;
        self.member.step(Input::Pulse, self.now_ns);
        self.settle();
    }
}

#[test]
fn a_renewal_that_came_in_time_counts_however_long_an_entry_takes() {
    let mut leader = Leader::start();
    let grant = pb::LeaseGrantRequest {
        id: LEASE,
        ttl: TTL_S,
    };
    leader.ask(1, Request::LeaseGrant(grant));
    for number in 0..KEYS {
        let put = pb::PutRequest {
            key: format!("k{number:02}").into(),
            ..Default::default()
        };
        leader.ask(2, Request::Put(put));
    }
    leader.settle_all();
    assert!(leader.member.store().lessor().contains(LEASE));

    let all = pb::DeleteRangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..Default::default()
    };
    leader.ask(9, Request::DeleteRange(all));
    for _ in 0..10 {
        leader.settle();
        if leader.member.store().is_applying() {
            break;
        }
    }
    assert!(leader.member.store().is_applying(), "it takes slices");
    let renew = pb::LeaseKeepAliveRequest { id: LEASE };
    leader.ask(3, Request::LeaseKeepAlive(renew));
    // The lease's time passes before the entry is done.
    leader.pulse((TTL_S as u64 + 1) * 1_000_000_000);
    assert!(leader.member.store().is_applying());
    assert!(leader.renewals.is_empty());
    leader.settle_all();
    assert_eq!(leader.deleted, Some(KEYS as i64));
    let ttls: Vec<i64> = leader.renewals.iter().map(|r| r.ttl).collect();
    assert_eq!(ttls, [TTL_S]);
    leader.pulse(TICK_NS);
    leader.settle_all();
    assert!(leader.member.store().lessor().contains(LEASE));
    // Without another one it ends.
    leader.pulse((TTL_S as u64 + 1) * 1_000_000_000);
    leader.settle_all();
    assert!(!leader.member.store().lessor().contains(LEASE));
}
