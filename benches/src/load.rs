//! Kinds of load and their request templates.

use crate::wire::Template;
use bytes::Bytes;
use clap::ValueEnum;
use prost::Message;
use proto::etcdserverpb as pb;

/// Keys are this prefix and a decimal number of [`KEY_DIGITS`] digits: 20 bytes.
const KEY_PREFIX: &[u8] = b"bench/k/";
const KEY_DIGITS: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Put,
    Get,
    SerializableGet,
    /// A page: `--limit` keys with the count of all.
    Range,
    Count,
    Txn,
    /// Half puts, half linearizable gets.
    Mixed,
    /// One writer; every watcher gets every event.
    Watch,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    #[arg(long, value_enum, default_value_t = Kind::Put)]
    pub kind: Kind,
    /// Concurrent calls in all (for watch: watchers).
    #[arg(long, default_value_t = 1)]
    pub clients: usize,
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Bytes per value.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Keys are drawn from this many.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Keys per page of a range; 0: all.
    #[arg(long, default_value_t = 500)]
    pub limit: i64,
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Ends after so many requests, whatever the time; 0: by time alone.
    #[arg(long, default_value_t = 0)]
    pub requests: u64,
    /// Requests per second of an open loop; 0: closed loop.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Walk the keys in order instead of drawing them.
    #[arg(long)]
    pub sequential: bool,
    /// Walk the keys in an order that looks random and has each of them once.
    #[arg(long, conflicts_with = "sequential")]
    pub shuffled: bool,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for Load {
    /// One client that puts a few keys.
    fn default() -> Load {
        Load {
            kind: Kind::Put,
            clients: 1,
            connections: 1,
            value_bytes: 256,
            keys: 100,
            limit: 500,
            seconds: 5.0,
            requests: 0,
            rate: 0.0,
            sequential: false,
            shuffled: false,
            seed: 1,
        }
    }
}

impl Load {
    /// The key of the n-th request, unless keys are drawn.
    pub fn planned_key(&self, n: u64) -> Option<u64> {
        let keys = self.keys.max(1);
        match (self.sequential, self.shuffled) {
            (true, _) => Some(n % keys),
            // A step that has no factor in common with the number of keys meets each of them once.
            (_, true) => Some((n % keys).wrapping_mul(step_through(keys)) % keys),
            _ => None,
        }
    }

    /// The templates that requests are drawn from, in turn.
    pub fn templates(&self) -> Vec<Template> {
        match self.kind {
            Kind::Put | Kind::Watch => vec![self.put()],
            Kind::Get => vec![self.get(false)],
            Kind::SerializableGet => vec![self.get(true)],
            Kind::Mixed => vec![self.put(), self.get(false)],
            Kind::Range => vec![self.range(self.limit, false)],
            Kind::Count => vec![self.range(0, true)],
            Kind::Txn => vec![self.txn()],
        }
    }

    pub fn watch_template(&self) -> Template {
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
                pb::WatchCreateRequest {
                    key: Bytes::from_static(KEY_PREFIX),
                    range_end: prefix_end(),
                    ..Default::default()
                },
            )),
        };
        Template::new(
            "/etcdserverpb.Watch/Watch",
            request.encode_to_vec(),
            Vec::new(),
        )
    }

    fn put(&self) -> Template {
        let request = pb::PutRequest {
            key: key(),
            value: self.value(),
            ..Default::default()
        };
        patched("/etcdserverpb.KV/Put", request.encode_to_vec())
    }

    fn get(&self, serializable: bool) -> Template {
        let request = pb::RangeRequest {
            key: key(),
            serializable,
            ..Default::default()
        };
        patched("/etcdserverpb.KV/Range", request.encode_to_vec())
    }

    fn range(&self, limit: i64, count_only: bool) -> Template {
        let request = pb::RangeRequest {
            key: Bytes::from_static(KEY_PREFIX),
            range_end: prefix_end(),
            limit,
            count_only,
            ..Default::default()
        };
        Template::new(
            "/etcdserverpb.KV/Range",
            request.encode_to_vec(),
            Vec::new(),
        )
    }

    /// A put guarded by a compare that holds, as locks and leader keys do it.
    fn txn(&self) -> Template {
        let mut compare = pb::Compare {
            key: key(),
            target_union: Some(pb::compare::TargetUnion::Version(0)),
            ..Default::default()
        };
        compare.set_target(pb::compare::CompareTarget::Version);
        compare.set_result(pb::compare::CompareResult::NotEqual);
        let put = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: key(),
                value: self.value(),
                ..Default::default()
            })),
        };
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![put.clone()],
            failure: vec![put],
        };
        patched("/etcdserverpb.KV/Txn", request.encode_to_vec())
    }

    /// Bytes that compress badly, so that no server gains by compressing them.
    fn value(&self) -> Bytes {
        let mut random = Random(self.seed);
        (0..self.value_bytes)
            .map(|_| (random.draw() >> 32) as u8)
            .collect::<Vec<u8>>()
            .into()
    }
}

/// A step near the golden ratio of `keys`, coprime to it.
fn step_through(keys: u64) -> u64 {
    let common = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let golden = (keys as f64 * 0.618_033_988_75) as u64;
    (golden.max(1)..)
        .find(|step| common(*step, keys) == 1)
        .unwrap_or(1)
}

fn key() -> Bytes {
    let mut key = KEY_PREFIX.to_vec();
    key.extend_from_slice(&[b'#'; KEY_DIGITS]);
    key.into()
}

fn prefix_end() -> Bytes {
    let mut end = KEY_PREFIX.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Finds the places of the key's digits.
fn patched(path: &'static str, message: Vec<u8>) -> Template {
    let digits = [b'#'; KEY_DIGITS];
    let places = message
        .windows(KEY_DIGITS)
        .enumerate()
        .filter(|(_, window)| *window == digits)
        .map(|(offset, _)| (offset, KEY_DIGITS))
        .collect();
    Template::new(path, message, places)
}

/// A small generator (SplitMix64): repeatable key choices.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffled_walk_meets_every_key_once() {
        for keys in [1, 2, 7, 100, 1000] {
            let load = Load {
                keys,
                shuffled: true,
                ..Load::default()
            };
            let mut met: Vec<u64> = (0..keys).filter_map(|n| load.planned_key(n)).collect();
            met.sort_unstable();
            assert_eq!(met, (0..keys).collect::<Vec<_>>());
        }
    }
}
