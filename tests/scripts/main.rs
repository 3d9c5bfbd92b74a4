//! Golden scripts: scenarios that can be read aloud, with the trace below each command.
//!
//! A script is a text file of blocks. A block is some commands, a line `---`, and what they must
//! print; `#` begins a comment. `UPDATE=1 cargo test --test scripts` rewrites what they print:
//! read the difference as carefully as code.

#[path = "../model/mod.rs"]
mod model;
mod raft;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Runs every script of a folder; each gets a fresh interpreter.
fn run_folder(folder: &str, mut fresh: impl FnMut() -> Box<dyn FnMut(&str) -> Result<String, String>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(folder);
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let wrong: Vec<String> =
        scripts.iter().filter_map(|path| run_script(path, &mut *fresh()).err()).collect();
    assert!(wrong.is_empty(), "{}\nUPDATE=1 accepts the new output", wrong.join("\n"));
}

fn run_script(path: &Path, command: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<(), String> {
    let wanted = std::fs::read_to_string(path).expect("a script");
    let mut found = String::new();
    let mut lines = wanted.lines();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            writeln!(found, "{line}").expect("memory");
            continue;
        }
        let mut block = vec![line];
        block.extend(lines.by_ref().take_while(|line| *line != "---"));
        let _expected = lines.by_ref().take_while(|line| !line.is_empty()).count();
        for line in &block {
            writeln!(found, "{line}").expect("memory");
        }
        writeln!(found, "---").expect("memory");
        for line in block.iter().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let output = command(line).map_err(|error| format!("{}: {line}: {error}", path.display()))?;
            found.push_str(&output);
        }
        writeln!(found).expect("memory");
    }
    let found = format!("{}\n", found.trim_end());
    if found == wanted {
        return Ok(());
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, found).expect("a writable script");
        return Ok(());
    }
    let at = found.lines().zip(wanted.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let show = |text: &str| text.lines().skip(at).take(3).collect::<Vec<_>>().join("\n      ");
    Err(format!("{}:{}\n  now {}\n  was {}", path.display(), at + 1, show(&found), show(&wanted)))
}

#[test]
fn raft_scripts_print_what_they_say() {
    run_folder("raft", || {
        let mut cluster = raft::Cluster::default();
        Box::new(move |line| cluster.command(line))
    });
}
