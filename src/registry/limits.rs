//! What the registry holds at most. It is for small facts about a cluster, kept in the memory of
//! every node and replayed at each start; whoever needs more wants a database behind a route.
//!
//! The limits are part of the replicated state machine: all nodes of a cluster must run with the
//! same, or the same log would lead to different states. So they are constants, not settings.

/// Bytes of a key: long enough for paths with ids in them, short enough for a URL.
pub const KEY_BYTES: usize = 512;
/// Bytes of a value: one entry fits a few frames of the transport.
pub const VALUE_BYTES: usize = 1024 * 1024;
/// Bytes of all keys and values together: what a small machine can keep in memory.
pub const TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// Keys: their overhead in memory stays below the limit of their bytes.
pub const KEYS: usize = 1_000_000;
/// Resources with a recorded fence; routes come from the configuration, so a cluster has dozens.
pub const FENCES: usize = 10_000;
/// Members whose addresses are remembered: seven voters, learners, and those that left.
pub const MEMBERS: usize = 64;
/// Former members that are remembered as removed.
pub const REMOVED: usize = 256;
/// Bytes of one address or zone of a member: a DNS name has at most 253 and a port.
pub const ADDRESS_BYTES: usize = 300;
/// Changes of the members whose requests are remembered: whoever asks again does so within minutes, and
/// nobody changes members hundreds of times in that time.
pub const CHANGES: usize = 256;
/// Invitations that are open at the same time; more than any cluster has members.
pub const INVITATIONS: usize = 64;
/// Bytes of the name of a request: a UUID and more.
pub const REQUEST_KEY_BYTES: usize = 128;
/// Leaders that are remembered: a bad night's worth of elections.
pub const LEADERS: usize = 128;

/// Whether `key` may name something: 1 to [`KEY_BYTES`] bytes, without control characters, so that
/// it can be shown in a log line and in a table.
pub fn valid_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("a key must not be empty");
    }
    if key.len() > KEY_BYTES {
        return Err("a key has at most 512 bytes");
    }
    if key.chars().any(char::is_control) {
        return Err("a key must not contain control characters");
    }
    Ok(())
}
