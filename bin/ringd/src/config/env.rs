//! `ETCD_*` variables: each flag has one, and the command line wins only by making the conflict fatal.

use super::{
    flags::{self, FLAGS},
    settings::Settings,
    url::quoted,
    value,
};
use crate::{
    caller,
    logging::{Level, Record},
};

const PREFIX: &str = "ETCD_";
const SHADOWED: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";

pub(super) enum EnvError {
    /// A value that does not parse.
    Invalid(String),
    /// A variable beside its flag: printed as a fatal line.
    Shadowed(Record),
}

/// The value of a variable, where set and not empty.
pub(super) fn lookup<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value.as_str())
}

/// Adds what the environment sets to `settings`, which holds the command line's values.
pub(super) fn apply(
    env: &[(String, String)],
    settings: &mut Settings,
    notes: &mut Vec<Record>,
) -> Result<(), EnvError> {
    let on_command_line: Vec<String> = settings.given().map(|(flag, _)| flag.env()).collect();
    let version = flags::find("version").map(|f| f.env()).unwrap_or_default();
    if let Some(value) = lookup(env, &version) {
        let note = Record::new(
            Level::Warn,
            caller!(),
            "cannot set special environment variable",
        );
        notes.push(
            note.with("key", version.clone())
                .with("value", value.to_owned()),
        );
    }
    let mut by_name: Vec<_> = FLAGS
        .iter()
        .filter(|f| f.on_command_line() && f.name != "version")
        .collect();
    by_name.sort_by_key(|f| f.name);
    let (mut used, mut invalid) = (Vec::new(), None);
    for flag in by_name {
        let name = flag.env();
        let Some(text) = lookup(env, &name).filter(|_| !on_command_line.contains(&name)) else {
            continue;
        };
        match value::parse(flag.kind, text) {
            Ok(value) => {
                settings.set(flag, value.unwrap_or_else(|| flag.default_value()));
                let note = Record::new(
                    Level::Info,
                    caller!(),
                    "recognized and used environment variable",
                );
                notes.push(
                    note.with("variable-name", name.clone())
                        .with("variable-value", text.to_owned()),
                );
            }
            Err(why) => invalid = Some(format!("invalid value {} for {name}: {why}", quoted(text))),
        }
        used.push(name);
    }
    for (name, value) in env
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && *name != version)
    {
        if on_command_line.contains(name) {
            let note = Record::new(Level::Fatal, caller!(), SHADOWED);
            return Err(EnvError::Shadowed(
                note.with("environment-variable", name.clone()),
            ));
        }
        if !used.contains(name) {
            let note = Record::new(Level::Warn, caller!(), "unrecognized environment variable");
            notes.push(note.with("environment-variable", format!("{name}={value}")));
        }
    }
    invalid.map_or(Ok(()), |text| Err(EnvError::Invalid(text)))
}
