//! What is wrong with a configuration: where, and how to mend it.

use std::cell::RefCell;
use std::fmt;

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The file, or the environment variable, that says it.
    pub origin: String,
    /// The key, such as `raft.heartbeat_interval_ms`; empty when the whole file is meant.
    pub key: String,
    /// What is wrong and what would be right, in words.
    pub text: String,
    /// A warning does not keep the program from starting.
    pub warning: bool,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.warning { "warning" } else { "error" };
        write!(f, "{severity}: {}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// A configuration that can't be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Invalid(pub Vec<Issue>);

/// The issues, one per line.
pub fn lines(issues: &[Issue]) -> String {
    issues.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A usable configuration, and what is worth a second look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked<T> {
    /// The configuration.
    pub config: T,
    /// Warnings only.
    pub warnings: Vec<Issue>,
}

/// Collects issues while a configuration is read, so that all of them are reported at once.
#[derive(Debug, Default)]
pub(super) struct Issues(RefCell<Vec<Issue>>);

impl Issues {
    pub(super) fn add(&self, issue: Issue) {
        self.0.borrow_mut().push(issue);
    }

    /// Fails once, with everything, or hands out `config` with the warnings. `config` is `None` only
    /// when an error says why.
    pub(super) fn judge<T>(self, config: Option<T>) -> Result<Checked<T>, Invalid> {
        let issues = self.0.into_inner();
        match config {
            Some(config) if issues.iter().all(|issue| issue.warning) => {
                Ok(Checked { config, warnings: issues })
            }
            _ => {
                assert!(!issues.is_empty(), "a configuration is only refused with a reason");
                Err(Invalid(issues))
            }
        }
    }
}
