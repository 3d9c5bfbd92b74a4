//! Every limit of the proxy, with its reason. What a client or a backend can make grow is named
//! here, or it does not grow.

use crate::time::Duration;

/// Bytes of a request's head. Browsers with many cookies stay under half of it.
pub const HEAD_BYTES: usize = 32 * 1024;
/// Fields of a request.
pub const HEAD_FIELDS: usize = 100;
/// Bytes of a request target.
pub const TARGET_BYTES: usize = 8 * 1024;
/// Bytes of a head that hyper reads. More than the limits above allow, so that what is somewhat too
/// large is answered with a problem; beyond it hyper answers a bare 431.
pub const PARSED_HEAD_BYTES: usize = 64 * 1024;
/// Fields that hyper reads, likewise.
pub const PARSED_FIELDS: usize = 128;
/// Bytes of a request body.
pub const BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of a body that are kept to send the request again.
pub const REPLAY_BYTES: u64 = 64 * 1024;
/// Bytes of a backend's response head.
pub const ANSWER_HEAD_BYTES: usize = 64 * 1024;
/// Fields of a backend's response.
pub const ANSWER_FIELDS: usize = 256;

/// Lanes: threads that accept, forward and answer. More than this only pays on machines larger than
/// this was measured on.
pub const LANES_MAX: usize = 4;
/// Client connections of one lane.
pub const CLIENT_CONNECTIONS: usize = 2_500;
/// Concurrent streams of one HTTP/2 client connection.
pub const STREAMS: u32 = 128;
/// Requests that may wait for a leader, on the whole node; beyond it the newest are shed.
pub const HELD_REQUESTS: usize = 4096;

/// From accept until the protocol is known.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// A request's head, and an idle HTTP/1 client connection.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest pause of a client inside its body.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// All pauses of a client inside its body together, beside what [`BODY_RATE_MIN`] allows: one byte
/// now and then must not hold a backend connection for ever.
pub const BODY_PAUSES: Duration = Duration::from_secs(20);
/// Bytes a second that a client may be waited for at least: a slow mobile network has several times
/// as many.
pub const BODY_RATE_MIN: u64 = 4096;
/// What the leader adds to these when the body comes from another node, and that node to the
/// leader's limits: the node that sees the cause is to name it.
pub const HOP_SLACK: Duration = Duration::from_secs(4);
/// How long a client may take nothing of an answer that is there: then its connection, or its HTTP/2
/// stream, is given up, and the backend connection with it.
pub const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 keep-alive.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections may finish what they do when the proxy stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connecting to a backend, with TLS.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Waiting for one of the backend connections of a lane.
pub const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(1);
/// From the request's last byte (or a client's pause in it) to the head of the backend's answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause of a backend inside its answer.
pub const ANSWER_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one lane to one backend that carry a request.
pub const BACKEND_CONNECTIONS: usize = 256;
/// Idle connections of one lane to one backend, beside those.
pub const BACKEND_IDLE: usize = 64;
/// An idle connection older than this is not used. Shorter than backends keep theirs, and than a guard
/// does (30 s, `guard/server`): Node.js, Apache and uvicorn close after 5 s, and a write that is on
/// its way meanwhile has an unknown outcome.
pub const BACKEND_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// One call to raise a fence: the backend answers only when no older write can still commit.
pub const RAISE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at the fence behind an open gate. A promoted replica or a restored copy of a backend
/// may stand lower, and admits an older leader's writes until it is raised again.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// One such look.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the answer to a raise.
pub const RAISE_ANSWER_BYTES: usize = 16 * 1024;

/// The first pause before a request is offered again to a leader that refused it.
pub const REDISPATCH_PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest such pause.
pub const REDISPATCH_PAUSE_MAX: Duration = Duration::from_millis(100);
/// A leader that was heard this short a time ago is taken to be alive: small content follows its head
/// at once. Otherwise it is withheld for one round trip, so that a request to a leader that has just
/// died is known to have had no effect. Under load nearly everything is sent at once.
pub const LEADER_FRESH: Duration = Duration::from_millis(10);
/// How long the true answer of a deposed leader is waited for.
pub const LATE_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// What clients are told to wait before they try again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
