//! pgferry's data path: many client sessions on few server connections.
//!
//! The journey of a query, file by file:
//!
//! 1. `worker`: one thread, one event loop. The client's socket becomes readable and its session's task runs.
//! 2. `client` (`Session::turn`) reads into the worker's buffer; `client::request` cuts messages by their headers and
//!    asks `protocol::session::ClientMachine` what each means.
//! 3. `client::link` takes an idle server of this worker from `pool`; `client::wait` is the slow path through
//!    `pool::Pool::pump` (another worker's server, a new connection by `server::connect`, or the queue).
//! 4. If the server's parameters differ from the client's (`params`, one pointer comparison), the statements that
//!    change them go in front, in the same write.
//! 5. It writes the messages and tells `protocol::session::ServerMachine`, which queues what is owed; `client::reply`
//!    reads the replies into the same buffer, looks at their headers, and writes them to the client.
//! 6. When the machine proves the server idle, it goes back: to the client that waits longest, or on the idle list.
//!
//! A client that leaves in the middle hands its server to `salvage`. Cancel requests come in through `admit` and are
//! guarded by `cancel`, or passed on by `peers`. Everything from outside goes through `control`.

mod admit;
pub mod advice;
mod alarms;
mod answers;
mod auth_query;
pub mod blockers;
mod buffers;
mod cancel;
mod client;
mod clients;
mod cluster;
pub mod config;
pub mod console;
mod consoles;
pub mod control;
mod error;
mod events;
mod handover;
mod intern;
pub mod latency;
mod ldap;
mod lifecycle;
mod listen;
mod load;
mod names;
mod net;
mod newcomers;
mod notify;
mod pam;
mod params;
mod peers;
mod pool;
mod prepared;
pub mod queries;
pub mod reload;
mod routing;
mod running;
mod salvage;
mod secrets;
mod server;
mod shared;
pub mod snapshot;
mod state;
pub mod stats;
pub mod tls;
mod unsent;
mod vacate;
pub mod waiting;
mod worker;

/// Whether this build can ask PAM.
pub const HAS_PAM: bool = cfg!(feature = "pam");

pub use handover::Inheritance;
pub use lifecycle::Phase;
pub use listen::{ListenError, Listener, bind, check_in_use};
pub use net::Peer;
pub use pool::Occupancy;
pub use running::{Ended, Running, start};
