//! What TLS says on its own account, and records that come in pieces.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use support::frontend::{self, query};
use support::peer::Address;
use support::scripted::ScriptedServer;
use support::tls::ServerTls;
use support::wait::eventually;
use support::wire::Client;

use super::{Pki, secured};
use crate::common::{pooled, pooler};
use crate::console::rows_where;
use crate::slow_failures::metric;

const SOON: Duration = Duration::from_secs(20);

/// Passes on what comes, one byte in a packet.
fn trickle(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).unwrap();
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        if !buf[..n].iter().all(|byte| to.write_all(&[*byte]).is_ok()) {
            break;
        }
        thread::yield_now();
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A way to this port on which every byte comes by itself. Returns its port; it lasts as long as the test's process.
fn byte_by_byte(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
            let (from, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            thread::spawn(|| trickle(from, to));
            thread::spawn(|| trickle(far, near));
        }
    });
    port
}

#[test]
fn records_that_come_byte_by_byte() {
    for version in ["tlsv1.2", "tlsv1.3"] {
        let (pki, database) = (Pki::new(), secured().database("tls"));
        let to_server = byte_by_byte(database.postgres().port());
        let pooler = pki
            .offer(pooler(), "require")
            .setting("client_tls_protocols", version)
            .setting("server_tls_protocols", version)
            .setting("server_tls_sslmode", "require")
            .setting("default_pool_size", 1)
            .database_line("app", &format!("host=127.0.0.1 port={to_server} dbname={}", database.name()))
            .start();
        let mut target = pooler.target("app").tls(&pki.client());
        target.address = Address::Tcp(([127, 0, 0, 1], byte_by_byte(pooler.port())).into());
        let mut client = Client::login(&target);
        for bytes in [1, 5000, 40_000] {
            let reply = client.execute(&format!("select repeat('x', {bytes})"));
            assert_eq!(reply.rows()[0][0].as_ref().unwrap().len(), bytes);
        }
        let text = "y".repeat(20_000);
        assert_eq!(client.scalar(&format!("select length('{text}')")), "20000");
        client.execute("create temp table t (text text)");
        client.send(query("copy t from stdin"));
        client.expect(b'G');
        (0..5).for_each(|_| client.send(frontend::copy_data(b"some text\n")));
        client.send(frontend::copy_done());
        client.read_until_ready();
        assert_eq!(client.scalar("select count(*) from t"), "5");
        client.terminate();
    }
}

fn change_keys(client: &mut Client) {
    client.peer().stream_mut().tls_mut().unwrap().change_keys().unwrap();
}

/// Between requests, in front of a reply, while the client does nothing: keys may change at any time.
#[test]
fn clients_change_their_keys() {
    let pki = Pki::new();
    let pooled = pooled("", |builder| pki.offer(builder, "require"));
    let mut client = Client::login(&pooled.target().tls(&pki.client()));
    for round in 0..200 {
        change_keys(&mut client);
        if round % 2 == 0 {
            client.send(query(&format!("select repeat('x', {})", 1000 * round)));
            change_keys(&mut client);
            let reply = client.read_until_ready();
            assert_eq!(reply.rows()[0][0].as_ref().unwrap().len(), 1000 * round);
        }
    }
    assert_eq!(client.scalar("select 42"), "42");
}

/// A server that is idle and of which TLS alone has something to say is neither closed nor lost.
#[test]
fn idle_servers_change_their_keys() {
    let pki = Pki::new();
    let (tls, done) = (
        ServerTls::new(&pki.authority.server(&["127.0.0.1"])),
        &*Box::leak(Box::new(AtomicBool::new(false))),
    );
    let server = ScriptedServer::start_with_tls(&tls, |session| {
        session.login()?;
        for _ in 0..20 {
            session.expect(b'Q')?;
            session.send(&support::backend::one_value("1"))?;
            // Behind the reply, when nobody reads it any more.
            for _ in 0..3 {
                thread::sleep(Duration::from_millis(2));
                session.peer().stream_mut().tls_mut().unwrap().change_keys()?;
            }
        }
        done.store(true, Relaxed);
        session.serve_number()
    });
    let pooler = pooler()
        .setting("server_tls_sslmode", "require")
        .setting("default_pool_size", 1)
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = pooler.connect("app");
    for round in 0..20 {
        assert_eq!(client.scalar("select 1"), "1");
        if round % 4 == 0 {
            thread::sleep(Duration::from_millis(400)); // the pooler looks at idle servers now and then
        }
    }
    eventually("all keys have changed", SOON, || done.load(Relaxed));
    assert_eq!(client.scalar("select 1"), "0");
    assert_eq!(server.connections(), 1);
    let rows = rows_where(&mut pooler.console(), "SERVERS", "database", "app");
    assert_eq!((rows.len(), rows[0].text("state")), (1, "idle"));
}

/// A client that says `close_notify` has left, wherever it was, although its socket is open.
#[test]
fn an_end_that_only_tls_announces() {
    let pki = Pki::new();
    let pooled = pooled("create table t (text text)", |builder| pki.offer(builder, "require"));
    let target = pooled.target().tls(&pki.client());
    let leave = |client: &mut Client| {
        client.peer().stream_mut().tls_mut().unwrap().close_notify().unwrap();
        assert!(client.expect_closed().0.is_empty());
    };
    let mut client = Client::try_open_with(&target.address, target.tls.as_ref()).unwrap();
    leave(&mut client);
    let mut client = Client::login(&target);
    client.execute("begin; insert into t values ('lost')");
    leave(&mut client);
    let mut client = Client::login(&target);
    client.send(query("copy t from stdin"));
    client.expect(b'G');
    client.send(frontend::copy_data(b"lost\n"));
    leave(&mut client);
    let mut client = Client::login(&target);
    assert_eq!(client.scalar("select count(*) from t"), "0");
    client.send(query("select pg_sleep(60)"));
    let busy = || pooled.database.backends("app").iter().any(|backend| backend.state == "active");
    eventually("the query runs", SOON, busy);
    leave(&mut client);
    eventually("the query ends", SOON, || !busy());
}

/// What a client does not read stops the query, and costs no more memory than without TLS.
#[test]
fn a_slow_reader_costs_little_memory() {
    let (pki, database) = (Pki::new(), secured().database("tls"));
    let pooler = pki
        .offer(pooler(), "require")
        .setting("server_tls_sslmode", "require")
        .setting("default_pool_size", 1)
        .database(&database, "")
        .start();
    let mut client = Client::login(&pooler.target(database.name()).tls(&pki.client()));
    client.execute("select repeat('x', 1000000) from generate_series(1, 3)");
    let before = pooler.rss();
    client.send(query("select repeat('x', 1000000) from generate_series(1, 100)"));
    let mut most = 0;
    for _ in 0..100 {
        most = most.max(pooler.rss());
        while client.read().tag != b'D' {}
        thread::sleep(Duration::from_millis(2));
    }
    client.read_until_ready();
    assert!(most < before + (4 << 20), "{before} and then {most} bytes");
}

/// Wherever in its login a client leaves, and however, nothing of it stays behind.
#[test]
fn nothing_is_left_of_logins_that_end_anywhere() {
    let pki = Pki::new();
    let pooled = pooled("", |builder| pki.offer(builder, "require").setting("http_listen", "127.0.0.1:0"));
    let target = pooled.target().tls(&pki.client());
    let startup = target.startup();
    for round in 0..40 {
        let raw: [&[u8]; 3] = [b"", &frontend::ssl_request(), &[0x16, 3, 1, 2, 0, 1]];
        for bytes in raw {
            let mut client = Client::open(&target.address);
            client.send(bytes);
            if round % 2 == 0 {
                client.abort();
            }
        }
        for end in [0, 1, startup.len() / 2, startup.len()] {
            let mut client = Client::try_open_with(&target.address, target.tls.as_ref()).unwrap();
            client.send(&startup[..end]);
            match round % 3 {
                0 => client.abort(),
                1 => client.half_close(),
                _ => client.peer().stream_mut().tls_mut().unwrap().close_notify().unwrap(),
            }
        }
    }
    for gauge in ["pgferry_clients_logging_in", "pgferry_logins_in_progress"] {
        eventually(gauge, SOON, || metric(&pooled.pooler, gauge) == 0.0);
    }
    Client::login(&target);
}
