//! `termgate dev`: a whole cluster on this machine, with nothing to prepare.
//!
//! Real processes, each started from this same binary: the demo backend, the guard in front of it
//! and the nodes, with certificates made on the first start. The cluster survives the death of any
//! of them; this process only watches, says what it sees, and takes a few words on standard input.

mod children;
mod layout;

use std::fs;
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::answers::LeaderAnswer;
use crate::certs;
use crate::cli::client::{self, Call};
use crate::dev::children::{Children, Role};
use crate::dev::layout::{CLUSTER, Layout, RESOURCE};
use crate::ids::NodeId;
use crate::time::Duration;
use crate::transport::identity::Subject;

/// How often the processes are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How many times all nodes are asked at the start, ten times a second, whether a leader is there.
const LEADER_ATTEMPTS: u32 = 100;

/// Lines typed ahead; a person types slower than they are obeyed.
const WORDS_LIMIT: usize = 16;

/// Everything that can happen while the cluster runs.
enum Event {
    Word(String),
    InputEnded,
    Tick,
    Stop,
}

/// Runs until Ctrl-C. Errors are said in words for a person.
pub async fn run(dir: &Path, nodes: u64, base_port: u16) -> Result<(), String> {
    let dir = std::path::absolute(dir).map_err(|e| format!("--data-dir {}: {e}", dir.display()))?;
    let layout = Layout::try_new(&dir, nodes, base_port)?;
    prepare(&layout).map_err(|e| {
        format!("could not prepare {}: {e}; name another place with --data-dir", dir.display())
    })?;
    let mut children = Children::new(layout.clone());
    let roles = [Role::Backend, Role::Guard].into_iter().chain(layout.ids().map(Role::Node));
    for role in roles {
        children.start(role).map_err(|e| format!("could not start {role}: {e}"))?;
    }
    println!("starting {nodes} nodes, a guard and a demo backend under {} ...", dir.display());
    let leader = wait_for_leader(&layout, &mut children).await;
    let outcome = match leader {
        Ok(leader) => {
            print!("{}", welcome(&layout, leader));
            watch(&layout, &mut children).await
        }
        Err(why) => Err(why),
    };
    children.end_all().await;
    println!("all processes have ended; the data is kept under {}", dir.display());
    outcome
}

/// Makes directories, certificates (once) and configurations (always).
fn prepare(layout: &Layout) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(layout.ledger_dir())?;
    let certs = layout.certs();
    if !certs.join("ca.pem").exists() {
        certs::init(CLUSTER, &certs)?;
    }
    let sans = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let nodes = layout.ids().map(|id| (format!("node-{id}.pem"), Subject::Node(NodeId(id))));
    let guard = (format!("guard-{RESOURCE}.pem"), Subject::Guard(RESOURCE.to_owned()));
    for (file, subject) in nodes.chain([guard]) {
        if !certs.join(file).exists() {
            certs::issue(&certs, &subject, &certs, &sans)?;
        }
    }
    for id in layout.ids() {
        fs::write(layout.node_config(id), layout.node_toml(id))?;
    }
    fs::write(layout.guard_config(), layout.guard_toml())?;
    Ok(())
}

async fn wait_for_leader(layout: &Layout, children: &mut Children) -> Result<u64, String> {
    for _ in 0..LEADER_ATTEMPTS {
        if let Some((role, how)) = children.ended().into_iter().next() {
            let log = children.log_file(role);
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().rev().take(5).collect::<Vec<_>>();
            let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
            return Err(format!("{role} ended at once ({how}); the end of {}:\n  {last}", log.display()));
        }
        for id in layout.ids() {
            if let Some(leader) = open_leader(&layout.api_url(id)).await {
                return Ok(leader);
            }
        }
        tokio::time::sleep(WATCH_INTERVAL / 2).await;
    }
    Err(format!("no leader after {} s; see the logs under {}", LEADER_ATTEMPTS / 10, layout.dir.display()))
}

/// The leader's id, once its gate is open.
async fn open_leader(api: &str) -> Option<u64> {
    let answer = client::send(api, &Call::get("/leader")).await.ok()?;
    let answer: LeaderAnswer = client::parse(api, &answer).ok()?;
    let open = answer.authoritative && answer.resources.iter().all(|resource| resource.gate == "open");
    open.then_some(answer.node_id.0)
}

fn welcome(layout: &Layout, leader: u64) -> String {
    let mut text = format!("\ntermgate is up: node {leader} leads.\n\n");
    for id in layout.ids() {
        text += &format!("  node {id}    clients {}   api {}\n", layout.proxy_url(id), layout.api_url(id));
    }
    let (first, api) = (layout.proxy_url(1), layout.api_url(1));
    let last = layout.proxy_url(layout.nodes);
    text += &format!(
        "  guard     https://127.0.0.1:{}   (asks for a node's certificate)\n\
         \x20 ledger    http://127.0.0.1:{}   (the demo backend behind the guard)\n\n\
         Try:\n\
         \x20 curl -d 'first entry' {first}/ledger      # a write, through any node\n\
         \x20 curl -d 'second entry' {last}/ledger     # the same leader, the same term\n\
         \x20 curl {first}/ledger                       # what landed, with its terms\n\
         \x20 curl {api}/leader                         # who leads\n\
         \x20 termgate status --api {api}\n\
         \x20 kill -9 the leader, write again, and look: a higher term, nothing lost.\n\n\
         Type: kill N | restart N | restart guard | status | quit   (Ctrl-C ends everything)\n",
        layout.guard_port(),
        layout.backend_port(),
    );
    text
}

/// Watches until somebody wants the end.
async fn watch(layout: &Layout, children: &mut Children) -> Result<(), String> {
    let mut words = words();
    let no_signal = |e: std::io::Error| format!("could not listen for signals: {e}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let mut input_open = true;
    loop {
        match next_event(&mut words, input_open, &mut interrupt, &mut terminate).await {
            Event::Stop => return Ok(()),
            Event::InputEnded => input_open = false,
            Event::Word(line) => {
                if obey(layout, children, line.trim()).await {
                    return Ok(());
                }
            }
            Event::Tick => {
                for (role, how) in children.ended() {
                    println!("{role} has ended ({how}); type `restart {}` to start it again", word(role));
                }
            }
        }
    }
}

/// The lines of standard input, read by a thread of their own, because such a read can't be given up.
fn words() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(WORDS_LIMIT);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn next_event(
    words: &mut mpsc::Receiver<String>,
    input_open: bool,
    interrupt: &mut Signal,
    terminate: &mut Signal,
) -> Event {
    tokio::select! {
        _ = interrupt.recv() => Event::Stop,
        _ = terminate.recv() => Event::Stop,
        line = words.recv(), if input_open => line.map_or(Event::InputEnded, Event::Word),
        () = tokio::time::sleep(WATCH_INTERVAL) => Event::Tick,
    }
}

/// Does what a line asks; true when it asks for the end.
async fn obey(layout: &Layout, children: &mut Children, line: &str) -> bool {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [] => {}
        ["quit" | "exit"] => return true,
        ["status"] => print_status(layout).await,
        ["kill", which] => match role_of(layout, which) {
            Some(role) => say(children.kill(role), &format!("killed {role}")),
            None => println!("no such process: {which}"),
        },
        ["restart", which] => match role_of(layout, which) {
            Some(role) if children.runs(role) => println!("{role} is running; `kill {which}` first"),
            Some(role) => {
                say(
                    children.start(role),
                    &format!("started {role}, log {}", children.log_file(role).display()),
                );
            }
            None => println!("no such process: {which}"),
        },
        _ => println!("type: kill N | restart N | restart guard | restart backend | status | quit"),
    }
    false
}

async fn print_status(layout: &Layout) {
    for id in layout.ids() {
        if let Ok(text) = client::status_text(&layout.api_url(id)).await {
            return println!("{text}");
        }
    }
    println!("no node answers");
}

fn say(outcome: std::io::Result<()>, done: &str) {
    match outcome {
        Ok(()) => println!("{done}"),
        Err(error) => println!("that failed: {error}"),
    }
}

fn role_of(layout: &Layout, word: &str) -> Option<Role> {
    match word {
        "guard" => Some(Role::Guard),
        "backend" => Some(Role::Backend),
        number => number.parse().ok().filter(|id| layout.ids().any(|i| i == *id)).map(Role::Node),
    }
}

fn word(role: Role) -> String {
    match role {
        Role::Backend => "backend".to_owned(),
        Role::Guard => "guard".to_owned(),
        Role::Node(id) => id.to_string(),
    }
}
