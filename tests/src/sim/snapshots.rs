//! Snapshots between members: the transport that carries them, and the jobs that read, stage and install them.
//!
//! A connection carries one piece at a time; the next one is asked for when the last was taken. A connection that breaks
//! goes on where the receiver was last known to be; a receiver that does not go on there begins anew.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::store::install::{InstallJob, StageJob};
use proto::raftpb::Message;
use ringd::member::{Effect, Input, SnapshotChunk, SnapshotFormat};

use super::disk::InstallStep;
use super::network::Fate;
use super::swarm::MILLISECOND_NS;
use super::world::{Event, World};

/// Breaks and refusals of one snapshot before the transport gives it up.
const ATTEMPTS_MAX: u32 = 8;
/// A broken connection is made anew after about this long.
const RECONNECT_NS: u64 = 300 * MILLISECOND_NS;
/// Bytes that a connection carries at once, at most.
const PIECE_BYTES_MAX: u64 = 96 << 10;
/// Steps of taking a snapshot over at which the power can go.
const INSTALL_STEPS: u64 = 6;

fn wanted(peer: u64, id: u64, offset: u64) -> Input {
    Input::SnapshotWanted {
        peer,
        id,
        format: SnapshotFormat::Ringd,
        offset,
    }
}

/// What a member does with snapshots, later.
pub enum Job {
    Prepare {
        peer: u64,
        id: u64,
        pin: engine::page::Pin,
    },
    Read {
        peer: u64,
        id: u64,
        offset: u64,
        bytes_max: usize,
        source: std::sync::Arc<engine::store::Outgoing>,
    },
    Stage {
        transfer: u64,
        job: StageJob,
    },
    Install(Box<InstallJob>),
}

pub enum SnapshotEvent {
    Job {
        node: usize,
        life: u64,
        job: Box<Job>,
    },
    /// A piece arrives at the receiver.
    Piece {
        transfer: u64,
        bytes: Bytes,
        offset: u64,
        last: bool,
    },
    /// What the receiver says of it arrives at the sender.
    Taken {
        transfer: u64,
        offset: u64,
        result: Result<bool, String>,
    },
    /// The sender notices that its connection is gone, and makes another.
    Reconnect { transfer: u64, offset: u64 },
}

/// A connection that carries a snapshot.
struct Transfer {
    from: usize,
    life: u64,
    to: usize,
    to_life: u64,
    peer: u64,
    id: u64,
    message: Box<Message>,
    /// Up to where the receiver has it, as far as the sender knows.
    offset: u64,
    attempts: u32,
}

#[derive(Default)]
pub struct Transfers {
    last: u64,
    open: BTreeMap<u64, Transfer>,
}

impl Transfers {
    fn of(&self, from: usize, peer: u64, id: u64) -> Option<u64> {
        let mut open = self.open.iter();
        let found = open.find(|(_, t)| (t.from, t.peer, t.id) == (from, peer, id));
        found.map(|(number, _)| *number)
    }
}

impl World {
    /// Carries out what concerns snapshots.
    pub fn snapshot_effect(&mut self, node: usize, life: u64, effect: Effect) {
        match effect {
            Effect::PrepareSnapshot { peer, id, pin } => {
                self.coverage.hit("snapshot sent");
                self.snapshot_job(node, life, Job::Prepare { peer, id, pin });
            }
            Effect::SendSnapshot { peer, id, message } => {
                self.begin_transfer(node, life, peer, id, message)
            }
            Effect::ReadSnapshot {
                peer,
                id,
                offset,
                bytes_max,
                source,
            } => {
                let job = Job::Read {
                    peer,
                    id,
                    offset,
                    bytes_max,
                    source,
                };
                self.snapshot_job(node, life, job);
            }
            Effect::SnapshotBytes {
                peer,
                id,
                offset,
                bytes,
                last,
            } => self.carry_piece(node, (peer, id), offset, bytes, last),
            Effect::CancelSnapshot { peer, id } => {
                if let Some(transfer) = self.transfers.of(node, peer, id) {
                    self.transfers.open.remove(&transfer);
                }
            }
            Effect::Stage { transfer, job } => {
                self.snapshot_job(node, life, Job::Stage { transfer, job })
            }
            Effect::SnapshotTaken {
                transfer,
                offset,
                result,
            } => self.piece_taken(node, transfer, offset, result),
            Effect::Install(job) => self.snapshot_job(node, life, Job::Install(job)),
            _ => {}
        }
    }

    fn snapshot_job(&mut self, node: usize, life: u64, job: Job) {
        let delay = self.disk_delay(node, self.plan.member.page_max_ns);
        let job = Box::new(job);
        self.after(
            delay,
            Event::Snapshot(SnapshotEvent::Job { node, life, job }),
        );
    }

    pub fn snapshot_event(&mut self, event: SnapshotEvent) {
        match event {
            SnapshotEvent::Job { node, life, job } => {
                if self.living(node, life).is_some() {
                    self.run_job(node, life, *job);
                }
            }
            SnapshotEvent::Piece {
                transfer,
                bytes,
                offset,
                last,
            } => self.piece_arrives(transfer, bytes, offset, last),
            SnapshotEvent::Taken {
                transfer,
                offset,
                result,
            } => self.sender_hears(transfer, offset, result),
            SnapshotEvent::Reconnect { transfer, offset } => self.reconnect(transfer, offset),
        }
    }

    fn run_job(&mut self, node: usize, life: u64, job: Job) {
        let input = match job {
            Job::Prepare { peer, id, pin } => Input::SnapshotPrepared {
                peer,
                id,
                result: pin.into_source().map(Box::new),
            },
            Job::Read {
                peer,
                id,
                offset,
                bytes_max,
                source,
            } => Input::SnapshotRead {
                peer,
                id,
                offset,
                result: source.read(offset, bytes_max),
            },
            Job::Stage { transfer, job } => {
                let staged = Box::new(job.run(&*self.node(node).disk.pages));
                Input::Staged { transfer, staged }
            }
            Job::Install(job) => {
                return self.install(node, life, *job);
            }
        };
        self.input(node, life, input);
    }

    /// Takes a snapshot over; sometimes the power goes meanwhile.
    fn install(&mut self, node: usize, life: u64, job: InstallJob) {
        let pages = self.node(node).disk.pages.clone();
        let crashes = self.plan.faults.crash_ns > 0 && !self.calm;
        let dies = crashes && self.chance.faults.percent(25);
        if dies {
            match self.chance.faults.below(INSTALL_STEPS) {
                4 => pages.die_at(InstallStep::Rename),
                5 => pages.die_at(InstallStep::Sync),
                step => {
                    let incoming = pages.incoming();
                    incoming.lose_power_at(incoming.operations() + step);
                }
            }
        }
        let result = job.run(&*pages);
        if dies {
            self.coverage.hit("crash in an install");
            return self.lose_power(node);
        }
        if result.is_ok() {
            self.coverage.hit("snapshot installed");
        }
        self.input(node, life, Input::Installed { result });
    }

    fn begin_transfer(
        &mut self,
        from: usize,
        life: u64,
        peer: u64,
        id: u64,
        message: Box<Message>,
    ) {
        let Some(to) = self.number_of(peer) else {
            return self.input(
                from,
                life,
                Input::SnapshotSent {
                    peer,
                    id,
                    delivered: false,
                },
            );
        };
        self.transfers.last += 1;
        let to_life = self.node(to).life;
        let transfer = Transfer {
            from,
            life,
            to,
            to_life,
            peer,
            id,
            message,
            offset: 0,
            attempts: 0,
        };
        self.transfers.open.insert(self.transfers.last, transfer);
        let offset = 0;
        self.input(from, life, wanted(peer, id, offset));
    }

    /// The sender has read on: a part of it travels.
    fn carry_piece(
        &mut self,
        from: usize,
        (peer, id): (u64, u64),
        offset: u64,
        mut bytes: Bytes,
        mut last: bool,
    ) {
        let Some(number) = self.transfers.of(from, peer, id) else {
            return;
        };
        let most = match self.plan.network.small_pieces {
            true => 1 + self.chance.network.below(PIECE_BYTES_MAX) as usize,
            false => usize::MAX,
        };
        if most < bytes.len() {
            bytes.truncate(most);
            last = false;
        }
        let to = self.transfers.open[&number].to;
        let (now, chance) = (self.now, &mut self.chance.network);
        match self.network.send(from, to, false, now, chance) {
            Fate::Arrives(times) => {
                let piece = SnapshotEvent::Piece {
                    transfer: number,
                    bytes,
                    offset,
                    last,
                };
                self.at(times[0], Event::Snapshot(piece));
            }
            Fate::Lost => self.connection_breaks(number),
        }
    }

    fn piece_arrives(&mut self, number: u64, mut bytes: Bytes, offset: u64, last: bool) {
        let Some(transfer) = self.transfers.open.get(&number) else {
            return;
        };
        let (to, to_life) = (transfer.to, transfer.to_life);
        let (id, message) = (transfer.id, transfer.message.clone());
        if self.living(to, to_life).is_none() {
            return self.connection_breaks(number);
        }
        if !self.calm && self.chance.network.per_million(self.plan.network.damage) {
            let mut damaged = bytes.to_vec();
            let at = self.chance.network.below(damaged.len() as u64) as usize;
            damaged[at] ^= 1 << self.chance.network.below(8);
            bytes = damaged.into();
            self.coverage.hit("snapshot damaged");
        }
        let chunk = SnapshotChunk {
            transfer: number,
            id,
            message,
            format: SnapshotFormat::Ringd,
            offset,
            bytes,
            last,
        };
        self.input(to, to_life, Input::SnapshotChunk(chunk));
        if !self.calm && self.chance.network.per_million(self.plan.network.resets) {
            self.coverage.hit("snapshot connection reset");
            self.connection_breaks_for(number, 1 + 2 * self.plan.member.page_max_ns);
        }
    }

    fn piece_taken(&mut self, node: usize, number: u64, offset: u64, result: Result<bool, String>) {
        let Some(transfer) = self.transfers.open.get(&number) else {
            return;
        };
        let from = transfer.from;
        let (now, chance) = (self.now, &mut self.chance.network);
        match self.network.send(node, from, false, now, chance) {
            Fate::Arrives(times) => {
                let taken = SnapshotEvent::Taken {
                    transfer: number,
                    offset,
                    result,
                };
                self.at(times[0], Event::Snapshot(taken));
            }
            Fate::Lost => self.connection_breaks(number),
        }
    }

    fn sender_hears(&mut self, number: u64, offset: u64, result: Result<bool, String>) {
        let Some(transfer) = self.transfers.open.get_mut(&number) else {
            return;
        };
        let (from, life, peer, id) = (transfer.from, transfer.life, transfer.peer, transfer.id);
        match result {
            Ok(false) => {
                transfer.offset = offset;
                self.input(from, life, wanted(peer, id, offset));
            }
            Ok(true) => self.transfer_ends(number, true),
            Err(_) => {
                self.coverage.hit("snapshot refused");
                transfer.offset = 0;
                self.connection_breaks(number);
            }
        }
    }

    /// A process is gone, and its connections with it.
    pub fn transfers_lose(&mut self, node: usize) {
        self.transfers
            .open
            .retain(|_, transfer| transfer.from != node);
        let open = self.transfers.open.iter();
        let broken: Vec<u64> = open
            .filter(|(_, transfer)| transfer.to == node)
            .map(|(number, _)| *number)
            .collect();
        for number in broken {
            self.connection_breaks(number);
        }
    }

    fn transfer_ends(&mut self, number: u64, delivered: bool) {
        if let Some(t) = self.transfers.open.remove(&number) {
            let sent = Input::SnapshotSent {
                peer: t.peer,
                id: t.id,
                delivered,
            };
            self.input(t.from, t.life, sent);
        }
    }

    fn connection_breaks(&mut self, number: u64) {
        self.connection_breaks_for(number, RECONNECT_NS);
    }

    /// About that time goes by before another connection is made.
    fn connection_breaks_for(&mut self, number: u64, mean_ns: u64) {
        let Some(transfer) = self.transfers.open.get(&number) else {
            return;
        };
        let offset = transfer.offset;
        self.coverage.hit("snapshot interrupted");
        let delay = self.chance.network.around(mean_ns);
        let reconnect = SnapshotEvent::Reconnect {
            transfer: number,
            offset,
        };
        self.after(delay, Event::Snapshot(reconnect));
    }

    /// Another connection goes on with the snapshot, or it is given up.
    fn reconnect(&mut self, number: u64, offset: u64) {
        let Some(mut transfer) = self.transfers.open.remove(&number) else {
            return;
        };
        if self.living(transfer.from, transfer.life).is_none() {
            return;
        }
        let (from, life, peer, id) = (transfer.from, transfer.life, transfer.peer, transfer.id);
        transfer.attempts += 1;
        transfer.to_life = self.node(transfer.to).life;
        if transfer.attempts > ATTEMPTS_MAX {
            let sent = Input::SnapshotSent {
                peer,
                id,
                delivered: false,
            };
            return self.input(from, life, sent);
        }
        if offset > 0 {
            self.coverage.hit("snapshot resumed");
        }
        self.transfers.last += 1;
        self.transfers.open.insert(self.transfers.last, transfer);
        self.input(from, life, wanted(peer, id, offset));
    }
}
