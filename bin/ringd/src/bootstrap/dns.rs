//! SRV look-ups at the system's name servers, one question at a time over blocking sockets.
//!
//! The C library resolves hosts only. A question goes to each name server in turn by UDP, and once more by TCP when the
//! answer did not fit; an answer counts only if it comes from that server and repeats the question.

mod message;
#[cfg(test)]
pub(super) mod tests;

pub use message::Place;
use message::{Answer, NoAnswer};
use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// The C library's limits of what resolv.conf may ask for.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
const TIMEOUT_S_MAX: u64 = 30;
const ATTEMPTS_MAX: u32 = 5;
const NDOTS_MAX: usize = 15;
/// A UDP answer to a question without extensions.
const UDP_BYTES_MAX: usize = 512;

/// Answers in which the server says that it did its work.
const CODE_NO_ERROR: u8 = 0;
const CODE_NO_SUCH_NAME: u8 = 3;

/// Why there is no answer, in the words of Go's resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupError {
    name: String,
    server: Option<SocketAddr>,
    why: String,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lookup {}", self.name)?;
        if let Some(server) = self.server {
            write!(f, " on {server}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for LookupError {}

/// Where questions go, and with how much patience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServers {
    pub servers: Vec<SocketAddr>,
    /// Domains to try a name in.
    pub search: Vec<String>,
    /// A name with fewer dots is tried in the domains first.
    pub ndots: usize,
    pub timeout: Duration,
    pub attempts: u32,
}

impl Default for NameServers {
    fn default() -> NameServers {
        NameServers {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        }
    }
}

impl NameServers {
    /// Those of the system. Without a configuration there is one on this machine.
    pub fn of_system() -> NameServers {
        NameServers::parse(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
    }

    /// Reads a resolv.conf(5). What it does not say has the C library's defaults.
    pub fn parse(text: &str) -> NameServers {
        let mut found = NameServers::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if found.servers.len() < SERVERS_MAX => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    let server = address.map(|address| SocketAddr::new(address, PORT));
                    found.servers.extend(server);
                }
                Some("domain") => found.search = words.next().into_iter().map(plain).collect(),
                Some("search") => found.search = words.take(SEARCH_MAX).map(plain).collect(),
                Some("options") => words.for_each(|word| found.set(word)),
                _ => {}
            }
        }
        found.search.retain(|domain| !domain.is_empty());
        if found.servers.is_empty() {
            let local = IpAddr::from(Ipv4Addr::LOCALHOST);
            found.servers.push(SocketAddr::new(local, PORT));
        }
        found
    }

    fn set(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u64>() else {
            return;
        };
        match name {
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, TIMEOUT_S_MAX)),
            "attempts" => self.attempts = value.clamp(1, ATTEMPTS_MAX.into()) as u32,
            "ndots" => self.ndots = (value as usize).min(NDOTS_MAX),
            _ => {}
        }
    }

    /// The SRV records of a name, by priority and then by target, so that all who ask see the same order.
    pub fn places(&self, name: &str) -> Result<Vec<Place>, LookupError> {
        let name = plain(name);
        let mut last = None;
        for full in self.full_names(&name) {
            match self.places_of(&full) {
                Ok(places) => return Ok(places),
                Err((server, why)) => {
                    // The name as it was given explains more than one in some domain.
                    let shown = last.is_none() || full == name;
                    if shown {
                        last = Some((server, why));
                    }
                }
            }
        }
        let (server, why) = last.unwrap_or((None, "no such host".into()));
        Err(LookupError { name, server, why })
    }

    fn full_names(&self, name: &str) -> Vec<String> {
        let in_domains = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut names: Vec<String> = in_domains.collect();
        let place = match name.matches('.').count() >= self.ndots {
            true => 0,
            false => names.len(),
        };
        names.insert(place, name.to_owned());
        names
    }

    fn places_of(&self, name: &str) -> Result<Vec<Place>, (Option<SocketAddr>, String)> {
        let mut last = (None, "no name servers".to_owned());
        for _ in 0..self.attempts {
            for server in &self.servers {
                match self.ask(*server, name) {
                    Ok(places) if places.is_empty() => {
                        return Err((Some(*server), "no such host".into()))
                    }
                    Ok(places) => return Ok(places),
                    Err(error) => last = (Some(*server), shown(&error)),
                }
            }
        }
        Err(last)
    }

    /// No places are a certain answer too.
    fn ask(&self, server: SocketAddr, name: &str) -> io::Result<Vec<Place>> {
        let question = Asked::new(name)?;
        let end = Instant::now() + self.timeout;
        let mut answer = question.by_udp(server, end)?;
        if answer.truncated {
            answer = question.by_tcp(server, end)?;
        }
        match answer.code {
            CODE_NO_ERROR => Ok(answer.places),
            CODE_NO_SUCH_NAME => Ok(Vec::new()),
            _ => Err(misbehaving()),
        }
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_owned()
}

fn shown(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "i/o timeout".into(),
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

fn malformed() -> io::Error {
    io::Error::other("cannot unmarshal DNS message")
}

fn misbehaving() -> io::Error {
    io::Error::other("server misbehaving")
}

struct Asked {
    name: String,
    id: u16,
    bytes: Vec<u8>,
}

impl Asked {
    fn new(name: &str) -> io::Result<Asked> {
        // Forged answers must guess it.
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
        let id = u16::from_ne_bytes(id);
        let bytes = message::question(id, name);
        Ok(Asked {
            name: name.to_owned(),
            id,
            bytes: bytes.ok_or_else(|| io::Error::other("no such host"))?,
        })
    }

    fn by_udp(&self, server: SocketAddr, end: Instant) -> io::Result<Answer> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        // Datagrams from elsewhere do not arrive.
        socket.connect(server)?;
        socket.send(&self.bytes)?;
        let mut buffer = [0; UDP_BYTES_MAX];
        loop {
            socket.set_read_timeout(Some(left(end)?))?;
            match socket.recv(&mut buffer) {
                Ok(count) => match message::answer(&buffer[..count], self.id, &self.name) {
                    Ok(answer) => return Ok(answer),
                    Err(NoAnswer::Foreign) => {}
                    Err(NoAnswer::Malformed) => return Err(malformed()),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn by_tcp(&self, server: SocketAddr, end: Instant) -> io::Result<Answer> {
        let mut socket = TcpStream::connect_timeout(&server, left(end)?)?;
        socket.set_write_timeout(Some(left(end)?))?;
        let length = u16::try_from(self.bytes.len()).map_err(|_| misbehaving())?;
        socket.write_all(&[&length.to_be_bytes()[..], &self.bytes].concat())?;
        let mut length = [0; 2];
        read_exact(&mut socket, &mut length, end)?;
        let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
        read_exact(&mut socket, &mut response, end)?;
        match message::answer(&response, self.id, &self.name) {
            Ok(answer) if !answer.truncated => Ok(answer),
            Ok(_) | Err(NoAnswer::Foreign) => Err(misbehaving()),
            Err(NoAnswer::Malformed) => Err(malformed()),
        }
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

fn read_exact(socket: &mut TcpStream, buffer: &mut [u8], end: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        socket.set_read_timeout(Some(left(end)?))?;
        match socket.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
