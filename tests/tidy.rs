//! Taste as a test: the laws that a program can check. Each is one test whose message says how to
//! mend; below, each law is shown a sample that breaks it, because a law that cannot fail is none.

#[path = "tidy/laws.rs"]
mod laws;
#[path = "tidy/source.rs"]
mod source;

use source::{Source, load, root, texts};

#[track_caller]
fn hold(broken: &[String], mend: &str) {
    assert!(broken.is_empty(), "{mend}:\n  {}", broken.join("\n  "));
}

fn everything() -> Vec<Source> {
    load(&["src", "tests", "benches", "examples"])
}

/// The names of the golden scripts.
fn scripts() -> Vec<String> {
    let name = |path: String| path.rsplit('/').next().unwrap_or_default().trim_end_matches(".txt").to_owned();
    texts("tests/scripts", "txt").into_iter().map(|(path, _)| name(path)).collect()
}

#[test]
fn imports_point_down_the_layers() {
    hold(
        &laws::imports_point_down(&load(&["src"])),
        "a module names only its own layer and those below (src/lib.rs); move the shared part down, pass the \
         value in as an argument, or give a new module its layer in RANKS of tests/tidy/laws.rs",
    );
}

#[test]
fn modules_do_not_import_each_other_in_circles() {
    hold(&laws::no_cycles(&load(&["src"])), "break the circle: move what both need into a module below both");
}

#[test]
fn the_core_is_pure() {
    hold(
        &laws::lower_layers_are_pure(&load(&["src"])),
        "layers 0 and 1 know no IO, clock, thread, async or unordered map; take the value as an argument, use \
         a BTreeMap, or move the code up to the layer that owns the outside",
    );
}

#[test]
fn functions_fit_a_screen() {
    let mend =
        format!("a function has at most {} lines; name a part of it and take it out", laws::FUNCTION_LINES);
    hold(&laws::functions_fit_a_screen(&everything()), &mend);
}

#[test]
fn files_have_one_subject() {
    let files = load(&["src", "examples"]);
    for warning in laws::longer_than(&files, laws::FILE_WARNING) {
        println!("warning: more than {} lines: {warning}", laws::FILE_WARNING);
    }
    let mend =
        format!("a file has at most {} lines without its tests; split it by subject", laws::FILE_LINES);
    hold(&laws::longer_than(&files, laws::FILE_LINES), &mend);
}

#[test]
fn nothing_is_imported_by_glob() {
    hold(
        &laws::no_glob_imports(&load(&["src"])),
        "name what you import; only a unit test module may `use super::*`",
    );
}

#[test]
fn bytes_from_outside_never_panic() {
    hold(
        &laws::outside_bytes_never_panic(&load(&["src"])),
        "these files read what a peer, a client or a backend sent; return an error (`?`, `get`, `split_first`, \
         `let else`) or list an own invariant in OWN_INVARIANTS of tests/tidy/laws.rs",
    );
}

#[test]
fn items_have_few_type_parameters() {
    hold(
        &laws::few_type_parameters(&everything()),
        "at most two type parameters; use `impl Trait` in argument position, or a concrete type",
    );
}

#[test]
fn there_are_no_cargo_features() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is readable");
    hold(
        &laws::no_cargo_features(&manifest, &everything()),
        "one program, one shape; make it a setting or leave it out",
    );
}

#[test]
fn every_rule_of_the_specification_is_cited_by_code_and_by_a_test() {
    let pages = texts("proto-spec", "md");
    assert!(!pages.is_empty(), "proto-spec/ has pages");
    hold(
        &laws::rules_are_cited(&pages, &everything(), &scripts()),
        "name the rule's id in the comment of the code that keeps it and of a test that fails without it, or name \
         in the rule's row the script that shows it",
    );
}

#[test]
fn scenarios_name_their_tests() {
    let page = std::fs::read_to_string(root().join("docs/scenarios.md")).expect("the page of scenarios");
    hold(
        &laws::scenarios_name_their_tests(&page, &everything(), &scripts()),
        "a scenario names the tests that play it, by the function or the script, or says why there is none",
    );
}

#[test]
fn no_test_sleeps_to_be_right() {
    hold(
        &laws::tests_do_not_sleep(&everything()),
        "wait for the condition, with a limit, in a helper named `wait_…`; a sleep that makes a load or a fault says \
         so above it (`// The length of …`, `// The pace of …`)",
    );
}

#[test]
fn each_loop_waits_in_one_place() {
    hold(
        &laws::one_select_per_function(&load(&["src"])),
        "one `select!` in a function, whose arms only turn what happened into an event",
    );
}

#[test]
fn nothing_is_left_for_later() {
    hold(
        &laws::nothing_is_left_for_later(&everything()),
        "do it now, or write in the module's comment that it is left out",
    );
}

/// Each law, shown something that breaks it and something that does not.
mod samples {
    use crate::laws;
    use crate::source::{Source, blank};

    type Law = fn(&[Source]) -> Vec<String>;

    #[track_caller]
    fn tells_apart(law: Law, path: &str, bad: &[&str], good: &[&str]) {
        for sample in bad {
            assert!(!law(&[Source::new(path, sample)]).is_empty(), "not noticed in {path}:\n{sample}");
        }
        for sample in good {
            let broken = law(&[Source::new(path, sample)]);
            assert!(broken.is_empty(), "noticed without cause in {path}:\n{sample}\n{broken:?}");
        }
    }

    #[test]
    fn upward_imports() {
        let bad = [
            "use crate::driver::handle::Handle;",
            "use crate::{ids::Term, proxy::gate};",
            "fn f() { crate::api::serve() }",
            "use super::super::driver;",
        ];
        let good = [
            "use crate::raft::log::Log;",
            "use crate::ids::{Term, driver};",
            "// crate::driver",
            "#[cfg(test)]\nmod tests { use crate::driver; }",
            "use super::driver;",
        ];
        tells_apart(laws::imports_point_down, "src/storage/load.rs", &bad, &good);
        tells_apart(laws::imports_point_down, "src/novelty.rs", &["fn f() {}"], &[]);
    }

    #[test]
    fn circles() {
        let there = Source::new("src/storage/a.rs", "use crate::transport::x;");
        let back = Source::new("src/transport/b.rs", "use crate::storage::y;");
        assert!(laws::no_cycles(std::slice::from_ref(&there)).is_empty());
        assert_eq!(laws::no_cycles(&[there, back]).len(), 2);
    }

    #[test]
    fn impure_cores() {
        let bad = [
            "use tokio::sync::mpsc;",
            "async fn f() {}",
            "std::time::Instant::now()",
            "let m: HashMap<u8, u8>;",
            "std::thread::spawn(f);",
            "let x: u64 = rand::random();",
        ];
        let good =
            ["// no tokio here", "fn tokio_like() {}", "\"std::fs\"", "use std::collections::BTreeMap;"];
        tells_apart(laws::lower_layers_are_pure, "src/raft/node.rs", &bad, &good);
        tells_apart(laws::lower_layers_are_pure, "src/driver/run.rs", &[], &bad);
    }

    #[test]
    fn long_functions_and_files() {
        let long = format!("fn f(x: [u8; 4]) {{\n{}}}", "f();\n".repeat(70));
        let short = format!("fn f() {{\n{}}}", "f();\n".repeat(60));
        tells_apart(laws::functions_fit_a_screen, "src/ids.rs", &[&long], &[&short, "trait T { fn f(); }"]);
        let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}", "\n".repeat(600));
        let law: Law = |files| laws::longer_than(files, laws::FILE_LINES);
        tells_apart(law, "src/ids.rs", &[&"\n".repeat(501)], &[&"\n".repeat(500), &tests]);
    }

    #[test]
    fn globs() {
        let bad = ["use super::*;", "pub use a::b::*;", "#[cfg(test)]\nmod tests { use crate::ids::*; }"];
        let good = ["#[cfg(test)]\nmod tests { use super::*; }", "let x = a * b;"];
        tells_apart(laws::no_glob_imports, "src/ids.rs", &bad, &good);
    }

    #[test]
    fn panics_on_outside_bytes() {
        let bad = [
            "x.unwrap();",
            "x.expect(\"\");",
            "panic!()",
            "let a = bytes[0];",
            "f(&bytes[..4])",
            "g()[1]",
            "unreachable!()",
        ];
        let good = [
            "x.unwrap_or(0);",
            "let a: [u8; 4] = [0; 4];",
            "#[derive(Debug)]",
            "vec![0; 4]",
            "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }",
        ];
        tells_apart(laws::outside_bytes_never_panic, "src/hop/frame.rs", &bad, &good);
        tells_apart(laws::outside_bytes_never_panic, "src/raft/log.rs", &[], &bad);
    }

    #[test]
    fn many_type_parameters() {
        let bad = ["fn f<A, B, C>() {}", "impl<A: Into<B>, B, C: Fn(A, B) -> C> X<A> {}"];
        let good = [
            "fn f<'a, const N: usize, A, B: Fn(A, A) -> A>() {}",
            "impl Iterator<Item = (A, B, C)> for X {}",
        ];
        tells_apart(laws::few_type_parameters, "src/ids.rs", &bad, &good);
    }

    #[test]
    fn features() {
        assert!(!laws::no_cargo_features("[features]\nfast = []", &[]).is_empty());
        assert!(laws::no_cargo_features("tokio = { features = [] }", &[]).is_empty());
        let cfg = Source::new("src/ids.rs", "#[cfg(feature = \"fast\")]");
        assert!(!laws::no_cargo_features("", &[cfg]).is_empty());
    }

    #[test]
    fn rules_that_nobody_cites() {
        let page = [("proto-spec/x.md".to_owned(), "| XY-1 | must hold |\n| name | no rule |".to_owned())];
        let check = |src: &str| laws::rules_are_cited(&page, &[Source::new("src/ids.rs", src)], &[]);
        assert_eq!(check("").len(), 2);
        assert_eq!(check("/// XY-1.").len(), 1, "a test is missing");
        assert_eq!(
            check("/// XY-10.\n#[cfg(test)]\nmod tests {\n// XY-1\n}").len(),
            1,
            "XY-10 is another rule"
        );
        assert!(check("/// XY-1.\n#[cfg(test)]\nmod tests {\n// XY-1\n}").is_empty());
        let items =
            "- **Note** no rule\n- **XY-2** must hold\n  and so on\n- XY-3 is only named\n".to_owned();
        let item = [("proto-spec/x.md".to_owned(), items)];
        assert_eq!(laws::rules_are_cited(&item, &[], &[]).len(), 2, "XY-2, in src/ and in a test");
        let cited = [Source::new("src/ids.rs", "/// XY-2.\n#[cfg(test)]\nmod tests {\n// XY-2\n}")];
        assert!(laws::rules_are_cited(&item, &cited, &[]).is_empty());
        let row = [("proto-spec/x.md".to_owned(), "| L3 | must hold | `vote`, chaos |".to_owned())];
        let src = [Source::new("src/ids.rs", "/// L3")];
        assert!(laws::rules_are_cited(&row, &src, &["vote".to_owned()]).is_empty());
        assert_eq!(laws::rules_are_cited(&row, &src, &["vot".to_owned()]).len(), 1);
    }

    #[test]
    fn scenarios_without_a_test() {
        let files = [Source::new("tests/x.rs", "fn shows_it() {}")];
        let told = |row: &str| laws::scenarios_name_their_tests(row, &files, &["script".to_owned()]).len();
        assert_eq!(told("| A1 | name | `shows_it`, `script` | |"), 0);
        assert_eq!(told("| A1 | name | none | impossible here |"), 0);
        assert_eq!(told("| A1 | name | none | |"), 1);
        assert_eq!(told("| A1 | name | `shows_i`, `shows_it` | |"), 1);
        assert_eq!(told("| A1 | name |"), 1);
    }

    #[test]
    fn sleeping_tests() {
        let bad =
            ["#[test]\nfn t() { thread::sleep(ms); }", "async fn t() { tokio::time::sleep(ms).await; }"];
        let good = [
            "fn wait_until(f: F) { loop { thread::sleep(ms); } }",
            "fn t() { no_sleep_here(); }",
            "fn t() {\n    // The length of the fault.\n    sleep(ms); }",
        ];
        tells_apart(laws::tests_do_not_sleep, "tests/x.rs", &bad, &good);
        tells_apart(laws::tests_do_not_sleep, "src/driver/run.rs", &[], &bad);
    }

    #[test]
    fn several_selects_and_leftovers() {
        let two = "fn f() { loop { select! { } select! { } } }";
        tells_apart(laws::one_select_per_function, "src/driver/run.rs", &[two], &["fn f() { select! { } }"]);
        let bad = ["fn f() { todo!() }", "// FIXME: later", "dbg!(x)"];
        tells_apart(laws::nothing_is_left_for_later, "src/ids.rs", &bad, &["let todo = \"todo!\";"]);
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a /* b /* c */ d */ e \"f\\\"g\" r#\"h\"i\"# 'j' '\\'' 'k: l // m\nn";
        let code = blank(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "e", "'k:", "l", "n"]);
    }
}
