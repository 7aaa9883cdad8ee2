//! A single member: nothing is acknowledged that is not durable, everything else goes on.

use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use ringd_tests::client::Client;
use ringd_tests::model::Refusal;
use ringd_tests::server::{ended_well, is_ringd, Server, Setup, PATIENCE};
use ringd_tests::transport::Extras;

use super::{Control, ARMED, VARIABLE};

const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// How long a disk hangs here.
const STALL: Duration = Duration::from_millis(1500);
/// Between two rounds of calls.
const PACE: Duration = Duration::from_millis(50);
/// In time, on a loaded machine: far below any stall that ends by itself.
const SOON: Duration = Duration::from_secs(5);

async fn start() -> Option<(Control, Server, Client)> {
    let control = Control::new()?;
    let server = Server::start(control.over(Setup::default())).await;
    let client = Client::over(server.connect().await);
    Some((control, server, client))
}

/// The server must end by itself with an error, and its log must contain the words.
async fn must_fail(server: &mut Server, words: &[&str]) {
    let status = server.exit().await;
    assert!(!status.success(), "it ended well\n{}", server.log_tail());
    let log = server.log();
    for word in words {
        assert!(
            log.contains(word),
            "no word of {word}\n{}",
            server.log_tail()
        );
    }
}

async fn put_until_refused(client: &Client) -> i64 {
    let mut last = 0;
    for n in 0..10_000 {
        match client.put("k", &n.to_string()).await {
            Ok(revision) => last = revision,
            Err(_) => return last,
        }
    }
    panic!("no put failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_builds_refuse_to_make_faults() {
    if !is_ringd() || ARMED {
        println!("skipped: this build makes faults");
        return;
    }
    let mut server = Server::spawn(Setup::default().env(VARIABLE, "/nowhere"));
    must_fail(&mut server, &[VARIABLE, "release build", "unset it"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_make_no_sense_are_named() {
    let Some(control) = Control::new() else {
        return;
    };
    control.say("log.flush stall\nlog.flush stahl");
    let mut server = Server::spawn(control.over(Setup::default()));
    must_fail(&mut server, &[VARIABLE, "line 2", "stahl"]).await;
}

/// Row 18, as the server is started by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_flush_hangs_only_writes_wait() {
    let Some((control, server, client)) = start().await else {
        return;
    };
    client.put("k", "v").await.expect("a put");
    client.grant(7, 60).await.expect("a lease");
    control.say("log.flush stall");
    let writer = Client::over(server.connect().await);
    let begun = Instant::now();
    let write = tokio::spawn(async move { writer.put("k", "slow").await });
    let mut rounds = 0;
    while begun.elapsed() < STALL {
        // Each keep-alive ends its stream, and a client that does that very often is cut off.
        tokio::time::sleep(PACE).await;
        let asked = Instant::now();
        let seen = client.get_serializable("k").await;
        assert_eq!(seen, Ok(Some("v".to_owned())));
        assert_eq!(client.get("k").await, Ok(Some("v".to_owned())));
        assert_eq!(client.keep_alive(7).await, Ok(60));
        let health = client
            .connection()
            .unary(HEALTH, bytes::Bytes::new(), &Extras::default())
            .await
            .expect("health is told");
        assert_eq!(health[..], [8, 1], "serving");
        client.status().await.expect("a status");
        assert!(asked.elapsed() < SOON, "reads take {:?}", asked.elapsed());
        assert!(!write.is_finished(), "acknowledged during the flush");
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds} rounds in {STALL:?}");
    control.calm();
    write.await.expect("no panic").expect("the put succeeds");
    assert_eq!(client.get("k").await, Ok(Some("slow".to_owned())));
    client.put("k", "after").await.expect("a put");
}

/// Row 17: more than fits is refused at once, and not by ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_of_a_disk_that_hangs_is_refused_in_time() {
    let Some((control, server, client)) = start().await else {
        return;
    };
    client.put("k", "v").await.expect("a put");
    control.say("log.flush stall");
    let value = "x".repeat(1 << 20);
    let mut calls = Vec::new();
    for n in 0..100 {
        let writer = match n % 10 {
            0 => Client::over(server.connect().await),
            _ => Client::over(client.connection().clone()),
        };
        let value = value.clone();
        calls.push(tokio::spawn(async move {
            let asked = Instant::now();
            (writer.put(&format!("k{n}"), &value).await, asked.elapsed())
        }));
    }
    let end = Instant::now() + PATIENCE;
    let refused = |calls: &[tokio::task::JoinHandle<_>]| {
        calls.iter().filter(|call| call.is_finished()).count()
    };
    while refused(&calls) < 30 {
        assert!(Instant::now() < end, "{} refused", refused(&calls));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.get("k").await, Ok(Some("v".to_owned())));
    control.calm();
    let (mut taken, mut refused) = (0, 0);
    for call in calls {
        match call.await.expect("no panic") {
            (Ok(_), _) => taken += 1,
            (Err(Refusal { message, .. }), _) if message.ends_with("too many requests") => {
                refused += 1
            }
            (Err(other), waited) => {
                let timeout = other.message.ends_with("request timed out");
                assert!(timeout && waited > SOON, "{other:?} after {waited:?}");
            }
        }
    }
    assert!(refused >= 30, "{taken} taken, {refused} refused");
    client.put("k", "after").await.expect("a put");
}

/// Row 17: a slow disk makes writes slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_makes_writes_slow_and_nothing_else() {
    let Some((control, _server, client)) = start().await else {
        return;
    };
    client.put("k", "v").await.expect("a put");
    control.say("log.flush delay=100ms");
    for n in 0..10 {
        let asked = Instant::now();
        client.put("k", &n.to_string()).await.expect("a put");
        assert!(asked.elapsed() >= Duration::from_millis(100));
    }
}

/// Rows 3 and 16: the member ends with file, offset and errno, and after a restart everything acknowledged is there.
async fn a_log_that_fails(point: &str, errno: &str, number: i32) {
    let Some((control, mut server, client)) = start().await else {
        return;
    };
    client.put("k", "before").await.expect("a put");
    control.say(&format!("{point} fail={errno} skip=3"));
    let last = put_until_refused(&client).await;
    assert!(client.put("k", "after").await.is_err());
    let words = [".wal", "offset", &format!("os error {number}")];
    must_fail(&mut server, &words).await;
    control.calm();
    server.restart().await;
    let client = Client::over(server.connect().await);
    let next = client.put("k", "again").await.expect("a put");
    // The one without an answer may or may not have happened.
    assert!((last + 1..=last + 2).contains(&next), "{last} then {next}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_of_the_log_that_fails_ends_the_member() {
    a_log_that_fails("log.flush", "EIO", 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_the_log_that_fails_ends_the_member() {
    a_log_that_fails("log.write", "EIO", 5).await;
}

/// A checkpoint that can not be written ends the member as well; the log has everything.
async fn a_checkpoint_that_fails(point: &str) {
    let Some((control, mut server, client)) = start().await else {
        return;
    };
    for n in 0..20 {
        client.put(&format!("k{n}"), "v").await.expect("a put");
    }
    control.say(&format!("{point} fail=EIO"));
    let extras = Extras {
        deadline: Some(PATIENCE),
        ..Default::default()
    };
    let connection = client.connection();
    let asked = connection.unary(DEFRAGMENT, bytes::Bytes::new(), &extras);
    assert!(asked.await.is_err());
    must_fail(&mut server, &["store.pages", "os error 5"]).await;
    control.calm();
    server.restart().await;
    let client = Client::over(server.connect().await);
    for n in 0..20 {
        let found = client.get(&format!("k{n}")).await;
        assert_eq!(found, Ok(Some("v".to_owned())), "k{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_write_that_fails_ends_the_member() {
    a_checkpoint_that_fails("page.write").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_flush_that_fails_ends_the_member() {
    a_checkpoint_that_fails("page.flush").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meta_page_that_fails_ends_the_member() {
    a_checkpoint_that_fails("meta.write").await;
}

/// Row 18 for the page file: a checkpoint that hangs holds up Defragment, which waits for it, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_checkpoint_hangs_reads_and_writes_go_on() {
    let Some((control, _server, client)) = start().await else {
        return;
    };
    client.put("k", "v").await.expect("a put");
    control.say("page.flush stall");
    let connection = client.connection().clone();
    let defragment = tokio::spawn(async move {
        let extras = Extras {
            deadline: Some(PATIENCE),
            ..Default::default()
        };
        connection
            .unary(DEFRAGMENT, bytes::Bytes::new(), &extras)
            .await
    });
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < STALL {
        let value = rounds.to_string();
        client.put("k", &value).await.expect("a put");
        assert_eq!(client.get("k").await, Ok(Some(value)));
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds} rounds in {STALL:?}");
    assert!(!defragment.is_finished(), "defragmented without a flush");
    control.calm();
    let done = defragment.await.expect("no panic");
    assert!(done.is_ok(), "{done:?}");
}

/// Whoever stops a server whose disk hangs does not wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_disk_that_hangs() {
    let Some((control, mut server, client)) = start().await else {
        return;
    };
    client.put("k", "v").await.expect("a put");
    control.say("log.flush stall\npage.flush stall");
    let writer = Client::over(server.connect().await);
    let write = tokio::spawn(async move { writer.put("k", "never").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    let status = server.terminate().await;
    assert!(ended_well(status), "SIGTERM ended in {status}");
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
    assert!(write.await.expect("no panic").is_err());
    control.calm();
    server.restart().await;
    let client = Client::over(server.connect().await);
    let seen = client.get("k").await.expect("a read");
    assert!(matches!(seen.as_deref(), Some("v" | "never")), "{seen:?}");
}

/// Row 15: a page that can not be read fails the request, and is reported; the member lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_can_not_be_read_fails_the_request_only() {
    let Some((control, mut server, client)) = start().await else {
        return;
    };
    // Values of this size lie in pages of their own, and after the checkpoint a new process has none of them in memory.
    let value = "v".repeat(3000);
    for n in 0..400 {
        client
            .put(&format!("k{n:03}"), &value)
            .await
            .expect("a put");
    }
    let checkpoint: Result<pb::DefragmentResponse, _> = client
        .ask("Maintenance/Defragment", &pb::DefragmentRequest {})
        .await;
    checkpoint.expect("a checkpoint");
    server.terminate().await;
    server.restart().await;
    let client = Client::over(server.connect().await);
    control.say("page.read fail=EIO");
    for n in (0..400).step_by(20) {
        let refusal = client.get(&format!("k{n:03}")).await.expect_err("no page");
        assert_eq!(refusal.message, "etcdserver: corrupt cluster");
    }
    assert!(server.log().contains("os error 5"), "{}", server.log_tail());
    control.calm();
    for n in 0..400 {
        let found = client.get(&format!("k{n:03}")).await;
        assert_eq!(found, Ok(Some(value.clone())), "k{n}");
    }
    assert!(server.exited().is_none());
}
