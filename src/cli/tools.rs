//! The commands that are no server. Each returns the text to print.

use std::path::Path;

use http::Method;
use http::header::IF_MATCH;
use serde::de::DeserializeOwned;

use crate::api::answers::ResignRequest;
use crate::certs;
use crate::cli::client::{self, Call, ClientError};
use crate::cli::{Certs, ClientArgs, Failure, IssueArgs, ResignArgs, Tool, backup, disaster, show};
use crate::config::issue::lines;
use crate::config::{AnyConfig, load_any};
use crate::ids::NodeId;
use crate::transport::identity::Subject;

impl Tool {
    /// Carries the command out. The text is for standard output.
    pub fn run(self) -> Result<String, Failure> {
        match self {
            Self::Certs(certs) => make(certs),
            Self::Leader(args) => block_on(get(&args, "/leader", show::leader)),
            Self::Status(args) => block_on(get(&args, "/cluster/status", show::status)),
            Self::Resign(args) => block_on(resign(&args)),
            Self::Check(args) => check(&args.config),
            Self::Member(member) => block_on(member.run()),
            Self::Backup(args) => block_on(backup::run(&args)),
            Self::Restore(args) => block_on(disaster::restore(&args)),
            Self::Recover(args) => block_on(disaster::recover(&args)),
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::Failed(format!("no runtime: {e}")))?.block_on(work)
}

/// What a command shows of an answer of type `T`.
type Show<T> = fn(&T) -> String;

async fn get<T: DeserializeOwned>(args: &ClientArgs, target: &str, show: Show<T>) -> Result<String, Failure> {
    show::answer(args, &client::ask(&args.api, &Call::get(target)).await?, show)
}

async fn resign(args: &ResignArgs) -> Result<String, Failure> {
    let wish = ResignRequest { to: args.to.map(NodeId), reason: args.reason.clone() };
    let content = serde_json::to_vec(&wish).map_err(|e| Failure::Failed(e.to_string()))?;
    let call = Call {
        method: Method::POST,
        target: "/leader/resign".into(),
        content,
        token: args.token.clone(),
        fields: args.if_term.map(|term| (IF_MATCH, format!("\"{term}\""))).into_iter().collect(),
    };
    let answer = client::ask(&args.client.api, &call).await.map_err(not_resigned)?;
    show::answer(&args.client, &answer, show::resigned)
}

/// The only precondition of a resignation is the term that it names: that leadership is over, and no
/// later leader was asked to hand over.
fn not_resigned(error: ClientError) -> Failure {
    match error {
        ClientError::Refused { status: 412, .. } => Failure::LeadershipLost(error.to_string()),
        other => other.into(),
    }
}

fn make(certs: Certs) -> Result<String, Failure> {
    let made = match &certs {
        Certs::Init { cluster, out } => certs::init(cluster, out),
        Certs::Issue(args) => certs::issue(&args.ca, &subject(args), &args.out, &args.san),
    };
    let files = made.map_err(|e| Failure::Failed(e.to_string()))?;
    let mut text = format!("{}\n{}\n", files.certificate.display(), files.key.display());
    if matches!(certs, Certs::Init { .. }) {
        text.push_str("keep the key offline: whoever has it can make nodes of this cluster\n");
    }
    Ok(text)
}

/// The command line takes exactly one of the three.
fn subject(args: &IssueArgs) -> Subject {
    match (args.node, &args.guard, &args.client) {
        (Some(id), _, _) => Subject::Node(NodeId(id)),
        (_, Some(name), _) => Subject::Guard(name.clone()),
        (_, _, name) => Subject::Client(name.clone().unwrap_or_default()),
    }
}

fn check(file: &Path) -> Result<String, Failure> {
    let checked = load_any(file).map_err(|invalid| Failure::Usage(invalid.to_string()))?;
    let mut text = String::new();
    if !checked.warnings.is_empty() {
        text = lines(&checked.warnings) + "\n";
    }
    let what = match checked.config {
        AnyConfig::Node(node) => format!(
            "node {} of {} in cluster {}, routes: {}",
            node.id(),
            node.members.len(),
            node.cluster,
            node.routes.len()
        ),
        AnyConfig::Guard(guard) => format!("guard of {} in cluster {}", guard.resource, guard.cluster),
    };
    Ok(format!("{text}{} is right: {what}\n", file.display()))
}
