//! `--force-new-cluster` with the real binary.

use super::{field, put, values};
use ringd_tests::server::{Server, Setup};

/// A single member keeps everything; that of a larger cluster is in ringd's own tests.
#[tokio::test]
async fn a_member_that_is_alone_already_stays_as_it_is() {
    let mut server = Server::fresh().await;
    put(&server, "key-a", "1").await;
    put(&server, "key-b", "2").await;
    // Not a clean stop: the last put's commit index is not in the log.
    server.kill();
    *server.setup_mut() = Setup::default().flags(["--force-new-cluster"]);
    server.restart().await;
    let id = field(&server, "forcing restart member", "local-member-id").await;
    assert_eq!(
        id,
        field(&server, "starting local member", "local-member-id").await
    );
    let all = values(&server, "key-").await;
    assert_eq!(
        all,
        [("key-a".into(), "1".into()), ("key-b".into(), "2".into())]
    );
}
