//! What the nodes of a cluster should have in common, written down for one that joins: timing that a lease
//! depends on, and the resources, which any node may have to serve one day.

use toml::{Table, Value};

use crate::config::node::NodeConfig;
use crate::proxy::route::Route;
use crate::time::Duration;

/// `[raft]` and `[[route]]`, as in a configuration.
pub fn settings(config: &NodeConfig) -> String {
    let raft = &config.raft;
    let election = [raft.election_timeout_min, raft.election_timeout_max].map(millis);
    let mut raft = Table::from_iter([
        ("heartbeat_interval_ms".to_owned(), millis(raft.heartbeat_interval)),
        ("election_timeout_ms".to_owned(), Value::Array(election.into())),
        ("clock_drift_ppm".to_owned(), Value::Integer(raft.clock_drift_ppm.into())),
        ("lease_margin_ms".to_owned(), millis(raft.lease_margin)),
        ("lease_reads".to_owned(), Value::Boolean(raft.lease_reads)),
    ]);
    let zone = config.preferred_zone.clone().map(Value::String);
    raft.extend(zone.map(|zone| ("preferred_zone".to_owned(), zone)));
    let mut root = Table::from_iter([("raft".to_owned(), Value::Table(raft))]);
    let routes: Vec<Value> = config.routes.iter().map(|route| Value::Table(written(route))).collect();
    if !routes.is_empty() {
        root.insert("route".to_owned(), Value::Array(routes));
    }
    root.to_string()
}

fn written(route: &Route) -> Table {
    let text = |text: &str| Value::String(text.to_owned());
    let Route { name, host, path_prefix, backend, fence, reads, hold_timeout } = route;
    let mut target = Table::from_iter([("path_prefix".to_owned(), text(path_prefix))]);
    target.extend(host.as_deref().map(|host| ("host".to_owned(), text(host))));
    Table::from_iter([
        ("name".to_owned(), text(name)),
        ("match".to_owned(), Value::Table(target)),
        ("backend".to_owned(), text(backend.to_string().trim_end_matches('/'))),
        ("fence".to_owned(), text(fence.name())),
        ("reads".to_owned(), text(reads.name())),
        ("hold_timeout_ms".to_owned(), millis(*hold_timeout)),
    ])
}

/// The configuration takes no time that is longer than an hour.
fn millis(duration: Duration) -> Value {
    Value::Integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}
