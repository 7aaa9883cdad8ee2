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
const SEGMENTS_MAX: usize = 6;

/// Opens arbitrary bytes as a log. Whatever they are, recovery ends, with an error that can be printed or with a log that
/// goes on: what is appended to it is there at the next opening, behind what was there before.
pub fn wal_open(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let mut files: BTreeMap<SegmentId, Vec<u8>> = (1..)
        .map(SegmentId)
        .zip(data.chunks(SEGMENT_BYTES).map(<[u8]>::to_vec))
        .collect();
    if how & 1 != 0 {
        files
            .values_mut()
            .for_each(|file| file.resize(SEGMENT_BYTES, 0));
        files.insert(SegmentId(files.len() as u64 + 1), vec![0; SEGMENT_BYTES]);
        make_plausible(&mut files);
    }
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

/// Gives arbitrary blocks the headers of a log, with right checksums, so that what is behind them is reached.
fn make_plausible(files: &mut BTreeMap<SegmentId, Vec<u8>>) {
    let (mut predecessor, mut predecessor_crc) = (SegmentId(0), 0);
    let (mut sequence, mut previous_crc) = (0, 0);
    for (id, file) in files {
        let header = SegmentHeader {
            identity: ME,
            segment: *id,
            bytes: SEGMENT_BYTES as u64,
            nonce: id.0,
            predecessor,
            predecessor_crc,
            recycled: file[0] & 1 != 0,
        };
        predecessor_crc = header.encode(file);
        predecessor = *id;
        for at in (BLOCK_BYTES..SEGMENT_BYTES).step_by(BLOCK_BYTES) {
            let chosen = file[at];
            if chosen == 0 {
                continue;
            }
            let payload_bytes = usize::from(file[at + 1]) + usize::from(file[at + 2]) * 64;
            let payload_bytes = payload_bytes.min(SEGMENT_BYTES - at - BATCH_HEADER_BYTES);
            let payload = at + BATCH_HEADER_BYTES..at + BATCH_HEADER_BYTES + payload_bytes;
            sequence += 1;
            let header = BatchHeader {
                identity: ME,
                segment: *id,
                nonce: id.0,
                sequence,
                incarnation: u64::from(chosen & 2),
                claim: u64::from(file[at + 3]).min(sequence - 1),
                block: (at / BLOCK_BYTES) as u32,
                blocks: (BATCH_HEADER_BYTES + payload_bytes).div_ceil(BLOCK_BYTES) as u32,
                payload_bytes: payload_bytes as u32,
                records: u32::from(file[at + 4]),
                before: Default::default(),
                payload_crc: crc32fast::hash(&file[payload]),
                previous_crc,
                seal: payload_bytes == 0,
                opening: sequence == 1 || chosen & 4 != 0,
            };
            previous_crc = header.encode(&mut file[at..]);
        }
    }
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
    // Entries of the log after each append.
    let mut states = vec![(model.clone(), 0)];
    for _ in 0..input.byte() % 12 {
        write_some(&mut input, &mut wal, &mut model);
        pump(&mut wal, &dir);
        states.push((model.clone(), wal.position().batch));
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
        applied: 0,
    };
    match recover(&dir, claimed) {
        Ok(recovered) => assert_eq!(recovered.entries, model, "something claimed was cut off"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(recovered) = recover(&dir, Expect::default()) {
        let known = states
            .iter()
            .find(|(entries, _)| *entries == recovered.entries);
        assert!(known.is_some(), "what came back was never the log");
        if flips == 1 && changes == 1 {
            let lacks_at_most_the_last = recovered.position.batch + 1 >= position.batch;
            assert!(
                lacks_at_most_the_last && (!sealed || recovered.position.batch >= data_batch),
                "a claimed batch was cut off"
            );
        }
    }
}

fn write_some(input: &mut Input<'_>, wal: &mut Wal, model: &mut Vec<Entry>) {
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
    model.extend(entries);
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
        }
    }

    #[test]
    fn plausible_logs_are_reached_behind_their_checksums() {
        // Batches of one record each: an entry of index n.
        let mut data = vec![1u8 | 2];
        for segment in 0..2u64 {
            data.resize(1 + segment as usize * SEGMENT_BYTES + BLOCK_BYTES, 0);
            for block in 0..3u64 {
                let start = data.len();
                data.extend_from_slice(&[1, 24, 0, 0, 1]);
                data.resize(start + BATCH_HEADER_BYTES, 0);
                data.extend_from_slice(&[1, 0, 0, 0, 16, 0, 0, 0]);
                data.extend_from_slice(&1u64.to_le_bytes());
                data.extend_from_slice(&(segment * 3 + block + 1).to_le_bytes());
                data.resize(start + BLOCK_BYTES, 0);
            }
        }
        wal_open(&data);
    }
}
