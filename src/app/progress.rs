//! What a person who watches is told of a machine that has just joined: how far it has caught up, and its vote,
//! which is asked for here when it was wanted.

use http::Method;
use tokio::time::{Duration, sleep};

use crate::api::answers::members::{MemberInfo, MemberList, PatchMember, Role};
use crate::cli::client::{self, Call};
use crate::config::node::NodeConfig;

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tells how the node that has just started gets on, until it has caught up, or has its vote.
pub async fn tell(config: NodeConfig, voter: bool) {
    let id = config.id();
    let api = config.listen.api.to_string();
    let token = config.token.as_ref().map(|token| token.reveal().to_owned());
    let mut told = String::new();
    loop {
        sleep(LOOK_EVERY).await;
        let list = client::send(&api, &Call::get("/cluster/members")).await;
        let list = list.and_then(|content| client::parse::<MemberList>(&api, &content));
        let member = list.ok().and_then(|list| list.members.into_iter().find(|member| member.id == id));
        let (text, over) = match &member {
            None => ("waiting to hear from the leader".to_owned(), false),
            Some(member) => stage(member, voter),
        };
        if told != text {
            eprintln!("node {id}: {text}");
            told = text;
        }
        if over {
            return;
        }
        let ready = member.is_some_and(|member| member.role == "learner" && member.caught_up == Some(true));
        if voter && ready {
            let patch = PatchMember { role: Some(Role::Voter), ..PatchMember::default() };
            let content = serde_json::to_vec(&patch).unwrap_or_default();
            let target = format!("/cluster/members/{id}");
            let call = Call { method: Method::PATCH, content, token: token.clone(), ..Call::get(target) };
            if let Err(error) = client::send(&api, &call).await {
                tracing::warn!(%error, "no vote yet; it is asked for again");
            }
        }
    }
}

/// How far a member is, and whether that is all that was asked for.
fn stage(member: &MemberInfo, voter: bool) -> (String, bool) {
    let caught_up = member.caught_up == Some(true);
    match (member.role.as_str(), caught_up) {
        ("learner", true) if voter => ("has caught up; asking for a vote".into(), false),
        ("learner", true) => {
            let mend = format!("`termgate member promote {}` gives it a vote", member.id);
            (format!("has caught up, without a vote; {mend}"), true)
        }
        ("learner", false) => match member.behind.filter(|_| member.last_contact_ms.is_some()) {
            Some(behind) => (format!("catching up, {behind} entries behind"), false),
            None => ("a member, and the leader has not heard it yet".into(), false),
        },
        (role, _) => (format!("a {role}"), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn progress_is_told_in_words() {
        let member = |role: &str, behind, contact| MemberInfo {
            id: NodeId(4),
            role: role.into(),
            behind,
            caught_up: Some(behind == Some(0)),
            last_contact_ms: contact,
            ..MemberInfo::default()
        };
        let told = |member: &MemberInfo, voter| stage(member, voter);
        let (text, over) = told(&member("learner", Some(5000), Some(3)), false);
        assert_eq!((text.as_str(), over), ("catching up, 5000 entries behind", false));
        let (text, over) = told(&member("learner", Some(5000), None), false);
        assert_eq!((text.as_str(), over), ("a member, and the leader has not heard it yet", false));
        let (text, over) = told(&member("learner", Some(0), Some(3)), false);
        assert_eq!(
            (text.as_str(), over),
            ("has caught up, without a vote; `termgate member promote 4` gives it a vote", true)
        );
        assert!(!told(&member("learner", Some(0), Some(3)), true).1);
        assert_eq!(told(&member("voter", Some(0), Some(3)), true), ("a voter".into(), true));
    }
}
