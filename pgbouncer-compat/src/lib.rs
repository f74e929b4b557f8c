//! The surface of PgBouncer, so that its configuration files, command lines and tools work unchanged: everything here
//! is measured against PgBouncer 1.25.
//!
//! A configuration is read in two steps. `ini` turns files into a draft: entries as written, each with its file and
//! line. [`load()`] turns the draft into [`pooler::config::Config`] and reports every fault at once. In between, every
//! setting is one row of [`settings::SETTINGS`], which parsing, `SHOW CONFIG`, the reference page and the tests walk.
//!
//! The console's vocabulary is here as data: [`command`] reads what an administrator types, [`columns`] says what each
//! `SHOW` answers with.

pub mod cli;
pub mod columns;
pub mod command;
mod connstr;
mod databases;
mod finding;
pub mod hba;
mod ini;
pub mod ldap;
mod limits;
mod load;
#[cfg(test)]
mod manual;
mod peers;
mod reference;
mod routing;
mod secret;
pub mod settings;
pub mod texts;
mod tls;
mod userlist;
mod users;
mod value;

pub use finding::{Faults, Finding, Place};
pub use load::{Draft, Loaded, LogFormat, NotSet, Program, Syslog, load, load_from, reload};
pub use reference::reference;
