//! One call at a time over a blocking socket: for questions between the measurements, and for calls that are repeated
//! until some server answers.

use crate::{
    load::{Kind, Load},
    wire::{Arrival, Template, Wire},
};
use prost::Message;
use proto::etcdserverpb as pb;
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// A gRPC message begins with a byte for compression and four for its length.
const PREFIX_BYTES: usize = 5;

pub struct Client {
    socket: TcpStream,
    wire: Wire,
    /// Bytes of the answers so far, by stream.
    answers: BTreeMap<u32, Vec<u8>>,
    ended: Vec<u32>,
}

impl Client {
    pub fn connect(endpoint: SocketAddr) -> io::Result<Client> {
        let socket = TcpStream::connect_timeout(&endpoint, Duration::from_secs(1))?;
        socket.set_nodelay(true)?;
        Ok(Client {
            socket,
            wire: Wire::new(&endpoint.to_string()),
            answers: BTreeMap::new(),
            ended: Vec::new(),
        })
    }

    /// Sends a request and waits for its answer: the message, or `None` if there is none or it took too long.
    pub fn call(
        &mut self,
        template: &Template,
        key: u64,
        patience: Duration,
    ) -> io::Result<Option<Vec<u8>>> {
        let stream = self.wire.request(template, key, false);
        let end = Instant::now() + patience;
        while Instant::now() < end {
            self.turn(end)?;
            if self.ended.contains(&stream) {
                let answer = self.answers.remove(&stream).unwrap_or_default();
                return Ok(answer.get(PREFIX_BYTES..).map(<[u8]>::to_vec));
            }
        }
        Ok(None)
    }

    /// The member that answers, and the leader that it knows.
    pub fn id_and_leader(&mut self, patience: Duration) -> io::Result<(u64, u64)> {
        let template = Template::new("/etcdserverpb.Maintenance/Status", Vec::new(), Vec::new());
        let answer = self
            .call(&template, 0, patience)?
            .ok_or(io::ErrorKind::TimedOut)?;
        let status = pb::StatusResponse::decode(answer.as_slice())?;
        Ok((
            status.header.map_or(0, |header| header.member_id),
            status.leader,
        ))
    }

    /// Puts again and again, one request every `every` whether the earlier ones were answered or not, until the first is
    /// acknowledged.
    pub fn put_until_acknowledged(
        &mut self,
        every: Duration,
        patience: Duration,
    ) -> io::Result<bool> {
        let load = Load {
            kind: Kind::Put,
            ..Load::default()
        };
        let template = &load.templates()[0];
        let end = Instant::now() + patience;
        let mut next = Instant::now();
        while Instant::now() < end {
            if Instant::now() >= next {
                self.wire.request(template, 0, false);
                next += every;
            }
            self.turn(next)?;
            let answered = |stream: &u32| self.answers.get(stream).is_some_and(|a| !a.is_empty());
            if self.ended.iter().any(answered) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends what waits and takes in what arrives until then; returns early when something arrived.
    fn turn(&mut self, until: Instant) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.wire.out);
        self.socket.write_all(&waiting)?;
        let wait = until.saturating_duration_since(Instant::now());
        self.socket
            .set_read_timeout(Some(wait.max(Duration::from_micros(100))))?;
        let mut buffer = [0; 16 << 10];
        let count = match self.socket.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(())
            }
            Err(error) => return Err(error),
        };
        let (answers, ended) = (&mut self.answers, &mut self.ended);
        self.wire
            .receive(&buffer[..count], |arrival| match arrival {
                Arrival::Message { stream, payload } => {
                    answers
                        .entry(stream)
                        .or_default()
                        .extend_from_slice(payload);
                }
                Arrival::End { stream } => ended.push(stream),
                Arrival::GoAway { .. } => {}
            })
            .map_err(io::Error::other)
    }
}
