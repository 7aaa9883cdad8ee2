//! The front between a client made of [`net::grpc::Client`] and a member that the test plays.

use super::*;
use crate::{methods, request::Request};
use net::{
    connection::Keepalive,
    frame::settings::Settings,
    grpc::{CallTemplate, Client, ClientEvent},
};
use prost::Message as _;
use proto::{etcdserverpb as pb, v3lockpb as lock};

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

    /// Hands over what both sides have to send, until that is nothing; returns how calls ended.
    fn exchange(&mut self) -> Vec<(CallId, u32)> {
        let mut events = Vec::new();
        loop {
            self.deliver();
            let output = self.front.output(self.connection).expect("a connection");
            let bytes = output.bytes().to_vec();
            output.consume(bytes.len());
            if bytes.is_empty() {
                break;
            }
            self.client.receive(&bytes, 0, &mut events);
        }
        let ends = events.into_iter().filter_map(|event| match event {
            ClientEvent::End { stream, code, .. } => {
                Some((CallId::new(self.connection, stream.get()), code))
            }
            ClientEvent::Message { .. } => None,
        });
        ends.collect()
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
const PUT: &str = "/etcdserverpb.KV/Put";

fn put() -> Vec<u8> {
    let put = pb::PutRequest {
        key: b"k"[..].into(),
        ..Default::default()
    };
    put.encode_to_vec()
}

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
    let calls = [
        stage.call(WATCH, &watch()),
        stage.call(PUT, &put()),
        stage.call("/etcdserverpb.Maintenance/Snapshot", &[]),
    ];
    stage.deliver();
    assert_eq!(stage.cancelled(), []);
    stage.front.close(stage.connection, &mut stage.demands);
    let mut cancelled = stage.cancelled();
    cancelled.sort();
    assert_eq!(cancelled, calls);
}

/// A stop waits for writes that were sent before their client heard of it, and not for what may take for ever.
#[test]
fn a_stop_waits_for_the_answers_that_will_come() {
    let mut stage = Stage::new();
    let wait = lock::LockRequest {
        name: b"l"[..].into(),
        lease: 7,
    };
    let waits = stage.call("/v3lockpb.Lock/Lock", &wait.encode_to_vec());
    let watches = stage.call(WATCH, &watch());
    stage.exchange();
    stage.front.shutdown();
    assert!(!stage.front.is_quiet(), "the client has not heard of it");
    let late = stage.call(PUT, &put());
    assert_eq!(stage.exchange(), []);
    assert!(!stage.front.is_quiet(), "a write is under way");
    stage.front.reply(late, Ok(Bytes::new()));
    assert_eq!(stage.exchange(), [(late, 0)]);
    assert!(stage.front.is_quiet());
    stage.front.end_calls(&RequestError::Stopped.into());
    assert!(!stage.front.is_sent(stage.connection));
    assert_eq!(
        stage.exchange(),
        [(waits, code::UNAVAILABLE), (watches, code::UNAVAILABLE)]
    );
    assert!(stage.front.is_sent(stage.connection));
    assert!(stage.front.should_close(stage.connection));
}

#[test]
fn a_client_that_comes_during_a_stop_is_sent_away() {
    let mut stage = Stage::new();
    stage.exchange();
    stage.front.shutdown();
    let late = stage.front.open(0);
    assert!(stage.front.should_close(late));
}

/// A write whose answer does not come in time gets a status all the same, and so does a call that has only begun.
#[test]
fn a_stop_ends_the_calls_that_are_left() {
    let mut stage = Stage::new();
    let asked = stage.call(PUT, &put());
    let mut template = CallTemplate::new("here", PUT, &[]);
    let begun = stage.client.open(&mut template, None).expect("a stream");
    let begun = CallId::new(stage.connection, begun.get());
    stage.exchange();
    stage.front.shutdown();
    assert_eq!(stage.exchange(), []);
    assert!(!stage.front.is_quiet());
    stage.front.end_calls(&RequestError::Stopped.into());
    assert_eq!(
        stage.exchange(),
        [(asked, code::UNAVAILABLE), (begun, code::UNAVAILABLE)]
    );
}
