//! The transport between members: messages, connections, and requests at the peer port.

use proto::raftpb::{Message, MessageType};
use ringd::member::Input;
use ringd::peers::{PeerAsk, PeerFailure};
use ringd::request::CallId;

use super::network::Fate;
use super::node::name;
use super::swarm::MILLISECOND_NS;
use super::world::{Event, World};

impl World {
    /// Streams between members that both run come up after a moment.
    pub fn connect(&mut self, number: usize) {
        let life = self.node(number).life;
        for peer in 1..=self.nodes.len() {
            let open = self.network.is_open(number, peer) && self.network.is_open(peer, number);
            if peer == number || self.node(peer).running.is_none() || !open {
                continue;
            }
            let peer_life = self.node(peer).life;
            for (node, life, peer, peer_life) in [
                (number, life, peer, peer_life),
                (peer, peer_life, number, life),
            ] {
                let delay = self.network.client_delay(&mut self.chance.network);
                self.after(
                    delay,
                    Event::Connected {
                        node,
                        life,
                        peer,
                        peer_life,
                    },
                );
            }
        }
    }

    pub fn send(&mut self, node: usize, message: Box<Message>) {
        if let Some(running) = &self.nodes[node - 1].running {
            let verdict = self.consensus.sent(&running.member, &message);
            self.judge(node, verdict);
        }
        let Some(to) = self.number_of(message.to()) else {
            return self.fail(format!("{} sends to a stranger", name(node)));
        };
        let may_repeat = message.r#type() != MessageType::MsgProp;
        let (now, chance) = (self.now, &mut self.chance.network);
        match self.network.send(node, to, may_repeat, now, chance) {
            Fate::Lost => {
                self.coverage.hit("message lost");
                if self.chance.network.percent(5) {
                    let peer = message.to();
                    self.after(MILLISECOND_NS, Event::Unreachable { node, peer });
                }
            }
            Fate::Arrives(times) => {
                if times.len() > 1 {
                    self.coverage.hit("message repeated");
                }
                for at in times {
                    self.at(
                        at,
                        Event::Arrive {
                            to,
                            message: message.clone(),
                        },
                    );
                }
            }
        }
    }

    /// A message comes in. Members that were removed are told so instead of being heard.
    pub fn arrive(&mut self, to: usize, message: Box<Message>) {
        let life = self.node(to).life;
        let from = message.from();
        let Some(running) = self.living(to, life) else {
            return;
        };
        if !running.member.removed_members().any(|id| id == from) {
            return self.input(to, life, Input::Message(message));
        }
        let Some(node) = self.number_of(from) else {
            return;
        };
        self.coverage.hit("removed member heard of it");
        let life = self.node(node).life;
        let delay = self.network.client_delay(&mut self.chance.network);
        self.after(delay, Event::RemovedHere { node, life });
    }

    pub fn ask_peer(&mut self, from: usize, life: u64, ask: u64, peer: u64, request: PeerAsk) {
        let Some(to) = self.number_of(peer) else {
            return self.fail(format!("{} asks a stranger", name(from)));
        };
        let (now, chance) = (self.now, &mut self.chance.network);
        match self.network.send(from, to, false, now, chance) {
            Fate::Arrives(times) if self.node(to).running.is_some() => {
                let event = Event::Asked {
                    to,
                    from,
                    life,
                    ask,
                    request,
                };
                self.at(times[0], event);
            }
            _ => self.peer_failed(from, life, ask, 0),
        }
    }

    pub fn peer_failed(&mut self, node: usize, life: u64, ask: u64, code: u16) {
        let failure = PeerFailure {
            code,
            body: bytes::Bytes::new(),
        };
        let delay = self.network.client_delay(&mut self.chance.network);
        self.after(
            delay,
            Event::Answered {
                node,
                life,
                ask,
                result: Err(failure),
            },
        );
    }

    pub fn asked_by_peer(&mut self, to: usize, asker: (usize, u64, u64), request: PeerAsk) {
        let Some(request) = super::peer_calls::request(request) else {
            return self.fail(format!("{} asks what cannot be decoded", name(asker.0)));
        };
        if self.node(to).running.is_none() {
            return self.peer_failed(asker.0, asker.1, asker.2, 0);
        }
        self.next_peer_call += 1;
        let number = self.next_peer_call;
        self.peer_calls.insert(number, asker);
        let call = CallId::new(CallId::PEER_CONNECTION, number);
        let life = self.node(to).life;
        self.input(to, life, Input::Ask { call, request });
    }

    pub fn peer_answers(
        &mut self,
        node: usize,
        number: u32,
        result: Result<bytes::Bytes, ringd::status::Status>,
    ) {
        let Some((asker, life, ask)) = self.peer_calls.remove(&number) else {
            return;
        };
        let result = super::peer_calls::answer(result);
        let (now, chance) = (self.now, &mut self.chance.network);
        match self.network.send(node, asker, false, now, chance) {
            Fate::Arrives(times) => self.at(
                times[0],
                Event::Answered {
                    node: asker,
                    life,
                    ask,
                    result,
                },
            ),
            Fate::Lost => self.peer_failed(asker, life, ask, 0),
        }
    }
}
