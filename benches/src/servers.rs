//! Starts and kills the servers that are measured: one member, or a cluster of several on this machine.

use crate::{
    blocking::Client,
    load::{Kind, Load},
    process::{self, Sample},
};
use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a server may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);
/// So many lines of what a member printed are shown when a measurement failed.
const REPORTED_LINES: usize = 60;

/// A server program with the flags that it is to be given beside the usual ones.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub flags: Vec<String>,
}

/// One member; killed when dropped.
pub struct Member {
    pub client: SocketAddr,
    child: Option<Child>,
    arguments: Vec<String>,
    program: Program,
    dir: PathBuf,
    log: PathBuf,
}

/// The members of one cluster.
pub struct Cluster {
    pub members: Vec<Member>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, again if it was killed.
    pub fn start(&mut self) -> Result<(), Box<dyn Error>> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let child = Command::new(&self.program.path)
            .args(&self.arguments)
            .args(&self.program.flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it still runs, and the end of what it printed.
    fn report(&mut self) -> String {
        let state = match self.child.as_mut().map(Child::try_wait) {
            None => "killed by the benchmark".to_string(),
            Some(Ok(None)) => "running".to_string(),
            Some(Ok(Some(status))) => format!("ended by itself: {status}"),
            Some(Err(error)) => format!("unknown: {error}"),
        };
        let printed = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = printed.lines().collect();
        let last = &lines[lines.len().saturating_sub(REPORTED_LINES)..];
        format!(
            "{} at {}: {state}\n{}",
            self.program.name,
            self.client,
            last.join("\n")
        )
    }

    pub fn sample(&self) -> Result<Sample, Box<dyn Error>> {
        let child = self.child.as_ref().ok_or("the server does not run")?;
        Ok(process::sample(child.id(), &self.dir)?)
    }

    /// Waits until it answers a linearizable read.
    pub fn wait_until_serving(&self) -> Result<(), Box<dyn Error>> {
        let probe = Load {
            kind: Kind::Get,
            value_bytes: 1,
            keys: 1,
            ..Load::default()
        };
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            let answer = Client::connect(self.client)
                .and_then(|mut client| client.call(&probe.templates()[0], 0, START_MAX));
            if matches!(answer, Ok(Some(_))) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(format!("{} did not answer within {START_MAX:?}", self.program.name).into())
    }
}

impl Cluster {
    /// Starts a cluster of `count` members on free ports, its data below `dir`, and waits until all of them serve.
    fn start(program: &Program, dir: &Path, count: usize) -> Result<Cluster, Box<dyn Error>> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let ports = free_ports(count * 2)?;
        let (clients, peers) = ports.split_at(count);
        let list: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(number, port)| format!("bench{number}={}", url(*port)))
            .collect();
        let mut cluster = Cluster {
            members: Vec::new(),
        };
        for (number, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let data = dir.join(format!("data{number}"));
            let (client_url, peer_url) = (url(*client), url(*peer));
            let arguments = [
                ("--name", format!("bench{number}").as_str()),
                ("--data-dir", &data.display().to_string()),
                ("--listen-client-urls", &client_url),
                ("--advertise-client-urls", &client_url),
                ("--listen-peer-urls", &peer_url),
                ("--initial-advertise-peer-urls", &peer_url),
                ("--initial-cluster", &list.join(",")),
                ("--quota-backend-bytes", "8589934592"),
                ("--log-level", "fatal"),
            ]
            .iter()
            .flat_map(|(flag, value)| [flag.to_string(), value.to_string()])
            .collect();
            let mut member = Member {
                client: SocketAddr::from(([127, 0, 0, 1], *client)),
                child: None,
                arguments,
                program: program.clone(),
                dir: dir.to_path_buf(),
                log: dir.join(format!("log{number}")),
            };
            member.start()?;
            cluster.members.push(member);
        }
        for member in &cluster.members {
            member.wait_until_serving()?;
        }
        Ok(cluster)
    }

    /// The place of the member that all running ones take for their leader.
    pub fn leader(&self) -> Result<usize, Box<dyn Error>> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            let mut ids = Vec::new();
            let mut leaders = Vec::new();
            for member in self.members.iter().filter(|member| member.is_running()) {
                if let Ok((id, leader)) = Client::connect(member.client)
                    .and_then(|mut client| client.id_and_leader(Duration::from_secs(1)))
                {
                    ids.push(id);
                    leaders.push(leader);
                }
            }
            leaders.dedup();
            if let [leader] = leaders[..] {
                let running = self.members.iter().enumerate();
                let mut places = running.filter(|(_, m)| m.is_running()).map(|(at, _)| at);
                if let Some(at) = ids.iter().position(|id| *id == leader && leader != 0) {
                    return places.nth(at).ok_or_else(|| "no member runs".into());
                }
            }
            std::thread::sleep(POLL);
        }
        Err("the members do not agree on a leader".into())
    }

    /// Starts a cluster below a directory of its own in `dir` and measures it. When that fails: says whether the members still
    /// run, and shows the end of what each of them printed.
    pub fn measure(
        program: &Program,
        dir: &Path,
        count: usize,
        measure: impl FnOnce(&mut Cluster) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let dir = tempfile::Builder::new()
            .prefix("ringd-bench-")
            .tempdir_in(dir)?;
        let mut cluster = Cluster::start(program, dir.path(), count)?;
        let measured = measure(&mut cluster);
        if measured.is_err() {
            for member in &mut cluster.members {
                eprintln!("{}", member.report());
            }
        }
        measured
    }

    /// What all running members used together.
    pub fn sample(&self) -> Result<Sample, Box<dyn Error>> {
        let mut sum = Sample::default();
        for member in self.members.iter().filter(|member| member.is_running()) {
            let sample = member.sample()?;
            sum = Sample {
                cpu: sum.cpu + sample.cpu,
                rss_bytes: sum.rss_bytes + sample.rss_bytes,
                rss_anonymous_bytes: sum.rss_anonymous_bytes + sample.rss_anonymous_bytes,
                write_bytes: sum.write_bytes + sample.write_bytes,
                ..sample // the device's counters are not the process's
            };
        }
        Ok(sum)
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, Box<dyn Error>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|listener| listener.local_addr());
    Ok(ports
        .map(|address| address.map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}
