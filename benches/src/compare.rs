//! The same loads against two servers on one machine, in alternation, as ratios.

use crate::{
    device,
    load::{Kind, Load},
    process::Sample,
    run::{self, Outcome},
    servers::{Cluster, Program},
};
use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The ringd binary.
    #[arg(long)]
    ringd: PathBuf,
    /// The etcd binary to compare with; without it ringd runs alone.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Data directories go below this one: choose the disk that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How often the two servers take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds per load.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Keys of the large part (count, memory, restart); 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    large_keys: u64,
    /// Only the large part.
    #[arg(long)]
    large_only: bool,
    /// Further flags for ringd.
    #[arg(long = "ringd-flag", allow_hyphen_values = true)]
    ringd_flags: Vec<String>,
}

/// What was measured: rows of figures, each with the values of every round for each program.
pub struct Table {
    programs: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    /// By program.
    values: Vec<Vec<f64>>,
}

impl Table {
    pub fn new(programs: Vec<&'static str>) -> Table {
        Table {
            programs,
            rows: Vec::new(),
        }
    }

    /// Takes in one figure of the program at this place.
    pub fn note(&mut self, place: usize, name: &'static str, unit: &'static str, value: f64) {
        let at = self.rows.iter().position(|row| row.name == name);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                name,
                unit,
                values: vec![Vec::new(); self.programs.len()],
            });
            self.rows.len() - 1
        });
        self.rows[at].values[place].push(value);
    }

    /// Prints the medians, and the ratio of the first program to the second.
    pub fn print(&mut self) {
        println!("| figure | unit | {} | ratio |", self.programs.join(" | "));
        println!(
            "| --- | --- |{} --- |",
            " --- |".repeat(self.programs.len())
        );
        for row in &mut self.rows {
            let medians: Vec<f64> = row.values.iter_mut().map(|values| median(values)).collect();
            let cells: Vec<String> = medians.iter().map(|value| format!("{value:.2}")).collect();
            let ratio = match medians.as_slice() {
                [ours, theirs] if *theirs != 0.0 => format!("{:.3}", ours / theirs),
                _ => "-".into(),
            };
            println!(
                "| {} | {} | {} | {ratio} |",
                row.name,
                row.unit,
                cells.join(" | ")
            );
        }
    }
}

/// One line about a run.
pub fn line(outcome: &Outcome) -> String {
    let at = |quantile: f64| outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
    format!(
        "{} done, {} failed, {:.0}/s; latency us: p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}; generator {:.2} us CPU per call",
        outcome.done,
        outcome.failed,
        outcome.per_second(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0),
        outcome.own_cpu.as_secs_f64() * 1e6 / outcome.done.max(1) as f64,
    )
}

pub fn compare(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut programs = vec![Program {
        name: "ringd",
        path: arguments.ringd.clone(),
        flags: arguments.ringd_flags.clone(),
    }];
    programs.extend(arguments.etcd.clone().map(|path| Program {
        name: "etcd",
        path,
        flags: Vec::new(),
    }));
    let mut table = Table::new(programs.iter().map(|program| program.name).collect());
    for round in 0..arguments.rounds {
        let floor = device::durable_writes(&arguments.dir, 3000)?;
        let floor_us = floor.value_at_quantile(0.5) as f64 / 1e3;
        eprintln!(
            "round {}: bare durable write p50 {floor_us:.0} us",
            round + 1
        );
        for (place, program) in programs.iter().enumerate() {
            let mut note = |name, unit, value| table.note(place, name, unit, value);
            note("bare durable write p50", "us", floor_us);
            if !arguments.large_only {
                Cluster::measure(program, &arguments.dir, 1, |cluster| {
                    measure(arguments, program.name, cluster, &mut note)
                })?;
            }
            if arguments.large_keys > 0 {
                Cluster::measure(program, &arguments.dir, 1, |cluster| {
                    measure_large(arguments, program.name, cluster, &mut note)
                })?;
            }
        }
    }
    table.print();
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn measure(
    arguments: &Arguments,
    name: &str,
    cluster: &mut Cluster,
    note: &mut impl FnMut(&'static str, &'static str, f64),
) -> Result<(), Box<dyn Error>> {
    let server = &cluster.members[0];
    let base = Load {
        kind: Kind::Put,
        clients: 256,
        connections: 8,
        value_bytes: arguments.value_bytes,
        keys: arguments.keys,
        limit: 500,
        seconds: 600.0,
        requests: arguments.keys,
        sequential: true,
        ..Load::default()
    };
    eprintln!("{name}: loading {} keys", arguments.keys);
    run::run(server.client, &base)?;
    let timed = Load {
        requests: 0,
        seconds: arguments.seconds,
        sequential: false,
        ..base.clone()
    };
    let one = |kind| Load {
        kind,
        clients: 1,
        connections: 1,
        ..timed.clone()
    };
    let many = |kind| Load {
        kind,
        ..timed.clone()
    };
    let step = |label: &str, load: Load| -> Result<(Outcome, Sample), Box<dyn Error>> {
        let before = server.sample()?;
        let outcome = run::run(server.client, &load)?;
        let used = server.sample()?.since(&before);
        eprintln!("{name}: {label}: {}", line(&outcome));
        Ok((outcome, used))
    };
    let micros = |outcome: &Outcome, quantile: f64| {
        outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    };
    let cpu = |outcome: &Outcome, used: &Sample| {
        used.cpu.as_secs_f64() * 1e6 / outcome.done.max(1) as f64
    };
    let (outcome, _) = step("get, serializable, 1 client", one(Kind::SerializableGet))?;
    note(
        "get, serializable, 1 client: p50",
        "us",
        micros(&outcome, 0.5),
    );
    let (outcome, used) = step("put, 1 client", one(Kind::Put))?;
    note("put, 1 client: p50", "us", micros(&outcome, 0.5));
    note("put, 1 client: p99", "us", micros(&outcome, 0.99));
    note("put, 1 client: p99.9", "us", micros(&outcome, 0.999));
    let each = |value: u64| value as f64 / outcome.done.max(1) as f64;
    note(
        "put, 1 client: device writes per put",
        "",
        each(used.device_writes),
    );
    note(
        "put, 1 client: device flushes per put",
        "",
        each(used.device_flushes),
    );
    note(
        "put, 1 client: bytes written per put",
        "B",
        each(used.device_bytes),
    );
    for (label, kind, names) in [
        (
            "put, 256 clients",
            Kind::Put,
            [
                "put, 256 clients: throughput",
                "put, 256 clients: server CPU per put",
                "put, 256 clients: p99",
            ],
        ),
        (
            "get, 256 clients",
            Kind::Get,
            [
                "get, 256 clients: throughput",
                "get, 256 clients: server CPU per get",
                "get, 256 clients: p99",
            ],
        ),
        (
            "mixed, 256 clients",
            Kind::Mixed,
            [
                "mixed, 256 clients: throughput",
                "mixed, 256 clients: server CPU per call",
                "mixed, 256 clients: p99",
            ],
        ),
        (
            "txn, 256 clients",
            Kind::Txn,
            [
                "txn, 256 clients: throughput",
                "txn, 256 clients: server CPU per txn",
                "txn, 256 clients: p99",
            ],
        ),
    ] {
        let (outcome, used) = step(label, many(kind))?;
        note(names[0], "1/s", outcome.per_second());
        note(names[1], "us", cpu(&outcome, &used));
        note(names[2], "us", micros(&outcome, 0.99));
    }
    let (outcome, _) = step("page of 500 with count", one(Kind::Range))?;
    note("page of 500 with count: p50", "us", micros(&outcome, 0.5));
    let long = Load {
        limit: 10_000,
        ..one(Kind::Range)
    };
    let (outcome, _) = step("range of 10,000 keys", long)?;
    note("range of 10,000 keys: p50", "us", micros(&outcome, 0.5));
    let (outcome, _) = step("count of all keys", one(Kind::Count))?;
    note("count of all keys: p50", "us", micros(&outcome, 0.5));
    let watch = Load {
        kind: Kind::Watch,
        clients: 100,
        connections: 4,
        ..timed.clone()
    };
    let (outcome, _) = step("watch, 100 watchers", watch)?;
    note("watch, 100 watchers: events", "1/s", outcome.per_second());
    note("watch, 100 watchers: p50", "us", micros(&outcome, 0.5));
    Ok(())
}

/// Memory, counts and restarts with many keys.
fn measure_large(
    arguments: &Arguments,
    name: &str,
    cluster: &mut Cluster,
    note: &mut impl FnMut(&'static str, &'static str, f64),
) -> Result<(), Box<dyn Error>> {
    let server = &mut cluster.members[0];
    eprintln!("{name}: loading {} keys", arguments.large_keys);
    let load = Load {
        kind: Kind::Put,
        clients: 256,
        connections: 8,
        value_bytes: arguments.value_bytes,
        keys: arguments.large_keys,
        limit: 0,
        seconds: 3600.0,
        requests: arguments.large_keys,
        shuffled: true,
        seed: 7,
        ..Load::default()
    };
    run::run(server.client, &load)?;
    let read = Load {
        kind: Kind::Get,
        ..load.clone()
    };
    run::run(server.client, &read)?;
    let sample = server.sample()?;
    note(
        "large: resident memory",
        "MiB",
        sample.rss_bytes as f64 / f64::from(1 << 20),
    );
    note(
        "large: resident memory without file pages",
        "MiB",
        sample.rss_anonymous_bytes as f64 / f64::from(1 << 20),
    );
    let count = Load {
        kind: Kind::Count,
        clients: 1,
        connections: 1,
        requests: 0,
        seconds: arguments.seconds,
        ..load.clone()
    };
    let outcome = run::run(server.client, &count)?;
    note(
        "large: count of all keys: p50",
        "us",
        outcome.latency_ns.value_at_quantile(0.5) as f64 / 1e3,
    );
    let writes = Load {
        requests: 0,
        seconds: 3.0,
        shuffled: false,
        ..load
    };
    let client = server.client;
    let writer = std::thread::spawn(move || {
        // It ends when the server is killed under it.
        let _ = run::run(client, &writes).map_err(|error| error.to_string());
    });
    std::thread::sleep(Duration::from_secs(2));
    server.kill();
    let _ = writer.join();
    let begun = Instant::now();
    server.start()?;
    server.wait_until_serving()?;
    note(
        "large: restart after kill",
        "ms",
        begun.elapsed().as_secs_f64() * 1e3,
    );
    Ok(())
}
