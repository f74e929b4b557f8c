//! Settings and certificates that change while connections are open.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::pki::{Authority, Files};
use support::pooler::Pooler;
use support::postgres::{Options, Postgres};
use support::tls::ClientTls;
use support::wait::eventually;
use support::wire::{Client, Target};

use super::{Pki, TLS_OF_SERVER, secured};
use crate::common::{pooled, pooler};
use crate::console::{row_where, rows_where};

const SOON: Duration = Duration::from_secs(10);

fn is_refused(target: &Target) -> bool {
    Client::try_login(target).is_err()
}

/// How a test has a setting changed.
#[derive(Clone, Copy, Debug)]
enum Way {
    Set,
    Sighup,
    Reload,
}

impl Way {
    /// Changes settings, and waits until they count.
    fn change(self, pooler: &mut Pooler, settings: &[(&str, String)]) {
        let mut console = console(pooler);
        if let Way::Set = self {
            for (name, value) in settings {
                console.execute(&format!("SET {name} = '{value}'"));
            }
            return;
        }
        pooler.rewrite(|builder| {
            settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value))
        });
        if let Way::Reload = self {
            console.execute("RELOAD");
            return;
        }
        pooler.signal(Signal::SIGHUP);
        eventually("the settings are in effect", SOON, || {
            settings
                .iter()
                .all(|(name, set)| row_where(&mut console, "CONFIG", "key", name).text("value") == set)
        });
    }
}

/// The console by the Unix socket, where TLS is never demanded.
fn console(pooler: &Pooler) -> Client {
    let target = pooler.target("pgbouncer").user("admin");
    Client::login(&Target { address: pooler.unix_address(), ..target })
}

#[test]
fn tls_of_clients_goes_on_and_off() {
    for way in [Way::Set, Way::Sighup, Way::Reload] {
        let pki = Pki::new();
        let mut pooled = pooled("", |builder| pki.offer(builder, "disable"));
        let (plain, secure) = (pooled.target(), pooled.target().tls(&pki.client()));
        let mut stays = Client::login(&plain);
        let mut open = Vec::new();
        assert!(is_refused(&secure), "{way:?}");
        for mode in ["require", "disable", "prefer"] {
            way.change(&mut pooled.pooler, &[("client_tls_sslmode", mode.to_owned())]);
            assert_eq!(is_refused(&plain), mode == "require", "{way:?} {mode}");
            assert_eq!(is_refused(&secure), mode == "disable", "{way:?} {mode}");
            if mode != "disable" {
                open.push(Client::login(&secure));
            }
            // Who is there stays there.
            assert_eq!(stays.scalar("select 1"), "1");
            open.iter_mut().for_each(|client| assert_eq!(client.scalar("select 1"), "1"));
        }
    }
}

#[test]
fn another_certificate_by_settings() {
    for way in [Way::Set, Way::Sighup, Way::Reload] {
        let (old, new) = (Pki::new(), Pki::new());
        let mut pooled = pooled("", |builder| old.offer(builder, "prefer"));
        let target = |pki: &Pki| pooled.target().tls(&pki.client());
        let (by_old, by_new) = (target(&old), target(&new));
        let mut stays = Client::login(&by_old);
        assert!(is_refused(&by_new));
        // By SET one comes behind the other, and between them they do not fit.
        let paths = [
            ("client_tls_key_file", new.path("pooler.key")),
            ("client_tls_cert_file", new.path("pooler.crt")),
        ];
        way.change(&mut pooled.pooler, &paths);
        assert!(is_refused(&by_old), "{way:?}");
        Client::login(&by_new);
        assert_eq!(stays.scalar("select 1"), "1");
    }
}

#[test]
fn settings_that_do_not_fit_leave_what_was() {
    let (old, new) = (Pki::new(), Pki::new());
    let mut pooled = pooled("", |builder| old.offer(builder, "prefer"));
    let by_old = pooled.target().tls(&old.client());
    let mut console = pooled.pooler.console();
    let reply = console.execute(&format!("SET client_tls_key_file = '{}'", new.path("pooler.key")));
    let notice = reply.0.iter().find_map(|message| message.notice()).expect("a notice");
    assert_eq!(notice.message(), "TLS settings could not be applied, still using old configuration");
    assert!(notice.get(b'D').contains("is not that of the certificate in"), "{notice:?}");
    pooled.pooler.wait_for_log("is not that of the certificate in");
    Client::login(&by_old);
    let reply = console.execute("SET client_tls13_ciphers = 'TLS_NONSENSE'");
    assert!(reply.0.iter().any(|message| message.notice().is_some()));
    pooled.pooler.wait_for_log("unknown cipher suite \"TLS_NONSENSE\" of TLS 1.3");
    Client::login(&by_old);
    assert_eq!(console.query("SET client_tls_sslmode = 'perhaps'").error_code(), "08P01");

    // What the files say counts again; a file that is not there is named with the system's reason.
    pooled.pooler.rewrite(|builder| builder.setting("client_tls_cert_file", "/nowhere/at.all"));
    let refused = console.query("RELOAD").error().expect("a fault");
    assert_eq!(refused.code(), "F0000");
    pooled.pooler.wait_for_log("could not load /nowhere/at.all: No such file or directory");
    Client::login(&by_old);
}

#[test]
fn suites_of_tls_1_3_by_set() {
    let pki = Pki::new();
    let pooled = pooled("", |builder| pki.offer(builder, "prefer"));
    let secure = pooled.target().tls(&pki.client());
    for suite in ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"] {
        pooled.pooler.console().execute(&format!("SET client_tls13_ciphers = '{suite}'"));
        Client::login(&secure);
        pooled.pooler.wait_for_log(&format!("tls=TLSv1.3/{suite} "));
    }
    let mut console = pooled.pooler.console();
    console.execute("SET client_tls_protocols = 'tlsv1.2'");
    console.execute("SET client_tls_ciphers = 'ECDHE-ECDSA-CHACHA20-POLY1305'");
    Client::login(&secure);
    pooled.pooler.wait_for_log("tls=TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305 ");
    let newer = pki.client().versions(&[&rustls::version::TLS13]);
    assert!(is_refused(&pooled.target().tls(&newer)));
}

/// The same names, other files: a reload sees it, and clients under way do not.
#[test]
fn new_content_of_the_same_files_under_traffic() {
    let pki = Pki::new();
    let pooled = pooled("", |builder| pki.offer(builder, "require").setting("default_pool_size", 3));
    let new = Authority::new("new");
    let [by_old, by_new] =
        [&pki.authority, &new].map(|authority| pooled.target().tls(&ClientTls::new(authority)));
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = Client::login(&by_old);
            let (over, done) = (&over, &done);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    assert_eq!(client.scalar("select 42"), "42");
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        let mut console = console(&pooled.pooler);
        for round in 0..6 {
            let turn = done.load(Relaxed);
            let (signer, other) = if round % 2 == 0 { (&new, &by_old) } else { (&pki.authority, &by_new) };
            pki.install(&signer.server(&["localhost"]));
            console.execute("RELOAD");
            assert!(is_refused(other), "the old certificate is shown");
            Client::login(if round % 2 == 0 { &by_new } else { &by_old });
            eventually("clients go on", SOON, || done.load(Relaxed) > turn + 10);
        }
        over.store(true, Relaxed);
    });
}

/// A client has another server after something than before.
fn renews(pooler: &mut Pooler, name: &str, change: impl FnOnce(&mut Pooler)) {
    let mut client = pooler.connect(name);
    let before = client.backend_pid();
    change(pooler);
    // Also if the old one was still asked for the state of its session.
    assert_ne!(client.backend_pid(), before);
}

/// It has the same.
fn keeps(pooler: &mut Pooler, name: &str, change: impl FnOnce(&mut Pooler)) {
    let mut client = pooler.connect(name);
    let before = client.backend_pid();
    change(pooler);
    (0..3).for_each(|_| assert_eq!(client.backend_pid(), before));
}

#[test]
fn servers_are_renewed_when_their_tls_changes_and_only_then() {
    let files = Files::new();
    let ca = files.write("ca.crt", &secured().authority.pem()).display().to_string();
    let database = secured().database("tls");
    let name = database.name().to_owned();
    let mut pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("server_tls_ca_file", &ca)
        .database(&database, "")
        .start();
    let reload = |pooler: &mut Pooler| drop(pooler.console().execute("RELOAD"));
    let set = |setting: &str, value: &str| {
        let (setting, value) = (setting.to_owned(), value.to_owned());
        move |pooler: &mut Pooler| pooler.reload(|builder| builder.setting(&setting, &value))
    };
    keeps(&mut pooler, &name, reload);
    keeps(&mut pooler, &name, set("client_tls_ciphers", "secure"));
    for (setting, value) in [
        ("server_tls_sslmode", "disable"),
        ("server_tls_sslmode", "allow"),
        ("server_tls_sslmode", "require"),
        ("server_tls_protocols", "tlsv1.2"),
        ("server_tls_sslmode", "verify-ca"),
    ] {
        renews(&mut pooler, &name, set(setting, value));
        let tls = pooler.connect(&name).scalar(TLS_OF_SERVER);
        assert_eq!(tls == "f", value == "disable", "{setting} = {value}: {tls}");
        keeps(&mut pooler, &name, set(setting, value));
    }
    // The content of the file counts, not its name.
    files.write("ca.crt", &(secured().authority.pem() + &Authority::new("more").pem()));
    renews(&mut pooler, &name, reload);
    keeps(&mut pooler, &name, reload);
    renews(&mut pooler, &name, |pooler| {
        pooler.console().execute("SET server_tls_sslmode = 'disable'");
    });
    assert_eq!(pooler.connect(&name).scalar(TLS_OF_SERVER), "f");
}

/// A client in a transaction keeps its server to the end of it, and all others are served meanwhile.
#[test]
fn a_renewal_waits_for_the_end_of_a_transaction() {
    let database = secured().database("tls");
    let mut pooler = pooler().setting("default_pool_size", 2).database(&database, "").start();
    let mut client = pooler.connect(database.name());
    client.execute("begin");
    let before = client.backend_pid();
    pooler.reload(|builder| builder.setting("server_tls_sslmode", "disable"));
    assert_eq!(client.backend_pid(), before);
    let mut console = pooler.console();
    let mut rows = rows_where(&mut console, "SERVERS", "user", "app");
    assert_eq!((rows.len(), rows.remove(0).text("close_needed")), (1, "1"));
    client.execute("commit");
    assert_ne!(client.backend_pid(), before);
    assert_eq!(client.scalar(TLS_OF_SERVER), "f");
}

/// What a server said at its login is kept for the clients' logins, and not beyond a change of TLS.
#[test]
fn tls_that_comes_to_nothing_is_noticed_and_mended() {
    let authority = Authority::new("servers' authority");
    let postgres = Postgres::start(Options::new().tls(&authority.server(&["localhost"]), None));
    let database = postgres.database("tls");
    let files = Files::new();
    let ca = files.write("ca.crt", &Authority::new("wrong").pem()).display().to_string();
    let mut pooler = pooler()
        .setting("server_tls_sslmode", "verify-full")
        .setting("server_tls_ca_file", &ca)
        .setting("query_wait_timeout", 20)
        .setting("server_login_retry", 0)
        .database_line("app", &format!("host=localhost port={} dbname={}", postgres.port(), database.name()))
        .start();
    thread::scope(|scope| {
        let target = pooler.target("app");
        let waiting = scope.spawn(move || Client::login(&target).scalar("select 42"));
        pooler.wait_for_log("invalid peer certificate");
        files.write("ca.crt", &authority.pem());
        pooler.reload(|builder| builder);
        assert_eq!(waiting.join().unwrap(), "42");
    });
    postgres.replace_certificate(&authority.server(&["elsewhere"]));
    pooler.console().execute("RECONNECT");
    assert!(
        is_refused(&pooler.target("app").param("application_name", "x")) || {
            pooler.wait_for_log("certificate not valid for name");
            true
        }
    );
}
