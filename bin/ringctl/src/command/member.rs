//! `member add|list|promote|remove|update`.

use prost::Message;
use proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, ResponseHeader,
};

use super::{client, text};
use crate::{
    api::cluster_client::ClusterClient,
    cli::{count_args, Invocation},
    client::{Client, Repeat},
    failure::Failure,
    global::{Format, Global},
    go,
    output::{self, fields, json, simple, table},
};

const COLUMNS: &[&str] = &[
    "id",
    "status",
    "name",
    "peer addrs",
    "client addrs",
    "is learner",
];
const NO_PEER_URLS: &str = "member peer urls not provided";

pub async fn run(sub: &str, call: Invocation, global: Global) -> Result<(), Failure> {
    match sub {
        "add" => add(call, global).await,
        "list" => list(global).await,
        "update" => update(call, global).await,
        _ => by_id(sub, call, global).await,
    }
}

fn member_id(args: &[Vec<u8>]) -> Result<u64, Failure> {
    count_args(args, 1..=1, "member ID is not provided")?;
    go::parse_uint(&text(&args[0]), 16)
        .map_err(|why| Failure::args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

async fn list(global: Global) -> Result<(), Failure> {
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(MemberListRequest { linearizable: true });
        async move { ClusterClient::new(channel).member_list(request).await }
    };
    let r = client.call(Repeat::Read, ask).await?;
    let rows: Vec<Vec<String>> = r.members.iter().map(simple::member_row).collect();
    match client.global.format {
        Format::Simple => output::emit(simple::rows(&rows).as_bytes()),
        Format::Table => output::emit(table::draw(COLUMNS, &rows).as_bytes()),
        Format::Fields => output::emit(fields::members(r.header.as_ref(), &r.members).as_bytes()),
        Format::Protobuf => output::emit(&r.encode_to_vec()),
        Format::Json => {
            let text = match client.global.hex {
                true => json::members_hex(r.header.as_ref(), &r.members),
                false => json::members(r.header.as_ref(), None, &r.members),
            };
            output::emit(format!("{text}\n").as_bytes())
        }
    }
}

/// What all changes print: a sentence, or the response as JSON or protobuf.
struct Change<'a, M: Message> {
    message: &'a M,
    header: Option<&'a ResponseHeader>,
    added: Option<&'a Member>,
    members: &'a [Member],
    sentence: String,
}

impl<M: Message> Change<'_, M> {
    fn print(&self, client: &Client) -> Result<(), Failure> {
        match client.global.format {
            Format::Simple => output::emit(self.sentence.as_bytes()),
            Format::Json => output::emit(
                format!("{}\n", json::members(self.header, self.added, self.members)).as_bytes(),
            ),
            Format::Protobuf => output::emit(&self.message.encode_to_vec()),
            format => Err(output::unsupported(format)),
        }
    }
}

fn cluster_id(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |h| h.cluster_id)
}

async fn add(call: Invocation, global: Global) -> Result<(), Failure> {
    if call.args.is_empty() {
        return Err(Failure::args("member name not provided"));
    }
    if call.args.len() > 1 {
        let more = call.args[1..]
            .iter()
            .map(|a| text(a))
            .collect::<Vec<_>>()
            .join(" ");
        let hint = if more.contains("http") {
            format!(", did you mean --peer-urls={more}")
        } else {
            String::new()
        };
        return Err(Failure::args(format!("too many arguments{hint}")));
    }
    let urls = peer_urls(&call)?;
    let is_learner = call.options.bool("learner");
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(MemberAddRequest {
            peer_ur_ls: urls.clone(),
            is_learner,
        });
        async move { ClusterClient::new(channel).member_add(request).await }
    };
    let r = client.call(Repeat::Write, ask).await?;
    let added = r.member.clone().unwrap_or_default();
    let name = text(&call.args[0]);
    let sentence = format!(
        "Member {:16x} added to cluster {:16x}\n{}",
        added.id,
        cluster_id(r.header.as_ref()),
        start_settings(&name, &added, &r.members)
    );
    let (header, members) = (r.header.as_ref(), r.members.as_slice());
    Change {
        message: &r,
        header,
        added: r.member.as_ref(),
        members,
        sentence,
    }
    .print(&client)
}

fn peer_urls(call: &Invocation) -> Result<Vec<String>, Failure> {
    let text = call.options.text("peer-urls");
    if text.is_empty() {
        return Err(Failure::args(NO_PEER_URLS));
    }
    Ok(text.split(',').map(str::to_owned).collect())
}

/// The environment with which the new member starts.
fn start_settings(name: &str, added: &Member, members: &[Member]) -> String {
    let pairs = members.iter().flat_map(|m| {
        let name = if m.id == added.id {
            name
        } else {
            m.name.as_str()
        };
        m.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
    });
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        go::quote(name.as_bytes()),
        go::quote(pairs.collect::<Vec<_>>().join(",").as_bytes()),
        go::quote(added.peer_ur_ls.join(",").as_bytes()),
    )
}

async fn update(call: Invocation, global: Global) -> Result<(), Failure> {
    let id = member_id(&call.args)?;
    let urls = peer_urls(&call)?;
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(MemberUpdateRequest {
            id,
            peer_ur_ls: urls.clone(),
        });
        async move { ClusterClient::new(channel).member_update(request).await }
    };
    let r = client.call(Repeat::Write, ask).await?;
    let sentence = format!(
        "Member {id:16x} updated in cluster {:16x}\n",
        cluster_id(r.header.as_ref())
    );
    Change {
        message: &r,
        header: r.header.as_ref(),
        added: None,
        members: &r.members,
        sentence,
    }
    .print(&client)
}

async fn by_id(sub: &str, call: Invocation, global: Global) -> Result<(), Failure> {
    let id = member_id(&call.args)?;
    let client = client(global).await?;
    if sub == "promote" {
        let ask = |channel| {
            let request = client.request(MemberPromoteRequest { id });
            async move { ClusterClient::new(channel).member_promote(request).await }
        };
        let r = client.call(Repeat::Write, ask).await?;
        let sentence = format!(
            "Member {id:16x} promoted in cluster {:16x}\n",
            cluster_id(r.header.as_ref())
        );
        return Change {
            message: &r,
            header: r.header.as_ref(),
            added: None,
            members: &r.members,
            sentence,
        }
        .print(&client);
    }
    let ask = |channel| {
        let request = client.request(MemberRemoveRequest { id });
        async move { ClusterClient::new(channel).member_remove(request).await }
    };
    let r = client.call(Repeat::Write, ask).await?;
    let sentence = format!(
        "Member {id:16x} removed from cluster {:16x}\n",
        cluster_id(r.header.as_ref())
    );
    Change {
        message: &r,
        header: r.header.as_ref(),
        added: None,
        members: &r.members,
        sentence,
    }
    .print(&client)
}
