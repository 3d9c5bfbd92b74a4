use super::*;
use crate::api::auth::Token;
use crate::certs;
use crate::fencing::mode::{Consistency, FenceMode};
use crate::ids::NodeId;
use crate::time::Duration;
use crate::transport::credentials::Credentials;
use crate::transport::identity::Subject;

const NODE: &str = include_str!("../../docs/node.toml");
const GUARD: &str = include_str!("../../docs/guard.toml");

fn node(text: &str, variables: &[(&str, &str)]) -> Result<Checked<NodeConfig>, Invalid> {
    parse_node("node.toml", text, variables.iter().map(|(k, v)| (k.to_string(), v.to_string())))
}

/// The keys that are complained about, and all complaints for the failure message.
fn complaints(text: &str, variables: &[(&str, &str)]) -> (Vec<String>, String) {
    let issues = node(text, variables).expect_err("the configuration is wrong").0;
    (issues.iter().map(|issue| issue.key.clone()).collect(), issue::lines(&issues))
}

fn replaced(from: &str, to: &str) -> String {
    assert!(NODE.contains(from), "the reference file has no {from:?}");
    NODE.replacen(from, to, 1)
}

#[test]
fn a_profile_sets_the_timing_and_single_keys_stand_above_it() {
    let with = |lines: &str| replaced("[raft]\n", &format!("[raft]\n{lines}\n"));
    let bare = with("profile = \"wan\"\npreferred_zone = \"eu-1\"");
    let timing = ["heartbeat_interval_ms", "election_timeout_ms", "lease_margin_ms"];
    let is_timing = |line: &&str| timing.iter().any(|key| line.starts_with(key));
    let bare: Vec<&str> = bare.lines().filter(|line| !is_timing(line)).collect();
    let bare = bare.join("\n");
    let config = node(&bare, &[]).unwrap().config;
    assert_eq!(config.raft, crate::raft::config::Config::wan(NodeId(1)));
    assert_eq!(config.preferred_zone.as_deref(), Some("eu-1"));
    let nowhere = node(&with("preferred_zone = \"eu-2\""), &[]).unwrap().warnings;
    let text = issue::lines(&nowhere);
    assert!(
        text.starts_with("warning: node.toml: raft.preferred_zone: no member is in zone \"eu-2\""),
        "{text}"
    );
    let faster = node(&with("profile = \"wan\""), &[]).unwrap().config.raft;
    assert_eq!(faster.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(complaints(&with("profile = \"moon\""), &[]).0, ["raft.profile"]);
}

#[test]
fn the_reference_file_of_a_node_is_right() {
    let Checked { config, warnings } = node(NODE, &[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.id(), config.cluster.as_str()), (NodeId(1), "orders"));
    assert_eq!(config.zone.as_deref(), Some("eu-1"));
    let zones: Vec<_> = config.members.iter().map(|m| m.zone.as_deref()).collect();
    assert_eq!(zones, [Some("eu-1"), Some("eu-1"), Some("us-1")]);
    assert_eq!(config.members[1].hop, "10.0.0.2:8080", "the hop is the proxy's address unless set");
    assert_eq!(config.listen.hop, config.listen.proxy);
    assert_eq!(config.raft, crate::raft::config::Config::new(NodeId(1)), "it shows the defaults");
    let [route] = config.routes.as_slice() else { panic!("one route") };
    assert_eq!((route.fence, route.reads), (FenceMode::Enforced, Consistency::Linearizable));
    assert_eq!(route.hold_timeout, Duration::from_secs(5));
    assert_eq!(config.token, None);
}

#[test]
fn the_reference_file_of_a_guard_is_right() {
    let Checked { config, warnings } = parse_guard("guard.toml", GUARD, []).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.resource.as_str(), config.mode), ("orders", FenceMode::Enforced));
    assert_eq!(config.raise_timeout, Duration::from_secs(2));
    let drain = GUARD.replace("mode = \"enforced\"", "mode = \"drain\"");
    let issues = parse_guard("guard.toml", &drain, []).unwrap_err().0;
    assert_eq!(issues[0].to_string(), "error: guard.toml: guard.mode: must be enforced or implicit");
}

#[test]
fn an_empty_file_is_told_everything_that_is_missing_at_once() {
    let (keys, all) = complaints("", &[]);
    let expected =
        ["node.id", "node.data_dir", "cluster.name", "cluster.members", "tls.ca", "tls.cert", "tls.key"];
    assert_eq!(keys, expected, "{all}");
}

#[test]
fn several_mistakes_are_reported_together_each_with_its_key() {
    let text = "
        [node]
        id = 0
        data_dir = 7
        [cluster]
        name = 'two words'
        [[cluster.members]]
        id = 1
        peer = 'no port'
        proxy = 'a:8080'
        api = 'a:9090'
        [raft]
        election_timeout_ms = [300]
        [tls]
        ca = 'a'
        cert = 'b'
        key = 'c'
        [[route]]
        name = 'x'
        match = { path_prefix = 'x' }
        backend = 'ftp://a'
        fence = 'strong'
    ";
    let (keys, all) = complaints(text, &[]);
    let expected = [
        "node.id",
        "node.data_dir",
        "cluster.name",
        "cluster.members[0].peer",
        "raft.election_timeout_ms",
        "route[0].match.path_prefix",
        "route[0].backend",
        "route[0].fence",
    ];
    assert_eq!(keys, expected, "{all}");
}

#[test]
fn an_unknown_key_gets_a_suggestion() {
    let (keys, all) = complaints(&replaced("heartbeat_interval_ms", "hartbeat_interval_ms"), &[]);
    assert_eq!(keys, ["raft.hartbeat_interval_ms"]);
    assert!(all.ends_with("unknown key; did you mean heartbeat_interval_ms?"), "{all}");
    let (keys, all) = complaints(&replaced("[raft]", "[rafd]"), &[]);
    assert_eq!(keys, ["rafd"]);
    assert!(all.ends_with("did you mean raft?"), "{all}");
    let (keys, _) = complaints(&replaced("id = 2", "id = 2\ncolour = 'red'"), &[]);
    assert_eq!(keys, ["cluster.members[1].colour"]);
}

#[test]
fn the_environment_wins_and_is_named_in_errors() {
    let set = [("TERMGATE_RAFT__HEARTBEAT_INTERVAL_MS", "20"), ("TERMGATE_NODE__ZONE", "eu-1")];
    let config = node(NODE, &set).unwrap().config;
    assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(20));
    let (_, all) = complaints(NODE, &[("TERMGATE_RAFT__LEASE_READS", "maybe")]);
    assert_eq!(all, "error: TERMGATE_RAFT__LEASE_READS: raft.lease_reads: must be true or false");
    let (_, all) = complaints(NODE, &[("TERMGATE_RAFT__LEASE_READ", "true")]);
    assert!(all.starts_with("error: TERMGATE_RAFT__LEASE_READ: raft.lease_read: unknown key"), "{all}");
}

#[test]
fn a_text_may_look_like_a_number_in_the_environment() {
    let config = node(NODE, &[("TERMGATE_API__AUTH__TOKEN", "1234567890123456")]).unwrap().config;
    assert_eq!(config.token, Some(Token::new("1234567890123456")));
}

#[test]
fn a_node_can_be_configured_by_the_environment_alone() {
    let member = "{ id = 1, peer = 'a:1', proxy = 'a:2', api = 'a:3' }";
    let members = format!("[{member}]");
    let set = [
        ("TERMGATE_NODE__ID", "1"),
        ("TERMGATE_NODE__DATA_DIR", "data"),
        ("TERMGATE_CLUSTER__NAME", "orders"),
        ("TERMGATE_CLUSTER__MEMBERS", members.as_str()),
        ("TERMGATE_TLS__CA", "ca.pem"),
        ("TERMGATE_TLS__CERT", "node.pem"),
        ("TERMGATE_TLS__KEY", "node.key"),
    ];
    let config = node("", &set).unwrap().config;
    let listen = [config.listen.peer, config.listen.proxy, config.listen.hop, config.listen.api];
    assert_eq!(listen.map(|a| a.to_string()), ["0.0.0.0:1", "0.0.0.0:2", "0.0.0.0:2", "127.0.0.1:3"]);
}

#[test]
fn an_open_api_needs_a_token() {
    let open = replaced("api = \"127.0.0.1:9090\"", "api = \"0.0.0.0:9090\"");
    let (keys, all) = complaints(&open, &[]);
    assert_eq!(keys, ["listen.api"], "{all}");
    assert!(node(&open, &[("TERMGATE_API__AUTH__TOKEN", "a token that is long")]).is_ok());
    assert!(node(&open, &[("TERMGATE_API__AUTH__TOKEN_FILE", "/run/token")]).is_ok());
    let (keys, _) = complaints(&open, &[("TERMGATE_API__AUTH__TOKEN", " ")]);
    assert_eq!(keys, ["api.auth.token"]);
    let (keys, _) = complaints(&replaced("# [api.auth]", "[api.auth]"), &[]);
    assert_eq!(keys, ["api.auth.token"]);
}

#[test]
fn members_are_checked_together() {
    let (keys, all) = complaints(&replaced("id = 2", "id = 3"), &[]);
    assert_eq!(keys, ["cluster.members"], "{all}");
    let (keys, all) = complaints(&replaced("id = 1  ", "id = 9  "), &[]);
    assert_eq!(keys, ["node.id"], "{all}");
    let (keys, all) = complaints(&replaced("peer = \"10.0.0.2:7100\"", "peer = \"10.0.0.3:7100\""), &[]);
    assert_eq!(keys, ["cluster.members"], "{all}");
}

#[test]
fn an_even_or_large_cluster_is_warned_about_and_allowed() {
    for (ids, warned) in [(1..=1, 0), (1..=2, 1), (1..=3, 0), (1..=4, 1), (1..=7, 0), (1..=8, 1), (1..=9, 1)]
    {
        let members: Vec<String> = ids
            .map(|i| format!("{{ id = {i}, peer = 'n{i}:1', proxy = 'n{i}:2', api = 'n{i}:3' }}"))
            .collect();
        let start = NODE.find("# The initial members").unwrap();
        let end = NODE.find("[listen]").unwrap();
        let text = format!("{}members = [{}]\n{}", &NODE[..start], members.join(","), &NODE[end..]);
        let warnings = node(&text, &[]).unwrap_or_else(|e| panic!("{e}")).warnings;
        assert_eq!(warnings.len(), warned, "{} members: {warnings:?}", members.len());
    }
}

#[test]
fn a_route_that_wants_lease_reads_where_they_are_off_is_warned_about() {
    let lease = replaced("reads = \"linearizable\"", "reads = \"lease\"");
    assert_eq!(node(&lease, &[]).unwrap().warnings, []);
    let off = [("TERMGATE_RAFT__LEASE_READS", "false")];
    assert_eq!(node(NODE, &off).unwrap().warnings, []);
    let warnings = node(&lease, &off).unwrap().warnings;
    assert_eq!(
        issue::lines(&warnings),
        "warning: node.toml: route[0].reads: lease reads are off, so a quorum confirms each read; \
         set raft.lease_reads = true, or reads = \"linearizable\" here"
    );
}

#[test]
fn timing_that_breaks_the_lease_is_refused() {
    let (keys, all) = complaints(&replaced("= [150, 300]", "= [60, 300]"), &[]);
    assert_eq!(keys, ["raft"], "{all}");
    let (keys, _) = complaints(&replaced("= [150, 300]", "= [300, 150]"), &[]);
    assert_eq!(keys, ["raft"]);
}

#[test]
fn backends_are_hosts_without_a_path() {
    let backend = |uri: &str| node(&replaced("https://10.0.0.20:8443", uri), &[]).is_ok();
    for good in ["http://a", "https://a.example:443", "http://[::1]:80", "http://a:80/"] {
        assert!(backend(good), "{good}");
    }
    for bad in ["a:80", "http://", "http://u@a", "http://a/x", "http://a?q", "http://a:0", "tcp://a", "/"] {
        assert!(!backend(bad), "{bad}");
    }
}

#[test]
fn routes_must_not_shadow_each_other() {
    let second = "[[route]]\nname = 'orders'\nmatch = { path_prefix = '/' }\n\
                  backend = 'http://b'\nfence = 'drain'\n";
    let (keys, all) = complaints(&format!("{NODE}\n{second}"), &[]);
    assert_eq!(keys, ["route[1].fence", "route", "route"], "{all}");
    let other = second.replace("'orders'", "'others'").replace("path_prefix = '/'", "host = 'B.example'");
    let config = node(&format!("{NODE}\n{other}"), &[]).unwrap().config;
    assert_eq!(config.routes[1].host.as_deref(), Some("b.example"));
    assert_eq!(config.routes[1].path_prefix, "/");
}

#[test]
fn a_syntax_error_names_the_line() {
    let (_, all) = complaints("[node]\nid = = 1\n", &[]);
    assert!(all.contains("line 2"), "{all}");
}

/// A directory with the certificates of two clusters and a place for a configuration.
struct Desk(tempfile::TempDir);

impl Desk {
    /// `orders/` and `others/`, each with an authority, nodes 1 and 2 and the guard `orders`.
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for cluster in ["orders", "others"] {
            let dir = desk.0.path().join(cluster);
            certs::init(cluster, &dir).unwrap();
            for subject in [1, 2].map(|id| Subject::Node(NodeId(id))) {
                certs::issue(&dir, &subject, &dir, &[]).unwrap();
            }
            certs::issue(&dir, &Subject::Guard("orders".into()), &dir, &[]).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a configuration, with each of `changes` made in it and `certs/` leading to `orders/`.
    fn write(&self, text: &str, changes: &[(&str, &str)]) -> PathBuf {
        let mut text = text.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "the reference file has no {from:?}");
            text = text.replacen(from, to, 1);
        }
        let dir = |name: &str| format!("\"{}/", self.path(name).display());
        for (from, to) in [("\"certs/", "orders"), ("\"others/", "others")] {
            text = text.replace(from, &dir(to));
        }
        let file = self.path("termgate.toml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// The keys that are complained about, and the complaints.
fn refused<T: std::fmt::Debug>(loaded: Result<Checked<T>, Invalid>) -> (Vec<String>, String) {
    let issues = loaded.expect_err("the configuration is wrong").0;
    (issues.iter().map(|issue| issue.key.clone()).collect(), issue::lines(&issues))
}

#[test]
fn loading_looks_at_the_files_it_names() {
    let desk = Desk::new();
    assert!(matches!(load_any(&desk.write(NODE, &[])).unwrap().config, AnyConfig::Node(_)));
    let guard = desk.write(GUARD, &[]);
    assert!(matches!(load_any(&guard).unwrap().config, AnyConfig::Guard(_)));
    for name in ["ca.pem", "node-1.pem", "node-1.key"] {
        std::fs::remove_file(desk.path("orders").join(name)).unwrap();
    }
    let (keys, all) = refused(load_node(&desk.write(NODE, &[])));
    assert_eq!(keys, ["tls.ca", "tls.cert", "tls.key"], "{all}");
    assert!(all.contains("No such file"), "{all}");
    assert_eq!(refused(load_node(&desk.path("none.toml"))).0, [""]);
}

#[test]
fn the_text_the_token_and_the_certificates_are_complained_about_together() {
    let desk = Desk::new();
    std::fs::write(desk.path("orders/node-1.key"), "no key").unwrap();
    std::fs::remove_file(desk.path("orders/ca.pem")).unwrap();
    let auth = "[api.auth]\ntoken_file = \"/nowhere/token\"\n[tls] ";
    let changes = [
        ("data_dir", "dta_dir"),
        ("hop = \"10.0.0.1:8080\" ", "hop = \"no port\""),
        ("[tls] ", auth),
        ("node-1.pem", "node-2.pem"),
        ("fence = \"enforced\"", "fence = \"strong\""),
    ];
    let (keys, all) = refused(load_node(&desk.write(NODE, &changes)));
    let expected = [
        "node.data_dir",
        "node.dta_dir",
        "cluster.members[0].hop",
        "api.auth.token_file",
        "tls.ca",
        "tls.key",
        "tls.cert",
        "route[0].fence",
    ];
    assert_eq!(keys, expected, "{all}");
    let changes = [("mode = \"enforced\"", "mode = \"drain\""), ("ca.pem", "none.pem")];
    let (keys, all) = refused(load_guard(&desk.write(GUARD, &changes)));
    assert_eq!(keys, ["guard.mode", "tls.ca"], "{all}");
}

#[test]
fn each_mistake_in_the_certificates_is_named_with_its_key_and_mend() {
    let desk = Desk::new();
    let complaints = |changes: &[(&str, &str)]| {
        let (keys, all) = refused(load_node(&desk.write(NODE, changes)));
        (keys.join(" "), all)
    };
    let (keys, all) = complaints(&[("node-1.pem", "node-2.pem"), ("node-1.key", "node-2.key")]);
    assert_eq!(keys, "tls.cert", "{all}");
    assert!(
        all.contains("names spiffe://orders/node/2 and the configuration spiffe://orders/node/1"),
        "{all}"
    );
    let (keys, all) = complaints(&[("node-1.key", "node-2.key")]);
    assert_eq!(keys, "tls.key", "{all}");
    assert!(
        all.contains("is not the key of") && all.contains("from the same `termgate certs issue`"),
        "{all}"
    );
    let others = [("certs/node-1.pem", "others/node-1.pem"), ("certs/node-1.key", "others/node-1.key")];
    let (keys, all) = complaints(&others);
    assert_eq!(keys, "tls.cert tls.cert", "of another authority, and of another cluster: {all}");
    let (keys, all) = complaints(&[("certs/node-1.pem", "others/node-1.pem")]);
    assert_eq!(keys, "tls.cert tls.key tls.cert", "{all}");
    for (name, key) in [("ca.pem", "tls.ca"), ("node-1.pem", "tls.cert"), ("node-1.key", "tls.key")] {
        for text in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let desk = Desk::new();
            std::fs::write(desk.path("orders").join(name), text).unwrap();
            let (keys, all) = refused(load_node(&desk.write(NODE, &[])));
            assert_eq!(keys, [key], "{all}");
        }
    }
}

#[test]
fn what_a_start_would_say_of_the_certificates_is_among_the_complaints() {
    let desk = Desk::new();
    std::fs::write(desk.path("orders/none.pem"), "").unwrap();
    let names = ["none.pem", "ca.pem", "node-1.pem", "node-2.key", "missing"];
    for (cert, key) in names.iter().flat_map(|cert| names.map(|key| (*cert, key))) {
        let file = desk.write(NODE, &[("node-1.pem", cert), ("node-1.key", key)]);
        let path = |name| desk.path("orders").join(name);
        let start = Credentials::load(&path("ca.pem"), &path(cert), &path(key)).expect_err("they don't fit");
        let (_, all) = refused(load_node(&file));
        let cause = start.to_string();
        // A file that is not there is told in words of the configuration.
        let cause =
            cause.strip_prefix("cannot read ").and_then(|c| c.split_once(';')).map_or(&*cause, |c| c.0);
        assert!(all.contains(cause), "{cert} {key}: {cause}\n{all}");
    }
}

#[test]
fn a_guard_of_another_cluster_is_refused() {
    let desk = Desk::new();
    let others = [
        ("certs/ca.pem", "others/ca.pem"),
        ("certs/guard-orders.pem", "others/guard-orders.pem"),
        ("certs/guard-orders.key", "others/guard-orders.key"),
    ];
    let (keys, all) = refused(load_guard(&desk.write(GUARD, &others)));
    assert_eq!(keys, ["tls.cert"], "{all}");
    assert!(all.contains("spiffe://others/guard/orders, of another cluster; compare"), "{all}");
}

#[test]
fn a_token_in_a_file_is_judged_like_any_other() {
    let desk = Desk::new();
    let token = desk.path("token");
    let auth = format!("[api.auth]\ntoken_file = \"{}\"\n[tls] ", token.display());
    let load = |text: &str| {
        std::fs::write(&token, text).unwrap();
        load_node(&desk.write(NODE, &[("[tls] ", &auth)]))
    };
    let loaded = load("a token that is long\n").unwrap();
    assert_eq!((loaded.config.token, loaded.warnings), (Some(Token::new("a token that is long")), vec![]));
    let warnings = load("short").unwrap().warnings;
    assert_eq!((warnings.len(), warnings[0].key.as_str()), (1, "api.auth.token_file"));
    assert_eq!(refused(load(" \n")).0, ["api.auth.token_file"]);
}

#[test]
fn the_summary_shows_no_secret() {
    let secret = "sesame sesame sesame";
    let config = node(NODE, &[("TERMGATE_API__AUTH__TOKEN", secret)]).unwrap().config;
    assert!(!config.summary().to_string().contains("sesame"));
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn a_guard_needs_certificates_only_beyond_loopback() {
    let text = |listen: &str| {
        format!(
            "[guard]\nlisten = \"{listen}\"\nbackend = \"http://127.0.0.1:8000\"\nresource = \"orders\"\n\
             data_dir = \"d\"\ncluster = \"orders\"\n"
        )
    };
    let local = parse_guard("g", &text("127.0.0.1:7190"), []).expect("loopback needs none");
    assert_eq!(local.config.tls, None);
    let exposed = parse_guard("g", &text("0.0.0.0:7190"), []).expect_err("anybody could raise the fence");
    assert!(exposed.to_string().contains("tls.ca"), "{exposed}");
}

#[test]
fn what_a_joining_node_is_told_of_a_configuration_says_the_same() {
    let set = [
        ("TERMGATE_RAFT__ELECTION_TIMEOUT_MS", "[200, 500]"),
        ("TERMGATE_RAFT__LEASE_READS", "false"),
        ("TERMGATE_RAFT__PREFERRED_ZONE", "eu-1"),
        ("TERMGATE_ROUTE__0__MATCH__HOST", "a.example"),
        ("TERMGATE_ROUTE__0__READS", "stale"),
        ("TERMGATE_ROUTE__1", "{ name = 'b', match = {}, backend = 'https://[::1]:9', fence = 'drain' }"),
    ];
    let told = node(NODE, &set).unwrap().config;
    let start = NODE.find("[raft]").unwrap();
    let text = format!("{}{}", &NODE[..start], shared::settings(&told));
    let heard = node(&text, &[]).unwrap().config;
    assert_eq!((&heard.raft, heard.routes.len()), (&told.raft, 2));
    assert_eq!((&heard.routes, &heard.preferred_zone), (&told.routes, &told.preferred_zone));
    let bare = NodeConfig { routes: Vec::new(), ..told };
    assert!(!shared::settings(&bare).contains("route"), "no resources, no section");
}

#[test]
fn a_node_that_joins_need_not_know_the_members() {
    let start = NODE.find("# The initial members").unwrap();
    let end = NODE.find("[listen]").unwrap();
    let joining = |members: &str| format!("{}join = true\n{members}{}", &NODE[..start], &NODE[end..]);
    let config = node(&joining(""), &[]).unwrap().config;
    assert_eq!((config.join, config.members.len()), (true, 0));
    let others = "members = [{ id = 2, peer = 'b:1', proxy = 'b:2', api = 'b:3' }]\n";
    let Checked { config, warnings } = node(&joining(others), &[]).unwrap();
    assert_eq!((config.members.len(), warnings), (1, vec![]), "how many there are is not decided here");
    assert!(!node(NODE, &[]).unwrap().config.join);
    let listen = joining("").replace("peer = \"0.0.0.0:7100\"\n", "");
    let (keys, all) = complaints(&listen, &[]);
    assert_eq!(keys, ["listen.peer"], "{all}");
    let (keys, all) = complaints(&replaced("id = 1  ", "id = 9  "), &[("TERMGATE_CLUSTER__JOIN", "false")]);
    assert_eq!(keys, ["node.id"], "{all}");
}

#[test]
fn the_authoritys_key_is_looked_at_and_only_nodes_have_it() {
    let desk = Desk::new();
    let with = |ca_key: &str| {
        [("key = \"certs/node-1.key\"", format!("key = \"certs/node-1.key\"\nca_key = \"{ca_key}\""))]
    };
    let load = |ca_key: &str| {
        let changes = with(ca_key);
        load_node(&desk.write(NODE, &[(changes[0].0, &changes[0].1)]))
    };
    let config = load("certs/ca.key").unwrap().config;
    assert_eq!(config.tls.ca_key, Some(desk.path("orders/ca.key")));
    for wrong in ["others/ca.key", "certs/node-1.key", "certs/none.key", "certs/ca.pem"] {
        let (keys, all) = refused(load(wrong));
        assert_eq!(keys, ["tls.ca_key"], "{all}");
    }
    let key = "key = \"certs/guard-orders.key\"";
    let guard = [(key, &*format!("{key}\nca_key = \"certs/ca.key\""))];
    assert_eq!(refused(load_guard(&desk.write(GUARD, &guard))).0, ["tls.ca_key"]);
}
