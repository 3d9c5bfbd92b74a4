//! Builds the tree once, and looks for each mutant in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::table::{Mutant, Named};
use crate::tree;

/// Seeds within which the simulator has to find a mutant.
const SEEDS: &str = "1..10001";
/// The simulator's run.
const SIMULATOR: &str = "runs_many_seeds";
/// Longer than any run of [`SEEDS`] takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(1800);

/// How a search ended.
enum Found {
    /// The simulator's invariant and the seed, or the test that failed.
    By { what: String, seed: Option<u64> },
    /// Nothing noticed it.
    Survived,
    /// Neither; says why.
    Unclear(String),
}

/// One row of the table.
struct Row<'a> {
    mutant: &'a Mutant,
    found: Found,
    took: Duration,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mutant { id, bug, kin, .. } = self.mutant;
        write!(f, "| {id} | {bug} | {kin} | ")?;
        match &self.found {
            Found::By { what, seed: Some(seed) } => write!(f, "{what} | {seed}")?,
            Found::By { what, seed: None } => write!(f, "{what} | test")?,
            Found::Survived => write!(f, "**SURVIVED** | -")?,
            Found::Unclear(why) => write!(f, "**UNCLEAR** {why} | -")?,
        }
        write!(f, " | {:.1} |", self.took.as_secs_f64())
    }
}

/// The programs of the one build, by target, and where their output goes.
pub struct Build {
    tree: PathBuf,
    logs: PathBuf,
    programs: BTreeMap<String, PathBuf>,
    seeds: String,
}

/// Looks for all of `mutants`, or for those that `ONLY` names; panics when one survives.
pub fn find_all(all: Vec<Mutant>) {
    let build = Build::make(&all);
    let ids = std::env::var("ONLY").unwrap_or_default();
    let only = only(&ids, &all);
    let chosen = |mutant: &&Mutant| only.is_empty() || only.contains(mutant.id.as_str());
    let mutants: Vec<&Mutant> = all.iter().filter(chosen).collect();
    build.check_without_mutants(&mutants);
    println!("| id | bug | kin | found by | seeds | seconds |\n|---|---|---|---|---|---|");
    let rows = in_parallel(&mutants, |mutant| {
        let began = Instant::now();
        let row = Row { mutant, found: build.search(mutant), took: began.elapsed() };
        eprintln!("{row}");
        row
    });
    for row in &rows {
        println!("{row}");
    }
    let alive: Vec<&str> = rows
        .iter()
        .filter(|row| !matches!(row.found, Found::By { .. }))
        .map(|row| row.mutant.id.as_str())
        .collect();
    assert!(alive.is_empty(), "{} of {} were not found: {}", alive.len(), rows.len(), alive.join(", "));
    println!("all {} found within seeds {}", rows.len(), build.seeds);
}

/// The ids that `text` names, separated by commas.
pub fn only<'a>(text: &'a str, all: &[Mutant]) -> BTreeSet<&'a str> {
    let only: BTreeSet<&str> = text.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    let unknown: Vec<_> = only.iter().filter(|id| all.iter().all(|mutant| mutant.id != **id)).collect();
    assert!(unknown.is_empty(), "no such mutants: {unknown:?}");
    only
}

fn jobs() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var("JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(cores).max(1)
}

/// What `search` makes of each of `items`, in their order.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], search: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            let row = search(item);
            rows.lock().expect("no search panics").push((at, row));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs() {
            scope.spawn(work);
        }
    });
    let mut rows = rows.into_inner().expect("no search panics");
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

impl Build {
    /// Copies, rewrites and builds: the simulator and every target that some mutant names.
    fn make(mutants: &[Mutant]) -> Self {
        let mut targets: BTreeSet<String> =
            mutants.iter().filter_map(Mutant::named).map(|named| named.target).collect();
        targets.insert("sim".to_owned());
        Self::of(mutants, targets)
    }

    /// The same with these targets only.
    pub fn of(mutants: &[Mutant], targets: BTreeSet<String>) -> Self {
        let (tree, logs) = (lay_out(mutants), target().join("mutants/logs"));
        fs::create_dir_all(&logs).expect("target/mutants can be made");
        let programs = compile(&tree, &targets);
        let seeds = std::env::var("SEEDS").unwrap_or_else(|_| SEEDS.to_owned());
        Self { tree, logs, programs, seeds }
    }

    /// Nothing may be found when there is nothing to find.
    fn check_without_mutants(&self, mutants: &[&Mutant]) {
        let mut tests: BTreeSet<Option<Named>> = mutants.iter().map(|mutant| mutant.named()).collect();
        if tests.remove(&None) {
            match self.simulate("") {
                Found::Survived => {}
                Found::By { what, seed } => {
                    panic!("without any mutant the simulator finds {what}, seed {seed:?}")
                }
                Found::Unclear(why) => panic!("without any mutant: {why}"),
            }
        }
        for named in tests.into_iter().flatten() {
            let found = self.test("", &named);
            assert!(matches!(found, Found::Survived), "fails or is not there, without any mutant: {named:?}");
        }
    }

    fn search(&self, mutant: &Mutant) -> Found {
        match mutant.named() {
            Some(named) => self.test(&mutant.id, &named),
            None => self.simulate(&mutant.id),
        }
    }

    /// Runs a program of the build with a mutant and these settings; whether it succeeded, and what it said.
    pub fn run(
        &self,
        id: &str,
        target: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Result<(bool, String), String> {
        let path = self.logs.join(format!("{}.log", if id.is_empty() { "none" } else { id }));
        let log = File::create(&path).expect("a log");
        let mut command = Command::new(&self.programs[target]);
        command.args(arguments).current_dir(&self.tree).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        command.env("SEEDS", &self.seeds).env_remove("TERMGATE_MUTANT").envs(settings.iter().copied());
        if !id.is_empty() {
            // One after the other: the number of seeds is then that of the first that fails.
            command.env("JOBS", "1").env("TERMGATE_MUTANT", id);
        }
        let child = command.spawn().map_err(|e| format!("{target} does not start: {e}"))?;
        let status = wait_for(child).ok_or_else(|| format!("still runs after {PATIENCE:?}"))?;
        if status.code().is_none() {
            return Err(format!("{target} was ended from outside: {status}"));
        }
        let succeeded = status.success();
        let said = fs::read(&path).expect("a log");
        Ok((succeeded, String::from_utf8_lossy(&said).into_owned()))
    }

    fn simulate(&self, id: &str) -> Found {
        let arguments = [SIMULATOR, "--ignored", "--nocapture", "--exact"];
        let (succeeded, said) = match self.run(id, "sim", &arguments, &[]) {
            Ok(ended) => ended,
            Err(why) => return Found::Unclear(why),
        };
        match said.lines().find_map(violation) {
            Some((seed, text)) => Found::By { what: summary(text), seed: Some(seed) },
            None if succeeded && said.contains("1 passed") => Found::Survived,
            None => Found::Unclear(format!("see the log of {id:?}")),
        }
    }

    fn test(&self, id: &str, named: &Named) -> Found {
        match self.run(id, &named.target, &[&named.name, "--exact"], &[]) {
            Ok((true, said)) if said.contains("1 passed") => Found::Survived,
            Ok((false, said)) if said.contains("1 failed") => {
                Found::By { what: said.lines().find_map(script).unwrap_or_else(|| named.shown()), seed: None }
            }
            Ok(_) => Found::Unclear(format!("no verdict of {named:?}")),
            Err(why) => Found::Unclear(why),
        }
    }
}

/// `SEED=17 fails: I9: …`
fn violation(line: &str) -> Option<(u64, &str)> {
    let (seed, text) = line.strip_prefix("SEED=")?.split_once(" fails: ")?;
    Some((seed.parse().ok()?, text))
}

/// `…/tests/scripts/raft/lease.txt:12`: the first script that prints something else.
fn script(line: &str) -> Option<String> {
    let name = line.split_once("/tests/scripts/")?.1.split_once(".txt:")?.0;
    Some(format!("script `{}`", name.rsplit('/').next().unwrap_or(name)))
}

/// The invariant's name, or the beginning of what was said, without the numbers of that one seed.
fn summary(text: &str) -> String {
    let name = text.split(':').next().unwrap_or_default();
    let is_name = name.len() <= 10 && !name.contains(' ');
    if is_name && name != "panic" {
        return name.to_owned();
    }
    let text =
        text.strip_prefix("panic:").map_or_else(|| text.to_owned(), |said| format!("assertion:{said}"));
    let mut words: Vec<&str> = text.split_whitespace().take(9).collect();
    if let ["node", _, ..] = words[..] {
        words.drain(..2);
    }
    words.join(" ").replace('|', "/")
}

/// How it ended; `None` when it had to be ended.
fn wait_for(mut child: Child) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => return Some(status),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    child.kill().expect("a child can be ended");
    child.wait().expect("a child can be waited for");
    None
}

/// Makes the tree with all the bugs in it, and says where.
pub fn lay_out(mutants: &[Mutant]) -> PathBuf {
    let tree = target().join("mutants/tree");
    fs::create_dir_all(&tree).expect("target/mutants can be made");
    let overlay = tree::overlay(mutants).expect("every mutant fits the sources");
    tree::copy(&tree, &overlay).expect("the project can be copied");
    tree
}

/// The folder that cargo builds into. The dependencies in it serve the tree too.
fn target() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its program");
    program.ancestors().nth(3).expect("a test lies in target/debug/deps").to_owned()
}

/// Builds `targets` with optimization; the programs by target.
fn compile(tree: &Path, targets: &BTreeSet<String>) -> BTreeMap<String, PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "test",
        "--locked",
        "--release",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    for target in targets {
        match target.as_str() {
            "lib" => command.arg("--lib"),
            other => command.args(["--test", other]),
        };
    }
    command.env("CARGO_TARGET_DIR", target()).current_dir(tree);
    let output = command.stderr(Stdio::inherit()).output().expect("cargo starts");
    assert!(output.status.success(), "the tree with all mutants does not build");
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(program) = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)
        else {
            continue;
        };
        let is_library = message["target"]["kind"][0] == "lib";
        let name = if is_library { "lib" } else { message["target"]["name"].as_str().unwrap_or_default() };
        programs.insert(name.to_owned(), PathBuf::from(program));
    }
    for target in targets {
        assert!(programs.contains_key(target), "no program of {target}");
    }
    programs
}
