//! How clusters come to be: all at once from equal lists, and one member after another.

use std::process::{Command, Output};

use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::server::{eventually, is_ringd, ringctl_binary};

use super::{load, settle};

/// Runs `ringctl` against one member.
fn ringctl(cluster: &Cluster, index: usize, arguments: &[&str]) -> Output {
    let mut command = Command::new(ringctl_binary());
    command.arg("--endpoints");
    command.arg(cluster.member(index).server.client_url());
    command.args(arguments).output().expect("ringctl runs")
}

/// Runs `ringctl member add` until the cluster is healthy; gives what it printed.
fn member_add(cluster: &Cluster, via: usize, index: usize) -> String {
    let urls = format!("--peer-urls={}", cluster.member(index).peer_url());
    let name = cluster.member(index).name();
    for _ in 0..200 {
        let output = ringctl(cluster, via, &["member", "add", name, &urls]);
        if output.status.success() {
            return String::from_utf8(output.stdout).expect("UTF-8");
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("unhealthy cluster"), "{error}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the cluster stays unhealthy");
}

/// The lines for the new member's environment.
fn check_printed(cluster: &Cluster, printed: &str, index: usize) {
    let mut lines = printed.lines();
    let first = lines.next().expect("a line");
    assert!(
        first.starts_with("Member ") && first.contains(" added to cluster "),
        "{first}"
    );
    assert_eq!(lines.next(), Some(""));
    let member = cluster.member(index);
    assert_eq!(
        lines.next(),
        Some(&*format!("ETCD_NAME=\"{}\"", member.name()))
    );
    let list = lines.next().expect("a line");
    let list = list
        .strip_prefix("ETCD_INITIAL_CLUSTER=\"")
        .and_then(|l| l.strip_suffix('"'));
    let mut pairs: Vec<_> = list
        .expect("a list")
        .split(',')
        .map(str::to_owned)
        .collect();
    pairs.sort();
    let mut expected: Vec<_> = (0..=index)
        .map(|m| {
            format!(
                "{}={}",
                cluster.member(m).name(),
                cluster.member(m).peer_url()
            )
        })
        .collect();
    expected.sort();
    assert_eq!(pairs, expected);
    let url = format!("ETCD_INITIAL_ADVERTISE_PEER_URLS=\"{}\"", member.peer_url());
    assert_eq!(lines.next(), Some(&*url));
    assert_eq!(
        lines.next(),
        Some("ETCD_INITIAL_CLUSTER_STATE=\"existing\"")
    );
    assert_eq!(lines.next(), None);
}

/// The usual way from three YAML files: the first is a cluster by itself, each further member is added by `member add` and
/// started with `existing` and the list so far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_after_another_from_files() {
    let mut cluster = Cluster::start(Plan::of(1).by_file()).await;
    cluster.client(0).put("first", "v").await.expect("a put");
    for index in 1..3 {
        assert_eq!(cluster.prepare().await, index);
        let printed = member_add(&cluster, 0, index);
        check_printed(&cluster, &printed, index);
        let known: Vec<_> = (0..=index).collect();
        cluster.tell(index, &known, "existing");
        cluster.boot(index);
        cluster.ready(index).await.expect("the new member serves");
        let seen = cluster.client(index).get("first").await;
        assert_eq!(seen, Ok(Some("v".to_owned())));
    }
    let listed = ringctl(&cluster, 2, &["member", "list"]);
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    assert_eq!(listed.matches(", started, m").count(), 3, "{listed}");
    let load = load(&cluster);
    load.progress(50).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    load.progress(50).await;
    cluster.restart(leader).await;
    settle(&cluster, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once_from_files() {
    let mut cluster = Cluster::start(Plan::of(3).by_file()).await;
    let load = load(&cluster);
    load.progress(50).await;
    // What a file says of the initial cluster no longer matters.
    for index in 0..3 {
        cluster.kill(index);
        cluster.tell(index, &[index], "existing");
    }
    for index in 0..3 {
        cluster.boot(index);
    }
    cluster.all_ready().await.expect("all serve again");
    settle(&cluster, load).await;
}

/// The first waits for a second; the third may come much later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_lists_one_after_another() {
    let mut cluster = Cluster::prepared(Plan::of(3)).await;
    cluster.boot(0);
    super::pause_ms(500).await;
    cluster.boot(1);
    cluster.all_ready().await.expect("two of three serve");
    let load = load(&cluster);
    load.progress(50).await;
    cluster.boot(2);
    cluster.ready(2).await.expect("the third serves");
    settle(&cluster, load).await;
}

/// The end of a member that must refuse to start, and the words that it must say.
async fn refuses_to_start(cluster: &mut Cluster, index: usize, words: &str) {
    cluster.boot(index);
    let status = cluster.member_mut(index).server.exit().await;
    let server = &cluster.member(index).server;
    assert!(!status.success(), "m{index} ended well");
    assert!(
        server.log().contains(words),
        "no word of {words:?}\n{}",
        server.log_tail()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_wrong_lists_are_refused() {
    let mut cluster = Cluster::start(Plan::of(1)).await;
    let joiner = cluster.prepare().await;
    cluster.tell(joiner, &[0, joiner], "existing");
    refuses_to_start(&mut cluster, joiner, "member count is unequal").await;
    let id = cluster.admit(0, joiner, true).await;
    let stranger = cluster.prepare().await;
    cluster.tell(stranger, &[0, stranger], "existing");
    refuses_to_start(
        &mut cluster,
        stranger,
        "PeerURLs: no match found for existing member",
    )
    .await;
    cluster.was_removed(stranger);
    // What was refused left nothing behind that stops a start with the right list.
    cluster.boot(joiner);
    eventually("the learner starts", || {
        cluster
            .member(joiner)
            .server
            .log()
            .contains("ready to serve")
            || !is_ringd()
    })
    .await;
    assert_eq!(
        cluster.client(0).members(true).await.expect("a list")[..]
            .iter()
            .filter(|m| m.id == id)
            .count(),
        1
    );
    cluster.kill(0);
    let late = cluster.prepare().await;
    cluster.tell(late, &[0, late], "existing");
    refuses_to_start(
        &mut cluster,
        late,
        "cannot fetch cluster info from peer urls",
    )
    .await;
}

/// A member that lost its disk must not come back as a new one: it may have voted and acknowledged before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_disk_is_not_bootstrapped_again() {
    let mut cluster = Cluster::start(Plan::of(3)).await;
    cluster.client(0).put("k", "v").await.expect("a put");
    let leader = cluster.leader().await;
    let victim = cluster.others(leader)[0];
    cluster.kill(victim);
    cluster.lose_disk(victim);
    refuses_to_start(&mut cluster, victim, "has already been bootstrapped").await;
    cluster.client(leader).put("k", "w").await.expect("a put");
}
