//! History goes by itself when that is configured.

use std::time::Instant;

use ringd_tests::server::{Server, Setup, PATIENCE, POLL};

use crate::member::{get, hash_kv, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_revisions_are_compacted_after_the_period() {
    let setup = Setup::default().flags(["--auto-compaction-retention=1s"]);
    let server = Server::start(setup).await;
    let connection = server.connect().await;
    let end = Instant::now() + PATIENCE;
    let mut last = 0;
    let compacted = loop {
        last = put(&connection, "k", format!("after {last}").as_bytes())
            .await
            .expect("a put");
        let (_, compacted) = hash_kv(&connection).await;
        if compacted > 2 {
            break compacted;
        }
        assert!(Instant::now() < end, "nothing was compacted");
        tokio::time::sleep(POLL).await;
    };
    assert!(
        compacted < last,
        "the last second is kept: {compacted} of {last}"
    );
    let newest = get(&connection, "k").await.expect("a read");
    assert_eq!(newest, Some(format!("after {}", last - 1).into()));
}
