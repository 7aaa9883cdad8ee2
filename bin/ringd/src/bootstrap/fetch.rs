//! One HTTP/1.1 GET at a time over a blocking socket: what a member asks of others before its executor runs.

use crate::config::Url;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

/// Largest response that is taken.
const RESPONSE_BYTES_MAX: usize = 8 << 20;
const HEADERS_MAX: usize = 64;

pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Response {
    /// The value of a header; its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .find(found)
            .map(|(_, value)| value.as_str())
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
    let host = url.address();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        socket.set_read_timeout(Some(left(end)?))?;
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > RESPONSE_BYTES_MAX {
            return Err(io::Error::other("the response is too large"));
        }
    }
    parse(&bytes).ok_or_else(|| io::Error::other("the response is no HTTP/1.1"))
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

fn parse(bytes: &[u8]) -> Option<Response> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(at) = head.parse(bytes).ok()? else {
        return None;
    };
    let mut response = Response {
        status: head.code?,
        body: Vec::new(),
        headers: head
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_string(), value)
            })
            .collect(),
    };
    let rest = &bytes[at..];
    response.body = match response.header("transfer-encoding") {
        Some(coding) if coding.eq_ignore_ascii_case("chunked") => unchunk(rest)?,
        _ => match response.header("content-length") {
            Some(length) => rest.get(..length.parse().ok()?)?.to_vec(),
            None => rest.to_vec(),
        },
    };
    Some(response)
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((at, size)) = httparse::parse_chunk_size(bytes).ok()? else {
            return None;
        };
        if size == 0 {
            return Some(body);
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(bytes.get(at..end)?);
        bytes = bytes.get(end.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_by_length_by_chunks_and_to_the_end() {
        let body = |text: &str| parse(text.as_bytes()).map(|response| response.body);
        let counted = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc";
        assert_eq!(body(counted).as_deref(), Some(&b"ab"[..]));
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(body(chunked).as_deref(), Some(&b"abcd"[..]));
        let open = "HTTP/1.1 404 Not Found\r\n\r\nnothing";
        assert_eq!(body(open).as_deref(), Some(&b"nothing"[..]));
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
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
