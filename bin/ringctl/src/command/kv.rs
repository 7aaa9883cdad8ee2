//! `get`, `put` and `del`: options to requests, and their output.

use std::io::Read;

use proto::etcdserverpb::{
    range_request::{SortOrder, SortTarget},
    DeleteRangeRequest, PutRequest, RangeRequest,
};

use super::{client, prefix_end, Forms};
use crate::{
    api::kv_client::KvClient,
    cli::{Invocation, Options},
    client::Repeat,
    failure::{Failure, BAD_FEATURE},
    global::{Format, Global},
    go,
    output::{
        fields, json,
        simple::{self, Style},
    },
};

const PREFIX_OR_FROM_KEY: &str =
    "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const TOO_MANY: &str =
    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

/// Key and end of range from the arguments; the empty key stands for all keys where a range is meant.
fn key_range(
    options: &Options,
    args: &[Vec<u8>],
    few: &str,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (prefix, from_key) = (options.bool("prefix"), options.bool("from-key"));
    if args.is_empty() || args.len() > 2 {
        return Err(Failure::args(few));
    }
    if prefix && from_key {
        return Err(Failure::args(PREFIX_OR_FROM_KEY));
    }
    if args.len() > 1 && (prefix || from_key) {
        return Err(Failure::args(TOO_MANY));
    }
    let mut key = args[0].clone();
    let end = match args.get(1) {
        Some(end) => end.clone(),
        None if (prefix || from_key) && key.is_empty() => {
            key = vec![0];
            vec![0]
        }
        None if prefix => prefix_end(&key),
        None if from_key => vec![0],
        None => Vec::new(),
    };
    Ok((key, end))
}

/// The request that `get` makes of its options.
pub fn get_request(options: &Options, args: &[Vec<u8>]) -> Result<RangeRequest, Failure> {
    let few = "get command needs one argument as key and an optional argument as range_end";
    // A third argument is ignored, as in etcdctl.
    let args = if args.len() > 2 { &args[..2] } else { args };
    if options.bool("prefix") && options.bool("from-key") {
        return Err(Failure::args(PREFIX_OR_FROM_KEY));
    }
    if options.bool("keys-only") && options.bool("count-only") {
        return Err(Failure::args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = match options.text("consistency") {
        "l" => false,
        "s" => true,
        other => {
            let text = format!("unknown consistency flag {}", go::quote(other.as_bytes()));
            return Err(Failure::new(BAD_FEATURE, text));
        }
    };
    let (key, range_end) = key_range(options, args, few)?;
    let sort_target = match options.text("sort-by").to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => {
            let text = format!("bad sort target {}", options.text("sort-by"));
            return Err(Failure::new(BAD_FEATURE, text));
        }
    };
    let sorted_otherwise = sort_target != SortTarget::Key;
    let sort_order = match options.text("order").to_uppercase().as_str() {
        // Without an order the server sorts by key; another target needs one to act.
        "" if sorted_otherwise => SortOrder::Ascend,
        "" => SortOrder::None,
        // Ascending by key is what the server does anyway.
        "ASCEND" if !sorted_otherwise => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => {
            return Err(Failure::new(
                BAD_FEATURE,
                format!("bad sort order {}", options.text("order")),
            ))
        }
    };
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: options.int("limit"),
        revision: options.int("rev"),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: options.bool("keys-only"),
        count_only: options.bool("count-only"),
        min_mod_revision: options.int("min-mod-rev"),
        max_mod_revision: options.int("max-mod-rev"),
        min_create_revision: options.int("min-create-rev"),
        max_create_revision: options.int("max-create-rev"),
    })
}

pub async fn get(call: Invocation, global: Global) -> Result<(), Failure> {
    let request = get_request(&call.options, &call.args)?;
    let values_only = call.options.bool("print-value-only");
    if request.count_only && global.format != Format::Fields {
        return Err(Failure::args(
            "--count-only is only for `--write-out=fields`",
        ));
    }
    if values_only && global.format != Format::Simple {
        return Err(Failure::args(
            "print-value-only is only for `--write-out=simple`",
        ));
    }
    let style = Style {
        hex: global.hex,
        values_only,
    };
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(request.clone());
        async move {
            KvClient::new(channel)
                .max_decoding_message_size(usize::MAX)
                .range(request)
                .await
        }
    };
    let response = client.call(Repeat::Read, ask).await?;
    let forms = Forms {
        message: &response,
        simple: &|| simple::get(&response, style),
        json: &|| json::get(&response),
        fields: &|| fields::get(&response),
    };
    forms.print(client.global.format)
}

/// The request that `put` makes of its options; without a value it reads standard input.
pub fn put_request(
    options: &Options,
    args: &[Vec<u8>],
    stdin: impl Read,
) -> Result<PutRequest, Failure> {
    let (ignore_value, ignore_lease) = (options.bool("ignore-value"), options.bool("ignore-lease"));
    let few = "put command needs 1 argument and input from stdin or 2 arguments";
    let key = args.first().ok_or_else(|| Failure::args(few))?.clone();
    if ignore_value && args.len() > 1 {
        return Err(Failure::args(
            "put command needs only 1 argument when 'ignore-value' is set",
        ));
    }
    let value = match args.get(1) {
        Some(value) => value.clone(),
        None if ignore_value => Vec::new(),
        None => {
            let mut value = Vec::new();
            let mut stdin = stdin;
            stdin.read_to_end(&mut value)?;
            if value.is_empty() {
                return Err(Failure::args(few));
            }
            value
        }
    };
    let lease = go::parse_int(options.text("lease"), 16)
        .map_err(|why| Failure::args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: options.bool("prev-kv"),
        ignore_value,
        ignore_lease,
    })
}

pub async fn put(call: Invocation, global: Global) -> Result<(), Failure> {
    let request = put_request(&call.options, &call.args, std::io::stdin())?;
    let style = Style {
        hex: global.hex,
        values_only: false,
    };
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(request.clone());
        async move { KvClient::new(channel).put(request).await }
    };
    let response = client.call(Repeat::Write, ask).await?;
    let forms = Forms {
        message: &response,
        simple: &|| simple::put(&response, style),
        json: &|| json::put(&response),
        fields: &|| fields::put(&response),
    };
    forms.print(client.global.format)
}

/// The request that `del` makes of its options.
pub fn del_request(options: &Options, args: &[Vec<u8>]) -> Result<DeleteRangeRequest, Failure> {
    let few = "del command needs one argument as key and an optional argument as range_end";
    let (key, range_end) = key_range(options, args, few)?;
    Ok(DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: options.bool("prev-kv"),
    })
}

pub async fn del(call: Invocation, global: Global) -> Result<(), Failure> {
    let request = del_request(&call.options, &call.args)?;
    let style = Style {
        hex: global.hex,
        values_only: false,
    };
    let client = client(global).await?;
    let ask = |channel| {
        let request = client.request(request.clone());
        async move {
            KvClient::new(channel)
                .max_decoding_message_size(usize::MAX)
                .delete_range(request)
                .await
        }
    };
    let response = client.call(Repeat::Write, ask).await?;
    let forms = Forms {
        message: &response,
        simple: &|| simple::del(&response, style),
        json: &|| json::del(&response),
        fields: &|| fields::del(&response),
    };
    forms.print(client.global.format)
}
