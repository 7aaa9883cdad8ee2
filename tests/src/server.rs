//! A real server process: started on free ports in a directory of its own, stopped in every way a process can end.
//!
//! What is started is the `ringd` of this build, or the command in `RINGD_TEST_SERVER` (to run the same tests against
//! another etcd).

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::transport::{Connection, Extras};

/// How long anything may take that a healthy server does at once; generous, for loaded machines.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(20);

/// Ports below the range from which systems take those of outgoing connections, so that a stopped server finds its own
/// ports free again.
const PORTS: std::ops::Range<u32> = 10_000..32_000;
const LOG_TAIL_BYTES: usize = 2000;
const START_ATTEMPTS: usize = 5;

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct Setup {
    flags: Vec<String>,
    env: Vec<(String, String)>,
    /// Run by `sh -c` in front of the server, which is `"$@"` there.
    shell: Option<String>,
    dir: Option<PathBuf>,
    cluster_token: String,
    /// Another program than the one under test.
    program: Option<PathBuf>,
    /// All arguments, in place of those of a member that stands alone.
    arguments: Option<Vec<String>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            flags: Vec::new(),
            env: Vec::new(),
            shell: None,
            dir: None,
            cluster_token: "answers".to_owned(),
            program: None,
            arguments: None,
        }
    }
}

impl Setup {
    pub fn flags<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// For example `ulimit -l 16 && exec "$@"`.
    pub fn shell(mut self, script: &str) -> Self {
        self.shell = Some(script.to_owned());
        self
    }

    /// A directory that outlives the server; its data directory is `m0.etcd` in there.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    pub fn cluster_token(mut self, token: &str) -> Self {
        self.cluster_token = token.to_owned();
        self
    }

    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// In place of the name, directory, URLs and cluster of a member that stands alone.
    pub fn arguments(mut self, arguments: Vec<String>) -> Self {
        self.arguments = Some(arguments);
        self
    }
}

/// A server and its place on disk. Dropped, it is killed; if the test failed, the end of its log is printed.
pub struct Server {
    setup: Setup,
    child: Option<Child>,
    dir: PathBuf,
    client_port: u16,
    peer_port: u16,
    /// Removed with the server, unless the test named a directory.
    _temporary: Option<TempDir>,
}

impl Server {
    /// Starts a server and waits until it serves.
    pub async fn start(setup: Setup) -> Self {
        for _ in 1..START_ATTEMPTS {
            let mut server = Self::spawn(setup.clone());
            match server.ready().await {
                Ok(()) => return server,
                // Another process took the port between the choice and the start.
                Err(_) if server.log().contains("address already in use") => server.kill(),
                Err(why) => panic!("the server did not start: {why}"),
            }
        }
        panic!("no free port in {START_ATTEMPTS} attempts");
    }

    pub async fn fresh() -> Self {
        Self::start(Setup::default()).await
    }

    /// Starts a server without waiting for anything.
    pub fn spawn(setup: Setup) -> Self {
        let (temporary, dir) = match &setup.dir {
            Some(dir) => (None, dir.clone()),
            None => {
                let temporary = temporary_dir();
                let dir = temporary.path().to_owned();
                (Some(temporary), dir)
            }
        };
        let mut server = Self {
            setup,
            child: None,
            dir,
            client_port: free_port(),
            peer_port: free_port(),
            _temporary: temporary,
        };
        server.respawn();
        server
    }

    /// A server that is not started yet, in the directory that `setup` names, on ports that its arguments tell it.
    pub fn prepared(setup: Setup, client_port: u16, peer_port: u16) -> Self {
        Self {
            dir: setup.dir.clone().expect("a directory"),
            setup,
            child: None,
            client_port,
            peer_port,
            _temporary: None,
        }
    }

    /// Starts the stopped server again, without waiting.
    pub fn respawn(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        self.child = Some(self.command().spawn().expect("the server can be executed"));
    }

    /// Starts the stopped server again and waits until it serves.
    pub async fn restart(&mut self) {
        self.respawn();
        if let Err(why) = self.ready().await {
            panic!("the server did not start again: {why}");
        }
    }

    fn command(&self) -> Command {
        let (program, first) = match &self.setup.program {
            Some(program) => (program.clone(), Vec::new()),
            None => server_command(),
        };
        let mut command = match &self.setup.shell {
            None => Command::new(&program),
            Some(script) => {
                let mut command = Command::new("sh");
                command.args(["-c", script, "sh"]).arg(&program);
                command
            }
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log file can be written");
        command.args(first);
        match &self.setup.arguments {
            Some(arguments) => command.args(arguments),
            None => command.args(self.arguments_alone()),
        };
        command
            .args(&self.setup.flags)
            .envs(self.setup.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file handle"))
            .stderr(log);
        command
    }

    /// What a member is told that is a cluster by itself.
    fn arguments_alone(&self) -> Vec<String> {
        let (client, peer) = (self.client_url(), self.peer_url());
        let dir = self.data_dir().to_string_lossy().into_owned();
        let pairs = [
            ("--name", "m0".to_owned()),
            ("--data-dir", dir),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("m0={peer}")),
            ("--initial-cluster-token", self.setup.cluster_token.clone()),
        ];
        let pairs = pairs.into_iter();
        pairs
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }

    /// Waits until a linearizable read is answered; an error tells why that will not happen.
    pub async fn ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let body: Bytes = pb::RangeRequest {
            key: "ready?".into(),
            count_only: true,
            ..Default::default()
        }
        .encode_to_vec()
        .into();
        let extras = Extras {
            deadline: Some(Duration::from_secs(2)),
            ..Default::default()
        };
        let mut last = String::new();
        while Instant::now() < end {
            if let Some(status) = self.exited() {
                return Err(format!("it exited with {status}\n{}", self.log_tail()));
            }
            match Connection::open(&self.client_url()).await {
                Ok(connection) => {
                    let path = "/etcdserverpb.KV/Range";
                    match connection.unary(path, body.clone(), &extras).await {
                        Ok(_) => return Ok(()),
                        Err(refusal) => last = format!("{refusal:?}"),
                    }
                }
                Err(e) => last = e.to_string(),
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("not ready in time: {last}\n{}", self.log_tail()))
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(&self.client_url())
            .await
            .unwrap_or_else(|e| panic!("cannot connect: {e}\n{}", self.log_tail()))
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    pub fn client_port(&self) -> u16 {
        self.client_port
    }

    pub fn peer_port(&self) -> u16 {
        self.peer_port
    }

    /// Moves the next start to other ports or onto one that is taken.
    pub fn set_client_port(&mut self, port: u16) {
        self.client_port = port;
    }

    pub fn set_peer_port(&mut self, port: u16) {
        self.peer_port = port;
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("m0.etcd")
    }

    pub fn setup_mut(&mut self) -> &mut Setup {
        &mut self.setup
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Whether the process was started and has not been seen to end.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Everything the server has printed, over all its starts.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(LOG_TAIL_BYTES);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        format!("--- end of the server's log\n{}\n---", &log[from..])
    }

    /// Sends a signal by its name (`TERM`, `STOP`, ...).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status()
            .expect("kill can be executed");
        assert!(status.success(), "kill -s {name} failed");
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.exit().await
    }

    /// Waits until the process has ended.
    pub async fn exit(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.exited() {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("the server did not end in time\n{}", self.log_tail());
    }

    /// How the process ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = match &mut self.child {
            Some(child) => child.try_wait().expect("the child can be waited for")?,
            None => return None,
        };
        self.child = None;
        Some(status)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// A clean stop on SIGTERM: the server raises the signal again once everything is closed, or exits with 0.
pub fn ended_well(status: ExitStatus) -> bool {
    const SIGTERM: i32 = 15;
    status.success() || status.signal() == Some(SIGTERM)
}

/// Program and first arguments of the server under test.
fn server_command() -> (PathBuf, Vec<String>) {
    if let Ok(command) = std::env::var("RINGD_TEST_SERVER") {
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next().expect("RINGD_TEST_SERVER names a program");
        return (program.into(), words.collect());
    }
    (ringd_binary().to_owned(), Vec::new())
}

/// Whether the server under test is a ringd: this build's own, or another that is called so.
pub fn is_ringd() -> bool {
    server_command()
        .0
        .file_stem()
        .is_some_and(|name| name == "ringd")
}

/// This build's own server.
pub fn ringd_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("ringd"))
}

/// This build's own command line client.
pub fn ringctl_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("ringctl"))
}

/// Builds a program of this workspace (a moment if it is up to date) and tells where it is.
fn built(program: &str) -> PathBuf {
    let profile_dir = profile_dir();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", program, "--bin", program]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.arg("--target-dir");
    build.arg(profile_dir.parent().expect("a profile is in the target"));
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("cargo can be executed");
    assert!(status.success(), "{program} cannot be built");
    profile_dir.join(program)
}

/// `target/debug` or `target/release` of the running test.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its path");
    let deps = test.parent().expect("the test is in a directory");
    deps.parent().expect("that is in the target").to_owned()
}

/// A directory for what tests keep between runs.
pub fn cache_dir() -> PathBuf {
    let target = profile_dir();
    let dir = target
        .parent()
        .expect("a profile is in the target")
        .join("tmp");
    fs::create_dir_all(&dir).expect("the target directory is writable");
    dir
}

/// In the target directory, which is on a real file system where the system's own may be memory only.
pub fn temporary_dir() -> TempDir {
    TempDir::with_prefix_in("ringd-test-", cache_dir()).expect("a temporary directory")
}

/// A port that nothing listens on now. Two tests of one run never get the same.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let count = PORTS.end - PORTS.start;
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(97) % count));
    for _ in 0..count {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % count;
        let port = u16::try_from(port).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}
