//! The front between a client made of [`net::grpc::Client`] and a member that the test plays.

use super::*;
use crate::{methods, request::Request};
use net::{
    connection::Keepalive,
    frame::settings::Settings,
    grpc::{CallTemplate, Client},
};
use prost::Message as _;
use proto::etcdserverpb as pb;

const ELECTION_NS: u64 = 1_000_000_000;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

struct Stage {
    front: Front,
    demands: Vec<Demand>,
    connection: u32,
    client: Client,
}

impl Stage {
    fn new() -> Stage {
        let limits = Limits {
            txn_ops_max: 128,
            request_bytes_max: MESSAGE_BYTES_MAX,
        };
        let config = Arc::new(Config::default());
        let mut front = Front::new(
            Box::leak(Box::new(methods::table())),
            config,
            limits,
            ELECTION_NS,
        );
        front.set_role(true, false);
        let connection = front.open(0);
        Stage {
            front,
            demands: Vec::new(),
            connection,
            client: Client::new(Keepalive::default(), MESSAGE_BYTES_MAX, 0),
        }
    }

    fn call(&mut self, path: &str, message: &[u8]) -> CallId {
        let mut template = CallTemplate::new("here", path, &[]);
        let stream = self.client.call(&mut template, None, message);
        let stream = stream.expect("the server takes streams");
        CallId::new(self.connection, stream.get())
    }

    /// Hands over what the client has to send.
    fn deliver(&mut self) {
        let output = self.client.output();
        let bytes = output.bytes().to_vec();
        output.consume(bytes.len());
        self.bytes(&bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.front
            .receive(self.connection, bytes, 0, &mut self.demands);
    }

    /// The calls that the member is told to forget.
    fn cancelled(&mut self) -> Vec<CallId> {
        let demands = std::mem::take(&mut self.demands).into_iter();
        let cancelled = demands.filter_map(|demand| match demand {
            Demand::Cancel { call } => Some(call),
            _ => None,
        });
        cancelled.collect()
    }

    /// From now on, the client takes no head of any answer.
    fn refuse_heads(&mut self) {
        self.deliver();
        let mut bytes = Vec::new();
        Settings {
            max_header_list_size: Some(1),
            ..Settings::default()
        }
        .encode(&mut bytes);
        self.bytes(&bytes);
    }
}

const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn watch() -> Vec<u8> {
    use pb::watch_request::RequestUnion::CreateRequest;
    let request_union = Some(CreateRequest(pb::WatchCreateRequest::default()));
    pb::WatchRequest { request_union }.encode_to_vec()
}

#[test]
fn a_watch_whose_head_the_client_does_not_take_is_over_for_the_member_too() {
    let mut stage = Stage::new();
    stage.refuse_heads();
    let call = stage.call(WATCH, &watch());
    stage.deliver();
    assert!(matches!(
        stage.demands[..],
        [Demand::Ask {
            request: Request::Watch(_),
            ..
        }]
    ));
    assert_eq!(stage.cancelled(), []);
    let created = Bytes::from_static(b"created");
    stage.front.stream(call, created, &mut stage.demands);
    assert_eq!(stage.cancelled(), [call]);
    // Once is enough.
    stage.front.close(stage.connection, &mut stage.demands);
    assert_eq!(stage.cancelled(), []);
}

#[test]
fn a_health_watch_whose_head_the_client_does_not_take_is_forgotten() {
    let mut stage = Stage::new();
    stage.refuse_heads();
    let call = stage.call("/grpc.health.v1.Health/Watch", &[]);
    stage.deliver();
    assert_eq!(stage.cancelled(), [call]);
    let connection = &stage.front.connections[&stage.connection];
    assert!(connection.streams.is_empty());
    assert_eq!(stage.front.config.budget.used_bytes(), 0);
}

#[test]
fn all_calls_of_a_connection_end_with_it() {
    let mut stage = Stage::new();
    let put = pb::PutRequest {
        key: b"k"[..].into(),
        ..Default::default()
    };
    let calls = [
        stage.call(WATCH, &watch()),
        stage.call("/etcdserverpb.KV/Put", &put.encode_to_vec()),
        stage.call("/etcdserverpb.Maintenance/Snapshot", &[]),
    ];
    stage.deliver();
    assert_eq!(stage.cancelled(), []);
    stage.front.close(stage.connection, &mut stage.demands);
    let mut cancelled = stage.cancelled();
    cancelled.sort();
    assert_eq!(cancelled, calls);
}
