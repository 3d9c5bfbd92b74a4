//! Invitations, and how a new machine joins with one.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Term};
use crate::registry::command::{Member, Redemption};

/// `POST /cluster/invitations`, the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// For which id.
    pub id: NodeId,
    /// For how many seconds; an hour unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// `POST /cluster/invitations`, the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// Of which cluster.
    pub cluster: String,
    /// For which id.
    pub id: NodeId,
    /// What the new machine is given. It is told once and kept nowhere.
    pub token: String,
    /// Until when it is good, RFC 3339.
    pub expires_at: String,
}

/// `POST /cluster/join`, the request. `Termgate-Signature` carries the token's signature over its very bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Who joins, and where it is.
    pub member: JoinMember,
    /// Its data directory.
    pub incarnation: String,
    /// A certificate request (PKCS #10, PEM) for its key. Nothing but the key counts of it.
    pub csr: String,
}

/// A member's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinMember {
    /// The member.
    pub id: NodeId,
    /// UDP: Raft.
    pub peer: String,
    /// UDP: forwarded requests.
    pub hop: String,
    /// TCP: what clients are told.
    pub proxy: String,
    /// TCP: the API.
    pub api: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// `POST /cluster/join`, the answer. `Termgate-Signature` carries the authority's seal over its very bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// The cluster's name.
    pub cluster: String,
    /// The new member's certificate, PEM.
    pub certificate: String,
    /// The authorities that the cluster trusts, PEM.
    pub ca: String,
    /// The members, the new one among them.
    pub members: Vec<JoinMember>,
    /// What the nodes should have in common, as it stands in a configuration (TOML): `[raft]` and `[[route]]`.
    pub settings: String,
    /// The term of the node that answers.
    pub term: Term,
}

/// A join that a node has verified, for the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedJoin {
    /// What the registry is to take down.
    pub redemption: Redemption,
    /// The data directory of the new member.
    pub incarnation: u64,
}

impl From<JoinMember> for Member {
    fn from(member: JoinMember) -> Self {
        let JoinMember { id, peer, hop, proxy, api, zone } = member;
        Self { id, peer, hop, proxy, api, zone }
    }
}

impl From<Member> for JoinMember {
    fn from(member: Member) -> Self {
        let Member { id, peer, hop, proxy, api, zone } = member;
        Self { id, peer, hop, proxy, api, zone }
    }
}
