//! An etcdctl-compatible client: command grammar, requests and output formats.
//!
//! `cli` reads the command line in etcdctl's grammar, `global` the options common to all commands, `client` connects;
//! `command` holds one file per family of commands and `output` one per format. Texts, exit codes and formats are
//! etcdctl's, so that scripts written for it run unchanged.

pub mod api;
mod cli;
mod client;
mod command;
mod failure;
mod global;
pub mod go;
mod help;
pub mod output;

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// Runs a command line, with the program's name first, and returns the exit code.
pub fn run(args: Vec<OsString>, env: Vec<(OsString, OsString)>) -> i32 {
    let program = args.first().map_or("ringctl".into(), |name| {
        let path = std::path::Path::new(name);
        path.file_name()
            .unwrap_or(name)
            .to_string_lossy()
            .into_owned()
    });
    let args: Vec<Vec<u8>> = args.into_iter().skip(1).map(OsString::into_vec).collect();
    let env = env
        .into_iter()
        .map(|(k, v)| {
            (
                k.to_string_lossy().into_owned(),
                v.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let invocation = match cli::parse(&program, args) {
        Ok(cli::Outcome::Run(invocation)) => invocation,
        Ok(cli::Outcome::Help(text)) => {
            print!("{text}");
            return 0;
        }
        Err(error) => return error.report(),
    };
    match command::run(invocation, env) {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}
