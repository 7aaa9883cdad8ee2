//! Who wrote before the server was told to stop is told that the write was done: a stop leaves nobody in doubt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd_tests::server::{ended_well, eventually, Server, PATIENCE};
use ringd_tests::transport::{Connection, Extras};

const CLIENTS: usize = 32;
const STOPS: u64 = 3;
/// So many writes are acknowledged before each stop.
const WRITES: u64 = 500;

/// Writes new keys until the server refuses.
async fn write(client: String, connection: Connection, acknowledged: Arc<AtomicU64>) {
    let extras = Extras {
        deadline: Some(PATIENCE),
        ..Default::default()
    };
    for n in 0.. {
        let put = pb::PutRequest {
            key: format!("stop/{client}/{n}").into(),
            value: "v".into(),
            ..Default::default()
        };
        let body = put.encode_to_vec().into();
        match connection
            .unary("/etcdserverpb.KV/Put", body, &extras)
            .await
        {
            Ok(_) => acknowledged.fetch_add(1, Ordering::SeqCst),
            Err(_) => return,
        };
    }
}

async fn count(connection: &Connection) -> u64 {
    let range = pb::RangeRequest {
        key: "stop/".into(),
        range_end: "stop0".into(),
        count_only: true,
        ..Default::default()
    };
    let body = range.encode_to_vec().into();
    let answer = connection
        .unary("/etcdserverpb.KV/Range", body, &Extras::default())
        .await
        .expect("a range");
    let answer = pb::RangeResponse::decode(answer).expect("an answer");
    answer.count as u64
}

/// The keys that are there after a stop are exactly those whose writes were acknowledged: of the others, none was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_done_is_acknowledged() {
    let mut server = Server::fresh().await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    for stop in 0..STOPS {
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let name = format!("{stop}-{client}");
            let connection = server.connect().await;
            clients.push(tokio::spawn(write(name, connection, acknowledged.clone())));
        }
        let enough = acknowledged.load(Ordering::SeqCst) + WRITES;
        eventually("clients write", || {
            acknowledged.load(Ordering::SeqCst) >= enough
        })
        .await;
        let status = server.terminate().await;
        assert!(ended_well(status), "it ended with {status}");
        for client in clients {
            client.await.expect("a client");
        }
        server.restart().await;
        let connection = server.connect().await;
        assert_eq!(
            count(&connection).await,
            acknowledged.load(Ordering::SeqCst),
            "after stop {stop}"
        );
    }
}
