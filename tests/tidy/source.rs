//! What the laws look at: the project's files, with comments and literals blanked out so that a
//! word in a sentence is never taken for code, and with the tests cut off.

use std::fs;
use std::path::Path;

/// One Rust file.
pub struct Source {
    /// From the project's root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// Comments, strings and characters blanked out; the same length and lines as `text`.
    pub code: String,
    /// Where the unit tests begin in both: the end, for a file without them, and 0 in a test file.
    pub tests_at: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let tests_at = if is_test_file(path) { 0 } else { test_module(&code).unwrap_or(code.len()) };
        Self { path: path.to_owned(), text: text.to_owned(), code, tests_at }
    }

    /// The code without its tests.
    pub fn production(&self) -> &str {
        &self.code[..self.tests_at]
    }

    /// The code of its tests.
    pub fn tests(&self) -> &str {
        &self.code[self.tests_at..]
    }

    /// `path:line` of a position.
    pub fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, self.text[..at].matches('\n').count() + 1)
    }

    /// The module path below `src/`: `["storage", "load"]` for `src/storage/load.rs`.
    pub fn module(&self) -> Vec<&str> {
        let Some(path) = self.path.strip_prefix("src/").and_then(|p| p.strip_suffix(".rs")) else {
            return Vec::new();
        };
        let mut parts: Vec<&str> = path.split('/').collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        parts
    }
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/")
        || path.starts_with("benches/")
        || path.ends_with("/tests.rs")
        || path.contains("/tests/")
}

fn test_module(code: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]") {
        let at = from + at;
        let after = code[at + 12..].trim_start();
        // A module with a body; a declaration (`mod tests;`) only points at a test file.
        if after.starts_with("mod ") && after.find('{') < after.find(';').or(Some(usize::MAX)) {
            return Some(at);
        }
        from = at + 12;
    }
    None
}

/// All Rust files below `dirs` of the project.
pub fn load(dirs: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for dir in dirs {
        walk(&root().join(dir), "rs", &mut |path, text| found.push(Source::new(path, text)));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The texts of all files below `dir` with this extension.
pub fn texts(dir: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root().join(dir), extension, &mut |path, text| found.push((path.to_owned(), text.to_owned())));
    found
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, extension: &str, visit: &mut dyn FnMut(&str, &str)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, extension, visit);
        } else if path.extension().is_some_and(|e| e == extension) {
            let text = fs::read_to_string(&path).expect("project files are UTF-8");
            let name =
                path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
            visit(&name, &text);
        }
    }
}

/// Replaces everything inside comments, strings and character literals by spaces; keeps newlines.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_end(bytes, at) {
            Some(end) => end,
            None => {
                at += 1;
                continue;
            }
        };
        out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end;
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

/// Where the comment or literal that begins at `at` ends; `None` when none begins there.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(at + find(rest, b"\n", 0).unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(at + block_comment(rest)),
        [b'"', ..] => Some(at + string(rest)),
        [b'r', b'"' | b'#', ..] if !word_before => raw_string(rest).map(|len| at + len),
        [b'\'', ..] => character(rest).map(|len| at + len),
        _ => None,
    }
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|w| w == what).map(|i| from + i)
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn raw_string(bytes: &[u8]) -> Option<usize> {
    let hashes = bytes[1..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    Some(find(bytes, &end, 2 + hashes).map_or(bytes.len(), |at| at + end.len()))
}

/// A character literal, and not a lifetime.
fn character(bytes: &[u8]) -> Option<usize> {
    if bytes.get(1) == Some(&b'\\') {
        return find(bytes, b"'", 3).map(|at| at + 1);
    }
    let close = (2..=5).find(|i| bytes.get(*i) == Some(&b'\''))?;
    let one = std::str::from_utf8(&bytes[1..close]).is_ok_and(|s| s.chars().count() == 1);
    one.then_some(close + 1)
}

/// Positions where `word` stands in `code` as a whole path or identifier.
pub fn words(code: &str, word: &str) -> Vec<usize> {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |at: &usize| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = !word.starts_with(inside) || !before.is_some_and(inside);
        let ends = !word.ends_with(inside) || !after.is_some_and(inside);
        starts && ends
    };
    code.match_indices(word).map(|(at, _)| at).filter(whole).collect()
}

/// One function with a body: its name, where it begins and where its body ends.
pub struct Function<'a> {
    pub name: &'a str,
    pub start: usize,
    pub end: usize,
}

/// Every function with a body in `code`.
pub fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for start in words(code, "fn") {
        let rest = &code[start + 2..];
        let name = rest.trim_start();
        let name = &name[..name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len())];
        let (Some(open), semicolon) = (rest.find('{'), rest.find(';')) else { continue };
        // `[u8; 4]` in a signature is no end of it.
        let declaration = semicolon.is_some_and(|s| s < open && balanced(&rest[..s]));
        if name.is_empty() || declaration {
            continue;
        }
        let open = start + 2 + open;
        found.push(Function { name, start, end: closing(code, open) });
    }
    found
}

fn balanced(text: &str) -> bool {
    text.matches('[').count() == text.matches(']').count()
}

/// The brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => (),
        }
    }
    code.len()
}
