//! Connections: any endpoint that answers, credentials on every request, and etcd's texts for errors.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
    Code, Request, Status,
};

use crate::{
    api::auth_client::AuthClient,
    failure::{Failure, BAD_CONNECTION},
    global::Global,
};
use proto::etcdserverpb::AuthenticateRequest;

/// Pause between attempts to reach a server.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Attempts at a read that a server answers with `Unavailable`.
const READ_ATTEMPTS_MAX: u32 = 100;
pub const DEADLINE_EXCEEDED: &str = "context deadline exceeded";

pub struct Client {
    pub global: Global,
    token: Option<MetadataValue<Ascii>>,
}

/// Whether a call may be repeated after it may have reached a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Read,
    Write,
}

impl Client {
    /// Prepares a client, and authenticates when a user was given.
    pub async fn new(global: Global) -> Result<Client, Failure> {
        if global.endpoints.is_empty() {
            return Err(Failure::new(
                BAD_CONNECTION,
                "etcdclient: no available endpoints",
            ));
        }
        let mut client = Client {
            global,
            token: None,
        };
        if let Some((name, password)) = client.global.user.clone() {
            client.authenticate(name, password).await?;
        }
        Ok(client)
    }

    async fn authenticate(&mut self, name: String, password: String) -> Result<(), Failure> {
        let timeout = self.global.dial_timeout;
        let request = AuthenticateRequest { name, password };
        let call = |channel: Channel| {
            let request = request.clone();
            async move { AuthClient::new(channel).authenticate(request).await }
        };
        let endpoints = self.global.endpoints.clone();
        let bad = |failure: Failure| Failure::new(BAD_CONNECTION, failure.text);
        match self
            .call_on(&endpoints, Some(timeout), Repeat::Read, call)
            .await
        {
            Ok(response) => {
                let token = response.into_inner().token;
                let value = token
                    .parse()
                    .map_err(|_| Failure::new(BAD_CONNECTION, "the server's token is not text"))?;
                self.token = Some(value);
                Ok(())
            }
            // Against a server without authentication the credentials are not needed.
            Err(failure) if failure.text == "etcdserver: authentication is not enabled" => Ok(()),
            Err(failure) => Err(bad(failure)),
        }
    }

    /// A request with the credentials.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    /// A unary call on any endpoint, within the command's time-out.
    pub async fn call<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let timeout = Some(self.global.command_timeout);
        self.call_on(&self.global.endpoints, timeout, repeat, call)
            .await
            .map(tonic::Response::into_inner)
    }

    /// A call without the time-out that commands have unless they wait by nature.
    pub async fn call_patiently<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call_on(&self.global.endpoints, None, repeat, call)
            .await
            .map(tonic::Response::into_inner)
    }

    /// A unary call on one endpoint.
    pub async fn call_one<T, F>(
        &self,
        endpoint: &str,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let endpoints = [endpoint.to_owned()];
        let timeout = Some(self.global.command_timeout);
        self.call_on(&endpoints, timeout, Repeat::Read, call)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn call_on<T, F>(
        &self,
        endpoints: &[String],
        timeout: Option<Duration>,
        repeat: Repeat,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let work = async {
            let mut attempt = 0;
            loop {
                let channel = self.connect(endpoints, attempt as usize).await;
                match call(channel).await {
                    Ok(value) => return Ok(value),
                    Err(status)
                        if status.code() == Code::Unavailable
                            && repeat == Repeat::Read
                            && attempt + 1 < READ_ATTEMPTS_MAX =>
                    {
                        attempt += 1;
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(status) => return Err(Failure::error(error_text(&status))),
                }
            }
        };
        match timeout {
            None => work.await,
            Some(timeout) => tokio::time::timeout(timeout, work)
                .await
                .unwrap_or_else(|_| Err(Failure::error(DEADLINE_EXCEEDED))),
        }
    }

    /// Tries the endpoints in turn, starting with the given one, until one accepts a connection. It waits for ever;
    /// the caller has the time-out.
    pub async fn connect(&self, endpoints: &[String], first: usize) -> Channel {
        let mut at = first;
        loop {
            let endpoint = &endpoints[at % endpoints.len()];
            if let Some(target) = self.target(endpoint) {
                let started = Instant::now();
                if let Ok(channel) = target.connect().await {
                    return channel;
                }
                tokio::time::sleep(RETRY_PAUSE.saturating_sub(started.elapsed())).await;
            } else {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            at += 1;
        }
    }

    fn target(&self, endpoint: &str) -> Option<Endpoint> {
        let address = match endpoint.split_once("://") {
            Some(("http", rest)) => rest,
            _ => endpoint,
        };
        let target = Endpoint::from_shared(format!("http://{address}")).ok()?;
        Some(
            target
                .connect_timeout(self.global.dial_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(self.global.keepalive_time)
                .keep_alive_timeout(self.global.keepalive_timeout),
        )
    }
}

/// etcd's own errors are known by their text alone; others are named with their code.
pub fn error_text(status: &Status) -> String {
    let message = status.message();
    if message.starts_with("etcdserver: ")
        || message.starts_with("etcdclient: ")
        || message.starts_with("auth: ")
    {
        return message.to_owned();
    }
    match status.code() {
        Code::DeadlineExceeded => DEADLINE_EXCEEDED.to_owned(),
        code => format!("rpc error: code = {code:?} desc = {message}"),
    }
}
