//! Who is dialled when, and what lost and refused connections prove.
//!
//! Every member keeps two streams open from every other one. A stream that was open and is lost is dialled again at once,
//! then after growing pauses, the longest of which is far below an election timeout.
//!
//! A closed stream whose redial is refused by all addresses is proof that the process is dead: a partition gives time-outs,
//! and a restart in between gives a connection. Only this evidence, and only while it is fresh, becomes
//! [`Input::Refused`].

use super::{
    connection::{End, Lost},
    outbound::{Heard, Outbound, Work},
    peer::Peer,
    Action, Transport,
};
use crate::member::Input;
use net::{
    http1::{Headers, ResponseHead},
    peer::{seal, Decoder, Kind, Remote, Version},
};

/// The first pause before a redial; each further one is twice as long.
const PAUSE_NS_MIN: u64 = 10_000_000;
/// The longest, and what a stream must have lasted for its loss to be followed by a redial without pause.
const PAUSE_NS_MAX: u64 = 100_000_000;
/// A refusal proves nothing about a stream that was lost longer ago.
const EVIDENCE_NS_MAX: u64 = 1_000_000_000;
/// The oldest etcd whose streams are understood.
const STREAM_VERSION_MIN: Version = Version::new(3, 0);

/// A stream that is over.
struct EndedStream {
    kind: Kind,
    url: usize,
    /// How long it was open, if it was at all.
    lasted_ns: Option<u64>,
    lost: Lost,
}

impl Transport {
    /// Opens the streams whose time has come.
    pub(super) fn dial_streams(&mut self, now_ns: u64) {
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.is_remote || peer.url_count() == 0 {
                continue;
            }
            for kind in Kind::ALL {
                let reader = peer.reader(kind);
                if reader.connection.is_none() && reader.next_ns <= now_ns {
                    due.push((*id, kind));
                }
            }
        }
        for (id, kind) in due {
            self.dial_stream(id, kind, now_ns);
        }
    }

    fn dial_stream(&mut self, id: u64, kind: Kind, now_ns: u64) {
        let me = self.config.local.member_id;
        let path = format!("/raft/stream/{}/{me:x}", kind.name());
        let work = Work::Stream {
            kind,
            decoder: None,
        };
        let deadline_ns = now_ns + self.config.dial_timeout_ns();
        let Some((url, address)) = self.peers.get(&id).and_then(Peer::address) else {
            return;
        };
        let mut outbound = Outbound::new(id, url, work, deadline_ns);
        let mut fields = self.config.local.request(Some(id));
        seal(&format!("GET {path}"), &mut fields);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        outbound
            .client
            .request("GET", &path, address, &fields, None);
        let address = address.to_owned();
        let connection = self.open(outbound, address);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.reader(kind).connection = Some(connection);
        }
    }

    /// Has a connection opened.
    pub(super) fn open(&mut self, outbound: Outbound, address: String) -> u32 {
        let connection = self.new_connection(End::Out(Box::new(outbound)));
        self.actions.push(Action::Dial {
            connection,
            address,
            timeout_ns: self.config.dial_timeout_ns(),
        });
        connection
    }

    pub(super) fn outbound_ended(&mut self, id: u32, outbound: Outbound, lost: Lost, now_ns: u64) {
        let to = outbound.peer;
        match outbound.work {
            Work::Stream { kind, decoder } => {
                let lasted_ns = outbound.opened_ns;
                let lasted_ns = lasted_ns.map(|opened_ns| now_ns.saturating_sub(opened_ns));
                let lasted_ns = lasted_ns.filter(|_| decoder.is_some());
                let ended = EndedStream {
                    kind,
                    url: outbound.url,
                    lasted_ns,
                    lost,
                };
                self.stream_lost(to, &ended, now_ns);
            }
            Work::Exchange {
                exchange,
                reused,
                heard,
                ..
            } => {
                let stale = reused && !heard && lost == Lost::Closed;
                self.exchange_failed(to, outbound.url, exchange, stale, lost, now_ns);
            }
            Work::Idle => {
                if let Some(peer) = self.peers.get_mut(&to) {
                    peer.idle.retain(|idle| *idle != id);
                }
            }
        }
    }

    fn stream_lost(&mut self, id: u64, ended: &EndedStream, now_ns: u64) {
        let EndedStream {
            kind,
            url,
            lasted_ns,
            lost,
        } = *ended;
        self.streams_changed(id, |peer| {
            let reader = peer.reader(kind);
            reader.connection = None;
            reader.up = false;
        });
        let pause_ns_max = PAUSE_NS_MAX.min(self.config.election_ns / 4);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let mut more_urls = false;
        match lost {
            Lost::Closed if lasted_ns.is_some() => {
                peer.forget_loss();
                peer.lost_ns = Some(now_ns);
            }
            // A dying process may still take connections, and resets them.
            Lost::Closed => peer.url_failed(url),
            Lost::Refused => {
                peer.url_failed(url);
                let fresh = |lost_ns| now_ns.saturating_sub(lost_ns) <= EVIDENCE_NS_MAX;
                if peer.lost_ns.is_some_and(fresh) {
                    if peer.url_refused(url) {
                        peer.forget_loss();
                        self.inputs.push(Input::Refused { peer: id });
                    } else {
                        more_urls = true;
                    }
                }
            }
            Lost::Failed | Lost::TimedOut | Lost::Broken => {
                peer.url_failed(url);
                peer.forget_loss();
            }
            Lost::Dropped => return,
        }
        let reader = peer.reader(kind);
        if lasted_ns.is_some_and(|lasted_ns| lasted_ns >= PAUSE_NS_MAX) {
            reader.attempts = 0;
        }
        let pause_ns = match reader.attempts {
            _ if more_urls => 0,
            0 => 0,
            attempts => (PAUSE_NS_MIN << (attempts - 1).min(8)).min(pause_ns_max),
        };
        reader.attempts = reader.attempts.saturating_add(1);
        reader.next_ns = now_ns + pause_ns;
        match pause_ns {
            0 => self.dial_stream(id, kind, now_ns),
            after_ns => self.actions.push(Action::Wake { after_ns }),
        }
    }

    /// Bytes came by a connection that this member opened.
    pub(super) fn hear(&mut self, id: u32, bytes: &[u8], now_ns: u64) {
        if let Some(End::Out(outbound)) = self.connections.get_mut(&id).map(|c| &mut c.end) {
            outbound.receive(bytes, now_ns);
        }
        self.draw_heard(id, now_ns);
    }

    /// An answer may end with its connection.
    pub(super) fn hear_end(&mut self, id: u32, now_ns: u64) {
        let Some(End::Out(outbound)) = self.connections.get_mut(&id).map(|c| &mut c.end) else {
            return;
        };
        if outbound.client.end_of_input() == Ok(true) {
            if let Some(Heard::Answer {
                status,
                headers,
                body,
            }) = outbound.answer()
            {
                self.exchange_answered(id, status, &headers, body, now_ns);
            }
        }
    }

    fn draw_heard(&mut self, id: u32, now_ns: u64) {
        loop {
            let Some(End::Out(outbound)) = self.connections.get_mut(&id).map(|c| &mut c.end) else {
                return;
            };
            let peer = outbound.peer;
            match outbound.next() {
                None => return,
                Some(Heard::Message(message)) => self.take_message(message),
                Some(Heard::Opened(head)) => self.stream_answered(id, peer, &head, now_ns),
                Some(Heard::Answer {
                    status,
                    headers,
                    body,
                }) => self.exchange_answered(id, status, &headers, body, now_ns),
                Some(Heard::Ended(lost, text)) => {
                    if let Some(text) = text {
                        let line = format!("a connection to member {peer:x} is given up: {text}");
                        self.notices.say(now_ns, line);
                    }
                    return self.end(id, lost, now_ns);
                }
            }
        }
    }

    /// The answer to the request for a stream.
    fn stream_answered(&mut self, id: u32, from: u64, head: &ResponseHead, now_ns: u64) {
        self.learn_software(from, &head.headers);
        if self.hear_refusal(from, &head.headers) {
            return self.end(id, Lost::Dropped, now_ns);
        }
        if self.check_standing(from, &head.headers, now_ns).is_err() {
            return self.end(id, Lost::Failed, now_ns);
        }
        match head.status {
            200 => {}
            410 => {
                self.inputs.push(Input::RemovedHere);
                return self.end(id, Lost::Dropped, now_ns);
            }
            // It does not know this member yet.
            404 => return self.end(id, Lost::Failed, now_ns),
            status => {
                let line = format!(
                    "member {from:x} refuses to send its messages: status {status}. Check that both are members of one \
                     cluster and that their versions go together"
                );
                self.notices.say(now_ns, line);
                return self.end(id, Lost::Failed, now_ns);
            }
        }
        let version = head.headers.get("X-Server-Version");
        let version = version.and_then(Version::parse);
        if version.is_none_or(|version| version < STREAM_VERSION_MIN) {
            let line = format!("the streams of member {from:x} are unsupported: it is too old");
            self.notices.say(now_ns, line);
            return self.end(id, Lost::Failed, now_ns);
        }
        let me = self.config.local.member_id;
        let checksums = Remote::of(&head.headers).checksums;
        let Some(End::Out(outbound)) = self.connections.get_mut(&id).map(|c| &mut c.end) else {
            return;
        };
        let Work::Stream { kind, .. } = outbound.work else {
            return;
        };
        outbound.begin_stream(Decoder::new(kind, checksums, from, me));
        self.streams_changed(from, |peer| {
            peer.forget_loss();
            peer.reader(kind).up = true;
        });
    }

    pub(super) fn learn_software(&mut self, id: u64, headers: &Headers) {
        if headers.get("X-Etcd-Cluster-ID").is_none() {
            return; // not an answer to a Raft request
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            let remote = Remote::of(headers);
            peer.learn_software(remote.snapshots);
            (peer.compares, peer.copies) = (remote.results, remote.copies);
        }
    }
}
