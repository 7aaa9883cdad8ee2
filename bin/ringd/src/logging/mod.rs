//! etcd's log: one JSON object per line, with `level`, `ts`, `caller`, `msg` and then the fields in the order given.
//!
//! A line is formatted into a buffer of the caller's and handed to each output with one write, so that threads never wait
//! for one another while they format and lines never interleave. A message below the configured level costs one
//! comparison. Of identical messages the first hundred in a second are written and then every hundredth.
//!
//! ```ignore
//! info!(log, "opened backend", "path" => path, "took" => Value::Duration(took));
//! ```

mod line;
mod sampling;
mod sink;

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

pub use line::format_line;
use sampling::Sampler;
pub(crate) use sink::os_text;
pub use sink::OpenError;
use sink::Sink;

/// Severity, in ascending order. `Dpanic`, `Panic` and `Fatal` are labels: writing such a line ends nothing by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Dpanic,
    Panic,
    Fatal,
}

impl Level {
    /// Parses the value of `--log-level`. The empty text means `info`.
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "debug" | "DEBUG" => Level::Debug,
            "info" | "INFO" | "" => Level::Info,
            "warn" | "WARN" => Level::Warn,
            "error" | "ERROR" => Level::Error,
            "dpanic" | "DPANIC" => Level::Dpanic,
            "panic" | "PANIC" => Level::Panic,
            "fatal" | "FATAL" => Level::Fatal,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Dpanic => "dpanic",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// `time<TAB>level<TAB>caller<TAB>message<TAB>{fields}`.
    Console,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// The journal's native socket.
    Journal,
    /// Appended to; created with mode 0644.
    File(std::path::PathBuf),
}

/// What [`Log::open`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub level: Level,
    pub format: Format,
    pub outputs: Vec<Output>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            level: Level::Info,
            format: Format::Json,
            outputs: vec![Output::Stderr],
        }
    }
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Str(Cow<'a, str>),
    Uint(u64),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Printed as Go prints a duration: `1.104ms`, `7s`.
    Duration(std::time::Duration),
    /// An identifier, printed as a string of lower-case hexadecimal digits without padding.
    Id(u64),
    Strs(Vec<Cow<'a, str>>),
    Json(serde_json::Value),
}

impl<'a> Value<'a> {
    /// The text of anything that can be displayed: errors, addresses, paths.
    pub fn display(value: impl fmt::Display) -> Value<'static> {
        Value::Str(Cow::Owned(value.to_string()))
    }

    pub fn strs<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> Value<'static> {
        Value::Strs(
            values
                .into_iter()
                .map(|v| Cow::Owned(v.to_string()))
                .collect(),
        )
    }

    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Str(s) => Value::Str(Cow::Owned(s.into_owned())),
            Value::Strs(list) => Value::Strs(
                list.into_iter()
                    .map(|s| Cow::Owned(s.into_owned()))
                    .collect(),
            ),
            Value::Uint(v) => Value::Uint(v),
            Value::Int(v) => Value::Int(v),
            Value::Float(v) => Value::Float(v),
            Value::Bool(v) => Value::Bool(v),
            Value::Duration(v) => Value::Duration(v),
            Value::Id(v) => Value::Id(v),
            Value::Json(v) => Value::Json(v),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(v: &'a str) -> Self {
        Value::Str(Cow::Borrowed(v))
    }
}
impl<'a> From<&'a String> for Value<'a> {
    fn from(v: &'a String) -> Self {
        Value::Str(Cow::Borrowed(v))
    }
}
impl From<String> for Value<'_> {
    fn from(v: String) -> Self {
        Value::Str(Cow::Owned(v))
    }
}
impl<'a> From<&'a std::path::Path> for Value<'a> {
    fn from(v: &'a std::path::Path) -> Self {
        Value::Str(v.to_string_lossy())
    }
}
impl<'a> From<&'a std::path::PathBuf> for Value<'a> {
    fn from(v: &'a std::path::PathBuf) -> Self {
        Value::Str(v.to_string_lossy())
    }
}
impl<'a> From<&'a [String]> for Value<'a> {
    fn from(v: &'a [String]) -> Self {
        Value::Strs(v.iter().map(|s| Cow::Borrowed(s.as_str())).collect())
    }
}
impl From<u64> for Value<'_> {
    fn from(v: u64) -> Self {
        Value::Uint(v)
    }
}
impl From<u32> for Value<'_> {
    fn from(v: u32) -> Self {
        Value::Uint(v.into())
    }
}
impl From<usize> for Value<'_> {
    fn from(v: usize) -> Self {
        Value::Uint(v as u64)
    }
}
impl From<i64> for Value<'_> {
    fn from(v: i64) -> Self {
        Value::Int(v)
    }
}
impl From<i32> for Value<'_> {
    fn from(v: i32) -> Self {
        Value::Int(v.into())
    }
}
impl From<f64> for Value<'_> {
    fn from(v: f64) -> Self {
        Value::Float(v)
    }
}
impl From<bool> for Value<'_> {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}
impl From<std::time::Duration> for Value<'_> {
    fn from(v: std::time::Duration) -> Self {
        Value::Duration(v)
    }
}
impl From<serde_json::Value> for Value<'_> {
    fn from(v: serde_json::Value) -> Self {
        Value::Json(v)
    }
}

/// A field: name and value.
pub type Field<'a> = (&'a str, Value<'a>);

/// A message kept as a value until the log is open.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub level: Level,
    pub caller: &'static str,
    pub msg: Cow<'static, str>,
    pub fields: Vec<(&'static str, Value<'static>)>,
}

impl Record {
    pub fn new(level: Level, caller: &'static str, msg: impl Into<Cow<'static, str>>) -> Record {
        Record {
            level,
            caller,
            msg: msg.into(),
            fields: Vec::new(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<Value<'static>>) -> Record {
        self.fields.push((name, value.into()));
        self
    }

    /// The line as it is printed before a log is open.
    pub fn to_line(&self) -> String {
        let mut out = Vec::new();
        format_line(
            &mut out,
            Format::Json,
            SystemTime::now(),
            self.level,
            None,
            self.caller,
            &self.msg,
            &self.fields,
        );
        String::from_utf8_lossy(&out).into_owned()
    }
}

struct Shared {
    level: Level,
    format: Format,
    sinks: Vec<Sink>,
    sampler: Sampler,
}

/// A handle to the log; cloning it is cheap, and every thread may have one.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    logger: Option<&'static str>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.shared.level.as_str())
    }
}

impl Log {
    /// Opens all outputs. A file is opened for appending once and kept open.
    pub fn open(config: &Config) -> Result<Log, OpenError> {
        let sinks = config
            .outputs
            .iter()
            .map(Sink::open)
            .collect::<Result<_, _>>()?;
        Ok(Log {
            shared: Arc::new(Shared {
                level: config.level,
                format: config.format,
                sinks,
                sampler: Sampler::default(),
            }),
            logger: None,
        })
    }

    /// A log that writes nothing, for tests and tools.
    pub fn discard() -> Log {
        let shared = Shared {
            level: Level::Fatal,
            format: Format::Json,
            sinks: Vec::new(),
            sampler: Sampler::default(),
        };
        Log {
            shared: Arc::new(shared),
            logger: None,
        }
    }

    /// The same log under a name that each line states as `logger`.
    pub fn named(&self, logger: &'static str) -> Log {
        Log {
            shared: self.shared.clone(),
            logger: Some(logger),
        }
    }

    pub fn enabled(&self, level: Level) -> bool {
        level >= self.shared.level && !self.shared.sinks.is_empty()
    }

    /// Writes one line. A failing output is ignored: a server must not stop because its log can't be written.
    pub fn write(&self, level: Level, caller: &str, msg: &str, fields: &[Field<'_>]) {
        if !self.enabled(level) {
            return;
        }
        let now = SystemTime::now();
        if level != Level::Fatal && !self.shared.sampler.admit(level, msg, now) {
            return;
        }
        let mut out = Vec::with_capacity(256);
        format_line(
            &mut out,
            self.shared.format,
            now,
            level,
            self.logger,
            caller,
            msg,
            fields,
        );
        for sink in &self.shared.sinks {
            sink.write(level, &out);
        }
    }

    pub fn record(&self, record: &Record) {
        self.write(record.level, record.caller, &record.msg, &record.fields);
    }

    pub fn debug(&self, caller: &str, msg: &str, fields: &[Field<'_>]) {
        self.write(Level::Debug, caller, msg, fields);
    }
    pub fn info(&self, caller: &str, msg: &str, fields: &[Field<'_>]) {
        self.write(Level::Info, caller, msg, fields);
    }
    pub fn warn(&self, caller: &str, msg: &str, fields: &[Field<'_>]) {
        self.write(Level::Warn, caller, msg, fields);
    }
    pub fn error(&self, caller: &str, msg: &str, fields: &[Field<'_>]) {
        self.write(Level::Error, caller, msg, fields);
    }
    pub fn fatal(&self, caller: &str, msg: &str, fields: &[Field<'_>]) {
        self.write(Level::Fatal, caller, msg, fields);
    }
}

/// Shortens a source path and line to the last folder, as in `member/mod.rs:120`.
pub const fn caller(location: &'static str) -> &'static str {
    let bytes = location.as_bytes();
    let mut at = bytes.len();
    let mut slashes = 0;
    while at > 0 {
        if bytes[at - 1] == b'/' {
            slashes += 1;
            if slashes == 2 {
                break;
            }
        }
        at -= 1;
    }
    let (_, tail) = bytes.split_at(at);
    match std::str::from_utf8(tail) {
        Ok(text) => text,
        Err(_) => location,
    }
}

/// The place in the source as `folder/file.rs:line`, computed at compile time.
#[macro_export]
macro_rules! caller {
    () => {{
        const CALLER: &str = $crate::logging::caller(concat!(file!(), ":", line!()));
        CALLER
    }};
}

/// `log_line!(log, Level::Info, "message", "key" => value, ...)`: values are converted only when the level is enabled.
#[macro_export]
macro_rules! log_line {
    ($log:expr, $level:expr, $msg:expr $(, $key:literal => $value:expr)* $(,)?) => {{
        let log: &$crate::logging::Log = &$log;
        let level = $level;
        if log.enabled(level) {
            log.write(level, $crate::caller!(), $msg, &[$(($key, $crate::logging::Value::from($value))),*]);
        }
    }};
}

#[macro_export]
macro_rules! debug {
    ($log:expr, $($rest:tt)*) => { $crate::log_line!($log, $crate::logging::Level::Debug, $($rest)*) };
}
#[macro_export]
macro_rules! info {
    ($log:expr, $($rest:tt)*) => { $crate::log_line!($log, $crate::logging::Level::Info, $($rest)*) };
}
#[macro_export]
macro_rules! warn {
    ($log:expr, $($rest:tt)*) => { $crate::log_line!($log, $crate::logging::Level::Warn, $($rest)*) };
}
#[macro_export]
macro_rules! error {
    ($log:expr, $($rest:tt)*) => { $crate::log_line!($log, $crate::logging::Level::Error, $($rest)*) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_log(level: Level) -> (tempfile::TempDir, std::path::PathBuf, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = Config {
            level,
            format: Format::Json,
            outputs: vec![Output::File(path.clone())],
        };
        let log = Log::open(&config).unwrap();
        (dir, path, log)
    }

    #[test]
    fn fields_keep_their_order_and_types() {
        let (_dir, path, log) = file_log(Level::Info);
        let names = vec!["http://a:1".to_string()];
        crate::info!(log, "starting", "zeta" => 1u64, "alpha" => -2i64, "on" => true, "urls" => names.as_slice(),
            "took" => std::time::Duration::from_micros(1104), "id" => Value::Id(0x344688e470861e9));
        crate::debug!(log, "hidden");
        log.named("raft").warn("x.rs:1", "quote \" and \n", &[]);
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("{\"level\":\"info\",\"ts\":\""),
            "{}",
            lines[0]
        );
        assert!(
            lines[0].contains("\"caller\":\"logging/mod.rs:"),
            "{}",
            lines[0]
        );
        assert!(
            lines[0].ends_with(
                "\"msg\":\"starting\",\"zeta\":1,\"alpha\":-2,\"on\":true,\"urls\":[\"http://a:1\"],\"took\":\"1.104ms\",\"id\":\"344688e470861e9\"}"
            ),
            "{}",
            lines[0]
        );
        assert!(lines[1]
            .contains("\"logger\":\"raft\",\"caller\":\"x.rs:1\",\"msg\":\"quote \\\" and \\n\"}"));
        for line in lines {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn identical_messages_are_sampled() {
        let (_dir, path, log) = file_log(Level::Info);
        for _ in 0..450 {
            log.info("x.rs:1", "again", &[]);
            log.info("x.rs:1", "another", &[]);
        }
        let text = std::fs::read_to_string(path).unwrap();
        // Up to two seconds may have been touched by the loop; each gives at most 100 and every hundredth after it.
        let again = text.lines().filter(|l| l.contains("again")).count();
        assert!((103..=206).contains(&again), "{again}");
    }

    #[test]
    fn callers_keep_one_folder() {
        assert_eq!(caller("bin/ringd/src/member/mod.rs:12"), "member/mod.rs:12");
        assert_eq!(caller("main.rs:1"), "main.rs:1");
        assert!(crate::caller!().starts_with("logging/mod.rs:"));
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let config = Config {
            outputs: vec![Output::File("/nonexistent/a".into())],
            ..Config::default()
        };
        let error = Log::open(&config).err().unwrap();
        assert_eq!(
            error.to_string(),
            "couldn't open sink \"/nonexistent/a\": open /nonexistent/a: no such file or directory"
        );
    }
}
