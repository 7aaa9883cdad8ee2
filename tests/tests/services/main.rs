//! Every service of a single member through generated stubs: the main case of each method, and its errors.

mod cluster;
mod health;
mod kv;
mod large_reads;
mod lease;
mod lock;
mod maintenance;
mod protocol;
mod range_stream;
mod traps;
mod txn;
mod watch;

use std::time::Duration;

use proto::etcdserverpb as pb;
use ringctl::api::cluster_client::ClusterClient;
use ringctl::api::election_client::ElectionClient;
use ringctl::api::health_client::HealthClient;
use ringctl::api::kv_client::KvClient;
use ringctl::api::lease_client::LeaseClient;
use ringctl::api::lock_client::LockClient;
use ringctl::api::maintenance_client::MaintenanceClient;
use ringctl::api::watch_client::WatchClient;
use ringd_tests::server::{Server, Setup};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long nothing must come where nothing may come.
const SILENCE: Duration = Duration::from_millis(300);

/// A fresh server with a client for each of its services.
struct Etcd {
    kv: KvClient<Channel>,
    watch: WatchClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    cluster: ClusterClient<Channel>,
    lock: LockClient<Channel>,
    election: ElectionClient<Channel>,
    health: HealthClient<Channel>,
    server: Server,
}

impl Etcd {
    async fn fresh() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let setup = Setup::default().flags(flags.iter().copied());
        let server = Server::start(setup).await;
        let channel = server.connect().await.channel();
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel.clone()),
            health: HealthClient::new(channel),
            server,
        }
    }

    /// Puts and gives the revision.
    async fn put(&mut self, key: &str, value: &str) -> i64 {
        let answer = self.kv.put(put(key, value)).await.expect("a put");
        revision(&answer.into_inner().header)
    }

    async fn get(&mut self, key: &str, end: &str) -> pb::RangeResponse {
        let answer = self.kv.range(range(key, end)).await.expect("a range");
        answer.into_inner()
    }

    async fn delete(&mut self, key: &str) -> i64 {
        let request = pb::DeleteRangeRequest {
            key: bytes(key),
            ..Default::default()
        };
        let answer = self.kv.delete_range(request).await.expect("a deletion");
        revision(&answer.into_inner().header)
    }

    async fn compact(&mut self, revision: i64) {
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        self.kv.compact(request).await.expect("a compaction");
    }

    async fn grant(&mut self, id: i64, ttl: i64) -> pb::LeaseGrantResponse {
        let request = pb::LeaseGrantRequest { ttl, id };
        let answer = self.lease.lease_grant(request).await.expect("a lease");
        answer.into_inner()
    }

    async fn revision(&mut self) -> i64 {
        revision(&self.get("any", "").await.header)
    }
}

fn bytes(text: &str) -> bytes::Bytes {
    text.to_owned().into()
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.expect("a header").revision
}

fn keys(response: &pb::RangeResponse) -> Vec<String> {
    let text = |key: &bytes::Bytes| String::from_utf8_lossy(key).into_owned();
    response.kvs.iter().map(|kv| text(&kv.key)).collect()
}

/// The call must have failed with exactly this.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<Response<T>, Status>, code: Code, message: &str) {
    match result {
        Ok(answer) => panic!("answered {answer:?} instead of {message:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, message)),
    }
}
