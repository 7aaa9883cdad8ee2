//! The order of the sources, and what ends the program before it becomes a server.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
};

use super::{
    args, derive, env, flags, help, running,
    settings::{Mode, Settings},
    validate, yaml, Exit, Loaded,
};
use crate::{
    caller,
    logging::{os_text, Level, Record},
};

const DATA_DIR_SUFFIX: &str = "ringd";
const ETCD_DATA_DIR_SUFFIX: &str = "etcd";

/// What loading asks of the machine; a test brings its own.
pub trait Host {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    fn exists(&self, path: &Path) -> bool;
    /// The address that packets to the outside would carry as their source.
    fn default_address(&self) -> Option<IpAddr>;
}

/// The machine this runs on.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Host for System {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn default_address(&self) -> Option<IpAddr> {
        // Connecting a datagram socket sends nothing; it makes the kernel choose route and source. The address is one
        // reserved for documentation.
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    }
}

/// Loads the configuration. `args` are the program's arguments including its name, `env` the environment.
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Exit> {
    let text = |s: OsString| s.to_string_lossy().into_owned();
    let args: Vec<String> = args.into_iter().map(text).collect();
    let env: Vec<(String, String)> = env.into_iter().map(|(k, v)| (text(k), text(v))).collect();
    load_on(&System, args, &env)
}

/// [`load`] on a given machine.
pub fn load_on(
    host: &dyn Host,
    args: Vec<String>,
    env: &[(String, String)],
) -> Result<Loaded, Exit> {
    if let Some(role @ ("gateway" | "grpc-proxy")) = args.get(1).map(String::as_str) {
        return Err(Exit::mistake(
            1,
            &format!("ringd has no {role}; use etcd's, which works with ringd servers"),
        ));
    }
    let (set, rest, ignored) = match args::parse(args.get(1..).unwrap_or_default()) {
        Ok(args::Parsed::Help) => {
            return Err(Exit {
                code: 0,
                stdout: help::flag_list(),
                stderr: help::USAGE.into(),
            });
        }
        Ok(args::Parsed::Flags { set, rest, ignored }) => (set, rest, ignored),
        Err(error) => return Err(usage_error(error)),
    };
    let mut loading = Loading {
        host,
        args,
        early: Vec::new(),
        late: Vec::new(),
    };
    for name in ignored {
        let note = Record::new(
            Level::Warn,
            caller!(),
            "flag is no longer supported - ignoring",
        );
        loading.early.push(note.with("flag-name", name));
    }
    if let Some(first) = rest.first() {
        return Err(loading.verify_failed(&format!("'{first}' is not a valid flag")));
    }
    let mut settings = Settings::new(Mode::CommandLine);
    for (flag, value) in set {
        settings.set(flag, value);
    }
    if settings.bool("version") {
        return Err(Exit {
            code: 0,
            stdout: help::version_text(),
            stderr: String::new(),
        });
    }
    let settings = loading.sources(settings, env)?;
    loading.finish(settings)
}

fn usage_error(error: args::ArgError) -> Exit {
    let mut text = error.text;
    if let Some(unknown) = error.unknown {
        let known: Vec<_> = flags::FLAGS
            .iter()
            .filter(|f| f.on_command_line())
            .map(|f| f.name)
            .collect();
        if let Some(name) = help::nearest(&unknown, &known) {
            text.push_str(&format!("\nDid you mean --{name}?"));
        }
    }
    Exit {
        code: 2,
        stdout: String::new(),
        stderr: format!("{text}\n{}", help::USAGE),
    }
}

/// A load on its way: the messages so far.
struct Loading<'a> {
    host: &'a dyn Host,
    args: Vec<String>,
    early: Vec<Record>,
    late: Vec<Record>,
}

impl Loading<'_> {
    fn exit(&self, code: i32, last: Vec<Record>) -> Exit {
        let running = running(&self.args);
        Exit::lines(code, self.early.iter().chain([&running]).chain(&last))
    }

    fn verify_failed(&self, error: &str) -> Exit {
        let warn = |msg: &'static str| {
            Record::new(Level::Warn, caller!(), msg).with("error", error.to_owned())
        };
        let mut last = vec![warn("failed to verify flags")];
        if error == validate::NO_ADVERTISED_CLIENT_URLS {
            last.push(warn("advertise client URLs are not set"));
        }
        self.exit(1, last)
    }

    /// What etcd says of any error between validation and serving.
    fn start_failed(&self, error: &str) -> Exit {
        let record = |level, msg: &'static str| {
            Record::new(level, caller!(), msg).with("error", error.to_owned())
        };
        let last = [
            record(Level::Warn, "failed to start etcd"),
            record(Level::Fatal, "discovery failed"),
        ];
        self.exit(1, self.late.iter().cloned().chain(last).collect())
    }

    /// The file when one is named, otherwise the environment below the command line.
    fn sources(&mut self, mut flags: Settings, env: &[(String, String)]) -> Result<Settings, Exit> {
        let named = match flags.text("config-file") {
            path if path.is_empty() => env::lookup(env, "ETCD_CONFIG_FILE").map(str::to_owned),
            path => Some(path),
        };
        let Some(path) = named else {
            return match env::apply(env, &mut flags, &mut self.early) {
                Ok(()) => Ok(flags),
                Err(env::EnvError::Invalid(text)) => Err(self.verify_failed(&text)),
                Err(env::EnvError::Shadowed(record)) => {
                    Err(Exit::lines(1, self.early.iter().chain([&record])))
                }
            };
        };
        let text = self.host.read(Path::new(&path)).map_err(|e| {
            // A directory opens, and then can't be read.
            let what = match e.kind() {
                io::ErrorKind::IsADirectory => "read",
                _ => "open",
            };
            let text = format!("{what} {path}: {}", os_text(&e));
            self.verify_failed(&text)
        })?;
        let text = String::from_utf8(text).map_err(|_| {
            self.verify_failed("error converting YAML to JSON: yaml: invalid UTF-8")
        })?;
        let mut settings = Settings::new(Mode::File);
        let mut warnings = Vec::new();
        let given = yaml::parse(&text, &mut warnings);
        self.early.append(&mut warnings);
        match given {
            Ok(given) => given
                .into_iter()
                .for_each(|(flag, value)| settings.set(flag, value)),
            Err(yaml::FileError::Verify(text)) => return Err(self.verify_failed(&text)),
            Err(yaml::FileError::Plain(line, code)) => return Err(Exit::mistake(code, &line)),
        }
        // Two settings are properties of the process rather than of the member and stay in force beside a file.
        let process: Vec<_> = flags
            .given()
            .filter(|(flag, _)| matches!(flag.name, "raft-read-timeout" | "raft-write-timeout"))
            .map(|(flag, value)| (flag, value.clone()))
            .collect();
        for (flag, value) in process {
            settings.set(flag, value);
        }
        self.early.push(
            Record::new(
                Level::Info,
                caller!(),
                "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
            )
            .with("path", path),
        );
        Ok(settings)
    }

    fn finish(mut self, settings: Settings) -> Result<Loaded, Exit> {
        let log = validate::logging(&settings).map_err(|(text, code)| match code {
            2 => {
                // What a file gives rise to would be written to the very log that can't be opened.
                let written = match settings.mode {
                    Mode::CommandLine => self.early.as_slice(),
                    Mode::File => &[],
                };
                let mut exit = Exit::lines(2, written);
                exit.stderr.push_str(&format!("panic: {text}\n"));
                exit
            }
            _ => self.verify_failed(&text),
        })?;
        validate::check(&settings)
            .and_then(|()| validate::refuse(&settings))
            .map_err(|text| self.verify_failed(&text))?;
        self.late = validate::without_effect(&settings);
        validate::plain_listeners(&settings).map_err(|text| self.start_failed(&text))?;
        let auto_compaction =
            validate::auto_compaction(&settings).map_err(|text| self.start_failed(&text))?;
        let data_dir = self.data_dir(&settings)?;
        let derived = derive::derive(&settings, self.host);
        if let Some(ip) = derived.detected {
            let note = Record::new(
                Level::Info,
                caller!(),
                "detected default host for advertise",
            );
            self.late.push(note.with("host", ip.to_string()));
        }
        let config = derive::config(&settings, derived, log, auto_compaction, data_dir);
        Ok(Loaded {
            config,
            args: self.args,
            early: self.early,
            late: self.late,
        })
    }

    /// An unset data directory is named after the member, and must not hide one of etcd's.
    fn data_dir(&mut self, settings: &Settings) -> Result<PathBuf, Exit> {
        let given = settings.text("data-dir");
        if !given.is_empty() {
            return Ok(given.into());
        }
        let name = settings.text("name");
        let own = PathBuf::from(format!("{name}.{DATA_DIR_SUFFIX}"));
        let etcds = PathBuf::from(format!("{name}.{ETCD_DATA_DIR_SUFFIX}"));
        if self.host.exists(&etcds) && !self.host.exists(&own) {
            let text = format!(
                "refusing to start empty: {} does not exist but {}, which holds etcd's data, does; ringd cannot read it: to keep the data, start an etcd with it and let this member join that cluster (`etcdctl member add`, then --initial-cluster-state=existing); to start without it, name a data directory with --data-dir",
                own.display(),
                etcds.display()
            );
            return Err(Exit::mistake(1, &text));
        }
        let note = Record::new(
            Level::Warn,
            caller!(),
            "'data-dir' was empty; using default",
        );
        self.late
            .insert(0, note.with("data-dir", own.to_string_lossy().into_owned()));
        Ok(own)
    }
}
