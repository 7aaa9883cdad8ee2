//! Runs a load against an endpoint on one thread and measures each call from its (intended) start to its end.

use crate::{
    load::{Kind, Load, Random},
    wire::{Arrival, Template, Wire},
};
use hdrhistogram::Histogram;
use mio::{net::TcpStream, Events, Interest, Poll, Token};
use std::{
    collections::HashMap,
    error::Error,
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Latencies above this count as this much.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const READ_BYTES: usize = 256 << 10;
/// A run that sees nothing for this long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a run measured.
pub struct Outcome {
    pub latency_ns: Histogram<u64>,
    /// Calls that were answered with a message; only these count.
    pub done: u64,
    /// Streams that ended without one.
    pub failed: u64,
    pub elapsed: Duration,
    pub bytes_received: u64,
    /// CPU time of this process for the run: a generator near its own limit measures itself.
    pub own_cpu: Duration,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }
}

struct Connection {
    socket: TcpStream,
    wire: Wire,
    /// Calls under way: when they began (or were meant to), and whether a message has come.
    calls: HashMap<u32, (Instant, bool)>,
    idle: usize,
    writable: bool,
}

/// Connects, runs the load, and reports.
pub fn run(endpoint: SocketAddr, load: &Load) -> Result<Outcome, Box<dyn Error>> {
    Runner::new(endpoint, load)?.run()
}

struct Runner<'a> {
    load: &'a Load,
    templates: Vec<Template>,
    poll: Poll,
    connections: Vec<Connection>,
    random: Random,
    issued: u64,
    outcome: Outcome,
    buffer: Vec<u8>,
    /// Watch loads: events that the current put still has to cause, and when it began.
    awaited: usize,
    watchers_ready: usize,
    put_begun: Instant,
}

impl<'a> Runner<'a> {
    fn new(endpoint: SocketAddr, load: &'a Load) -> Result<Runner<'a>, Box<dyn Error>> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for number in 0..load.connections.max(1) {
            let socket = std::net::TcpStream::connect(endpoint)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            poll.registry().register(
                &mut socket,
                Token(number),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let share = load.clients / load.connections.max(1)
                + usize::from(number < load.clients % load.connections.max(1));
            connections.push(Connection {
                socket,
                wire: Wire::new(&endpoint.to_string()),
                calls: HashMap::new(),
                idle: share,
                writable: true,
            });
        }
        Ok(Runner {
            load,
            templates: load.templates(),
            poll,
            connections,
            random: Random(load.seed),
            issued: 0,
            outcome: Outcome {
                latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?,
                done: 0,
                failed: 0,
                elapsed: Duration::ZERO,
                bytes_received: 0,
                own_cpu: Duration::ZERO,
            },
            buffer: vec![0; READ_BYTES],
            awaited: 0,
            watchers_ready: 0,
            put_begun: Instant::now(),
        })
    }

    fn run(mut self) -> Result<Outcome, Box<dyn Error>> {
        let mut events = Events::with_capacity(256);
        if self.load.kind == Kind::Watch {
            self.open_watches();
        }
        let cpu = crate::process::own_cpu();
        let begun = Instant::now();
        let end = begun + Duration::from_secs_f64(self.load.seconds);
        let mut heard = Instant::now();
        loop {
            let now = Instant::now();
            let over = now >= end || (self.load.requests > 0 && self.issued >= self.load.requests);
            if !over {
                self.issue(begun, now);
            } else if self.connections.iter().all(|c| c.calls.is_empty())
                || self.load.kind == Kind::Watch
            {
                break;
            }
            for number in 0..self.connections.len() {
                self.send(number)?;
            }
            let timeout = if over || self.load.rate <= 0.0 {
                Duration::from_millis(100)
            } else {
                Duration::from_micros(50)
            };
            self.poll.poll(&mut events, Some(timeout))?;
            for event in &events {
                let number = event.token().0;
                if event.is_writable() {
                    self.connections[number].writable = true;
                }
                if event.is_readable() {
                    heard = Instant::now();
                    self.receive(number)?;
                }
            }
            if heard.elapsed() > SILENCE_MAX {
                return Err("no answer for 30 s".into());
            }
        }
        self.outcome.elapsed = begun.elapsed();
        self.outcome.own_cpu = crate::process::own_cpu() - cpu;
        Ok(self.outcome)
    }

    fn open_watches(&mut self) {
        let template = self.load.watch_template();
        for connection in &mut self.connections {
            for _ in 0..connection.idle {
                connection.wire.request(&template, 0, true);
            }
            connection.idle = 0;
        }
    }

    /// Starts the calls that are due.
    fn issue(&mut self, begun: Instant, now: Instant) {
        if self.load.kind == Kind::Watch {
            if self.watchers_ready >= self.load.clients && self.awaited == 0 {
                self.awaited = self.load.clients;
                self.put_begun = now;
                self.start(0, now);
            }
            return;
        }
        let open = self.load.rate > 0.0;
        let due = (now - begun).as_secs_f64() * self.load.rate;
        'all: for number in 0..self.connections.len() {
            while self.connections[number].idle > 0 {
                if open && self.issued as f64 >= due
                    || self.load.requests > 0 && self.issued >= self.load.requests
                {
                    break 'all;
                }
                let intended = match open {
                    true => begun + Duration::from_secs_f64(self.issued as f64 / self.load.rate),
                    false => now,
                };
                if !self.start(number, intended) {
                    break;
                }
                self.connections[number].idle -= 1;
            }
        }
    }

    fn start(&mut self, number: usize, intended: Instant) -> bool {
        let template = &self.templates[(self.issued % self.templates.len() as u64) as usize];
        let connection = &mut self.connections[number];
        if !connection.wire.has_room(template) {
            return false;
        }
        let planned = self.load.planned_key(self.issued);
        let key = planned.unwrap_or_else(|| self.random.draw() % self.load.keys.max(1));
        let stream = connection.wire.request(template, key, false);
        connection.calls.insert(stream, (intended, false));
        self.issued += 1;
        true
    }

    fn send(&mut self, number: usize) -> io::Result<()> {
        let connection = &mut self.connections[number];
        let mut sent = 0;
        while connection.writable && sent < connection.wire.out.len() {
            match connection.socket.write(&connection.wire.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.writable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        connection.wire.out.drain(..sent);
        Ok(())
    }

    fn receive(&mut self, number: usize) -> Result<(), Box<dyn Error>> {
        loop {
            let connection = &mut self.connections[number];
            let count = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.outcome.bytes_received += count as u64;
            let now = Instant::now();
            let mut gone = None;
            let (calls, idle, outcome) = (
                &mut connection.calls,
                &mut connection.idle,
                &mut self.outcome,
            );
            let watch = self.load.kind == Kind::Watch;
            let (ready, awaited) = (&mut self.watchers_ready, &mut self.awaited);
            let (clients, put_begun) = (self.load.clients, self.put_begun);
            connection
                .wire
                .receive(&self.buffer[..count], |arrival| match arrival {
                    Arrival::Message { stream, .. } => match calls.get_mut(&stream) {
                        Some((_, answered)) => *answered = true,
                        None if watch && *ready < clients => *ready += 1,
                        None if watch => {
                            *awaited = awaited.saturating_sub(1);
                            record(outcome, put_begun, now);
                        }
                        None => {}
                    },
                    Arrival::End { stream } => {
                        if let Some((begun, answered)) = calls.remove(&stream) {
                            *idle += usize::from(!watch);
                            if !answered {
                                outcome.failed += 1;
                            } else if !watch {
                                record(outcome, begun, now);
                            }
                        }
                    }
                    Arrival::GoAway { code } => gone = Some(code),
                })?;
            if let Some(code) = gone {
                return Err(format!("the server sent GOAWAY with code {code}").into());
            }
        }
    }
}

fn record(outcome: &mut Outcome, begun: Instant, now: Instant) {
    let took = now.saturating_duration_since(begun).as_nanos() as u64;
    outcome
        .latency_ns
        .saturating_record(took.clamp(1, LATENCY_NS_MAX));
    outcome.done += 1;
}
