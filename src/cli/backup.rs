//! `termgate backup`: asks a node for the state while it serves, or reads that of a stopped one.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::cli::client::{self, Call, ClientError};
use crate::cli::{DEFAULT_API, Failure};
use crate::clock;
use crate::config::load_node;
use crate::disaster;
use crate::storage::backup::{Backup, BackupError, Draft, Header, Origin, save};
use crate::storage::look::look;
use crate::time::{Duration, Instant};

/// How long a node may send nothing of a backup: longer than its disk or network stalls.
const PIECE_LIMIT: Duration = Duration::from_secs(30);
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(100);
const MIB: f64 = 1024.0 * 1024.0;

const AFTER: &str = "A node goes on serving while it is backed up. The file holds every write that was acknowledged \
    before it was asked for, unless it was taken with --stale or --data-dir. It is read back and verified before it \
    gets its name. Take it as often as you can bear to lose what comes after it, and keep it off the cluster's machines.";

/// Where the state comes from and goes to.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = AFTER)]
pub struct BackupArgs {
    /// What else can be done with a backup.
    #[command(subcommand)]
    pub other: Option<OtherBackup>,
    /// The file to make
    #[arg(long, value_name = "FILE", required = true)]
    pub out: Option<PathBuf>,
    /// The API of a node; may be repeated, the first that answers counts [default: that of --config, or
    /// http://127.0.0.1:9090]
    #[arg(
        long,
        visible_alias = "server",
        value_name = "URL",
        env = "TERMGATE_API",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub api: Vec<String>,
    /// A node's configuration: its API is asked, with its token
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the data directory of a stopped node instead of asking one that runs
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "stale", "token"])]
    pub data_dir: Option<PathBuf>,
    /// Take what the asked node has, also when no majority answers: later writes may be missing
    #[arg(long)]
    pub stale: bool,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// The token of [api.auth] [default: that of --config]
    #[arg(long, value_name = "TOKEN", env = "TERMGATE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// What else can be done with a backup.
#[derive(Debug, Clone, Subcommand)]
pub enum OtherBackup {
    /// Read a backup to its end, and show what it is
    #[command(visible_alias = "inspect")]
    Verify {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print its head as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Carries the command out.
pub(super) async fn run(args: &BackupArgs) -> Result<String, Failure> {
    if let Some(OtherBackup::Verify { file, json }) = &args.other {
        return verify(file, *json);
    }
    // Required by the command line.
    let out = args.out.as_deref().unwrap_or(Path::new(""));
    let backup = match &args.data_dir {
        Some(dir) => from_disk(dir, out, args.force)?,
        None => from_node(args, out).await?,
    };
    Ok(format!("{}{} is whole\n", show(&backup), out.display()))
}

fn verify(file: &Path, json: bool) -> Result<String, Failure> {
    let backup = Backup::read(file)?;
    if json {
        let head = serde_json::to_string(&backup.header).map_err(|e| Failure::Failed(e.to_string()))?;
        return Ok(format!("{head}\n"));
    }
    Ok(format!("{}{} is whole\n", show(&backup), file.display()))
}

fn from_disk(dir: &Path, out: &Path, force: bool) -> Result<Backup, Failure> {
    let looked = look(dir).map_err(|e| Failure::Failed(e.to_string()))?;
    Ok(save(out, force, &disaster::describe(&looked), &looked.machine)?)
}

async fn from_node(args: &BackupArgs, out: &Path) -> Result<Backup, Failure> {
    let (mut apis, mut token) = (args.api.clone(), args.token.clone());
    if let Some(file) = &args.config {
        let config = load_node(file).map_err(|invalid| Failure::Usage(invalid.to_string()))?.config;
        token = token.or(config.token.map(|token| token.reveal().to_owned()));
        if apis.is_empty() {
            apis = vec![format!("http://{}", reachable(config.listen.api))];
        }
    }
    if apis.is_empty() {
        apis = vec![DEFAULT_API.to_owned()];
    }
    let target = if args.stale { "/cluster/backup?consistency=stale" } else { "/cluster/backup" };
    let call = Call { token, ..Call::get(target) };
    let asked = client::in_turn(&apis, &Method::GET, async |api| fetch(api, &call, out, args.force).await);
    Ok(asked.await??)
}

/// Where a listener on this machine can be reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks one node. What is wrong with the file here is no reason to ask another.
async fn fetch(
    api: &str,
    call: &Call,
    out: &Path,
    force: bool,
) -> Result<Result<Backup, BackupError>, ClientError> {
    let mut draft = match Draft::create(out, force) {
        Ok(draft) => draft,
        Err(e) => return Ok(Err(e)),
    };
    let response = client::open(api, call).await?;
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut progress = Progress::of(length.unwrap_or(0));
    let mut content = response.into_body();
    let lost = |cause: String| ClientError::Lost { api: api.to_owned(), cause };
    loop {
        let next = timeout(PIECE_LIMIT, content.frame()).await;
        let Some(frame) = next.map_err(|_| lost("nothing of the backup came for 30 s".into()))? else {
            break;
        };
        let piece = frame.map_err(|e| lost(e.to_string()))?.into_data().unwrap_or_default();
        if let Err(e) = draft.push(&piece) {
            return Ok(Err(e));
        }
        progress.add(piece.len());
    }
    drop(progress);
    Ok(draft.finish())
}

/// A line on a terminal that tells how much has come; gone at the end.
struct Progress {
    total: u64,
    have: u64,
    shown_at: Option<Instant>,
    is_seen: bool,
}

impl Progress {
    fn of(total: u64) -> Self {
        Self { total, have: 0, shown_at: None, is_seen: std::io::stderr().is_terminal() }
    }

    fn add(&mut self, count: usize) {
        self.have += count as u64;
        let now = clock::now();
        if !self.is_seen || self.shown_at.is_some_and(|at| now.since(at) < SHOW_EVERY) {
            return;
        }
        self.shown_at = Some(now);
        let (have, total) = (self.have as f64 / MIB, self.total as f64 / MIB);
        let mut terminal = std::io::stderr();
        // A terminal that is gone needs no progress.
        let _ = write!(terminal, "\r{have:.1} of {total:.1} MiB").and_then(|()| terminal.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown_at.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// What a backup is, for people.
fn show(backup: &Backup) -> String {
    let Backup { header, machine } = backup;
    let fences: Vec<String> =
        machine.fences().map(|(resource, fence)| format!("{resource} {}", fence.term)).collect();
    let fences = if fences.is_empty() { "none".into() } else { fences.join(", ") };
    let mut text = head(header);
    // Writing to a string does not fail.
    let _ = writeln!(text, "keys     {}\nfences   {fences}\nsha256   {}", header.keys, header.sha256);
    text
}

/// The part of it that a restore shows as well.
pub(super) fn head(header: &Header) -> String {
    let Header { cluster, node, created_at, written_by, last, term, .. } = header;
    let voters: Vec<String> = header.membership.voters.iter().map(ToString::to_string).collect();
    let origin = match header.origin {
        Origin::Linearizable => "every write acknowledged before it was asked for is in it".into(),
        Origin::Stale => format!("what node {node} had applied; later writes may be missing"),
        Origin::Disk => format!(
            "all that the disk of node {node} held; later writes may be missing, and some of it may never have been \
             acknowledged"
        ),
    };
    format!(
        "cluster  {cluster}\ntaken    {created_at} from node {node}, by termgate {written_by}\norigin   {}: {origin}\n\
         log id   {last}\nterm     {term}\nvoters   {}\n",
        header.origin.name(),
        voters.join(", ")
    )
}
