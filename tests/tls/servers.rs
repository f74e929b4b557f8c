//! TLS to PostgreSQL, to another pooler, and to scripted servers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use support::frontend;
use support::pki::{Authority, Files, Identity, common_name};
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::Database;
use support::scripted::ScriptedServer;
use support::tap::Tap;
use support::tls::ServerTls;
use support::wait::eventually;
use support::wire::Client;

use super::{Pki, TLS_OF_SERVER, secured};
use crate::common::{pooler, prepared_database};
use crate::console::row_where;

const SOON: Duration = Duration::from_secs(10);

/// A pooler for one database at this host, with these settings for TLS to servers.
fn toward(database: &Database, host: &str, tls: &[(&str, &str)]) -> PoolerBuilder {
    let (port, dbname) = (database.postgres().port(), database.name());
    let line = format!("host={host} port={port} dbname={dbname}");
    tls.iter()
        .fold(pooler().database_line("app", &line), |builder, (name, value)| builder.setting(name, value))
}

/// No client gets through, and the log says why.
fn never_connects(builder: PoolerBuilder, why: &str) {
    let pooler = builder.setting("query_wait_timeout", 1).start();
    let refused = Client::try_login(&pooler.target("app")).expect_err("no server").refusal();
    assert!(
        refused.message().contains("query_wait_timeout") || refused.message().contains("login"),
        "{refused:?}"
    );
    pooler.wait_for_log(why);
}

fn connects(builder: PoolerBuilder) -> Pooler {
    let pooler = builder.start();
    assert_eq!(pooler.connect("app").scalar("select 42"), "42");
    pooler
}

#[test]
fn servers_that_can_are_spoken_to_over_tls() {
    let database = secured().database("tls");
    for mode in ["allow", "prefer", "require"] {
        let pooler = toward(&database, "127.0.0.1", &[("server_tls_sslmode", mode)]).start();
        let mut client = pooler.connect("app");
        assert_eq!(client.scalar(TLS_OF_SERVER), "t TLSv1.3 TLS_AES_256_GCM_SHA384");
        pooler.wait_for_log("SSL established: TLSv1.3/TLS_AES_256_GCM_SHA384");
        let row = row_where(&mut pooler.console(), "SERVERS", "user", "app");
        assert_eq!(row.text("tls"), "TLSv1.3/TLS_AES_256_GCM_SHA384");
    }
    // One server: the first client's may not be back when the second one asks.
    let in_the_clear = [("server_tls_sslmode", "disable"), ("default_pool_size", "1")];
    let pooler = connects(toward(&database, "127.0.0.1", &in_the_clear));
    assert_eq!(pooler.connect("app").scalar(TLS_OF_SERVER), "f");
    assert_eq!(row_where(&mut pooler.console(), "SERVERS", "user", "app").text("tls"), "");
}

#[test]
fn a_server_that_says_no() {
    let database = prepared_database("tls", "");
    for mode in ["allow", "prefer"] {
        connects(toward(&database, "127.0.0.1", &[("server_tls_sslmode", mode)]));
    }
    never_connects(
        toward(&database, "127.0.0.1", &[("server_tls_sslmode", "require")]),
        "server refused SSL",
    );
}

#[test]
fn certificates_of_servers_are_verified() {
    let (files, database) = (Files::new(), secured().database("tls"));
    let path = |name: &str, text: &str| files.write(name, text).display().to_string();
    let good = path("good.crt", &secured().authority.pem());
    let wrong = path("wrong.crt", &Authority::new("another").pem());
    for mode in ["require", "verify-ca", "verify-full"] {
        let with = |ca: &str| {
            toward(&database, "localhost", &[("server_tls_sslmode", mode), ("server_tls_ca_file", ca)])
        };
        never_connects(with(&wrong), "TLS handshake failed: invalid peer certificate: UnknownIssuer");
        connects(with(&good));
    }
    let full = |host: &str| {
        toward(&database, host, &[("server_tls_sslmode", "verify-full"), ("server_tls_ca_file", &good)])
            .setting("default_pool_size", 3)
    };
    // A list of hosts; each is checked by the name in the list.
    connects(full("localhost,127.0.0.1"));
}

/// A server with this certificate, reached as `127.0.0.1` with these settings.
fn with_certificate(identity: &Identity, tls: &[(&str, &str)]) -> (ScriptedServer, PoolerBuilder) {
    let server = ScriptedServer::start_with_tls(&ServerTls::new(identity), |session| {
        session.login()?;
        session.serve_number()
    });
    let builder = pooler().database_line("app", &format!("host=127.0.0.1 port={}", server.port()));
    let builder = tls.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
    (server, builder)
}

#[test]
fn what_certificates_are_believed() {
    let files = Files::new();
    let root = Authority::new("root");
    let below = root.intermediate("below");
    let ca = files.write("root.crt", &root.pem()).display().to_string();
    let check = |identity: &Identity, ca: &str, mode: &str, fails: Option<&str>| {
        let (server, builder) =
            with_certificate(identity, &[("server_tls_sslmode", mode), ("server_tls_ca_file", ca)]);
        match fails {
            Some(why) => never_connects(builder, why),
            None => {
                let pooler = builder.start();
                Client::login(&pooler.target("app"));
            }
        }
        drop(server);
    };
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    let other_name = root.server(&["other.example"]);
    check(&other_name, &ca, "verify-ca", None);
    check(&other_name, &ca, "verify-full", Some("invalid peer certificate: certificate not valid for name"));
    check(&below.server(&["127.0.0.1"]), &ca, "verify-full", None);
    check(&root.issue(common_name("127.0.0.1")), &ca, "verify-full", None);
    let misleading = common_name("127.0.0.1").alternatives(&["other.example"]);
    check(&root.issue(misleading), &ca, "verify-full", Some("certificate not valid for name"));
    let misleading = common_name("127.0.0.1").alternatives(&["127.0.0.2"]);
    check(&root.issue(misleading), &ca, "verify-full", Some("certificate not valid for name"));
    check(&root.client("127.0.0.1"), &ca, "verify-ca", Some("invalid peer certificate"));
    let expired = root.issue(common_name("x").alternatives(&["127.0.0.1"]).usage(usage.clone()).expired());
    check(&expired, &ca, "verify-ca", Some("invalid peer certificate: certificate expired"));
    check(&expired, "", "require", None);
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        check(&root.issue(common_name("127.0.0.1").key(algorithm)), &ca, "verify-full", None);
    }
    // Of the first version, which knows no extensions: where nothing is verified it will do.
    let old = root.version_1(common_name("127.0.0.1"));
    check(&old, "", "require", None);
    check(&old, &ca, "verify-ca", Some("invalid peer certificate"));
    // One that is listed itself, as `openssl req -x509` makes it: it says that it is an authority.
    let own = common_name("127.0.0.1").alternatives(&["127.0.0.1"]).with(|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let own = own.self_signed();
    let listed = files.write("own.crt", &own.cert).display().to_string();
    check(&own, &listed, "verify-full", None);
    check(&own, &ca, "verify-ca", Some("invalid peer certificate"));
}

#[test]
fn the_poolers_certificate_is_shown_to_servers() {
    let (files, database) = (Files::new(), secured().database("tls"));
    let (cert, key) = files.identity("certified", &secured().authority.client("certified"));
    let line = |extra: &str| {
        let (port, dbname) = (database.postgres().port(), database.name());
        pooler().database_line(
            "app",
            &format!("host=127.0.0.1 port={port} dbname={dbname} user=certified {extra}"),
        )
    };
    let with = line("")
        .setting("server_tls_sslmode", "require")
        .setting("server_tls_cert_file", cert.display())
        .setting("server_tls_key_file", key.display());
    let own = format!("server_tls_cert_file={} server_tls_key_file={}", cert.display(), key.display());
    for builder in [with, line(&own)] {
        let pooler = builder.start();
        let mut client = Client::login(&pooler.target("app"));
        let seen = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
        assert_eq!(client.scalar(seen), "/CN=certified");
    }
    let without = line("").start();
    let refused = Client::try_login(&without.target("app")).expect_err("no certificate").refusal();
    assert!(refused.message().contains("valid client certificate"), "{refused:?}");
}

#[test]
fn a_database_may_differ() {
    let (secure, plain) = (secured().database("tls"), prepared_database("tls", ""));
    let files = Files::new();
    let wrong = files.write("wrong.crt", &Authority::new("another").pem());
    let pooler = pooler()
        .setting("server_tls_sslmode", "require")
        .setting("query_wait_timeout", 1)
        .database_as("secure", &secure, "")
        .database_as("disabled", &secure, "server_tls_sslmode=disable")
        .database_as("wrong", &secure, &format!("server_tls_ca_file={}", wrong.display()))
        .database_as("plain", &plain, "server_tls_sslmode=prefer")
        .database_as("refused", &plain, "")
        .start();
    assert!(pooler.connect("secure").scalar(TLS_OF_SERVER).starts_with("t "));
    assert_eq!(pooler.connect("disabled").scalar(TLS_OF_SERVER), "f");
    assert_eq!(pooler.connect("plain").scalar(TLS_OF_SERVER), "f");
    for refused in ["wrong", "refused"] {
        Client::try_login(&pooler.target(refused)).expect_err(refused);
    }
}

#[test]
fn direct_tls_to_servers() {
    let (pki, database) = (Pki::new(), prepared_database("tls", ""));
    // PostgreSQL has it from version 17 on; another pooler in front of it has it as well.
    let far = pki.offer(pooler(), "require").database_as("far", &database, "").start();
    let tap = Tap::start(far.address());
    let near = pooler()
        .setting("server_tls_sslmode", "verify-full")
        .setting("server_tls_ca_file", pki.path("ca.crt"))
        .setting("server_tls_negotiation", "direct")
        .database_line("app", &format!("host=localhost port={} dbname=far", tap.port()))
        .database_line(
            "asking",
            &format!("host=localhost port={} dbname=far server_tls_negotiation=postgres", tap.port()),
        )
        .start();
    assert_eq!(near.connect("app").scalar("select 42"), "42");
    assert_eq!(tap.links()[0].to_server()[0], 0x16, "the handshake comes first");
    assert_eq!(near.connect("asking").scalar("select 42"), "42");
    assert!(tap.links()[1].to_server().starts_with(&frontend::ssl_request()));

    // Who takes TLS for something else is not PostgreSQL.
    let identity = pki.authority.server(&["localhost"]);
    let deaf = ServerTls::new(&identity).without_alpn();
    let server = ScriptedServer::start_with_tls(&deaf, |session| session.login());
    let builder = pooler()
        .setting("server_tls_sslmode", "require")
        .setting("server_tls_negotiation", "direct")
        .database_line("app", &format!("host=localhost port={}", server.port()));
    never_connects(builder, "direct TLS with a server that does not know");
}

/// A server that answers the request for TLS so, and what follows with nothing.
fn answering(answer: &'static [u8]) -> (u16, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(answer).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest[0] == 0x16, "in the clear: {}", rest.escape_ascii());
    });
    (port, serving)
}

#[test]
fn a_server_that_says_more_than_yes() {
    for (answer, why) in [
        (b"SX".as_slice(), "received unencrypted data after SSL response"),
        (b"NX".as_slice(), "received unencrypted data after SSL response"),
        (b"E".as_slice(), "bad sslreq answer"),
        (b"".as_slice(), "connect timeout"),
    ] {
        let (port, serving) = answering(answer);
        let builder = pooler().database_line("app", &format!("host=127.0.0.1 port={port}"));
        let pooler = builder.setting("query_wait_timeout", 1).setting("server_connect_timeout", 1).start();
        Client::try_login(&pooler.target("app")).expect_err("no server");
        pooler.wait_for_log(why);
        drop(pooler);
        serving.join().unwrap();
    }
}

/// As libpq does: with `prefer` an attempt at TLS that fails is followed by one without.
#[test]
fn who_may_do_without_goes_on_without_when_the_handshake_fails() {
    let database = prepared_database("tls", "");
    let upstream = database.postgres().port();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        first.read_exact(&mut [0; 8]).unwrap();
        first.write_all(b"S").unwrap();
        first.read_exact(&mut [0; 5]).unwrap();
        first.write_all(b"this is no handshake").unwrap();
        let (second, _) = listener.accept().unwrap();
        relay(second, std::net::TcpStream::connect(("127.0.0.1", upstream)).unwrap());
    });
    let line = format!("host=127.0.0.1 port={port} dbname={}", database.name());
    let pooler = pooler().database_line("app", &line).start();
    assert_eq!(pooler.connect("app").scalar("select 42"), "42");
    pooler.wait_for_log("failed, going on without: ");
    drop(pooler);
    serving.join().unwrap();
}

fn relay(client: std::net::TcpStream, server: std::net::TcpStream) {
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
    let (mut from, mut to) = (client, server);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
    back.join().unwrap();
}

#[test]
fn cancel_requests_take_the_same_way() {
    let database = secured().database("tls");
    let tap = Tap::start(database.postgres().address());
    let line = |more: &str| format!("host=127.0.0.1 port={} dbname={} {more}", tap.port(), database.name());
    let pooler = pooler()
        .database_line("app", &line(""))
        .database_line("plain", &line("server_tls_sslmode=disable"))
        .start();
    for (name, is_secure) in [("app", true), ("plain", false)] {
        let before = tap.links().len();
        let mut client = pooler.connect(name);
        cancel_a_query(&database, &mut client);
        let links = tap.links();
        assert_eq!(links.len(), before + 2);
        for link in &links[before..] {
            assert_eq!(link.to_server().starts_with(&frontend::ssl_request()), is_secure, "{name}");
        }
    }
}

/// Cancels what runs in the only server of the database.
#[track_caller]
fn cancel_a_query(database: &Database, client: &mut Client) {
    client.send(frontend::query("select pg_sleep(60)"));
    eventually("the query runs", SOON, || {
        database.backends("app").iter().any(|backend| backend.state == "active")
    });
    client.cancel();
    assert_eq!(client.read_until_ready().error_code(), "57014");
}

/// A server that has said no is not asked again for a cancel request.
#[test]
fn cancel_requests_to_a_server_without_tls() {
    let database = prepared_database("tls", "");
    let tap = Tap::start(database.postgres().address());
    let line = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
    let pooler = pooler().database_line("app", &line).start();
    let mut client = pooler.connect("app");
    cancel_a_query(&database, &mut client);
    let links = tap.links();
    assert!(links[0].to_server().starts_with(&frontend::ssl_request()));
    assert_eq!(links[1].to_server().len(), 16, "the request and nothing else");
}

#[test]
fn ends_are_announced_and_leave_no_warning() {
    let (pki, database) = (Pki::new(), secured().database("tls"));
    let pooler = pki.offer(pooler(), "require").database(&database, "").start();
    let target = pooler.target(database.name()).tls(&pki.client());
    // One that says goodbye, one that dies without a word of TLS, one that dies by a reset.
    Client::login(&target).terminate();
    let mut dies = Client::login(&target);
    dies.execute("select 1");
    drop(dies);
    Client::login(&target).abort();
    let mut console = Client::login(&pooler.target("pgbouncer").user("admin").tls(&pki.client()));
    eventually("the clients have gone", SOON, || {
        row_where(&mut console, "POOLS", "database", database.name()).numbers(["cl_active", "cl_waiting"])
            == [0, 0]
    });
    console.execute("RECONNECT");
    eventually("the server has gone", SOON, || database.backends("app").is_empty());
    let bad = |log: String| -> Vec<String> {
        let lines = log
            .lines()
            .filter(|line| line.contains("SSL error") || line.contains("unexpected eof while reading"));
        lines.chain(log.lines().filter(|line| line.contains(" WARNING "))).map(str::to_owned).collect()
    };
    assert_eq!(bad(pooler.log()), [""; 0]);
    assert_eq!(bad(database.log()), [""; 0]);
}

#[test]
fn logins_of_every_kind_go_over_tls() {
    use support::postgres::{MD5_USER, PASSWORD, PLAIN_USER, SCRAM_USER};
    let pki = Pki::new();
    let database = secured().database("tls");
    let builder = pki.offer(pooler(), "require").setting("auth_type", "scram-sha-256");
    let users = [MD5_USER, SCRAM_USER, PLAIN_USER];
    let builder = users.iter().fold(builder, |builder, user| builder.secret(user, PASSWORD));
    let pooler = builder.database(&database, "").start();
    for user in users {
        let target = pooler.target(database.name()).user(user).password(PASSWORD).tls(&pki.client());
        assert!(Client::login(&target).scalar(TLS_OF_SERVER).starts_with("t "), "{user}");
        Client::try_login(&target.password("wrong")).expect_err("a wrong password").refusal();
    }
}

/// Bug 67 by way of TLS: what one database demands says nothing of the host, so who waits for a turn there gets it.
#[test]
fn a_demand_that_one_database_makes_holds_up_no_other() {
    let database = secured().database("tls");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let way = format!("host=127.0.0.1 port={}", listener.local_addr().unwrap().port());
    let pooler = pooler()
        .database_line("strict", &format!("{way} server_tls_sslmode=require"))
        .database_line("open", &format!("{way} server_tls_sslmode=disable dbname={}", database.name()))
        .setting("server_login_retry", 600)
        .setting("max_connecting", 1)
        .start();
    let begin = |name: &str| {
        let mut client = Client::open(&pooler.address());
        client.send(pooler.target(name).startup());
        client
    };
    let _strict = begin("strict");
    let (mut first, _) = listener.accept().unwrap();
    first.read_exact(&mut [0; 8]).unwrap();
    let mut open = begin("open");
    let mut console = pooler.console();
    eventually("it waits for its turn", SOON, || {
        row_where(&mut console, "POOLS", "database", "open").number("cl_waiting") == 1
    });
    first.write_all(b"N").unwrap();
    pooler.wait_for_log("strict/app server login failed: server refused SSL");
    listener.set_nonblocking(true).unwrap();
    let mut second = None;
    eventually("it has its turn", SOON, || {
        second = listener.accept().ok();
        second.is_some()
    });
    let (second, _) = second.unwrap();
    second.set_nonblocking(false).unwrap();
    let server = TcpStream::connect(("127.0.0.1", database.postgres().port())).unwrap();
    for (mut from, mut to) in [(second.try_clone().unwrap(), server.try_clone().unwrap()), (server, second)] {
        thread::spawn(move || std::io::copy(&mut from, &mut to));
    }
    open.finish_login(&pooler.target("open")).expect("a login");
    assert_eq!(open.scalar("select 42"), "42");
}
