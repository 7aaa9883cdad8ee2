//! Starts that come to nothing, and what can be done after them.

use super::{lines, refusal};
use ringd_tests::server::{temporary_dir, Server, Setup};

#[tokio::test]
async fn a_join_that_failed_leaves_nothing_in_the_way() {
    let mut server = Server::spawn(Setup::default().flags(["--initial-cluster-state=existing"]));
    assert_eq!(server.exit().await.code(), Some(1), "{}", server.log_tail());
    let failed = lines(&server, "discovery failed");
    assert_eq!(
        failed[0]["error"],
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
    );
    assert_eq!(lines(&server, "failed to start etcd").len(), 1);
    *server.setup_mut() = Setup::default();
    server.restart().await;
    assert_eq!(lines(&server, "starting local member").len(), 1);
    // From here on the flags that describe the beginning mean nothing.
    server.terminate().await;
    *server.setup_mut() = Setup::default().flags([
        "--initial-cluster-state=existing",
        "--initial-cluster=no url at all",
        "--initial-cluster-token=other",
    ]);
    server.restart().await;
    assert_eq!(lines(&server, "restarting local member").len(), 1);
}

#[tokio::test]
async fn mismatches_are_refused_before_anything_is_written() {
    let server = Server::spawn(Setup::default().flags(["--initial-cluster=n2=http://127.0.0.1:1"]));
    let wal = server.data_dir().join("member/wal");
    assert_eq!(
        refusal(server).await,
        "couldn't find local name \"m0\" in the initial cluster configuration"
    );
    let segments = std::fs::read_dir(wal).map_or(0, |files| files.count());
    assert_eq!(segments, 0);
}

#[tokio::test]
async fn nothing_starts_empty_beside_etcds_data() {
    for file in ["snap/db", "wal/0000000000000000-0000000000000000.wal"] {
        let dir = temporary_dir();
        let path = dir.path().join("m0.etcd/member").join(file);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        std::fs::write(&path, "etcd's").expect("a file");
        let error = refusal(Server::spawn(Setup::default().dir(dir.path()))).await;
        let start = format!("{} is etcd's data", path.display());
        assert!(error.starts_with(&start), "{error}");
        assert!(!dir.path().join("m0.etcd/member/store.pages").exists());
    }
}
