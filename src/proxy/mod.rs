//! HTTP in, HTTP out: the path of a request.
//!
//! The idea: every request gets one truthful outcome. What decides is not an error's name but what
//! is known to have been sent: nothing (then it is sent again, whatever its method), something
//! (then it is unknown, and never sent again by us), or an answer.
//!
//! A walk-through, `POST /orders` at a follower. A lane's `listener` accepts the connection and
//! finds out its protocol. `validate` reads the request strictly, `fields` strips what is not
//! end-to-end and drops every copy of our own fields. `service` finds the route, and `hold` waits
//! until somebody leads. `forward` offers the request to the leader over the hop; there `ingress`
//! takes it and `lead` passes it through the gate (`gates`), checks out a connection (`pool`), asks
//! for the content if it was withheld, stamps the term, and sends. The first write to the socket
//! asks the gate once more and counts every byte from then on (`ledger`). The answer streams back
//! the same way; if it breaks off, the client's connection breaks off too.
//!
//! When leadership moves, `gatekeeper` raises the fence at each backend (`raise`) and only then
//! opens the route's gate. Requests that were held, refused or certainly not sent go to the new
//! leader, with the same request id.
//!
//! | file | idea |
//! |---|---|
//! | `start` | threads: one per lane, one for the gates |
//! | `listener` | accepts clients, with a deadline for everything |
//! | `service` | the phases of a request, as one list |
//! | `validate`, `fields` | what a request means, and which fields pass |
//! | `route` | which resource, how protected |
//! | `hold` | waits for a leader, bounded |
//! | `job` | one request as every attempt sees it, and how an attempt ends |
//! | `lead` | the leader's side: gate, connection, stamp, gate, send |
//! | `forward`, `ingress`, `wirehead` | the two ends of the hop |
//! | `farewell` | whom the hop knows: the members, and those who have just left |
//! | `hop_api` | API calls over the same hop |
//! | `gates`, `gatekeeper`, `raise` | who turns the gates, and when |
//! | `pool`, `upstream`, `ledger` | connections to backends, and what they were sent |
//! | `body`, `answer` | content on its way up and down |
//! | `limits` | every limit, with its reason |
//!
//! Left out: TLS towards clients, upgrades (WebSocket) and CONNECT, caching, retries of requests that a
//! backend may have seen (also with an `Idempotency-Key`), trailers, rate limits per client.

pub mod answer;
pub mod body;
pub mod farewell;
pub mod fields;
pub mod forward;
pub mod gatekeeper;
pub mod gates;
pub mod hold;
pub mod hop_api;
pub mod ingress;
pub mod job;
pub mod lead;
pub mod ledger;
pub mod limits;
pub mod listener;
pub mod pool;
pub mod raise;
pub mod route;
pub mod service;
pub mod start;
pub mod upstream;
pub mod validate;
pub mod wirehead;
