//! `alarm`, `defrag` and `move-leader`.

use proto::etcdserverpb::{
    alarm_request::AlarmAction, AlarmMember, AlarmRequest, AlarmResponse, AlarmType,
    DefragmentRequest, MoveLeaderRequest, StatusRequest,
};

use super::{client, endpoint, text, Forms};
use crate::{
    api::maintenance_client::MaintenanceClient,
    cli::{count_args, Invocation},
    client::{Client, Repeat},
    failure::{Failure, ERROR},
    global::{Format, Global},
    go,
    output::{self, fields::Fields, json::Object},
};

fn alarm_name(alarm: i32) -> &'static str {
    match AlarmType::try_from(alarm) {
        Ok(AlarmType::None) => "NONE",
        Ok(AlarmType::Nospace) => "NOSPACE",
        Ok(AlarmType::Corrupt) => "CORRUPT",
        Err(_) => "UNKNOWN",
    }
}

pub async fn alarm(sub: &str, call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(
        &call.args,
        0..=0,
        &format!("alarm {sub} command accepts no arguments"),
    )?;
    let client = client(global).await?;
    let active = ask_alarms(
        &client,
        AlarmRequest {
            action: AlarmAction::Get.into(),
            ..AlarmRequest::default()
        },
    )
    .await?;
    if sub == "list" {
        return print_alarms(&active, client.global.format);
    }
    let mut disarmed = AlarmResponse::default();
    for AlarmMember { member_id, alarm } in active.alarms {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id,
            alarm,
        };
        let response = ask_alarms(&client, request).await?;
        disarmed.header = response.header;
        disarmed.alarms.extend(response.alarms);
    }
    print_alarms(&disarmed, client.global.format)
}

async fn ask_alarms(client: &Client, request: AlarmRequest) -> Result<AlarmResponse, Failure> {
    let ask = |channel| {
        let request = client.request(request);
        async move { MaintenanceClient::new(channel).alarm(request).await }
    };
    client.call(Repeat::Read, ask).await
}

fn print_alarms(r: &AlarmResponse, format: Format) -> Result<(), Failure> {
    let simple = || {
        let line =
            |a: &AlarmMember| format!("memberID:{} alarm:{} \n", a.member_id, alarm_name(a.alarm));
        r.alarms.iter().map(line).collect::<String>().into_bytes()
    };
    let json = || {
        let one = |a: &AlarmMember| {
            Object::new()
                .number("memberID", a.member_id)
                .number("alarm", a.alarm)
                .end()
        };
        Object::new()
            .header(r.header.as_ref())
            .list("alarms", r.alarms.iter().map(one))
            .end()
    };
    let fields = || {
        let mut out = Fields::default();
        out.header(r.header.as_ref());
        for a in &r.alarms {
            out.field("MemberID", a.member_id)
                .field("AlarmType", alarm_name(a.alarm));
        }
        out.end()
    };
    Forms {
        message: r,
        simple: &simple,
        json: &json,
        fields: &fields,
    }
    .print(format)
}

pub async fn defrag(call: Invocation, mut global: Global) -> Result<(), Failure> {
    if call.options.bool("cluster") {
        global.endpoints = endpoint::cluster_endpoints(&global).await?;
    }
    let client = client(global).await?;
    let mut failed = false;
    for endpoint in &client.global.endpoints {
        let ask = |channel| {
            let request = client.request(DefragmentRequest {});
            async move { MaintenanceClient::new(channel).defragment(request).await }
        };
        match client.call_one(endpoint, ask).await {
            Ok(_) => output::emit(
                format!("Finished defragmenting etcd member[{endpoint}]\n").as_bytes(),
            )?,
            Err(failure) => {
                eprintln!(
                    "Failed to defragment etcd member[{endpoint}] ({})",
                    failure.text
                );
                failed = true;
            }
        }
    }
    if failed {
        Err(Failure::silent(ERROR))
    } else {
        Ok(())
    }
}

/// The request must go to the leader, so the endpoint that says it is the leader is looked for.
pub async fn move_leader(call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(&call.args, 1..=1, "move-leader command needs 1 argument")?;
    let target_id = go::parse_uint(&text(&call.args[0]), 16).map_err(Failure::args)?;
    let client = client(global).await?;
    for endpoint in &client.global.endpoints {
        let ask = |channel| {
            let request = client.request(StatusRequest {});
            async move { MaintenanceClient::new(channel).status(request).await }
        };
        let status = client.call_one(endpoint, ask).await?;
        let leader = status.leader;
        if status.header.is_none_or(|h| h.member_id != leader) {
            continue;
        }
        let ask = |channel| {
            let request = client.request(MoveLeaderRequest { target_id });
            async move { MaintenanceClient::new(channel).move_leader(request).await }
        };
        let r = client.call_one(endpoint, ask).await?;
        let forms = Forms {
            message: &r,
            simple: &|| {
                format!("Leadership transferred from {leader:x} to {target_id:x}\n").into_bytes()
            },
            json: &|| "{}".into(),
            fields: &|| Fields::default().header(r.header.as_ref()).end(),
        };
        return forms.print(client.global.format);
    }
    Err(Failure::args(format!(
        "no leader endpoint given at [{}]",
        client.global.endpoints.join(" ")
    )))
}
