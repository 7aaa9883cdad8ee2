//! Runs the cluster simulator for as long as one likes, or one seed in words.
//!
//! `ringd-sim --seconds 600` runs seeds until the time is over and ends with the first failure; `--seed N` runs one and
//! prints the last events, `--tell N` of them; `--first N` and `--last N` say where to begin and to end, `--minutes N` how much simulated time a
//! seed has. With the feature `planted-bugs`, `--planted` breaks one rule after another and ends with a table of the seeds at
//! which that was noticed, and `--plant NAME` breaks one.

use std::time::{Duration, Instant};

use ringd_tests::sim::{self, coverage::Coverage, swarm::DURATION_NS};

/// How often a long run says how far it is.
const SEEDS_PER_LINE: u64 = 100;

struct Arguments {
    seconds: u64,
    first: u64,
    last: u64,
    seed: Option<u64>,
    tell: Option<u64>,
    duration_ns: u64,
    #[cfg(feature = "planted-bugs")]
    planted: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments {
        seconds: 60,
        first: 1,
        last: u64::MAX,
        seed: None,
        tell: None,
        duration_ns: DURATION_NS,
        #[cfg(feature = "planted-bugs")]
        planted: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        #[cfg(feature = "planted-bugs")]
        if word == "--planted" {
            found.planted = true;
            continue;
        }
        #[cfg(feature = "planted-bugs")]
        if word == "--plant" {
            let name = words.next().unwrap_or_default();
            if !sim::planted::plant_named(&name) {
                return Err(format!("{name}: no such bug"));
            }
            continue;
        }
        let text = words.next().ok_or(format!("{word} needs a number"))?;
        let number: u64 = text
            .parse()
            .map_err(|_| format!("{word} {text}: not a number"))?;
        match word.as_str() {
            "--seconds" => found.seconds = number,
            "--first" => found.first = number,
            "--last" => found.last = number,
            "--tell" => found.tell = Some(number),
            "--seed" => found.seed = Some(number),
            "--minutes" => found.duration_ns = number * 60_000_000_000,
            _ => {
                return Err(format!(
                    "{word} is not known: --seconds, --first, --last, --seed, --tell, --minutes are"
                ))
            }
        }
    }
    Ok(found)
}

/// Plants each bug, one per core at a time, and tells at which seed it showed.
#[cfg(feature = "planted-bugs")]
fn find_planted(arguments: &Arguments) {
    use sim::planted::{find, ALL, SEEDS_MAX};
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        Mutex,
    };
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let table = Mutex::new(vec![String::new(); ALL.len()]);
    let missed = AtomicUsize::new(0);
    let hunt = || loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(bug) = ALL.get(at) else { return };
        let begun = Instant::now();
        let found = find(*bug, arguments.first, arguments.duration_ns);
        let seconds = begun.elapsed().as_secs();
        let name = format!("{bug:?}");
        let line = match found {
            Some(found) => {
                let why = found.failure.lines().next().unwrap_or_default();
                let why: String = why.chars().take(120).collect();
                let seed = arguments.first + found.seeds - 1;
                format!("{name:<28} {seed:>6} {seconds:>6} s  {why}")
            }
            None => {
                missed.fetch_add(1, Ordering::Relaxed);
                format!("{name:<28}  never {seconds:>6} s  not noticed in {SEEDS_MAX} seeds")
            }
        };
        eprintln!("{line}");
        if let Ok(mut table) = table.lock() {
            table[at] = line;
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        for _ in 0..cores {
            scope.spawn(hunt);
        }
    });
    println!(
        "{:<28} {:>6} {:>8}  what was noticed",
        "planted bug", "seed", "time"
    );
    for line in table.into_inner().unwrap_or_default() {
        println!("{line}");
    }
    let missed = missed.into_inner();
    println!("{} of {} noticed", ALL.len() - missed, ALL.len());
    std::process::exit(i32::from(missed > 0));
}

fn main() {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(2);
        }
    };
    if let Some(seed) = arguments.seed {
        let mut outcome = sim::run(seed, arguments.duration_ns);
        if let Some(events) = arguments.tell {
            outcome = sim::tell(outcome, events);
        }
        println!("{}", outcome.coverage.table());
        println!("{}", outcome.report());
        std::process::exit(i32::from(outcome.failure.is_some()));
    }
    #[cfg(feature = "planted-bugs")]
    if arguments.planted {
        return find_planted(&arguments);
    }
    let begun = Instant::now();
    let mut coverage = Coverage::default();
    let (mut seeds, mut simulated_ns) = (0, 0);
    for seed in arguments.first..=arguments.last {
        if begun.elapsed() >= Duration::from_secs(arguments.seconds) {
            break;
        }
        let outcome = sim::run(seed, arguments.duration_ns);
        coverage.add(&outcome.coverage);
        seeds += 1;
        simulated_ns += outcome.simulated_ns;
        if outcome.failure.is_some() {
            println!("{}", outcome.report());
            std::process::exit(1);
        }
        if seeds % SEEDS_PER_LINE == 0 {
            eprintln!("{seeds} seeds, {} s", begun.elapsed().as_secs());
        }
    }
    println!("{}", coverage.table());
    println!(
        "{seeds} seeds, {} simulated minutes, {:.0} times real time",
        simulated_ns / 60_000_000_000,
        simulated_ns as f64 / 1e9 / begun.elapsed().as_secs_f64()
    );
}
