//! v3 discovery: members that do not know one another meet in an etcd that all of them know.
//!
//! Below `/_etcd/registry/<token>/` the operator puts the size of the cluster; each member puts its name and URLs there and
//! waits until there are enough. The first ones by revision are the cluster, alike for all who look.

use super::{
    found,
    grpc::{CallFailed, Channel, Patience},
};
use crate::{
    config::{Config, Discovery},
    identity::{BootstrapError, InitialCluster},
    info,
    logging::Log,
    warn,
};
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb::event::EventType};
use std::{fmt, time::Duration};

const REGISTRY: &str = "/_etcd/registry";
const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// The pause before a retry doubles up to 2^8 s. There is no last one: the service may be the last to come up.
const BACKOFF_UNIT: Duration = Duration::from_secs(1);
const BACKOFF_EXPONENT_MAX: u32 = 8;

/// Why a member finds no cluster, in etcd's words.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    SizeNotFound,
    BadSize,
    InvalidPeerUrl,
    Full,
    DuplicateName,
    Call(CallFailed),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::SizeNotFound => "discovery: size key not found",
            Refused::BadSize => "discovery: size key is bad",
            Refused::InvalidPeerUrl => "discovery: invalid peer URL",
            Refused::Full => "discovery: cluster is full",
            Refused::DuplicateName => "discovery: duplicate name",
            Refused::Call(failed) => return failed.fmt(f),
        })
    }
}

/// The cluster that forms under the configured token, once it is complete.
///
/// `local` is this member alone, under the identifier that it has with its own URLs and the token.
pub fn cluster(
    config: &Config,
    discovery: &Discovery,
    local: &InitialCluster,
    local_id: u64,
    log: &Log,
) -> Result<InitialCluster, BootstrapError> {
    let mut registry = Registry {
        discovery,
        key: format!("{REGISTRY}/{}/members/{local_id:x}", discovery.token),
        channel: None,
        log,
    };
    let found = registry.join(&local.to_string());
    let found =
        found.map_err(|why| BootstrapError(format!("failed to join discovery cluster ({why})")))?;
    found::check_duplicates("discovery", &found)?;
    debug_assert!(found.urls_of(&config.name).is_some());
    Ok(found)
}

/// A member that registered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registered {
    key: String,
    /// `name=url[,name=url...]`
    value: String,
    create_revision: i64,
}

/// What the registry holds at a revision.
struct Registration {
    size: usize,
    /// In the order of their registration.
    members: Vec<Registered>,
    revision: i64,
}

impl Registration {
    /// False if the member is known already or says nothing of use.
    fn add(&mut self, member: Registered, log: &Log) -> bool {
        if !member.value.contains('=') {
            warn!(log, "invalid peer info returned from discovery service",
                "key" => member.key.as_str(), "value" => member.value.as_str());
            return false;
        }
        if self.members.iter().any(|known| known.key == member.key) {
            warn!(log, "found duplicate peer from discovery service",
                "peer" => member.key.as_str());
            return false;
        }
        info!(log, "found peer from discovery service",
            "peer" => member.key.as_str(), "peer-info" => member.value.as_str());
        self.members.push(member);
        self.members.sort_by_key(|member| member.create_revision);
        true
    }

    /// Whether the member is, or still can be, one of the cluster.
    fn has_room_for(&self, key: &str) -> bool {
        let place = self.members.iter().position(|member| member.key == key);
        place.unwrap_or(self.members.len()) < self.size
    }

    fn is_complete(&self) -> bool {
        self.members.len() >= self.size
    }

    fn cluster(&self) -> Result<InitialCluster, Refused> {
        let members = self.members.iter().take(self.size);
        let values: Vec<&str> = members.map(|member| member.value.as_str()).collect();
        let cluster =
            InitialCluster::parse(&values.join(",")).map_err(|_| Refused::InvalidPeerUrl)?;
        // Two members of one name would take each other for themselves.
        match cluster.members().count() == self.size {
            true => Ok(cluster),
            false => Err(Refused::DuplicateName),
        }
    }
}

struct Registry<'a> {
    discovery: &'a Discovery,
    /// Where this member registers.
    key: String,
    channel: Option<Channel>,
    log: &'a Log,
}

impl Registry<'_> {
    fn join(&mut self, member: &str) -> Result<InitialCluster, Refused> {
        self.registration()?;
        self.register(member)?;
        loop {
            let mut found = self.registration()?;
            match self.wait_until_complete(&mut found) {
                Ok(()) => return found.cluster(),
                Err(failed) => self.back_off(0, "waiting for peers", &failed),
            }
        }
    }

    /// What is registered; asked again for as long as the service does not answer.
    fn registration(&mut self) -> Result<Registration, Refused> {
        let mut retries = 0;
        loop {
            match self.try_registration() {
                Err(Refused::Call(failed)) => {
                    self.back_off(retries, "cluster status check", &failed);
                    retries = (retries + 1).min(BACKOFF_EXPONENT_MAX);
                }
                Ok(found) if !found.has_room_for(&self.key) => return Err(Refused::Full),
                result => return result,
            }
        }
    }

    fn try_registration(&mut self) -> Result<Registration, Refused> {
        let size_key = format!("{REGISTRY}/{}/_config/size", self.discovery.token);
        let size = self.range(&pb::RangeRequest {
            key: size_key.into_bytes().into(),
            ..Default::default()
        })?;
        let size = size.kvs.first().ok_or(Refused::SizeNotFound)?;
        let size = std::str::from_utf8(&size.value).ok();
        let size = size.and_then(|text| text.trim().parse::<u32>().ok());
        let size = size.filter(|size| *size > 0).ok_or(Refused::BadSize)?;
        let prefix = self.members_key().into_bytes();
        let listed = self.range(&pb::RangeRequest {
            range_end: after(&prefix).into(),
            key: prefix.into(),
            ..Default::default()
        })?;
        let mut found = Registration {
            size: size as usize,
            members: Vec::new(),
            revision: listed.header.map_or(0, |header| header.revision),
        };
        for kv in listed.kvs {
            found.add(registered(&kv.key, &kv.value, kv.create_revision), self.log);
        }
        Ok(found)
    }

    fn members_key(&self) -> String {
        format!("{REGISTRY}/{}/members", self.discovery.token)
    }

    fn register(&mut self, member: &str) -> Result<(), Refused> {
        let put = pb::PutRequest {
            key: self.key.clone().into_bytes().into(),
            value: member.to_owned().into_bytes().into(),
            ..Default::default()
        };
        self.call(PUT, &put.encode_to_vec()).map_err(|failed| {
            warn!(self.log, "failed to register member itself", "error" => failed.to_string());
            Refused::Call(failed)
        })?;
        info!(self.log, "register member itself successfully", "member-key" => self.key.as_str());
        Ok(())
    }

    /// Follows the registrations from where `found` ends.
    fn wait_until_complete(&mut self, found: &mut Registration) -> Result<(), CallFailed> {
        if found.is_complete() {
            return Ok(());
        }
        info!(self.log, "waiting for peers from discovery service",
            "clusterSize" => found.size, "found-peers" => found.members.len());
        let prefix = self.members_key().into_bytes();
        let create = pb::WatchCreateRequest {
            range_end: after(&prefix).into(),
            key: prefix.into(),
            start_revision: found.revision + 1,
            ..Default::default()
        };
        let create = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let log = self.log;
        let channel = self.channel()?;
        let stream = channel.open_stream(WATCH, &create.encode_to_vec())?;
        while !found.is_complete() {
            let message = channel.next(stream)?;
            let response = decode::<pb::WatchResponse>(&message)?;
            if response.canceled {
                return Err(failed(format!(
                    "watch canceled: {}",
                    response.cancel_reason
                )));
            }
            let puts = response
                .events
                .iter()
                .filter(|e| e.r#type() == EventType::Put);
            for kv in puts.filter_map(|event| event.kv.as_ref()) {
                found.add(registered(&kv.key, &kv.value, kv.create_revision), log);
            }
        }
        info!(log, "found all needed peers from discovery service",
            "found-peers" => found.members.len());
        Ok(())
    }

    fn range(&mut self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Refused> {
        let answer = self.call(RANGE, &request.encode_to_vec());
        answer
            .and_then(|message| decode(&message))
            .map_err(Refused::Call)
    }

    fn call(&mut self, path: &str, message: &[u8]) -> Result<bytes::Bytes, CallFailed> {
        let timeout = self.discovery.request_timeout;
        let result = self
            .channel()
            .and_then(|channel| channel.call(path, message, timeout));
        if result.is_err() {
            self.channel = None;
        }
        result
    }

    fn channel(&mut self) -> Result<&mut Channel, CallFailed> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => {
                let patience = Patience {
                    dial: self.discovery.dial_timeout,
                    ping_interval: self.discovery.keepalive_time,
                    ping_timeout: self.discovery.keepalive_timeout,
                };
                Channel::open(&self.discovery.endpoints, &patience)?
            }
        };
        Ok(self.channel.insert(channel))
    }

    fn back_off(&mut self, retries: u32, reason: &str, failed: &CallFailed) {
        self.channel = None;
        let pause = BACKOFF_UNIT * 2u32.pow((retries + 1).min(BACKOFF_EXPONENT_MAX));
        warn!(self.log, "retry connecting to discovery service",
            "url" => self.discovery.endpoints.as_slice(), "reason" => reason,
            "backoff" => pause, "error" => failed.to_string());
        std::thread::sleep(pause);
    }
}

fn registered(key: &[u8], value: &[u8], create_revision: i64) -> Registered {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Registered {
        key: text(key),
        value: text(value),
        create_revision,
    }
}

fn failed(message: String) -> CallFailed {
    CallFailed {
        code: net::grpc::Code::UNAVAILABLE.0,
        message,
    }
}

fn decode<M: Message + Default>(message: &[u8]) -> Result<M, CallFailed> {
    M::decode(message).map_err(|error| failed(format!("the answer cannot be read: {error}")))
}

/// The end of the range of all keys that begin with a prefix, which here ends in a letter.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests;
