//! Integration tests: one binary, a module for each behaviour. Every test has a database of its own and a pooler
//! process of its own; most have one server connection, which makes faults of hand-over deterministic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test has measured is shown with --nocapture")]

mod as_pgbouncer;
mod auth_query;
mod bulk;
mod calls;
mod cancel_races;
mod cancels;
mod chaos;
mod common;
mod console;
mod console_commands;
mod console_protocol;
mod copy;
mod cves;
mod dead_peers;
mod deadlines;
mod deaths;
mod demo;
mod events;
mod extended;
mod hba;
mod hostile;
mod http;
mod kept_servers;
mod ldap;
mod leaks;
mod leaving;
mod limits;
mod login_matrix;
mod logins;
mod logins_as_pgbouncer;
mod memory;
mod modes;
mod moving;
mod notify;
mod one_by_one;
mod operations;
mod options;
mod overload;
#[cfg(feature = "pam")]
mod pam;
mod parity;
mod peers;
mod ping;
mod pins;
mod pipelines;
mod prepared;
#[allow(dead_code)]
mod probe;
mod process;
mod reloads;
mod replicas;
mod replication;
mod restart;
mod rotation;
mod secrets;
mod settings_follow;
mod simple;
mod slow_failures;
mod state;
mod timeouts;
mod tls;
mod watching;
