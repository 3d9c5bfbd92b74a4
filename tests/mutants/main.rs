//! Known bugs, put back one at a time: does the simulator, or the test that is named, find each?
//!
//! Building the project once for every bug would take hours. So the tree is copied to `target/mutants/`, with
//! all the bugs in it and a switch that is read when a process starts, and is built once. The sources
//! themselves stay as they are: no switch of a test is ever in the product.
//!
//! ```text
//! cargo test --test mutants                  does every snippet still stand in the sources, once?
//! make mutants                               find them all; prints the table of docs/mutants.md
//! make mutants ONLY=M08a,N2 SEEDS=1..50001   these, and further
//! ```

mod find;
mod model;
mod schemata;
mod table;
mod tree;

use std::collections::BTreeSet;

use schemata::{Change, place, rewrite};
use table::{Edit, Mutant, load, root};

/// Fewer would not be the promise of docs/mutants.md.
const AT_LEAST: usize = 40;

fn source(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// What does not fit the sources any more.
fn misfits(mutants: &[Mutant]) -> Vec<String> {
    let mut misfits = Vec::new();
    for Mutant { id, edits, .. } in mutants {
        for Edit { file, original, mutated } in edits {
            if let Err(count) = place(&source(file), original) {
                misfits.push(format!("{id}: {file} has it {count} times: {original}"));
            }
            if !is_balanced(original) || !is_balanced(mutated) {
                misfits.push(format!("{id}: no whole expression or statements: {original} -> {mutated}"));
            }
            if original.split_whitespace().eq(mutated.split_whitespace()) {
                misfits.push(format!("{id}: changes nothing in {file}"));
            }
        }
    }
    misfits
}

/// Whether every bracket that opens closes.
fn is_balanced(snippet: &str) -> bool {
    let mut open = Vec::new();
    snippet.chars().all(|c| match c {
        '(' | '[' | '{' => {
            open.push(c);
            true
        }
        ')' => open.pop() == Some('('),
        ']' => open.pop() == Some('['),
        '}' => open.pop() == Some('{'),
        _ => true,
    }) && open.is_empty()
}

#[test]
fn every_mutant_fits_the_sources() {
    let mutants = load();
    let misfits = misfits(&mutants);
    assert!(misfits.is_empty(), "write these anew in tests/mutants/*.toml:\n  {}", misfits.join("\n  "));
    tree::overlay(&mutants).expect("all mutants fit into one tree");
}

#[test]
fn every_mutant_is_in_the_published_table_and_every_test_exists() {
    let mutants = load();
    assert!(mutants.len() >= AT_LEAST, "{} mutants, {AT_LEAST} are promised", mutants.len());
    let ids: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.id.as_str()).collect();
    assert_eq!(ids.len(), mutants.len(), "an id names one mutant");
    let page = source("docs/mutants.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let published: BTreeSet<&str> =
        rows.filter(|id| id.starts_with(|c: char| c.is_ascii_uppercase())).collect();
    assert_eq!(published, ids, "`make mutants` prints the rows of docs/mutants.md");
    for mutant in mutants {
        assert!(!mutant.edits.is_empty() && !mutant.bug.is_empty() && !mutant.kin.is_empty(), "{mutant:?}");
    }
}

#[test]
#[ignore = "builds the project with all mutants and runs each: `make mutants`"]
fn every_known_bug_is_found() {
    find::find_all(load());
}

#[test]
#[ignore = "only makes the tree, for whoever wants something else of it: `scripts/tla record`"]
fn lays_the_tree_out() {
    find::lay_out(&load());
}

mod samples {
    use super::*;

    fn edit(original: &str, mutated: &str) -> Edit {
        Edit { file: String::new(), original: original.to_owned(), mutated: mutated.to_owned() }
    }

    fn rewritten(text: &str, edits: &[Edit]) -> Result<String, String> {
        let changes = edits.iter().enumerate().map(|(i, edit)| Change { number: i + 1, edit });
        rewrite(text, &changes.collect::<Vec<_>>())
    }

    #[test]
    fn a_snippet_stands_in_the_sources_once_or_is_refused() {
        let text = "if a <\n    b { f(a); }\nif c { f(a); }\n#[cfg(test)]\nmod tests { a < b }";
        assert_eq!(place(text, "a < b"), Ok(3..12));
        assert_eq!(place(text, "f(a);"), Err(2));
        assert_eq!(place(text, "a <b"), Err(0));
        assert_eq!(place(text, "gone"), Err(0));
        let mutant = |original: &str, mutated: &str| Mutant {
            id: "X".to_owned(),
            bug: String::new(),
            kin: String::new(),
            test: None,
            edits: vec![Edit { file: "src/quorum.rs".to_owned(), ..edit(original, mutated) }],
        };
        assert!(misfits(&[mutant("voters / 2 + 1", "voters / 2")]).is_empty());
        assert_eq!(misfits(&[mutant("voters / 3", "voters / 2")]).len(), 1);
        assert_eq!(misfits(&[mutant("voters / 2 + 1", "voters  / 2 + 1")]).len(), 1);
        assert_eq!(misfits(&[mutant("voters / 2 + 1 }", "voters }")]).len(), 1);
    }

    #[test]
    fn an_expression_and_a_statement_become_choices() {
        let choice = |arms: &str| format!("match crate::mutants::active() {{ {arms} }}");
        let whole = rewritten("const fn f() -> u8 { 1 + 2 }", &[edit("1 + 2", "3")]).unwrap();
        assert_eq!(whole, format!("fn f() -> u8 {{ ({}) }}", choice("1 => { 3 } _ => { 1 + 2 }")));
        let twice = rewritten("const fn f() -> u8 { 1 + 2 }", &[edit("1", "3"), edit("2", "4")]).unwrap();
        let (one, two) = (choice("1 => { 3 } _ => { 1 }"), choice("2 => { 4 } _ => { 2 }"));
        assert_eq!(twice, format!("fn f() -> u8 {{ ({one}) + ({two}) }}"));
        let whole = rewritten("fn f() { a(); b(); }", &[edit("a();", "")]).unwrap();
        assert_eq!(whole, format!("fn f() {{ {} b(); }}", choice("1 => {  } _ => { a(); }")));
    }

    #[test]
    fn what_lies_inside_another_shares_its_choice() {
        let edits = [edit("b", "x"), edit("a + b", "y")];
        let choice = "(match crate::mutants::active() { 1 => { a + x } 2 => { y } _ => { a + b } })";
        assert_eq!(rewritten("c + a + b", &edits).unwrap(), format!("c + {choice}"));
        assert!(rewritten("a + b + c", &[edit("a + b", ""), edit("b + c", "")]).is_err());
    }
}
