//! `lease grant|revoke|timetolive|list|keep-alive`.

use std::time::Duration;

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, ResponseHeader,
};
use tokio_stream::StreamExt;

use super::{client, text, Forms};
use crate::{
    api::lease_client::LeaseClient,
    cli::{count_args, Invocation},
    client::{error_text, Client, Repeat},
    failure::{Failure, BAD_CONNECTION},
    global::{Format, Global},
    go,
    output::{self, fields, json, simple},
};

pub async fn run(sub: &str, call: Invocation, global: Global) -> Result<(), Failure> {
    match sub {
        "grant" => grant(call, global).await,
        "revoke" => revoke(call, global).await,
        "timetolive" => time_to_live(call, global).await,
        "list" => list(global).await,
        _ => keep_alive(call, global).await,
    }
}

fn lease_id(arg: &[u8]) -> Result<i64, Failure> {
    go::parse_int(&text(arg), 16)
        .map_err(|why| Failure::args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// Protobuf output of lease commands is the header alone.
fn header(header: &Option<ResponseHeader>) -> ResponseHeader {
    header.unwrap_or_default()
}

async fn grant(call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(&call.args, 1..=1, "lease grant command needs TTL argument")?;
    let ttl = go::parse_int(&text(&call.args[0]), 10)
        .map_err(|why| Failure::args(format!("bad TTL ({why})")))?;
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(LeaseGrantRequest { ttl, id: 0 });
        async move { LeaseClient::new(channel).lease_grant(request).await }
    };
    let r = client
        .call(Repeat::Write, ask)
        .await
        .map_err(|f| prefixed("failed to grant lease", f))?;
    let forms = Forms {
        message: &header(&r.header),
        simple: &|| format!("lease {:016x} granted with TTL({}s)\n", r.id, r.ttl).into_bytes(),
        json: &|| json::lease_grant(&r),
        fields: &|| fields::lease(r.header.as_ref(), r.id, r.ttl),
    };
    forms.print(client.global.format)
}

fn prefixed(what: &str, failure: Failure) -> Failure {
    Failure::new(failure.code, format!("{what} ({})", failure.text))
}

async fn revoke(call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(&call.args, 1..=1, "lease revoke command needs 1 argument")?;
    let id = lease_id(&call.args[0])?;
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(LeaseRevokeRequest { id });
        async move { LeaseClient::new(channel).lease_revoke(request).await }
    };
    let r = client
        .call(Repeat::Write, ask)
        .await
        .map_err(|f| prefixed("failed to revoke lease", f))?;
    let forms = Forms {
        message: &header(&r.header),
        simple: &|| format!("lease {id:016x} revoked\n").into_bytes(),
        json: &|| json::header_only(r.header.as_ref()),
        fields: &|| fields::header_only(r.header.as_ref()),
    };
    forms.print(client.global.format)
}

async fn time_to_live(call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(
        &call.args,
        1..=1,
        "lease timetolive command needs lease ID as argument",
    )?;
    let id = lease_id(&call.args[0])?;
    let keys = call.options.bool("keys");
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(LeaseTimeToLiveRequest { id, keys });
        async move { LeaseClient::new(channel).lease_time_to_live(request).await }
    };
    let r = client.call_patiently(Repeat::Read, ask).await?;
    let forms = Forms {
        message: &header(&r.header),
        simple: &|| simple::lease_time_to_live(&r, keys).into_bytes(),
        json: &|| json::lease_time_to_live(&r, keys),
        fields: &|| fields::lease_time_to_live(&r),
    };
    forms.print(client.global.format)
}

async fn list(global: Global) -> Result<(), Failure> {
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(LeaseLeasesRequest {});
        async move { LeaseClient::new(channel).lease_leases(request).await }
    };
    let r = client.call_patiently(Repeat::Read, ask).await?;
    let simple = || {
        let ids: String = r
            .leases
            .iter()
            .map(|l| format!("{:016x}\n", l.id))
            .collect();
        format!("found {} leases\n{ids}", r.leases.len()).into_bytes()
    };
    let forms = Forms {
        message: &header(&r.header),
        simple: &simple,
        json: &|| json::lease_list(&r),
        fields: &|| fields::lease_list(&r),
    };
    forms.print(client.global.format)
}

/// Keep-alives are sent when a third of the time is over.
const KEEP_ALIVES_PER_TTL: u32 = 3;

async fn keep_alive(call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(
        &call.args,
        1..=1,
        "lease keep-alive command needs lease ID as argument",
    )?;
    let id = lease_id(&call.args[0])?;
    let once = call.options.bool("once");
    let client = client(global).await?;
    loop {
        let r = match renew(&client, id).await {
            Ok(r) => r,
            Err(failure) if once => return Err(Failure::new(BAD_CONNECTION, failure.text)),
            Err(failure) => return Err(failure),
        };
        if r.ttl <= 0 && once {
            return Err(Failure::new(
                BAD_CONNECTION,
                "etcdserver: requested lease not found",
            ));
        }
        if r.ttl <= 0 {
            return match client.global.format {
                Format::Simple => {
                    output::emit(format!("lease {id:016x} expired or revoked.\n").as_bytes())
                }
                _ => Ok(()),
            };
        }
        let forms = Forms {
            message: &header(&r.header),
            simple: &|| {
                format!("lease {:016x} keepalived with TTL({})\n", r.id, r.ttl).into_bytes()
            },
            json: &|| json::lease_keep_alive(&r),
            fields: &|| fields::lease(r.header.as_ref(), r.id, r.ttl),
        };
        forms.print(client.global.format)?;
        if once {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(r.ttl.unsigned_abs()) / KEEP_ALIVES_PER_TTL).await;
    }
}

async fn renew(client: &Client, id: i64) -> Result<LeaseKeepAliveResponse, Failure> {
    let channel = client.connect(&client.global.endpoints, 0).await;
    let request = client.request(tokio_stream::once(LeaseKeepAliveRequest { id }));
    let failed = |status| Failure::error(error_text(&status));
    let mut stream = LeaseClient::new(channel)
        .lease_keep_alive(request)
        .await
        .map_err(failed)?
        .into_inner();
    match stream.next().await {
        Some(response) => response.map_err(failed),
        None => Err(Failure::error("the server ended the stream")),
    }
}
