//! The table: `*.toml` beside this file, one `[[mutant]]` for each bug.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One known bug.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Names it in the tables, in `TERMGATE_MUTANT` and in `ONLY`.
    pub id: String,
    /// What is wrong.
    pub bug: String,
    /// Where it was a real one, or the rule that it breaks.
    pub kin: String,
    /// The test that has to fail: a target of `cargo test` and a test's name. Without one, the
    /// simulator has to find it.
    pub test: Option<String>,
    /// What is changed.
    #[serde(rename = "edit")]
    pub edits: Vec<Edit>,
}

/// A piece of source, and what stands in its place.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// From the project's root.
    pub file: String,
    /// An expression or statements, as they stand there; any white space is like any other.
    pub original: String,
    /// Of the same type.
    pub mutated: String,
}

/// A test of the project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// `lib`, or a file or folder of `tests/`.
    pub target: String,
    /// The test's whole name.
    pub name: String,
}

impl Named {
    /// For the table: without the modules.
    pub fn shown(&self) -> String {
        format!("test `{}`", self.name.rsplit("::").next().unwrap_or(&self.name))
    }
}

impl Mutant {
    /// The test that has to fail, when it is not the simulator's run.
    pub fn named(&self) -> Option<Named> {
        let (target, name) = self.test.as_ref()?.split_once(' ').expect("a target and a test's name");
        Some(Named { target: target.to_owned(), name: name.to_owned() })
    }
}

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every mutant, in the order of the files' names.
pub fn load() -> Vec<Mutant> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        mutant: Vec<Mutant>,
    }
    let folder = std::fs::read_dir(root().join("tests/mutants")).expect("the folder of this test");
    let mut pages: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    pages.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a page of the table");
        let page: Page = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        page.mutant
    };
    pages.into_iter().flat_map(read).collect()
}
