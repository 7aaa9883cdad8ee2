//! A log on the simulated disk, driven by a seed, beside a model of what was appended, acknowledged and written.

use bytes::Bytes;
use engine::wal::format::{BatchHeader, BATCH_HEADER_BYTES};
use engine::wal::{
    recover, Config, Expect, Identity, LogPosition, Mark, MemoryDir, Record, Records, RecoverError,
    Recovered, SegmentId, Wal, BLOCK_BYTES,
};
use proto::raftpb::{Entry, HardState};

use crate::disk::{Disk, Image, ImageDir};
use crate::Rng;

pub const ME: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0x3e,
};

pub fn mix(a: u64, b: u64) -> u64 {
    Rng::new(a.rotate_left(23) ^ b).draw()
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        mix(
            hash,
            chunk
                .iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
        )
    })
}

fn hash_entry(entry: &Entry) -> u64 {
    let data = entry.data.as_deref().unwrap_or(&[]);
    mix(
        mix(entry.index.unwrap_or(0), entry.term.unwrap_or(0)),
        hash_bytes(data),
    )
}

/// What the log amounts to after some number of records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub last_index: u64,
    /// Hash over all entries up to the last.
    pub chain: u64,
    pub hard: HardState,
    /// Hash over all records, in order, whatever they say.
    pub all: u64,
}

/// The records in the order of the log, folded.
#[derive(Clone, Default)]
pub struct Model {
    /// `states[n]`: after `n` records.
    pub states: Vec<State>,
    /// By index, of the entries as they stand.
    chains: Vec<u64>,
}

impl Model {
    pub fn new() -> Model {
        let hard = HardState {
            term: Some(0),
            vote: Some(0),
            commit: Some(0),
        };
        Model {
            states: vec![State {
                hard,
                ..State::default()
            }],
            chains: vec![0],
        }
    }

    pub fn records(&self) -> usize {
        self.states.len() - 1
    }

    pub fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    pub fn chain_at(&self, index: u64) -> u64 {
        self.chains[index as usize]
    }

    pub fn push(&mut self, record: &Record) {
        let mut state = self.last().clone();
        state.all = mix(state.all, self.states.len() as u64);
        match record {
            Record::Entry(entry) => {
                let index = entry.index.unwrap_or(0);
                self.chains.truncate(index as usize);
                let chain = mix(self.chains[self.chains.len() - 1], hash_entry(entry));
                self.chains.push(chain);
                (state.last_index, state.chain) = (index, chain);
                state.all = mix(state.all, hash_entry(entry));
            }
            Record::HardState(hard) => {
                state.hard = *hard;
                state.all = mix(state.all, hard.commit.unwrap_or(0));
            }
            Record::Mark(_) => {}
        }
        self.states.push(state);
    }

    /// Takes the records after the first `n` back. `entries` are those of the log as it is then, from `applied` on.
    fn cut(&mut self, n: usize, applied: u64, entries: &[Entry]) {
        self.states.truncate(n + 1);
        self.chains.truncate(applied as usize + 1);
        for entry in entries {
            let chain = mix(self.chains[self.chains.len() - 1], hash_entry(entry));
            self.chains.push(chain);
        }
    }
}

/// What a meta page of the tree states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    pub applied: u64,
    pub claim: LogPosition,
    pub first_needed: SegmentId,
}

impl Meta {
    pub fn expect(&self) -> Expect {
        Expect {
            identity: Some(ME),
            claim: Some(self.claim),
            first_needed: (self.first_needed > SegmentId(0)).then_some(self.first_needed),
            applied: self.applied,
            skips_older: false,
        }
    }

    fn expect_skipping(&self) -> Expect {
        Expect {
            skips_older: true,
            ..self.expect()
        }
    }
}

/// A mistake planted in the shell around the log, to see whether the tests notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// A write is reported complete when it was only submitted.
    AckEarly,
    /// A prepared segment is reported before it is durable.
    PrepareEarly,
    /// Segments are released by the newer meta page alone.
    ReleaseEarly,
    /// A meta page states what was written instead of what is durable.
    MetaAhead,
}

pub struct World {
    pub rng: Rng,
    pub wal: Wal,
    pub disk: Disk,
    /// Everything appended.
    pub appended: Model,
    /// Records appended with ticket t at `tickets[t]`.
    tickets: Vec<usize>,
    /// Everything handed out as writes, decoded again from their bytes.
    pub written: Model,
    /// Records written up to and with batch n at `batches[n]`; batches before the last opening are all durable.
    pub batches: Vec<usize>,
    /// The newer and the older meta page.
    pub metas: [Meta; 2],
    pub planted: Planted,
    pub now_ns: u64,
    pub incarnation: u64,
    pub term: u64,
}

pub fn config(segment_bytes: u64, incarnation: u64) -> Config {
    let mut config = Config::new("log", incarnation);
    config.segment_bytes = segment_bytes;
    config.batch_bytes_max = 16 << 10;
    config.in_flight_max = 4;
    config.pending_bytes_max = 256 << 10;
    config
}

pub const SEGMENT_BYTES: u64 = 64 << 10;

impl World {
    pub fn new(seed: u64, planted: Planted) -> World {
        let mut rng = Rng::new(seed);
        let incarnation = rng.draw();
        let recovered =
            recover(&MemoryDir::default(), Expect::default()).expect("an empty directory");
        World {
            wal: Wal::new(config(SEGMENT_BYTES, incarnation), ME, recovered.tail)
                .expect("configuration"),
            rng,
            disk: Disk::default(),
            appended: Model::new(),
            tickets: vec![0],
            written: Model::new(),
            batches: vec![0],
            metas: [Meta::default(); 2],
            planted,
            now_ns: 0,
            incarnation,
            term: 1,
        }
    }

    /// Appends something random.
    pub fn append(&mut self) {
        let mut entries = Vec::new();
        let mut index = self.wal.last_index() + 1;
        let committed = self.metas[0].applied;
        if self.rng.one_in(12) && index > committed + 2 {
            // A new leader replaces what was not committed.
            self.term += 1;
            index = committed + 1 + self.rng.below(index - committed - 1);
        }
        for _ in 0..self.rng.below(5) {
            let bytes = match self.rng.below(20) {
                0 => 20_000 + self.rng.below(20_000),
                1..=4 => self.rng.below(6_000),
                _ => self.rng.below(300),
            };
            let fill = self.rng.draw() as u8;
            let data: Vec<u8> = (0..bytes)
                .map(|i| fill.wrapping_add((i / 7) as u8))
                .collect();
            let data = (bytes > 0).then(|| Bytes::from(data));
            entries.push(Entry {
                r#type: Some(0),
                term: Some(self.term),
                index: Some(index),
                data,
            });
            index += 1;
        }
        let hard = self.rng.one_in(3).then(|| HardState {
            term: Some(self.term),
            vote: Some(self.rng.below(4)),
            commit: Some(committed),
        });
        if let Ok(ticket) = self.wal.append(&entries, hard.as_ref()) {
            entries
                .into_iter()
                .map(Record::Entry)
                .for_each(|record| self.appended.push(&record));
            hard.into_iter()
                .map(Record::HardState)
                .for_each(|record| self.appended.push(&record));
            self.tickets
                .resize(ticket.0 as usize + 1, self.appended.records());
        }
    }

    /// Issues a write, if there is one; returns whether.
    pub fn issue(&mut self) -> bool {
        let Some(write) = self.wal.next_write(self.now_ns) else {
            return false;
        };
        let bytes = write.buf.as_slice();
        assert!(bytes.len() % BLOCK_BYTES == 0 && bytes.as_ptr() as usize % BLOCK_BYTES == 0);
        let (header, _) = BatchHeader::parse(bytes).expect("a batch header");
        assert_eq!(
            (header.sequence, header.segment),
            (write.tag, write.segment)
        );
        let end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
        for record in Records::new(Bytes::copy_from_slice(&bytes[BATCH_HEADER_BYTES..end])) {
            self.written.push(&record.expect("a record"));
        }
        assert_eq!(
            write.tag as usize,
            self.batches.len(),
            "batches are numbered consecutively"
        );
        self.batches.push(self.written.records());
        let tag = write.tag;
        self.disk.flying.push(write);
        if self.planted == Planted::AckEarly {
            self.wal.write_done(tag, Ok(())).expect("write");
        }
        true
    }

    /// Completes a write under way, not always the oldest.
    pub fn complete(&mut self) {
        let flying = self.disk.flying.len() as u64;
        if flying == 0 {
            return;
        }
        let at = self.rng.below(flying) as usize;
        let tag = self.disk.flying[at].tag;
        let write = self.disk.complete(tag);
        if self.planted != Planted::AckEarly {
            self.wal.write_done(tag, Ok(())).expect("write");
        }
        self.wal.reuse(write.buf);
    }

    /// Starts or ends a file operation.
    pub fn file_op(&mut self) {
        if self.disk.op.is_some() {
            let early = self.planted == Planted::PrepareEarly;
            let tag = self.disk.complete_op();
            if !early {
                self.wal
                    .file_op_done(tag, Ok(()), self.now_ns)
                    .expect("file operation");
            }
        } else if let Some(op) = self.wal.next_file_op() {
            if self.planted == Planted::PrepareEarly {
                self.wal
                    .file_op_done(op.tag, Ok(()), self.now_ns)
                    .expect("file operation");
            }
            self.disk.op = Some(op);
        }
    }

    /// The tree writes a checkpoint; both meta pages are durable then.
    pub fn checkpoint(&mut self) {
        let durable = self.wal.durable_index();
        let applied = self.metas[0].applied;
        let applied = applied + self.rng.below(durable.saturating_sub(applied) + 1);
        let mut claim = self.wal.position();
        if self.planted == Planted::MetaAhead {
            claim.batch = self.batches.len() as u64 - 1;
            claim.segment = self
                .disk
                .flying
                .last()
                .map_or(claim.segment, |write| write.segment);
        }
        let newer = Meta {
            applied,
            claim,
            first_needed: self.wal.first_needed(applied),
        };
        let older = self.metas[0];
        self.metas = [newer, older];
        let keep = if self.planted == Planted::ReleaseEarly {
            newer
        } else {
            older
        };
        if keep.first_needed > SegmentId(0) {
            self.wal.release(keep.first_needed);
        }
        self.wal.checkpoint_covers(claim);
    }

    /// Opens a crash image with each meta page, and checks that what comes back is a prefix of what was written that holds
    /// everything acknowledged. Returns what the newer meta page gives.
    pub fn check_image(&self, image: &Image) -> Result<Recovered, String> {
        let dir = ImageDir::new(image);
        let newer = self.check_opened(recover(&dir, self.metas[0].expect()), &self.metas[0])?;
        // The others cost as much and seldom differ.
        match mix(image.len() as u64, newer.batches + newer.last_index) % 8 {
            0 | 1 => {
                self.check_opened(recover(&dir, self.metas[1].expect()), &self.metas[1])?;
            }
            2 | 3 => {
                let opened = recover(&dir, self.metas[0].expect_skipping());
                let skipping = self.check_opened(opened, &self.metas[0])?;
                if skipping.position != newer.position {
                    return Err(format!(
                        "the log ends at {:?}, and at {:?} if older segments are not read",
                        newer.position, skipping.position
                    ));
                }
                return Ok(skipping);
            }
            _ => {}
        }
        Ok(newer)
    }

    fn check_opened(
        &self,
        opened: Result<Recovered, RecoverError>,
        meta: &Meta,
    ) -> Result<Recovered, String> {
        let recovered =
            opened.map_err(|error| format!("a crash must not look like damage: {error}"))?;
        let batch = recovered.position.batch;
        let acknowledged = self.wal.position().batch;
        if batch < acknowledged {
            return Err(format!(
                "batch {acknowledged} was acknowledged, the log ends with {batch}"
            ));
        }
        let Some(&records) = self.batches.get(batch as usize) else {
            return Err(format!("batch {batch} was never written"));
        };
        let promised = self.tickets[self.wal.durable().0 as usize];
        if records < promised {
            return Err(format!(
                "{promised} records were acknowledged, the log holds {records}"
            ));
        }
        self.check_content(&recovered, records, meta.applied)?;
        Ok(recovered)
    }

    /// Whether the entries and the hard state are those after `records` records.
    pub fn check_content(
        &self,
        recovered: &Recovered,
        records: usize,
        applied: u64,
    ) -> Result<(), String> {
        let state = &self.written.states[records];
        let mut chain = self.written.chain_at(applied);
        for (entry, index) in recovered.entries.iter().zip(applied + 1..) {
            if entry.index != Some(index) {
                return Err(format!("entry {index} comes back as {:?}", entry.index));
            }
            chain = mix(chain, hash_entry(entry));
        }
        if recovered.last_index != state.last_index
            || (chain != state.chain && recovered.last_index > applied)
        {
            return Err(format!(
                "entries up to {} are not those of {state:?}",
                recovered.last_index
            ));
        }
        if recovered.hard_state != state.hard {
            return Err(format!("{:?} instead of {state:?}", recovered.hard_state));
        }
        Ok(())
    }

    /// Goes on from a crash image as a new process.
    pub fn restart(&mut self, image: Image, recovered: Recovered) {
        let batch = recovered.position.batch as usize;
        let records = self.batches[batch];
        self.batches.truncate(batch + 1);
        self.written
            .cut(records, self.metas[0].applied, &recovered.entries);
        self.appended = self.written.clone();
        self.tickets = vec![records];
        self.incarnation = self.rng.draw();
        self.disk = Disk::new(image);
        let config = config(SEGMENT_BYTES, self.incarnation);
        self.wal = Wal::new(config, ME, recovered.tail).expect("configuration");
    }

    /// Nothing but what was appended was written, in the same order.
    pub fn check_written(&self) -> Result<(), String> {
        let n = self.written.records();
        if self.written.last() != &self.appended.states[n] {
            return Err(format!(
                "the first {n} records written are not those appended"
            ));
        }
        let durable = self.batches[self.wal.position().batch as usize];
        let promised = self.tickets[self.wal.durable().0 as usize];
        if durable < promised {
            return Err(format!(
                "{promised} records are reported durable, {durable} are"
            ));
        }
        Ok(())
    }

    pub fn append_mark(&mut self, mark: Mark) {
        if let Ok(ticket) = self.wal.append_mark(&mark) {
            self.appended.push(&Record::Mark(mark));
            self.tickets
                .resize(ticket.0 as usize + 1, self.appended.records());
        }
    }
}
