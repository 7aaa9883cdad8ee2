//! A network between members that can be broken: each member advertises a proxy in front of its peer port, and every
//! connection through it is known by who opened it.
//!
//! A [`Link`] is the state of one direction between two members, whoever opened the connections between them. The opener of
//! a connection is found by its socket: members are processes of this machine, and `/proc` tells which of them holds it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, Instant};

/// Of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks under way in one direction of a connection; more is left to the sender's socket.
const CHUNKS_MAX: usize = 256;

/// For the process that holds a socket.
const LOOKS_MAX: u32 = 40;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// One direction between two members.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    Open,
    /// Everything arrives that much later.
    Late(Duration),
    /// Nothing arrives, and nothing tells the sender; what was sent arrives once the link is open again.
    Held,
    /// Connections between the two break, new ones break at once.
    Cut,
    /// Of so many chunks one arrives with a flipped bit.
    Garbled(u64),
}

/// All proxies of a cluster.
pub struct Network {
    wires: Arc<Wires>,
    proxies: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Wires {
    links: Mutex<BTreeMap<(usize, usize), watch::Sender<Link>>>,
    /// Process of each member that runs.
    processes: Mutex<BTreeMap<usize, u32>>,
    /// Chunks that a garbled link carried, and those that it changed.
    chunks: AtomicU64,
    flips: AtomicU64,
}

impl Wires {
    fn link(&self, from: usize, to: usize) -> watch::Receiver<Link> {
        let mut links = self.links.lock().expect("no proxy panicked");
        let sender = links.entry((from, to));
        sender
            .or_insert_with(|| watch::Sender::new(Link::Open))
            .subscribe()
    }

    /// Flips a bit in one of so many chunks, another one each time.
    fn garble(&self, chunk: &mut [u8], one_in: u64) {
        let count = self.chunks.fetch_add(1, Ordering::Relaxed);
        if count % one_in == 0 {
            let flips = self.flips.fetch_add(1, Ordering::Relaxed);
            // Odd, and no divisor of common lengths: all places have their turn.
            let bit = flips.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (chunk.len() as u64 * 8);
            chunk[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Who holds the other end of a connection. The kernel's table may miss a socket while others come and go.
    fn opener(&self, from: u16, to: u16) -> Option<Opener> {
        let mut processes: Vec<_> = {
            let processes = self.processes.lock().expect("no proxy panicked");
            let members = processes.iter();
            members
                .map(|(member, pid)| (Opener::Member(*member), *pid))
                .collect()
        };
        processes.push((Opener::Test, std::process::id()));
        (0..LOOKS_MAX).find_map(|look| {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let table = fs::read_to_string("/proc/net/tcp").ok()?;
            let socket = format!("socket:[{}]", inode_of(&table, from, to)?);
            let found = processes.iter().find(|(_, pid)| holds(*pid, &socket));
            found.map(|(opener, _)| *opener)
        })
    }
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Opener {
    Member(usize),
    /// This process, whose way is never broken.
    Test,
}

/// Whether a process has the socket open.
fn holds(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    files.any(|file| file.as_os_str() == socket)
}

/// The inode of the socket that is connected from one port of the loopback to another, by the table in `/proc/net/tcp`.
/// Several sockets may share their own port if they are connected to different ones.
fn inode_of(table: &str, from: u16, to: u16) -> Option<&str> {
    let loopback = |port: u16| format!("0100007F:{port:04X}");
    let (local, remote) = (loopback(from), loopback(to));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let found = fields.nth(1)? == local && fields.next()? == remote;
        found.then(|| fields.nth(6))?
    })
}

impl Default for Network {
    fn default() -> Self {
        Self {
            wires: Arc::new(Wires::default()),
            proxies: Vec::new(),
        }
    }
}

impl Network {
    /// Puts a proxy in front of a member's peer port; gives the proxy's port.
    pub async fn attach(&mut self, member: usize, peer_port: u16) -> io::Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let wires = self.wires.clone();
        self.proxies
            .push(tokio::spawn(serve(listener, member, peer_port, wires)));
        Ok(port)
    }

    /// Tells which process a member is now.
    pub fn runs_as(&self, member: usize, pid: u32) {
        let mut processes = self.wires.processes.lock().expect("no proxy panicked");
        processes.insert(member, pid);
    }

    /// Sets one direction.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        drop(self.wires.link(from, to));
        let links = self.wires.links.lock().expect("no proxy panicked");
        links[&(from, to)].send_replace(link);
    }

    /// Sets both directions.
    pub fn between(&self, a: usize, b: usize, link: Link) {
        self.set(a, b, link);
        self.set(b, a, link);
    }

    /// Sets both directions between each of `some` and each of `others`.
    pub fn divide(&self, some: &[usize], others: &[usize], link: Link) {
        for a in some {
            for b in others {
                self.between(*a, *b, link);
            }
        }
    }

    /// Bits that garbled links have flipped so far.
    pub fn flips(&self) -> u64 {
        self.wires.flips.load(Ordering::Relaxed)
    }

    /// Opens everything.
    pub fn heal(&self) {
        let links = self.wires.links.lock().expect("no proxy panicked");
        for link in links.values() {
            link.send_replace(Link::Open);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for proxy in &self.proxies {
            proxy.abort();
        }
    }
}

async fn serve(listener: TcpListener, member: usize, peer_port: u16, wires: Arc<Wires>) {
    loop {
        let Ok((opened, address)) = listener.accept().await else {
            // Out of descriptors, or the opener was gone before it was taken: the next may fare better.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(carry(opened, address, member, peer_port, wires.clone()));
    }
}

/// Carries one connection until an end closes or the link is cut.
async fn carry(
    mut opened: TcpStream,
    address: SocketAddr,
    member: usize,
    peer_port: u16,
    wires: Arc<Wires>,
) {
    let asked = wires.clone();
    let Ok(to) = opened.local_addr() else {
        return;
    };
    let opener = tokio::task::spawn_blocking(move || asked.opener(address.port(), to.port())).await;
    let open = watch::Sender::new(Link::Open);
    let (mut there, mut back) = match opener.ok().flatten() {
        Some(Opener::Member(opener)) => (wires.link(opener, member), wires.link(member, opener)),
        Some(Opener::Test) => (open.subscribe(), open.subscribe()),
        // Gone already, or a process that has ended: nobody misses it.
        None => return reset(&opened),
    };
    if *there.borrow() == Link::Cut || *back.borrow() == Link::Cut {
        reset(&opened);
        return;
    }
    let Ok(mut served) = TcpStream::connect(("127.0.0.1", peer_port)).await else {
        reset(&opened);
        return;
    };
    for socket in [&opened, &served] {
        let _ = socket.set_nodelay(true);
    }
    let (mut cut_there, mut cut_back) = (there.clone(), back.clone());
    let (read_opened, write_opened) = opened.split();
    let (read_served, write_served) = served.split();
    let ended = tokio::select! {
        _ = cut_there.wait_for(|link| *link == Link::Cut) => false,
        _ = cut_back.wait_for(|link| *link == Link::Cut) => false,
        both = async {
            tokio::try_join!(
                pump(read_opened, write_served, &mut there, &wires),
                pump(read_served, write_opened, &mut back, &wires),
            )
        } => both.is_ok(),
    };
    if !ended {
        reset(&opened);
        reset(&served);
    }
}

/// Closes without a farewell when the socket is dropped.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

/// Carries bytes one way until the sender closes or either end fails.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    link: &mut watch::Receiver<Link>,
    wires: &Wires,
) -> io::Result<()> {
    let mut chunks: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut ended = false;
    loop {
        let state = *link.borrow_and_update();
        let held = matches!(state, Link::Held | Link::Cut);
        let delay = match state {
            Link::Late(delay) => delay,
            _ => Duration::ZERO,
        };
        let due = chunks.front().map(|(due, _)| *due);
        if ended && due.is_none() {
            return to.shutdown().await;
        }
        tokio::select! {
            biased;
            changed = link.changed() => {
                changed.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if !held && due.is_some() => {
                let (_, chunk) = chunks.pop_front().expect("a chunk is due");
                to.write_all(&chunk).await?;
            }
            read = from.read(&mut buffer), if !held && !ended && chunks.len() < CHUNKS_MAX => {
                match read? {
                    0 => ended = true,
                    n => {
                        if let Link::Garbled(one_in) = state {
                            wires.garble(&mut buffer[..n], one_in);
                        }
                        chunks.push_back((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..n])));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n   \
             1: 0100007F:D431 0100007F:0017 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0 20 4 30 10 -1\n   \
             2: 0100007F:D431 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 77 1 0 20 4 30 10 -1\n";
        assert_eq!(inode_of(table, 0xd431, 22), Some("77"));
        assert_eq!(inode_of(table, 0xd431, 23), Some("78"));
        assert_eq!(inode_of(table, 22, 0xd431), None);
    }

    /// An echo behind a proxy; this process plays both members.
    async fn echo() -> (Network, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let peer_port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let mut network = Network::default();
        // Members are asked before the test itself.
        network.runs_as(1, std::process::id());
        let port = network.attach(0, peer_port).await.expect("a port");
        let socket = TcpStream::connect(("127.0.0.1", port)).await;
        (network, socket.expect("a connection"))
    }

    async fn heard(socket: &mut TcpStream, within_ms: u64) -> Option<io::Result<usize>> {
        let mut buffer = [0; 16];
        let within = Duration::from_millis(within_ms);
        tokio::time::timeout(within, socket.read(&mut buffer))
            .await
            .ok()
    }

    const PATIENCE_MS: u64 = 20_000;

    #[tokio::test]
    async fn what_is_held_arrives_late() {
        let (network, mut socket) = echo().await;
        socket.write_all(b"one").await.expect("a write");
        assert_eq!(
            heard(&mut socket, PATIENCE_MS)
                .await
                .expect("in time")
                .expect("no error"),
            3
        );
        for held in [(0, 1), (1, 0)] {
            network.set(held.0, held.1, Link::Held);
            socket.write_all(b"late").await.expect("a write");
            assert!(heard(&mut socket, 200).await.is_none(), "{held:?}");
            network.heal();
            assert_eq!(
                heard(&mut socket, PATIENCE_MS)
                    .await
                    .expect("in time")
                    .expect("no error"),
                4
            );
        }
    }

    #[tokio::test]
    async fn a_delay_is_kept() {
        let (network, mut socket) = echo().await;
        network.between(0, 1, Link::Late(Duration::from_millis(150)));
        let started = Instant::now();
        socket.write_all(b"slow").await.expect("a write");
        assert_eq!(
            heard(&mut socket, PATIENCE_MS)
                .await
                .expect("in time")
                .expect("no error"),
            4
        );
        assert!(started.elapsed() >= Duration::from_millis(300));
    }

    #[tokio::test]
    async fn a_cut_breaks_what_is_there_and_what_comes() {
        let (network, mut socket) = echo().await;
        socket.write_all(b"one").await.expect("a write");
        assert!(heard(&mut socket, PATIENCE_MS).await.is_some());
        let address = socket.peer_addr().expect("an address");
        network.between(0, 1, Link::Cut);
        let end = heard(&mut socket, PATIENCE_MS).await.expect("in time");
        assert!(matches!(end, Err(_) | Ok(0)), "{end:?}");
        let mut next = TcpStream::connect(address).await.expect("a connection");
        let end = heard(&mut next, PATIENCE_MS).await.expect("in time");
        assert!(matches!(end, Err(_) | Ok(0)), "{end:?}");
    }
}
