//! `watch`: one watch from the command line, or any number from standard input; events are printed as they come.

use std::{io::BufRead, os::unix::ffi::OsStrExt};

use prost::Message;
use proto::{
    etcdserverpb::{
        watch_request::RequestUnion, WatchCreateRequest, WatchProgressRequest, WatchRequest,
        WatchResponse,
    },
    mvccpb::{event::EventType, Event},
};
use tokio::sync::mpsc;
use tokio_stream::{wrappers::ReceiverStream, StreamExt};

use super::{client, prefix_end, text, txn};
use crate::{
    api::watch_client::WatchClient,
    cli::{self, Invocation, Options},
    client::{error_text, Client},
    failure::{Failure, BAD_ARGS, ERROR, INTERRUPTED, INVALID_INPUT},
    global::{Format, Global},
    go,
    output::{
        self, fields, json,
        simple::{self, Style},
    },
};

const BAD_NUMBER: &str = "bad number of arguments";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
/// Requests that may wait to be sent on a stream.
const REQUESTS_MAX: usize = 64;

/// What to watch, and the command to run for each event.
#[derive(Debug, PartialEq)]
struct Watch {
    request: WatchCreateRequest,
    command: Vec<Vec<u8>>,
}

/// Key and range from the environment.
#[derive(Debug, Default, Clone)]
struct EnvRange {
    key: String,
    end: String,
}

pub async fn run(
    call: Invocation,
    global: Global,
    env: &[(String, String)],
) -> Result<(), Failure> {
    let value = |name: &str| {
        env.iter()
            .find(|(k, _)| k == name)
            .map_or(String::new(), |(_, v)| v.clone())
    };
    let env = EnvRange {
        key: value("ETCDCTL_WATCH_KEY"),
        end: value("ETCDCTL_WATCH_RANGE_END"),
    };
    if env.key.is_empty() && !env.end.is_empty() {
        let end = go::quote(env.end.as_bytes());
        return Err(Failure::args(format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}"
        )));
    }
    if call.options.bool("interactive") {
        return interactive(global, env).await;
    }
    let watch = parse(&call.options, &call.args, call.dash, &env)?;
    let client = client(global).await?;
    let mut session = Session::open(&client, vec![watch]).await?;
    session.follow().await
}

/// Sorts arguments into key, range and command.
fn parse(
    options: &Options,
    args: &[Vec<u8>],
    dash: Option<usize>,
    env: &EnvRange,
) -> Result<Watch, Failure> {
    let (words, command) = match dash {
        Some(at) => (&args[..at.min(args.len())], &args[at.min(args.len())..]),
        None => (args, &[][..]),
    };
    if dash.is_some() && command.is_empty() {
        return Err(Failure::args(format!(
            "{BAD_NUMBER} (found separator --, but no commands)"
        )));
    }
    if !env.key.is_empty() && !words.is_empty() {
        return Err(Failure::args(format!(
            "{BAD_NUMBER} (found conflicting environment key)"
        )));
    }
    if words.len() > 2 || (words.is_empty() && env.key.is_empty()) {
        return Err(Failure::args(BAD_NUMBER));
    }
    let (mut key, mut end) = match words {
        [] => (env.key.clone().into_bytes(), env.end.clone().into_bytes()),
        [key] => (key.clone(), Vec::new()),
        [key, end, ..] => (key.clone(), end.clone()),
    };
    if options.bool("prefix") {
        if !end.is_empty() {
            return Err(Failure::args(
                "`range_end` and `--prefix` are mutually exclusive",
            ));
        }
        end = prefix_end(&key);
        if key.is_empty() {
            key = vec![0];
        }
    }
    let request = WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        start_revision: options.int("rev"),
        progress_notify: options.bool("progress-notify"),
        prev_kv: options.bool("prev-kv"),
        ..WatchCreateRequest::default()
    };
    Ok(Watch {
        request,
        command: command.to_vec(),
    })
}

/// One stream with its watches, in the order in which they were created.
struct Session<'a> {
    client: &'a Client,
    requests: mpsc::Sender<WatchRequest>,
    responses: tonic::Streaming<WatchResponse>,
    commands: Vec<Vec<Vec<u8>>>,
}

impl<'a> Session<'a> {
    async fn open(client: &'a Client, watches: Vec<Watch>) -> Result<Session<'a>, Failure> {
        let channel = client.connect(&client.global.endpoints, 0).await;
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let mut commands = Vec::new();
        for watch in watches {
            let _ = requests.send(create(watch.request)).await;
            commands.push(watch.command);
        }
        let mut request = client.request(ReceiverStream::new(queue));
        // A member without a leader ends the watch instead of letting it wait.
        request.metadata_mut().insert(
            "hasleader",
            tonic::metadata::MetadataValue::from_static("true"),
        );
        let mut watcher = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = watcher
            .watch(request)
            .await
            .map_err(|s| Failure::error(error_text(&s)))?
            .into_inner();
        Ok(Session {
            client,
            requests,
            responses,
            commands,
        })
    }

    /// Prints until the server or a command ends it.
    async fn follow(&mut self) -> Result<(), Failure> {
        while let Some(response) = self.responses.next().await {
            let response = response.map_err(|s| canceled(&error_text(&s)))?;
            self.handle(response).await?;
        }
        Err(Failure::new(INTERRUPTED, "watch is canceled by the server"))
    }

    async fn handle(&mut self, response: WatchResponse) -> Result<(), Failure> {
        if response.created && !response.canceled {
            return Ok(());
        }
        let reason = match response.compact_revision {
            0 => response.cancel_reason.clone(),
            _ => COMPACTED.to_owned(),
        };
        if response.canceled {
            eprintln!("watch was canceled ({reason})");
        }
        let progress =
            response.events.is_empty() && !response.canceled && response.compact_revision == 0;
        if progress {
            let revision = response.header.as_ref().map_or(0, |h| h.revision);
            output::emit(format!("progress notify: {revision}\n").as_bytes())?;
        }
        self.print(&response)?;
        if response.canceled {
            return Err(Failure::new(INTERRUPTED, "watch is canceled by the server"));
        }
        let id = usize::try_from(response.watch_id).unwrap_or(usize::MAX);
        let command = self.commands.get(id).filter(|c| !c.is_empty()).cloned();
        if let Some(command) = command {
            let revision = response.header.as_ref().map_or(0, |h| h.revision);
            for event in &response.events {
                execute(&command, event, revision).await?;
            }
        }
        Ok(())
    }

    fn print(&self, response: &WatchResponse) -> Result<(), Failure> {
        let style = Style {
            hex: self.client.global.hex,
            values_only: false,
        };
        match self.client.global.format {
            Format::Simple => output::emit(&simple::watch(response, style)),
            Format::Json => output::emit(format!("{}\n", json::watch(response)).as_bytes()),
            Format::Fields => output::emit(fields::watch(response).as_bytes()),
            Format::Protobuf => output::emit(&response.encode_to_vec()),
            Format::Table => Err(output::unsupported(Format::Table)),
        }
    }
}

fn create(request: WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(request)),
    }
}

fn canceled(reason: &str) -> Failure {
    eprintln!("watch was canceled ({reason})");
    Failure::new(INTERRUPTED, "watch is canceled by the server")
}

/// Runs the command with the event in its environment; values are quoted.
async fn execute(command: &[Vec<u8>], event: &Event, revision: i64) -> Result<(), Failure> {
    let kind = if event.r#type() == EventType::Delete {
        "DELETE"
    } else {
        "PUT"
    };
    let (key, value) = event
        .kv
        .as_ref()
        .map_or_else(Default::default, |kv| (kv.key.clone(), kv.value.clone()));
    let program = std::ffi::OsStr::from_bytes(&command[0]);
    let status = tokio::process::Command::new(program)
        .args(command[1..].iter().map(|a| std::ffi::OsStr::from_bytes(a)))
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(kind.as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&key))
        .env("ETCD_WATCH_VALUE", go::quote(&value))
        .status()
        .await;
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status
            .code()
            .map_or_else(|| "signal".to_owned(), |code| format!("exit status {code}")),
        Err(error) => error.to_string(),
    };
    let quoted: Vec<String> = command.iter().map(|word| go::quote(word)).collect();
    eprintln!("command [{}] error ({why})", quoted.join(" "));
    Err(Failure::silent(ERROR))
}

/// A line of interactive input.
#[derive(Debug, PartialEq)]
enum Line {
    Watch(Watch),
    Progress,
    /// Text for stderr; the next line is read.
    Invalid(String),
}

fn parse_line(line: &str, env: &EnvRange) -> Result<Line, Failure> {
    let words = txn::words(line);
    match words.first().map(|w| text(w)).as_deref() {
        None => {
            return Ok(Line::Invalid(
                "Invalid command:  (watch and progress supported)".into(),
            ))
        }
        Some("progress") if words.len() == 1 => return Ok(Line::Progress),
        Some("watch") if words.len() == 1 && env.key.is_empty() => {
            return Ok(Line::Invalid(
                "Invalid command watch (command type or key is not provided)".into(),
            ));
        }
        Some("watch") => {}
        Some(_) => {
            return Ok(Line::Invalid(format!(
                "Invalid command {} (only support watch)",
                line.trim()
            )))
        }
    }
    let flags = match cli::parse_flags(cli::WATCH, words[1..].to_vec()) {
        Ok(flags) => flags,
        Err(why) => {
            return Ok(Line::Invalid(format!(
                "Invalid command {} ({why})",
                line.trim()
            )))
        }
    };
    parse(&flags.options, &flags.args, flags.dash, env).map(Line::Watch)
}

/// Reads lines on a thread of its own and serves the stream meanwhile.
async fn interactive(global: Global, env: EnvRange) -> Result<(), Failure> {
    let client = client(global).await?;
    let (lines, mut input) = mpsc::channel::<Option<String>>(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if lines.blocking_send(Some(line)).is_err() {
                return;
            }
        }
        let _ = lines.blocking_send(None);
    });
    let mut session: Option<Session<'_>> = None;
    loop {
        let line = match &mut session {
            None => input.recv().await.flatten(),
            Some(open) => tokio::select! {
                line = input.recv() => line.flatten(),
                response = open.responses.next() => {
                    let response = response.ok_or_else(|| canceled("the stream ended"))?;
                    open.handle(response.map_err(|s| canceled(&error_text(&s)))?).await?;
                    continue;
                }
            },
        };
        let Some(line) = line else {
            return Err(Failure::new(
                INVALID_INPUT,
                "error reading watch request line: EOF",
            ));
        };
        match parse_line(&line, &env).map_err(|f| Failure::new(BAD_ARGS, f.text))? {
            Line::Invalid(text) => eprintln!("{text}"),
            Line::Progress => {
                if let Some(open) = &session {
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    let _ = open
                        .requests
                        .send(WatchRequest {
                            request_union: Some(progress),
                        })
                        .await;
                }
            }
            Line::Watch(watch) => match &mut session {
                None => session = Some(Session::open(&client, vec![watch]).await?),
                Some(open) => {
                    let _ = open.requests.send(create(watch.request)).await;
                    open.commands.push(watch.command);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Watch {
        match parse_line(text, &EnvRange::default()) {
            Ok(Line::Watch(watch)) => watch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_key_range_and_command() {
        let watch = line("watch a b --rev=5 --prev-kv -- echo \"x y\"");
        assert_eq!(
            (&watch.request.key[..], &watch.request.range_end[..]),
            (&b"a"[..], &b"b"[..])
        );
        assert_eq!(
            (watch.request.start_revision, watch.request.prev_kv),
            (5, true)
        );
        assert_eq!(watch.command, [b"echo".to_vec(), b"x y".to_vec()]);
        let watch = line("watch '' --prefix");
        assert_eq!(
            (&watch.request.key[..], &watch.request.range_end[..]),
            (&b"\0"[..], &b"\0"[..])
        );
    }

    #[test]
    fn mistakes_have_etcdctls_texts() {
        let env = EnvRange::default();
        let invalid = |text| parse_line(text, &env).unwrap();
        assert_eq!(
            invalid("bogus"),
            Line::Invalid("Invalid command bogus (only support watch)".into())
        );
        assert_eq!(
            invalid(""),
            Line::Invalid("Invalid command:  (watch and progress supported)".into())
        );
        let text = "Invalid command watch (command type or key is not provided)";
        assert_eq!(invalid("watch"), Line::Invalid(text.into()));
        assert_eq!(
            parse_line("watch a b --prefix", &env).unwrap_err(),
            Failure::args("`range_end` and `--prefix` are mutually exclusive")
        );
        let set = EnvRange {
            key: "k".into(),
            end: String::new(),
        };
        assert_eq!(
            parse_line("watch a", &set).unwrap_err().text,
            "bad number of arguments (found conflicting environment key)"
        );
        assert_eq!(
            parse_line("watch a --", &env).unwrap_err().text,
            "bad number of arguments (found separator --, but no commands)"
        );
    }
}
