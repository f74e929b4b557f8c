//! TLS of the wire client, against PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use pgferry_test_support::peer::Stream;
use pgferry_test_support::pki::Authority;
use pgferry_test_support::postgres::{Options, Postgres, USER};
use pgferry_test_support::tls::ClientTls;
use pgferry_test_support::wait::eventually;
use pgferry_test_support::wire::Client;

#[test]
fn a_client_speaks_tls_with_postgresql() {
    let authority = Authority::new("tests");
    let below = authority.intermediate("below");
    let options = Options::new()
        .tls(&below.server(&["localhost", "127.0.0.1"]), Some(&authority))
        .hba("hostssl all postgres 127.0.0.1/32 cert");
    let postgres = Postgres::start(options);
    let database = postgres.database("tls");
    let tls = ClientTls::new(&authority).name("127.0.0.1");

    let mut client = Client::login(&database.target().tls(&tls));
    assert_eq!(client.scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
    client.send(pgferry_test_support::frontend::query("select pg_sleep(60)"));
    eventually("the query runs", Duration::from_secs(10), || {
        database.backends(USER).iter().any(|backend| backend.state == "active")
    });
    client.cancel();
    assert_eq!(client.read_until_ready().error_code(), "57014");

    let superuser = database.target().user("postgres");
    let certified = tls.clone().identity(&below.client("postgres"));
    Client::login(&superuser.clone().tls(&certified));
    let other = tls.clone().identity(&below.client("somebody"));
    assert!(Client::try_login(&superuser.tls(&other)).is_err());

    let strangers = ClientTls::new(&Authority::new("strangers"));
    assert!(Client::try_login(&database.target().tls(&strangers)).is_err());

    postgres.replace_certificate(&Authority::new("strangers").server(&["localhost"]));
    assert!(Client::try_login(&database.target().tls(&tls)).is_err());
    assert!(matches!(Client::open(&postgres.address()).peer().stream(), Stream::Tcp(_)));
}
