//! The page space on a real file: mapping, growth, restart, eviction, pins, faults.

mod tree_world;

use engine::{
    map,
    page::{Options, PageFault, PageFile, Pages, RealFile},
    tree::Tree,
};
use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};
use tree_world::{check, collect, contents, settled};

fn options() -> Options {
    Options {
        create: false,
        resident_bytes_max: 40 * 4096,
        growth_bytes: 1 << 20,
        reserve_bytes: 0,
    }
}

fn new_file() -> (tempfile::TempDir, PathBuf) {
    // Beside the build output: a temporary directory may be on a file system without direct I/O.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("tree");
    (dir, path)
}

fn open(path: &Path) -> (Pages, Vec<Tree>) {
    let file = RealFile::open_or_create(path).expect("a file");
    let opened = Pages::open(Arc::new(file), options()).expect("a sound file");
    assert_eq!(opened.report.fell_back, None);
    let roots = opened.meta.map_or_else(Vec::new, |m| m.roots);
    (opened.pages, roots)
}

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn fill(pages: &mut Pages, tree: &mut Tree, numbers: std::ops::Range<u32>, len: usize) {
    for n in numbers {
        let value = vec![n as u8; len];
        let done = tree.insert(pages, &key(n), &value, 1);
        assert_eq!(done, Ok(()), "{:?}", pages.load_error());
    }
}

fn checkpoint(pages: &mut Pages, tree: Tree) {
    let job = pages.begin_checkpoint(&[tree], b"").expect("a job");
    pages.checkpoint_done(job.run().expect("a sound disk"));
}

#[test]
fn what_a_checkpoint_wrote_is_there_after_a_restart_and_in_the_mapping_before_it() {
    let (_dir, path) = new_file();
    let (mut pages, _) = open(&path);
    let mut tree = Tree::new();
    let mut at = 0;
    for round in 0..6 {
        fill(&mut pages, &mut tree, at..at + 3000, 150 + round * 400);
        at += 3000;
        checkpoint(&mut pages, tree);
        // Readable at once through the mapping, and within the budget.
        let found = settled(&mut pages, |p| {
            Ok(tree.get(p, &key(at - 7))?.map(<[u8]>::to_vec))
        });
        assert_eq!(found, Some(vec![(at - 7) as u8; 150 + round * 400]));
        assert!(path.metadata().expect("a file").len() >= pages.file_bytes());
    }
    check(&mut pages, &[tree]);
    drop(pages);
    let (mut pages, roots) = open(&path);
    let found = contents(&mut pages, roots[0]);
    assert_eq!(found.len(), at as usize);
    assert!(found.iter().all(|(k, v)| v.iter().all(|b| *b == k[3])));
    check(&mut pages, &roots);
}

#[test]
fn a_budget_is_kept_and_evicted_pages_come_back_verified() {
    let (_dir, path) = new_file();
    let (mut pages, _) = open(&path);
    let mut tree = Tree::new();
    fill(&mut pages, &mut tree, 0..20_000, 100);
    checkpoint(&mut pages, tree);
    while pages.evict_some() {}
    let budget = options().resident_bytes_max;
    let branches = 20 * 4096;
    assert!(pages.resident_bytes() <= budget + branches);
    for n in (0..20_000).step_by(37) {
        let found = settled(&mut pages, |p| Ok(tree.get(p, &key(n))?.map(<[u8]>::len)));
        assert_eq!(found, Some(100));
        assert!(pages.resident_bytes() <= 3 * budget + branches);
    }
    assert_eq!(pages.sync_loads(), 0);
}

#[test]
fn a_pin_reads_its_checkpoint_while_the_tree_goes_on() {
    let (_dir, path) = new_file();
    let (mut pages, _) = open(&path);
    let mut tree = Tree::new();
    fill(&mut pages, &mut tree, 0..4000, 120);
    checkpoint(&mut pages, tree);
    let pin = pages.pin();
    let before = pages.file_bytes();
    for round in 0..8 {
        fill(&mut pages, &mut tree, 0..4000, 121 + round);
        checkpoint(&mut pages, tree);
    }
    assert!(pages.pinned_bytes(&pin) > 0);
    let held = pages.file_bytes();
    assert!(held > before);
    let reader = std::thread::spawn(move || {
        let mut pages = pin.reader(1 << 20);
        assert!(pages.begin_checkpoint(&[], b"").is_none());
        contents(&mut pages, pin.meta().roots[0])
    });
    let found = reader.join().expect("a reader on another thread");
    assert_eq!(found.len(), 4000);
    assert!(found.values().all(|v| v.len() == 120));
    // Let go of, its pages are used again: the file stops growing.
    for round in 0..8 {
        fill(&mut pages, &mut tree, 0..4000, 131 + round);
        checkpoint(&mut pages, tree);
    }
    assert!(pages.file_bytes() <= held, "{held} {}", pages.file_bytes());
    check(&mut pages, &[tree]);
}

#[test]
fn a_fault_under_the_mapping_is_noticed_and_the_page_is_read_again() {
    map::install_fault_guard().expect("a handler");
    let (_dir, path) = new_file();
    let (mut pages, _) = open(&path);
    let mut tree = Tree::new();
    fill(&mut pages, &mut tree, 0..2000, 100);
    checkpoint(&mut pages, tree);
    assert_eq!(pages.take_fault(), None);
    let whole = std::fs::read(&path).expect("the file");
    // Someone cuts the file under us: the kernel takes the pages away.
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    let file = file.expect("the file");
    file.set_len(2 * 4096).expect("cut");
    let mut cursor = tree.range(&pages, Bound::Unbounded, Bound::Unbounded);
    // Zeros look like an empty page or a page of no kind; whatever comes of it must not leave the process.
    while let Ok(Some(_)) = cursor.next() {}
    let error = pages.take_fault().expect("a fault");
    assert_eq!(error.fault, PageFault::Unmapped);
    assert!(map::fault_seen().is_some());
    assert!(error.to_string().contains("tree: page"));
    // The file comes back as it was, and so do the pages.
    std::fs::write(&path, whole).expect("written");
    while pages.take_fault().is_some() {}
    let found = settled_quietly(&mut pages, tree);
    assert_eq!(found, 2000);
}

/// Walks the tree, fetching what misses, until no fault comes between.
fn settled_quietly(pages: &mut Pages, tree: Tree) -> usize {
    for _ in 0..1000 {
        let walked = collect(
            tree.range(pages, Bound::Unbounded, Bound::Unbounded),
            usize::MAX,
        );
        if pages.take_fault().is_some() {
            continue;
        }
        match walked {
            Ok(entries) => return entries.len(),
            Err(miss) => {
                if let Some(job) = pages.fetch_job(&miss) {
                    // A page that was rejected while it was zeros may be reported once.
                    let _ = pages.fetch_done_keeping(job.run());
                }
            }
        }
    }
    panic!("never settled");
}

#[test]
fn sequential_inserts_leave_full_pages_and_short_files() {
    let (_dir, path) = new_file();
    let (mut pages, _) = open(&path);
    let mut tree = Tree::new();
    fill(&mut pages, &mut tree, 0..50_000, 90);
    let verified = check(&mut pages, &[tree]);
    // 96 bytes of cell and 6 of slot with each entry, 4064 on a page.
    let best = 50_000 / (4064 / (90 + 4 + 4 + 6));
    assert!(verified.tree_pages < best + best / 50, "{verified:?}");
}

#[test]
fn a_lost_file_is_not_taken_for_a_new_one() {
    let (_dir, path) = new_file();
    std::fs::write(&path, b"").expect("an empty file");
    let file = RealFile::open_or_create(&path).expect("a file");
    assert_eq!(file.len().expect("a length"), 0);
    // Not even where the caller would have a new one made: that has its meta pages from its first moment.
    let mut options = options();
    options.create = true;
    let refused = Pages::open(Arc::new(file), options).err();
    let text = refused.expect("an error").to_string();
    assert!(text.contains("has 0 bytes"), "{text}");
}

/// The kernel may drop a page that was checked, and read something else from the device later. Whoever changes such a page, or
/// moves it, would give the damage a checksum that fits.
#[test]
fn a_page_that_rots_after_it_was_checked_is_not_copied() {
    let (_dir, path) = new_file();
    let (mut pages, _) = open(&path);
    let mut tree = Tree::new();
    fill(&mut pages, &mut tree, 0..4, 100);
    checkpoint(&mut pages, tree);
    assert_eq!(settled_quietly(&mut pages, tree), 4);
    // A value's bytes, wherever the leaf lies: the file's pages are the mapping's.
    let bytes = std::fs::read(&path).expect("the file");
    let value = bytes.windows(100).position(|window| window == [2; 100]);
    let at = value.expect("the value") as u64;
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    let file = file.expect("the file");
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 8], at).expect("written");
    let miss = tree.insert(&mut pages, &key(9), b"x", 1);
    let miss = miss.expect_err("the leaf is not copied");
    let job = pages.fetch_job(&miss).expect("it is asked for again");
    let error = pages.fetch_done(job.run()).expect_err("it is refused");
    assert!(error.to_string().contains("not what was read"), "{error}");
}
