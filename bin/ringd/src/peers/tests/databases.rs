//! Snapshots in etcd's form: one request with everything. Both ends are ours here, of which one takes the other for an etcd.

use super::*;
use crate::{
    member::{SnapshotChunk, SnapshotFormat},
    peers::{database, peer::Software},
};
use prost::Message as _;

const PIECE: usize = 1 << 20;

struct Transfer {
    world: World,
    /// The database, and the whole body.
    image: Vec<u8>,
    body: Vec<u8>,
    taken: Vec<u8>,
    /// Bytes that the sender asked for.
    asked: usize,
    /// A piece that the receiver has not taken yet.
    pending: Option<SnapshotChunk>,
    outcome: Option<bool>,
}

impl Transfer {
    fn begin(bytes: usize) -> Transfer {
        let mut world = World::of(&[1, 2]);
        world.settle();
        world.told(1);
        world.told(2);
        let snapshot = message(MessageType::MsgSnap, 1, 2);
        let image: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
        let mut body = (snapshot.encoded_len() as u64).to_be_bytes().to_vec();
        body.extend(snapshot.encode_to_vec());
        body.extend_from_slice(&image);
        let now_ns = world.now_ns;
        if let Some(peer) = world.member(1).peers.get_mut(&2) {
            peer.software = Software::Etcd;
        }
        let sender = world.member(1);
        sender.send_snapshot(2, 9, Box::new(snapshot), now_ns);
        Transfer {
            world,
            image,
            body,
            taken: Vec::new(),
            asked: 0,
            pending: None,
            outcome: None,
        }
    }

    /// The sender gives what it is asked for, and the receiver waits with what it got.
    fn step(&mut self) -> bool {
        self.world.settle();
        let now_ns = self.world.now_ns;
        let mut busy = false;
        for input in self.world.inputs.remove(&1).unwrap_or_default() {
            match input {
                Input::SnapshotWanted {
                    peer,
                    id,
                    format,
                    offset,
                } => {
                    busy = true;
                    assert_eq!(
                        (format, offset as usize),
                        (SnapshotFormat::Etcd, self.asked)
                    );
                    // The message comes first, alone.
                    let most = if offset == 0 { 100 } else { PIECE };
                    let to = (self.asked + most).min(self.body.len());
                    let bytes = self.body[self.asked..to].to_vec();
                    self.asked = to;
                    let last = to == self.body.len();
                    let sender = self.world.member(1);
                    sender.snapshot_bytes(peer, id, offset, &bytes, last, now_ns);
                }
                Input::SnapshotSent { id, delivered, .. } => {
                    assert_eq!(id, 9);
                    self.outcome = Some(delivered);
                }
                _ => {}
            }
        }
        for input in self.world.inputs.remove(&2).unwrap_or_default() {
            if let Input::SnapshotChunk(chunk) = input {
                busy = true;
                assert!(self.pending.is_none(), "two pieces at once");
                assert_eq!(chunk.format, SnapshotFormat::Etcd);
                assert_eq!(chunk.offset as usize, self.taken.len());
                self.pending = Some(chunk);
            }
        }
        busy
    }

    /// The receiver takes a piece.
    fn take(&mut self) -> bool {
        let Some(chunk) = self.pending.take() else {
            return false;
        };
        self.taken.extend_from_slice(&chunk.bytes);
        let (offset, now_ns) = (self.taken.len() as u64, self.world.now_ns);
        let receiver = self.world.member(2);
        receiver.snapshot_taken(chunk.transfer, offset, Ok(chunk.last), now_ns);
        true
    }

    fn finish(&mut self) {
        for _ in 0..4_000 {
            if self.outcome.is_some() {
                return;
            }
            if !self.step() && !self.take() {
                self.world.pass(50);
            }
        }
        panic!("the transfer does not end");
    }
}

#[test]
fn a_database_arrives_as_it_was_sent() {
    for bytes in [0, 1, PIECE - 1, PIECE, PIECE + 1, 9 * PIECE + 77] {
        let mut transfer = Transfer::begin(bytes);
        transfer.finish();
        assert_eq!(transfer.outcome, Some(true), "{bytes} bytes");
        assert!(transfer.taken == transfer.image, "{bytes} bytes");
    }
}

#[test]
fn a_receiver_that_takes_nothing_is_not_sent_everything_and_may_take_its_time() {
    let mut transfer = Transfer::begin(40 * PIECE);
    for _ in 0..400 {
        transfer.step();
    }
    assert!(transfer.pending.is_some());
    let held = transfer.world.member(2).held_bytes;
    assert!(held <= 2 * PIECE, "{held} bytes are held");
    assert!(transfer.asked < 20 * PIECE, "{} bytes", transfer.asked);
    // Longer than a connection may rest otherwise.
    transfer.world.pass(25_000);
    assert!(transfer.outcome.is_none());
    transfer.finish();
    assert_eq!(transfer.outcome, Some(true));
    assert!(transfer.taken == transfer.image);
}

#[test]
fn a_connection_that_breaks_ends_the_transfer_and_the_member_is_told_later() {
    let mut transfer = Transfer::begin(10 * PIECE);
    while transfer.taken.len() < 3 * PIECE {
        if !transfer.step() && !transfer.take() {
            transfer.world.pass(50);
        }
    }
    let dialled: Vec<u32> = transfer.world.cables.iter().map(|c| c.dialler.1).collect();
    let now_ns = transfer.world.now_ns;
    for connection in dialled {
        transfer.world.member(1).closed(connection, now_ns);
    }
    transfer.world.settle();
    assert!(transfer.outcome.is_none());
    for _ in 0..200 {
        transfer.step();
        transfer.pending = None;
        transfer.world.pass(50);
    }
    assert_eq!(transfer.outcome, Some(false));
}

#[test]
fn a_database_that_the_member_does_not_take_is_refused_with_its_reason() {
    let mut transfer = Transfer::begin(3 * PIECE);
    while transfer.pending.is_none() {
        transfer.step();
    }
    let (chunk, now_ns) = (transfer.pending.take().unwrap(), transfer.world.now_ns);
    let refusal = Err("it is no good".to_owned());
    let receiver = transfer.world.member(2);
    receiver.snapshot_taken(chunk.transfer, 0, refusal, now_ns);
    transfer.finish();
    assert_eq!(transfer.outcome, Some(false));
    let notices = transfer.world.notices.join("\n");
    assert!(notices.contains("it is no good"), "{notices}");
}

/// What a body comes to that arrives in pieces of this size.
fn parts(body: &[u8], size: usize) -> Result<Vec<(u64, usize, bool)>, database::Malformed> {
    let mut reader = database::Body::default();
    let mut parts = Vec::new();
    let mut pull = |reader: &mut database::Body| {
        while let Some(part) = reader.next()? {
            parts.push((part.offset, part.bytes.len(), part.last));
            reader.taken();
        }
        Ok(())
    };
    for piece in body.chunks(size) {
        reader.receive(piece);
        pull(&mut reader)?;
    }
    reader.end();
    pull(&mut reader)?;
    Ok(parts)
}

#[test]
fn bodies_are_understood_however_they_arrive() {
    let snapshot = message(MessageType::MsgSnap, 1, 2);
    let mut body = (snapshot.encoded_len() as u64).to_be_bytes().to_vec();
    body.extend(snapshot.encode_to_vec());
    let head = body.len();
    body.extend(vec![7; 3_000]);
    for size in [1, 2, 7, 8, 9, head, head + 1, 5_000] {
        let last = parts(&body, size).unwrap().pop();
        assert_eq!(last, Some((0, 3_000, true)), "{size}");
    }
    for cut in 0..head {
        let cut = parts(&body[..cut], 5);
        assert_eq!(cut, Err(database::Malformed("error reading raft message")));
    }
    assert!(parts(&[0xff; 100], 100).is_err());
    let garbage = [&8u64.to_be_bytes()[..], &[0xff; 8]].concat();
    let text = "error unmarshalling raft message";
    assert_eq!(parts(&garbage, 3), Err(database::Malformed(text)));
}
