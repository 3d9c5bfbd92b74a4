//! Every fuzz target's body over its kept corpus, its seeds, and a fixed number of mutations of both: what
//! `make test` runs of the fuzzing, without any tool. `make fuzz` runs the same bodies guided by coverage
//! (`docs/testing.md`).
//!
//! `FUZZ_MUTATIONS=n` tries n times as many; `FUZZ_WRITE_SEEDS=dir` writes the seeds as files.

mod bodies;
#[path = "../support/dice.rs"]
mod dice;
mod mutate;
mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bodies::{TARGETS, Target};
use dice::Dice;
use mutate::mutation;

/// Files of one target, and bytes of all: the corpus is read in reviews and by every run.
const CORPUS_FILES: usize = 200;
const CORPUS_BYTES: u64 = 2 * 1024 * 1024;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = root().join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("a corpus file").path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).expect("a corpus file"))).collect()
}

/// How many mutations a body gets: so many that all of them take some seconds in a debug build.
fn mutations(target: &str) -> usize {
    let each = match target {
        "core_schedule" | "storage_open" => 600,
        "snapshot_chunk" | "registry_command" | "configuration" | "structured_fields" | "http_request" => {
            3_000
        }
        _ => 6_000,
    };
    let times = std::env::var("FUZZ_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    each * times
}

/// Runs the body on one input; a failure leaves the input behind and says where.
fn try_one((target, body): Target, what: &str, data: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(data))) {
        let dir = root().join("target/fuzz/failed");
        let name = format!(
            "{target}-{:016x}",
            data.iter().fold(data.len() as u64, |h, b| Dice(h ^ u64::from(*b)).draw())
        );
        let path = dir.join(name);
        fs::create_dir_all(&dir).and_then(|()| fs::write(&path, data)).expect("room for the input");
        println!(
            "{target} fails on {what}; the input is in {}: keep it in fuzz/corpus/{target}",
            path.display()
        );
        std::panic::resume_unwind(panic);
    }
}

fn hold(name: &str) {
    let target = *TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let mut inputs = seeds::of(name);
    inputs.iter().enumerate().for_each(|(nth, data)| try_one(target, &format!("seed {nth}"), data));
    for (path, data) in kept(name) {
        try_one(target, &path.display().to_string(), &data);
        inputs.push(data);
    }
    let mut rng = Dice(1);
    for nth in 0..mutations(name) {
        let data = mutation(&mut rng, &inputs);
        try_one(target, &format!("mutation {nth}"), &data);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            hold(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_test_a_program_and_a_corpus() {
            let tested: BTreeSet<&str> = [$(stringify!($name)),*].into();
            assert_eq!(tested, TARGETS.iter().map(|(name, _)| *name).collect());
            let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_string_lossy().into_owned();
            let names = |dir: &str| -> BTreeSet<String> {
                let dir = root().join("fuzz").join(dir);
                fs::read_dir(dir).unwrap().map(|entry| stem(entry.unwrap())).collect()
            };
            let tested: BTreeSet<String> = tested.into_iter().map(str::to_owned).collect();
            assert_eq!(names("fuzz_targets"), tested);
            assert_eq!(names("corpus"), tested);
        }
    };
}

targets! {
    certificate_identity configuration core_schedule core_step hop_frame http_request
    lease_arithmetic peer_frame registry_command snapshot_chunk storage_open structured_fields
}

#[test]
fn the_corpus_is_small() {
    let mut bytes = 0;
    for (target, _) in TARGETS {
        let files = kept(target);
        assert!(
            (1..=CORPUS_FILES).contains(&files.len()),
            "{target} has {} files: `make fuzz-keep`",
            files.len()
        );
        bytes += files.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
    }
    assert!(bytes <= CORPUS_BYTES, "the corpus has {bytes} bytes: `make fuzz-keep`");
}

/// The loop itself: what hides behind a byte or two, it finds.
#[test]
fn mutations_find_what_is_planted() {
    let inputs = vec![b"GET / HTTP/1.1".to_vec(), b"PUT /x".to_vec()];
    let mut rng = Dice(1);
    let (mut shouts, mut longest) = (0, 0);
    for _ in 0..6_000 {
        let data = mutation(&mut rng, &inputs);
        shouts += usize::from(data.windows(2).any(|pair| pair == b"//" || pair == b"\xff\xff"));
        longest = longest.max(data.len());
    }
    assert!(shouts > 10 && longest > 20, "{shouts} {longest}");
}

#[test]
fn writes_the_seeds() {
    let Some(dir) = std::env::var_os("FUZZ_WRITE_SEEDS") else { return };
    for (target, _) in TARGETS {
        let dir = Path::new(&dir).join(target);
        fs::create_dir_all(&dir).expect("a directory");
        let more = if target == "certificate_identity" { seeds::certificates() } else { Vec::new() };
        for (nth, seed) in seeds::of(target).iter().chain(&more).enumerate() {
            fs::write(dir.join(format!("seed-{nth:02}")), seed).expect("a file");
        }
    }
}
