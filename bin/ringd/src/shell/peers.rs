//! Connections to other members: names to addresses, and sockets.
//!
//! Resolving a name may take as long as a name server likes, so it happens on threads of its own; what was found is kept
//! for a few seconds, and forgotten when it leads nowhere.

use super::{sockets::read, Completion, Core};
use crate::{
    peers::DialFailure,
    server::Link,
    shell::{mailbox::Mailbox, pool::Pool},
};
use net::driver::Socket;
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    net::{SocketAddr, ToSocketAddrs},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// Names kept. Above: the oldest one is forgotten.
const NAMES_MAX: usize = 64;
/// How long a name stands for its addresses.
const NAME_AGE_MAX: Duration = Duration::from_secs(10);
/// Connections that wait for one name. Above: the oldest, which has been given up by now, is dropped.
const WAITING_MAX: usize = 16;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Threads that resolve names. One that hangs at a name server keeps no other name waiting, mostly.
const RESOLVER_THREADS: usize = 2;

/// A connection that waits to be opened.
pub struct Dial {
    pub connection: u32,
    pub timeout: Duration,
}

/// Names, their addresses, and who waits for them.
pub struct Resolver {
    pool: Pool<Completion>,
    known: BTreeMap<String, (Instant, Vec<SocketAddr>)>,
    /// Names that are being resolved.
    asked: BTreeMap<String, VecDeque<Dial>>,
}

impl Resolver {
    pub fn start(mailbox: Arc<Mailbox<Completion>>) -> io::Result<Resolver> {
        Ok(Resolver {
            pool: Pool::start("resolver", RESOLVER_THREADS, mailbox)?,
            known: BTreeMap::new(),
            asked: BTreeMap::new(),
        })
    }

    /// The addresses of `host:port`; if they are not known, they are asked for and the dial is kept until then.
    pub fn resolve(&mut self, address: &str, dial: Dial) -> Option<(Dial, Vec<SocketAddr>)> {
        if let Ok(address) = address.parse() {
            return Some((dial, vec![address]));
        }
        let known = self.known.get(address);
        if let Some((_, addresses)) = known.filter(|(since, _)| since.elapsed() < NAME_AGE_MAX) {
            return Some((dial, addresses.clone()));
        }
        if let Some(waiting) = self.asked.get_mut(address) {
            if waiting.len() >= WAITING_MAX {
                waiting.pop_front();
            }
            waiting.push_back(dial);
            return None;
        }
        self.asked
            .insert(address.to_owned(), VecDeque::from([dial]));
        let name = address.to_owned();
        self.pool.submit(move || {
            let found = name.to_socket_addrs();
            let addresses = found.map(|found| found.take(ADDRESSES_MAX).collect());
            Completion::Resolved {
                addresses: addresses.unwrap_or_default(),
                name,
            }
        });
        None
    }

    /// Takes an answer in and hands out who waited for it.
    pub fn resolved(&mut self, name: String, addresses: &[SocketAddr]) -> VecDeque<Dial> {
        let waiting = self.asked.remove(&name).unwrap_or_default();
        if addresses.is_empty() {
            return waiting;
        }
        if self.known.len() >= NAMES_MAX && !self.known.contains_key(&name) {
            let oldest = self.known.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.known
            .insert(name, (Instant::now(), addresses.to_vec()));
        waiting
    }

    /// These addresses lead nowhere; maybe their name has others by now.
    pub fn forget(&mut self, failed: &[SocketAddr]) {
        self.known
            .retain(|_, (_, addresses)| addresses.as_slice() != failed);
    }

    pub fn stop(&mut self) {
        Pool::stop(&mut [&mut self.pool]);
    }
}

/// Opens a connection and serves it.
pub async fn dial(core: Rc<RefCell<Core>>, dial: Dial, addresses: Vec<SocketAddr>) {
    let result = connect(&addresses, dial.timeout).await;
    let link = Link::Peer(dial.connection);
    let (outcome, socket) = match result {
        Ok(socket) => (Ok(()), Some(socket)),
        Err(failure) => (Err(failure), None),
    };
    let wanted = {
        let mut core = core.borrow_mut();
        let now_ns = core.now_ns();
        if outcome.is_err() {
            core.unreached.push(addresses);
        }
        let wanted = core.server.dialled(dial.connection, outcome, now_ns);
        if let Some(socket) = socket.as_ref().filter(|_| wanted) {
            core.sockets.insert(link, socket.clone());
        }
        core.wake();
        wanted
    };
    match socket {
        Some(socket) if wanted => read(socket, link, core).await,
        Some(socket) => socket.shutdown(),
        None => {}
    }
}

/// Tries one address after the other. Refused means: by all of them.
async fn connect(addresses: &[SocketAddr], timeout: Duration) -> Result<Socket, DialFailure> {
    let end = Instant::now() + timeout;
    let mut failures = Vec::new();
    for address in addresses {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialFailure::Other);
        }
        match Socket::connect(*address, left).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failures.push(dial_failure(error.kind())),
        }
    }
    Err(worst(&failures))
}

fn dial_failure(kind: io::ErrorKind) -> DialFailure {
    match kind {
        io::ErrorKind::ConnectionRefused => DialFailure::Refused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => DialFailure::Reset,
        _ => DialFailure::Other,
    }
}

/// What the failures at all addresses of a name prove together: as much as the one that proves least.
fn worst(failures: &[DialFailure]) -> DialFailure {
    let any = |failure| failures.contains(&failure);
    if failures.is_empty() || any(DialFailure::Other) {
        DialFailure::Other
    } else if any(DialFailure::Reset) {
        DialFailure::Reset
    } else {
        DialFailure::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_if_all_of_its_addresses_refuse() {
        use DialFailure::{Other, Refused, Reset};
        assert_eq!(worst(&[]), Other);
        assert_eq!(worst(&[Refused, Refused]), Refused);
        assert_eq!(worst(&[Refused, Reset]), Reset);
        assert_eq!(worst(&[Reset, Other, Refused]), Other);
    }
}
