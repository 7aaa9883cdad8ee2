//! `--help`, `--version` and the nearest name for a mistyped one. clap renders and suggests; parsing follows Go's grammar
//! and stays in [`super::args`].

use clap::{error::ContextKind, error::ContextValue, Arg, ArgAction, Command};

use super::flags::{Effect, Flag, Kind, FLAGS};

/// The release of etcd whose behaviour ringd follows, and which it reports as its version.
pub const ETCD_VERSION: &str = "3.5.33";
pub const RINGD_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The value of fields in which etcd states its commit.
pub const GIT_SHA: &str = concat!("ringd-", env!("CARGO_PKG_VERSION"));
/// The value of fields in which etcd states its compiler.
pub const GO_VERSION: &str = "none";
pub const GO_OS: &str = "linux";

/// The processor's name as Go spells it.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The usage text, printed on stderr with `--help` and after a mistake.
pub(super) const USAGE: &str = "Usage:

  ringd [flags]
    Start a server.

  ringd --version
    Print the version.

  ringd -h | --help
    Print this text and the list of flags.

  ringd --config-file PATH
    Start a server with a configuration file; other flags and the environment are then ignored.
";

pub(super) fn version_text() -> String {
    let arch = go_arch();
    format!("etcd Version: {ETCD_VERSION}\nGit SHA: {GIT_SHA}\nGo Version: {GO_VERSION} (ringd {RINGD_VERSION} is written in Rust)\nGo OS/Arch: {GO_OS}/{arch}\n")
}

/// All flags by group, with defaults.
pub(super) fn flag_list() -> String {
    let mut groups: Vec<_> = FLAGS.iter().map(|f| f.group).collect();
    groups.sort();
    groups.dedup();
    let mut command = Command::new("ringd")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .help_template("{all-args}")
        .after_help(
            "Every flag has an environment variable: ETCD_ and the flag's name in upper case, with _ for -.\n\
             Flags marked * are accepted and change nothing yet; those marked ! are refused when they are set.",
        );
    for group in groups {
        let rows = FLAGS
            .iter()
            .filter(|f| f.group == group && f.on_command_line());
        command = command.args(rows.map(|flag| {
            let help = describe(flag);
            let arg = Arg::new(flag.name)
                .long(flag.name)
                .help(help)
                .help_heading(group.title());
            if flag.kind == Kind::Bool {
                arg.action(ArgAction::SetTrue)
            } else {
                arg.action(ArgAction::Set).value_name(value_name(flag.kind))
            }
        }));
    }
    let mut text = command.render_help().to_string();
    text.push('\n');
    text
}

fn describe(flag: &Flag) -> String {
    let mark = match flag.effect {
        Effect::Acts => "",
        Effect::Ignored => "* ",
        Effect::Refused | Effect::RefusedSecurity => "! ",
    };
    let since = match flag.since {
        "3.5" => String::new(),
        release => format!(" [since {release}]"),
    };
    let until = if flag.until.is_empty() {
        String::new()
    } else {
        format!(" [removed in {}]", flag.until)
    };
    let default = if flag.default.is_empty() {
        String::new()
    } else {
        format!(" [default: {}]", flag.default)
    };
    format!("{mark}{}{default}{since}{until}", flag.help)
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "BOOL",
        Kind::Uint | Kind::Uint32 | Kind::Int => "NUMBER",
        Kind::Duration => "DURATION",
        Kind::Text => "TEXT",
        Kind::Choice(_) | Kind::QuotedChoice(_) => "CHOICE",
        Kind::Urls | Kind::Origins => "URLS",
        Kind::Words | Kind::WordSet => "LIST",
    }
}

/// The known name that is most like `typed`, if any is.
pub(super) fn nearest(typed: &str, known: &[&'static str]) -> Option<String> {
    let kebab = kebab_case(typed);
    if let Some(name) = known.iter().find(|name| **name == kebab) {
        return Some((*name).to_owned());
    }
    let command = Command::new("ringd").disable_help_flag(true).args(
        known
            .iter()
            .map(|name| Arg::new(*name).long(*name).action(ArgAction::SetTrue)),
    );
    let error = command
        .try_get_matches_from(["ringd", &format!("--{kebab}")])
        .err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(name) => Some(name.trim_start_matches('-').to_owned()),
        ContextValue::Strings(names) => names.first().map(|n| n.trim_start_matches('-').to_owned()),
        _ => None,
    }
}

/// `dataDir`, `data_dir` and `Data-Dir` all become `data-dir`.
fn kebab_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    let mut after_lower = false;
    for c in text.chars() {
        if c == '_' || c == '-' {
            out.push('-');
            after_lower = false;
        } else {
            if c.is_ascii_uppercase() && after_lower {
                out.push('-');
            }
            after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
            out.push(c.to_ascii_lowercase());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_grouped_and_complete() {
        let text = flag_list();
        let at = |needle: &str| {
            text.find(needle)
                .unwrap_or_else(|| panic!("{needle} missing in\n{text}"))
        };
        assert!(at("Member:") < at("Clustering:") && at("Clustering:") < at("Security:"));
        assert!(at("Security:") < at("Auth:") && at("Logging:") < at("Experimental feature:"));
        assert!(at("Experimental feature:") < at("Unsafe feature:"));
        for flag in FLAGS.iter().filter(|f| f.on_command_line()) {
            at(&format!("--{}", flag.name));
        }
        assert!(!text.contains("client-transport-security.allowed-cn"));
    }

    #[test]
    fn names_are_suggested() {
        let known = ["data-dir", "listen-peer-urls", "initial-cluster-state"];
        assert_eq!(nearest("dataDir", &known).as_deref(), Some("data-dir"));
        assert_eq!(
            nearest("initial_cluster_state", &known).as_deref(),
            Some("initial-cluster-state")
        );
        assert_eq!(
            nearest("listen-peers-urls", &known).as_deref(),
            Some("listen-peer-urls")
        );
        assert_eq!(nearest("zzz", &known), None);
    }

    #[test]
    fn version_has_etcds_labels() {
        let text = version_text();
        let labels: Vec<_> = text
            .lines()
            .map(|l| l.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            labels,
            ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]
        );
        assert!(text.starts_with("etcd Version: 3.5.33\n"));
    }
}
