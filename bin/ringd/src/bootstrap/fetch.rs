//! One HTTP/1.1 GET at a time over a blocking socket: what a member asks of others before its executor runs.

use crate::config::Url;
use net::http1::{Client, ClientError, ClientEvent, Headers};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

/// Largest body that is taken.
const BODY_BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
    headers: Headers,
}

impl Response {
    /// The value of a header; its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// Asks for a path below a peer URL; all of it takes at most `patience`.
pub fn get(url: &Url, path: &str, patience: Duration) -> io::Result<Response> {
    if url.scheme().is_tls() || url.scheme().is_unix() {
        let text = format!("{url}: only http is spoken to other members yet");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let end = Instant::now() + patience;
    let mut socket = connect(url, end)?;
    socket.set_write_timeout(Some(left(end)?))?;
    let mut client = Client::default();
    let host = url.address();
    client.request("GET", path, host, &[("Connection", "close")], None);
    socket.write_all(client.output().bytes())?;
    let mut response = Response::default();
    let mut buffer = [0; 16 << 10];
    loop {
        socket.set_read_timeout(Some(left(end)?))?;
        let count = match socket.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if take(&mut client, &buffer[..count], &mut response)? {
            return Ok(response);
        }
    }
}

/// Takes what was read, nothing at the end of the input; true once the response is complete.
fn take(client: &mut Client, bytes: &[u8], response: &mut Response) -> io::Result<bool> {
    let refused = |error| match error {
        ClientError::Malformed => io::Error::other("the response is no HTTP/1.1"),
        ClientError::Incomplete => io::Error::other("the response is cut off"),
    };
    client.receive(bytes);
    while let Some(event) = client.next().map_err(refused)? {
        match event {
            ClientEvent::Head(head) => {
                (response.status, response.headers) = (head.status, head.headers);
            }
            ClientEvent::Data(data) if response.body.len() + data.len() > BODY_BYTES_MAX => {
                return Err(io::Error::other("the response is too large"));
            }
            ClientEvent::Data(data) => response.body.extend_from_slice(data),
            ClientEvent::End => return Ok(true),
        }
    }
    if bytes.is_empty() {
        return match client.end_of_input().map_err(refused)? {
            true => Ok(true),
            false => Err(refused(ClientError::Incomplete)),
        };
    }
    Ok(false)
}

fn connect(url: &Url, end: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = url.address().to_socket_addrs()?.collect();
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, left(end)?) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response to a request, read in two pieces.
    fn parse(text: &str, cut: usize) -> io::Result<Response> {
        let mut client = Client::default();
        client.request("GET", "/", "host", &[], None);
        let mut response = Response::default();
        let (one, two) = text.as_bytes().split_at(cut);
        for piece in [one, two, &[]].into_iter().filter(|p| !p.is_empty()) {
            if take(&mut client, piece, &mut response)? {
                return Ok(response);
            }
        }
        take(&mut client, &[], &mut response).map(|_| response)
    }

    #[test]
    fn bodies_by_length_by_chunks_and_to_the_end() {
        for (text, body) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", "ab"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", "abcd"),
            ("HTTP/1.1 404 Not Found\r\n\r\nnothing", "nothing"),
        ] {
            for cut in 0..text.len() {
                let response = parse(text, cut).expect("a response");
                assert_eq!(response.body, body.as_bytes(), "{text:?} cut at {cut}");
                assert_eq!(response.status, text[9..12].parse::<u16>().expect("a status"));
            }
        }
    }

    #[test]
    fn cut_responses_are_refused() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
        ] {
            assert!(parse(text, 0).is_err(), "{text:?}");
        }
    }
}
