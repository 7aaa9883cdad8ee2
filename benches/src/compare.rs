//! The same loads against two servers on one machine, in alternation, as ratios.

use crate::{
    device,
    load::{Kind, Load},
    process::{self, Sample},
    run::{self, Outcome},
};
use std::{
    error::Error,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
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
    /// Further flags for ringd.
    #[arg(long = "ringd-flag", allow_hyphen_values = true)]
    ringd_flags: Vec<String>,
}

/// One measured figure of one server in one round.
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
}

struct Server {
    child: Child,
    client: SocketAddr,
    dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    let mut programs = vec![("ringd", arguments.ringd.clone())];
    programs.extend(arguments.etcd.clone().map(|path| ("etcd", path)));
    let mut table: Vec<(&'static str, &'static str, Vec<Vec<f64>>)> = Vec::new();
    for round in 0..arguments.rounds {
        let floor = device::durable_writes(&arguments.dir, 3000)?;
        eprintln!(
            "round {}: bare durable write p50 {:.0} us",
            round + 1,
            floor.value_at_quantile(0.5) as f64 / 1e3
        );
        for (place, (name, program)) in programs.iter().enumerate() {
            let mut figures = vec![Figure {
                name: "bare durable write p50",
                unit: "us",
                value: floor.value_at_quantile(0.5) as f64 / 1e3,
            }];
            measure(arguments, name, program, &mut figures)?;
            for figure in figures {
                let at = match table.iter().position(|row| row.0 == figure.name) {
                    Some(at) => at,
                    None => {
                        table.push((figure.name, figure.unit, vec![Vec::new(); programs.len()]));
                        table.len() - 1
                    }
                };
                table[at].2[place].push(figure.value);
            }
        }
    }
    print(&programs, &mut table);
    Ok(())
}

fn print(programs: &[(&str, PathBuf)], table: &mut [(&'static str, &'static str, Vec<Vec<f64>>)]) {
    let names: Vec<&str> = programs.iter().map(|(name, _)| *name).collect();
    println!("| figure | unit | {} | ratio |", names.join(" | "));
    println!("| --- | --- |{} --- |", " --- |".repeat(names.len()));
    for (name, unit, servers) in table {
        let medians: Vec<f64> = servers.iter_mut().map(|values| median(values)).collect();
        let cells: Vec<String> = medians.iter().map(|value| format!("{value:.2}")).collect();
        let ratio = match medians.as_slice() {
            [ours, theirs] if *theirs != 0.0 => format!("{:.3}", ours / theirs),
            _ => "-".into(),
        };
        println!("| {name} | {unit} | {} | {ratio} |", cells.join(" | "));
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn measure(
    arguments: &Arguments,
    name: &str,
    program: &Path,
    figures: &mut Vec<Figure>,
) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::Builder::new()
        .prefix("ringd-bench-")
        .tempdir_in(&arguments.dir)?;
    let server = start(arguments, name, program, dir.path())?;
    let base = Load {
        kind: Kind::Put,
        clients: 256,
        connections: 8,
        value_bytes: arguments.value_bytes,
        keys: arguments.keys,
        limit: 500,
        seconds: 600.0,
        requests: arguments.keys,
        rate: 0.0,
        sequential: true,
        seed: 1,
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
        let before = process::sample(server.child.id(), &server.dir)?;
        let outcome = run::run(server.client, &load)?;
        let used = process::sample(server.child.id(), &server.dir)?.since(&before);
        eprintln!("{name}: {label}: {}", line(&outcome));
        Ok((outcome, used))
    };
    let micros = |outcome: &Outcome, quantile: f64| {
        outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    };
    let cpu = |outcome: &Outcome, used: &Sample| {
        used.cpu.as_secs_f64() * 1e6 / outcome.done.max(1) as f64
    };
    let mut note = |name, unit, value| figures.push(Figure { name, unit, value });

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
    drop(server);
    drop(dir);
    if arguments.large_keys > 0 {
        measure_large(arguments, name, program, &mut note)?;
    }
    Ok(())
}

/// Memory, counts and restarts with many keys.
fn measure_large(
    arguments: &Arguments,
    name: &str,
    program: &Path,
    note: &mut impl FnMut(&'static str, &'static str, f64),
) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::Builder::new()
        .prefix("ringd-bench-")
        .tempdir_in(&arguments.dir)?;
    let mut server = start(arguments, name, program, dir.path())?;
    eprintln!("{name}: loading {} keys", arguments.large_keys);
    let load = Load {
        kind: Kind::Put,
        clients: 256,
        connections: 8,
        value_bytes: arguments.value_bytes,
        keys: arguments.large_keys,
        limit: 0,
        seconds: 3600.0,
        requests: arguments.large_keys * 2,
        rate: 0.0,
        sequential: false,
        seed: 7,
    };
    run::run(server.client, &load)?;
    // Drawing twice as often as there are keys leaves one in seven out; a walk in order writes those.
    let rest = Load {
        requests: arguments.large_keys,
        sequential: true,
        ..load.clone()
    };
    run::run(server.client, &rest)?;
    let read = Load {
        kind: Kind::Get,
        ..rest.clone()
    };
    run::run(server.client, &read)?;
    let sample = process::sample(server.child.id(), &server.dir)?;
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
        ..load
    };
    let client = server.client;
    let writer = std::thread::spawn(move || {
        // It ends when the server is killed under it.
        let _ = run::run(client, &writes).map_err(|error| error.to_string());
    });
    std::thread::sleep(Duration::from_secs(2));
    server.child.kill()?;
    server.child.wait()?;
    let _ = writer.join();
    let begun = Instant::now();
    let again = start_in(arguments, name, program, dir.path())?;
    note(
        "large: restart after kill",
        "ms",
        begun.elapsed().as_secs_f64() * 1e3,
    );
    drop(again);
    Ok(())
}

fn start(
    arguments: &Arguments,
    name: &str,
    program: &Path,
    dir: &Path,
) -> Result<Server, Box<dyn Error>> {
    start_in(arguments, name, program, dir)
}

/// Starts a server on free ports and waits until it answers a linearizable read.
fn start_in(
    arguments: &Arguments,
    name: &str,
    program: &Path,
    dir: &Path,
) -> Result<Server, Box<dyn Error>> {
    let (client, peer) = (free_port()?, free_port()?);
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let mut command = Command::new(program);
    command
        .args(["--name", "bench", "--data-dir"])
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client_url])
        .args(["--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url])
        .args(["--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("bench={peer_url}")])
        .args([
            "--quota-backend-bytes",
            "8589934592",
            "--log-level",
            "error",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    if name == "ringd" {
        command.args(&arguments.ringd_flags);
    }
    let child = command.spawn()?;
    let server = Server {
        child,
        client: SocketAddr::from(([127, 0, 0, 1], client)),
        dir: dir.to_path_buf(),
    };
    let begun = Instant::now();
    let probe = Load {
        kind: Kind::Get,
        clients: 1,
        connections: 1,
        value_bytes: 1,
        keys: 1,
        limit: 0,
        seconds: 30.0,
        requests: 1,
        rate: 0.0,
        sequential: true,
        seed: 1,
    };
    while begun.elapsed() < Duration::from_secs(60) {
        if TcpStream::connect(server.client).is_ok() {
            if let Ok(outcome) = run::run(server.client, &probe) {
                if outcome.done == 1 && outcome.failed == 0 {
                    return Ok(server);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(format!("{name} did not answer within 60 s").into())
}

fn free_port() -> Result<u16, Box<dyn Error>> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
