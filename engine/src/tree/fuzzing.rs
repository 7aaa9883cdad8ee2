//! What the fuzz targets call, and an ordinary test replays.
//!
//! No input may panic, loop, or read out of bounds; what is read from a file is right or refused.

use super::{check_shape, node::Node, verify, Damage, Tree};
use crate::page::{Header, Miss, Options, PageNo, Pages, SimFile, PAGE_BYTES};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// Fetches that a fuzzed step may ask for.
const ROUNDS_MAX: usize = 2000;
const STEPS_MAX: usize = 400;

fn options() -> Options {
    Options {
        create: true,
        resident_bytes_max: 16 * PAGE_BYTES as u64,
        growth_bytes: 64 << 10,
        reserve_bytes: 0,
    }
}

/// A page's content, with whatever its checksum is: a page that the check lets through can be read in every way.
pub fn page_decode(data: &[u8]) {
    let mut page = [0; PAGE_BYTES];
    let len = data.len().min(PAGE_BYTES);
    page[..len].copy_from_slice(&data[..len]);
    let _ = Header::check(&page, PageNo(1));
    let _ = Header::of_bytes(&page).announced_pages();
    if check_shape(&page).is_err() {
        return;
    }
    let pages = Pages::in_memory();
    let node = Node(&page);
    let _ = (node.weight(), node.used());
    for at in 0..node.count() {
        let _ = node.key(at).read(&pages);
        if node.is_leaf() {
            let _ = node.leaf(at).value().read(&pages);
        } else {
            let _ = node.branch(at).child();
        }
        let key = node.key(at).inline();
        assert!(matches!(node.locate(&pages, key), Err(_) | Ok((0.., _))));
    }
    for key in data.chunks(7) {
        if node.is_leaf() {
            let _ = node.locate(&pages, key);
        } else {
            assert!(node
                .child_of(&pages, key)
                .map_or(true, |at| at < node.count()));
        }
    }
}

/// A sound file with changes, some of which come with right checksums: opening and reading it ends in values or errors.
///
/// The input is a list of changes of seven bytes: what, page (2), offset (2), value, more.
pub fn tree_open(data: &[u8]) {
    let mut image = sound_file();
    if data.len() % 2 == 1 {
        // Anything at all.
        image = data[1..].to_vec();
    } else {
        for change in data.chunks_exact(7) {
            change_page(&mut image, change);
        }
    }
    let Ok(opened) = Pages::open(Arc::new(SimFile::from_bytes(image)), options()) else {
        return;
    };
    let mut pages = opened.pages;
    let Some(meta) = opened.meta else { return };
    for tree in &meta.roots {
        walk(&mut pages, *tree);
        for key in data.chunks(5).take(20) {
            let _ = attempt(&mut pages, |pages| tree.get(pages, key).map(|_| ()));
            let _ = attempt(&mut pages, |pages| {
                tree.count(pages, Bound::Unbounded, Bound::Included(key))
                    .map(|_| ())
            });
        }
    }
    for _ in 0..ROUNDS_MAX {
        match verify(&pages, &meta.roots) {
            Err(Damage::Missing(miss)) if fetch(&mut pages, &miss) => {}
            _ => return,
        }
    }
}

fn sound_file() -> Vec<u8> {
    let file = SimFile::new();
    let Ok(opened) = Pages::open(Arc::new(file.clone()), options()) else {
        return Vec::new();
    };
    let (mut pages, mut tree) = (opened.pages, Tree::new());
    for n in 0..300u32 {
        let key = format!("key-{:05}", n * 7 % 300);
        let len = if n % 50 == 0 { 3000 } else { 40 };
        let _ = tree.insert(&mut pages, key.as_bytes(), &vec![n as u8; len], n % 3);
    }
    let _ = tree.insert(&mut pages, &[b'k'; 700], b"a long key", 1);
    if let Some(Ok(done)) = pages.begin_checkpoint(&[tree], b"").map(|job| job.run()) {
        pages.checkpoint_done(done);
    }
    // A second, small one: so that not all pages are verified at open.
    let _ = tree.insert(&mut pages, b"last", b"value", 1);
    if let Some(Ok(done)) = pages.begin_checkpoint(&[tree], b"").map(|job| job.run()) {
        pages.checkpoint_done(done);
    }
    file.durable()
}

fn change_page(image: &mut [u8], change: &[u8]) {
    let pages = image.len() / PAGE_BYTES;
    if pages == 0 {
        return;
    }
    let page = usize::from(u16::from_le_bytes([change[1], change[2]])) % pages;
    let at = usize::from(u16::from_le_bytes([change[3], change[4]])) % PAGE_BYTES;
    let page = &mut image[page * PAGE_BYTES..][..PAGE_BYTES];
    page[at] = page[at].wrapping_add(change[5]);
    if change[0] % 4 != 0 {
        let crc = crc32fast::hash(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Fetches; false if a page is damaged.
fn fetch(pages: &mut Pages, miss: &Miss) -> bool {
    match pages.fetch_job(miss) {
        Some(job) => pages.fetch_done_keeping(job.run()).is_ok(),
        None => false,
    }
}

fn attempt(pages: &mut Pages, step: impl Fn(&Pages) -> Result<(), Miss>) -> bool {
    for _ in 0..ROUNDS_MAX {
        match step(pages) {
            Ok(()) => return true,
            Err(miss) if fetch(pages, &miss) => {}
            Err(_) => return false,
        }
    }
    false
}

fn walk(pages: &mut Pages, tree: Tree) {
    for is_forward in [true, false] {
        attempt(pages, |pages| {
            let all = (Bound::Unbounded, Bound::Unbounded);
            let mut cursor = if is_forward {
                tree.range(pages, all.0, all.1)
            } else {
                tree.range_rev(pages, all.0, all.1)
            };
            // Crafted branches may share children, so the walk may be longer than the file.
            for _ in 0..10_000 {
                if cursor.next()?.is_none() {
                    break;
                }
            }
            Ok(())
        });
    }
}

/// Operations on a tree and a map, with checkpoints, and the power going after some number of writes. What the input
/// means: see [`Plan`].
pub fn tree_ops(data: &[u8]) {
    let mut plan = Plan(data);
    let file = SimFile::new();
    let Ok(opened) = Pages::open(Arc::new(file.clone()), options()) else {
        return;
    };
    file.lose_power_at(file.operations() + u64::from(plan.byte()));
    let (mut pages, mut tree) = (opened.pages, Tree::new());
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut states = BTreeMap::from([(0, model.clone())]);
    let mut durable = 0;
    for _ in 0..STEPS_MAX {
        if plan.0.is_empty() {
            break;
        }
        match plan.byte() % 8 {
            0 => {
                let Some(job) = pages.begin_checkpoint(&[tree], b"") else {
                    return;
                };
                states.insert(job.checkpoint(), model.clone());
                let Ok(done) = job.run() else { break };
                durable = done.checkpoint();
                pages.checkpoint_done(done);
            }
            1 | 2 => {
                let key = plan.key();
                assert_eq!(
                    tree.remove(&mut pages, &key),
                    Ok(model.remove(&key).is_some())
                );
            }
            3 => {
                let key = plan.key();
                attempt(&mut pages, |pages| {
                    assert_eq!(tree.get(pages, &key)?, model.get(&key).map(|v| &v[..]));
                    Ok(())
                });
            }
            _ => {
                let (key, value) = (plan.key(), plan.value());
                assert_eq!(tree.insert(&mut pages, &key, &value, 1), Ok(()));
                model.insert(key, value);
            }
        }
    }
    compare(&mut pages, tree, &model);
    let keep = match plan.byte() % 4 {
        0 => crate::page::Keep::None,
        1 => crate::page::Keep::All,
        2 => crate::page::Keep::Prefix(u64::from(plan.byte()) * 4),
        _ => crate::page::Keep::Random(u64::from(plan.byte())),
    };
    let recovered = Pages::open(Arc::new(file.crash(keep)), options());
    let Ok(mut recovered) = recovered else {
        panic!("a crash made the file unreadable");
    };
    let number = recovered.report.checkpoint;
    assert!(number == durable || number == durable + 1);
    let tree = recovered.meta.map_or_else(Tree::new, |m| m.roots[0]);
    compare(&mut recovered.pages, tree, &states[&number]);
}

fn compare(pages: &mut Pages, tree: Tree, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let is_read = attempt(pages, |pages| {
        let mut cursor = tree.range(pages, Bound::Unbounded, Bound::Unbounded);
        for (key, value) in model {
            let Some((k, v)) = cursor.next()? else {
                panic!("an entry is missing");
            };
            assert!(k[..] == key[..] && v == value);
        }
        assert!(cursor.next()?.is_none());
        Ok(())
    });
    assert!(is_read);
    let count = tree.count(pages, Bound::Unbounded, Bound::Unbounded);
    assert_eq!(count, Ok(model.len() as u64));
}

/// Input as a plan of operations: every byte string is one.
struct Plan<'a>(&'a [u8]);

impl Plan<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn key(&mut self) -> Vec<u8> {
        let (kind, n) = (self.byte(), self.byte());
        match kind % 8 {
            0 => vec![n; 510 + usize::from(n % 8)],
            1 => [vec![b'k'; 600], vec![n]].concat(),
            2 => vec![n % 4; usize::from(n)],
            _ => vec![kind, n],
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let (kind, n) = (self.byte(), self.byte());
        let len = match kind % 8 {
            0 => 1020 + usize::from(n % 8),
            1 => usize::from(n) * 40,
            2 => 4056 + usize::from(n % 16),
            _ => usize::from(n),
        };
        vec![n; len]
    }
}
