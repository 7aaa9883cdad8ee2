//! The deterministic cluster simulator: whole members of the shipped server, on simulated disks, clocks and networks, in
//! one thread, from one seed.
//!
//! [`swarm`] draws what a seed has; [`world`] lets time pass; [`node`], [`disk`], [`clock`] and [`network`] are the
//! machines; [`faults`] breaks them; [`clients`] ask; [`checkers`] hold everything against what was promised. A run that
//! fails is repeated from its seed and tells its last events ([`trace`]).
//!
//! Everything between two calls of [`ringd::member::Member`] is simulated, nothing inside of it: what is found here is
//! found in the code that is shipped.

pub mod chance;
pub mod checkers;
mod clients;
mod clock;
pub mod coverage;
mod disk;
mod faults;
mod finish;
#[cfg(feature = "planted-bugs")]
pub mod hunt;
mod links;
mod machine;
mod membership;
mod network;
mod node;
mod operations;
mod peer_calls;
pub mod planted;
mod snapshots;
pub mod swarm;
pub mod trace;
mod words;
mod world;

use std::panic::{catch_unwind, AssertUnwindSafe};

use coverage::Coverage;
use swarm::Swarm;
use trace::Trace;
pub use words::effect as effect_in_words;
use world::World;

/// Events told in words before a failure, unless somebody wants more.
pub const EVENTS_TOLD: u64 = 400;

/// What became of a seed.
pub struct Outcome {
    pub seed: u64,
    /// Of all inputs and effects.
    pub hash: u64,
    pub events: u64,
    pub simulated_ns: u64,
    /// Of the part with faults.
    pub duration_ns: u64,
    pub failure: Option<String>,
    /// The last events before the failure.
    pub lines: Vec<String>,
    pub coverage: Coverage,
    pub plan: String,
}

impl Outcome {
    /// For a reader: what is wrong, the plan of the seed, what happened last, and how to see it again.
    pub fn report(&self) -> String {
        format!(
            "{}\n\nseed {} fails: {}\n{}\nagain: cargo run -p ringd-tests --bin ringd-sim -- --seed {} --minutes {}\n",
            self.lines.join("\n"),
            self.seed,
            self.failure.as_deref().unwrap_or("it does not"),
            self.plan,
            self.seed,
            self.duration_ns / 60_000_000_000
        )
    }
}

/// Runs a seed. If it fails, runs it again for the words.
pub fn run(seed: u64, duration_ns: u64) -> Outcome {
    let outcome = run_once(seed, duration_ns, Trace::default());
    if outcome.failure.is_none() {
        return outcome;
    }
    tell(outcome, EVENTS_TOLD)
}

/// Repeats a run for the words of its last events.
pub fn tell(outcome: Outcome, events: u64) -> Outcome {
    let from = outcome.events.saturating_sub(events);
    let trace = Trace::new(Some(from), events as usize);
    let again = run_once(outcome.seed, outcome.duration_ns, trace);
    match again.hash == outcome.hash {
        true => again,
        false => Outcome {
            failure: Some(format!(
                "{}; and it is not deterministic",
                outcome.failure.unwrap_or_default()
            )),
            ..again
        },
    }
}

/// Runs a seed once.
pub fn run_once(seed: u64, duration_ns: u64, trace: Trace) -> Outcome {
    let plan = Swarm::draw(seed, duration_ns);
    let words = format!("{plan:?}");
    let mut world = World::new(seed, plan, trace);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    let failure = panicked.map(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("a panic: {}", text.unwrap_or("of unknown kind"))
    });
    world.count();
    Outcome {
        seed,
        hash: world.trace.hash(),
        events: world.trace.events(),
        simulated_ns: world.now,
        duration_ns,
        failure: failure.or(world.failure.take()),
        lines: world.trace.take_lines(),
        coverage: world.coverage,
        plan: words,
    }
}
