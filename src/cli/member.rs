//! `termgate member`: who takes part in a cluster.
//!
//! Each change carries a name that is drawn here (`Idempotency-Key`), so that an answer that got lost is asked for again
//! and nothing is done twice. What only has to pass, as a member that has not caught up, is waited for where the
//! command is told to wait.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::api::answers::join::{InviteRequest, Invited};
use crate::api::answers::members::{AddMember, Changed, MemberList, PatchMember, Role};
use crate::api::fields::IDEMPOTENCY_KEY;
use crate::cli::client::{self, Call, ClientError};
use crate::cli::{ClientArgs, Failure, show};
use crate::ids::NodeId;

/// How often what has to pass is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A person who waits is told so again.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Who takes part.
#[derive(Debug, Subcommand)]
pub enum Member {
    /// Show the members as the leader sees them
    List(ClientArgs),
    /// Add a node: it receives the log, and has no vote until it is promoted
    Add(AddArgs),
    /// Let a machine join by itself: prints a token for `termgate node --join`
    Invite(InviteArgs),
    /// Give a member a vote
    Promote(PromoteArgs),
    /// Take a member's vote; it goes on receiving the log
    Demote(OneArgs),
    /// Give one member a vote and remove another, in one step
    Replace(ReplaceArgs),
    /// Tell the others where a member is now
    Move(MoveArgs),
    /// Remove a member, also the leader, also one that is gone for good
    Remove(OneArgs),
}

/// Which cluster to change, and in whose name.
#[derive(Debug, Clone, Args)]
pub struct ChangeArgs {
    /// Which cluster.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The token of [api.auth]
    #[arg(long, value_name = "TOKEN", env = "TERMGATE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A change of one member.
#[derive(Debug, Clone, Args)]
pub struct OneArgs {
    /// The member
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Which cluster.
    #[command(flatten)]
    pub change: ChangeArgs,
}

const INCARNATION: &str = "\
A data directory has a number of its own, the incarnation. The node logs it when it starts, and \
`GET /cluster/status` of its API shows it. Name it with --incarnation when the id was in use before: the others know \
the id by the former directory and refuse any other one. With an id that was never in use it may be left out; the \
node is then known by the directory that it is first heard with.

The node needs a certificate (`termgate certs issue`) and a configuration with `[cluster] join = true`. With `termgate \
member invite` and `termgate node --join` the machine sees to all of this by itself.";

/// A node that is to take part.
#[derive(Debug, Clone, Args)]
#[command(after_help = INCARNATION)]
pub struct AddArgs {
    /// Its id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub id: u64,
    /// UDP: Raft
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_address: String,
    /// TCP: what clients are told
    #[arg(long, value_name = "HOST:PORT")]
    pub proxy_address: String,
    /// TCP: its API
    #[arg(long, value_name = "HOST:PORT")]
    pub api_address: String,
    /// UDP: forwarded requests [default: the proxy's address]
    #[arg(long, value_name = "HOST:PORT")]
    pub hop_address: Option<String>,
    /// Where it is
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// Its data directory
    #[arg(long, value_name = "NUMBER")]
    pub incarnation: Option<u64>,
    /// Give it a vote, and wait until it has caught up and has it
    #[arg(long)]
    pub voter: bool,
    /// How long to wait for that
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// Which cluster.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A machine that is to join.
#[derive(Debug, Clone, Args)]
pub struct InviteArgs {
    /// Its id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub id: u64,
    /// How long the token is good, from a minute to a week
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// Which cluster.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A member that gets a vote.
#[derive(Debug, Clone, Args)]
pub struct PromoteArgs {
    /// The member
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Wait until it has caught up
    #[arg(long)]
    pub wait: bool,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// Which cluster.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A member that takes another one's place.
#[derive(Debug, Clone, Args)]
pub struct ReplaceArgs {
    /// The member that leaves
    #[arg(value_name = "OLD")]
    pub old: u64,
    /// The member that gets a vote
    #[arg(long = "with", value_name = "NEW")]
    pub new: u64,
    /// Wait until the new one has caught up
    #[arg(long)]
    pub wait: bool,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// Which cluster.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// New addresses.
#[derive(Debug, Clone, Args)]
#[command(group(clap::ArgGroup::new("addresses").required(true).multiple(true)
    .args(["peer_address", "proxy_address", "hop_address", "api_address", "zone"])))]
pub struct MoveArgs {
    /// The member
    #[arg(value_name = "ID")]
    pub id: u64,
    /// UDP: Raft
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_address: Option<String>,
    /// TCP: what clients are told
    #[arg(long, value_name = "HOST:PORT")]
    pub proxy_address: Option<String>,
    /// UDP: forwarded requests; follows the proxy's address as long as it was the same
    #[arg(long, value_name = "HOST:PORT")]
    pub hop_address: Option<String>,
    /// TCP: its API
    #[arg(long, value_name = "HOST:PORT")]
    pub api_address: Option<String>,
    /// Where it is; an empty text for nowhere
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// Which cluster.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `90s`, `10m`, `1h`, `2d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write it as 90s, 10m, 1h or 2d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text.strip_suffix(unit).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

impl Member {
    /// Carries the command out.
    pub(super) async fn run(self) -> Result<String, Failure> {
        match self {
            Self::List(args) => list(&args).await,
            Self::Add(args) => add(args).await,
            Self::Invite(args) => invite(&args).await,
            Self::Promote(PromoteArgs { id, wait, timeout, change }) => {
                patch(
                    &change,
                    id,
                    PatchMember { role: Some(Role::Voter), ..PatchMember::default() },
                    wait.then_some(timeout),
                )
                .await
            }
            Self::Demote(OneArgs { id, change }) => {
                patch(&change, id, PatchMember { role: Some(Role::Learner), ..PatchMember::default() }, None)
                    .await
            }
            Self::Replace(ReplaceArgs { old, new, wait, timeout, change }) => {
                let replaces = Some(NodeId(old));
                patch(
                    &change,
                    new,
                    PatchMember { replaces, ..PatchMember::default() },
                    wait.then_some(timeout),
                )
                .await
            }
            Self::Move(args) => {
                let MoveArgs { id, peer_address, proxy_address, hop_address, api_address, zone, change } =
                    args;
                let (peer, proxy, hop, api) = (peer_address, proxy_address, hop_address, api_address);
                let moved = PatchMember { peer, proxy, hop, api, zone, ..PatchMember::default() };
                patch(&change, id, moved, None).await
            }
            Self::Remove(OneArgs { id, change }) => {
                make(&change, id, Method::DELETE, format!("/cluster/members/{id}"), None::<&()>, None).await
            }
        }
    }
}

async fn list(args: &ClientArgs) -> Result<String, Failure> {
    let answer = client::ask(&args.api, &Call::get("/cluster/members")).await?;
    show::answer(args, &answer, |list: &MemberList| show::members(list))
}

async fn add(args: AddArgs) -> Result<String, Failure> {
    let AddArgs { id, peer_address, proxy_address, api_address, hop_address, zone, incarnation, .. } = args;
    let member = AddMember {
        id: NodeId(id),
        peer: peer_address,
        proxy: proxy_address,
        hop: hop_address,
        api: api_address,
        zone,
        incarnation: incarnation.map(|incarnation| incarnation.to_string()),
        role: args.voter.then_some(Role::Voter),
    };
    let wait = args.voter.then_some(args.timeout);
    make(&args.change, id, Method::POST, "/cluster/members".into(), Some(&member), wait).await
}

async fn patch(
    args: &ChangeArgs,
    id: u64,
    patch: PatchMember,
    wait: Option<Duration>,
) -> Result<String, Failure> {
    make(args, id, Method::PATCH, format!("/cluster/members/{id}"), Some(&patch), wait).await
}

/// Asks for a change until it is made; what passes by itself is waited for, as long as `wait` says.
async fn make(
    args: &ChangeArgs,
    id: u64,
    method: Method,
    target: String,
    content: Option<&impl Serialize>,
    wait: Option<Duration>,
) -> Result<String, Failure> {
    let call = named(args, method, target, content)?;
    let until = wait.map(|wait| Instant::now() + wait);
    let (mut told, mut told_at) = (String::new(), Instant::now());
    loop {
        let waits_for = match client::ask_until_known(&args.client.api, &call).await {
            Ok(answer) => {
                let changed: Changed = client::parse(&args.client.api.join(", "), answer.body())?;
                match changed.pending {
                    Some(pending) if wait.is_some() => pending,
                    _ => {
                        return show::answer(&args.client, answer.body(), |changed| {
                            show::changed(id, changed)
                        });
                    }
                }
            }
            Err(ClientError::Refused { passes: true, status: 409, detail, .. }) if wait.is_some() => detail,
            Err(e) => return Err(e.into()),
        };
        if until.is_some_and(|until| Instant::now() >= until) {
            let mend = "ask again to go on waiting";
            return Err(Failure::Failed(format!("node {id} is not as asked yet: {waits_for}; {mend}")));
        }
        if told != waits_for || told_at.elapsed() >= TELL_EVERY {
            eprintln!("waiting: {waits_for}");
            (told, told_at) = (waits_for, Instant::now());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A change with a name of its own.
fn named(
    args: &ChangeArgs,
    method: Method,
    target: String,
    content: Option<&impl Serialize>,
) -> Result<Call, Failure> {
    let content = content.map(serde_json::to_vec).transpose().map_err(|e| Failure::Failed(e.to_string()))?;
    let key = format!("{:032x}", rand::random::<u128>());
    let (content, token) = (content.unwrap_or_default(), args.token.clone());
    Ok(Call { method, target, content, token, fields: vec![(IDEMPOTENCY_KEY, key)] })
}

async fn invite(args: &InviteArgs) -> Result<String, Failure> {
    let wish = InviteRequest { id: NodeId(args.id), ttl_s: Some(args.ttl.as_secs()) };
    let call = named(&args.change, Method::POST, "/cluster/invitations".into(), Some(&wish))?;
    let client = &args.change.client;
    let answer = client::ask(&client.api, &call).await?;
    // The token is all of the output, so that a script can take it; the rest is for whoever looks on.
    show::answer(client, &answer, |invited: &Invited| {
        eprintln!("{}", show::invited(invited, &client.api));
        format!("{}\n", invited.token)
    })
}
