use super::{Column, int4, numeric, text};

/// One row a host of a cluster. Times in `_ms` are milliseconds, `_us` microseconds; what is not known is NULL.
pub(super) const HOSTS: &[Column] = &[
    text("databases"),
    text("host"),
    int4("port"),
    text("zone"),
    int4("weight"),
    text("role"),
    int4("timeline"),
    text("lsn"),
    numeric("lag_bytes"),
    numeric("lag_ms"),
    text("breaker"),
    text("breaker_reason"),
    numeric("breaker_since_ms"),
    numeric("breaker_retry_ms"),
    int4("outstanding"),
    numeric("reads"),
    numeric("read_share"),
    numeric("probes"),
    numeric("probe_failures"),
    text("probe_error"),
    numeric("probe_us"),
    numeric("probe_age_ms"),
];

pub(super) const ROUTING: &[Column] =
    &[text("database"), text("user"), text("target"), text("reason"), numeric("count")];

/// The columns of `SHOW ROUTE`, which takes a statement and so is none of the items.
pub const ROUTE: &[Column] = &[text("database"), text("target"), text("hosts"), text("reason"), text("why")];
