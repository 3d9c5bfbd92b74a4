//! Reads one table of a configuration, key by key, and never stops at the first mistake.
//!
//! A key is taken out of the table when it is read; what is left in the end is unknown, and gets the
//! nearest known name as a suggestion. A value that is missing or wrong is reported and read as
//! `None`, so that the reader goes on and finds the rest.

use toml::{Table, Value};

use crate::config::environment::Origins;
use crate::config::files::Files;
use crate::config::issue::{Issue, Issues};

/// Where issues go and what they are blamed on.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) files: Files,
    pub(super) origins: &'a Origins,
    pub(super) issues: &'a Issues,
}

impl Source<'_> {
    fn report(&self, key: &str, text: String, warning: bool) {
        let origin = self.origins.variable(key).unwrap_or(self.file).to_owned();
        self.issues.add(Issue { origin, key: key.to_owned(), text, warning });
    }

    pub(super) fn error(&self, key: &str, text: impl Into<String>) {
        self.report(key, text.into(), false);
    }

    pub(super) fn warn(&self, key: &str, text: impl Into<String>) {
        self.report(key, text.into(), true);
    }
}

/// A value as it was given.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) value: Value,
    /// What the environment variable says literally, when one set it.
    raw: Option<String>,
}

impl Given {
    pub(super) fn text(self) -> Result<String, String> {
        match (self.raw, self.value) {
            (_, Value::String(text)) => Ok(text),
            (Some(raw), _) => Ok(raw),
            (None, other) => Err(format!("must be a text in quotes, not {}", other.type_str())),
        }
    }

    pub(super) fn flag(self) -> Result<bool, String> {
        self.value.as_bool().ok_or_else(|| "must be true or false".into())
    }

    pub(super) fn number(self) -> Result<u64, String> {
        whole(&self.value)
    }
}

/// A whole number that is not negative.
pub(super) fn whole(value: &Value) -> Result<u64, String> {
    let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
    number.ok_or_else(|| "must be a whole number, 0 or more".into())
}

/// One table, while it is read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(source: &'a Source<'a>, path: String, table: Table) -> Self {
        Self { source, path, table, known: Vec::new() }
    }

    /// The full name of `key`.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn error(&self, key: &str, text: impl Into<String>) {
        self.source.error(&self.path(key), text);
    }

    pub(super) fn warn(&self, key: &str, text: impl Into<String>) {
        self.source.warn(&self.path(key), text);
    }

    /// Whether the files that it names are looked at.
    pub(super) fn files(&self) -> Files {
        self.source.files
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Whether `key` is there and has not been read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`, understood by `parse`; `None` when absent or, reported, wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(Given) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let path = self.path(key);
        let given = Given { value, raw: self.source.origins.raw(&path).map(str::to_owned) };
        parse(given).map_err(|text| self.source.error(&path, text)).ok()
    }

    /// The same; absence is an error, and `example` shows what could stand there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(Given) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.error(key, format!("is missing; set it, such as {key} = {example}"));
        }
        self.optional(key, parse)
    }

    /// The table `key`; an empty one when absent or, reported, no table.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.path(key);
        let table = match self.take(key) {
            Some(Value::Table(table)) => table,
            None => Table::new(),
            Some(_) => {
                self.source.error(&path, format!("must be a section: [{path}]"));
                Table::new()
            }
        };
        Section::new(self.source, path, table)
    }

    /// The list of tables `key`; empty when absent or, reported, something else.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let path = self.path(key);
        let list = match self.take(key) {
            Some(Value::Array(list)) => list,
            None => Vec::new(),
            Some(_) => {
                self.source.error(&path, format!("must be a list of sections: [[{path}]]"));
                Vec::new()
            }
        };
        let numbered = list.into_iter().enumerate().map(|(at, value)| (format!("{path}[{at}]"), value));
        numbered.filter_map(|(path, value)| self.element(path, value)).collect()
    }

    fn element(&self, path: String, value: Value) -> Option<Section<'a>> {
        match value {
            Value::Table(table) => Some(Section::new(self.source, path, table)),
            _ => {
                self.source.error(&path, "must be a table, such as { key = \"value\" }");
                None
            }
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let text = match nearest(key, &self.known) {
                Some(known) => format!("unknown key; did you mean {known}?"),
                None => format!("unknown key; remove it, known here: {}", self.known.join(", ")),
            };
            self.error(key, text);
        }
    }
}

/// The known name that is at most a third of its letters away.
fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let near = known.iter().map(|name| (edits(word, name), *name)).min()?;
    (near.0 <= near.1.len().div_ceil(3)).then_some(near.1)
}

/// How many letters have to be added, dropped or replaced (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        let counted = [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("raft", "rafts", 1)];
        for (a, b, count) in counted {
            assert_eq!((edits(a, b), edits(b, a)), (count, count), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name_is_suggested_only_when_it_is_near() {
        let known = ["heartbeat_interval_ms", "election_timeout_ms"];
        assert_eq!(nearest("hartbeat_interval", &known), Some(known[0]));
        assert_eq!(nearest("colour", &known), None);
    }
}
