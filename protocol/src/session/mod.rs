//! The two machines of a connection: what a client has begun, and what a server still owes.
//!
//! Both take one message at a time, by tag, as it crosses the pooler, and answer what it means. They do no I/O and
//! keep no bytes. Methods named `on_…` report that something happened; the others only ask.

mod client;
mod owed;
mod server;

pub use client::{ClientMachine, Request};
pub use owed::{Invented, Origin, Owes, Route, Violation};
pub use server::{Idle, ServerMachine};
