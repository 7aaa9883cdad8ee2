//! What the fuzz targets call, and what replays their corpora in an ordinary test. Both functions panic on a violated
//! promise and return on everything else.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::raftpb::{Entry, HardState};

use super::buffer::BLOCK_BYTES;
use super::dir::MemoryDir;
use super::format::{BatchHeader, SegmentHeader, BATCH_HEADER_BYTES};
use super::{dump, recover, Config, Expect, Identity, LogPosition, Mark, SegmentId, Wal};

const ME: Identity = Identity {
    cluster_id: 1,
    member_id: 2,
};
/// Small, so that an input of some kilobytes is several segments.
const SEGMENT_BYTES: usize = 4 * BLOCK_BYTES;
/// Bound on what `wal_mutate` writes, in segments.
const SEGMENTS_MAX: usize = 6;

/// Opens arbitrary bytes as a log. Whatever they are, recovery ends, with an error that can be printed or with a log that
/// goes on: what is appended to it is there at the next opening, behind what was there before.
pub fn wal_open(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let files = if how & 1 != 0 {
        plausible(&mut Input(data))
    } else {
        let parts = data.chunks(SEGMENT_BYTES).map(<[u8]>::to_vec);
        (1..).map(SegmentId).zip(parts).collect()
    };
    let dir = MemoryDir::new(files);
    dump(&dir, true, &mut std::io::sink()).expect("a dump of memory");
    let expect = Expect {
        identity: (how & 2 != 0).then_some(ME),
        claim: (how & 4 != 0).then_some(LogPosition {
            segment: SegmentId(1),
            batch: u64::from(how >> 4),
            index: 0,
        }),
        first_needed: (how & 8 != 0).then_some(SegmentId(u64::from(how >> 5))),
        applied: 0,
        skips_older: how & 16 != 0,
    };
    let recovered = match recover(&dir, expect) {
        Ok(recovered) => recovered,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let (before, last_index) = (recovered.entries, recovered.last_index);
    let Ok(mut wal) = Wal::new(config(9), ME, recovered.tail) else {
        return;
    };
    let appended = entry(last_index + 1, 7, 100);
    wal.append(std::slice::from_ref(&appended), None)
        .expect("append");
    pump(&mut wal, &dir);
    let recovered = recover(
        &dir,
        Expect {
            identity: Some(ME),
            ..expect
        },
    )
    .expect("the log goes on");
    assert_eq!(recovered.last_index, last_index + 1);
    let (last, rest) = recovered.entries.split_last().expect("the entry appended");
    assert_eq!((last, rest), (&appended, &before[..]));
}

/// Files with the headers of a log and right checksums, so that what is behind them is reached. Numbers and payloads are the
/// input's.
fn plausible(input: &mut Input<'_>) -> BTreeMap<SegmentId, Vec<u8>> {
    let mut files = BTreeMap::new();
    let (mut predecessor, mut predecessor_crc) = (SegmentId(0), 0);
    let mut last: Option<(BatchHeader, u32)> = None;
    for id in (1..=2 + input.byte() as u64 % 4).map(SegmentId) {
        let mut file = vec![0; SEGMENT_BYTES];
        let header = SegmentHeader {
            identity: ME,
            segment: id,
            bytes: SEGMENT_BYTES as u64,
            nonce: id.0,
            predecessor,
            predecessor_crc,
            recycled: input.byte() % 2 == 0,
        };
        predecessor_crc = header.encode(&mut file);
        predecessor = id;
        let mut block = 1;
        while block < SEGMENT_BYTES / BLOCK_BYTES {
            match input.byte() {
                0 => block += 1,
                chosen => {
                    let at = block * BLOCK_BYTES;
                    let batch =
                        plausible_batch(input, chosen, &mut file[at..], (id, block as u32), last);
                    block += batch.0.blocks as usize;
                    last = Some(batch);
                }
            }
        }
        files.insert(id, file);
    }
    files
}

/// Writes a batch at the start of `out`, which goes on from `last` if the input does not want otherwise.
fn plausible_batch(
    input: &mut Input<'_>,
    chosen: usize,
    out: &mut [u8],
    (segment, block): (SegmentId, u32),
    last: Option<(BatchHeader, u32)>,
) -> (BatchHeader, u32) {
    let mut payload = Vec::new();
    let mut records = 0;
    let (mut before, previous_crc) =
        last.map_or_else(Default::default, |(header, crc)| (header.before, crc));
    for _ in 0..input.byte() % 6 {
        records += 1;
        // An entry of the input's index and term, or anything.
        if input.byte() % 4 != 0 {
            payload.extend_from_slice(&[1, 1, 0, 0, 18, 0, 0, 0]);
            payload.extend_from_slice(&(input.byte() as u64).to_le_bytes());
            payload.extend_from_slice(&(input.byte() as u64).to_le_bytes());
            payload.extend_from_slice(&[9, 9]);
        } else {
            let len = input.byte() % 64;
            payload.extend((0..len).map(|_| input.byte() as u8));
        }
    }
    payload.resize(payload.len() + (chosen & 16) * 100, 0);
    payload.truncate(out.len() - BATCH_HEADER_BYTES);
    if chosen & 32 != 0 {
        before.last_index = input.byte() as u64;
        before.last_term = input.byte() as u64;
    }
    let sequence = last.map_or(1, |(header, _)| header.sequence + 1 + (chosen as u64 >> 7));
    let header = BatchHeader {
        identity: ME,
        segment,
        nonce: segment.0,
        sequence,
        incarnation: chosen as u64 & 2,
        claim: (input.byte() as u64).min(sequence - 1),
        block,
        blocks: (BATCH_HEADER_BYTES + payload.len()).div_ceil(BLOCK_BYTES) as u32,
        payload_bytes: payload.len() as u32,
        records,
        before,
        payload_crc: crc32fast::hash(&payload),
        previous_crc,
        seal: payload.is_empty(),
        opening: last.is_none() || chosen & 4 != 0,
    };
    let crc = header.encode(out);
    out[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + payload.len()].copy_from_slice(&payload);
    // What the next one must state, if the records are all well formed.
    let mut after = header;
    for record in super::Records::new(Bytes::from(payload)).map_while(Result::ok) {
        match record {
            super::Record::Entry(entry) => {
                after.before.last_index = entry.index.unwrap_or(0);
                after.before.last_term = entry.term.unwrap_or(0);
            }
            super::Record::HardState(state) => {
                after.before.term = state.term.unwrap_or(0);
                after.before.vote = state.vote.unwrap_or(0);
                after.before.commit = state.commit.unwrap_or(0);
            }
            super::Record::Mark(Mark::Start { index, term }) => {
                (after.before.last_index, after.before.last_term) = (index, term);
            }
            super::Record::Mark(_) => {}
        }
    }
    (after, crc)
}

fn config(incarnation: u64) -> Config {
    let mut config = Config::new("log", incarnation);
    config.segment_bytes = SEGMENT_BYTES as u64;
    config.batch_bytes_max = 2 * BLOCK_BYTES;
    config
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let data = Bytes::from(vec![index as u8; bytes]);
    Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: Some(data),
    }
}

/// Carries out everything that the log wants done.
fn pump(wal: &mut Wal, dir: &MemoryDir) {
    loop {
        if let Some(op) = wal.next_file_op() {
            dir.run(&op).expect("a file operation in memory");
            wal.file_op_done(op.tag, Ok(()), 0).expect("no failure");
        } else if let Some(write) = wal.next_write(0) {
            dir.write_at(write.segment, write.offset, write.buf.as_slice())
                .expect("a write to memory");
            wal.write_done(write.tag, Ok(())).expect("no failure");
        } else {
            return;
        }
    }
}

/// Takes numbers from the input, zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> usize {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                usize::from(*first)
            }
            None => 0,
        }
    }

    fn word(&mut self) -> usize {
        self.byte() | self.byte() << 8
    }
}

/// Writes a real log as the input says, changes it, and opens it. With the claim of the tree's meta page, a log that opens
/// is complete; without it, it is a prefix of what was written, and after a single flipped bit one that lacks at most what
/// no claim covers.
pub fn wal_mutate(data: &[u8]) {
    let mut input = Input(data);
    let dir = MemoryDir::default();
    let recovered = recover(&dir, Expect::default()).expect("an empty directory is a new log");
    let mut wal = Wal::new(config(3), ME, recovered.tail).expect("configuration");
    let mut model: Vec<Entry> = Vec::new();
    // What the entries of the log were after each record of one: an append may be split between batches.
    let mut states = vec![Vec::new()];
    for _ in 0..input.byte() % 12 {
        write_some(&mut input, &mut wal, &mut model, &mut states);
        pump(&mut wal, &dir);
        if dir.files().len() > SEGMENTS_MAX {
            break;
        }
    }
    let data_batch = wal.position().batch;
    let sealed = input.byte() % 2 == 0;
    if sealed {
        wal.seal();
        pump(&mut wal, &dir);
    }
    let position = wal.position();
    let changes = 1 + input.byte() % 3;
    let mut flips = 0;
    for _ in 0..changes {
        flips += usize::from(change(&mut input, &dir));
    }
    let claimed = Expect {
        identity: Some(ME),
        claim: Some(position),
        first_needed: Some(wal.first_needed(0)),
        ..Expect::default()
    };
    match recover(&dir, claimed) {
        Ok(recovered) => assert_eq!(recovered.entries, model, "something claimed was cut off"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(recovered) = recover(&dir, Expect::default()) {
        assert!(
            states.contains(&recovered.entries),
            "what came back was never the log"
        );
        if flips == 1 && changes == 1 {
            let lacks_at_most_the_last = recovered.position.batch + 1 >= position.batch;
            assert!(
                lacks_at_most_the_last && (!sealed || recovered.position.batch >= data_batch),
                "a claimed batch was cut off"
            );
        }
    }
}

fn write_some(
    input: &mut Input<'_>,
    wal: &mut Wal,
    model: &mut Vec<Entry>,
    states: &mut Vec<Vec<Entry>>,
) {
    let what = input.byte();
    let term = model.last().map_or(1, |last| last.term.unwrap_or(0));
    let term = if what & 1 != 0 && !model.is_empty() {
        model.truncate(input.byte() % model.len());
        term + 1
    } else {
        term
    };
    let entries: Vec<Entry> = (0..1 + what % 3)
        .map(|i| entry((model.len() + i) as u64 + 1, term, input.word() % 3000))
        .collect();
    let hard = HardState {
        term: Some(term),
        vote: Some(1),
        commit: Some(0),
    };
    wal.append(&entries, (what & 8 != 0).then_some(&hard))
        .expect("append");
    if what & 16 != 0 {
        wal.append_mark(&Mark::Checkpoint {
            number: 1,
            index: 0,
            term: 0,
        })
        .expect("append");
    }
    for entry in entries {
        model.push(entry);
        states.push(model.clone());
    }
}

/// Changes the files; true for a single flipped bit.
fn change(input: &mut Input<'_>, dir: &MemoryDir) -> bool {
    let mut files = dir.files();
    let ids: Vec<SegmentId> = files.keys().copied().collect();
    let Some(id) = ids.get(input.byte() % ids.len().max(1)).copied() else {
        return false;
    };
    let (kind, at) = (input.byte() % 5, input.word());
    let other = ids[input.byte() % ids.len()];
    let Some(file) = files.get_mut(&id) else {
        return false;
    };
    let at = at % file.len().max(1);
    let block = at / BLOCK_BYTES * BLOCK_BYTES;
    match kind {
        0 => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << (input.byte() % 8);
                return true;
            }
        }
        1 => file.truncate(at),
        2 => {
            let end = (at / 512 * 512 + 512).min(file.len());
            file[at / 512 * 512..end].fill(0);
        }
        3 => {
            let copy = file[block..(block + BLOCK_BYTES).min(file.len())].to_vec();
            let to = input.byte() % 4 * BLOCK_BYTES;
            if let Some(target) = files
                .get_mut(&other)
                .and_then(|file| file.get_mut(to..to + copy.len()))
            {
                target.copy_from_slice(&copy);
            }
        }
        _ => {
            files.remove(&id);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn random_inputs_violate_nothing() {
        for seed in 0..3000 {
            println!("seed {seed}");
            wal_mutate(&random(seed, 60));
            if seed < 300 {
                wal_open(&random(seed, (seed as usize * 331) % 50_000));
            }
            if seed < 2000 {
                let mut input = random(seed, 200);
                input[0] |= 1;
                wal_open(&input);
            }
        }
    }

    #[test]
    fn plausible_logs_are_opened_behind_their_checksums() {
        // Three batches of an entry each, index 1 to 3, in two segments.
        let batch = |index| [1, 1, 1, 1, index, 0];
        let mut input = vec![0, 1];
        (1..=3).for_each(|index| input.extend_from_slice(&batch(index)));
        let files = plausible(&mut Input(&input));
        let recovered = recover(&MemoryDir::new(files), Expect::default()).expect("opens");
        assert_eq!((recovered.last_index, recovered.batches), (3, 3));
        input.insert(0, 1);
        wal_open(&input);
    }
}
