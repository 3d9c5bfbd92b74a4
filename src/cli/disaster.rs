//! `termgate restore` and `termgate recover`: a new cluster on an old one's state.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use futures_util::future::join_all;

use crate::api::answers::LeaderAnswer;
use crate::cli::backup::head;
use crate::cli::client::{self, Call};
use crate::cli::{ConfigArgs, Failure};
use crate::config::load_node;
use crate::config::node::NodeConfig;
use crate::disaster::floor::{FenceSeen, FloorError, Wish};
use crate::disaster::{self, DisasterError, Founded, STATE_FILE};
use crate::ids::NodeId;
use crate::registry::command::Member;
use crate::storage::backup::{Backup, BackupError};

const AFTER_RESTORE: &str = "\
Run it on every node of the configuration with the same backup, and start none before all are restored. Give the \
number that the first one prints as --term-floor to the others: nodes of another floor are another cluster.

Stop every node of the old cluster first. The new one does not listen to them, and their writes are refused by every \
backend that verifies; but they go on answering their own clients, and a `drain` route can't tell the two apart.

What was acknowledged after the backup was taken is lost. Backends are not restored: what they hold stays.";

/// A backup, and the node to make of it.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_RESTORE)]
pub struct RestoreArgs {
    /// The file that `termgate backup` has made
    #[arg(long, value_name = "FILE")]
    pub backup: PathBuf,
    /// The node's configuration: its members are the new cluster's, its data directory must be empty.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// No fence and no term of the old cluster is above it; those of the new one begin 2*10^12 higher. `auto` asks the
    /// verifier of each route where its fence stands, and refuses when one does not tell
    #[arg(long, value_name = "auto|N", default_value_t = Wish::Auto)]
    pub term_floor: Wish,
    /// Take the backup of a cluster with another name
    #[arg(long)]
    pub force: bool,
}

const DANGERS: &str = "\
THE DANGERS. This makes a new cluster of what this node's disk holds. Do it only when a majority of the old cluster is \
lost for good.
  - Acknowledged writes may be lost: a majority had them, and this node need not be part of it. Take the survivor with \
the highest log id (`termgate backup --data-dir DIR --out FILE` shows it).
  - Writes that were never acknowledged may come true: all that the disk holds counts.
  - If the old majority is alive behind a partition there are two clusters. Backends that verify refuse the old one; a \
`drain` route, and clients that read from the old one, can't tell.
  - The old members must never start again with their old data. Wipe them, and add them anew.";

/// A survivor, and the cluster to make of it.
#[derive(Debug, Clone, Args)]
#[command(after_help = DANGERS)]
pub struct RecoverArgs {
    /// Says what is meant: what is left of the old cluster is given up
    #[arg(long, required = true)]
    pub force_new_cluster: bool,
    /// The configuration of the node, which must be stopped
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The new cluster's members, ids of the configuration; the others are then restored from the state that this leaves
    /// [default: this node alone]
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub members: Vec<u64>,
    /// As in `restore`
    #[arg(long, value_name = "auto|N", default_value_t = Wish::Auto)]
    pub term_floor: Wish,
    /// Do not ask; the dangers are understood
    #[arg(long)]
    pub yes_i_understand: bool,
}

/// `termgate restore`.
pub(super) async fn restore(args: &RestoreArgs) -> Result<String, Failure> {
    let config = configured(&args.config)?;
    let backup = Backup::read(&args.backup)?;
    nobody_leads(&config, "restore").await?;
    let founded = disaster::restore(&config, backup, args.term_floor, args.force).await?;
    let mut text = show(&founded);
    if founded.members.len() > 1 {
        let next = "the other nodes, before any is started";
        text += &for_others(next, &founded, &args.backup.display().to_string());
    }
    Ok(text)
}

/// `termgate recover`.
pub(super) async fn recover(args: &RecoverArgs) -> Result<String, Failure> {
    let config = configured(&args.config)?;
    let looked = disaster::survivor(&config)?;
    nobody_leads(&config, "recover").await?;
    let held = head(&disaster::describe(&looked));
    if !args.yes_i_understand {
        eprintln!("{held}\n{DANGERS}\n");
        confirm(&config.cluster)?;
    }
    let members: BTreeSet<NodeId> = args.members.iter().copied().map(NodeId).collect();
    let members = Some(members).filter(|members| !members.is_empty());
    let founded = disaster::recover(&config, looked, members, args.term_floor).await?;
    let mut text = show(&founded);
    if let Some(kept) = &founded.kept {
        let _ = writeln!(text, "kept     {}, the old files: remove them when all is well", kept.display());
        if founded.members.len() > 1 {
            let state = kept.join(STATE_FILE).display().to_string();
            text += &for_others("the other members, on an empty data directory", &founded, &state);
        }
    }
    Ok(text)
}

fn configured(args: &ConfigArgs) -> Result<NodeConfig, Failure> {
    Ok(load_node(&args.config).map_err(|invalid| Failure::Usage(invalid.to_string()))?.config)
}

/// A member that knows a leader is part of a majority that lives. Who does not answer proves nothing.
async fn nobody_leads(config: &NodeConfig, what: &str) -> Result<(), Failure> {
    let others = config.members.iter().filter(|member| member.id != config.id());
    let answers = join_all(others.map(async |member| (member, leader_known_by(member).await))).await;
    let Some((member, leader)) = answers.into_iter().find_map(|(member, known)| Some((member, known?)))
    else {
        return Ok(());
    };
    let Member { id, api, .. } = member;
    let (node, term) = (leader.node_id, leader.term);
    let detail = match what {
        "restore" => {
            "stop every node first; a node that lost its data is added to a running cluster, not restored"
        }
        _ => "it needs no recovery; a node that lost its data is added to it anew",
    };
    Err(Failure::Failed(format!(
        "node {id} at {api} knows a leader, node {node} in term {term}: the cluster has a majority; {detail}"
    )))
}

async fn leader_known_by(member: &Member) -> Option<LeaderAnswer> {
    let content = client::send(&member.api, &Call::get("/leader")).await.ok()?;
    client::parse(&member.api, &content).ok()
}

/// Only who types the cluster's name has read what this is about.
fn confirm(cluster: &str) -> Result<(), Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::Usage("nothing was done; give --yes-i-understand when you do".into()));
    }
    eprint!("Type the cluster's name to go on: ");
    let mut line = String::new();
    // What can't be read is not the name.
    let _ = input.lock().read_line(&mut line);
    if line.trim() == cluster {
        return Ok(());
    }
    Err(Failure::Failed("that is not the cluster's name; nothing was done".into()))
}

fn show(founded: &Founded) -> String {
    let Founded { cluster, node, floor, last, header, seen, .. } = founded;
    let mut text =
        format!("node {node} of a new cluster {cluster}, founded on this state:\n\n{}", head(header));
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\nmembers  {}\nfloor    {floor}\nterms    above {}\nlog      behind index {}\n",
        ids(founded),
        last.term,
        last.index
    );
    for one in seen {
        let route = &one.route;
        let _ = match &one.fence {
            FenceSeen::At(term) => writeln!(text, "fence    {route} at {term}"),
            FenceSeen::None => {
                writeln!(text, "fence    {route} has none: an old leader's late write can't be refused")
            }
            FenceSeen::Unknown(cause) => writeln!(text, "fence    {route} not read: {cause}"),
        };
    }
    text
}

fn ids(founded: &Founded) -> String {
    founded.members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn for_others(what: &str, founded: &Founded, backup: &str) -> String {
    let floor = founded.floor;
    format!(
        "\nnow {what}: termgate restore --backup {backup} --config their-node.toml --term-floor {floor}\n"
    )
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<DisasterError> for Failure {
    fn from(error: DisasterError) -> Self {
        let text = error.to_string();
        match error {
            DisasterError::Floor(FloorError::Unread { .. }) => Self::Unreachable(text),
            DisasterError::Floor(FloorError::TooLow { .. } | FloorError::TooHigh(_))
            | DisasterError::OtherCluster { .. }
            | DisasterError::Joins
            | DisasterError::Members(_) => Self::Usage(text),
            DisasterError::Floor(FloorError::Certificates(_) | FloorError::Backend { .. })
            | DisasterError::Backup(_)
            | DisasterError::Storage(_) => Self::Failed(text),
        }
    }
}
