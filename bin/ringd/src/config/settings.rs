//! The values that one source or several gave, over the defaults of the table.

use std::collections::BTreeMap;

use super::{
    flags::{self, Flag},
    url::Url,
    value::Value,
};

/// Where settings come from: a configuration file silences all other sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    CommandLine,
    File,
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    given: BTreeMap<&'static str, Value>,
}

impl Settings {
    pub(super) fn new(mode: Mode) -> Settings {
        Settings {
            mode,
            given: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, flag: &'static Flag, value: Value) {
        self.given.insert(flag.name, value);
    }

    /// Whether a source named it, with whatever value.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The settings given, in the order of their names.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static Flag, &Value)> {
        self.given
            .iter()
            .filter_map(|(name, value)| Some((flags::find(name)?, value)))
    }

    fn get(&self, name: &str) -> Value {
        match self.given.get(name) {
            Some(value) => value.clone(),
            None => flags::find(name).map_or(Value::Text(String::new()), Flag::default_value),
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.get(name) {
            Value::Text(text) => text,
            other => unreachable!("--{name} is not text: {other:?}"),
        }
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        match self.get(name) {
            Value::Bool(value) => value,
            other => unreachable!("--{name} is not a boolean: {other:?}"),
        }
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        match self.get(name) {
            Value::Uint(value) => value,
            other => unreachable!("--{name} is not an unsigned number: {other:?}"),
        }
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Value::Int(value) => value,
            other => unreachable!("--{name} is not a number: {other:?}"),
        }
    }

    pub(super) fn duration_ns(&self, name: &str) -> i64 {
        match self.get(name) {
            Value::Duration(ns) => ns,
            other => unreachable!("--{name} is not a duration: {other:?}"),
        }
    }

    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        match self.get(name) {
            Value::Urls(urls) => urls,
            other => unreachable!("--{name} is not a list of URLs: {other:?}"),
        }
    }

    pub(super) fn words(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Value::Words(words) => words,
            other => unreachable!("--{name} is not a list: {other:?}"),
        }
    }

    /// The name under which a setting was given that 3.5 calls `experimental-NAME` and 3.6 calls `NAME`.
    pub(super) fn either(&self, name: &'static str) -> String {
        let old = format!("experimental-{name}");
        if self.is_set(name) || !self.is_set(&old) {
            name.to_owned()
        } else {
            old
        }
    }
}
