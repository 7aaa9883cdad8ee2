//! A small log whose every byte is known, to be damaged.

use bytes::Bytes;
use engine::wal::format::{BatchHeader, BATCH_HEADER_BYTES};
use engine::wal::{recover, Expect, Identity, RecoverError, Recovered, SegmentId, Wal};
use proto::raftpb::{Entry, HardState};

use crate::disk::{Disk, Image, ImageDir};
use crate::world::{config, ME};

/// Where a batch lies.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    pub sequence: u64,
    pub segment: SegmentId,
    pub offset: usize,
    /// Header and payload, without the padding.
    pub bytes: usize,
    /// With the padding.
    pub padded: usize,
    pub claim: u64,
    /// Last index of the log after it.
    pub last_index: u64,
}

pub struct Small {
    pub wal: Wal,
    pub disk: Disk,
    pub placed: Vec<Placed>,
    pub segment_bytes: u64,
}

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let data: Vec<u8> = (0..bytes)
        .map(|i| (i as u64 * 31 + index * 7 + term) as u8)
        .collect();
    Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: Some(Bytes::from(data)),
    }
}

pub fn open(image: &Image, expect: Expect) -> Result<Recovered, RecoverError> {
    recover(
        &ImageDir::new(image),
        Expect {
            identity: Some(ME),
            ..expect
        },
    )
}

impl Small {
    pub fn new(segment_bytes: u64, incarnation: u64) -> Small {
        Small::reopen(Image::new(), segment_bytes, incarnation, Expect::default())
    }

    /// Opens an image that must open, as a new process.
    pub fn reopen(image: Image, segment_bytes: u64, incarnation: u64, expect: Expect) -> Small {
        let recovered = open(&image, expect).unwrap_or_else(|error| panic!("{error}"));
        let mut config = config(segment_bytes, incarnation);
        config.batch_bytes_max = config.batch_bytes_max.min(segment_bytes as usize - 4096);
        let wal = Wal::new(config, ME, recovered.tail).expect("configuration");
        Small {
            wal,
            disk: Disk::new(image),
            placed: Vec::new(),
            segment_bytes,
        }
    }

    pub fn run_file_ops(&mut self) {
        while let Some(op) = self.wal.next_file_op() {
            self.disk.op = Some(op);
            let tag = self.disk.complete_op();
            self.wal
                .file_op_done(tag, Ok(()), 0)
                .expect("file operation");
        }
    }

    /// Appends one entry of `bytes` bytes at the end, with a hard state.
    pub fn append(&mut self, bytes: usize) {
        let index = self.wal.last_index() + 1;
        let hard = HardState {
            term: Some(1),
            vote: Some(1),
            commit: Some(index - 1),
        };
        self.wal
            .append(&[entry(index, 1, bytes)], Some(&hard))
            .expect("append");
    }

    /// Hands one write to the disk, where it stays under way; returns its tag.
    pub fn issue(&mut self) -> Option<u64> {
        self.run_file_ops();
        let write = self.wal.next_write(0)?;
        let (header, _) = BatchHeader::parse(write.buf.as_slice()).expect("a batch header");
        self.placed.push(Placed {
            sequence: write.tag,
            segment: write.segment,
            offset: write.offset as usize,
            bytes: BATCH_HEADER_BYTES + header.payload_bytes as usize,
            padded: write.buf.len(),
            claim: header.claim,
            last_index: self.wal.last_index(),
        });
        let tag = write.tag;
        self.disk.flying.push(write);
        Some(tag)
    }

    pub fn complete(&mut self, tag: u64) {
        let write = self.disk.complete(tag);
        self.wal.write_done(tag, Ok(())).expect("write");
        self.wal.reuse(write.buf);
    }

    /// Appends an entry and makes it durable.
    pub fn write(&mut self, bytes: usize) {
        self.append(bytes);
        let tag = self.issue().expect("a write");
        self.complete(tag);
        self.run_file_ops();
    }

    pub fn seal(&mut self) {
        self.wal.seal();
        let tag = self.issue().expect("a seal");
        self.complete(tag);
    }

    /// What a meta page written now would state.
    pub fn meta(&self, applied: u64) -> Expect {
        Expect {
            identity: Some(ME),
            claim: Some(self.wal.position()),
            first_needed: Some(self.wal.first_needed(applied)),
            applied,
            ..Expect::default()
        }
    }
}

/// Everything up to `last` is there as it was appended.
pub fn holds(recovered: &Recovered, last: u64) -> bool {
    let right = |(read, index): (&Entry, u64)| {
        read.index == Some(index)
            && *read == entry(index, 1, read.data.as_ref().map_or(0, Bytes::len))
    };
    recovered.last_index == last
        && recovered.entries.len() as u64 == last
        && recovered.entries.iter().zip(1..).all(right)
}

pub fn stranger() -> Identity {
    Identity {
        cluster_id: ME.cluster_id,
        member_id: ME.member_id + 1,
    }
}
