//! The standard health service.

use proto::health::health_check_response::ServingStatus;
use proto::health::{HealthCheckRequest, HealthListRequest};
use ringd_tests::server::PATIENCE;
use tonic::Code;

use super::{refused, Etcd, SILENCE};

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

#[tokio::test]
async fn a_watched_service_that_is_unknown_may_yet_appear() {
    let mut etcd = Etcd::fresh().await;
    let stream = etcd.health.watch(of("etcdserverpb.KV")).await;
    let mut stream = stream.expect("a stream").into_inner();
    let first = tokio::time::timeout(PATIENCE, stream.message()).await;
    let first = first.expect("in time").expect("a stream");
    assert_eq!(
        first.expect("a status").status,
        ServingStatus::ServiceUnknown as i32
    );
    let more = tokio::time::timeout(SILENCE, stream.message()).await;
    assert!(more.is_err(), "the stream goes on in silence: {more:?}");
}

#[tokio::test]
async fn the_list_has_the_server_as_a_whole() {
    let mut etcd = Etcd::fresh().await;
    let list = etcd.health.list(HealthListRequest {}).await;
    let statuses = list.expect("a list").into_inner().statuses;
    assert_eq!(statuses.len(), 1);
    assert_eq!(statuses[""].status, ServingStatus::Serving as i32);
}
