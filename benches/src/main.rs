//! `ringd-bench load` drives any etcd endpoint; `ringd-bench compare` runs the same loads against two servers in turn.

use clap::{Parser, Subcommand};
use ringd_bench::{cluster, compare, device, load::Load, run};
use std::{error::Error, net::ToSocketAddrs, path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(about = "Load generator for etcd's API")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one load against an endpoint.
    Load {
        #[arg(long, default_value = "127.0.0.1:2379")]
        endpoint: String,
        #[command(flatten)]
        load: Load,
    },
    /// Times bare durable writes of 4 KiB in a directory.
    Device {
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        #[arg(long, default_value_t = 5000)]
        writes: usize,
    },
    /// Starts ringd and etcd in turn, runs the same loads, and prints the ratios.
    Compare(compare::Arguments),
    /// The same with clusters of several members, and with kills of their leaders.
    Cluster(cluster::Arguments),
}

fn main() -> ExitCode {
    match run_command(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Load { endpoint, load } => {
            let address = endpoint
                .to_socket_addrs()?
                .next()
                .ok_or("the endpoint has no address")?;
            let outcome = run::run(address, &load)?;
            println!("{}", compare::line(&outcome));
            Ok(())
        }
        Command::Device { dir, writes } => {
            let latency = device::durable_writes(&dir, writes)?;
            println!(
                "durable 4 KiB write: p50 {:.1} us, p99 {:.1} us",
                latency.value_at_quantile(0.5) as f64 / 1e3,
                latency.value_at_quantile(0.99) as f64 / 1e3
            );
            Ok(())
        }
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Cluster(arguments) => cluster::compare(&arguments),
    }
}
