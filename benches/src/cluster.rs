//! Three members of ringd against three of etcd on one machine, in alternation, as ratios: latency, throughput, reads
//! through a follower, and the time without service after a leader was killed.

use crate::{
    blocking::Client,
    compare::{line, Table},
    device,
    load::{Kind, Load},
    run,
    servers::{Cluster, Program},
};
use hdrhistogram::Histogram;
use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How often the client of a survivor repeats its put after a kill.
const RETRY_EVERY: Duration = Duration::from_millis(10);
/// A kill after which no put is acknowledged for this long counts as this much.
const NO_SERVICE_MAX: Duration = Duration::from_secs(30);
/// After a killed member is back, the members settle for so long before the next kill.
const SETTLE: Duration = Duration::from_millis(700);

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
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// How often the two clusters take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds per load.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Kills of the leader per round.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Further flags for ringd.
    #[arg(long = "ringd-flag", allow_hyphen_values = true)]
    ringd_flags: Vec<String>,
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
    let mut gaps: Vec<Histogram<u64>> = Vec::new();
    for _ in &programs {
        gaps.push(Histogram::new_with_bounds(
            1,
            NO_SERVICE_MAX.as_micros() as u64,
            3,
        )?);
    }
    for round in 0..arguments.rounds {
        let floor = device::durable_writes(&arguments.dir, 3000)?;
        let floor_us = floor.value_at_quantile(0.5) as f64 / 1e3;
        eprintln!(
            "round {}: bare durable write p50 {floor_us:.0} us",
            round + 1
        );
        for (place, program) in programs.iter().enumerate() {
            table.note(place, "bare durable write p50", "us", floor_us);
            Cluster::measure(program, &arguments.dir, arguments.members, |cluster| {
                measure(
                    arguments,
                    program.name,
                    cluster,
                    &mut gaps[place],
                    &mut |name, unit, value| table.note(place, name, unit, value),
                )
            })?;
        }
    }
    for (place, gaps) in gaps.iter().enumerate() {
        let ms = |quantile| gaps.value_at_quantile(quantile) as f64 / 1e3;
        table.note(
            place,
            "without service after a kill: kills",
            "",
            gaps.len() as f64,
        );
        table.note(place, "without service after a kill: p50", "ms", ms(0.5));
        table.note(place, "without service after a kill: p99", "ms", ms(0.99));
    }
    table.print();
    Ok(())
}

fn measure(
    arguments: &Arguments,
    name: &str,
    cluster: &mut Cluster,
    gaps: &mut Histogram<u64>,
    note: &mut impl FnMut(&'static str, &'static str, f64),
) -> Result<(), Box<dyn Error>> {
    let leader = cluster.leader()?;
    let follower = (leader + 1) % cluster.members.len();
    let (leader, follower) = (
        cluster.members[leader].client,
        cluster.members[follower].client,
    );
    let many = |kind| Load {
        kind,
        clients: 256,
        connections: 8,
        value_bytes: arguments.value_bytes,
        keys: arguments.keys,
        seconds: arguments.seconds,
        ..Load::default()
    };
    let one = |kind| Load {
        clients: 1,
        connections: 1,
        ..many(kind)
    };
    let first = Load {
        requests: arguments.keys,
        seconds: 600.0,
        sequential: true,
        ..many(Kind::Put)
    };
    run::run(leader, &first)?;
    let us = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    let step = |label: &str, endpoint, load: Load| {
        let before = cluster.sample()?;
        let outcome = run::run(endpoint, &load)?;
        let used = cluster.sample()?.since(&before);
        eprintln!("{name}: {label}: {}", line(&outcome));
        let cpu_us = used.cpu.as_secs_f64() * 1e6 / outcome.done.max(1) as f64;
        Ok::<_, Box<dyn Error>>((outcome, cpu_us))
    };
    let (outcome, _) = step("put at the leader", leader, one(Kind::Put))?;
    note(
        "put, 1 client, leader: p50",
        "us",
        us(&outcome.latency_ns, 0.5),
    );
    note(
        "put, 1 client, leader: p99",
        "us",
        us(&outcome.latency_ns, 0.99),
    );
    let (outcome, _) = step("put at a follower", follower, one(Kind::Put))?;
    note(
        "put, 1 client, follower: p50",
        "us",
        us(&outcome.latency_ns, 0.5),
    );
    note(
        "put, 1 client, follower: p99",
        "us",
        us(&outcome.latency_ns, 0.99),
    );
    let (outcome, _) = step("get at a follower", follower, one(Kind::Get))?;
    note(
        "get, 1 client, follower: p50",
        "us",
        us(&outcome.latency_ns, 0.5),
    );
    note(
        "get, 1 client, follower: p99",
        "us",
        us(&outcome.latency_ns, 0.99),
    );
    let (outcome, cpu_us) = step("256 puts at the leader", leader, many(Kind::Put))?;
    note(
        "put, 256 clients, leader: throughput",
        "1/s",
        outcome.per_second(),
    );
    note(
        "put, 256 clients, leader: p99",
        "us",
        us(&outcome.latency_ns, 0.99),
    );
    note("put, 256 clients: CPU of all members per put", "us", cpu_us);
    let (outcome, cpu_us) = step("256 gets at a follower", follower, many(Kind::Get))?;
    note(
        "get, 256 clients, follower: throughput",
        "1/s",
        outcome.per_second(),
    );
    note("get, 256 clients: CPU of all members per get", "us", cpu_us);
    for kill in 0..arguments.kills {
        let gap = kill_the_leader(cluster)?;
        eprintln!("{name}: kill {}: {gap:.0?} without service", kill + 1);
        gaps.saturating_record(gap.as_micros() as u64);
    }
    Ok(())
}

/// From the kill to the first acknowledged put of a client that keeps trying at a survivor.
fn kill_the_leader(cluster: &mut Cluster) -> Result<Duration, Box<dyn Error>> {
    let leader = cluster.leader()?;
    let survivor = (leader + 1) % cluster.members.len();
    let mut client = Client::connect(cluster.members[survivor].client)?;
    client.put_until_acknowledged(RETRY_EVERY, NO_SERVICE_MAX)?;
    let mut client = Client::connect(cluster.members[survivor].client)?;
    let begun = Instant::now();
    cluster.members[leader].kill();
    let served = client.put_until_acknowledged(RETRY_EVERY, NO_SERVICE_MAX)?;
    let gap = match served {
        true => begun.elapsed(),
        false => NO_SERVICE_MAX,
    };
    cluster.members[leader].start()?;
    cluster.members[leader].wait_until_serving()?;
    std::thread::sleep(SETTLE);
    Ok(gap)
}
