//! `endpoint health|status|hashkv`: each endpoint is asked by itself.

use std::time::{Duration, Instant};

use proto::etcdserverpb::{
    alarm_request::AlarmAction, AlarmRequest, AlarmType, HashKvRequest, HashKvResponse,
    MemberListRequest, RangeRequest, StatusRequest, StatusResponse,
};
use tokio::task::JoinSet;

use super::client;
use crate::{
    api::{
        cluster_client::ClusterClient, kv_client::KvClient, maintenance_client::MaintenanceClient,
    },
    cli::Invocation,
    client::{Client, Repeat},
    failure::{Failure, ERROR},
    global::{Format, Global},
    go,
    output::{
        self,
        fields::{self, Fields},
        json::{self, Object},
        simple, table,
    },
};

pub async fn run(sub: &str, call: Invocation, mut global: Global) -> Result<(), Failure> {
    if call.options.bool("cluster") {
        global.endpoints = cluster_endpoints(&global).await?;
    }
    match sub {
        "health" => health(global).await,
        "status" => status(global).await,
        _ => hash_kv(call.options.int("rev"), global).await,
    }
}

/// The client URLs of all members.
pub async fn cluster_endpoints(global: &Global) -> Result<Vec<String>, Failure> {
    let client = client(global.clone()).await?;
    let ask = |channel| {
        let request = client.request(MemberListRequest { linearizable: true });
        async move { ClusterClient::new(channel).member_list(request).await }
    };
    let failed = |f: Failure| {
        Failure::error(format!(
            "failed to fetch endpoints from etcd cluster member list: {}",
            f.text
        ))
    };
    let members = client
        .call(Repeat::Read, ask)
        .await
        .map_err(failed)?
        .members;
    Ok(members.into_iter().flat_map(|m| m.client_ur_ls).collect())
}

struct Health {
    endpoint: String,
    took: Duration,
    error: String,
}

/// All endpoints are asked at once and shown as they answer.
async fn health(global: Global) -> Result<(), Failure> {
    if global.format == Format::Protobuf {
        return Err(output::unsupported(global.format));
    }
    let mut asking = JoinSet::new();
    for endpoint in global.endpoints.clone() {
        asking.spawn(probe(endpoint, global.clone()));
    }
    let mut results = Vec::new();
    while let Some(joined) = asking.join_next().await {
        let result = joined.map_err(|e| Failure::error(e.to_string()))?;
        if global.format == Format::Simple {
            show_health(&result)?;
        }
        results.push(result);
    }
    let text = match global.format {
        Format::Json => format!("{}\n", json::array(results.iter().map(health_json))),
        Format::Fields => results.iter().map(health_fields).collect(),
        Format::Table => {
            let row = |h: &Health| {
                vec![
                    h.endpoint.clone(),
                    h.error.is_empty().to_string(),
                    go::duration(h.took),
                    h.error.clone(),
                ]
            };
            table::draw(
                &["endpoint", "health", "took", "error"],
                &results.iter().map(row).collect::<Vec<_>>(),
            )
        }
        _ => String::new(),
    };
    output::emit(text.as_bytes())?;
    if results.iter().all(|h| h.error.is_empty()) {
        Ok(())
    } else {
        Err(Failure::error("unhealthy cluster"))
    }
}

/// Reads a key through the quorum, then asks for alarms. A refusal for lack of rights shows a server that works.
async fn probe(endpoint: String, global: Global) -> Health {
    let started = Instant::now();
    let error = match probe_one(&endpoint, global).await {
        Ok(alarms) => alarms,
        Err(failure) => failure.text,
    };
    Health {
        endpoint,
        took: started.elapsed(),
        error,
    }
}

async fn probe_one(endpoint: &str, mut global: Global) -> Result<String, Failure> {
    global.endpoints = vec![endpoint.to_owned()];
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(RangeRequest {
            key: "health".into(),
            ..RangeRequest::default()
        });
        async move { KvClient::new(channel).range(request).await }
    };
    match client.call(Repeat::Read, ask).await {
        Ok(_) => {}
        Err(failure) if failure.text == "etcdserver: permission denied" => {}
        Err(failure) => return Err(failure),
    }
    let ask = |channel| {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            ..AlarmRequest::default()
        };
        let request = client.request(request);
        async move { MaintenanceClient::new(channel).alarm(request).await }
    };
    let alarms = client
        .call(Repeat::Read, ask)
        .await
        .map_err(|_| Failure::error("Unable to fetch the alarm list"))?
        .alarms;
    if alarms.is_empty() {
        return Ok(String::new());
    }
    let name = |alarm: i32| match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => "NOSPACE ",
        Ok(AlarmType::Corrupt) => "CORRUPT ",
        _ => "UNKNOWN ",
    };
    Ok(alarms
        .iter()
        .fold("Active Alarm(s): ".to_owned(), |text, a| {
            text + name(a.alarm)
        }))
}

fn show_health(h: &Health) -> Result<(), Failure> {
    if h.error.is_empty() {
        let took = go::duration(h.took);
        let line = format!(
            "{} is healthy: successfully committed proposal: took = {took}\n",
            h.endpoint
        );
        return output::emit(line.as_bytes());
    }
    eprintln!(
        "{} is unhealthy: failed to commit proposal: {}",
        h.endpoint, h.error
    );
    Ok(())
}

fn health_json(h: &Health) -> String {
    Object::new()
        .text("endpoint", &h.endpoint)
        .raw("health", h.error.is_empty().to_string())
        .text("took", &go::duration(h.took))
        .text("error", &h.error)
        .end()
}

fn health_fields(h: &Health) -> String {
    let mut out = Fields::default();
    out.text("Endpoint", &h.endpoint)
        .field("Health", h.error.is_empty())
        .field("Took", go::duration(h.took))
        .field("Error", &h.error);
    out.end() + "\n"
}

async fn status(global: Global) -> Result<(), Failure> {
    let client = client(global).await?;
    let mut answers: Vec<(String, StatusResponse)> = Vec::new();
    let mut failed = false;
    for endpoint in &client.global.endpoints {
        let ask = |channel| {
            let request = client.request(StatusRequest {});
            async move { MaintenanceClient::new(channel).status(request).await }
        };
        match client.call_one(endpoint, ask).await {
            Ok(response) => answers.push((endpoint.clone(), response)),
            Err(failure) => {
                eprintln!(
                    "Failed to get the status of endpoint {endpoint} ({})",
                    failure.text
                );
                failed = true;
            }
        }
    }
    let rows: Vec<Vec<String>> = answers
        .iter()
        .map(|(e, r)| simple::status_row(e, r))
        .collect();
    let text = match client.global.format {
        Format::Simple => simple::rows(&rows),
        Format::Table => table::draw(STATUS_COLUMNS, &rows),
        Format::Fields => answers.iter().map(|(e, r)| fields::status(e, r)).collect(),
        Format::Json => {
            let one = |(e, r): &(String, StatusResponse)| {
                Object::new()
                    .text("Endpoint", e)
                    .raw("Status", json::status(r))
                    .end()
            };
            format!("{}\n", json::array(answers.iter().map(one)))
        }
        Format::Protobuf => return Err(output::unsupported(Format::Protobuf)),
    };
    output::emit(text.as_bytes())?;
    if failed {
        Err(Failure::silent(ERROR))
    } else {
        Ok(())
    }
}

const STATUS_COLUMNS: &[&str] = &[
    "endpoint",
    "id",
    "version",
    "db size",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
];

async fn hash_kv(revision: i64, global: Global) -> Result<(), Failure> {
    let client = client(global).await?;
    let mut answers: Vec<(String, HashKvResponse)> = Vec::new();
    let mut last = None;
    for endpoint in &client.global.endpoints {
        match ask_hash(&client, endpoint, revision).await {
            Ok(response) => answers.push((endpoint.clone(), response)),
            Err(failure) => {
                eprintln!(
                    "Failed to get the hash of endpoint {endpoint} ({})",
                    failure.text
                );
                last = Some(failure);
            }
        }
    }
    let rows: Vec<Vec<String>> = answers
        .iter()
        .map(|(e, r)| vec![e.clone(), r.hash.to_string()])
        .collect();
    let text = match client.global.format {
        Format::Simple => simple::rows(&rows),
        Format::Table => table::draw(&["endpoint", "hash"], &rows),
        Format::Fields => {
            let one = |(e, r): &(String, HashKvResponse)| {
                Fields::default()
                    .header(r.header.as_ref())
                    .text("Endpoint", e)
                    .field("Hash", r.hash)
                    .end()
                    + "\n"
            };
            answers.iter().map(one).collect()
        }
        Format::Json => {
            let one = |(e, r): &(String, HashKvResponse)| {
                Object::new()
                    .text("Endpoint", e)
                    .raw("HashKV", json::hash_kv(r))
                    .end()
            };
            format!("{}\n", json::array(answers.iter().map(one)))
        }
        Format::Protobuf => return Err(output::unsupported(Format::Protobuf)),
    };
    output::emit(text.as_bytes())?;
    last.map_or(Ok(()), Err)
}

async fn ask_hash(
    client: &Client,
    endpoint: &str,
    revision: i64,
) -> Result<HashKvResponse, Failure> {
    let ask = |channel| {
        let request = client.request(HashKvRequest { revision });
        async move { MaintenanceClient::new(channel).hash_kv(request).await }
    };
    client.call_one(endpoint, ask).await
}
