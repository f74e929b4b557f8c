//! Integration tests: one binary, a module for each behaviour. Every test has a database of its own and a pooler
//! process of its own; most have one server connection, which makes faults of hand-over deterministic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test has measured is shown with --nocapture")]

mod bulk;
mod cancels;
mod chaos;
mod common;
mod console;
mod copy;
mod deaths;
mod demo;
mod extended;
mod hostile;
mod leaving;
mod limits;
mod logins;
mod modes;
mod pipelines;
mod prepared;
#[allow(dead_code)]
mod probe;
mod simple;
mod state;
