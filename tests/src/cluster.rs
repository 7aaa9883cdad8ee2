//! Several members that know one another, each in a process of its own that can be killed, stopped, started again, cut off,
//! added and removed.
//!
//! A member is addressed by its index. Members run the server under test (see [`crate::server`]) or any other program, so
//! that clusters can be mixed. With [`Plan::network`] each advertises a proxy of [`crate::proxy`] as its peer URL.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::model::Refusal;
use crate::proxy::Network;
use crate::server::{free_port, temporary_dir, Server, Setup, PATIENCE, POLL};

const START_ATTEMPTS: usize = 5;
/// For a look at a member that may not answer.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);
/// The answer of a strict member that has not been connected with the others for long enough.
pub const UNHEALTHY: &str = "etcdserver: unhealthy cluster";

/// How a cluster is to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    size: usize,
    programs: Vec<PathBuf>,
    /// Setting and value, as a flag or a line of the file.
    settings: Vec<(String, String)>,
    by_file: bool,
    network: bool,
}

impl Plan {
    pub fn of(size: usize) -> Self {
        Self {
            size,
            programs: Vec::new(),
            settings: Vec::new(),
            by_file: false,
            network: false,
        }
    }

    /// Programs of the first members, in place of the one under test.
    pub fn programs(mut self, programs: &[&Path]) -> Self {
        self.programs = programs.iter().map(|p| (*p).to_owned()).collect();
        self
    }

    /// A setting by its flag's name without dashes.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Members are told everything by a YAML file, not by flags.
    pub fn by_file(mut self) -> Self {
        self.by_file = true;
        self
    }

    /// Members reach each other through proxies.
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }
}

/// One member and its process.
pub struct Member {
    pub server: Server,
    name: String,
    peer_url: String,
    data_dir: PathBuf,
    client: Client,
    id: OnceLock<u64>,
    removed: bool,
}

impl Member {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL by which the others know it.
    pub fn peer_url(&self) -> &str {
        &self.peer_url
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its id; known once it has served.
    pub fn id(&self) -> u64 {
        *self.id.get().expect("a member that has served")
    }

    async fn learn_id(&self) {
        if self.id.get().is_none() {
            let status = self.client.status().await.expect("a status");
            let header = status.header.expect("a header");
            let _ = self.id.set(header.member_id);
        }
    }

    /// `GET` of a path on its own peer port: the whole answer, head and body.
    pub async fn peer_get(&self, path: &str) -> std::io::Result<String> {
        self.peer_request("GET", path).await
    }

    /// `POST` of nothing to a path on its own peer port.
    pub async fn peer_post(&self, path: &str) -> std::io::Result<String> {
        self.peer_request("POST", path).await
    }

    async fn peer_request(&self, method: &str, path: &str) -> std::io::Result<String> {
        let address = self.server.peer_url().replace("http://", "");
        let mut socket = TcpStream::connect(&address).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Dropped, its members are killed and their directories removed.
pub struct Cluster {
    members: Vec<Member>,
    network: Network,
    plan: Plan,
    dir: TempDir,
}

impl Cluster {
    /// Starts all members with the same list and waits until each serves.
    pub async fn start(plan: Plan) -> Self {
        for _ in 0..START_ATTEMPTS {
            let mut cluster = Self::prepared(plan.clone()).await;
            for member in 0..plan.size {
                cluster.boot(member);
            }
            match cluster.all_ready().await {
                Ok(()) => return cluster,
                // Another process took a port between the choice and the start.
                Err(_) if cluster.lost_a_port() => {}
                Err(why) => panic!("the cluster did not start: {why}"),
            }
        }
        panic!("no free ports in {START_ATTEMPTS} attempts");
    }

    /// Members that know the whole list and are not started yet.
    pub async fn prepared(plan: Plan) -> Self {
        let mut cluster = Self {
            members: Vec::new(),
            network: Network::default(),
            dir: temporary_dir(),
            plan,
        };
        for _ in 0..cluster.plan.size {
            cluster.prepare().await;
        }
        for member in 0..cluster.plan.size {
            cluster.tell(member, &(0..cluster.plan.size).collect::<Vec<_>>(), "new");
        }
        cluster
    }

    /// One more member, which is told nothing yet; gives its index.
    pub async fn prepare(&mut self) -> usize {
        let index = self.members.len();
        let name = format!("m{index}");
        let (client_port, peer_port) = (free_port(), free_port());
        let dir = self.dir.path().join(&name);
        std::fs::create_dir(&dir).expect("a directory");
        let data_dir = dir.join(format!("{name}.etcd"));
        let mut setup = Setup::default().dir(&dir);
        if let Some(program) = self.plan.programs.get(index) {
            setup = setup.program(program);
        }
        let server = Server::prepared(setup, client_port, peer_port);
        let advertised = match self.plan.network {
            true => self.network.attach(index, peer_port).await,
            false => Ok(peer_port),
        };
        self.members.push(Member {
            name,
            peer_url: format!("http://127.0.0.1:{}", advertised.expect("a proxy")),
            data_dir,
            client: Client::new(&server.client_url()),
            server,
            id: OnceLock::new(),
            removed: false,
        });
        index
    }

    /// Writes down what a member is started with: that `known` are the cluster, which is `new` or `existing`.
    pub fn tell(&mut self, index: usize, known: &[usize], state: &str) {
        let pairs = known.iter().map(|m| {
            let member = &self.members[*m];
            format!("{}={}", member.name, member.peer_url)
        });
        let initial_cluster = pairs.collect::<Vec<_>>().join(",");
        let member = &self.members[index];
        let client_url = member.server.client_url();
        let mut settings = vec![
            ("name".to_owned(), member.name.clone()),
            ("initial-cluster-token".to_owned(), "tests".to_owned()),
            ("initial-cluster-state".to_owned(), state.to_owned()),
            ("initial-cluster".to_owned(), initial_cluster),
            (
                "data-dir".to_owned(),
                member.data_dir.to_string_lossy().into_owned(),
            ),
            // The blank at the end of this line is in many people's files.
            (
                "initial-advertise-peer-urls".to_owned(),
                match self.plan.by_file {
                    true => format!("{} ", member.peer_url),
                    false => member.peer_url.clone(),
                },
            ),
            ("listen-peer-urls".to_owned(), member.server.peer_url()),
            ("advertise-client-urls".to_owned(), client_url.clone()),
            ("listen-client-urls".to_owned(), client_url),
        ];
        settings.extend(self.plan.settings.iter().cloned());
        let arguments = match self.plan.by_file {
            true => {
                let file = self.dir.path().join(format!("{}.yml", member.name));
                let lines = settings.iter().map(|(k, v)| format!("{k}: {v}\n"));
                std::fs::write(&file, lines.collect::<String>()).expect("a file");
                vec!["--config-file".to_owned(), file.to_string_lossy().into()]
            }
            false => settings.iter().map(|(k, v)| format!("--{k}={v}")).collect(),
        };
        let server = &mut self.members[index].server;
        *server.setup_mut() = server.setup_mut().clone().arguments(arguments);
    }

    /// Starts a member's process without waiting for anything.
    pub fn boot(&mut self, index: usize) {
        let server = &mut self.members[index].server;
        server.respawn();
        self.network.runs_as(index, server.pid());
    }

    /// Waits until a member answers a linearizable read.
    pub async fn ready(&mut self, index: usize) -> Result<(), String> {
        let member = &mut self.members[index];
        let name = &member.name;
        let ready = member.server.ready().await;
        ready.map_err(|why| format!("{name}: {why}"))?;
        member.learn_id().await;
        Ok(())
    }

    /// Waits until every running member answers a linearizable read.
    pub async fn all_ready(&mut self) -> Result<(), String> {
        for index in self.running() {
            self.ready(index).await?;
        }
        Ok(())
    }

    fn lost_a_port(&self) -> bool {
        let mut members = self.members.iter();
        members.any(|m| m.server.log().contains("address already in use"))
    }

    pub async fn restart(&mut self, index: usize) {
        self.boot(index);
        if let Err(why) = self.ready(index).await {
            panic!("a member did not start again: {why}");
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) {
        self.members[index].server.kill();
    }

    /// Throws away everything that a stopped member wrote.
    pub fn lose_disk(&mut self, index: usize) {
        let member = &self.members[index];
        assert!(!member.server.is_started(), "the member runs");
        std::fs::remove_dir_all(&member.data_dir).expect("a data directory");
    }

    /// Adds a member by a call to `via`, tells it everybody, and starts it without waiting. A cluster whose members have
    /// not been connected for long refuses that for some seconds.
    pub async fn add(&mut self, via: usize, is_learner: bool) -> usize {
        let index = self.prepare().await;
        self.admit(via, index, is_learner).await;
        self.boot(index);
        index
    }

    /// Adds a prepared member to the cluster and tells it everybody.
    pub async fn admit(&mut self, via: usize, index: usize, is_learner: bool) -> u64 {
        let peer_url = self.members[index].peer_url.clone();
        let client = self.members[via].client();
        let added = until_healthy(|| client.member_add(&peer_url, is_learner)).await;
        let added = added.unwrap_or_else(|refusal| panic!("a member was not added: {refusal:?}"));
        self.members[index].removed = false;
        self.members[index].id = OnceLock::from(added.id);
        let listed = self.listed();
        self.tell(index, &listed, "existing");
        added.id
    }

    /// Removes a member by a call to `via`; its process goes on until it learns that.
    pub async fn remove(&mut self, via: usize, index: usize) {
        let (client, id) = (self.members[via].client(), self.members[index].id());
        let removed = until_healthy(|| client.member_remove(id)).await;
        removed.unwrap_or_else(|refusal| panic!("a member was not removed: {refusal:?}"));
        self.members[index].removed = true;
    }

    /// Gives a stopped member another peer port, and its new peer URL. The next start listens there.
    pub async fn relocate(&mut self, index: usize) -> String {
        let port = free_port();
        let advertised = match self.plan.network {
            true => self.network.attach(index, port).await.expect("a proxy"),
            false => port,
        };
        let member = &mut self.members[index];
        member.server.set_peer_port(port);
        member.peer_url = format!("http://127.0.0.1:{advertised}");
        let peer_url = member.peer_url.clone();
        let listed = self.listed();
        self.tell(index, &listed, "existing");
        peer_url
    }

    /// Marks a member as no longer part of the cluster.
    pub fn was_removed(&mut self, index: usize) {
        self.members[index].removed = true;
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    pub fn member_mut(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    pub fn client(&self, index: usize) -> Client {
        self.members[index].client()
    }

    /// One client per member.
    pub fn clients(&self) -> Vec<Client> {
        self.members.iter().map(Member::client).collect()
    }

    pub fn network(&self) -> &Network {
        assert!(self.plan.network, "the plan has no network");
        &self.network
    }

    /// Members that are part of the cluster.
    pub fn listed(&self) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        let listed = members.filter(|(_, member)| !member.removed);
        listed.map(|(index, _)| index).collect()
    }

    /// Members that are part of the cluster and have a process.
    pub fn running(&self) -> Vec<usize> {
        let mut running = self.listed();
        running.retain(|index| self.members[*index].server.is_started());
        running
    }

    /// The running members but one.
    pub fn others(&self, than: usize) -> Vec<usize> {
        let mut others = self.running();
        others.retain(|index| *index != than);
        others
    }

    /// Waits until all running members follow one of them.
    pub async fn leader(&self) -> usize {
        self.leader_of(&self.running()).await
    }

    /// Waits until these members follow one of themselves, in one term.
    pub async fn leader_of(&self, members: &[usize]) -> usize {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while Instant::now() < end {
            seen.clear();
            for index in members {
                let client = self.client(*index).deadline(LOOK_DEADLINE);
                let status = client.status().await;
                seen.push(status.map(|status| (status.leader, status.raft_term)));
            }
            let agreed = seen.iter().all(|one| *one == seen[0]);
            if let (true, Ok((id, _))) = (agreed, &seen[0]) {
                let mut members = members.iter();
                if let Some(index) = members.find(|m| self.members[**m].id() == *id) {
                    return *index;
                }
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{members:?} do not agree on a leader of theirs: {seen:?}");
    }

    /// Waits until all running members have applied the same history; gives its revision.
    pub async fn agree(&self) -> i64 {
        self.agree_at(0).await
    }

    /// The same of what was written until now, while somebody writes.
    pub async fn agree_so_far(&self) {
        let leader = self.leader().await;
        let now = self.hash(leader, 0).await.expect("a hash of the leader");
        self.agree_at(now.0).await;
    }

    async fn agree_at(&self, revision: i64) -> i64 {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while Instant::now() < end {
            seen.clear();
            for index in self.running() {
                let hash = self.hash(index, revision).await;
                // What is written meanwhile does not count.
                let of = |(now, hash, compacted)| match revision {
                    0 => (now, hash, compacted),
                    asked => (asked, hash, compacted),
                };
                seen.push((index, hash.map(of)));
            }
            let (_, first) = &seen[0];
            if let (Ok(hash), true) = (first, seen.iter().all(|(_, one)| one == first)) {
                return hash.0;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("members differ: {seen:?}");
    }

    /// Revision, hash and compact revision.
    async fn hash(&self, index: usize, revision: i64) -> Result<(i64, u32, i64), Refusal> {
        let answer = self.client(index).hash_kv(revision).await?;
        let revision = answer.header.expect("a header").revision;
        Ok((revision, answer.hash, answer.compact_revision))
    }

    /// Waits until a call to a member succeeds, which may be refused until then.
    pub async fn eventually_put(&self, index: usize, key: &str, value: &str) -> i64 {
        let end = Instant::now() + PATIENCE;
        loop {
            let client = self.client(index).deadline(Duration::from_secs(3));
            match client.put(key, value).await {
                Ok(revision) => return revision,
                Err(refusal) => assert!(Instant::now() < end, "no put in time: {refusal:?}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a learner follows a leader and has told the others its name.
    pub async fn learns(&self, index: usize) {
        let end = Instant::now() + PATIENCE;
        let (name, client) = (&self.members[index].name, self.client(index));
        loop {
            let status = client.clone().deadline(LOOK_DEADLINE).status().await;
            let follows = status.is_ok_and(|status| status.is_learner && status.leader != 0);
            let listed = self.client(0).members(true).await.unwrap_or_default();
            if follows && listed.iter().any(|m| m.name == *name) {
                return;
            }
            assert!(Instant::now() < end, "{name} is no learner in time");
            tokio::time::sleep(POLL).await;
        }
    }

    /// The status of a member.
    pub async fn status(&self, index: usize) -> pb::StatusResponse {
        let status = self.client(index).status().await;
        status.unwrap_or_else(|refusal| panic!("no status of m{index}: {refusal:?}"))
    }
}

/// Calls again as long as the cluster is unhealthy.
pub async fn until_healthy<T>(call: impl AsyncFn() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let end = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(refusal) if refusal.message == UNHEALTHY && Instant::now() < end => {
                tokio::time::sleep(POLL).await;
            }
            done => return done,
        }
    }
}
