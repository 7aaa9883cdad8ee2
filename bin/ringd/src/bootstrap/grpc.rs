//! Calls to another etcd over one blocking connection, before the executor runs.

use crate::config::url::split_host_port;
use bytes::Bytes;
use net::{
    connection::Keepalive,
    grpc::{CallTemplate, Client, ClientEvent, Code, StreamId},
};
use std::{
    collections::VecDeque,
    fmt, io,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

/// Largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Servers disconnect clients that ping much more often, so that grpc-go does not do it either.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// Longest sleep in one read, for the sake of the timers.
const TURN: Duration = Duration::from_secs(1);

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailed {
    pub code: u32,
    pub message: String,
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl CallFailed {
    pub fn timed_out() -> CallFailed {
        CallFailed {
            code: Code::DEADLINE_EXCEEDED.0,
            message: "context deadline exceeded".into(),
        }
    }
}

impl From<io::Error> for CallFailed {
    fn from(error: io::Error) -> CallFailed {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => CallFailed::timed_out(),
            _ => CallFailed {
                code: Code::UNAVAILABLE.0,
                message: error.to_string(),
            },
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub dial: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

/// A connection to the first endpoint that takes one.
pub struct Channel {
    socket: TcpStream,
    client: Client,
    authority: String,
    begun: Instant,
    events: VecDeque<ClientEvent>,
    /// The server closed the connection: nothing more will come.
    closed: bool,
}

impl Channel {
    /// Endpoints are `host:port`.
    pub fn open(endpoints: &[String], patience: &Patience) -> Result<Channel, CallFailed> {
        let mut last = CallFailed::timed_out();
        for endpoint in endpoints {
            match dial(endpoint, patience.dial) {
                Ok(socket) => return Ok(Channel::over(socket, endpoint, patience)),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    fn over(socket: TcpStream, authority: &str, patience: &Patience) -> Channel {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let keepalive = Keepalive {
            interval_ns: ns(patience.ping_interval.max(PING_INTERVAL_MIN)),
            timeout_ns: ns(patience.ping_timeout),
            ..Keepalive::default()
        };
        Channel {
            socket,
            client: Client::new(keepalive, MESSAGE_BYTES_MAX, 0),
            authority: authority.to_owned(),
            begun: Instant::now(),
            events: VecDeque::new(),
            closed: false,
        }
    }

    /// A call with one message and one answer.
    pub fn call(
        &mut self,
        path: &str,
        message: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallFailed> {
        let stream = self.open_stream(path, message)?;
        self.client.half_close(stream);
        let end = Instant::now() + timeout;
        let mut answer = None;
        loop {
            match self.event(stream, Some(end)) {
                Ok(ClientEvent::Message { message, .. }) => answer = Some(message),
                Ok(ClientEvent::End { code, message, .. }) => {
                    return match (code, answer) {
                        (0, Some(answer)) => Ok(answer),
                        (0, None) => Err(CallFailed {
                            code: Code::INTERNAL.0,
                            message: "the server sent no answer".into(),
                        }),
                        _ => Err(CallFailed { code, message }),
                    }
                }
                Err(failed) => {
                    self.client.cancel(stream);
                    return Err(failed);
                }
            }
        }
    }

    /// A call with one message now and answers one by one.
    pub fn open_stream(&mut self, path: &str, message: &[u8]) -> Result<StreamId, CallFailed> {
        let mut template = CallTemplate::new(&self.authority, path, &[]);
        let stream = self.client.open(&mut template, None);
        let stream = stream.ok_or_else(|| CallFailed {
            code: Code::UNAVAILABLE.0,
            message: "the connection takes no further call".into(),
        })?;
        self.client.send(stream, message);
        Ok(stream)
    }

    /// The next answer of a stream, whenever it comes.
    pub fn next(&mut self, stream: StreamId) -> Result<Bytes, CallFailed> {
        match self.event(stream, None)? {
            ClientEvent::Message { message, .. } => Ok(message),
            ClientEvent::End { code, message, .. } => Err(CallFailed { code, message }),
        }
    }

    /// Waits for something to happen to a stream.
    fn event(&mut self, stream: StreamId, end: Option<Instant>) -> Result<ClientEvent, CallFailed> {
        loop {
            while let Some(event) = self.events.pop_front() {
                let (ClientEvent::Message { stream: of, .. } | ClientEvent::End { stream: of, .. }) =
                    &event;
                if *of == stream {
                    return Ok(event);
                }
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(CallFailed::timed_out());
            }
            self.turn(left.unwrap_or(TURN).min(TURN))?;
        }
    }

    /// Sends what waits, and reads once.
    fn turn(&mut self, patience: Duration) -> Result<(), CallFailed> {
        if self.closed {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        self.socket.set_write_timeout(Some(TURN))?;
        while !self.client.output().is_empty() {
            match self.socket.write(self.client.output().bytes()) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => self.client.output().consume(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 16 << 10];
        let mut events = Vec::new();
        let read = self.socket.read(&mut buffer);
        let now_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match read {
            Ok(0) => {
                self.closed = true;
                self.client.disconnect(&mut events);
            }
            Ok(count) => self.client.receive(&buffer[..count], now_ns, &mut events),
            Err(error) if is_no_data(&error) => {}
            Err(error) => return Err(error.into()),
        }
        self.client.on_timer(now_ns, &mut events);
        self.events.extend(events);
        Ok(())
    }
}

fn is_no_data(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn dial(endpoint: &str, patience: Duration) -> io::Result<TcpStream> {
    if split_host_port(endpoint).is_none() {
        let text = format!("{endpoint} is no host:port");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut last = io::Error::other("no such host");
    for address in endpoint.to_socket_addrs()? {
        match connect(address, patience) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, patience)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PATIENCE: Patience = Patience {
        dial: Duration::from_secs(5),
        ping_interval: Duration::from_secs(2),
        ping_timeout: Duration::from_secs(6),
    };
    const PATH: &str = "/etcdserverpb.KV/Range";

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    fn closed_port() -> String {
        listener().1
    }

    #[test]
    fn the_first_endpoint_that_takes_a_connection_is_used() {
        let (_listener, address) = listener();
        let endpoints = ["no port".to_owned(), closed_port(), address.clone()];
        let channel = Channel::open(&endpoints, &PATIENCE).ok().unwrap();
        assert_eq!(channel.authority, address);
        let failed = Channel::open(&endpoints[..2], &PATIENCE).err().unwrap();
        assert_eq!(failed.code, Code::UNAVAILABLE.0);
        assert!(Channel::open(&[], &PATIENCE).is_err());
    }

    #[test]
    fn a_silent_server_is_given_up_in_time() {
        let (_listener, address) = listener();
        let mut channel = Channel::open(&[address], &PATIENCE).ok().unwrap();
        let failed = channel.call(PATH, b"", Duration::from_millis(20));
        assert_eq!(failed.unwrap_err(), CallFailed::timed_out());
    }

    #[test]
    fn a_closed_connection_ends_all_calls() {
        let (listener, address) = listener();
        let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let mut channel = Channel::open(&[address], &PATIENCE).ok().unwrap();
        server.join().unwrap();
        let minute = Duration::from_secs(60);
        for _ in 0..3 {
            let failed = channel.call(PATH, b"", minute).unwrap_err();
            assert_ne!(failed, CallFailed::timed_out());
        }
        // Nor does a stream wait for ever.
        let stream = channel.open_stream(PATH, b"");
        assert!(stream.and_then(|stream| channel.next(stream)).is_err());
    }

    #[test]
    fn a_server_of_another_kind_is_told_apart() {
        let (listener, address) = listener();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = socket.read(&mut [0; 1024]);
        });
        let mut channel = Channel::open(&[address], &PATIENCE).ok().unwrap();
        let failed = channel
            .call(PATH, b"", Duration::from_secs(60))
            .unwrap_err();
        assert_ne!(failed, CallFailed::timed_out());
    }
}
