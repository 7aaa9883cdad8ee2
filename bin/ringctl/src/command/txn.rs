//! `txn`: comparisons and two lists of requests, read from standard input.

use std::io::{BufRead, Write};

use proto::etcdserverpb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    Compare, RequestOp, TxnRequest,
};

use super::{client, kv, Forms};
use crate::{
    api::kv_client::KvClient,
    cli::{self, Invocation},
    client::Repeat,
    failure::{Failure, INVALID_INPUT},
    global::Global,
    go,
    output::{
        fields, json,
        simple::{self, Style},
    },
};

pub async fn run(call: Invocation, global: Global) -> Result<(), Failure> {
    if !call.args.is_empty() {
        return Err(Failure::args("txn command does not accept argument"));
    }
    let request = read(
        &mut std::io::stdin().lock(),
        call.options.bool("interactive"),
    )?;
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
                .txn(request)
                .await
        }
    };
    let response = client.call_patiently(Repeat::Write, ask).await?;
    let forms = Forms {
        message: &response,
        simple: &|| simple::txn(&response, style),
        json: &|| json::txn(&response),
        fields: &|| fields::txn(&response),
    };
    forms.print(client.global.format)
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(INVALID_INPUT, text)
}

/// Reads the three sections, each of which ends with an empty line.
fn read(input: &mut dyn BufRead, interactive: bool) -> Result<TxnRequest, Failure> {
    let prompt = |text: &str| {
        if interactive {
            println!("{text}");
            let _ = std::io::stdout().flush();
        }
    };
    prompt("compares:");
    let compare = section(input, |line| compare(line).map_err(invalid))?;
    prompt("success requests (get, put, del):");
    let success = section(input, request)?;
    prompt("failure requests (get, put, del):");
    let failure = section(input, request)?;
    Ok(TxnRequest {
        compare,
        success,
        failure,
    })
}

fn section<T>(
    input: &mut dyn BufRead,
    parse: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(invalid("EOF"));
        }
        let line = line.trim();
        if line.is_empty() {
            return Ok(items);
        }
        items.push(parse(line)?);
    }
}

/// `TARGET("key") OP "value"`.
fn compare(line: &str) -> Result<Compare, String> {
    let malformed = || format!("malformed comparison: {line}");
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let target = target.trim();
    let (key, rest) = go::unquote_prefix(rest.trim_start()).ok_or_else(malformed)?;
    let rest = rest
        .trim_start()
        .strip_prefix(')')
        .ok_or_else(malformed)?
        .trim_start();
    let operator_len = rest
        .find(|c: char| c.is_whitespace() || c == '"')
        .unwrap_or(rest.len());
    let (operator, value) = rest.split_at(operator_len);
    let (value, _) = go::unquote_prefix(value.trim_start()).unwrap_or_default();
    if operator.is_empty() || value.is_empty() && !rest.contains('"') {
        let key = go::quote(&key);
        return Err(format!(
            "malformed comparison: {line}; got {target}({key}) {operator} \"\""
        ));
    }
    let result = match operator {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => {
            return Err(format!(
                "malformed comparison: {line} (unknown operator {operator})"
            ))
        }
    };
    let number = |base| {
        go::parse_int(&String::from_utf8_lossy(&value), base)
            .map_err(|_| format!("invalid txn compare request: {line}"))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(number(10)?),
        ),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (
            CompareTarget::Value,
            TargetUnion::Value(value.clone().into()),
        ),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => {
            return Err(format!(
                "malformed comparison: {line} (unknown target {other})"
            ))
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
        ..Compare::default()
    })
}

/// `get ...`, `put ...` or `del ...` with the command's own options.
fn request(line: &str) -> Result<RequestOp, Failure> {
    let mut words = words(line);
    let unknown = || invalid(format!("invalid txn request: {line}"));
    if words.is_empty() {
        return Err(unknown());
    }
    let name = words.remove(0);
    let opts = match name.as_slice() {
        b"get" => cli::GET,
        b"put" => cli::PUT,
        b"del" => cli::DEL,
        _ => return Err(unknown()),
    };
    let flags = cli::parse_flags(opts, words).map_err(|_| unknown())?;
    let request = match name.as_slice() {
        b"get" => Request::RequestRange(kv::get_request(&flags.options, &flags.args)?),
        // A value must stand on the line: standard input is the transaction's.
        b"put" => Request::RequestPut(kv::put_request(
            &flags.options,
            &flags.args,
            std::io::empty(),
        )?),
        _ => Request::RequestDeleteRange(kv::del_request(&flags.options, &flags.args)?),
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

/// Splits a line into words; quotes of either kind hold blanks, and those with double quotes hold Go's escapes.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' => match go::unquote_prefix(rest) {
                Some((word, after)) => (word, after),
                None => (rest.as_bytes().to_vec(), ""),
            },
            '\'' => match rest[1..].split_once('\'') {
                Some((word, after)) => (word.as_bytes().to_vec(), after),
                None => (rest.as_bytes().to_vec(), ""),
            },
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        let failure = read(&mut text.as_bytes(), false).unwrap_err();
        assert_eq!(failure.code, 3);
        failure.text
    }

    #[test]
    fn sections_are_read() {
        let text = "mod(\"foo\") > \"0\"\nval(\"a\") = \"\"\n\nput foo \"b c\"\nget foo --prefix\ndel zz\n\nget 'x y'\n\n";
        let request = read(&mut text.as_bytes(), false).unwrap();
        assert_eq!(
            (
                request.compare.len(),
                request.success.len(),
                request.failure.len()
            ),
            (2, 3, 1)
        );
        assert_eq!(
            request.compare[0].target_union,
            Some(TargetUnion::ModRevision(0))
        );
        assert_eq!(
            request.compare[1].target_union,
            Some(TargetUnion::Value(Default::default()))
        );
        let Some(Request::RequestPut(put)) = &request.success[0].request else {
            panic!()
        };
        assert_eq!(&put.value[..], b"b c");
        let Some(Request::RequestRange(get)) = &request.failure[0].request else {
            panic!()
        };
        assert_eq!(&get.key[..], b"x y");
    }

    #[test]
    fn mistakes_have_etcdctls_texts() {
        assert_eq!(failure("bad\n"), "malformed comparison: bad");
        assert_eq!(
            failure("mod(\"foo\") > 0\n\n"),
            "malformed comparison: mod(\"foo\") > 0; got mod(\"foo\") > \"\""
        );
        assert_eq!(
            failure("foo(\"foo\") > \"0\"\n\n"),
            "malformed comparison: foo(\"foo\") > \"0\" (unknown target foo)"
        );
        assert_eq!(
            failure("mod(\"a\") > \"x\"\n\n"),
            "invalid txn compare request: mod(\"a\") > \"x\""
        );
        assert_eq!(
            failure("mod(\"foo\") > \"0\"\n\nbogus x y\n"),
            "invalid txn request: bogus x y"
        );
        assert_eq!(failure("mod(\"foo\") > \"0\"\n"), "EOF");
    }
}
