//! The commands, one file per family.

mod compaction;
mod endpoint;
mod kv;
mod lease;
mod maintenance;
mod member;
mod txn;
mod watch;

use prost::Message;

use crate::{
    cli::Invocation,
    client::Client,
    failure::{Failure, ERROR},
    global::{self, Format, Global},
    help::{API_VERSION, VERSION},
    output,
};

/// Carries out a command.
pub fn run(mut call: Invocation, env: Vec<(String, String)>) -> Result<(), Failure> {
    global::apply_environment(&mut call.options, &env)?;
    if call.path == ["version"] {
        return output::emit(
            format!("etcdctl version: {VERSION}\nAPI version: {API_VERSION}\n").as_bytes(),
        );
    }
    let global = Global::from_options(&call.options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(dispatch(call, global, env));
    // A thread that waits for standard input must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn dispatch(
    call: Invocation,
    global: Global,
    env: Vec<(String, String)>,
) -> Result<(), Failure> {
    match call.path.as_slice() {
        ["get"] => kv::get(call, global).await,
        ["put"] => kv::put(call, global).await,
        ["del"] => kv::del(call, global).await,
        ["txn"] => txn::run(call, global).await,
        ["watch"] => watch::run(call, global, &env).await,
        ["compaction"] => compaction::run(call, global).await,
        ["lease", sub] => lease::run(sub, call, global).await,
        ["endpoint", sub] => endpoint::run(sub, call, global).await,
        ["member", sub] => member::run(sub, call, global).await,
        ["alarm", sub] => maintenance::alarm(sub, call, global).await,
        ["defrag"] => maintenance::defrag(call, global).await,
        ["move-leader"] => maintenance::move_leader(call, global).await,
        path => Err(Failure::new(
            ERROR,
            format!("command {} is not available", path.join(" ")),
        )),
    }
}

/// Prints a response in the format asked for, where the format has a form for it.
struct Forms<'a, M: Message> {
    message: &'a M,
    simple: &'a dyn Fn() -> Vec<u8>,
    json: &'a dyn Fn() -> String,
    fields: &'a dyn Fn() -> String,
}

impl<M: Message> Forms<'_, M> {
    fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Simple => output::emit(&(self.simple)()),
            Format::Json => output::emit(format!("{}\n", (self.json)()).as_bytes()),
            Format::Fields => output::emit((self.fields)().as_bytes()),
            Format::Protobuf => output::emit(&self.message.encode_to_vec()),
            Format::Table => Err(output::unsupported(format)),
        }
    }
}

async fn client(global: Global) -> Result<Client, Failure> {
    Client::new(global).await
}

/// An argument as text, for numbers and names.
fn text(arg: &[u8]) -> String {
    String::from_utf8_lossy(arg).into_owned()
}

/// The end of the range of all keys with this prefix; a zero byte means no end.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        None => vec![0],
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn the_end_of_a_prefix_is_its_successor() {
        assert_eq!(prefix_end(b"a/"), b"a0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }
}
