//! Runs the cluster simulator for as long as one likes, or one seed in words.
//!
//! `ringd-sim --seconds 600` runs seeds until the time is over and ends with the first failure; `--seed N` runs one and
//! prints the last events, `--tell N` of them; `--first N` and `--last N` say where to begin and to end, `--minutes N` how much simulated time a
//! seed has. With the feature `planted-bugs`, `--planted` breaks one rule after another and ends with a table of the seeds at
//! which that was noticed (`--only NAME`: of one), and `--plant NAME` breaks one in whatever else is run.

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
    /// Bugs with this in their name.
    #[cfg(feature = "planted-bugs")]
    only: String,
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
        #[cfg(feature = "planted-bugs")]
        only: String::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        #[cfg(feature = "planted-bugs")]
        if word == "--planted" {
            found.planted = true;
            continue;
        }
        #[cfg(feature = "planted-bugs")]
        if word == "--only" {
            found.only = words.next().unwrap_or_default();
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

/// Plants one bug after another, and tells at which seed each was noticed and by what.
#[cfg(feature = "planted-bugs")]
fn find_planted(arguments: &Arguments) -> ! {
    use sim::hunt::{hunt, Hunt, SEEDS_MAX};
    std::panic::set_hook(Box::new(|_| {}));
    let line = |hunt: &Hunt| {
        let (seed, what) = match &hunt.noticed {
            Some((seed, failure)) => (seed.to_string(), failure.lines().next().unwrap_or("")),
            None => ("never".to_string(), ""),
        };
        let what: String = what.chars().take(120).collect();
        let (name, seconds) = (format!("{:?}", hunt.bug), hunt.spent.as_secs());
        format!("{name:<28} {seed:>6} {seconds:>6} s  {what}")
    };
    let wanted = |bug: &sim::planted::Plant| format!("{bug:?}").contains(&arguments.only);
    let bugs = sim::planted::ALL.iter().copied().filter(wanted);
    let begun = Instant::now();
    let hunts = hunt(bugs, arguments.first, arguments.duration_ns, |hunt| {
        eprintln!("{}", line(hunt))
    });
    println!(
        "{:<28} {:>6} {:>8}  what was noticed",
        "planted bug", "seed", "cpu time"
    );
    for hunt in &hunts {
        println!("{}", line(hunt));
    }
    let noticed = hunts.iter().filter(|hunt| hunt.noticed.is_some()).count();
    println!(
        "{noticed} of {} noticed, within {SEEDS_MAX} seeds each, in {} s",
        hunts.len(),
        begun.elapsed().as_secs()
    );
    std::process::exit(i32::from(noticed < hunts.len()));
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
        find_planted(&arguments);
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
