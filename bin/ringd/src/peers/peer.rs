//! What the transport knows of one other member.

use super::{exchange::Queues, snapshot::Sending, standing::Known, types::PeerAsk};
use crate::config::{url::Scheme, Url};
use net::peer::Kind;

/// URLs of a member that are tried.
const URLS_MAX: usize = 16;

/// Whether the other side understands what only ringd knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Unknown,
    Etcd,
    Ringd,
}

/// A stream that this member reads.
#[derive(Debug, Default)]
pub struct Reader {
    pub connection: Option<u32>,
    /// It is open, and messages may come.
    pub up: bool,
    /// When it is dialled next.
    pub next_ns: u64,
    /// Attempts since it was last open.
    pub attempts: u32,
}

pub struct Peer {
    /// It spoke to this member and is not one of the cluster's as far as is known here: a member that was added lately, or
    /// the leader of a cluster that this one joins. It is answered, not dialled.
    pub is_remote: bool,
    pub since_ns: u64,
    urls: Vec<Url>,
    /// The URL that is tried next.
    url_at: usize,
    /// A bit for each URL that refused a connection since a stream was lost.
    refused: u32,
    /// When a stream from this member was lost, until it is known why.
    pub lost_ns: Option<u64>,
    pub software: Software,
    /// It compares results of the log.
    pub compares: bool,
    /// It gives copies of its pages.
    pub copies: bool,
    readers: [Reader; 2],
    /// The connections by which it receives.
    writers: [Option<u32>; 2],
    pub queues: Queues,
    /// Connections for single requests that are open and unused.
    pub idle: Vec<u32>,
    pub probe_next_ns: u64,
    pub sending: Option<Sending>,
    pub standing: Known,
}

impl Peer {
    pub fn new(now_ns: u64) -> Peer {
        Peer {
            is_remote: false,
            since_ns: now_ns,
            urls: Vec::new(),
            url_at: 0,
            refused: 0,
            lost_ns: None,
            software: Software::Unknown,
            compares: false,
            copies: false,
            readers: Default::default(),
            writers: [None; 2],
            queues: Queues::default(),
            idle: Vec::new(),
            probe_next_ns: 0,
            sending: None,
            standing: Known::default(),
        }
    }

    /// Takes over the URLs that can be dialled. False if there is none.
    pub fn set_urls(&mut self, urls: &[String]) -> bool {
        let parsed = urls.iter().filter_map(|url| Url::parse(url).ok());
        let plain = parsed.filter(|url| url.scheme() == Scheme::Http);
        let urls: Vec<Url> = plain.take(URLS_MAX).collect();
        if urls != self.urls {
            self.urls = urls;
            self.url_at = 0;
            self.forget_loss();
        }
        !self.urls.is_empty()
    }

    pub fn url_count(&self) -> usize {
        self.urls.len()
    }

    /// The URL whose turn it is, by its number and as `host:port`.
    pub fn address(&self) -> Option<(usize, &str)> {
        let url = self.urls.get(self.url_at)?;
        Some((self.url_at, url.address()))
    }

    /// This URL did not work: another one's turn.
    pub fn url_failed(&mut self, at: usize) {
        if at == self.url_at {
            self.url_at = (at + 1).checked_rem(self.urls.len()).unwrap_or(0);
        }
    }

    /// This URL refused a connection. True if by now all of them have, since a stream was lost.
    pub fn url_refused(&mut self, at: usize) -> bool {
        self.refused |= 1 << at.min(URLS_MAX);
        self.refused.count_ones() as usize >= self.urls.len()
    }

    /// What is known of a lost stream has no meaning any more.
    pub fn forget_loss(&mut self) {
        self.lost_ns = None;
        self.refused = 0;
    }

    pub fn reader(&mut self, kind: Kind) -> &mut Reader {
        &mut self.readers[kind as usize]
    }

    pub fn writer(&self, kind: Kind) -> Option<u32> {
        self.writers[kind as usize]
    }

    pub fn set_writer(&mut self, kind: Kind, connection: Option<u32>) {
        self.writers[kind as usize] = connection;
    }

    /// Message streams from and to this member that are open.
    pub fn message_streams(&self) -> usize {
        let reads = self.readers[Kind::Message as usize].up;
        let writes = self.writer(Kind::Message).is_some();
        usize::from(reads) + usize::from(writes)
    }

    pub fn learn_software(&mut self, is_ringd: bool) {
        self.software = match is_ringd {
            true => Software::Ringd,
            false => Software::Etcd,
        };
    }
}

impl PeerAsk {
    /// Whether it may be sent a second time without knowing what became of the first.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self, PeerAsk::Promote(_))
    }
}
