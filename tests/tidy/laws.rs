//! The laws. Each takes files and returns what breaks it, as `place: what`.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, functions, words};

/// The layer of each top-level module; see `src/lib.rs`.
pub const RANKS: &[(&str, u8)] = &[
    ("ids", 0),
    ("time", 0),
    ("quorum", 0),
    ("lease", 0),
    ("raft", 1),
    ("registry", 1),
    ("fencing", 1),
    ("clock", 2),
    ("listen", 2),
    ("metrics", 2),
    ("problem", 2),
    ("storage", 2),
    ("transport", 2),
    ("hop", 2),
    ("certs", 2),
    ("driver", 3),
    ("proxy", 4),
    ("api", 4),
    ("guard", 4),
    ("demo", 4),
    ("config", 5),
    ("app", 5),
    ("cli", 5),
    ("dev", 5),
    ("disaster", 5),
    ("main", 5),
    ("lib", 6),
];

/// What the pure layers may not name: IO, clocks, threads, async, and anything whose order or value
/// differs from run to run.
const IMPURE: &[&str] = &[
    "tokio",
    "quinn",
    "hyper",
    "redb",
    "rustls",
    "std::net",
    "std::fs",
    "std::io",
    "std::thread",
    "std::process",
    "std::env",
    "SystemTime",
    "std::time::Instant",
    "async",
    "HashMap",
    "HashSet",
    "rand::random",
    "rand::rng",
    "ThreadRng",
    "SysRng",
    "from_rng",
    "from_os_rng",
];

/// Files that read bytes from a peer, a client or a backend.
const OUTSIDE_BYTES: &[&str] = &[
    "src/transport/codec",
    "src/transport/identity",
    "src/hop/",
    "src/proxy/fields",
    "src/proxy/validate",
    "src/proxy/upstream",
    "src/guard/",
    "src/api/",
];

/// `expect` in those files about this program's own state, by message: what came from outside can't
/// make any of them false. A new one needs a look at that, and a line here.
const OWN_INVARIANTS: &[&str] = &[
    "nothing panics while it holds",
    "saving does not panic",
    "saving neither panics nor is cancelled",
    "the semaphore is never closed",
    "only a write with a term is admitted",
    "digits and letters are a field value",
    "numbers and a name are JSON",
];

/// Names of functions that may sleep between two looks at a condition.
const WAITS: &[&str] = &["wait", "eventually", "until", "try_until"];
/// Comments above a sleep that is no wait for something: it makes a load or a fault.
const PACES: &[&str] = &["// The length of", "// The pace of"];

pub const FUNCTION_LINES: usize = 70;
pub const FILE_LINES: usize = 500;
pub const FILE_WARNING: usize = 400;
const TYPE_PARAMETERS: usize = 2;

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// The top-level modules that `source` names outside its tests, with where.
fn imports(source: &Source) -> Vec<(String, usize)> {
    let code = source.production();
    let mut found = Vec::new();
    for at in words(code, "crate::") {
        for name in heads(&code[at + 7..]) {
            found.push((name, at));
        }
    }
    let to_root = "super::".repeat(source.module().len());
    for at in words(code, &to_root) {
        // A longer chain would leave the crate; a shorter one stays inside the module.
        if !to_root.is_empty() && !code[..at].ends_with("super::") {
            found.extend(heads(&code[at + to_root.len()..]).into_iter().map(|name| (name, at)));
        }
    }
    found.retain(|(name, _)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

/// The first names of a path, or of each path in a group: `a::{b, c}` and `{a::b, c}` give `[a]`, `[a, c]`.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| {
        let text = text.trim_start();
        text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())].to_owned()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                all.push(name(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(name(&group[start..at]));
                start = at + 1;
            }
            _ => (),
        }
    }
    all.retain(|name| !name.is_empty() && name != "self");
    all
}

pub fn imports_point_down(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        let module = file.module();
        let Some(own) = module.first() else { continue };
        let Some(own_rank) = rank(own) else {
            broken.push(format!("{}: module {own} has no layer", file.path));
            continue;
        };
        for (name, at) in imports(file) {
            match rank(&name) {
                Some(its) if its > own_rank => broken
                    .push(format!("{}: {own} (layer {own_rank}) names {name} (layer {its})", file.place(at))),
                _ => (),
            }
        }
    }
    broken
}

pub fn no_cycles(files: &[Source]) -> Vec<String> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let Some(own) = file.module().first().map(|s| (*s).to_owned()) else { continue };
        let named = imports(file).into_iter().map(|(name, _)| name);
        edges
            .entry(own.clone())
            .or_default()
            .extend(named.filter(|name| *name != own && rank(name).is_some()));
    }
    let mut broken = Vec::new();
    for start in edges.keys() {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = edges[start].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(edges.get(module).into_iter().flatten());
            }
        }
        if reached.contains(start) {
            broken.push(format!("src/{start}: imports come back to {start} through {reached:?}"));
        }
    }
    broken
}

pub fn lower_layers_are_pure(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        if file.module().first().and_then(|module| rank(module)).is_none_or(|rank| rank > 1) {
            continue;
        }
        for name in IMPURE {
            for at in words(file.production(), name) {
                broken.push(format!("{}: names {name}", file.place(at)));
            }
        }
    }
    broken
}

pub fn functions_fit_a_screen(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        for function in functions(&file.code) {
            let lines = file.code[function.start..function.end].matches('\n').count() + 1;
            if lines > FUNCTION_LINES {
                broken.push(format!("{}: {} has {lines} lines", file.place(function.start), function.name));
            }
        }
    }
    broken
}

/// Files of more than `limit` lines, tests not counted.
pub fn longer_than(files: &[Source], limit: usize) -> Vec<String> {
    let lines = |file: &Source| file.text[..file.tests_at].matches('\n').count();
    let long = files.iter().filter(|file| lines(file) > limit);
    long.map(|file| format!("{}: {} lines", file.path, lines(file))).collect()
}

pub fn no_glob_imports(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        let globs = words(file.production(), "::*").into_iter().map(|at| (at, "a glob import"));
        let in_tests = words(file.tests(), "::*").into_iter().map(|at| at + file.tests_at);
        let in_tests = in_tests.filter(|at| !file.code[..*at].ends_with("super"));
        for (at, what) in globs.chain(in_tests.map(|at| (at, "a glob import of something else than super"))) {
            broken.push(format!("{}: {what}", file.place(at)));
        }
    }
    broken
}

pub fn outside_bytes_never_panic(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| OUTSIDE_BYTES.iter().any(|start| file.path.starts_with(start))) {
        let code = file.production();
        for call in [".unwrap(", ".expect(", "panic!", "unreachable!", "assert!", "assert_eq!"] {
            for at in words(code, call).into_iter().filter(|at| !is_own_invariant(&file.text[*at..])) {
                broken.push(format!("{}: {call}", file.place(at)));
            }
        }
        for (at, _) in code.match_indices('[') {
            let value = code[..at].ends_with(|c: char| c.is_alphanumeric() || "_)]?".contains(c));
            let inside = code[at + 1..].trim_start();
            if value && inside.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                broken.push(format!("{}: an index that may be out of range", file.place(at)));
            }
        }
    }
    broken
}

fn is_own_invariant(call: &str) -> bool {
    let message = call.strip_prefix(".expect(\"");
    message.is_some_and(|text| OWN_INVARIANTS.iter().any(|known| text.starts_with(known)))
}

pub fn few_type_parameters(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        for keyword in ["fn", "struct", "enum", "trait", "impl", "type"] {
            for at in words(&file.code, keyword) {
                let count = type_parameters(&file.code[at + keyword.len()..]);
                if count > TYPE_PARAMETERS {
                    broken.push(format!("{}: {keyword} with {count} type parameters", file.place(at)));
                }
            }
        }
    }
    broken
}

/// The type parameters of an item, given what follows its keyword.
fn type_parameters(rest: &str) -> usize {
    let rest = rest.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
    let Some(list) = rest.strip_prefix('<') else { return 0 };
    let (mut depth, mut start, mut count) = (0, 0, 0);
    let is_type =
        |p: &str| !p.trim().is_empty() && !p.trim().starts_with('\'') && !p.trim().starts_with("const ");
    let bytes = list.as_bytes();
    for (at, c) in list.char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if at > 0 && bytes[at - 1] == b'-' => (),
            '>' if depth == 0 => return count + usize::from(is_type(&list[start..at])),
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                count += usize::from(is_type(&list[start..at]));
                start = at + 1;
            }
            _ => (),
        }
    }
    count
}

pub fn no_cargo_features(manifest: &str, files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    if manifest.lines().any(|line| line.trim() == "[features]") {
        broken.push("Cargo.toml: [features]".to_owned());
    }
    for file in files {
        for at in words(&file.code, "cfg(feature") {
            broken.push(format!("{}: cfg(feature)", file.place(at)));
        }
    }
    broken
}

/// The rules of a specification page, with the line that begins each: table rows whose first cell is an
/// id, such as `ST-1`, and list items that begin with one in bold.
fn rules(page: &str) -> Vec<(&str, &str)> {
    let begun = page.lines().filter_map(|line| {
        let cell = line.strip_prefix("| ").and_then(|rest| rest.split_once(" |"));
        let item = line.strip_prefix("- **").and_then(|rest| rest.split_once("**"));
        Some((cell.or(item)?.0.trim_matches('`'), line))
    });
    begun.filter(|(cell, _)| is_rule_id(cell)).collect()
}

fn is_rule_id(cell: &str) -> bool {
    let area = cell.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = cell.len() - area.len();
    let area = area.strip_suffix('-').unwrap_or(area);
    number > 0 && (1..=5).contains(&area.len()) && area.bytes().all(|b| b.is_ascii_uppercase())
}

/// `scripts` are the names of the scenarios in `tests/scripts/`: a rule may name the one that shows it.
pub fn rules_are_cited(pages: &[(String, String)], files: &[Source], scripts: &[String]) -> Vec<String> {
    let mut broken = Vec::new();
    for (page, text) in pages {
        for (id, row) in rules(text) {
            let cited =
                |part: fn(&Source) -> &str| files.iter().any(|file| !words(part(file), id).is_empty());
            if !cited(|file| &file.text[..file.tests_at]) {
                broken.push(format!("{page}: {id} is cited nowhere in src/"));
            }
            let scripted = scripts.iter().any(|script| row.contains(&format!("`{script}`")));
            if !scripted && !cited(|file| &file.text[file.tests_at..]) {
                broken.push(format!("{page}: {id} is cited by no test"));
            }
        }
    }
    broken
}

/// The rows of `docs/scenarios.md`: each names tests that there are, or says why it has none. The cells are the id,
/// the scenario, the tests and a remark.
pub fn scenarios_name_their_tests(page: &str, files: &[Source], scripts: &[String]) -> Vec<String> {
    let exists = |name: &str| {
        let function = format!("fn {name}(");
        scripts.iter().any(|script| script == name) || files.iter().any(|file| file.code.contains(&function))
    };
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id") && !line.starts_with("| #"));
    let mut broken = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, tests, remark] = cells.as_slice() else {
            broken.push(format!("{row}: not four cells"));
            continue;
        };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if names.is_empty() && remark.is_empty() {
            broken.push(format!("{id}: no test, and no reason"));
        }
        broken.extend(
            names.iter().filter(|name| !exists(name)).map(|name| format!("{id}: there is no {name}")),
        );
    }
    broken
}

pub fn tests_do_not_sleep(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with("benches/")) {
        let functions = functions(&file.code);
        let sleeps = ["thread::sleep", "time::sleep", "sleep"].map(|call| words(file.tests(), call));
        let sleeps: BTreeSet<usize> = sleeps.into_iter().flatten().collect();
        for at in sleeps.into_iter().map(|at| at + file.tests_at) {
            if !file.code[at..].trim_start_matches(|c: char| c.is_alphanumeric() || c == ':').starts_with('(')
            {
                continue;
            }
            let around = functions.iter().filter(|f| f.start < at && at < f.end).max_by_key(|f| f.start);
            let waits = around.is_some_and(|f| {
                let limited = !words(&file.code[f.start..f.end], "elapsed").is_empty();
                limited || WAITS.iter().any(|start| f.name.starts_with(start))
            });
            let above = file.text[..at].rsplit('\n').nth(1).unwrap_or_default().trim();
            let paces = PACES.iter().any(|start| above.starts_with(start));
            let place = file.place(at);
            if !waits && !paces && !broken.contains(&place) {
                broken.push(place);
            }
        }
    }
    broken
}

pub fn one_select_per_function(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        for function in functions(file.production()) {
            let body = &file.code[function.start..function.end];
            let loops = ["loop", "while", "for"].iter().any(|word| !words(body, word).is_empty());
            let count = words(body, "select!").len();
            if loops && count > 1 {
                broken.push(format!("{}: {} has {count}", file.place(function.start), function.name));
            }
        }
    }
    broken
}

pub fn nothing_is_left_for_later(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            broken
                .extend(words(&file.code, name).into_iter().map(|at| format!("{}: {name}", file.place(at))));
        }
        for name in ["TODO", "FIXME", "XXX"] {
            let comments =
                words(&file.text, name).into_iter().filter(|at| !file.code[*at..].starts_with(name));
            let comments = comments.filter(|_| !file.path.starts_with("tests/tidy"));
            broken.extend(comments.map(|at| format!("{}: {name}", file.place(at))));
        }
    }
    broken
}
