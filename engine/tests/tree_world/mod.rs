//! A tree, its model and its file, driven from one seed.
#![allow(dead_code)]

use engine::{
    page::{CheckpointJob, Miss, Options, PageFile, Pages, Progress, Relocation, SimFile},
    tree::{verify, Cursor, Damage, Relocator, Tree, Verified},
};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

pub type Model = BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub fn options() -> Options {
    Options {
        create: true,
        resident_bytes_max: 64 * 4096,
        growth_bytes: 64 << 10,
        reserve_bytes: 0,
    }
}

/// Moves whatever can be moved.
pub const EAGER: Relocation = Relocation {
    file_pages_min: 0,
    dead_percent_min: 0,
    live_pages_max: 63,
    cost_share: 1,
};

/// Runs a step until its pages are there.
pub fn settled<T>(pages: &mut Pages, mut step: impl FnMut(&Pages) -> Result<T, Miss>) -> T {
    for _ in 0..10_000 {
        let miss = match step(pages) {
            Ok(value) => return value,
            Err(miss) => miss,
        };
        if let Some(job) = pages.fetch_job(&miss) {
            pages.fetch_done(job.run()).expect("sound pages");
        }
    }
    panic!("a step never got its pages");
}

/// The invariants of a file, read through a page space with room for all of it.
pub fn check(pages: &mut Pages, trees: &[Tree]) -> Verified {
    for _ in 0..100_000 {
        match verify(pages, trees) {
            Ok(verified) => return verified,
            Err(Damage::Missing(miss)) => {
                if let Some(job) = pages.fetch_job(&miss) {
                    pages.fetch_done_keeping(job.run()).expect("sound pages");
                }
            }
            Err(Damage::Broken(what)) => panic!("{what}"),
        }
    }
    panic!("verification never got its pages");
}

#[allow(clippy::type_complexity)]
pub fn collect(mut cursor: Cursor<'_>, max: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Miss> {
    let mut out = Vec::new();
    while out.len() < max {
        match cursor.next()? {
            Some((key, value)) => out.push((key.to_vec(), value.to_vec())),
            None => break,
        }
    }
    Ok(out)
}

/// All entries with their values.
pub fn contents(pages: &mut Pages, tree: Tree) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut from: Bound<Vec<u8>> = Bound::Unbounded;
    loop {
        let some = settled(pages, |pages| {
            let from = from.as_ref().map(|k| &k[..]);
            collect(tree.range(pages, from, Bound::Unbounded), 20)
        });
        let Some((last, _)) = some.last() else {
            return all;
        };
        from = Bound::Excluded(last.clone());
        all.extend(some);
    }
}

pub fn key(random: &mut Random, space: u64) -> Vec<u8> {
    let n = random.below(space);
    match n % 97 {
        0 => vec![(n % 251) as u8; 64 + (n % 20_000) as usize],
        1..=5 => {
            let mut long = vec![b'x'; 500 + (n % 40) as usize];
            long.extend_from_slice(&n.to_be_bytes());
            long
        }
        6..=10 => n.to_be_bytes()[8 - (n % 8) as usize..].to_vec(),
        _ => format!("/registry/pods/namespace-{}/pod-{n:06}", n % 7).into_bytes(),
    }
}

pub fn value(random: &mut Random) -> Vec<u8> {
    let len = match random.below(200) {
        0 => random.below(100_000),
        1..=9 => 1000 + random.below(50),
        10..=19 => random.below(5000),
        _ => random.below(120),
    };
    let byte = random.next() as u8;
    (0..len).map(|n| byte.wrapping_add(n as u8)).collect()
}

pub struct World {
    pub random: Random,
    pub file: SimFile,
    pub pages: Pages,
    pub tree: Tree,
    pub model: Model,
    pub job: Option<CheckpointJob>,
    pub relocator: Relocator,
    rule: Relocation,
    options: Options,
    /// Bytes moved before the last restart.
    moved_before: u64,
    /// How many keys there can be.
    pub space: u64,
}

impl World {
    pub fn new(seed: u64, space: u64) -> World {
        let still = Relocation {
            cost_share: 0,
            ..EAGER
        };
        World::relocating(seed, space, still)
    }

    pub fn relocating(seed: u64, space: u64, rule: Relocation) -> World {
        World::with(seed, space, rule, options())
    }

    pub fn with(seed: u64, space: u64, rule: Relocation, options: Options) -> World {
        let file = SimFile::new();
        let opened = Pages::open(Arc::new(file.clone()), options.clone()).expect("a new file");
        World {
            random: Random(seed),
            file,
            pages: opened.pages,
            tree: Tree::new(),
            model: Model::new(),
            job: None,
            relocator: Relocator::new(rule),
            rule,
            options,
            moved_before: 0,
            space,
        }
    }

    /// Bytes that the relocator moved.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_before + self.relocator.moved_bytes()
    }

    /// A slice of the relocator's work.
    pub fn relocate(&mut self, leaves_max: usize) {
        let mut trees = [self.tree];
        let moved = self.relocator.step(&mut self.pages, &mut trees, leaves_max);
        self.tree = trees[0];
        let Err(miss) = moved else { return };
        if let Some(job) = self.pages.fetch_job(&miss) {
            self.pages.fetch_done(job.run()).expect("sound pages");
        }
    }

    /// Freezes the present state.
    pub fn begin_checkpoint(&mut self, content: &[u8]) -> Option<CheckpointJob> {
        let job = self.pages.begin_checkpoint(&[self.tree], content)?;
        self.relocator.checkpoint_begun(&mut self.pages);
        Some(job)
    }

    pub fn insert(&mut self) {
        let key = key(&mut self.random, self.space);
        let value = value(&mut self.random);
        let weight = [0, 1, 1, 1, 70_000][self.random.below(5) as usize];
        let done = self.tree.insert(&mut self.pages, &key, &value, weight);
        assert_eq!(done, Ok(()), "{:?}", self.pages.load_error());
        self.model.insert(key, (value, weight));
    }

    pub fn remove(&mut self) {
        let wanted = key(&mut self.random, self.space);
        let key = match self.random.below(3) {
            0 => wanted,
            _ => match self.model.range(wanted..).next() {
                Some((key, _)) => key.clone(),
                None => return,
            },
        };
        let removed = self.tree.remove(&mut self.pages, &key);
        let expected = self.model.remove(&key).is_some();
        assert_eq!(removed, Ok(expected), "{:?}", self.pages.load_error());
    }

    pub fn get(&mut self) {
        let key = key(&mut self.random, self.space);
        let tree = self.tree;
        let found = settled(&mut self.pages, |pages| {
            Ok(tree.get(pages, &key)?.map(<[u8]>::to_vec))
        });
        assert_eq!(found.as_ref(), self.model.get(&key).map(|(value, _)| value));
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        let key = key(&mut self.random, self.space);
        match self.random.below(5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(key),
            _ => Bound::Excluded(key),
        }
    }

    pub fn range(&mut self) {
        let (from, to) = (self.bound(), self.bound());
        let max = 1 + self.random.below(60) as usize;
        let tree = self.tree;
        let inside = |k: &Vec<u8>| {
            (match &from {
                Bound::Included(f) => k >= f,
                Bound::Excluded(f) => k > f,
                Bound::Unbounded => true,
            }) && (match &to {
                Bound::Included(t) => k <= t,
                Bound::Excluded(t) => k < t,
                Bound::Unbounded => true,
            })
        };
        let f = from.as_ref().map(|k| &k[..]);
        let t = to.as_ref().map(|k| &k[..]);
        let expected: Vec<_> = self.model.iter().filter(|(k, _)| inside(k)).collect();
        let weight: u64 = expected.iter().map(|(_, (_, w))| u64::from(*w)).sum();
        let up = settled(&mut self.pages, |p| collect(tree.range(p, f, t), max));
        let down = settled(&mut self.pages, |p| collect(tree.range_rev(p, f, t), max));
        let count = settled(&mut self.pages, |p| tree.count(p, f, t));
        assert_eq!(count, weight);
        let pairs = |e: &(&Vec<u8>, &(Vec<u8>, u32))| (e.0.clone(), e.1 .0.clone());
        assert!(up == expected.iter().take(max).map(pairs).collect::<Vec<_>>());
        assert!(
            down == expected
                .iter()
                .rev()
                .take(max)
                .map(pairs)
                .collect::<Vec<_>>()
        );
    }

    /// One step of the running checkpoint, or the begin of the next.
    pub fn checkpoint(&mut self) {
        let Some(mut job) = self.job.take() else {
            let content = self.model.len().to_be_bytes();
            self.job = self.begin_checkpoint(&content);
            return;
        };
        match job.step().expect("a sound disk") {
            Progress::Wrote(_) => self.job = Some(job),
            Progress::Finished(done) => self.pages.checkpoint_done(done),
        }
    }

    pub fn finish_checkpoint(&mut self) {
        while self.job.is_some() {
            self.checkpoint();
        }
    }

    pub fn whole_checkpoint(&mut self) {
        self.finish_checkpoint();
        self.checkpoint();
        self.finish_checkpoint();
    }

    pub fn restart(&mut self) {
        self.whole_checkpoint();
        let image = SimFile::from_bytes(self.file.durable());
        let options = self.options.clone();
        let opened = Pages::open(Arc::new(image.clone()), options).expect("a sound file");
        let meta = opened.meta.expect("a checkpoint");
        assert_eq!(meta.content[..], self.model.len().to_be_bytes());
        assert_eq!(opened.report.fell_back, None);
        (self.file, self.pages, self.tree) = (image, opened.pages, meta.roots[0]);
        self.moved_before = self.moved_bytes();
        self.relocator = Relocator::new(self.rule);
    }

    pub fn step(&mut self) {
        match self.random.below(1000) {
            0 => self.restart(),
            1..=60 => self.checkpoint(),
            _ if self.relocator.wants_step() && self.random.below(8) == 0 => self.relocate(4),
            61..=65 => self.range(),
            66..=200 => self.get(),
            201..=500 => self.remove(),
            _ => self.insert(),
        }
    }

    pub fn check(&mut self) -> Verified {
        let verified = check(&mut self.pages, &[self.tree]);
        assert_eq!(verified.entries, self.model.len() as u64);
        assert_eq!(self.file.len().expect("a length") % 4096, 0);
        verified
    }
}
