//! Runs the cluster simulator for as long as one likes, or one seed in words.
//!
//! `ringd-sim --seconds 600` runs seeds until the time is over and ends with the first failure; `--seed N` runs one and
//! prints the last events, `--tell N` of them; `--first N` and `--last N` say where to begin and to end, `--minutes N` how much simulated time a
//! seed has. With the feature `planted-bugs`, `--planted` breaks one rule after another and tells how many seeds it took to
//! notice, and `--plant NAME` breaks one.

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

/// Plants each bug in turn and tells after how many seeds it showed.
#[cfg(feature = "planted-bugs")]
fn find_planted(arguments: &Arguments) {
    let mut missed = 0;
    std::panic::set_hook(Box::new(|_| {}));
    for bug in sim::planted::ALL {
        let begun = Instant::now();
        let found = sim::planted::find(bug, arguments.first, arguments.duration_ns);
        let seconds = begun.elapsed().as_secs();
        match found {
            Some(found) => {
                let line = found.failure.lines().next().unwrap_or_default();
                let shown: String = line.chars().take(160).collect();
                println!("{bug:?}: {} seeds, {seconds} s: {shown}", found.seeds);
            }
            None => {
                missed += 1;
                let most = sim::planted::SEEDS_MAX;
                println!("{bug:?}: not found in {most} seeds, {seconds} s");
            }
        }
    }
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
