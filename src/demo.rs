//! `pgferry demo`.

use std::error::Error;

use pgbouncer_compat::cli::DemoOptions;

/// Runs the demonstration.
pub fn run(_options: &DemoOptions) -> Result<(), Box<dyn Error>> {
    Err("not here yet".into())
}
