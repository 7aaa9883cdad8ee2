//! Help in etcdctl's layout: sections in capitals, columns aligned with tabs.

use crate::cli::{Command, Kind, Opt, COMMANDS, GLOBAL};

/// The release whose commands, formats and texts these are.
pub const VERSION: &str = "3.5.33";
pub const API_VERSION: &str = "3.5";

/// The help of a command, or of the program when the path is empty.
pub fn text(program: &str, path: &[&'static Command]) -> String {
    let mut out = String::new();
    let names: Vec<&str> = path.iter().map(|c| c.name).collect();
    let (title, about, usage) = match path.last() {
        Some(command) => (names.join(" "), command.about, command.usage),
        None => (
            program.to_owned(),
            "A simple command line client for etcd3.",
            "",
        ),
    };
    out.push_str(&format!(
        "NAME:\n\t{title} - {about}\n\nUSAGE:\n\t{}\n",
        usage_line(program, &names, usage)
    ));
    let description = path.last().map_or(&[][..], |c| c.description);
    if !description.is_empty() {
        out.push_str("\nDESCRIPTION:\n");
    }
    for line in description {
        out.push_str(&format!("\t{line}\n"));
    }
    let level = path.last().map_or(COMMANDS, |c| c.subs);
    if path.is_empty() {
        out.push_str(&format!("\nVERSION:\n\t{VERSION}\n"));
    }
    if !level.is_empty() {
        out.push_str(&format!("\nAPI VERSION:\n\t{API_VERSION}\n\n\nCOMMANDS:\n"));
        let mut rows = if path.is_empty() {
            leaves()
        } else {
            level.iter().map(row).collect()
        };
        rows.sort();
        out.push_str(&columns(&rows, "\t"));
    }
    let inherited = match path {
        [group, _] => group.opts,
        _ => &[],
    };
    let mut own: Vec<(String, String)> = path
        .last()
        .map_or(&[][..], |c| c.opts)
        .iter()
        .filter(|opt| !inherited.iter().any(|group| group.name == opt.name))
        .map(option)
        .collect();
    let mut global: Vec<(String, String)> = GLOBAL.iter().chain(inherited).map(option).collect();
    global.sort_by(|a, b| long_name(&a.0).cmp(long_name(&b.0)));
    if path.is_empty() {
        own.extend(global.iter().cloned());
    }
    let name = path.last().map_or(program, |c| c.name);
    own.push(("  -h, --help[=false]".into(), format!("help for {name}")));
    own.sort_by(|a, b| long_name(&a.0).cmp(long_name(&b.0)));
    out.push_str(&format!("\nOPTIONS:\n{}\n", columns(&own, "")));
    if !path.is_empty() {
        out.push_str(&format!("GLOBAL OPTIONS:\n{}\n", columns(&global, "")));
    }
    out
}

fn usage_line(program: &str, names: &[&str], usage: &str) -> String {
    let words = [program]
        .into_iter()
        .chain(names.iter().copied())
        .chain([usage, "[flags]"]);
    words
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn row(command: &Command) -> (String, String) {
    (command.name.to_owned(), command.about.to_owned())
}

/// The program's help lists commands without their groups.
fn leaves() -> Vec<(String, String)> {
    let mut rows = vec![("help".to_owned(), "Help about any command".to_owned())];
    for command in COMMANDS {
        if command.subs.is_empty() && !command.is_missing() {
            rows.push(row(command));
        }
        rows.extend(command.subs.iter().map(|sub| {
            (
                format!("{} {}", command.name, sub.name),
                sub.about.to_owned(),
            )
        }));
    }
    rows
}

fn option(opt: &Opt) -> (String, String) {
    let start = opt
        .short
        .map_or("      ".to_owned(), |s| format!("  -{s}, "));
    let default = match opt.kind {
        Kind::Bool => format!("[={}]", opt.default),
        Kind::Text => format!("=\"{}\"", opt.default),
        Kind::List => format!("=[{}]", opt.default),
        Kind::Int | Kind::Duration => format!("={}", opt.default),
    };
    (
        format!("{start}--{}{default}", opt.name),
        opt.help.to_owned(),
    )
}

fn long_name(left: &str) -> &str {
    left.split("--").nth(1).unwrap_or(left)
}

const TAB: usize = 8;

/// Two columns; the left one is as many tabs wide as its longest cell needs.
fn columns(rows: &[(String, String)], indent: &str) -> String {
    let width = rows
        .iter()
        .map(|(left, _)| left.len() + 1)
        .max()
        .unwrap_or(0)
        .next_multiple_of(TAB);
    let line = |(left, right): &(String, String)| {
        let tabs = "\t".repeat((width - left.len()).div_ceil(TAB));
        format!("{indent}{left}{tabs}{right}\n")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_tabs() {
        let rows = [
            ("role revoke-permission".to_owned(), "a".to_owned()),
            ("alarm disarm".into(), "b".into()),
        ];
        assert_eq!(
            columns(&rows, "\t"),
            "\trole revoke-permission\ta\n\talarm disarm\t\tb\n"
        );
    }

    #[test]
    fn a_groups_options_are_global_ones_of_its_commands() {
        let endpoint = COMMANDS.iter().find(|c| c.name == "endpoint").unwrap();
        let status = endpoint.subs.iter().find(|c| c.name == "status").unwrap();
        let sections = |path: &[&'static Command]| -> (bool, bool) {
            let text = text("etcdctl", path);
            let (own, global) = text.split_once("GLOBAL OPTIONS:").unwrap();
            (own.contains("--cluster"), global.contains("--cluster"))
        };
        assert_eq!(sections(&[endpoint]), (true, false));
        assert_eq!(sections(&[endpoint, status]), (false, true));
    }

    #[test]
    fn descriptions_stand_between_usage_and_options() {
        for path in [&["put"][..], &["endpoint", "status"]] {
            let mut level = COMMANDS;
            let mut commands = Vec::new();
            for name in path {
                let command = level.iter().find(|c| c.name == *name).unwrap();
                commands.push(command);
                level = command.subs;
            }
            let text = text("etcdctl", &commands);
            let at = |title: &str| {
                text.find(title)
                    .unwrap_or_else(|| panic!("{title}: {text}"))
            };
            assert!(
                at("USAGE:\n") < at("\nDESCRIPTION:\n\t")
                    && at("\nDESCRIPTION:") < at("\nOPTIONS:")
            );
        }
    }

    #[test]
    fn a_groups_help_is_etcdctls() {
        let member = COMMANDS.iter().find(|c| c.name == "member").unwrap();
        let text = text("etcdctl", &[member]);
        let start = "NAME:\n\tmember - Membership related commands\n\nUSAGE:\n\tetcdctl member <subcommand> [flags]\n\n\
            API VERSION:\n\t3.5\n\n\nCOMMANDS:\n\tadd\tAdds a member into the cluster\n\tlist\tLists all members in the cluster\n";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("\nOPTIONS:\n  -h, --help[=false]\thelp for member\n\nGLOBAL OPTIONS:\n      --cacert=\"\"\t\t\t\tverify"));
        assert!(text.contains("      --insecure-skip-tls-verify[=false]\tskip server"));
    }
}
