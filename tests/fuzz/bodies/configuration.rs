//! A configuration file and the environment over it.

use std::collections::BTreeSet;

use termgate::config::issue::Invalid;
use termgate::config::{parse_guard, parse_node};

/// Between the file and the variables, one `NAME=value` in a line.
const DIVIDER: &str = "\n---\n";

/// The bytes are text: a file, the divider, and variables.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, variables) = text.split_once(DIVIDER).unwrap_or((&text, ""));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables: Vec<(String, String)> = variables.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    match parse_node("node.toml", file, variables.clone()) {
        Err(invalid) => reasoned(&invalid),
        Ok(checked) => {
            let config = checked.config;
            assert_eq!(config.raft.problems(), Vec::<String>::new());
            assert!(checked.warnings.iter().all(|issue| issue.warning));
            let ids: BTreeSet<_> = config.members.iter().map(|member| member.id).collect();
            assert_eq!(ids.len(), config.members.len(), "a member stands twice");
            assert!(ids.contains(&config.id()) && config.members.is_sorted_by_key(|member| member.id));
            let names: BTreeSet<_> = config.routes.iter().map(|route| &route.name).collect();
            assert_eq!(names.len(), config.routes.len(), "a route stands twice");
            assert!(config.routes.iter().all(|route| route.path_prefix.starts_with('/')));
            assert!(config.token.is_some() || config.listen.api.ip().is_loopback(), "the API is open to all");
            let (shown, secret) = (config.summary().to_string(), format!("{:?}", config.token));
            assert!(!shown.contains("token") && secret.len() < 32, "a secret is shown: {secret}");
        }
    }
    match parse_guard("guard.toml", file, variables) {
        Err(invalid) => reasoned(&invalid),
        Ok(checked) => {
            let config = checked.config;
            assert!(
                config.tls.is_some() || config.listen.ip().is_loopback(),
                "anybody could raise the fence"
            );
            assert!(config.backend.authority().is_some());
        }
    }
}

/// A refusal says what is wrong, where, and in one line each.
fn reasoned(invalid: &Invalid) {
    assert!(invalid.0.iter().any(|issue| !issue.warning), "refused for nothing");
    for issue in &invalid.0 {
        assert!(!issue.origin.is_empty() && !issue.text.is_empty(), "{issue:?}");
    }
    assert!(!invalid.to_string().is_empty());
}
