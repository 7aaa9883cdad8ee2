//! A member takes over the state of another one: whatever happens on the way, it has the old state or the new one.

use bytes::Bytes;
use engine::{
    page::{
        Copy, CopyError, CopySource, Miss, Options as PageOptions, PageDir, PageFile, Pages,
        SimFile,
    },
    store::{
        install::{Arriving, InstallError, InstallJob, StageError, StageJob},
        meta::{self, LogMark},
        ApplyError, Options, Store,
    },
};
use proto::etcdserverpb::{InternalRaftRequest, PutRequest};
use std::{
    io,
    sync::{Arc, Mutex},
};

fn page_options() -> PageOptions {
    PageOptions {
        create: true,
        resident_bytes_max: 16 << 20,
        growth_bytes: 1 << 20,
        reserve_bytes: 0,
    }
}

/// A page file's directory in memory.
#[derive(Default)]
struct Dir {
    own: Mutex<SimFile>,
    incoming: Mutex<SimFile>,
}

impl PageDir for Dir {
    fn create_incoming(&self) -> io::Result<Arc<dyn PageFile>> {
        let file = SimFile::new();
        *self.incoming.lock().unwrap() = file.clone();
        Ok(Arc::new(file))
    }

    fn create_spool(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(SimFile::new()))
    }

    fn install(&self) -> io::Result<Arc<dyn PageFile>> {
        let file = std::mem::take(&mut *self.incoming.lock().unwrap());
        *self.own.lock().unwrap() = file.clone();
        Ok(Arc::new(file))
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }
}

fn mark() -> LogMark {
    LogMark {
        position: Bytes::from_static(b"here"),
        first_needed_segment: 3,
        restarts: false,
    }
}

fn put(store: &mut Store, random: &mut Random) {
    let (index, _) = store.applied();
    let len = match random.below(10) {
        0 => random.below(30_000),
        _ => random.below(300),
    };
    let entry = InternalRaftRequest {
        put: Some(PutRequest {
            key: format!("key{}", random.below(400)).into(),
            value: (0..len).map(|_| random.below(256) as u8).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    while let Err(error) = store.apply(index + 1, 1, Some(&entry), 0) {
        match error {
            ApplyError::Miss(miss) => fetch(store, &miss),
            fatal => panic!("{fatal:?}"),
        }
    }
}

fn fetch(store: &mut Store, miss: &Miss) {
    let pages = store.pages_mut();
    let job = pages.fetch_job(miss).unwrap();
    pages.fetch_done(job.run()).unwrap();
}

fn checkpoint(store: &mut Store) {
    let job = store.begin_checkpoint(mark()).unwrap();
    let done = job.run().unwrap();
    store.pages_mut().checkpoint_done(done);
}

fn filled(seed: u64, puts: usize) -> (SimFile, Store) {
    let mut random = Random(seed);
    let file = SimFile::new();
    let opened = Pages::open(Arc::new(file.clone()), page_options()).unwrap();
    let mut store = Store::create(opened.pages, Options::default());
    for at in 0..puts {
        put(&mut store, &mut random);
        if at % 97 == 96 {
            checkpoint(&mut store);
        }
    }
    checkpoint(&mut store);
    (file, store)
}

fn hash(store: &mut Store) -> u32 {
    let mut job = store.hash_kv(0);
    loop {
        match job.step(store, 1000) {
            Ok(Some(found)) => return found.unwrap().hash,
            Ok(None) => {}
            Err(miss) => fetch(store, &miss),
        }
    }
}

fn source(store: &mut Store) -> CopySource {
    store.pages_mut().pin().into_source().unwrap()
}

/// The whole stream, read in steps.
fn stream(source: &CopySource) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < source.bytes() {
        let part = source.read(bytes.len() as u64, 1 << 20).unwrap();
        assert!(!part.is_empty());
        bytes.extend(part);
    }
    bytes
}

fn install(arriving: Arriving, dir: &Dir) -> Result<Box<Store>, InstallError> {
    let job = InstallJob {
        arriving,
        log: LogMark {
            restarts: true,
            ..mark()
        },
        pages: page_options(),
        store: Options::default(),
    };
    job.run(dir)
}

#[test]
fn a_copy_in_any_chunks_with_breaks_is_the_same_store() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let (_, mut theirs) = filled(seed, 300 + seed as usize * 50);
        let source = source(&mut theirs);
        let applied = theirs.applied();
        let expected = hash(&mut theirs);
        // What goes on meanwhile is not in the copy, and does not touch what is.
        for _ in 0..300 {
            put(&mut theirs, &mut random);
        }
        checkpoint(&mut theirs);
        for _ in 0..300 {
            put(&mut theirs, &mut random);
        }
        checkpoint(&mut theirs);
        let dir = Dir::default();
        let mut copy: Option<Arriving> = None;
        let mut at = 0;
        while at < source.bytes() {
            if random.below(8) == 0 {
                at = copy.as_mut().map_or(0, Arriving::resume);
                continue;
            }
            let mut part = source.read(at, 1 + random.below(599_999)).unwrap();
            part.truncate(1 + random.below(part.len()));
            at += part.len() as u64;
            let job = match copy.take() {
                Some(copy) => StageJob::take(copy, part.into(), false),
                None => StageJob::copy(part.into()),
            };
            let staged = job.run(&dir);
            copy = Some(staged.result.unwrap());
            assert_eq!(copy.as_ref().unwrap().offset(), at);
        }
        let copy = copy.unwrap();
        assert!(copy.is_whole());
        let contained = meta::contained(copy.content().unwrap()).unwrap();
        assert_eq!((contained.applied_index, contained.applied_term), applied);
        let (_, mut ours) = filled(99, 40);
        ours.take_over(*install(copy, &dir).unwrap());
        assert_eq!(ours.applied(), applied);
        assert_eq!(hash(&mut ours), expected);
        assert!(ours.log_mark().restarts);
        // It goes on as a store of its own, and opens again.
        for _ in 0..100 {
            put(&mut ours, &mut random);
        }
        checkpoint(&mut ours);
        let (expected, applied) = (hash(&mut ours), ours.applied());
        let file = dir.own.lock().unwrap().clone();
        let opened = Pages::open(Arc::new(file), page_options()).unwrap();
        let mut again =
            Store::open(opened.pages, &opened.meta.unwrap(), Options::default()).unwrap();
        assert_eq!((hash(&mut again), again.applied()), (expected, applied));
        assert!(!again.log_mark().restarts);
    }
}

#[test]
fn damage_on_the_way_is_never_installed() {
    let (_, mut theirs) = filled(5, 200);
    let source = source(&mut theirs);
    let whole = stream(&source);
    let mut random = Random(7);
    for round in 0..400 {
        let mut bytes = whole.clone();
        let at = match round {
            0..200 => round % bytes.len(),
            _ => random.below(bytes.len()),
        };
        match round % 4 {
            0..3 => bytes[at] ^= 1 << random.below(8),
            _ => {
                bytes.remove(at);
            }
        }
        let dir = Dir::default();
        let staged = StageJob::copy(bytes.into()).run(&dir);
        match staged.result {
            Err(StageError::Copy(CopyError::Malformed(_))) => {}
            Err(other) => panic!("{other}"),
            // A byte that is missing, or a length that grew, leaves the end to be waited for.
            Ok(copy) => {
                assert!(!copy.is_whole(), "byte {at} changed unnoticed");
                assert!(install(copy, &dir).is_err());
            }
        }
        assert!(dir.own.lock().unwrap().durable().is_empty());
    }
    let dir = Dir::default();
    let longer = [&whole[..], b"x"].concat();
    assert!(StageJob::copy(longer.into()).run(&dir).result.is_err());
}

/// Bytes that are taken at another place than their own, be they repeated, left out or exchanged, and be it at the very
/// borders of pieces: no such stream is ever taken for whole.
#[test]
fn bytes_at_a_wrong_place_never_make_a_copy() {
    let (_, mut store) = filled(11, 900);
    let source = source(&mut store);
    let sound = stream(&source);
    let mut borders = source.piece_offsets();
    borders.truncate(8);
    borders.extend([0, 1, 4096, sound.len() as u64 / 2, sound.len() as u64 - 4]);
    let mut tried = 0;
    for from in &borders {
        for to in &borders {
            let (from, to) = (*from as usize, *to as usize);
            if from >= to {
                continue;
            }
            let (head, part, tail) = (&sound[..from], &sound[from..to], &sound[to..]);
            for wrong in [
                [head, part, part, tail].concat(),
                [head, tail].concat(),
                [head, tail, part].concat(),
                [part, head, tail].concat(),
            ] {
                if wrong == sound {
                    continue;
                }
                let file = Arc::new(SimFile::new());
                let mut copy = Copy::new(file);
                let refused = copy.take(&wrong).is_err() || !copy.is_whole();
                assert!(refused, "{from}..{to} of {}", sound.len());
                assert!(copy.finish(&[]).is_err());
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried} streams");
}

#[test]
fn a_page_that_is_damaged_at_its_origin_is_refused_by_name() {
    let (file, mut theirs) = filled(8, 200);
    let source = source(&mut theirs);
    let whole = stream(&source);
    // A page in use, found by its bytes in the stream.
    let image = file.durable();
    let page = (2..image.len() / 4096)
        .find(|no| {
            let bytes = &image[no * 4096..(no + 1) * 4096];
            whole.windows(4096).step_by(1).any(|part| part == bytes)
        })
        .unwrap();
    file.damage(page as u64 * 4096 + 2000, |byte| byte ^ 4);
    let dir = Dir::default();
    let fresh = theirs.pages_mut().pin().into_source().unwrap();
    let staged = StageJob::copy(stream(&fresh).into()).run(&dir);
    match staged.result {
        Err(StageError::Copy(CopyError::Page(error))) => assert_eq!(error.page.0, page as u32),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a damaged page was installed"),
    }
    assert!(dir.own.lock().unwrap().durable().is_empty());
}
