//! A checkpoint follows the segments that the log takes, not only the bytes of its entries.

use super::machine::{Machine, TICK_NS};
use crate::{
    member::{Effect, Input, Member},
    request::{CallId, Request},
};
use engine::page::{CheckpointDone, CheckpointJob, Progress};
use proto::etcdserverpb::PutRequest;
use std::io;

/// Each put is a batch of its own and fills a block: 1 MiB segments hold so many of them.
const PUTS_PER_SEGMENT: u64 = 255;

fn finish(mut job: CheckpointJob) -> io::Result<CheckpointDone> {
    loop {
        if let Progress::Finished(done) = job.step()? {
            return Ok(done);
        }
    }
}

/// Carries out what the member wants, and returns how many checkpoints it began.
fn carry_out(machine: &Machine, member: &mut Member, now_ns: u64) -> usize {
    let mut begun = 0;
    let mut effects = Vec::new();
    loop {
        member.settle(now_ns);
        member.take_effects(&mut effects);
        if effects.is_empty() {
            return begun;
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Checkpoint(job) => {
                    begun += 1;
                    let result = finish(job);
                    member.step(Input::Checkpointed { result }, now_ns);
                }
                effect => machine.carry_out(member, effect, now_ns),
            }
        }
    }
}

#[test]
fn small_puts_that_fill_segments_bring_checkpoints() {
    let machine = Machine::with_log(&[], 3);
    let mut member = machine.start(Some("http://n1:2380")).unwrap().member;
    let mut now_ns = 0;
    while !member.is_ready() {
        now_ns += TICK_NS / 2;
        member.step(Input::Pulse, now_ns);
        carry_out(&machine, &mut member, now_ns);
    }
    let mut begun = 0;
    for number in 0..5 * PUTS_PER_SEGMENT {
        let put = PutRequest {
            key: b"key".to_vec().into(),
            ..Default::default()
        };
        let (call, request) = (CallId(number), Request::Put(put));
        member.step(Input::Ask { call, request }, now_ns);
        begun += carry_out(&machine, &mut member, now_ns);
    }
    assert_eq!(begun, 2);
}
