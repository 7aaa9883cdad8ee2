//! A gRPC client without message types: bytes out, bytes in, the status as it came.
//!
//! HTTP/2 is tonic's, an implementation that shares nothing with the server under test.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::model::Refusal;

/// Large enough for any test's messages not to wait for window updates one by one.
const WINDOW_BYTES: u32 = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the client reports when its own deadline passed; no server sends this text.
pub const OWN_DEADLINE: &str = "(the caller's own deadline)";

#[derive(Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let n = buf.remaining();
        Ok(Some(buf.copy_to_bytes(n)))
    }
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
}

/// What goes with a call beside its message.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    pub metadata: Vec<(String, String)>,
    pub gzip: bool,
    /// Sent to the server and kept by the client.
    pub deadline: Option<Duration>,
}

impl Extras {
    fn metadata(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in &self.metadata {
            let key: AsciiMetadataKey = key.parse().expect("a metadata key");
            let value: AsciiMetadataValue = value.parse().expect("a metadata value");
            map.append(key, value);
        }
        map
    }
}

impl Connection {
    pub async fn open(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        let channel = endpoint_of(endpoint).connect().await?;
        Ok(Self { channel })
    }

    /// Connects at the first call, and again whenever the connection is lost.
    pub fn lazy(endpoint: &str) -> Self {
        let channel = endpoint_of(endpoint).connect_lazy();
        Self { channel }
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Refusal> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|e| Refusal {
            code: Code::Unavailable as i32,
            message: e.to_string(),
        })?;
        Ok(grpc)
    }

    pub async fn unary(&self, path: &str, body: Bytes, extras: &Extras) -> Result<Bytes, Refusal> {
        let mut grpc = self.grpc().await?;
        let mut request = Request::new(body);
        *request.metadata_mut() = extras.metadata();
        if extras.gzip {
            grpc = grpc
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        let path: PathAndQuery = path.parse().expect("a path");
        let Some(deadline) = extras.deadline else {
            return finish(grpc.unary(request, path, RawCodec).await);
        };
        request.set_timeout(deadline);
        match tokio::time::timeout(deadline, grpc.unary(request, path, RawCodec)).await {
            Ok(Err(status))
                if status.code() == Code::Cancelled && status.message() == "Timeout expired" =>
            {
                own_deadline()
            }
            Ok(result) => finish(result),
            Err(_) => own_deadline(),
        }
    }

    /// Starts a call with streams on both sides; `only` is its one request if the method takes one.
    pub fn stream(&self, path: &str, only: Option<Bytes>, extras: &Extras) -> Stream {
        let (send, requests) = mpsc::unbounded_channel();
        let (out, receive) = mpsc::unbounded_channel();
        let send = match only {
            Some(message) => {
                send.send(message).expect("the other end is held here");
                None
            }
            None => Some(send),
        };
        let mut request = Request::new(UnboundedReceiverStream::new(requests));
        *request.metadata_mut() = extras.metadata();
        let (connection, path) = (self.clone(), path.parse().expect("a path"));
        let task = tokio::spawn(async move {
            if let Err(end) = pump(connection, request, path, &out).await {
                let _ = out.send(Err(end));
            }
        });
        Stream {
            send,
            receive,
            task,
        }
    }
}

/// Settings for a channel to `endpoint` (`http://host:port`).
pub fn endpoint_of(endpoint: &str) -> Endpoint {
    Endpoint::from_shared(endpoint.to_owned())
        .expect("an endpoint is a URL")
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
}

fn own_deadline<T>() -> Result<T, Refusal> {
    Err(Refusal {
        code: Code::DeadlineExceeded as i32,
        message: OWN_DEADLINE.to_owned(),
    })
}

fn refusal(status: &Status) -> Refusal {
    Refusal {
        code: status.code() as i32,
        message: status.message().to_owned(),
    }
}

fn finish(result: Result<tonic::Response<Bytes>, Status>) -> Result<Bytes, Refusal> {
    match result {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(refusal(&status)),
    }
}

/// Hands messages over until the call ends; the end is an error with code 0 if it was a good one.
async fn pump(
    connection: Connection,
    request: Request<UnboundedReceiverStream<Bytes>>,
    path: PathAndQuery,
    out: &mpsc::UnboundedSender<Result<Bytes, Refusal>>,
) -> Result<(), Refusal> {
    let mut grpc = connection.grpc().await?;
    let response = grpc.streaming(request, path, RawCodec).await;
    let mut messages = response.map_err(|status| refusal(&status))?.into_inner();
    while let Some(message) = messages.message().await.map_err(|s| refusal(&s))? {
        if out.send(Ok(message)).is_err() {
            return Ok(());
        }
    }
    Err(Refusal {
        code: Code::Ok as i32,
        message: String::new(),
    })
}

/// A running call with streams on both sides. Dropped, it is cancelled.
pub struct Stream {
    send: Option<mpsc::UnboundedSender<Bytes>>,
    receive: mpsc::UnboundedReceiver<Result<Bytes, Refusal>>,
    task: JoinHandle<()>,
}

impl Stream {
    pub fn send(&self, message: Bytes) {
        if let Some(send) = &self.send {
            // A call that has ended takes nothing; its end is what the reader sees.
            let _ = send.send(message);
        }
    }

    pub fn half_close(&mut self) {
        self.send = None;
    }

    /// The next message, the end of the call as an error, or `None` if neither comes in time.
    pub async fn next(&mut self, wait: Duration) -> Option<Result<Bytes, Refusal>> {
        tokio::time::timeout(wait, self.receive.recv())
            .await
            .ok()
            .flatten()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
