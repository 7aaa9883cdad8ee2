//! How the member of a trace began.

use super::codec::Malformed;
use crate::{
    bootstrap::{assemble::Origin, Draws, VERSION},
    config::Url,
    identity::{Founder, Founding},
};
use engine::wal::Identity;
use serde::{Deserialize, Serialize};

/// Everything that a member is made from besides its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    pub version: String,
    /// The program's arguments, its own name first. A configuration file that they name must still be there.
    pub arguments: Vec<String>,
    /// Variables that the configuration reads.
    pub environment: Vec<(String, String)>,
    pub draws: Draws,
    origin: Option<Described>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Described {
    Founding {
        cluster_id: u64,
        local_id: u64,
        members: Vec<(u64, String, Vec<String>)>,
    },
    Joining {
        cluster_id: u64,
        member_id: u64,
    },
}

impl Header {
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    pub(super) fn of_this_process(draws: &Draws, origin: Option<&Origin>) -> Header {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Header {
            version: VERSION.into(),
            arguments: std::env::args_os().map(text).collect(),
            environment: variables
                .filter(|(name, _)| name.starts_with("ETCD_"))
                .collect(),
            draws: draws.clone(),
            origin: origin.map(describe),
        }
    }

    pub(super) fn decode(json: &[u8]) -> Result<Header, Malformed> {
        serde_json::from_slice(json).map_err(|_| Malformed("the header does not parse"))
    }

    /// Where the member came from. None if it had data.
    pub fn origin(&self) -> Result<Option<Origin>, Malformed> {
        let origin = match &self.origin {
            None => return Ok(None),
            Some(Described::Joining {
                cluster_id,
                member_id,
            }) => Origin::Joining(Identity {
                cluster_id: *cluster_id,
                member_id: *member_id,
            }),
            Some(Described::Founding {
                cluster_id,
                local_id,
                members,
            }) => {
                let founder = |(id, name, urls): &(u64, String, Vec<String>)| {
                    let urls = urls.iter().map(|url| Url::parse(url));
                    Ok(Founder {
                        id: *id,
                        name: name.clone(),
                        peer_urls: urls
                            .collect::<Result<_, _>>()
                            .map_err(|_| Malformed("a founder's URL"))?,
                    })
                };
                Origin::Founding(Founding {
                    cluster_id: *cluster_id,
                    local_id: *local_id,
                    members: members.iter().map(founder).collect::<Result<_, _>>()?,
                })
            }
        };
        Ok(Some(origin))
    }
}

fn describe(origin: &Origin) -> Described {
    match origin {
        Origin::Joining(identity) => Described::Joining {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
        },
        Origin::Founding(founding) => Described::Founding {
            cluster_id: founding.cluster_id,
            local_id: founding.local_id,
            members: founding
                .members
                .iter()
                .map(|founder| {
                    let urls = founder.peer_urls.iter().map(|url| url.as_str().to_owned());
                    (founder.id, founder.name.clone(), urls.collect())
                })
                .collect(),
        },
    }
}
