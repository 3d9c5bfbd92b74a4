//! Which call a request is. The table is the whole API; `docs/openapi.json` describes the same rows,
//! and a test compares them.

use http::Method;

/// The calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Who leads.
    Leader,
    /// Hand leadership over.
    Resign,
    /// All nodes.
    Status,
    /// The state, as a file to keep.
    Backup,
    /// Who takes part.
    MemberList,
    /// Somebody more.
    MemberAdd,
    /// With or without a vote, or at other addresses.
    MemberPatch,
    /// Somebody less.
    MemberRemove,
    /// A token for a new machine.
    Invite,
    /// The new machine, with its token.
    Join,
    /// Does the process do anything.
    Livez,
    /// Can it serve.
    Readyz,
    /// Is it the one to write to.
    Primary,
    /// Is it one to read from.
    Replica,
    /// The counters.
    Metrics,
    /// The description of the API.
    OpenApi,
    /// List keys.
    KeyList,
    /// Read a key.
    KeyGet,
    /// Write a key.
    KeyPut,
    /// Remove a key.
    KeyDelete,
    /// What a node says of itself to another node.
    Report,
    /// An invitation that a node has made, for the leader.
    InviteHere,
    /// A token that a node has verified, for the leader.
    JoinHere,
}

impl Call {
    /// Whether the call may change something.
    pub const fn changes_something(self) -> bool {
        matches!(
            self,
            Self::Resign
                | Self::MemberAdd
                | Self::MemberPatch
                | Self::MemberRemove
                | Self::Invite
                | Self::Join
                | Self::KeyPut
                | Self::KeyDelete
        )
    }

    /// Whether the call needs the bearer token: changes do, and so does all of the state at once. Whoever
    /// joins has a token of its own.
    pub const fn needs_token(self) -> bool {
        (self.changes_something() && !matches!(self, Self::Join)) || matches!(self, Self::Backup)
    }
}

/// The calls of clients. A name in braces stands for the rest of the path. GET answers HEAD too.
pub const TABLE: &[(Method, &str, Call)] = &[
    (Method::GET, "/leader", Call::Leader),
    (Method::POST, "/leader/resign", Call::Resign),
    (Method::GET, "/cluster/status", Call::Status),
    (Method::GET, "/cluster/backup", Call::Backup),
    (Method::GET, "/cluster/members", Call::MemberList),
    (Method::POST, "/cluster/members", Call::MemberAdd),
    (Method::PATCH, "/cluster/members/{id}", Call::MemberPatch),
    (Method::DELETE, "/cluster/members/{id}", Call::MemberRemove),
    (Method::POST, "/cluster/invitations", Call::Invite),
    (Method::POST, "/cluster/join", Call::Join),
    (Method::GET, "/livez", Call::Livez),
    (Method::GET, "/readyz", Call::Readyz),
    (Method::GET, "/primary", Call::Primary),
    (Method::GET, "/replica", Call::Replica),
    (Method::GET, "/metrics", Call::Metrics),
    (Method::GET, "/registry/keys", Call::KeyList),
    (Method::GET, "/registry/keys/{key}", Call::KeyGet),
    (Method::PUT, "/registry/keys/{key}", Call::KeyPut),
    (Method::DELETE, "/registry/keys/{key}", Call::KeyDelete),
    (Method::GET, "/openapi.json", Call::OpenApi),
];

/// The calls of other nodes, which come over the hop and never from a client.
const INTERNAL: &[(Method, &str, Call)] = &[
    (Method::GET, REPORT, Call::Report),
    (Method::POST, INVITE, Call::InviteHere),
    (Method::POST, JOIN, Call::JoinHere),
];

/// Where a node reports on itself.
pub const REPORT: &str = "/internal/status";
/// Where the leader hears of invitations.
pub const INVITE: &str = "/internal/invitations";
/// Where the leader hears of who joins.
pub const JOIN: &str = "/internal/joins";

/// Why a request is no call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRouted {
    /// No row has this path.
    NotFound,
    /// Rows have this path, and other methods: the value of `Allow`.
    MethodNotAllowed(String),
}

/// Finds the call, and what stands for the name in braces in the path (still encoded, empty when the row has
/// none). `internal` adds the calls of other nodes.
pub fn route<'p>(method: &Method, path: &'p str, internal: bool) -> Result<(Call, &'p str), NotRouted> {
    let rows = || TABLE.iter().chain(if internal { INTERNAL } else { &[] });
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let mut allow = Vec::new();
    for (offered, pattern, call) in rows() {
        let Some(rest) = fits(pattern, path) else { continue };
        if offered == wanted {
            return Ok((*call, rest));
        }
        allow.push(offered.as_str());
    }
    if allow.is_empty() {
        return Err(NotRouted::NotFound);
    }
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    Err(NotRouted::MethodNotAllowed(allow.join(", ")))
}

/// What `path` has in the place of the name in braces, when it fits the pattern.
fn fits<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    match pattern.split_once('{') {
        Some((start, _)) => path.strip_prefix(start).filter(|rest| !rest.is_empty()),
        None => (pattern == path).then_some(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_rest_of_the_path() {
        let get = |path| route(&Method::GET, path, false);
        assert_eq!(get("/registry/keys/a/b%20c"), Ok((Call::KeyGet, "a/b%20c")));
        assert_eq!(get("/registry/keys"), Ok((Call::KeyList, "")));
        assert_eq!(get("/registry/keys/"), Err(NotRouted::NotFound));
        assert_eq!(get("/leader/"), Err(NotRouted::NotFound));
    }

    #[test]
    fn head_is_answered_where_get_is() {
        assert_eq!(route(&Method::HEAD, "/leader", false), Ok((Call::Leader, "")));
        let refused = route(&Method::HEAD, "/leader/resign", false);
        assert_eq!(refused, Err(NotRouted::MethodNotAllowed("POST".into())));
    }

    #[test]
    fn another_method_is_told_which_are_offered() {
        let refused = route(&Method::POST, "/registry/keys/a", false);
        assert_eq!(refused, Err(NotRouted::MethodNotAllowed("GET, PUT, DELETE, HEAD".into())));
    }

    #[test]
    fn the_calls_of_nodes_are_not_there_for_clients() {
        assert_eq!(route(&Method::GET, REPORT, false), Err(NotRouted::NotFound));
        assert_eq!(route(&Method::GET, REPORT, true), Ok((Call::Report, "")));
    }
}
