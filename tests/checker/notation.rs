//! Reads histories as `lin::history` writes them, one operation in a line. Anything else in a line is an error
//! of the fixture.

use crate::lin::history::{
    Change, Condition, Found, Freshness, Get, List, Listing, Op, Place, Sight, Told, What, Write,
};

/// The history in `text`; empty lines are passed over.
pub fn history(text: &str) -> Vec<Op> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| operation(line).unwrap_or_else(|| panic!("not an operation: {line}"))).collect()
}

fn operation(line: &str) -> Option<Op> {
    let (asked, told) = line.split_once(" -> ")?;
    let words: Vec<&str> = asked.split(' ').collect();
    let [client, times, verb, subject, rest @ ..] = words.as_slice() else { return None };
    let (called, returned) = times.split_once("..")?;
    let what = match *verb {
        "put" => {
            let (value, condition) = rest.split_first()?;
            What::Write(write(subject, Change::Put(value.parse().ok()?), condition, told)?)
        }
        "delete" => What::Write(write(subject, Change::Delete, rest, told)?),
        "get" => What::Get(Get {
            key: (*subject).to_owned(),
            freshness: freshness(rest)?,
            told: answer(told, sight)?,
        }),
        "list" => What::List(List {
            prefix: (*subject).to_owned(),
            freshness: freshness(rest)?,
            told: answer(told, listing)?,
        }),
        _ => return None,
    };
    Some(Op {
        client: client.strip_prefix('c')?.parse().ok()?,
        called: called.parse().ok()?,
        returned: returned.parse().ok()?,
        what,
    })
}

fn write(key: &str, change: Change, rest: &[&str], told: &str) -> Option<Write> {
    let condition = match rest {
        [] => Condition::None,
        ["if", "exists"] => Condition::Exists,
        ["if", "absent"] => Condition::Absent,
        ["if", word] => Condition::VersionIs(version(word)?),
        ["if", "not", word] => Condition::VersionIsNot(version(word)?),
        _ => return None,
    };
    let words: Vec<&str> = told.split(' ').collect();
    let told = match words.as_slice() {
        ["done", word] => Told::Done(place(word)?),
        ["held", "absent", word] => Told::Held { current: None, place: place(word)? },
        ["held", current, word] => Told::Held { current: Some(version(current)?), place: place(word)? },
        ["refused"] => Told::Refused,
        ["unknown"] => Told::Unknown,
        _ => return None,
    };
    Some(Write { key: key.to_owned(), change, condition, told })
}

fn freshness(rest: &[&str]) -> Option<Freshness> {
    match rest {
        [] => Some(Freshness::Linearizable),
        ["lease"] => Some(Freshness::Lease),
        ["stale"] => Some(Freshness::Stale { min_index: 0 }),
        ["stale", "from", index] => Some(Freshness::Stale { min_index: index.parse().ok()? }),
        _ => None,
    }
}

/// `Some(None)` for an answer that never came.
fn answer<T>(told: &str, read: fn(&str) -> Option<T>) -> Option<Option<T>> {
    if told == "unknown" { Some(None) } else { read(told).map(Some) }
}

fn sight(told: &str) -> Option<Sight> {
    let (found, at) = told.split_once(' ')?;
    let place = place(at)?;
    if found == "absent" {
        return Some(Sight { found: None, place });
    }
    let (said, value) = found.split_once('=')?;
    Some(Sight { found: Some(Found { version: version(said)?, value: value.parse().ok()? }), place })
}

fn listing(told: &str) -> Option<Listing> {
    let words: Vec<&str> = told.split(' ').collect();
    let (at, keys) = words.split_last()?;
    let key = |word: &&str| {
        let (key, said) = word.split_once(':')?;
        Some((key.to_owned(), version(said)?))
    };
    Some(Listing { keys: keys.iter().map(key).collect::<Option<_>>()?, place: place(at)? })
}

fn version(word: &str) -> Option<u64> {
    word.strip_prefix('v')?.parse().ok()
}

fn place(word: &str) -> Option<Place> {
    let (index, term) = word.split_once('@')?;
    Some(Place { index: index.parse().ok()?, term: term.parse().ok()? })
}

#[test]
fn a_history_is_read_as_it_is_written() {
    let text = "\
c1 0..10 put a 7 -> done 5@1
c1 0..10 put a 7 if v3 -> held v4 5@1
c1 0..10 put a 7 if not v3 -> held absent 5@1
c1 0..10 put a 7 if exists -> refused
c2 5..9 delete a if absent -> unknown
c3 12..14 get a -> v5=7 6@1
c3 12..14 get a lease -> absent 6@1
c3 12..14 get a stale -> unknown
c3 12..14 get a stale from 5 -> v5=7 6@1
c4 15..18 list r/ -> r/a:v5 r/b:v6 8@1
c4 15..18 list r/ lease -> 8@1
c4 15..18 list r/ stale -> unknown";
    let written: Vec<String> = history(text).iter().map(ToString::to_string).collect();
    assert_eq!(written.join("\n"), text);
}
