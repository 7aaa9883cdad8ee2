//! How the page file looks over a long life. Not a check: run it by hand and read the numbers, which do not depend on the
//! machine's speed.
//!
//! `cargo test --release -p ringd-engine --test store_space -- --ignored --nocapture`

use bytes::Bytes;
use engine::map::Map;
use engine::page::{AlignedBuf, Options as PageOptions, PageFile, Pages, PAGE_BYTES};
use engine::store::{meta::LogMark, Options, Store};
use proto::etcdserverpb::*;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

/// A file in memory that notes what is written to it: offset and length.
#[derive(Default)]
struct Noting {
    bytes: Mutex<Vec<u8>>,
    writes: Mutex<Vec<(usize, usize)>>,
}

impl Noting {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("one thread")
    }

    fn put(&self, offset: u64, from: &[u8]) {
        let mut bytes = self.bytes();
        let len = bytes.len().max(offset as usize + from.len());
        bytes.resize(len, 0);
        bytes[offset as usize..][..from.len()].copy_from_slice(from);
    }

    fn take_writes(&self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.writes.lock().expect("one thread"))
    }
}

impl PageFile for Noting {
    fn name(&self) -> String {
        "a file in memory".to_owned()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read_at_direct(&self, offset: u64, buf: &mut AlignedBuf) -> io::Result<usize> {
        self.read_at(offset, buf)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes();
        let there = bytes.get(offset as usize..).unwrap_or(&[]);
        let count = there.len().min(buf.len());
        buf[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut writes = self.writes.lock().expect("one thread");
        writes.push((offset as usize, bytes.len()));
        self.put(offset, bytes);
        Ok(())
    }

    fn write_meta(&self, offset: u64, page: &AlignedBuf) -> io::Result<()> {
        self.put(offset, page);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let len = self.bytes().len().max(len as usize);
        self.set_len(len as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn map(&self) -> Option<Arc<Map>> {
        None
    }
}

fn store(file: Arc<Noting>, relocates: bool) -> Store {
    let options = PageOptions {
        create: true,
        ..PageOptions::default()
    };
    let opened = Pages::open(file, options).expect("a new file");
    let mut options = Options {
        quota_bytes: quota_bytes(),
        ..Options::default()
    };
    if !relocates {
        options.relocation.cost_share = 0;
    }
    Store::create(opened.pages, options)
}

/// All that the files may take, as on a server, unless `QUOTA_BYTES` says otherwise: beyond half of it they are kept shorter.
fn quota_bytes() -> Option<u64> {
    let bytes = std::env::var("QUOTA_BYTES").ok()?;
    Some(bytes.parse().expect("a number"))
}

/// SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A life: so many keys, then rounds of puts to random ones, each with a compaction to where the round before ended and a
/// checkpoint.
struct Life {
    name: &'static str,
    keys: u64,
    value_bytes: usize,
    puts: u64,
    rounds: u64,
}

struct World {
    file: Arc<Noting>,
    store: Store,
    index: u64,
    value: Bytes,
}

impl World {
    fn apply(&mut self, request: InternalRaftRequest) {
        self.index += 1;
        let applied = self.store.apply(self.index, 1, Some(&request), 0);
        applied.expect("all pages are resident");
    }

    fn put(&mut self, n: u64) {
        let key = format!("/registry/pods/default/{:016x}", mix(n));
        self.apply(InternalRaftRequest {
            put: Some(PutRequest {
                key: key.into(),
                value: self.value.clone(),
                ..PutRequest::default()
            }),
            ..InternalRaftRequest::default()
        });
    }

    /// What a member does when it is idle.
    fn relocate(&mut self) {
        while self.store.relocation_pending() {
            self.store.relocation_step(64).expect("resident");
        }
    }

    fn compact(&mut self, revision: i64) {
        self.apply(InternalRaftRequest {
            compaction: Some(CompactionRequest {
                revision,
                physical: false,
            }),
            ..InternalRaftRequest::default()
        });
        while self.store.compaction_pending() {
            self.store.compaction_step(1000).expect("resident");
        }
    }

    /// Lengths in pages of the contiguous runs that a checkpoint writes.
    fn checkpoint(&mut self) -> Vec<usize> {
        let job = self.store.begin_checkpoint(LogMark::default());
        let done = job.expect("none runs").run().expect("a sound file");
        self.store.pages_mut().checkpoint_done(done);
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (offset, len) in self.file.take_writes() {
            match runs.last_mut() {
                Some((start, bytes)) if *start + *bytes == offset => *bytes += len,
                _ => runs.push((offset, len)),
            }
        }
        runs.iter().map(|(_, bytes)| bytes / PAGE_BYTES).collect()
    }
}

/// What some rounds came to.
#[derive(Default)]
struct Sum {
    puts: u64,
    checkpoints: u64,
    pages: u64,
    moved_bytes: u64,
    runs: u64,
    /// Pages in runs of less than 4, 16 and 64 pages, and in longer ones.
    by_length: [u64; 4],
}

impl Sum {
    fn add(&mut self, runs: &[usize]) {
        self.checkpoints += 1;
        self.runs += runs.len() as u64;
        for pages in runs {
            let class = [4, 16, 64].iter().filter(|max| pages >= *max).count();
            self.by_length[class] += *pages as u64;
            self.pages += *pages as u64;
        }
    }

    fn print(&self, round: u64, store: &Store) {
        let share = |part: u64, of: u64| part * 100 / of.max(1);
        let space = store.pages().free_space();
        println!(
            "{round:5} | {:6} pages {:5} runs a checkpoint | {:3} {:3} {:3} {:3} % of pages in runs < 4, 16, 64, longer | \
             {:5} B a put, {:4} of them moved | file {:6} free {:6} ({:2} %) of these in blocks {:3} % | waiting {:5}",
            self.pages / self.checkpoints,
            self.runs / self.checkpoints,
            share(self.by_length[0], self.pages),
            share(self.by_length[1], self.pages),
            share(self.by_length[2], self.pages),
            share(self.by_length[3], self.pages),
            self.pages * PAGE_BYTES as u64 / self.puts,
            self.moved_bytes / self.puts,
            space.file_pages,
            space.free_pages,
            share(space.free_pages, space.file_pages),
            share(space.whole_block_pages, space.free_pages),
            space.waiting_pages,
        );
    }
}

fn live(life: &Life, relocates: bool) {
    println!(
        "{}, relocator {}",
        life.name,
        if relocates { "on" } else { "off" }
    );
    let file = Arc::new(Noting::default());
    let mut world = World {
        store: store(file.clone(), relocates),
        file,
        index: 0,
        value: vec![7; life.value_bytes].into(),
    };
    for n in 0..life.keys {
        world.put(n);
        if n % life.puts == 0 {
            world.checkpoint();
        }
    }
    world.checkpoint();
    let mut x = 1;
    let mut sum = Sum::default();
    for round in 1..=life.rounds {
        let (revision, moved) = (world.store.revision(), world.store.relocated_bytes());
        for n in 0..life.puts {
            x = mix(x);
            world.put(x % life.keys);
            if n == life.puts / 10 {
                world.relocate();
            }
        }
        world.compact(revision);
        sum.add(&world.checkpoint());
        sum.puts += life.puts;
        sum.moved_bytes += world.store.relocated_bytes() - moved;
        if round % (life.rounds / 5) == 0 {
            sum.print(round, &world.store);
            sum = Sum::default();
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn runs_over_a_long_life() {
    for life in [
        Life {
            name: "100 B values, 3,000 puts a checkpoint",
            keys: 200_000,
            value_bytes: 100,
            puts: 3_000,
            rounds: 200,
        },
        Life {
            name: "100 B values, 30,000 puts a checkpoint",
            keys: 200_000,
            value_bytes: 100,
            puts: 30_000,
            rounds: 50,
        },
        Life {
            name: "100 B values, 300 puts a checkpoint",
            keys: 200_000,
            value_bytes: 100,
            puts: 300,
            rounds: 1_000,
        },
        Life {
            name: "1,500 B values, 3,000 puts a checkpoint",
            keys: 40_000,
            value_bytes: 1_500,
            puts: 3_000,
            rounds: 100,
        },
        Life {
            name: "10,000 B values, 1,000 puts a checkpoint",
            keys: 10_000,
            value_bytes: 10_000,
            puts: 1_000,
            rounds: 200,
        },
    ] {
        if !std::env::var("LIFE").is_ok_and(|name| !name.split(';').any(|n| life.name.contains(n)))
        {
            live(&life, false);
            live(&life, true);
        }
    }
}
