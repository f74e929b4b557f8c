//! Fuzz targets for the crates that read what others send, `protocol` and `sql`, and for the files that say who may log
//! in. Each takes any bytes and panics where an invariant does not hold.

mod error_fields;
mod frames;
mod hba;
mod input;
mod operations;
mod postgres;
mod scram;
mod sql;
mod startup;

pub use error_fields::error_fields;
pub use frames::frames;
pub use hba::hba;
pub use operations::operations;
pub use scram::scram;
pub use sql::sql;
pub use startup::startup;

/// A target by name, with inputs to start mutating from.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub corpus: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    Target { name: "startup", run: startup, corpus: startup::corpus },
    Target { name: "scram", run: scram, corpus: scram::corpus },
    Target { name: "error_fields", run: error_fields, corpus: error_fields::corpus },
    Target { name: "frames", run: frames, corpus: frames::corpus },
    Target { name: "hba", run: hba, corpus: hba::corpus },
    Target { name: "operations", run: operations, corpus: operations::corpus },
    Target { name: "sql", run: sql, corpus: sql::corpus },
];
