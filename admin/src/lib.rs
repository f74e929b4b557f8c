//! The admin console: what a client of the database `pgbouncer` may ask and order, in PgBouncer's words.
//!
//! `console` reads a command and checks rights. `show` turns the pooler's snapshot into tables (`rows` puts them into
//! messages), `operate` carries out commands that change something, `conversation` speaks the protocol. The session
//! that carries the messages is the pooler's, which knows this crate as [`pooler::console::Console`].

mod console;
mod conversation;
pub mod http;
mod operate;
mod portal;
mod prometheus;
mod rows;
mod show;

pub use console::{AdminConsole, Configuration};
