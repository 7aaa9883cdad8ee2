//! The command line in Go's grammar.
//!
//! One or two dashes mean the same. A boolean takes its value only after `=`. The first argument that is not a flag ends
//! the flags, as `--` does. Values are checked as they are met, so that the leftmost mistake is the one reported.

use super::{
    flags::{self, Flag, Kind},
    value::{self, Value},
};

/// What the arguments asked for.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    Help,
    Flags {
        set: Vec<(&'static Flag, Value)>,
        rest: Vec<String>,
        ignored: Vec<String>,
    },
}

/// A mistake; printed as the first line on stderr, before the usage text.
#[derive(Debug, PartialEq)]
pub(super) struct ArgError {
    pub(super) text: String,
    /// The flag that does not exist, for a suggestion.
    pub(super) unknown: Option<String>,
}

fn mistake(text: String) -> ArgError {
    ArgError {
        text,
        unknown: None,
    }
}

/// Parses the arguments after the program's name. Values of a repeated flag all appear in `set`, in order.
pub(super) fn parse(args: &[String]) -> Result<Parsed, ArgError> {
    let (mut set, mut ignored) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let Some(body) = arg.strip_prefix('-').filter(|b| !b.is_empty()) else {
            break;
        };
        at += 1;
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            break;
        }
        if body.starts_with(['-', '=']) {
            return Err(mistake(format!("bad flag syntax: {arg}")));
        }
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        if flags::LEGACY.contains(&name) {
            // These were booleans, strings and numbers once; a boolean form without a value is the only one that leaves
            // the next argument alone, as etcd's placeholder does.
            ignored.push(name.to_owned());
            continue;
        }
        let Some(flag) = flags::find(name).filter(|f| f.on_command_line()) else {
            if matches!(name, "h" | "help") {
                return Ok(Parsed::Help);
            }
            return Err(ArgError {
                text: format!("flag provided but not defined: -{name}"),
                unknown: Some(name.to_owned()),
            });
        };
        let text = match (given, flag.kind) {
            (Some(text), _) => text,
            (None, Kind::Bool) => "true",
            (None, _) => {
                let Some(text) = args.get(at) else {
                    return Err(mistake(format!("flag needs an argument: -{name}")));
                };
                at += 1;
                text
            }
        };
        match value::parse(flag.kind, text) {
            Ok(Some(value)) => set.push((flag, value)),
            // An empty list keeps the default, but the flag counts as given.
            Ok(None) => set.push((flag, flag.default_value())),
            Err(why) => {
                let what = if flag.kind == Kind::Bool {
                    "boolean value"
                } else {
                    "value"
                };
                let preposition = if flag.kind == Kind::Bool {
                    "for"
                } else {
                    "for flag"
                };
                return Err(mistake(format!(
                    "invalid {what} {} {preposition} -{name}: {why}",
                    super::url::quoted(text)
                )));
            }
        }
    }
    Ok(Parsed::Flags {
        set,
        rest: args[at..].to_vec(),
        ignored,
    })
}
