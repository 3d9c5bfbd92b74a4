//! The command line: what can be asked of the program, and how it ends.
//!
//! [`Command`] names everything; the commands that only talk to a cluster or to files are carried out
//! by [`Tool::run`], those that become a server are for `main` to start. How a command ended is a
//! [`Failure`], which knows its exit status.
//!
//! | file | idea |
//! |---|---|
//! | `client` | asks nodes over HTTP, one after another |
//! | `backup` | takes and verifies backups |
//! | `disaster` | makes a new cluster of a backup, or of a survivor |
//! | `member` | who takes part |
//! | `node` | how a node is started, also one that joins |
//! | `show` | answers as text for people |
//! | `table` | aligned columns |
//! | `tools` | the commands that are no server |

// Comments on arguments are the help that is printed, as they stand.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

pub mod backup;
pub mod client;
pub mod disaster;
pub mod member;
pub mod node;
pub mod show;
mod table;
mod tools;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::backup::BackupArgs;
use crate::cli::client::ClientError;
use crate::cli::disaster::{RecoverArgs, RestoreArgs};
use crate::cli::member::Member;
use crate::cli::node::NodeArgs;

/// Where the API of a node on this machine is, unless said otherwise.
const DEFAULT_API: &str = "http://127.0.0.1:9090";

/// How a command can end; see [`Failure`].
const EXIT_STATUS: &str = "Exit status: 0 done, 1 the operation failed, 2 wrong usage or configuration, \
                           69 no node of the cluster, or not every verifier that has to be asked, can be reached, 75 the leadership that was meant has moved on";

/// A fencing-aware resource proxy with an embedded leader election.
#[derive(Debug, Parser)]
#[command(name = "termgate", version, about, after_help = EXIT_STATUS, max_term_width = 100)]
pub struct Cli {
    /// How log lines look; RUST_LOG chooses which there are
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object per line.
    Json,
}

impl LogFormat {
    /// Sends the program's log to standard error in this shape. Without RUST_LOG, `info` and above.
    pub fn start(self) {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
        // Colours are for people: not in a file, and not for who asks for none (no-color.org).
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
        // It fails only when a log was started before, which then goes on.
        let _ = match self {
            Self::Text => log.try_init(),
            Self::Json => log.json().try_init(),
        };
    }
}

/// Everything the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine, with certificates and a guarded demo backend
    Dev(DevArgs),
    /// Run one node
    Node(NodeArgs),
    /// Run a verifying sidecar in front of one HTTP backend
    Guard(ConfigArgs),
    /// Run the demo backend of `dev`
    #[command(hide = true)]
    DemoBackend(DemoArgs),
    /// The commands that are no server.
    #[command(flatten)]
    Tool(Tool),
}

/// The commands that end by themselves.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Make certificates: a cluster's authority, and with it those of nodes, guards and clients
    #[command(subcommand)]
    Certs(Certs),
    /// Show who leads
    Leader(ClientArgs),
    /// Show all nodes
    Status(ClientArgs),
    /// Hand leadership over
    Resign(ResignArgs),
    /// Show and change who takes part
    #[command(subcommand)]
    Member(Member),
    /// Validate a configuration: every error at once
    Check(ConfigArgs),
    /// Write all of the registry into one file, while the cluster serves
    Backup(BackupArgs),
    /// Make the data directory of a node whose cluster begins with a backup
    Restore(RestoreArgs),
    /// Make a new cluster of one survivor, after a majority was lost for good
    Recover(RecoverArgs),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The TOML file; the environment (TERMGATE_<SECTION>__<KEY>) overrides it
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
}

/// The shape of a cluster on this machine.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many nodes: 1, 3, 5 or 7
    #[arg(long, default_value_t = 3, value_parser = cluster_size)]
    pub nodes: u64,
    /// Where certificates, logs and the demo backend's entries are kept
    #[arg(long, value_name = "DIR", default_value = "data/dev")]
    pub data_dir: PathBuf,
    /// Node i listens from here + 10 (i-1), the guard on + 90, the demo backend on + 91
    #[arg(long, value_name = "PORT", default_value_t = 7100, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    pub base_port: u16,
}

/// The demo backend.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Where it listens
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where its entries are kept
    #[arg(long)]
    pub dir: PathBuf,
}

fn cluster_size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5 | 7)) => Ok(count),
        _ => Err("take 1, 3, 5 or 7: an even number survives no more failures".into()),
    }
}

/// Making certificates.
#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Make the authority of a cluster
    Init {
        /// The cluster's name, a part of every identity
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// Where ca.pem and ca.key are written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make the certificate of a node, a guard or a client
    Issue(IssueArgs),
}

/// Whose certificate, and from whom.
#[derive(Debug, Clone, Args)]
#[command(group(clap::ArgGroup::new("subject").required(true).args(["node", "guard", "client"])))]
pub struct IssueArgs {
    /// Where ca.pem and ca.key are
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// For the node with this id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: Option<u64>,
    /// For the guard with this name
    #[arg(long, value_name = "NAME")]
    pub guard: Option<String>,
    /// For the client with this name
    #[arg(long, value_name = "NAME")]
    pub client: Option<String>,
    /// Where the certificate and its key are written
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A host name or address that it also stands for; may be repeated
    #[arg(long, value_name = "NAME_OR_IP")]
    pub san: Vec<String>,
}

/// Which cluster to talk to.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The API of a node; may be repeated, the first that answers counts
    #[arg(long, value_name = "URL", env = "TERMGATE_API", value_delimiter = ',', default_value = DEFAULT_API)]
    pub api: Vec<String>,
    /// Print the node's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Handing leadership over.
#[derive(Debug, Clone, Args)]
pub struct ResignArgs {
    /// Which cluster.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The wished leader [default: the most up-to-date follower]
    #[arg(long, value_name = "ID")]
    pub to: Option<u64>,
    /// Why, for the node's log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only when this is still the term; otherwise nothing is done, and the exit status is 75
    #[arg(long, value_name = "TERM")]
    pub if_term: Option<u64>,
    /// The token of [api.auth]
    #[arg(long, value_name = "TOKEN", env = "TERMGATE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The operation failed.
    #[error("{0}")]
    Failed(String),
    /// Wrong usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// No node of the cluster could be reached, or no verifier that had to be asked.
    #[error("{0}")]
    Unreachable(String),
    /// The leadership that the command was about has moved on by itself.
    #[error("{0}")]
    LeadershipLost(String),
}

impl Failure {
    /// The program's exit status.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            // EX_UNAVAILABLE and EX_TEMPFAIL of sysexits.h.
            Self::Unreachable(_) => 69,
            Self::LeadershipLost(_) => 75,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Url(_) => Self::Usage(error.to_string()),
            ClientError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            ClientError::Lost { .. } | ClientError::Refused { .. } | ClientError::Malformed { .. } => {
                Self::Failed(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests;
