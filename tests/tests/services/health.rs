//! The standard health service.

use proto::health::health_check_response::ServingStatus;
use proto::health::HealthCheckRequest;
use tonic::Code;

use super::{refused, Etcd};

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn the_server_as_a_whole_is_serving() {
    let mut etcd = Etcd::fresh().await;
    let answer = etcd.health.check(of("")).await.expect("a status");
    assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32);
    let unknown = etcd.health.check(of("etcdserverpb.KV")).await;
    refused(unknown, Code::NotFound, "unknown service");
    let mut stream = etcd
        .health
        .watch(of(""))
        .await
        .expect("a stream")
        .into_inner();
    let first = stream.message().await.expect("a stream").expect("a status");
    assert_eq!(first.status, ServingStatus::Serving as i32);
}
