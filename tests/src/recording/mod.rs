//! Answers of a real etcd, recorded session by session, and what it takes to compare them with another server's.
//!
//! A session is a file of JSON lines: the first tells how the server was started and which ids it had, each further one is
//! a step (a call, or something done with a stream) with its answer. `tests/answers/README.md` describes the format.

mod compare;
mod ids;
mod replay;

use std::path::PathBuf;

use serde::Deserialize as _;
use serde_json::Value;

pub use compare::{differences, Answer, Difference};
pub use ids::Ids;
pub use replay::{received, replay, Deviation};

/// Deepest recorded request: a txn nested beyond etcd's limit of 128 levels, at four levels of JSON each.
const STACK_BYTES: usize = 256 << 20;

pub struct Session {
    pub name: String,
    /// Flags that the server was started with, beside name, URLs and cluster token.
    pub flags: Vec<String>,
    /// How many members the cluster had, the last ones of them learners.
    pub members: usize,
    pub learners: usize,
    /// Placeholder → value on the recorded server.
    pub ids: Value,
    pub steps: Vec<Value>,
}

impl Session {
    /// Reads `tests/answers/NAME.jsonl`.
    pub fn load(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("answers/{name}.jsonl"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let mut lines = text.lines().map(parse_line);
        let first = lines.next().expect("a first line");
        let flags = first["flags"].as_array().expect("flags").iter();
        Self {
            name: name.to_owned(),
            flags: flags
                .map(|f| f.as_str().expect("a flag is text").to_owned())
                .collect(),
            members: count(&first["members"]).unwrap_or(1),
            learners: count(&first["learner"]).unwrap_or(0),
            ids: first["ids"].clone(),
            steps: lines.collect(),
        }
    }
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64()?.try_into().ok()
}

fn parse_line(line: &str) -> Value {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    deserializer.disable_recursion_limit();
    Value::deserialize(&mut deserializer).expect("a recorded line is JSON")
}

/// Runs `work` on a thread with a stack deep enough for the deepest recorded request.
pub fn with_deep_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let result = thread.spawn(work).expect("a thread can be started").join();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
