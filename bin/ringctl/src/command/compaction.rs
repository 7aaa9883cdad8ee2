//! `compaction REVISION`.

use proto::etcdserverpb::CompactionRequest;

use super::{client, text};
use crate::{
    api::kv_client::KvClient,
    cli::{count_args, Invocation},
    client::Repeat,
    failure::Failure,
    global::Global,
    go, output,
};

pub async fn run(call: Invocation, global: Global) -> Result<(), Failure> {
    count_args(&call.args, 1..=1, "compaction command needs 1 argument")?;
    let revision = go::parse_int(&text(&call.args[0]), 10).map_err(Failure::error)?;
    let request = CompactionRequest {
        revision,
        physical: call.options.bool("physical"),
    };
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(request);
        async move { KvClient::new(channel).compact(request).await }
    };
    // Waiting for removal may take long.
    match request.physical && !client.global.command_timeout_given {
        true => client.call_patiently(Repeat::Write, ask).await?,
        false => client.call(Repeat::Write, ask).await?,
    };
    output::emit(format!("compacted revision {revision}\n").as_bytes())
}
