//! Commands that need no cluster: the algebra of configurations, the arithmetic of quorums, and the draw of time-outs.
//!
//! ```text
//! algebra [option ...]      a configuration of its own: voters= learners= outgoing= next= autoleave
//! alter auto|explicit|implicit|leave [add|learner|remove|update J ...]   what a change makes of it, or why not
//! acks ID:INDEX ...         the index that it has committed; votes ID:yes|no ...   how an election stands
//! invalid I [option ...]    why such a node can not start
//! timeouts COUNT            election time-outs that a node draws in so many terms, as a follower and as a candidate
//! clashes NODES ROUNDS      whether two followers stand at once in no more than 30 % of the rounds
//! elapsed TICKS ...         share of the time-outs that have passed by then
//! ```

use std::collections::{BTreeMap, BTreeSet};

use proto::raftpb::{Message, MessageType};
use raft::{Configuration, Node, Role};

use super::{show, world};

/// Time-outs drawn for a share.
const DRAWS: u64 = 10_000;

/// The configuration of `algebra`.
#[derive(Default)]
pub struct Algebra(Configuration);

impl Algebra {
    /// Carries the command out; false if it is none of these.
    pub fn run(&mut self, words: &[&str], out: &mut Vec<String>) -> bool {
        match words[0] {
            "algebra" => {
                let (_, initial) = world::settings(1, 0, &words[1..]);
                self.take(Configuration::from_conf_state(&initial.conf_state), out);
            }
            "alter" => {
                let change = world::conf_change(words[1], &words[2..]);
                self.take(self.0.apply(&change), out);
            }
            "acks" => {
                let acks = pairs(&words[1..]);
                let acked = |id| acks.get(&id).map_or(0, |index| world::number(index));
                out.push(match self.0.voters.committed(acked) {
                    u64::MAX => "everything".to_string(),
                    index => index.to_string(),
                });
            }
            "votes" => {
                let votes = pairs(&words[1..]);
                let voted = |id| votes.get(&id).map(|vote| *vote == "yes");
                out.push(format!("{:?}", self.0.voters.vote_result(voted)));
            }
            "invalid" => {
                let id = world::number(words[1]);
                let (config, initial) = world::settings(id, 3, &words[2..]);
                out.push(match Node::new(config, initial) {
                    Ok(_) => "it starts".to_string(),
                    Err(error) => error.to_string(),
                });
            }
            "timeouts" => {
                for role in [Role::Follower, Role::Candidate] {
                    let drawn = draws(role, world::number(words[1]));
                    let all: Vec<String> = BTreeSet::from_iter(drawn)
                        .iter()
                        .map(u32::to_string)
                        .collect();
                    out.push(format!("{role:?}: {}", all.join(" ")));
                }
            }
            "clashes" => clashes(world::number(words[1]), world::number(words[2]), out),
            "elapsed" => {
                let drawn = draws(Role::Follower, DRAWS);
                for word in &words[1..] {
                    let passed = |timeout: &&u32| u64::from(**timeout) <= world::number(word);
                    let share = drawn.iter().filter(passed).count() as f64 / DRAWS as f64;
                    out.push(format!("after {word} ticks: {share:.1}"));
                }
            }
            _ => return false,
        }
        true
    }

    fn take<E: std::fmt::Display>(
        &mut self,
        config: Result<Configuration, E>,
        out: &mut Vec<String>,
    ) {
        match config {
            Ok(config) => {
                out.push(show::conf(&config.to_conf_state()));
                self.0 = config;
            }
            Err(error) => out.push(error.to_string()),
        }
    }
}

fn pairs<'a>(words: &[&'a str]) -> BTreeMap<u64, &'a str> {
    let pair = |word: &&'a str| {
        let (id, value) = word.split_once(':').expect("ID:VALUE");
        (world::number(id), value)
    };
    words.iter().map(pair).collect()
}

fn node(id: u64, voters: u64) -> Node {
    let (config, initial) = world::settings(id, voters, &[]);
    Node::new(config, initial).expect("a valid start")
}

/// Makes the node a follower of nobody in this term.
fn new_term(node: &mut Node, term: u64) {
    let vote = Message {
        r#type: Some(MessageType::MsgVoteResp as i32),
        from: Some(if node.id() == 2 { 1 } else { 2 }),
        to: Some(node.id()),
        term: Some(term),
        ..Message::default()
    };
    node.step(vote).expect("a message of a later term");
    assert_eq!((node.role(), node.term()), (Role::Follower, term));
}

/// A tick; what the node writes is durable at once.
fn tick(node: &mut Node) {
    node.tick();
    let seq = node.ready().seq;
    node.persisted(seq);
}

/// Counts the ticks until the node stands: of a follower in `count` terms, or of a candidate that goes on standing.
fn draws(role: Role, count: u64) -> Vec<u32> {
    let mut node = node(1, 3);
    let mut drawn = Vec::new();
    for round in 1..=count {
        if role == Role::Follower {
            new_term(&mut node, round * 2);
        }
        let (term, mut ticks) = (node.term(), 0);
        while node.term() == term {
            tick(&mut node);
            ticks += 1;
        }
        // The first campaign of the candidate is a follower's.
        if role == Role::Follower || round > 1 {
            drawn.push(ticks);
        }
    }
    drawn
}

fn clashes(nodes: u64, rounds: u64, out: &mut Vec<String>) {
    let mut all: Vec<Node> = (1..=nodes).map(|id| node(id, nodes)).collect();
    let mut together = 0;
    for round in 1..=rounds {
        for node in &mut all {
            new_term(node, round * 2);
        }
        let mut stand = 0;
        while stand == 0 {
            for node in &mut all {
                tick(node);
                stand += u64::from(node.role() == Role::Candidate);
            }
        }
        together += u64::from(stand > 1);
    }
    let few = if together * 10 <= rounds * 3 {
        ""
    } else {
        "not "
    };
    out.push(format!("two at once: {few}in at most 30 % of the rounds"));
}
