//! The copy of the project that holds all the mutants.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::schemata::{Change, rewrite};
use crate::table::{Mutant, root};

/// Not part of the project, or too large to be.
const LEFT_OUT: &[&str] = &["target", ".git", "data", "tmp"];

/// Rewritten files, and the one that knows which mutant is active, by path from the root.
pub fn overlay(mutants: &[Mutant]) -> Result<BTreeMap<String, String>, String> {
    let mut changes: BTreeMap<&str, Vec<Change<'_>>> = BTreeMap::new();
    for (i, mutant) in mutants.iter().enumerate() {
        for edit in &mutant.edits {
            changes.entry(&edit.file).or_default().push(Change { number: i + 1, edit });
        }
    }
    let mut files = BTreeMap::new();
    for (file, changes) in changes {
        let text = fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"))?;
        files.insert(file.to_owned(), rewrite(&text, &changes).map_err(|e| format!("{file}: {e}"))?);
    }
    let read = |file: &str| fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"));
    // What a mutant leaves unused is no fault of the mutant.
    let library = format!("#![allow(warnings)]\n{}pub mod mutants;\n", read("src/lib.rs")?);
    files.insert("src/lib.rs".to_owned(), library);
    files.insert("src/mutants.rs".to_owned(), switch(mutants));
    files.insert("Cargo.toml".to_owned(), without_program(&read("Cargo.toml")?)?);
    Ok(files)
}

/// The manifest without the program: it would take the place of the project's own in `target/`.
fn without_program(manifest: &str) -> Result<String, String> {
    let line = "default-run = \"termgate\"\n";
    let library_only = manifest.replace(line, "autobins = false\n");
    if library_only == manifest { Err(format!("Cargo.toml: {line} is not there")) } else { Ok(library_only) }
}

/// The source of `crate::mutants`.
fn switch(mutants: &[Mutant]) -> String {
    let ids: Vec<&str> = mutants.iter().map(|mutant| mutant.id.as_str()).collect();
    format!(
        "const IDS: &[&str] = &{ids:?};\n\
         static ACTIVE: std::sync::LazyLock<usize> = std::sync::LazyLock::new(|| {{\n\
             let Ok(id) = std::env::var(\"TERMGATE_MUTANT\") else {{ return 0 }};\n\
             1 + IDS.iter().position(|known| *known == id).expect(\"a mutant of this build\")\n\
         }});\n\
         pub fn active() -> usize {{ *ACTIVE }}\n"
    )
}

/// Makes `tree` a copy of the project with `overlay` in it. What is the same stays as it is, so that
/// only what has changed is built again.
pub fn copy(tree: &Path, overlay: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut wanted = BTreeSet::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(root().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if LEFT_OUT.iter().any(|left_out| Path::new(left_out) == path) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                waiting.push(path);
            } else if !overlay.contains_key(&*path.to_string_lossy()) {
                write(&tree.join(&path), &fs::read(entry.path())?, Some(&entry.path()))?;
                wanted.insert(path);
            }
        }
    }
    for (path, text) in overlay {
        write(&tree.join(path), text.as_bytes(), None)?;
        wanted.insert(PathBuf::from(path));
    }
    clear(tree, Path::new(""), &wanted)
}

fn write(to: &Path, content: &[u8], like: Option<&Path>) -> std::io::Result<()> {
    if fs::read(to).is_ok_and(|present| present == content) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
    fs::write(to, content)?;
    match like {
        Some(like) => fs::set_permissions(to, fs::metadata(like)?.permissions()),
        None => Ok(()),
    }
}

/// Removes files that the project no longer has.
fn clear(tree: &Path, folder: &Path, wanted: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(tree.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            clear(tree, &path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
