//! pgferry's data path.

pub mod config;
