//! TLS to PostgreSQL, and to scripted servers.

use crate::common::pooler;
use crate::console::row_where;

use super::{TLS_OF_SERVER, secured};

#[test]
fn servers_that_can_are_spoken_to_over_tls() {
    let database = secured().database("tls");
    let pooler = pooler().database(&database, "").start();
    let mut client = pooler.connect(database.name());
    assert_eq!(client.scalar(TLS_OF_SERVER), "t TLSv1.3 TLS_AES_256_GCM_SHA384");
    pooler.wait_for_log("SSL established: TLSv1.3/TLS_AES_256_GCM_SHA384");
    let row = row_where(&mut pooler.console(), "SERVERS", "user", "app");
    assert_eq!(row.text("tls"), "TLSv1.3/TLS_AES_256_GCM_SHA384");
}
