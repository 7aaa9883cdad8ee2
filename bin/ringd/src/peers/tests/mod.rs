//! Transports that talk to each other in memory, and to a hand-written other side.

mod answers;
mod databases;
mod exchanges;
mod snapshots;
mod standing;
mod streams;

use super::*;
use net::peer::{Local, Standing};
use proto::raftpb::{Entry, MessageType};

const MS: u64 = 1_000_000;
const CLUSTER: u64 = 0xbb366eafd7443a8b;
const ELECTION_NS: u64 = 1_000 * MS;

fn transport(id: u64) -> Transport {
    Transport::new(Config {
        local: Local {
            member_id: id,
            cluster_id: CLUSTER,
            version: "3.5.33",
            peer_urls: url(id),
            standing: Some(Standing {
                boot: 1,
                life: id,
                term: 3,
                index: 5,
            }),
        },
        election_ns: ELECTION_NS,
        request_timeout_ns: 7_000 * MS,
        unix_ms: 0,
        inbound_max: INBOUND_MAX,
    })
}

fn url(id: u64) -> String {
    format!("http://{}", host(id))
}

fn host(id: u64) -> String {
    format!("10.0.0.{id}:2380")
}

fn address(id: u64) -> PeerAddress {
    PeerAddress {
        id,
        urls: vec![url(id)],
    }
}

fn message(kind: MessageType, from: u64, to: u64) -> Message {
    Message {
        r#type: Some(kind as i32),
        from: Some(from),
        to: Some(to),
        term: Some(3),
        log_term: Some(3),
        index: Some(5),
        commit: Some(5),
        ..Default::default()
    }
}

fn append(from: u64, to: u64, bytes: usize) -> Message {
    Message {
        entries: vec![Entry {
            r#type: Some(0),
            term: Some(3),
            index: Some(6),
            data: Some(vec![7; bytes].into()),
        }],
        ..message(MessageType::MsgApp, from, to)
    }
}

/// What an attempt to connect comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Listens,
    Refuses,
    /// As a process does that is about to be gone.
    Resets,
    Silent,
}

/// One connection between two transports, by their numbers for it.
#[derive(Clone, Copy)]
struct Cable {
    dialler: (u64, u32),
    listener: (u64, u32),
}

/// A network of transports.
struct World {
    now_ns: u64,
    members: BTreeMap<u64, Transport>,
    reach: BTreeMap<u64, Reach>,
    cables: Vec<Cable>,
    /// Dials that nothing came of yet, and when they give up.
    dialling: Vec<(u64, u32, u64)>,
    /// Inputs of each member since they were last looked at.
    inputs: BTreeMap<u64, Vec<Input>>,
    /// Every dial, and when.
    dials: Vec<(u64, u64, String)>,
    /// Damages one byte of what is carried, when it comes to be this large.
    damage: Option<usize>,
    notices: Vec<String>,
}

impl World {
    /// Members that know each other.
    fn of(ids: &[u64]) -> World {
        let mut world = World {
            now_ns: 1_000 * MS,
            members: ids.iter().map(|id| (*id, transport(*id))).collect(),
            reach: ids.iter().map(|id| (*id, Reach::Listens)).collect(),
            cables: Vec::new(),
            dialling: Vec::new(),
            inputs: BTreeMap::new(),
            dials: Vec::new(),
            damage: None,
            notices: Vec::new(),
        };
        for id in ids {
            let others: Vec<u64> = ids.iter().copied().filter(|other| other != id).collect();
            world.introduce(*id, &others, &[]);
        }
        world
    }

    fn introduce(&mut self, id: u64, others: &[u64], removed: &[u64]) {
        let now_ns = self.now_ns;
        let others = others.iter().map(|other| address(*other)).collect();
        let removed = removed.iter().copied().collect();
        self.member(id)
            .set_members(&[url(id)], others, removed, now_ns);
    }

    fn member(&mut self, id: u64) -> &mut Transport {
        self.members.get_mut(&id).unwrap()
    }

    fn send(&mut self, message: &Message) {
        let now_ns = self.now_ns;
        self.member(message.from()).send(message, now_ns);
    }

    /// Carries everything that can be carried now.
    fn settle(&mut self) {
        while self.act() | self.carry() {}
        for (id, member) in &mut self.members {
            member.take_inputs(self.inputs.entry(*id).or_default());
            self.notices.extend(member.take_notices());
        }
    }

    fn act(&mut self) -> bool {
        let mut busy = false;
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            let mut actions = Vec::new();
            self.member(id).take_actions(&mut actions);
            for action in actions {
                busy = true;
                match action {
                    Action::Dial {
                        connection,
                        address,
                        timeout_ns,
                    } => self.dial(id, connection, address, timeout_ns),
                    Action::Close { connection } => self.cut((id, connection)),
                    Action::Wake { .. } => {}
                }
            }
        }
        busy
    }

    fn dial(&mut self, id: u64, connection: u32, address: String, timeout_ns: u64) {
        let now_ns = self.now_ns;
        let to = self.members.keys().copied().find(|to| host(*to) == address);
        self.dials.push((now_ns, id, address));
        match to.and_then(|to| self.reach.get(&to)) {
            Some(Reach::Listens) => {
                let to = to.unwrap();
                if self.member(id).dialled(connection, Ok(()), now_ns) {
                    let accepted = self.member(to).accept(now_ns);
                    self.cables.push(Cable {
                        dialler: (id, connection),
                        listener: (to, accepted),
                    });
                }
            }
            Some(Reach::Refuses) => {
                let refused = Err(DialFailure::Refused);
                self.member(id).dialled(connection, refused, now_ns);
            }
            Some(Reach::Resets) => {
                let reset = Err(DialFailure::Reset);
                self.member(id).dialled(connection, reset, now_ns);
            }
            Some(Reach::Silent) | None => {
                self.dialling.push((id, connection, now_ns + timeout_ns));
            }
        }
    }

    /// One end closed: the other hears of it.
    fn cut(&mut self, end: (u64, u32)) {
        let at = |cable: &Cable| cable.dialler == end || cable.listener == end;
        let Some(at) = self.cables.iter().position(at) else {
            return;
        };
        let cable = self.cables.remove(at);
        let (id, connection) = match cable.dialler == end {
            true => cable.listener,
            false => cable.dialler,
        };
        let now_ns = self.now_ns;
        if let Some(member) = self.members.get_mut(&id) {
            member.closed(connection, now_ns);
        }
    }

    fn carry(&mut self) -> bool {
        let mut busy = false;
        for cable in self.cables.clone() {
            for (from, to) in [
                (cable.dialler, cable.listener),
                (cable.listener, cable.dialler),
            ] {
                let now_ns = self.now_ns;
                if !self.member(to.0).wants_input(to.1) {
                    continue;
                }
                let Some(output) = self.member(from.0).output(from.1) else {
                    continue;
                };
                let mut bytes = output.bytes().to_vec();
                output.consume(bytes.len());
                self.member(from.0).sent(from.1);
                if !bytes.is_empty() {
                    busy = true;
                    if self.damage.is_some_and(|size| bytes.len() >= size) {
                        self.damage = None;
                        let last = bytes.len() - 10;
                        bytes[last] ^= 1;
                    }
                    self.member(to.0).receive(to.1, &bytes, now_ns);
                }
                if self.member(from.0).should_close(from.1) {
                    busy = true;
                    self.member(from.0).closed(from.1, now_ns);
                }
            }
        }
        busy
    }

    /// Lets time pass, in steps of a pulse.
    fn pass(&mut self, ms: u64) {
        let end_ns = self.now_ns + ms * MS;
        while self.now_ns < end_ns {
            self.now_ns = (self.now_ns + 10 * MS).min(end_ns);
            let now_ns = self.now_ns;
            let late = |(_, _, due_ns): &(u64, u32, u64)| *due_ns <= now_ns;
            let (late, waiting) = self.dialling.drain(..).partition(late);
            self.dialling = waiting;
            let late: Vec<(u64, u32, u64)> = late;
            for (id, connection, _) in late {
                let failed = Err(DialFailure::Other);
                if let Some(member) = self.members.get_mut(&id) {
                    member.dialled(connection, failed, now_ns);
                }
            }
            for member in self.members.values_mut() {
                member.on_timer(now_ns);
            }
            self.settle();
        }
    }

    /// A process dies: its connections close.
    fn kill(&mut self, id: u64, then: Reach) {
        self.reach.insert(id, then);
        let ends = |cable: &Cable| match (cable.dialler.0 == id, cable.listener.0 == id) {
            (true, _) => Some(cable.dialler),
            (_, true) => Some(cable.listener),
            _ => None,
        };
        let ends: Vec<(u64, u32)> = self.cables.iter().filter_map(ends).collect();
        self.members.insert(id, transport(id));
        for end in ends {
            self.cut(end);
        }
        self.settle();
    }

    /// What the member was told since this was last asked, in words.
    fn told(&mut self, id: u64) -> Vec<String> {
        let inputs = self.inputs.remove(&id).unwrap_or_default();
        inputs.iter().map(words).collect()
    }
}

fn words(input: &Input) -> String {
    match input {
        Input::Message(message) => format!("{:?} from {}", message.r#type(), message.from()),
        Input::Unreachable { peer } => format!("unreachable {peer}"),
        Input::Refused { peer } => format!("refused {peer}"),
        Input::Connected { peer, connected } => match connected {
            true => format!("connected {peer}"),
            false => format!("disconnected {peer}"),
        },
        Input::PeerAnswered { ask, result } => match result {
            Ok(body) => format!("answer {ask}: {}", String::from_utf8_lossy(body)),
            Err(failure) => format!("failed {ask}: {}", failure.code),
        },
        Input::Ask { call, request } => format!("call {}: {request:?}", call.stream()),
        Input::Cancel { call } => format!("cancel {}", call.stream()),
        Input::SnapshotWanted {
            peer, id, offset, ..
        } => format!("want {id} for {peer} at {offset}"),
        Input::SnapshotSent {
            peer,
            id,
            delivered,
        } => format!("snapshot {id} for {peer} delivered: {delivered}"),
        Input::SnapshotChunk(chunk) => {
            let end = if chunk.last { ", last" } else { "" };
            format!(
                "piece of {} at {}: {} bytes{end}",
                chunk.id,
                chunk.offset,
                chunk.bytes.len()
            )
        }
        Input::RemovedHere => "removed".into(),
        Input::WentBack { why } => format!("went back: {why}"),
        _ => "something else".into(),
    }
}
