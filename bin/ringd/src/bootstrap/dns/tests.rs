//! Look-ups against a name server of the test's own, and answers of all kinds of brokenness.

use super::{message, message::NoAnswer, NameServers, Place};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

/// SRV records by name: priority, port, target.
pub type Zone = &'static [(&'static str, &'static [(u16, u16, &'static str)])];

#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    Plain,
    /// By UDP it says that the answer does not fit.
    TcpOnly,
    /// Before the answer come ones to other questions.
    Noisy,
    /// It has an error of its own.
    Failing,
    Silent,
}

/// A name server on a free port.
pub fn serve(zone: Zone, manner: Manner) -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        // The same port may be taken for the other protocol.
        let Ok(tcp) = TcpListener::bind(address) else {
            continue;
        };
        std::thread::spawn(move || datagrams(&udp, zone, manner));
        std::thread::spawn(move || {
            for socket in tcp.incoming() {
                let mut socket = socket.unwrap();
                let mut length = [0; 2];
                socket.read_exact(&mut length).unwrap();
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                socket.read_exact(&mut question).unwrap();
                let answer = answer(&question, zone, Manner::Plain);
                let length = (answer.len() as u16).to_be_bytes();
                socket.write_all(&[&length[..], &answer].concat()).unwrap();
            }
        });
        return address;
    }
}

fn datagrams(socket: &UdpSocket, zone: Zone, manner: Manner) {
    let mut buffer = [0; 512];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        let question = &buffer[..count];
        if manner == Manner::Silent {
            continue;
        }
        let answer = answer(question, zone, manner);
        if manner == Manner::Noisy {
            let mut other = answer.clone();
            other[0] ^= 1;
            socket.send_to(&other, from).unwrap();
            let mut other = answer.clone();
            other[13] ^= 1;
            socket.send_to(&other, from).unwrap();
            socket.send_to(question, from).unwrap();
        }
        socket.send_to(&answer, from).unwrap();
    }
}

fn answer(question: &[u8], zone: Zone, manner: Manner) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while question[at] != 0 {
        let length = usize::from(question[at]);
        name += std::str::from_utf8(&question[at + 1..at + 1 + length]).unwrap();
        name.push('.');
        at += 1 + length;
    }
    let name = name.trim_end_matches('.');
    let records = zone.iter().find(|(known, _)| *known == name);
    let (mut flags, mut records) = match records {
        None => (0x8183u16, &[][..]),
        Some((_, records)) => (0x8180, *records),
    };
    if manner == Manner::Failing {
        (flags, records) = (0x8182, &[]);
    }
    if manner == Manner::TcpOnly {
        (flags, records) = (flags | 0x0200, &[]);
    }
    let mut bytes = question.to_vec();
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (priority, port, target) in records {
        // The question's name, by a pointer.
        bytes.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
        let mut data = Vec::new();
        for word in [*priority, 7, *port] {
            data.extend_from_slice(&word.to_be_bytes());
        }
        for label in target.split('.') {
            data.push(label.len() as u8);
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&data);
    }
    bytes
}

pub fn asking(server: SocketAddr) -> NameServers {
    NameServers {
        servers: vec![server],
        ..NameServers::default()
    }
}

const ZONE: Zone = &[
    (
        "_etcd-server._tcp.example.com",
        &[
            (20, 1, "c.example.com"),
            (10, 2, "b.example.com"),
            (10, 3, "a.example.com"),
        ],
    ),
    ("empty.example.com", &[]),
];

fn place(priority: u16, target: &str, port: u16) -> Place {
    let target = target.to_owned();
    Place {
        priority,
        target,
        port,
    }
}

#[test]
fn records_come_in_one_order_by_udp_and_by_tcp() {
    for manner in [Manner::Plain, Manner::TcpOnly, Manner::Noisy] {
        let servers = asking(serve(ZONE, manner));
        let places = servers.places("_etcd-server._tcp.example.com.").unwrap();
        let expected = [
            place(10, "a.example.com.", 3),
            place(10, "b.example.com.", 2),
            place(20, "c.example.com.", 1),
        ];
        assert_eq!(places, expected);
    }
}

#[test]
fn failures_are_told_in_the_words_of_gos_resolver() {
    let server = serve(ZONE, Manner::Plain);
    let failed = |servers: &NameServers, name: &str| servers.places(name).unwrap_err().to_string();
    for name in ["none.example.com", "empty.example.com"] {
        let text = format!("lookup {name} on {server}: no such host");
        assert_eq!(failed(&asking(server), name), text);
    }
    let failing = serve(ZONE, Manner::Failing);
    let text = format!("lookup a.b on {failing}: server misbehaving");
    assert_eq!(failed(&asking(failing), "a.b"), text);
    let silent = serve(ZONE, Manner::Silent);
    let mut servers = asking(silent);
    servers.timeout = Duration::from_millis(20);
    let text = format!("lookup a.b on {silent}: i/o timeout");
    assert_eq!(failed(&servers, "a.b"), text);
    // A server that does not know better leaves it to the next one.
    servers.timeout = Duration::from_secs(1);
    servers.servers = vec![silent, failing, server];
    assert_eq!(
        servers
            .places("_etcd-server._tcp.example.com")
            .unwrap()
            .len(),
        3
    );
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let text = format!("lookup a.b on {closed}: connection refused");
    assert_eq!(failed(&asking(closed), "a.b"), text);
    assert!(failed(&asking(server), "a..b").ends_with("no such host"));
}

#[test]
fn names_are_tried_in_the_search_domains() {
    let mut servers = asking(serve(ZONE, Manner::Plain));
    servers.search = vec!["none.org".into(), "example.com".into()];
    assert_eq!(servers.places("_etcd-server._tcp").unwrap().len(), 3);
    let error = servers.places("_other._tcp").unwrap_err().to_string();
    assert!(error.starts_with("lookup _other._tcp on "), "{error}");
    let first = |ndots| {
        let servers = NameServers {
            ndots,
            ..servers.clone()
        };
        servers.full_names("a.b").swap_remove(0)
    };
    assert_eq!((first(1), first(2)), ("a.b".into(), "a.b.none.org".into()));
}

#[test]
fn resolv_conf_is_read() {
    let text = "# a comment\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1\nsearch a.example. b.example\n\
        options timeout:2 attempts:9 ndots:5 rotate\n";
    let found = NameServers::parse(text);
    let servers = ["10.0.0.1:53", "[::1]:53"].map(|s| s.parse().unwrap());
    assert_eq!(found.servers, servers);
    assert_eq!(found.search, ["a.example", "b.example"]);
    assert_eq!(
        (found.timeout.as_secs(), found.attempts, found.ndots),
        (2, 5, 5)
    );
    let none = NameServers::parse("");
    assert_eq!(none.servers, ["127.0.0.1:53".parse().unwrap()]);
}

#[test]
fn broken_answers_end() {
    const NAME: &str = "_etcd-server._tcp.example.com";
    let question = message::question(7, NAME).unwrap();
    let whole = answer(&question, ZONE, Manner::Plain);
    assert_eq!(message::answer(&whole, 7, NAME).unwrap().places.len(), 3);
    for end in 0..whole.len() {
        assert!(message::answer(&whole[..end], 7, NAME).is_err(), "{end}");
    }
    // Any change is either an answer or none, but it is found out.
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let _ = message::answer(&changed, 7, NAME);
        }
    }
    // A name that is a pointer to itself.
    let mut looped = whole.clone();
    let record = question.len();
    looped[record] = 0xc0;
    looped[record + 1] = record as u8;
    assert_eq!(message::answer(&looped, 7, NAME), Err(NoAnswer::Malformed));
    let too_long = "a".repeat(64);
    assert_eq!(message::question(7, &too_long), None);
    let too_long = vec!["a".repeat(60); 5].join(".");
    assert_eq!(message::question(7, &too_long), None);
}
