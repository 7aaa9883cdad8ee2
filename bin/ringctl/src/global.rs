//! Options common to all commands, from flags and `ETCDCTL_*` variables.

use std::time::Duration;

use crate::{
    cli::{Options, GLOBAL},
    failure::{Failure, BAD_FEATURE, ERROR},
    go,
};

const PREFIX: &str = "ETCDCTL_";
const SHADOWED: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Simple,
    Json,
    Fields,
    Table,
    Protobuf,
}

/// What a command knows about where and how.
#[derive(Debug, Clone)]
pub struct Global {
    pub endpoints: Vec<String>,
    pub format: Format,
    pub hex: bool,
    pub dial_timeout: Duration,
    pub command_timeout: Duration,
    /// Whether the time-out was asked for, which some commands need before they have one at all.
    pub command_timeout_given: bool,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    /// Name and password.
    pub user: Option<(String, String)>,
}

/// Adds the environment's values to the options that no flag gave. A flag beside its variable is fatal; a value that does
/// not parse is ignored, as in etcdctl.
pub fn apply_environment(options: &mut Options, env: &[(String, String)]) -> Result<(), Failure> {
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let known = GLOBAL.iter().find(|opt| variable(opt.name) == *name);
        match known {
            Some(opt) if options.is_given(opt.name) => {
                let line = format!(
                    "{{\"level\":\"fatal\",\"msg\":{},\"environment-variable\":{}}}",
                    go::quote(SHADOWED.as_bytes()),
                    go::quote(name.as_bytes())
                );
                eprintln!("{line}");
                return Err(Failure::silent(ERROR));
            }
            Some(opt) if !value.is_empty() && valid(opt.kind, value) => {
                options.set(opt.name, value.clone())
            }
            Some(_) => {}
            None if matches!(
                name.as_str(),
                "ETCDCTL_WATCH_KEY" | "ETCDCTL_WATCH_RANGE_END"
            ) => {}
            None if name == "ETCDCTL_API" && value == "3" => {}
            None if name == "ETCDCTL_API" => {
                return Err(Failure::error(format!("unsupported API version: {value}")));
            }
            None => {
                let pair = format!("{name}={value}");
                eprintln!(
                    "{{\"level\":\"warn\",\"msg\":\"unrecognized environment variable\",\"environment-variable\":{}}}",
                    go::quote(pair.as_bytes())
                );
            }
        }
    }
    Ok(())
}

fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.to_ascii_uppercase().replace('-', "_"))
}

fn valid(kind: crate::cli::Kind, value: &str) -> bool {
    use crate::cli::Kind;
    match kind {
        Kind::Bool => go::parse_bool(value).is_ok(),
        Kind::Int => go::parse_int(value, 0).is_ok(),
        Kind::Duration => go::parse_duration_ns(value).is_ok(),
        Kind::Text | Kind::List => true,
    }
}

impl Global {
    pub fn from_options(options: &Options) -> Result<Global, Failure> {
        refuse_tls(options)?;
        let format = match options.text("write-out") {
            "simple" => Format::Simple,
            "json" => Format::Json,
            "fields" => Format::Fields,
            "table" => Format::Table,
            "protobuf" => Format::Protobuf,
            _ => return Err(Failure::new(BAD_FEATURE, "unsupported output format")),
        };
        let duration = |name: &str| {
            Duration::from_nanos(go::parse_duration_ns(options.text(name)).unwrap_or(0))
        };
        let endpoints = options
            .text("endpoints")
            .split(',')
            .filter(|e| !e.is_empty());
        Ok(Global {
            endpoints: endpoints.map(str::to_owned).collect(),
            format,
            hex: options.bool("hex"),
            dial_timeout: duration("dial-timeout"),
            command_timeout: duration("command-timeout"),
            command_timeout_given: options.is_given("command-timeout"),
            keepalive_time: duration("keepalive-time"),
            keepalive_timeout: duration("keepalive-timeout"),
            user: user(options)?,
        })
    }
}

/// TLS options must not be dropped in silence: the connection would be less protected than the caller thinks.
fn refuse_tls(options: &Options) -> Result<(), Failure> {
    for name in ["cert", "key", "cacert"] {
        if options.is_given(name) && options.text(name).is_empty() {
            return Err(Failure::args(format!(
                "empty string is passed to --{name} option"
            )));
        }
        if options.is_given(name) {
            return Err(Failure::args(format!(
                "--{name}: TLS is not supported by this version of ringctl"
            )));
        }
    }
    if !options.bool("insecure-transport") {
        return Err(Failure::args(
            "--insecure-transport=false: TLS is not supported by this version of ringctl",
        ));
    }
    if options
        .text("endpoints")
        .split(',')
        .any(|e| e.starts_with("https://") || e.starts_with("unixs://"))
    {
        return Err(Failure::args(
            "an https endpoint needs TLS, which this version of ringctl does not support",
        ));
    }
    for name in ["discovery-srv", "discovery-srv-name"] {
        if !options.text(name).is_empty() {
            return Err(Failure::args(format!(
                "--{name} is not supported by this version of ringctl; use --endpoints"
            )));
        }
    }
    Ok(())
}

/// `--user name:password`, `--user name --password password`, or a prompt.
fn user(options: &Options) -> Result<Option<(String, String)>, Failure> {
    let text = options.text("user");
    if text.is_empty() {
        return Ok(None);
    }
    if options.is_given("password") || !options.text("password").is_empty() {
        return Ok(Some((text.to_owned(), options.text("password").to_owned())));
    }
    if let Some((name, password)) = text.split_once(':') {
        return Ok(Some((name.to_owned(), password.to_owned())));
    }
    print!("Password: ");
    std::io::Write::flush(&mut std::io::stdout())?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    println!();
    Ok(Some((
        text.to_owned(),
        line.trim_end_matches(['\r', '\n']).to_owned(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        let args = args.iter().map(|a| a.as_bytes().to_vec()).collect();
        crate::cli::parse_flags(&[], args)
            .unwrap_or_else(|e| panic!("{e}"))
            .options
    }

    fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
        env.iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    }

    #[test]
    fn the_environment_fills_what_no_flag_gave() {
        let mut given = options(&["--hex"]);
        apply_environment(
            &mut given,
            &pairs(&[
                ("ETCDCTL_ENDPOINTS", "a:1,b:2"),
                ("ETCDCTL_DIAL_TIMEOUT", "x"),
            ]),
        )
        .unwrap();
        let global = Global::from_options(&given).unwrap();
        assert_eq!(
            (global.endpoints, global.dial_timeout),
            (vec!["a:1".into(), "b:2".into()], Duration::from_secs(2))
        );
        let mut both = options(&["--endpoints=a:1"]);
        assert_eq!(
            apply_environment(&mut both, &pairs(&[("ETCDCTL_ENDPOINTS", "a:1")])),
            Err(Failure::silent(1))
        );
    }

    #[test]
    fn what_would_weaken_a_connection_is_refused() {
        let refused = |args: &[&str]| Global::from_options(&options(args)).unwrap_err();
        assert_eq!(
            refused(&["--cert="]),
            Failure::args("empty string is passed to --cert option")
        );
        assert_eq!(refused(&["--cacert=x"]).code, 128);
        assert_eq!(refused(&["--insecure-transport=false"]).code, 128);
        assert_eq!(refused(&["--endpoints=https://a:1"]).code, 128);
        assert_eq!(
            refused(&["-w", "bogus"]),
            Failure::new(4, "unsupported output format")
        );
    }
}
