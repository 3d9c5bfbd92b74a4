//! What a machine can't do is said, past the capture of a test's output, and again at the end of `make test`.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;

/// Says that something was not tested, and what it takes.
pub fn not_tested(what: &str) {
    let line = format!("NOT TESTED: {what}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = env::var_os("TERMGATE_NOT_TESTED") {
        let file = OpenOptions::new().append(true).create(true).open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of what was not tested");
    }
}
