//! The deterministic simulator on every push: hundreds of simulated cluster hours, stored seeds, and the proof that a seed
//! always gives the same run.
//!
//! Longer runs: `cargo run -p ringd-tests --bin ringd-sim -- --seconds 3600`.

use std::{
    io::Write as _,
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex,
    },
    time::{Duration, Instant},
};

use ringd_tests::sim::{self, coverage::Coverage, swarm::DURATION_NS, trace::Trace};

/// Seeds of ten simulated minutes, or as many as fit in the time.
const SEEDS: u64 = 400;
const TIME_MAX: Duration = Duration::from_secs(600);
/// A seed that takes longer hangs: some member never ends its turn.
const SEED_TIME_MAX: Duration = Duration::from_secs(400);
/// Seeds that are run twice.
const REPEATED_SEEDS: u64 = 20;
const REPEATED_NS: u64 = 60_000_000_000;

/// What every run of this size must have met; a kind that is missing means that the simulator lost it.
const MET: [&str; 37] = [
    "bit rot in the log",
    "bit rot in the pages",
    "checkpoint",
    "checkpoint with moved pages",
    "clock jump",
    "clock rate",
    "crash",
    "crash in an install",
    "crash of all",
    "damage reported",
    "damaged page fetched",
    "disk full",
    "disk stall",
    "leader isolated",
    "leader removed",
    "leader transfer",
    "learner added",
    "learner promoted",
    "log flush that lied",
    "log write error",
    "machine paused",
    "member has its data again",
    "member without its data started",
    "message lost",
    "message repeated",
    "misdirected log write",
    "misdirected page write",
    "one-way partition",
    "page flush that lied",
    "pair cut",
    "pages made anew while running",
    "partition",
    "power loss",
    "process paused",
    "snapshot connection reset",
    "snapshot installed",
    "snapshot resumed",
];

/// Told even when the test passes.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs a seed on a thread of its own, so that one that never ends is named.
fn run(seed: u64, duration_ns: u64) -> sim::Outcome {
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(sim::run(seed, duration_ns));
    });
    match outcome.recv_timeout(SEED_TIME_MAX) {
        Ok(outcome) => outcome,
        Err(_) => panic!(
            "seed {seed} has not ended after {SEED_TIME_MAX:?}: a member never ends its turn"
        ),
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

#[test]
fn simulated_clusters_keep_every_promise() {
    let begun = Instant::now();
    let next = AtomicU64::new(1);
    let total = Mutex::new((Coverage::default(), 0u64, 0u64));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed > SEEDS || begun.elapsed() > TIME_MAX {
                    return;
                }
                let outcome = run(seed, DURATION_NS);
                let mut total = total.lock().unwrap();
                total.0.add(&outcome.coverage);
                total.1 += 1;
                total.2 += outcome.simulated_ns;
                if outcome.failure.is_some() {
                    failed.lock().unwrap().push(outcome.report());
                }
            });
        }
    });
    let (coverage, seeds, simulated_ns) = total.into_inner().unwrap();
    tell(&coverage.table());
    tell(&format!(
        "{seeds} seeds, {} simulated minutes in {} s",
        simulated_ns / 60_000_000_000,
        begun.elapsed().as_secs()
    ));
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds fail; the first: {}",
        failed.len(),
        failed[0]
    );
    assert!(seeds > 0);
    let missing: Vec<_> = MET
        .iter()
        .filter(|kind| coverage.count(kind) == 0)
        .collect();
    assert!(
        missing.is_empty() || seeds < SEEDS,
        "never met in {seeds} seeds: {missing:?}"
    );
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 1..=REPEATED_SEEDS {
        let once = sim::run_once(seed, REPEATED_NS, Trace::default());
        let twice = sim::run_once(seed, REPEATED_NS, Trace::default());
        assert_eq!(
            (once.hash, once.events),
            (twice.hash, twice.events),
            "seed {seed}"
        );
    }
}

/// Seeds that once failed: a line `seed <number> minutes <number>` each, with words about what it found above.
#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut replayed = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| line.starts_with("seed ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["seed", seed, "minutes", minutes] = words[..] else {
                panic!("{}: {line:?} is no seed", path.display());
            };
            let minutes: u64 = minutes.parse().unwrap();
            let outcome = run(seed.parse().unwrap(), minutes * 60_000_000_000);
            assert!(
                outcome.failure.is_none(),
                "{}: {}",
                path.display(),
                outcome.report()
            );
            replayed += 1;
        }
    }
    assert!(replayed > 0, "there are no stored seeds");
}
