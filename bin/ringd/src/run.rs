//! The life of the process: configuration, checks, start, service, stop.

use crate::logging::Log;
use crate::{
    bootstrap, config,
    config::{Config, Loaded},
    descriptors::Shares,
    error,
    front::Front,
    info, methods,
    peers::{self, Transport},
    process::{self, Signals},
    server::Server,
    services::Limits,
    shell::{Ended, Notice, Shell, WalIo},
    warn,
};
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use net::{connection::Keepalive, driver::Listener};
use std::{
    error::Error,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

/// Registered memory of the executor: small, because the log has its own buffers and sockets need none.
const IO_MEMORY_BYTES: usize = 1 << 20;
const RING_DEPTH: usize = 256;
/// How long a port that is in use is tried again, and how often.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_RETRY: Duration = Duration::from_millis(10);
/// A message may be this much larger than `--max-request-bytes` before gRPC refuses it.
const RECEIVE_OVERHEAD_BYTES: usize = 512 << 10;

/// Requests may hold one part in so many of the memory limit.
const REQUESTS_HELD_SHARE: u64 = 8;

/// Runs the server and returns the exit code, unless a signal ends the process.
pub fn run() -> i32 {
    let loaded = match config::load(std::env::args_os(), std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit.report(),
    };
    let log = match loaded.open_log() {
        Ok(log) => log,
        Err(exit) => return exit.report(),
    };
    loaded.announce(&log);
    match serve(&loaded, &log) {
        Ok(Ended::Signal(signal)) => {
            info!(log, "closed etcd server", "name" => loaded.config.name.as_str());
            process::reraise(signal)
        }
        Ok(Ended::Removed) => {
            error!(log, "server error",
                "error" => "the member has been permanently removed from the cluster");
            warn!(log, "data-dir used by this member must be removed");
            0
        }
        Ok(Ended::Halted(reason)) => {
            log.fatal(
                file!(),
                "the member cannot go on",
                &[("error", reason.as_str().into())],
            );
            1
        }
        Err(error) => {
            let text = error.to_string();
            warn!(log, "failed to start etcd", "error" => text.as_str());
            log.fatal(
                file!(),
                "discovery failed",
                &[("error", text.as_str().into())],
            );
            1
        }
    }
}

fn serve(loaded: &Loaded, log: &Log) -> Result<Ended, Box<dyn Error>> {
    let config = &loaded.config;
    let shares = Shares::of(process::preflight()?);
    process::arm_disk_faults()?;
    let directory = process::open_data_directory(config)?;
    for note in &directory.notes {
        log.record(note);
    }
    info!(log, "configuring peer listeners",
        "listen-peer-urls" => crate::logging::Value::strs(&config.listen_peer_urls));
    let peers = bind(&config.listen_peer_urls)?;
    info!(log, "configuring client listeners",
        "listen-client-urls" => crate::logging::Value::strs(&config.listen_client_urls));
    let clients = bind(&config.listen_client_urls)?;
    log.record(&config.start_record(directory.initialized));
    for warning in config.limit_records() {
        log.record(&warning);
    }
    let started = bootstrap::start(config, log)?;
    // Until here a signal ends the process at once: bootstrap may wait for others for long. No thread has begun yet.
    let signals = Signals::block()?;
    for note in &started.notes {
        warn!(log, "recovered the data directory", "note" => note.as_str());
    }
    engine::map::install_fault_guard()?;
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("core")
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .map_err(|error| format!("the io_uring executor cannot start: {error}"))?;
    let limits = Limits {
        txn_ops_max: config.max_txn_ops as usize,
        request_bytes_max: config.max_request_bytes as usize,
    };
    let election_ns = config.election_ticks() * config.heartbeat_interval_ms * 1_000_000;
    let methods: &'static net::grpc::Methods = Box::leak(Box::new(methods::table()));
    let front = Front::new(methods, Arc::new(front_config(config)), limits, election_ns);
    // Recovery may have taken its time, and the shell's clock begins now.
    let transport = Transport::new(peers::Config {
        unix_ms: bootstrap::unix_ms(),
        inbound_max: shares.peers_served(),
        ..started.peers
    });
    let server = Server::new(front, started.member, transport);
    let wal_io = match config.wal_io {
        config::WalIo::Auto => WalIo::Auto,
        config::WalIo::Thread => WalIo::Thread,
        config::WalIo::Inline => WalIo::Inline,
        config::WalIo::Ring if std::env::var_os(engine::faults::VARIABLE).is_some() => {
            let variable = engine::faults::VARIABLE;
            return Err(format!(
                "{variable} puts no faults into writes of --wal-io=ring: choose another"
            )
            .into());
        }
        config::WalIo::Ring => WalIo::Ring,
    };
    let shell = Shell::new(server, started.files, started.page_dir, wal_io, shares)?;
    if let Some(found) = &shell.measured {
        info!(log, "measured the write-ahead log's directory",
            "direct" => found.direct,
            "inline-p50-us" => found.inline_p50_ns / 1000,
            "inline-p99.9-us" => found.inline_p999_ns / 1000,
            "thread-p50-us" => found.thread_p50_ns / 1000);
    }
    let stopper = shell.stopper();
    let signal_log = log.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                info!(signal_log, "received signal; shutting down", "signal" => signal.as_str());
                stopper.stop(signal);
            }
        })?;
    let raft_log = log.named("raft");
    let ended = executor.run(async {
        let listeners = |bound: Vec<(TcpListener, SocketAddr)>| {
            let bound = bound.into_iter();
            let listeners = bound.map(|(listener, _)| Listener::from_std(listener));
            listeners.collect::<std::io::Result<Vec<_>>>()
        };
        let (peers, clients) = (listeners(peers)?, listeners(clients)?);
        Ok::<_, std::io::Error>(
            shell
                .serve(
                    peers,
                    clients,
                    || announce_ready(config, log),
                    |notice| match notice {
                        Notice::Problem(line) => {
                            warn!(log, "the member reports a problem", "problem" => line)
                        }
                        Notice::Election(line) => info!(raft_log, &line),
                    },
                )
                .await,
        )
    })?;
    Ok(ended)
}

fn announce_ready(config: &Config, log: &Log) {
    info!(log, "ready to serve client requests");
    process::notify_ready(log);
    for url in &config.listen_client_urls {
        info!(log, "serving client traffic insecurely; this is strongly discouraged!",
            "traffic" => "grpc", "address" => url.address());
    }
}

fn front_config(config: &Config) -> net::grpc::Config {
    // Either at 0 switches the server's own pings off.
    let pings = config.grpc_keepalive_interval_ns > 0 && config.grpc_keepalive_timeout_ns > 0;
    let keepalive = Keepalive {
        ping_interval_min_ns: config.grpc_keepalive_min_time_ns,
        interval_ns: match pings {
            true => config.grpc_keepalive_interval_ns,
            false => u64::MAX,
        },
        timeout_ns: config.grpc_keepalive_timeout_ns,
        ..Keepalive::default()
    };
    net::grpc::Config {
        keepalive,
        request_bytes_max: config.max_request_bytes as usize + RECEIVE_OVERHEAD_BYTES,
        concurrent_streams_max: config.max_concurrent_streams,
        budget: Arc::new(request_budget(config)),
        ..Default::default()
    }
}

/// What requests may hold until they are answered: less where memory is short, so that a flood is refused and nobody is
/// killed for it.
fn request_budget(config: &Config) -> net::grpc::Budget {
    let bytes_max = match config.requests_held_bytes {
        0 => (process::memory_limit_bytes() / REQUESTS_HELD_SHARE)
            .min(net::limits::REQUESTS_HELD_BYTES_MAX as u64),
        bytes => bytes,
    };
    let refusal = engine::error::RequestError::TooManyRequests;
    let code = crate::status::Status::from(refusal).code;
    net::grpc::Budget::new(bytes_max as usize, code, refusal.message())
}

/// Binds every address of the URLs; a host name stands for its addresses.
fn bind(urls: &[config::Url]) -> Result<Vec<(TcpListener, SocketAddr)>, Box<dyn Error>> {
    let mut listeners = Vec::new();
    for url in urls {
        let port = url
            .port()
            .ok_or_else(|| format!("URL without a port: {url}"))?;
        let mut bound = 0;
        let mut last = None;
        let addresses: Vec<SocketAddr> = (url.host(), port).to_socket_addrs()?.collect();
        for address in addresses {
            match bind_patiently(address) {
                Ok(listener) => {
                    bound += 1;
                    listeners.push((listener, address));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                    last = Some((address, error))
                }
                Err(error) => return Err(bind_error(address, &error).into()),
            }
        }
        if let (0, Some((address, error))) = (bound, last) {
            return Err(bind_error(address, &error).into());
        }
    }
    Ok(listeners)
}

/// A server that was killed a moment ago may hold its port a little longer: the kernel takes its rings down after it is
/// gone. A port that is really taken shows after that.
fn bind_patiently(address: SocketAddr) -> std::io::Result<TcpListener> {
    let begun = std::time::Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && begun.elapsed() < BIND_PATIENCE =>
            {
                std::thread::sleep(BIND_RETRY)
            }
            result => return result,
        }
    }
}

fn bind_error(address: SocketAddr, error: &std::io::Error) -> String {
    let reason = match error.kind() {
        std::io::ErrorKind::AddrInUse => "address already in use".to_string(),
        std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_string(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    };
    format!("listen tcp {address}: bind: {reason}")
}
