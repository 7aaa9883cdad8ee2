//! Log files that are not there: named, never passed over.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ringd_tests::server::{is_ringd, Server};

use crate::member::{get, put_patiently, value, LOG_DIR};

const VALUE_BYTES: usize = 1 << 20;
/// More than a segment of 64 MiB holds.
const PUTS: u64 = 68;

fn segments(server: &Server) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(server.data_dir().join(LOG_DIR)).expect("a log directory");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "wal"))
        .collect()
}

/// Whether it starts with everything there. If not, it must have named the file or at least the log's directory.
async fn starts_whole(server: &mut Server, missing: &str) -> bool {
    server.respawn();
    match server.ready().await {
        Err(why) => {
            assert!(why.contains(missing), "{missing} is not named\n{why}");
            server.kill();
            false
        }
        Ok(()) => {
            let connection = server.connect().await;
            let found = get(&connection, "big").await.expect("a read");
            assert!(found.is_some_and(|found| found[..] == value("big", PUTS - 1, VALUE_BYTES)[..]));
            server.kill();
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_segment_is_named() {
    if !is_ringd() {
        return;
    }
    let mut server = Server::fresh().await;
    let connection = server.connect().await;
    for n in 0..PUTS {
        put_patiently(&connection, "big", &value("big", n, VALUE_BYTES))
            .await
            .expect("a put");
    }
    server.kill();
    let files = segments(&server);
    assert!(
        files.len() >= 3,
        "two with batches and a successor: {files:?}"
    );
    let aside = server.data_dir().join("aside");
    let mut refused = 0;
    for (at, file) in files.iter().enumerate() {
        std::fs::rename(file, &aside).expect("it can be moved");
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        let whole = starts_whole(&mut server, name).await;
        // The first two hold batches, the third one is the proof that there are no more.
        assert!(!(whole && at < 3), "{name} was not missed");
        refused += u32::from(!whole);
        if !whole {
            std::fs::rename(&aside, file).expect("it can be moved back");
        }
    }
    assert!(refused >= 3, "{refused} of {}", files.len());
    assert!(
        starts_whole(&mut server, LOG_DIR).await,
        "with all of them it starts"
    );
    for file in segments(&server) {
        std::fs::remove_file(file).expect("it can be removed");
    }
    assert!(
        !starts_whole(&mut server, LOG_DIR).await,
        "without a log it must not start"
    );
    std::fs::remove_dir_all(server.data_dir().join(LOG_DIR)).expect("it can be removed");
    assert!(
        !starts_whole(&mut server, LOG_DIR).await,
        "nor without its directory"
    );
}
