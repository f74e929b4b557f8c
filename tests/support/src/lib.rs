//! What tests and benches need around a pooler: a throw-away PostgreSQL, a pooler process, a wire client that sends and
//! reads exact messages, scripted peers, a byte-level tap, and the direct oracle that compares a pooler with PostgreSQL.
//!
//! Everything blocks, with a deadline on every wait: a test that fails says what it waited for. Everything that is
//! started is stopped and removed when its value is dropped, and by a watchdog process when the test dies instead.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

pub mod backend;
pub mod frontend;
pub mod ldap;
pub mod message;
pub mod network;
pub mod oracle;
pub mod peer;
pub mod pki;
pub mod pooler;
pub mod postgres;
pub mod proc;
pub mod replicas;
pub mod scripted;
pub mod secrets;
pub mod slapd;
pub mod tap;
pub mod tls;
pub mod tools;
pub mod wait;
pub mod wire;

mod diff;
mod scram;
pub mod scratch;
mod watchdog;
