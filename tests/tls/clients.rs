//! What clients get, and what they must bring.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use support::frontend;
use support::pki::Authority;
use support::tls::ClientTls;
use support::wait::eventually;
use support::wire::{Client, LoginError, Target};

use super::Pki;
use crate::common::{Pooled, pooled};
use crate::console::{row_where, rows_where};

fn offering(pki: &Pki, mode: &str) -> Pooled {
    pooled("", |builder| pki.offer(builder, mode))
}

fn refusal(target: &Target) -> String {
    let fields = Client::try_login(target).expect_err("no login").refusal();
    assert_eq!(fields.code(), "08P01");
    assert_eq!(fields.severity(), "FATAL");
    fields.message().to_string()
}

/// The error of a login that ends in the handshake, or is closed without a word.
fn failure(target: &Target) -> std::io::Error {
    match Client::try_login(target) {
        Err(LoginError::Io(error)) => error,
        other => panic!("no broken connection but {other:?}"),
    }
}

#[test]
fn tls_is_shown_in_the_log_and_on_the_console() {
    let pki = Pki::new();
    let pooled = offering(&pki, "require");
    let mut client = Client::login(&pooled.target().tls(&pki.client()));
    client.execute("begin");
    pooled.pooler.wait_for_log("tls=TLSv1.3/TLS_AES_256_GCM_SHA384 replication=no");
    let mut console = Client::login(&pooled.pooler.target("pgbouncer").user("admin").tls(&pki.client()));
    for table in ["CLIENTS", "SOCKETS"] {
        let rows = rows_where(&mut console, table, "user", "app");
        let tls: Vec<&str> =
            rows.iter().filter(|row| row.text("type") == "C").map(|row| row.text("tls")).collect();
        assert_eq!(tls, ["TLSv1.3/TLS_AES_256_GCM_SHA384"], "{table}");
    }
    let own = row_where(&mut console, "CLIENTS", "user", "admin");
    assert_eq!(own.text("tls"), "TLSv1.3/TLS_AES_256_GCM_SHA384");

    let older = pki.client().versions(&[&rustls::version::TLS12]);
    let _client = Client::login(&pooled.target().tls(&older));
    pooled.pooler.wait_for_log("tls=TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384 replication=no");
    let strangers = ClientTls::new(&Authority::new("strangers"));
    assert_eq!(failure(&pooled.target().tls(&strangers)).kind(), ErrorKind::InvalidData);
    pooled.pooler.wait_for_log("closing because: TLS handshake failed: received fatal alert");
}

#[test]
fn the_modes_that_offer_and_demand() {
    let pki = Pki::new();
    for mode in ["allow", "prefer"] {
        let pooled = offering(&pki, mode);
        assert_eq!(pooled.connect().scalar("select 1"), "1");
        Client::login(&pooled.target().tls(&pki.client()));
    }
    let pooled = offering(&pki, "disable");
    assert_eq!(failure(&pooled.target().tls(&pki.client())).kind(), ErrorKind::Unsupported);

    let pooled = offering(&pki, "require");
    assert_eq!(refusal(&pooled.target()), "SSL required");
    let unix = Target { address: pooled.pooler.unix_address(), ..pooled.target() };
    assert_eq!(failure(&unix.clone().tls(&pki.client())).kind(), ErrorKind::Unsupported);
    let mut client = Client::login(&unix);
    client.send(frontend::query("select pg_sleep(60)"));
    eventually("the query runs", Duration::from_secs(10), || {
        pooled.database.backends("app").iter().any(|backend| backend.state == "active")
    });
    // Cancel requests are no logins.
    support::wire::cancel(&pooled.pooler.address(), client.key.as_ref().unwrap());
    assert_eq!(client.read_until_ready().error_code(), "57014");
}

#[test]
fn certificates_of_clients() {
    let pki = Pki::new();
    let with_authority = |mode: &str| {
        pooled("", |builder| pki.offer(builder, mode).setting("client_tls_ca_file", pki.path("ca.crt")))
    };
    let good = pki.client().identity(&pki.authority.client("app"));
    let bad = pki.client().identity(&Authority::new("strangers").client("app"));
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        let pooled = with_authority(mode);
        Client::login(&pooled.target().tls(&good));
        failure(&pooled.target().tls(&bad));
        let none = Client::try_login(&pooled.target().tls(&pki.client()));
        match mode {
            "verify-ca" | "verify-full" => {
                none.expect_err("without a certificate");
                assert_eq!(refusal(&pooled.target()), "SSL required");
            }
            _ => drop(none.expect("a certificate is optional")),
        }
    }
}

/// CVE-2021-3935: what comes in the clear behind the request may be anybody's.
#[test]
fn nothing_may_stand_behind_the_request_in_the_clear() {
    let pki = Pki::new();
    let pooled = offering(&pki, "prefer");
    let startup = pooled.target().startup();
    let query = frontend::query("select 1");
    for behind in [b"x".to_vec(), startup.clone(), [startup.clone(), query].concat()] {
        let mut client = Client::open(&pooled.pooler.address());
        client.send([frontend::ssl_request(), behind].concat());
        let fields = client.read().error().expect("an error");
        assert_eq!(fields.message(), "received unencrypted data after SSL request");
        assert_eq!((fields.severity(), fields.code()), ("FATAL", "08P01"));
        assert!(client.expect_closed().0.is_empty());
    }
    // What comes between the answer and the handshake is the handshake, or none.
    let mut client = Client::open(&pooled.pooler.address());
    client.send(frontend::ssl_request());
    assert_eq!(client.peer().read_bytes(1).unwrap(), b"S");
    client.send(&startup);
    let rest = client.peer().read_to_end().unwrap();
    assert!(!rest.contains(&b'R') || rest[0] == 0x15, "an answer in the clear: {}", rest.escape_ascii());
    pooled.pooler.wait_for_log("closing because: TLS handshake failed");
}

#[test]
fn requests_come_in_any_order_and_tls_only_once() {
    let pki = Pki::new();
    let pooled = offering(&pki, "require");
    let mut client = Client::open(&pooled.pooler.address());
    client.send(frontend::gssenc_request());
    assert_eq!(client.peer().read_bytes(1).unwrap(), b"N");
    client.send(frontend::gssenc_request());
    assert_eq!(client.peer().read_bytes(1).unwrap(), b"N");
    client.send(frontend::ssl_request());
    assert_eq!(client.peer().read_bytes(1).unwrap(), b"S");

    let mut stream = pki.client().connect(&pooled.pooler.address()).unwrap();
    stream.write_all(&frontend::gssenc_request()).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    stream.write_all(&frontend::ssl_request()).unwrap();
    assert_eq!(stream.read(&mut answer).unwrap(), 0, "closed without a word, and with close_notify");
    pooled.pooler.wait_for_log("closing because: SSL req inside SSL");
}

#[test]
fn tls_from_the_first_byte() {
    let pki = Pki::new();
    let pooled = offering(&pki, "require");
    let direct = pki.client().direct();
    let mut client = Client::login(&pooled.target().tls(&direct));
    assert_eq!(client.scalar("select 1"), "1");
    let stream = client.peer().stream();
    assert_eq!(stream.tls().unwrap().connection().alpn_protocol(), Some(b"postgresql".as_slice()));
    Client::login(&pooled.target().tls(&direct.clone().alpn(&[])));
    Client::login(&pooled.target().tls(&direct.clone().alpn(&["http/1.1", "postgresql"])));
    failure(&pooled.target().tls(&direct.clone().alpn(&["http/1.1"])));
    failure(&pooled.target().tls(&pki.client().alpn(&["http/1.1"])));

    let plain = offering(&pki, "disable");
    failure(&plain.target().tls(&direct));
}

#[test]
fn a_handshake_has_the_time_of_a_login() {
    let pki = Pki::new();
    let pooled = pooled("", |builder| pki.offer(builder, "require").setting("client_login_timeout", 1));
    let mut silent = Client::open(&pooled.pooler.address());
    silent.send(frontend::ssl_request());
    assert_eq!(silent.peer().read_bytes(1).unwrap(), b"S");
    silent.send([0x16, 3, 1, 1, 0]); // the head of a record whose rest does not come
    assert!(silent.peer().read_to_end().unwrap().is_empty(), "nothing can be said in the clear");
    pooled.pooler.wait_for_log("closing because: client_login_timeout");
    Client::login(&pooled.target().tls(&pki.client()));
}

#[test]
fn a_database_or_a_user_may_ask_for_more() {
    let pki = Pki::new();
    let database = crate::common::prepared_database("tls", "");
    let pooler = pki
        .offer(crate::common::pooler(), "prefer")
        .setting("client_tls_ca_file", pki.path("ca.crt"))
        .database_as("open", &database, "")
        .database_as("closed", &database, "client_tls_sslmode=require")
        .database_as("certified", &database, "client_tls_sslmode=verify-full")
        .user_line("careful", "client_tls_sslmode=require")
        .secret("careful", "")
        .start();
    let careful = pooler.target("open").user("careful");
    let console = pooler.target("pgbouncer").user("careful");
    Client::login(&pooler.target("open"));
    for target in [pooler.target("closed"), pooler.target("certified"), careful.clone(), console] {
        assert_eq!(refusal(&target), "SSL required");
    }
    let tls = pki.client();
    Client::login(&pooler.target("closed").tls(&tls));
    assert_eq!(refusal(&pooler.target("certified").tls(&tls)), "TLS client certificate required");
    let certified = tls.identity(&pki.authority.client("whoever"));
    Client::login(&pooler.target("certified").tls(&certified));
    let unix = Target { address: pooler.unix_address(), ..pooler.target("closed") };
    Client::login(&unix);
}

#[test]
fn clients_resume_their_sessions() {
    let pki = Pki::new();
    let pooled = offering(&pki, "require");
    let kind = |tls: &ClientTls| {
        let mut client = Client::login(&pooled.target().tls(tls));
        client.execute("select 1"); // a ticket comes behind the handshake
        client.peer().stream().tls().unwrap().connection().handshake_kind().unwrap()
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = pki.client().versions(&[version]);
        assert_eq!(kind(&tls), rustls::HandshakeKind::Full);
        assert_eq!(kind(&tls), rustls::HandshakeKind::Resumed);
    }
}
