//! The command line in etcdctl's grammar: flags anywhere, commands by any unambiguous prefix, `--` before literal
//! arguments.

use std::collections::BTreeMap;

use crate::{failure::Failure, go, help};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Int,
    Duration,
    /// Comma list.
    List,
}

#[derive(Debug)]
pub struct Opt {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    pub help: &'static str,
}

#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// What follows the command's path in the usage line.
    pub usage: &'static str,
    pub about: &'static str,
    /// Lines of help; none for most.
    pub description: &'static [&'static str],
    /// A group's are its commands' too, which name them again.
    pub opts: &'static [Opt],
    pub subs: &'static [Command],
}

const fn opt(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Opt {
    Opt {
        name,
        short: None,
        kind,
        default,
        help,
    }
}

const fn short(short: char, opt: Opt) -> Opt {
    Opt {
        short: Some(short),
        ..opt
    }
}

const fn leaf(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    opts: &'static [Opt],
) -> Command {
    Command {
        name,
        usage,
        about,
        description: &[],
        opts,
        subs: &[],
    }
}

const fn described(description: &'static [&'static str], command: Command) -> Command {
    Command {
        description,
        ..command
    }
}

const fn group(name: &'static str, about: &'static str, subs: &'static [Command]) -> Command {
    group_with(name, about, &[], subs)
}

const fn group_with(
    name: &'static str,
    about: &'static str,
    opts: &'static [Opt],
    subs: &'static [Command],
) -> Command {
    Command {
        name,
        usage: "<subcommand>",
        about,
        description: &[],
        opts,
        subs,
    }
}

use Kind::{Bool, Duration, Int, List, Text};

/// Options that every command has.
#[rustfmt::skip]
pub static GLOBAL: &[Opt] = &[
    opt("cacert", Text, "", "verify certificates of TLS-enabled secure servers using this CA bundle"),
    opt("cert", Text, "", "identify secure client using this TLS certificate file"),
    opt("command-timeout", Duration, "5s", "timeout for short running command (excluding dial timeout)"),
    opt("debug", Bool, "false", "enable client-side debug logging"),
    opt("dial-timeout", Duration, "2s", "dial timeout for client connections"),
    short('d', opt("discovery-srv", Text, "", "domain name to query for SRV records describing cluster endpoints")),
    opt("discovery-srv-name", Text, "", "service name to query when using DNS discovery"),
    opt("endpoints", List, "127.0.0.1:2379", "gRPC endpoints"),
    opt("hex", Bool, "false", "print byte strings as hex encoded strings"),
    opt("insecure-discovery", Bool, "true", "accept insecure SRV records describing cluster endpoints"),
    opt("insecure-skip-tls-verify", Bool, "false", "skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)"),
    opt("insecure-transport", Bool, "true", "disable transport security for client connections"),
    opt("keepalive-time", Duration, "2s", "keepalive time for client connections"),
    opt("keepalive-timeout", Duration, "6s", "keepalive timeout for client connections"),
    opt("key", Text, "", "identify secure client using this TLS key file"),
    opt("password", Text, "", "password for authentication (if this option is used, --user option shouldn't include password)"),
    opt("user", Text, "", "username[:password] for authentication (prompt if password is not supplied)"),
    short('w', opt("write-out", Text, "simple", "set the output format (fields, json, protobuf, simple, table)")),
];

/// The options of single commands, which `txn` reads inside its requests too.
#[rustfmt::skip]
pub static GET: &[Opt] = &[
    opt("consistency", Text, "l", "Linearizable(l) or Serializable(s)"),
    opt("count-only", Bool, "false", "Get only the count"),
    opt("from-key", Bool, "false", "Get keys that are greater than or equal to the given key using byte compare"),
    opt("keys-only", Bool, "false", "Get only the keys"),
    opt("limit", Int, "0", "Maximum number of results"),
    opt("max-create-rev", Int, "0", "Maximum create revision of results"),
    opt("max-mod-rev", Int, "0", "Maximum modification revision of results"),
    opt("min-create-rev", Int, "0", "Minimum create revision of results"),
    opt("min-mod-rev", Int, "0", "Minimum modification revision of results"),
    opt("order", Text, "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
    opt("prefix", Bool, "false", "Get keys with matching prefix"),
    opt("print-value-only", Bool, "false", "Only write values when using the \"simple\" output format"),
    opt("rev", Int, "0", "Specify the kv revision"),
    opt("sort-by", Text, "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
];

#[rustfmt::skip]
pub static PUT: &[Opt] = &[
    opt("ignore-lease", Bool, "false", "updates the key using its current lease"),
    opt("ignore-value", Bool, "false", "updates the key using its current value"),
    opt("lease", Text, "0", "lease ID (in hexadecimal) to attach to the key"),
    opt("prev-kv", Bool, "false", "return the previous key-value pair before modification"),
];

#[rustfmt::skip]
pub static DEL: &[Opt] = &[
    opt("from-key", Bool, "false", "delete keys that are greater than or equal to the given key using byte compare"),
    opt("prefix", Bool, "false", "delete keys with matching prefix"),
    opt("prev-kv", Bool, "false", "return deleted key-value pairs"),
    opt("range", Bool, "false", "delete range of keys"),
];

#[rustfmt::skip]
pub static WATCH: &[Opt] = &[
    short('i', opt("interactive", Bool, "false", "Interactive mode")),
    opt("prefix", Bool, "false", "Watch on a prefix if prefix is set"),
    opt("prev-kv", Bool, "false", "get the previous key-value pair before the event happens"),
    opt("progress-notify", Bool, "false", "get periodic watch progress notification from server"),
    opt("rev", Int, "0", "Revision to start watching"),
];

/// The usage text that marks a command of etcdctl which is not offered yet. Such names still count where a prefix must be
/// unambiguous and where a name is suggested.
const MISSING: &str = "(not available)";

const fn missing(name: &'static str) -> Command {
    leaf(name, MISSING, "", &[])
}

impl Command {
    pub fn is_missing(&self) -> bool {
        self.usage == MISSING
    }
}

const CLUSTER: Opt = opt(
    "cluster",
    Bool,
    "false",
    "use all endpoints from the cluster member list",
);

/// All commands, in the order in which suggestions name them.
#[rustfmt::skip]
pub static COMMANDS: &[Command] = &[
    leaf("get", "[options] <key> [range_end]", "Gets the key or a range of keys", GET),
    described(
        &[
            "Without <value> the value is what stands on standard input, unless --ignore-value keeps the present one:",
            "",
            "$ put <key> < <file>",
            "",
            "A <value> that begins with '-' would be taken for an option; '--' ends the options:",
            "",
            "$ put <key> -- <value>",
        ],
        leaf("put", "[options] <key> <value> (<value> can also be given from stdin)", "Puts the given key into the store", PUT),
    ),
    leaf("del", "[options] <key> [range_end]", "Removes the specified key or range of keys [key, range_end)", DEL),
    leaf("txn", "[options]", "Txn processes all the requests in one transaction", &[
        short('i', opt("interactive", Bool, "false", "Input transaction in interactive mode")),
    ]),
    leaf("compaction", "[options] <revision>", "Compacts the event history in etcd", &[
        opt("physical", Bool, "false", "'true' to wait for compaction to physically remove all old revisions"),
    ]),
    group("alarm", "Alarm related commands", &[
        leaf("disarm", "", "Disarms all alarms", &[]),
        leaf("list", "", "Lists all alarms", &[]),
    ]),
    leaf("defrag", "", "Defragments the storage of the etcd members with given endpoints", &[CLUSTER]),
    group_with("endpoint", "Endpoint related commands", &[CLUSTER], &[
        leaf("hashkv", "", "Prints the KV history hash for each endpoint in --endpoints", &[
            CLUSTER,
            opt("rev", Int, "0", "maximum revision to hash (default: all revisions)"),
        ]),
        leaf("health", "", "Checks the healthiness of endpoints specified in `--endpoints` flag", &[CLUSTER]),
        described(
            &[
                "With --write-out=simple there is one line for each endpoint, of these items with commas between them:",
                "endpoint, ID, version, database size, is leader, is learner, Raft term, Raft index, Raft applied index, errors.",
            ],
            leaf("status", "", "Prints out the status of endpoints specified in `--endpoints` flag", &[CLUSTER]),
        ),
    ]),
    leaf("move-leader", "<transferee-member-id>", "Transfers leadership to another etcd cluster member.", &[]),
    leaf("watch", "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]", "Watches events stream on keys or prefixes", WATCH),
    leaf("version", "", "Prints the version of etcdctl", &[]),
    group("lease", "Lease related commands", &[
        leaf("grant", "<ttl>", "Creates leases", &[]),
        leaf("keep-alive", "[options] <leaseID>", "Keeps leases alive (renew)", &[
            opt("once", Bool, "false", "Resets the keep-alive time to its original value and exits immediately"),
        ]),
        leaf("list", "", "List all active leases", &[]),
        leaf("revoke", "<leaseID>", "Revokes leases", &[]),
        leaf("timetolive", "<leaseID> [options]", "Get lease information", &[
            opt("keys", Bool, "false", "Get keys attached to this lease"),
        ]),
    ]),
    group("member", "Membership related commands", &[
        leaf("add", "<memberName> [options]", "Adds a member into the cluster", &[
            opt("learner", Bool, "false", "indicates if the new member is raft learner"),
            opt("peer-urls", Text, "", "comma separated peer URLs for the new member."),
        ]),
        leaf("list", "", "Lists all members in the cluster", &[]),
        leaf("promote", "<memberID>", "Promotes a non-voting member in the cluster", &[]),
        leaf("remove", "<memberID>", "Removes a member from the cluster", &[]),
        leaf("update", "<memberID> [options]", "Updates a member in the cluster", &[
            opt("peer-urls", Text, "", "comma separated peer URLs for the updated member."),
        ]),
    ]),
    missing("snapshot"),
    missing("make-mirror"),
    missing("lock"),
    missing("elect"),
    missing("auth"),
    missing("user"),
    missing("role"),
    missing("check"),
];

/// A command with its options and arguments.
#[derive(Debug)]
pub struct Invocation {
    /// The command's name with those of its groups.
    pub path: Vec<&'static str>,
    pub options: Options,
    pub args: Vec<Vec<u8>>,
    /// How many of `args` stand before `--`, where there is one.
    pub dash: Option<usize>,
}

/// Values of options: those given, over the defaults.
#[derive(Debug, Default, Clone)]
pub struct Options {
    defaults: BTreeMap<&'static str, &'static str>,
    given: BTreeMap<&'static str, String>,
}

impl Options {
    fn of(opts: &[&'static [Opt]]) -> Options {
        let all = opts.iter().flat_map(|list| list.iter());
        Options {
            defaults: all.map(|opt| (opt.name, opt.default)).collect(),
            given: BTreeMap::new(),
        }
    }

    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(value) => value,
            None => self.defaults.get(name).copied().unwrap_or_default(),
        }
    }

    /// Whether a boolean is set; its text was checked when it was parsed.
    pub fn bool(&self, name: &str) -> bool {
        go::parse_bool(self.text(name)).unwrap_or(false)
    }

    pub fn int(&self, name: &str) -> i64 {
        go::parse_int(self.text(name), 0).unwrap_or(0)
    }

    pub fn set(&mut self, name: &'static str, value: String) {
        self.given.insert(name, value);
    }
}

#[derive(Debug)]
pub enum Outcome {
    Run(Invocation),
    /// Text for stdout, with code 0.
    Help(String),
}

/// A mistake in the grammar: what to print where; the code is always 1.
#[derive(Debug, PartialEq, Eq)]
pub struct GrammarError {
    pub stdout: String,
    pub stderr: String,
}

impl GrammarError {
    pub fn report(&self) -> i32 {
        print!("{}", self.stdout);
        eprint!("{}", self.stderr);
        crate::failure::ERROR
    }
}

/// Splits the arguments into command, options and arguments.
pub fn parse(program: &str, args: Vec<Vec<u8>>) -> Result<Outcome, GrammarError> {
    let (path, rest) = find(args);
    let leaf = path.last().copied();
    let subs = leaf.map_or(COMMANDS, |c| c.subs);
    let own = leaf.map_or(&[][..], |c| c.opts);
    if let Some(at) = first_word(&rest).filter(|at| path.is_empty() && rest[*at] == b"help") {
        let (path, _) = find(rest[at + 1..].to_vec());
        return Ok(Outcome::Help(help::text(program, &path)));
    }
    if let Some(command) = leaf.filter(|c| c.is_missing()) {
        let name = command.name;
        return Err(GrammarError {
            stdout: String::new(),
            stderr: format!("Error: {name} is not available in this version of {program}\n"),
        });
    }
    let flags = match parse_flags(own, rest) {
        Ok(flags) => flags,
        Err(text) => {
            let stdout = help::text(program, &path);
            return Err(GrammarError {
                stdout,
                stderr: format!("Error: {text}\n\nError: {text}\n"),
            });
        }
    };
    if flags.help {
        return Ok(Outcome::Help(help::text(program, &path)));
    }
    if !subs.is_empty() {
        return match (path.is_empty(), flags.args.first()) {
            (true, Some(name)) => Err(unknown_command(program, &String::from_utf8_lossy(name))),
            _ => Ok(Outcome::Help(help::text(program, &path))),
        };
    }
    Ok(Outcome::Run(Invocation {
        path: path.iter().map(|c| c.name).collect(),
        options: flags.options,
        args: flags.args,
        dash: flags.dash,
    }))
}

/// Takes the command's names out of the arguments, wherever flags stand between them.
fn find(mut args: Vec<Vec<u8>>) -> (Vec<&'static Command>, Vec<Vec<u8>>) {
    let mut path: Vec<&'static Command> = Vec::new();
    loop {
        let level = path.last().map_or(COMMANDS, |c| c.subs);
        let found = first_word(&args)
            .and_then(|at| Some((at, by_prefix(level, &String::from_utf8_lossy(&args[at]))?)));
        let Some((at, command)) = found else {
            return (path, args);
        };
        args.remove(at);
        path.push(command);
    }
}

/// The place of the first argument that is neither a flag nor the value of one.
fn first_word(args: &[Vec<u8>]) -> Option<usize> {
    let mut at = 0;
    while at < args.len() {
        let arg = String::from_utf8_lossy(&args[at]);
        if arg == "--" {
            return None;
        }
        if arg.len() < 2 || !arg.starts_with('-') {
            return Some(at);
        }
        let takes_next = match arg.strip_prefix("--") {
            Some(name) => {
                !name.contains('=') && GLOBAL.iter().any(|o| o.name == name && o.kind != Bool)
            }
            None => {
                arg.len() == 2
                    && GLOBAL
                        .iter()
                        .any(|o| o.short == arg.chars().nth(1) && o.kind != Bool)
            }
        };
        at += if takes_next { 2 } else { 1 };
    }
    None
}

fn by_prefix(level: &'static [Command], typed: &str) -> Option<&'static Command> {
    if let Some(exact) = level.iter().find(|c| c.name == typed) {
        return Some(exact);
    }
    let mut matching = level
        .iter()
        .filter(|c| !typed.is_empty() && c.name.starts_with(typed));
    match (matching.next(), matching.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

pub struct Flags {
    pub options: Options,
    pub args: Vec<Vec<u8>>,
    pub dash: Option<usize>,
    pub help: bool,
}

/// Reads flags of a command and the global ones; everything else is an argument.
pub fn parse_flags(own: &'static [Opt], args: Vec<Vec<u8>>) -> Result<Flags, String> {
    let lookup = |name: &str| own.iter().chain(GLOBAL).find(|o| o.name == name);
    let mut flags = Flags {
        options: Options::of(&[GLOBAL, own]),
        args: Vec::new(),
        dash: None,
        help: false,
    };
    let mut args = args.into_iter();
    while let Some(raw) = args.next() {
        let text = String::from_utf8_lossy(&raw).into_owned();
        if text == "--" {
            flags.dash = Some(flags.args.len());
            flags.args.extend(args);
            break;
        }
        if let Some(long) = text.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            if name.is_empty() || name.starts_with('-') || name.starts_with('=') {
                return Err(format!("bad flag syntax: {text}"));
            }
            let Some(opt) = lookup(name) else {
                if name == "help" {
                    flags.help = true;
                    continue;
                }
                return Err(format!("unknown flag: --{name}"));
            };
            let value = match (value, opt.kind) {
                (Some(value), _) => value,
                (None, Bool) => "true".into(),
                (None, _) => next_text(&mut args)
                    .ok_or_else(|| format!("flag needs an argument: --{name}"))?,
            };
            store(&mut flags.options, opt, value)?;
        } else if text.len() > 1 && text.starts_with('-') {
            shorthands(own, &text, &mut args, &mut flags)?;
        } else {
            flags.args.push(raw);
        }
    }
    Ok(flags)
}

fn next_text(args: &mut impl Iterator<Item = Vec<u8>>) -> Option<String> {
    args.next()
        .map(|raw| String::from_utf8_lossy(&raw).into_owned())
}

/// `-i`, `-w json`, `-wjson`, `-w=json`, and booleans in a row.
fn shorthands(
    own: &'static [Opt],
    text: &str,
    args: &mut impl Iterator<Item = Vec<u8>>,
    flags: &mut Flags,
) -> Result<(), String> {
    let mut rest = text[1..].chars();
    while let Some(letter) = rest.next() {
        let Some(opt) = own.iter().chain(GLOBAL).find(|o| o.short == Some(letter)) else {
            if letter == 'h' {
                flags.help = true;
                continue;
            }
            return Err(format!("unknown shorthand flag: '{letter}' in {text}"));
        };
        let tail = rest.as_str();
        let value = match (tail.strip_prefix('='), opt.kind) {
            (Some(value), _) => value.to_owned(),
            (None, Bool) => {
                store(&mut flags.options, opt, "true".into())?;
                continue;
            }
            (None, _) if !tail.is_empty() => tail.to_owned(),
            (None, _) => next_text(args)
                .ok_or_else(|| format!("flag needs an argument: '{letter}' in {text}"))?,
        };
        return store(&mut flags.options, opt, value);
    }
    Ok(())
}

fn store(options: &mut Options, opt: &'static Opt, value: String) -> Result<(), String> {
    let checked = match opt.kind {
        Bool => go::parse_bool(&value).map(drop),
        Int => go::parse_int(&value, 0).map(drop),
        Duration => go::parse_duration_ns(&value).map(drop),
        Text | List => Ok(()),
    };
    if let Err(why) = checked {
        let shown = opt.short.map_or(String::new(), |s| format!("-{s}, "));
        return Err(format!(
            "invalid argument {} for \"{shown}--{}\" flag: {why}",
            go::quote(value.as_bytes()),
            opt.name
        ));
    }
    options.set(opt.name, value);
    Ok(())
}

/// Commands within this many changes of what was typed are suggested.
const SUGGESTION_DISTANCE_MAX: usize = 2;

fn unknown_command(program: &str, typed: &str) -> GrammarError {
    let lower = typed.to_lowercase();
    let close = |c: &&Command| {
        c.name.starts_with(&lower) || distance(c.name, &lower) <= SUGGESTION_DISTANCE_MAX
    };
    let mut text = format!(
        "Error: unknown command {} for \"{program}\"\n",
        go::quote(typed.as_bytes())
    );
    let suggested: Vec<&str> = COMMANDS.iter().filter(close).map(|c| c.name).collect();
    if !suggested.is_empty() {
        text.push_str("\nDid you mean this?\n");
        for name in suggested {
            text.push_str(&format!("\t{name}\n"));
        }
        text.push('\n');
    }
    let stderr = format!("{text}Run '{program} --help' for usage.\n{text}");
    GrammarError {
        stdout: String::new(),
        stderr,
    }
}

/// Insertions, deletions and substitutions between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The error for a command that needs other arguments.
pub fn count_args(
    args: &[Vec<u8>],
    allowed: std::ops::RangeInclusive<usize>,
    text: &str,
) -> Result<(), Failure> {
    if allowed.contains(&args.len()) {
        Ok(())
    } else {
        Err(Failure::args(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Result<Invocation, GrammarError> {
        match parse(
            "etcdctl",
            line.iter().map(|a| a.as_bytes().to_vec()).collect(),
        )? {
            Outcome::Run(invocation) => Ok(invocation),
            Outcome::Help(text) => panic!("help: {text}"),
        }
    }

    #[test]
    fn flags_may_stand_anywhere() {
        let call = run(&["--endpoints", "a:1", "mem", "-w", "json", "li", "--hex"]).unwrap();
        assert_eq!(call.path, ["member", "list"]);
        assert_eq!(
            (
                call.options.text("endpoints"),
                call.options.text("write-out")
            ),
            ("a:1", "json")
        );
        assert!(call.options.bool("hex"));
        let call = run(&["get", "-wfields", "a", "--rev=-1", "b", "--prefix=false"]).unwrap();
        assert_eq!(
            (
                call.args.len(),
                call.options.int("rev"),
                call.options.bool("prefix")
            ),
            (2, -1, false)
        );
        assert_eq!(call.options.text("write-out"), "fields");
        let call = run(&["watch", "k", "--", "sh", "-c", "x"]).unwrap();
        assert_eq!((call.args.len(), call.dash), (4, Some(1)));
    }

    #[test]
    fn mistakes_have_etcdctls_texts() {
        let first = |line: &[&str]| {
            run(line)
                .unwrap_err()
                .stderr
                .lines()
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            first(&["member", "add", "x", "--peer-ulrs=y"]),
            "Error: unknown flag: --peer-ulrs"
        );
        assert_eq!(
            first(&["lease", "grant", "-1"]),
            "Error: unknown shorthand flag: '1' in -1"
        );
        assert_eq!(
            first(&["get", "a", "--rev"]),
            "Error: flag needs an argument: --rev"
        );
        assert_eq!(
            first(&["get", "a", "--rev=x"]),
            "Error: invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            run(&["puts", "a"]).unwrap_err().stderr,
            "Error: unknown command \"puts\" for \"etcdctl\"\n\nDid you mean this?\n\tput\n\tauth\n\nRun 'etcdctl --help' for usage.\nError: unknown command \"puts\" for \"etcdctl\"\n\nDid you mean this?\n\tput\n\tauth\n\n"
        );
        assert_eq!(
            run(&["bogus"]).unwrap_err().stderr,
            "Error: unknown command \"bogus\" for \"etcdctl\"\nRun 'etcdctl --help' for usage.\nError: unknown command \"bogus\" for \"etcdctl\"\n"
        );
    }

    #[test]
    fn distances_are_edits() {
        assert_eq!(distance("compaction", "completion"), 2);
        assert_eq!(distance("auth", "puts"), 3 - 1);
        assert_eq!(distance("", "ab"), 2);
    }
}
