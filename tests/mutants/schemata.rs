//! Rewrites a source file so that it holds all of its mutants, and the number that
//! `crate::mutants::active()` gives chooses between them:
//!
//! ```text
//! if request.last_log < core.last_log() {
//! if (match crate::mutants::active() { 1 => { false } _ => { request.last_log < core.last_log() } }) {
//! ```
//!
//! Pieces that lie inside each other become one `match` over the outermost.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::table::Edit;

/// A change to one file, and the number of its mutant.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Not 0, which stands for no mutant.
    pub number: usize,
    /// What is changed.
    pub edit: &'a Edit,
}

/// A change, and where it belongs.
type Placed<'a> = (Range<usize>, Change<'a>);

/// The one place outside of the unit tests where `snippet` stands in `text`; otherwise how many there are.
pub fn place(text: &str, snippet: &str) -> Result<Range<usize>, usize> {
    let production = text.find("#[cfg(test)]\nmod ").map_or(text, |tests| &text[..tests]);
    let words: Vec<&str> = snippet.split_whitespace().collect();
    let first = words.first().copied().unwrap_or("\0");
    let starts = production.match_indices(first).map(|(at, _)| at);
    let found: Vec<Range<usize>> = starts.filter_map(|at| reach(production, at, &words)).collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        other => Err(other.len()),
    }
}

/// How far `words` stand in `text` from `start` on, with white space between them.
fn reach(text: &str, start: usize, words: &[&str]) -> Option<Range<usize>> {
    let mut at = start;
    for (i, word) in words.iter().enumerate() {
        let rest = &text[at..];
        let word_at = if i == 0 { rest } else { rest.trim_start() };
        let space = rest.len() - word_at.len();
        if (i > 0 && space == 0) || !word_at.starts_with(word) {
            return None;
        }
        at += space + word.len();
    }
    Some(start..at)
}

/// `text` with all of `changes` in it.
pub fn rewrite(text: &str, changes: &[Change<'_>]) -> Result<String, String> {
    let mut placed = Vec::new();
    for change in changes {
        let found = place(text, &change.edit.original);
        let range = found.map_err(|count| format!("found {count} times: {}", change.edit.original))?;
        placed.push((range, *change));
    }
    // The outermost of those that begin together comes first.
    placed.sort_by_key(|(range, change)| (range.start, std::cmp::Reverse(range.end), change.number));
    let mut sites: Vec<(Range<usize>, Vec<Placed<'_>>)> = Vec::new();
    for (range, change) in placed {
        match sites.last_mut() {
            Some((site, inside)) if range.start < site.end => {
                if range.end > site.end {
                    return Err(format!("overlaps another: {}", change.edit.original));
                }
                inside.push((range, change));
            }
            _ => sites.push((range.clone(), vec![(range, change)])),
        }
    }
    let mut pieces = BTreeMap::new();
    for (site, changes) in &sites {
        pieces.insert(site.start, (site.end, choice(text, site, changes)?));
        if let Some(word) = constant(text, site.start) {
            pieces.insert(word.start, (word.end, String::new()));
        }
    }
    let mut out = text.to_owned();
    for (start, (end, piece)) in pieces.into_iter().rev() {
        out.replace_range(start..end, &piece);
    }
    Ok(out)
}

/// The `match` in place of `site`.
fn choice(text: &str, site: &Range<usize>, changes: &[Placed<'_>]) -> Result<String, String> {
    let original = &text[site.clone()];
    let mut numbers: Vec<usize> = changes.iter().map(|(_, change)| change.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut arms = String::new();
    for number in numbers {
        let mut mutated = original.to_owned();
        let mut end = site.end;
        let own = changes.iter().filter(|(_, change)| change.number == number);
        for (range, change) in own.rev() {
            if range.end > end {
                return Err(format!("changed twice by one mutant: {}", change.edit.original));
            }
            end = range.start;
            let inside = range.start - site.start..range.end - site.start;
            mutated.replace_range(inside, &change.edit.mutated);
        }
        arms += &format!("{number} => {{ {mutated} }} ");
    }
    let choice = format!("match crate::mutants::active() {{ {arms}_ => {{ {original} }} }}");
    let is_statement = original.ends_with([';', '}']);
    Ok(if is_statement { choice } else { format!("({choice})") })
}

/// The choice is made at run time, so the function around `at` is no longer `const`: where it says so.
fn constant(text: &str, at: usize) -> Option<Range<usize>> {
    let is_item = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.contains('{')).collect();
        let starts =
            |word: &&str| matches!(*word, "pub" | "const" | "async" | "fn") || word.starts_with("pub(");
        words.first().is_some_and(starts) && words.contains(&"fn")
    };
    let line = text[..at].lines().rfind(is_item)?;
    let start = line.as_ptr() as usize - text.as_ptr() as usize + line.find("const fn ")?;
    Some(start..start + "const ".len())
}
