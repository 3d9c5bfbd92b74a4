//! Does the exhaustive check (`tests/exhaustive`) find the bugs that fit into its bounds?
//!
//! `tests/exhaustive/mutants.toml` says for every bug in what that check runs which bound shows it, or why
//! none does. `cargo test` looks whether it names them all; `make model MUTANTS=1` whether it is true.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::find::{Build, in_parallel, only};
use crate::table::{Mutant, load, root};

/// What the exhaustive check runs.
const SEARCHED: &[&str] = &["src/raft/", "src/fencing/", "src/quorum.rs", "src/lease.rs"];
/// The search over a bound, and the walks beside it.
const SEARCH: &str = "some_bound_shows_the_bug";
const WALKS: &str = "a_canonical_form_stands_for_a_state";

/// `mutants.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdicts {
    shown: Vec<Shown>,
    walked: Vec<Walked>,
    left: Vec<Left>,
}

/// Bugs that this bound shows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    bound: String,
    ids: Vec<String>,
}

/// Bugs that the walks notice.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Walked {
    ids: Vec<String>,
}

/// Bugs that nothing there shows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Left {
    why: String,
    ids: Vec<String>,
}

impl Verdicts {
    fn read() -> Self {
        toml::from_str(&text("tests/exhaustive/mutants.toml")).expect("the verdicts of the exhaustive check")
    }

    /// Every bug that has to be found, and the bound that shows it; none for the walks.
    fn expected(&self) -> Vec<(&str, Option<&str>)> {
        let shown = self.shown.iter().flat_map(|shown| shown.ids.iter().map(|id| (id, Some(&*shown.bound))));
        let walked = self.walked.iter().flat_map(|walked| walked.ids.iter().map(|id| (id, None)));
        shown.chain(walked).map(|(id, bound)| (id.as_str(), bound)).collect()
    }

    /// What is wrong with these verdicts on `mutants`, when `bounds` and `page` are the sources and the
    /// published tables.
    fn faults(&self, mutants: &[Mutant], bounds: &str, page: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let left = self.left.iter().flat_map(|left| left.ids.iter().map(String::as_str));
        let judged: Vec<&str> = self.expected().into_iter().map(|(id, _)| id).chain(left).collect();
        for id in mutants.iter().filter(|mutant| is_searched(mutant)).map(|mutant| mutant.id.as_str()) {
            match judged.iter().filter(|judged| **judged == id).count() {
                1 => {}
                count => faults.push(format!("{id} is named {count} times")),
            }
        }
        for id in judged {
            if !mutants.iter().any(|mutant| mutant.id == id && is_searched(mutant)) {
                faults.push(format!("{id} is no bug in what is searched"));
            }
        }
        for Shown { bound, .. } in &self.shown {
            if !bounds.contains(&format!("name: \"{bound}\"")) {
                faults.push(format!("there is no bound {bound}"));
            }
        }
        for (id, bound) in self.expected() {
            let bug = mutants.iter().find(|mutant| mutant.id == id).map_or("", |mutant| &mutant.bug);
            let row = format!("| {id} | {bug} | {} |", bound.unwrap_or("walks"));
            if !page.contains(&row) {
                faults.push(format!("not published: {row}"));
            }
        }
        let rows = self.left.iter().map(|left| format!("| {} | {} |", left.ids.join(", "), left.why));
        faults.extend(rows.filter(|row| !page.contains(row)).map(|row| format!("not published: {row}")));
        faults
    }
}

fn is_searched(mutant: &Mutant) -> bool {
    mutant.edits.iter().any(|edit| SEARCHED.iter().any(|part| edit.file.starts_with(part)))
}

fn text(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// How the search for one bug ended.
struct Row<'a> {
    id: &'a str,
    bug: &'a str,
    bound: Option<&'a str>,
    /// States until then and steps of the shortest way; or why not.
    found: Result<(String, String), String>,
    took: Duration,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} | ", self.id, self.bug, self.bound.unwrap_or("walks"))?;
        match &self.found {
            Ok((states, steps)) => write!(f, "{states} | {steps}")?,
            Err(why) => write!(f, "**NOT FOUND**: {why} | -")?,
        }
        write!(f, " | {:.1} |", self.took.as_secs_f64())
    }
}

/// Looks for one bug where it has to show.
fn search<'a>(build: &Build, mutant: &'a Mutant, bound: Option<&'a str>) -> Row<'a> {
    let began = Instant::now();
    let (program, id) = ("exhaustive", mutant.id.as_str());
    let found = match bound {
        Some(bound) => {
            // The bound's end is the end of the search.
            let settings = [("BOUND", bound), ("STATES", "1000000000000")];
            let arguments = [SEARCH, "--exact", "--ignored", "--nocapture"];
            build.run(id, program, &arguments, &settings).and_then(|(_, said)| shown(&said, bound))
        }
        None => build.run(id, program, &[WALKS, "--exact"], &[]).and_then(|(succeeded, said)| {
            let noticed = !succeeded && said.contains("1 failed");
            if noticed { Ok(("-".to_owned(), "-".to_owned())) } else { Err("the walks are right".to_owned()) }
        }),
    };
    Row { id, bug: &mutant.bug, bound, found, took: began.elapsed() }
}

/// `| figure 8, quick | 7233 | after 19 steps: …`
fn shown(said: &str, bound: &str) -> Result<(String, String), String> {
    let head = format!("| {bound} | ");
    let row = said.lines().find_map(|line| line.split_once(&head));
    match row.and_then(|(_, rest)| rest.split_once(" | ")) {
        Some((states, way)) => {
            let steps = way.strip_prefix("after ").and_then(|way| way.split_once(" steps"));
            Ok((states.to_owned(), steps.map_or("-", |(steps, _)| steps).to_owned()))
        }
        None if said.contains("not found among") => Err("the bound was searched to its end".to_owned()),
        None => Err("no verdict, see its log".to_owned()),
    }
}

#[test]
fn the_exhaustive_check_has_a_verdict_on_every_bug_in_what_it_runs() {
    let (bounds, page) = (text("tests/exhaustive/bounds.rs"), text("docs/exhaustive.md"));
    let faults = Verdicts::read().faults(&load(), &bounds, &page);
    assert!(
        faults.is_empty(),
        "tests/exhaustive/mutants.toml, docs/exhaustive.md:\n  {}",
        faults.join("\n  ")
    );
}

#[test]
#[ignore = "builds the project with all mutants and searches for each: `make model MUTANTS=1`"]
fn every_bug_that_fits_a_bound_is_found_there() {
    let (all, verdicts) = (load(), Verdicts::read());
    let word = std::env::var("BOUND").unwrap_or_default();
    let ids = std::env::var("ONLY").unwrap_or_default();
    let ids = only(&ids, &all);
    let expected = verdicts.expected().into_iter().filter(|(id, bound)| {
        (ids.is_empty() || ids.contains(id)) && bound.unwrap_or("walks").contains(&word)
    });
    let expected: Vec<_> = expected.collect();
    assert!(!expected.is_empty(), "no bug has to be found in bounds with {word} in their name, or {ids:?}");
    let build = Build::of(&all, BTreeSet::from(["exhaustive".to_owned()]));
    find_nothing_without_a_bug(&build);
    println!("| id | bug | bound | states | shortest way | seconds |\n|---|---|---|---|---|---|");
    let rows = in_parallel(&expected, |(id, bound)| {
        let mutant = all.iter().find(|mutant| mutant.id == *id).expect("a bug of the table");
        let row = search(&build, mutant, *bound);
        eprintln!("{row}");
        row
    });
    rows.iter().for_each(|row| println!("{row}"));
    let missed: Vec<&str> = rows.iter().filter(|row| row.found.is_err()).map(|row| row.id).collect();
    assert!(missed.is_empty(), "{} of {} were not found: {}", missed.len(), rows.len(), missed.join(", "));
    println!("all {} found where they have to be", rows.len());
}

/// The tree is not the project: what is found in it may come of how it was made.
fn find_nothing_without_a_bug(build: &Build) {
    let arguments = [SEARCH, "--exact", "--ignored", "--nocapture"];
    let (_, said) = build.run("", "exhaustive", &arguments, &[("BOUND", "quick")]).expect("it ends");
    assert!(said.contains("not found among"), "without any bug, the search says: {said}");
    let (succeeded, said) = build.run("", "exhaustive", &[WALKS, "--exact"], &[]).expect("it ends");
    assert!(succeeded, "without any bug, the walks say: {said}");
}

mod samples {
    use super::*;

    fn mutant(id: &str, file: &str) -> Mutant {
        let text = format!(
            "id = '{id}'\nbug = 'a bug'\nkin = 'k'\n[[edit]]\nfile = '{file}'\noriginal = 'a'\nmutated = 'b'"
        );
        toml::from_str(&text).expect("a mutant")
    }

    #[test]
    fn verdicts_that_forget_repeat_or_invent_a_bug_are_refused() {
        let all = [
            mutant("A", "src/raft/log.rs"),
            mutant("B", "src/fencing/gate.rs"),
            mutant("C", "src/proxy/lead.rs"),
        ];
        let faults = |shown: &str, bound: &str, left: &str| {
            let text = format!(
                "walked = []\n[[shown]]\nbound = '{bound}'\nids = [{shown}]\n[[left]]\nwhy = 'so'\nids = [{left}]"
            );
            let page = "| A | a bug | one | 1 |\n| B | so |\n| B, B | so |\n| B, C | so |\n|  | so |";
            let verdicts: Verdicts = toml::from_str(&text).expect("verdicts");
            verdicts.faults(&all, "name: \"one\"", page).len()
        };
        assert_eq!(faults("'A'", "one", "'B'"), 0);
        assert_eq!(faults("'A'", "one", ""), 1, "B is forgotten");
        assert_eq!(faults("'A'", "one", "'B', 'B'"), 1, "B is named twice");
        assert_eq!(faults("'A'", "one", "'B', 'C'"), 1, "C is outside");
        assert_eq!(faults("'A'", "two", "'B'"), 2, "there is no such bound, and the page has another");
    }

    #[test]
    fn what_the_search_says_is_read() {
        let row = "test some_bound_shows_the_bug ... | v fence | 12 | after 3 steps: a | b\n";
        assert_eq!(shown(row, "v fence"), Ok(("12".to_owned(), "3".to_owned())));
        assert!(shown(row, "v fence, restart").is_err());
        assert!(shown("not found among 3 states of any bound", "v fence").is_err());
    }
}
