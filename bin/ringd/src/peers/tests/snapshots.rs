//! Snapshots, piece by piece.

use super::*;

const PIECE: usize = 1_000;

struct Transfer {
    world: World,
    content: Vec<u8>,
    taken: Vec<u8>,
    /// Pieces that the receiver was given.
    pieces: usize,
    outcome: Option<bool>,
}

impl Transfer {
    fn begin(bytes: usize) -> Transfer {
        let mut world = World::of(&[1, 2]);
        world.settle();
        world.told(1);
        let now_ns = world.now_ns;
        let snapshot = Box::new(message(MessageType::MsgSnap, 1, 2));
        world.member(1).send_snapshot(2, 9, snapshot, now_ns);
        world.settle();
        Transfer {
            world,
            content: (0..bytes).map(|at| (at / 7) as u8).collect(),
            taken: Vec::new(),
            pieces: 0,
            outcome: None,
        }
    }

    /// Both members do what they are asked for. False if nothing was asked.
    fn step(&mut self) -> bool {
        self.world.settle();
        let now_ns = self.world.now_ns;
        let mut busy = false;
        for input in self.world.inputs.remove(&1).unwrap_or_default() {
            match input {
                Input::SnapshotWanted {
                    peer, id, offset, ..
                } => {
                    busy = true;
                    let from = offset as usize;
                    let to = (from + PIECE).min(self.content.len());
                    let (bytes, last) = (&self.content[from..to], to == self.content.len());
                    let sender = self.world.members.get_mut(&1).unwrap();
                    sender.snapshot_bytes(peer, id, offset, bytes, last, now_ns);
                }
                Input::SnapshotSent { delivered, .. } => self.outcome = Some(delivered),
                _ => {}
            }
        }
        for input in self.world.inputs.remove(&2).unwrap_or_default() {
            if let Input::SnapshotChunk(chunk) = input {
                busy = true;
                self.pieces += 1;
                if chunk.offset == 0 {
                    self.taken.clear();
                }
                assert_eq!(chunk.offset as usize, self.taken.len());
                self.taken.extend_from_slice(&chunk.bytes);
                let offset = self.taken.len() as u64;
                let receiver = self.world.members.get_mut(&2).unwrap();
                receiver.snapshot_taken(chunk.transfer, offset, Ok(chunk.last), now_ns);
            }
        }
        busy
    }

    fn finish(&mut self) {
        for _ in 0..2_000 {
            if self.outcome.is_some() {
                return;
            }
            if !self.step() {
                self.world.pass(50);
            }
        }
        panic!("the transfer does not end");
    }
}

#[test]
fn all_pieces_arrive_in_order() {
    let mut transfer = Transfer::begin(10 * PIECE + 1);
    transfer.finish();
    assert_eq!(transfer.outcome, Some(true));
    assert_eq!(transfer.taken, transfer.content);
    assert_eq!(transfer.pieces, 11);
}

#[test]
fn a_broken_connection_costs_one_piece() {
    let mut transfer = Transfer::begin(10 * PIECE);
    for _ in 0..6 {
        transfer.step();
    }
    let before = transfer.pieces;
    assert!(before > 1);
    // The connection breaks while a piece is on its way, or its answer is.
    for cut in 0..3 {
        let posted = |cable: &Cable| {
            let outbound = &transfer.world.members[&1].connections.get(&cable.dialler.1);
            let end = outbound.map(|connection| &connection.end);
            cable.dialler.0 == 1
                && matches!(end, Some(End::Out(out)) if matches!(out.work, outbound::Work::Exchange { .. } | outbound::Work::Idle))
        };
        let cable = transfer.world.cables.iter().copied().find(posted);
        if let Some(cable) = cable {
            let now_ns = transfer.world.now_ns;
            transfer.world.member(1).closed(cable.dialler.1, now_ns);
            transfer.world.settle();
        }
        for _ in 0..cut {
            transfer.step();
        }
        transfer.world.pass(300);
    }
    transfer.finish();
    assert_eq!(transfer.outcome, Some(true));
    assert_eq!(transfer.taken, transfer.content);
    assert!(transfer.pieces <= 10 + 3, "{} pieces", transfer.pieces);
}

#[test]
fn an_answer_that_got_lost_is_made_up_for() {
    let mut transfer = Transfer::begin(5 * PIECE);
    // The receiver has the first piece, but its answer is lost with the connection.
    transfer.step();
    transfer.world.settle();
    let now_ns = transfer.world.now_ns;
    let inputs = transfer.world.inputs.remove(&2).unwrap();
    let chunk = inputs.into_iter().find_map(|input| match input {
        Input::SnapshotChunk(chunk) => Some(chunk),
        _ => None,
    });
    let chunk = chunk.unwrap();
    transfer.taken.extend_from_slice(&chunk.bytes);
    let ends: Vec<(u64, u32)> = transfer.world.cables.iter().map(|c| c.dialler).collect();
    for end in ends {
        transfer.world.member(end.0).closed(end.1, now_ns);
    }
    transfer.world.settle();
    let offset = PIECE as u64;
    transfer
        .world
        .member(2)
        .snapshot_taken(chunk.transfer, offset, Ok(false), now_ns);
    transfer.finish();
    assert_eq!(transfer.outcome, Some(true));
    assert_eq!(transfer.taken, transfer.content);
}

#[test]
fn a_damaged_piece_is_sent_again() {
    let mut transfer = Transfer::begin(3 * PIECE);
    transfer.world.damage = Some(PIECE);
    transfer.finish();
    assert_eq!(transfer.outcome, Some(true));
    assert_eq!(transfer.taken, transfer.content);
    assert_eq!(transfer.pieces, 3);
}

#[test]
fn a_receiver_that_was_restarted_begins_anew() {
    let mut transfer = Transfer::begin(10 * PIECE);
    for _ in 0..6 {
        transfer.step();
    }
    transfer.world.kill(2, Reach::Listens);
    transfer.world.introduce(2, &[1], &[]);
    transfer.finish();
    assert_eq!(transfer.outcome, Some(true));
    assert_eq!(transfer.taken, transfer.content);
}

#[test]
fn what_does_not_move_is_given_up() {
    let mut transfer = Transfer::begin(10 * PIECE);
    for _ in 0..6 {
        transfer.step();
    }
    transfer.world.kill(2, Reach::Silent);
    transfer.world.pass(31_000);
    transfer.step();
    assert_eq!(transfer.outcome, Some(false));
    // So is one that the receiver refuses.
    let mut transfer = Transfer::begin(10 * PIECE);
    transfer.step();
    transfer.world.settle();
    let now_ns = transfer.world.now_ns;
    let why = Err("the disk is full".to_owned());
    transfer.world.member(2).snapshot_taken(1, 0, why, now_ns);
    transfer.step();
    assert_eq!(transfer.outcome, Some(false));
    assert!(transfer.world.notices[0].contains("the disk is full"));
}

#[test]
fn a_newer_snapshot_takes_the_place_of_an_older_one() {
    let mut transfer = Transfer::begin(10 * PIECE);
    transfer.step();
    transfer.world.settle();
    let now_ns = transfer.world.now_ns;
    let snapshot = Box::new(message(MessageType::MsgSnap, 1, 2));
    transfer
        .world
        .member(1)
        .send_snapshot(2, 10, snapshot, now_ns);
    transfer.world.settle();
    let told = transfer.world.told(1);
    assert!(
        told.contains(&"snapshot 9 for 2 delivered: false".to_owned()),
        "{told:?}"
    );
    assert!(told.contains(&"want 10 for 2 at 0".to_owned()), "{told:?}");
    // A snapshot that the member gave up is forgotten.
    let now_ns = transfer.world.now_ns;
    transfer.world.member(1).cancel_snapshot(2, 10, now_ns);
    transfer.world.pass(40_000);
    assert_eq!(transfer.world.told(1), Vec::<String>::new());
}
