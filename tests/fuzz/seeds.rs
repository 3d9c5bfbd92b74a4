//! Where mutation begins: what each target reads, as honest parties write it. Made by the product's own encoders,
//! so that they stay sound when a format changes.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, SanType};

use crate::bodies::{registry_command, snapshot_chunk};
use crate::dice::Dice;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "peer_frame" => vectors("raft-", &[0, 2, 200]),
        "hop_frame" => hop(),
        "snapshot_chunk" => contents(),
        "storage_open" => with_random(
            &[b"\x04termgate-fence 1\n{\"resource\":\"orders\",\"term\":42,\"raised_by\":1}\n7e5e6b0b\n"],
            5,
        ),
        "configuration" => configurations(),
        "structured_fields" => texts(FIELDS),
        "http_request" => texts(REQUESTS),
        "certificate_identity" => {
            texts(&["spiffe://orders/node/3", "spiffe://orders/guard/pg-1", "spiffe://a/client/b.c"])
        }
        "core_schedule" => memberships(),
        _ => with_random(&[], 24),
    }
}

/// Schedules in which the membership changes: some quiet time, a wish at every node (one of them leads), time again.
fn memberships() -> Vec<Vec<u8>> {
    const CLOCKS_AND_LIMITS: [u8; 7] = [0; 7];
    let [promote, demote, remove, replace, add] = [0, 1, 2, 3, 5];
    const QUIET: [u8; 3] = [255, 7, 23];
    let wish = |one: u8, other: u8, kind: u8| (0..3).flat_map(move |at| [215, at, one, other, kind]);
    let schedule = |wishes: &[(u8, u8, u8)]| {
        let mut bytes = CLOCKS_AND_LIMITS.to_vec();
        bytes.extend(QUIET.repeat(3));
        for (one, other, kind) in wishes {
            bytes.extend(wish(*one, *other, *kind));
            bytes.extend(QUIET);
            bytes.extend([165, 0, 165, 1, 165, 2]);
            bytes.extend(QUIET);
        }
        bytes
    };
    let seeds = [
        schedule(&[(0, 0, demote), (0, 0, promote), (1, 1, demote), (1, 1, promote)]),
        schedule(&[(2, 2, remove), (2, 2, add), (2, 2, promote), (0, 0, remove), (0, 0, add)]),
        schedule(&[(1, 1, remove), (1, 1, add), (1, 2, replace), (2, 2, add), (2, 0, replace)]),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    with_random(&seeds, 24)
}

/// Certificates of every kind, and of kinds that are none. Their keys are drawn, so they are written for libFuzzer and
/// kept in the corpus, and are no seeds of the fixed mutations.
pub fn certificates() -> Vec<Vec<u8>> {
    let names = |names: &[&str]| -> Vec<SanType> {
        let name = |text: &&str| match text.strip_prefix("dns:") {
            Some(host) => SanType::DnsName(host.try_into().expect("a host")),
            None => SanType::URI((*text).try_into().expect("a URI")),
        };
        names.iter().map(name).collect()
    };
    let node = "spiffe://orders/node/1";
    let all: [&[&str]; 8] = [
        &[node],
        &["spiffe://orders/guard/pg"],
        &["spiffe://orders/client/batch"],
        &["spiffe://orders"],
        &[node, "spiffe://orders/node/2"],
        &[],
        &["dns:node-1.example", node],
        &["https://orders/node/1"],
    ];
    let made = all.iter().map(|list| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names(list);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    });
    made.collect()
}

/// The kept vectors of the specification, one stream each and all in one, cut in these ways.
fn vectors(prefix: &str, cuts: &[u8]) -> Vec<Vec<u8>> {
    let streams = named_vectors(prefix).into_iter().map(|(_, bytes)| bytes);
    let mut streams: Vec<Vec<u8>> = streams.collect();
    streams.push(streams.concat());
    cuts.iter().flat_map(|cut| streams.iter().map(|stream| [&[*cut], stream.as_slice()].concat())).collect()
}

fn named_vectors(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("proto-spec/vectors")).expect("the vectors") {
        let path = entry.expect("a vector").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a vector");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hex");
        found.push((name, digits.chunks(2).map(byte).collect()));
    }
    found.retain(|(name, _)| name.starts_with(prefix));
    found.sort();
    assert!(!found.is_empty(), "proto-spec/vectors has none that begin with {prefix}");
    found
}

fn hop() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut end = Vec::new();
    for (name, bytes) in named_vectors("hop-") {
        let kind = match name.as_str() {
            "hop-request-head" => 1,
            "hop-end" | "hop-end-with-trailers" => {
                end.clone_from(&bytes);
                seeds.push([&[3], &bytes[4..]].concat());
                0
            }
            _ => 2,
        };
        seeds.extend([0, 40, 200].map(|cut| [&[kind + cut], bytes.as_slice()].concat()));
    }
    let chunk = |text: &[u8]| [&(text.len() as u32).to_be_bytes(), text].concat();
    seeds.push([&[0], chunk(b"hello").as_slice(), &chunk(b", world"), &end].concat());
    seeds
}

fn contents() -> Vec<Vec<u8>> {
    let sound = snapshot_chunk::sound();
    let empty = registry_command::content(&termgate::registry::machine::Machine::new(Vec::new()));
    let mut seeds: Vec<Vec<u8>> =
        [2, 43, 250].iter().map(|how| [&[*how], sound.as_slice()].concat()).collect();
    seeds.push([&[2], empty.as_slice()].concat());
    seeds.extend([sound.len() - 1, 1, 40].map(|end| [&[2], &sound[..end]].concat()));
    seeds.push([&[2], sound.as_slice(), &[0]].concat());
    seeds.extend(doubled(&sound).into_iter().map(|content| [&[2], content.as_slice()].concat()));
    // Begun, stored in one piece, finished, read.
    seeds.push([[0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 5, 0, 0, 0, 255].as_slice(), &[0; 8]].concat());
    seeds.push(vec![1, 5, 0, 2, 1]);
    seeds
}

/// The content with one record of each kind twice, and counted twice.
fn doubled(content: &[u8]) -> Vec<Vec<u8>> {
    let mut records: Vec<&[u8]> = Vec::new();
    let mut rest = content;
    while let Some(length) = rest.first_chunk::<4>() {
        let (record, after) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
        records.push(record);
        rest = after;
    }
    let kind = |record: &[u8]| record[4];
    let firsts = records
        .iter()
        .enumerate()
        .filter(|(at, record)| !records[..*at].iter().any(|r| kind(r) == kind(record)));
    firsts
        .map(|(at, record)| {
            let mut twice = [&records[..at], &[*record], &records[at..]].concat().concat();
            *twice.last_mut().expect("the end counts the records") += 1;
            twice
        })
        .collect()
}

fn configurations() -> Vec<Vec<u8>> {
    let file = |name: &str| fs::read_to_string(root().join("docs").join(name)).expect("a reference file");
    let (node, guard) = (file("node.toml"), file("guard.toml"));
    let variables = "TERMGATE_RAFT__HEARTBEAT_INTERVAL_MS=20\nTERMGATE_ROUTE__0__BACKEND=http://10.0.0.21:8000\n\
                     TERMGATE_API__AUTH__TOKEN=sixteen characters\nTERMGATE_ROUTE__1__NAME=b\nTERMGATE_CLUSTER__MEMBERS=[{ id = 1 }]";
    let bare = |text: &str| {
        text.lines()
            .map(|l| l.split(" #").next().unwrap_or_default().trim_end())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let (node, guard) = (bare(&node), bare(&guard));
    let mut seeds =
        vec![node.clone(), guard.clone(), format!("{node}\n---\n{variables}"), format!("\n---\n{variables}")];
    // Every kind of value where another is wanted.
    for wrong in ["[150]", "[]", "7", "-1", "true", "\"x\"", "{ a = 1 }", "1e400", "10.0.0.1:0", ""] {
        let keys = [
            "NODE__ID",
            "RAFT__ELECTION_TIMEOUT_MS",
            "CLUSTER__MEMBERS",
            "LISTEN__API",
            "ROUTE__0__MATCH",
            "API__AUTH",
        ];
        let variables: Vec<String> = keys.iter().map(|key| format!("TERMGATE_{key}={wrong}")).collect();
        seeds.push(format!("{node}\n---\n{}", variables.join("\n")));
    }
    seeds.into_iter().map(String::into_bytes).collect()
}

/// Schedules have no honest form: any bytes are one.
fn with_random(given: &[&[u8]], count: u64) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = given.iter().map(|seed| seed.to_vec()).collect();
    for seed in 0..count {
        let mut rng = Dice(seed);
        let length = 16 << rng.below(6);
        seeds.push((0..length).map(|_| rng.draw() as u8).collect());
    }
    seeds
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const FIELDS: &[&str] = &[
    "PUT /ledger\ntermgate-term: 7\ntermgate-node: 2\ntermgate-resource: orders\ntermgate-request-id: 2-a-1",
    "PUT /ledger\ntermgate-term: 8\ntermgate-node: 2\ntermgate-resource: orders",
    "GET /registry/keys?prefix=a%20b+c&limit=3\ntermgate-consistency: stale\ntermgate-min-index: 12",
    "PUT /registry/keys/a%2Fb\nif-match: \"12\"\nauthorization: Bearer correct horse battery",
    "DELETE /registry/keys/a\nif-none-match: W/\"12\"\norigin: http://127.0.0.1",
    "PUT /registry/keys/a\nif-none-match: *",
    "GET /\ntermgate-fence: rejected; current=43\ncontent-type: application/problem+json\ntermgate-outcome: not-applied",
    "GET /\nconnection: close, x-private\nx-private: 1\nte: trailers\nvia: 1.1 termgate-orders-2, 1.0 fred",
    "POST /\nconnection: termgate_term\ntermgate_term: 9\ntransfer-encoding: chunked\ncontent-length: 3",
];

const REQUESTS: &[&str] = &[
    "GET /a/./b/../c?x=%2f HTTP/1.1\r\nhost: shop.example:80\r\naccept: */*\r\n\r\n",
    "POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncookie: a=1\r\ncookie: b=2\r\n\r\nabcGET / HTTP/1.1\r\nhost: b\r\n\r\n",
    "PUT /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "GET http://real.example/x HTTP/1.1\r\nhost: other\r\nTermgate-Term: 42\r\nTermgate_Node: 9\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close, X-Private\r\nx-private: 1\r\nvia: 1.1 fred\r\n\r\n",
    "PUT /.well-known/acme%2Dchallenge/%74ermgate HTTP/1.1\r\nhost: a\r\ntermgate-consistency: lease\r\n\r\n",
    "DELETE //a//%2e%2E/b HTTP/1.0\r\nhost: a\r\n\r\n",
];
