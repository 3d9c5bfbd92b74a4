//! Settings from the environment: `TERMGATE_<SECTION>__<KEY>` overrides `[section] key`.
//!
//! Two underscores part the levels, so `TERMGATE_API__AUTH__TOKEN` is `[api.auth] token`; a number
//! picks one of a list, so `TERMGATE_ROUTE__0__BACKEND` is the backend of the first route, and one
//! past the end appends. A value is read as TOML (`[150, 300]`, `true`, `[{ id = 1, … }]`); where a
//! text is wanted, or TOML can't read it, it is taken literally. Variables without two underscores
//! (`TERMGATE_API`) are no settings.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Which variable set which key, and to what.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, (String, String)>);

impl Origins {
    /// The variable that set `key` or something around it.
    pub(super) fn variable(&self, key: &str) -> Option<&str> {
        let mut at = key;
        loop {
            if let Some((variable, _)) = self.0.get(at) {
                return Some(variable);
            }
            at = &at[..at.rfind(['.', '['])?];
        }
    }

    /// What the variable that set exactly `key` says, as it was written.
    pub(super) fn raw(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(_, raw)| raw.as_str())
    }
}

/// Lays the settings among `variables` over `table`. Returns which variable set which key; the second
/// part names those that don't fit into the table, with the reason.
pub(super) fn overlay(
    table: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
) -> (Origins, Vec<(String, String)>) {
    let mut origins = Origins::default();
    let mut misfits = Vec::new();
    let sorted: BTreeMap<String, String> = variables.into_iter().collect();
    for (variable, raw) in sorted {
        let Some(steps) = steps(&variable) else { continue };
        match place(table, &steps, literal(&raw)) {
            Ok(key) => {
                origins.0.insert(key, (variable, raw));
            }
            Err(reason) => misfits.push((variable, reason)),
        }
    }
    (origins, misfits)
}

fn steps(variable: &str) -> Option<Vec<String>> {
    let rest = variable.strip_prefix("TERMGATE_")?;
    rest.contains("__").then(|| rest.split("__").map(str::to_ascii_lowercase).collect())
}

fn literal(raw: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("v = {raw}")).ok();
    let only = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("v"));
    only.unwrap_or_else(|| Value::String(raw.to_owned()))
}

/// Puts `value` where the steps lead, making tables on the way, and names the place.
fn place(table: &mut Table, steps: &[String], value: Value) -> Result<String, String> {
    let [first, rest @ ..] = steps else { return Err("it names no key".into()) };
    if first.is_empty() || rest.is_empty() {
        return Err("write it as TERMGATE_<SECTION>__<KEY>".into());
    }
    let mut key = first.clone();
    let mut slot = table.entry(first.clone()).or_insert_with(|| empty_for(rest));
    for (at, step) in rest.iter().enumerate() {
        let after = &rest[at + 1..];
        slot = match slot {
            Value::Table(table) => {
                key = format!("{key}.{step}");
                table.entry(step.clone()).or_insert_with(|| empty_for(after))
            }
            Value::Array(list) => {
                let index: usize =
                    step.parse().map_err(|_| format!("{key} is a list; {step:?} is no number"))?;
                if index > list.len() {
                    return Err(format!("{key} has {} elements; the next is {}", list.len(), list.len()));
                }
                if index == list.len() {
                    list.push(empty_for(after));
                }
                key = format!("{key}[{index}]");
                &mut list[index]
            }
            _ => return Err(format!("{key} is a value and has no keys of its own")),
        };
    }
    *slot = value;
    Ok(key)
}

/// What has to be there for the steps that follow: a list when the next is a number.
fn empty_for(rest: &[String]) -> Value {
    match rest.first() {
        Some(step) if step.parse::<usize>().is_ok() => Value::Array(Vec::new()),
        _ => Value::Table(Table::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaid(text: &str, variables: &[(&str, &str)]) -> (Table, Origins, Vec<(String, String)>) {
        let mut table = toml::from_str(text).unwrap();
        let owned = variables.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let (origins, misfits) = overlay(&mut table, owned);
        (table, origins, misfits)
    }

    #[test]
    fn a_variable_overrides_and_adds() {
        let (table, origins, misfits) = overlaid(
            "[raft]\nheartbeat_interval_ms = 50\n[[route]]\nname = 'a'",
            &[
                ("TERMGATE_RAFT__HEARTBEAT_INTERVAL_MS", "20"),
                ("TERMGATE_RAFT__ELECTION_TIMEOUT_MS", "[100, 200]"),
                ("TERMGATE_ROUTE__0__NAME", "b"),
                ("TERMGATE_ROUTE__1__NAME", "c"),
                ("TERMGATE_API__AUTH__TOKEN", "secret"),
                ("TERMGATE_API", "http://elsewhere"),
                ("HOME", "/root"),
            ],
        );
        let expected: Table = toml::from_str(
            "raft = { heartbeat_interval_ms = 20, election_timeout_ms = [100, 200] }
             route = [{ name = 'b' }, { name = 'c' }]
             api = { auth = { token = 'secret' } }",
        )
        .unwrap();
        assert_eq!(table, expected);
        assert_eq!(misfits, []);
        assert_eq!(origins.variable("route[1].name"), Some("TERMGATE_ROUTE__1__NAME"));
        assert_eq!(origins.variable("route[1].backend"), None);
        assert_eq!(origins.raw("raft.heartbeat_interval_ms"), Some("20"));
    }

    #[test]
    fn a_variable_that_sets_a_whole_list_is_named_for_its_parts() {
        let (_, origins, _) = overlaid("", &[("TERMGATE_CLUSTER__MEMBERS", "[{ id = 1 }]")]);
        assert_eq!(origins.variable("cluster.members[0].id"), Some("TERMGATE_CLUSTER__MEMBERS"));
    }

    #[test]
    fn a_variable_that_does_not_fit_is_reported() {
        let variables = [
            ("TERMGATE_NODE__ID__MORE", "1"),
            ("TERMGATE_ROUTE__7__NAME", "x"),
            ("TERMGATE_ROUTE__X__NAME", "x"),
            ("TERMGATE___ID", "1"),
        ];
        let (_, _, misfits) = overlaid("[node]\nid = 1\n[[route]]\nname = 'a'", &variables);
        assert_eq!(misfits.len(), variables.len(), "{misfits:?}");
    }
}
