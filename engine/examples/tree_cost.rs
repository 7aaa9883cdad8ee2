//! What tree operations cost in memory: `cargo run --release -p ringd-engine --example tree_cost [entries] [file]`.
//!
//! With a file name the tree lies in a real file and reads go through the mapping.

use engine::{
    page::{Options, Pages, Progress, RealFile, SimFile},
    tree::Tree,
};
use std::{hint::black_box, sync::Arc, time::Instant};

fn key(n: u64) -> [u8; 48] {
    let mut key = [0; 48];
    let text = format!(
        "/registry/pods/namespace-{:03}/pod-{:016x}",
        n % 400,
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    );
    key[..text.len().min(48)].copy_from_slice(&text.as_bytes()[..text.len().min(48)]);
    key
}

/// CPU time of this thread, so that other load on the machine counts less.
struct Cpu(u64);

impl Cpu {
    fn now() -> Cpu {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Cpu(stat
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0))
    }
}

fn report(what: &str, count: u64, since: Cpu) {
    let each = (Cpu::now().0 - since.0) as f64 / count as f64;
    println!("{what:<44} {each:9.0} ns");
}

fn checkpoint(pages: &mut Pages, trees: &[Tree]) {
    let bytes = pages.dirty_bytes();
    let began = Instant::now();
    let Some(mut job) = pages.begin_checkpoint(trees, b"cost") else {
        return;
    };
    let frozen = began.elapsed();
    let done = loop {
        match job.step() {
            Ok(Progress::Wrote(_)) => {}
            Ok(Progress::Finished(done)) => break done,
            Err(e) => return println!("checkpoint failed: {e}"),
        }
    };
    let written = began.elapsed();
    drop(job);
    let (last, cpu) = (Instant::now(), Cpu::now());
    pages.checkpoint_done(done);
    println!("done, CPU: {} us", (Cpu::now().0 - cpu.0) / 1000);
    println!(
        "checkpoint of {} MiB: freeze {frozen:?}, all writes {written:?}, done {:?}",
        bytes >> 20,
        last.elapsed()
    );
}

fn main() {
    let mut args = std::env::args().skip(1);
    let entries: u64 = args
        .next()
        .and_then(|a| a.parse().ok())
        .unwrap_or(1_000_000);
    let options = Options {
        create: true,
        resident_bytes_max: 8 << 30,
        ..Options::default()
    };
    let opened = match args.next() {
        Some(path) => Pages::open(
            Arc::new(RealFile::open_or_create(path.as_ref()).expect("a file")),
            options,
        ),
        None => Pages::open(Arc::new(SimFile::new()), options),
    };
    let mut pages = opened.expect("an openable file").pages;
    let (mut keys, mut rows) = (Tree::new(), Tree::new());

    let began = Cpu::now();
    for n in 0..entries {
        keys.insert(&mut pages, &key(n), &[7; 44], 1)
            .expect("resident");
    }
    report("keys: first insert, random order", entries, began);
    let began = Cpu::now();
    for n in 0..entries {
        rows.insert(&mut pages, &row(n), &[9; 160], 0)
            .expect("resident");
    }
    report("rows: append of 160 bytes", entries, began);
    println!(
        "{} MiB for {entries} entries each",
        pages.file_bytes() >> 20
    );

    let some = entries.min(300_000);
    measure(&mut pages, &mut keys, &rows, entries, some, "dirty");
    checkpoint(&mut pages, &[keys, rows]);
    measure(
        &mut pages,
        &mut keys,
        &rows,
        entries,
        some,
        "after a checkpoint",
    );
    checkpoint(&mut pages, &[keys, rows]);
}

fn row(n: u64) -> [u8; 16] {
    let mut row = [0; 16];
    row[..8].copy_from_slice(&n.to_be_bytes());
    row
}

fn measure(pages: &mut Pages, keys: &mut Tree, rows: &Tree, entries: u64, some: u64, when: &str) {
    println!("-- {when}");
    let random = |n: u64| n.wrapping_mul(2_654_435_761) % entries;
    let wanted: Vec<_> = (0..some).map(|n| key(random(n))).collect();
    let began = Cpu::now();
    for key in &wanted {
        black_box(keys.get(pages, key).expect("resident"));
    }
    report("keys: get, random", some, began);
    let began = Cpu::now();
    for n in 0..some {
        black_box(rows.get(pages, &row(random(n))).expect("resident"));
    }
    report("rows: get, random", some, began);
    let began = Cpu::now();
    for key in &wanted {
        keys.insert(pages, key, &[8; 44], 1).expect("resident");
    }
    report("keys: replace, random", some, began);
    let began = Cpu::now();
    for key in &wanted {
        keys.insert(pages, key, &[8; 44], 1).expect("resident");
    }
    report("keys: replace again, pages owned", some, began);
    let began = Cpu::now();
    for key in &wanted[..some as usize / 10] {
        let from = std::ops::Bound::Included(&key[..]);
        black_box(
            keys.count(pages, from, std::ops::Bound::Unbounded)
                .expect("resident"),
        );
    }
    report("keys: count from a random key", some / 10, began);
    let began = Cpu::now();
    let mut cursor = keys.range(
        pages,
        std::ops::Bound::Unbounded,
        std::ops::Bound::Unbounded,
    );
    let mut seen = 0;
    while let Some(entry) = cursor.next().expect("resident") {
        black_box(entry);
        seen += 1;
    }
    report("keys: walk, per entry", seen, began);
}
