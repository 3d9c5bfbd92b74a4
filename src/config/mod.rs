//! The configuration: one TOML file, overridden by the environment, checked as a whole.
//!
//! Reading goes in three steps, each in its own file, and none of them stops at the first mistake:
//! the text becomes a table, `environment` lays `TERMGATE_<SECTION>__<KEY>` over it, and `node` or
//! `guard` takes the keys out one by one (`section`), looks at the files that they name (`files`),
//! and checks what they mean together. An error names the file or the variable, the key, and the mend;
//! the program fails once, with all of them.
//!
//! Relative paths start at the current directory of the process, as in a shell, no matter whether
//! they stand in the file or in a variable.
//!
//! | file | idea |
//! |---|---|
//! | `issue` | what is wrong, where, and how to mend it |
//! | `environment` | settings from the environment |
//! | `section` | reads one table, reports every unknown key |
//! | `value` | the kinds of values |
//! | `files` | the files that a configuration names |
//! | `node` | `termgate node` |
//! | `shared` | what a node that joins is told of it |
//! | `guard` | `termgate guard` |

mod environment;
mod files;
pub mod guard;
pub mod issue;
pub mod node;
mod section;
pub mod shared;
mod value;

use std::path::{Path, PathBuf};

use toml::Table;

use crate::config::files::Files;
use crate::config::issue::{Checked, Invalid, Issue, Issues};
use crate::config::section::{Section, Source};

pub use crate::config::guard::GuardConfig;
pub use crate::config::node::NodeConfig;

/// Bytes of a configuration: beyond it, the file is another one than was meant.
const FILE_BYTES: u64 = 1024 * 1024;

/// The files of mutual TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// The own certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The key of an authority in `ca`, on the nodes that may sign certificates.
    pub ca_key: Option<PathBuf>,
}

/// What a file configures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyConfig {
    /// It has no `[guard]`.
    Node(Box<NodeConfig>),
    /// It has a `[guard]`.
    Guard(Box<GuardConfig>),
}

/// Reads and checks the configuration of a node, with the environment over it and the files that it
/// names.
pub fn load_node(path: &Path) -> Result<Checked<NodeConfig>, Invalid> {
    parse(&path.display().to_string(), &read(path)?, settings(), Files::Opened, node::read)
}

/// Reads and checks the configuration of a guard, with the environment over it and the files that it
/// names.
pub fn load_guard(path: &Path) -> Result<Checked<GuardConfig>, Invalid> {
    parse(&path.display().to_string(), &read(path)?, settings(), Files::Opened, guard::read)
}

/// Reads and checks either; a `[guard]` section tells which.
pub fn load_any(path: &Path) -> Result<Checked<AnyConfig>, Invalid> {
    let text = read(path)?;
    let is_guard = text.parse::<Table>().is_ok_and(|table| table.contains_key("guard"));
    let warned = |config, warnings| Ok(Checked { config, warnings });
    if is_guard {
        load_guard(path).and_then(|c| warned(AnyConfig::Guard(Box::new(c.config)), c.warnings))
    } else {
        load_node(path).and_then(|c| warned(AnyConfig::Node(Box::new(c.config)), c.warnings))
    }
}

/// Checks the text of a node's configuration. `variables` are names and values as in the environment;
/// the files that the text names are not looked at.
pub fn parse_node(
    file: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Checked<NodeConfig>, Invalid> {
    parse(file, text, variables, Files::Unseen, node::read)
}

/// Checks the text of a guard's configuration, as [`parse_node`] does.
pub fn parse_guard(
    file: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Checked<GuardConfig>, Invalid> {
    parse(file, text, variables, Files::Unseen, guard::read)
}

fn parse<T>(
    file: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    files: Files,
    read: impl FnOnce(&mut Section<'_>) -> Option<T>,
) -> Result<Checked<T>, Invalid> {
    let mut table = text.parse::<Table>().map_err(|e| whole_file(file, e.to_string().trim_end()))?;
    let (origins, misfits) = environment::overlay(&mut table, variables);
    let issues = Issues::default();
    for (variable, reason) in misfits {
        issues.add(Issue { origin: variable, key: String::new(), text: reason, warning: false });
    }
    let source = Source { file, files, origins: &origins, issues: &issues };
    let mut root = Section::new(&source, String::new(), table);
    let config = read(&mut root);
    root.finish();
    issues.judge(config)
}

fn read(path: &Path) -> Result<String, Invalid> {
    let file = path.display().to_string();
    let size = std::fs::metadata(path).map_err(|e| whole_file(&file, &format!("can't be read: {e}")))?.len();
    if size > FILE_BYTES {
        return Err(whole_file(&file, "is larger than 1 MiB; is it the right file?"));
    }
    std::fs::read_to_string(path).map_err(|e| whole_file(&file, &format!("can't be read: {e}")))
}

fn whole_file(file: &str, text: &str) -> Invalid {
    let (origin, key, text) = (file.to_owned(), String::new(), text.to_owned());
    Invalid(vec![Issue { origin, key, text, warning: false }])
}

/// The variables of the process. Those that are not UTF-8 can't be settings.
fn settings() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests;
