//! Logins that an LDAP server judges: OpenLDAP's, and one that follows a script.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::ldap::{LdapServer, LdapSession, entry, message, outcome};
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Database, MD5_USER, PASSWORD, PLAIN_USER, Postgres, SCRAM_USER, USER};
use support::slapd::{BASE, Person, READER, READER_PASSWORD, Slapd};
use support::wait::{eventually, free_port};
use support::wire::{Client, LoginError};

use crate::common::pooler;

const FAILED: &str = "LDAP authentication failed";
const SOON: Duration = Duration::from_secs(20);
const SPECIAL: &str = "we,i=rd*(x)\\";

const PEOPLE: &[Person<'_>] = &[
    Person { uid: "ann", mail: "ann@example.net", password: "secret of ann" },
    Person { uid: "bob", mail: "shared@example.net", password: "secret of bob" },
    Person { uid: "bert", mail: "shared@example.net", password: "secret of bob" },
    Person { uid: SPECIAL, mail: "special@example.net", password: "special" },
    Person { uid: PLAIN_USER, mail: "p@example.net", password: PASSWORD },
    Person { uid: MD5_USER, mail: "m@example.net", password: PASSWORD },
    Person { uid: SCRAM_USER, mail: "s@example.net", password: PASSWORD },
];

/// One server for all tests; `None` where there is none to be had.
fn slapd() -> Option<&'static Slapd> {
    static SLAPD: OnceLock<Option<Slapd>> = OnceLock::new();
    SLAPD.get_or_init(|| Slapd::start(PEOPLE)).as_ref()
}

/// A pooler whose database `forced` needs no password of a server's.
fn asking(database: &Database, options: &str) -> PoolerBuilder {
    pooler()
        .database_as("forced", database, &format!("user={USER}"))
        .setting("auth_type", "ldap")
        .setting("auth_ldap_options", options)
}

/// How a login goes: nothing, or what the client is told.
fn login(pooler: &Pooler, user: &str, password: &str) -> Result<(), String> {
    match Client::try_login(&pooler.target("forced").user(user).password(password)) {
        Ok(mut client) => {
            assert_eq!(client.scalar("select current_user"), USER);
            Ok(())
        }
        Err(LoginError::Refused(fields)) => {
            assert_eq!((fields.severity(), fields.code()), ("FATAL", "08P01"));
            Err(fields.message().to_owned())
        }
        Err(error) => panic!("{user}: {error:?}"),
    }
}

fn failed() -> Result<(), String> {
    Err(FAILED.to_owned())
}

const UID: &str = "ldapprefix=\"uid=\" ldapsuffix=\",dc=example,dc=net\"";

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The options of a search, as one who may look.
fn searching(more: &str) -> String {
    format!(
        "ldapbasedn={} ldapbinddn={} ldapbindpasswd={} {more}",
        quoted(BASE),
        quoted(READER),
        quoted(READER_PASSWORD)
    )
}

// ---- with OpenLDAP's server -----------------------------------------------------------------------------------

#[test]
fn simple_bind() {
    let Some(slapd) = slapd() else { return };
    let database = Postgres::shared().database("ldap_bind");
    let server = format!("ldapserver=127.0.0.1 ldapport={}", slapd.port());
    let pooler = asking(&database, &format!("{server} {UID}")).start();
    assert_eq!(login(&pooler, "ann", "secret of ann"), Ok(()));
    assert_eq!(login(&pooler, "ann", "wrong"), failed());
    assert_eq!(login(&pooler, "nobody", "secret of ann"), failed());
    // A server says yes to an empty password: it is never asked.
    assert_eq!(login(&pooler, "ann", ""), Err("empty password returned by client".to_owned()));
    assert_eq!(login(&pooler, SPECIAL, "special"), Ok(()));
    // Another entry's name inside the user's does not lead to that entry.
    assert_eq!(login(&pooler, "ann,dc=example,dc=net", "secret of ann"), failed());
    assert!(!pooler.log().contains("secret of ann") && !pooler.log().contains("wrong"), "{}", pooler.log());
}

#[test]
fn search_and_bind() {
    let Some(slapd) = slapd() else { return };
    let database = Postgres::shared().database("ldap_search");
    let server = format!("ldapserver=localhost,ldapport={},", slapd.port());
    let with = |options: &str| asking(&database, &format!("{server} {options}")).start();

    let pooler = with(&searching(""));
    assert_eq!(login(&pooler, "ann", "secret of ann"), Ok(()));
    assert_eq!(login(&pooler, "ann", "wrong"), failed());
    assert_eq!(login(&pooler, "nobody", "x"), failed());
    assert_eq!(login(&pooler, SPECIAL, "special"), Ok(()));
    for name in ["*", "an*", "ann)(uid=*", "*)(|(uid=*", "ann\\", "ann)", "\\61nn"] {
        assert_eq!(login(&pooler, name, "secret of ann"), failed(), "{name}");
    }

    let pooler = with(&searching("ldapsearchattribute=mail"));
    assert_eq!(login(&pooler, "ann@example.net", "secret of ann"), Ok(()));
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
    assert_eq!(login(&pooler, "shared@example.net", "secret of bob"), failed(), "two have this address");

    let pooler = with(&searching("ldapsearchfilter=\"(|(uid=$username)(mail=$username))\""));
    for name in ["ann", "ann@example.net"] {
        assert_eq!(login(&pooler, name, "secret of ann"), Ok(()), "{name}");
    }
    assert_eq!(login(&pooler, "shared@example.net", "secret of bob"), failed());

    // Who may not look finds nobody, and a wrong password of the reader's is no way round.
    let pooler = with(&format!("ldapbasedn={}", quoted(BASE)));
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
    let wrong = format!("ldapbasedn={} ldapbinddn={} ldapbindpasswd=wrong", quoted(BASE), quoted(READER));
    let pooler = with(&wrong);
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
    pooler.wait_for_log("it refuses ldapbinddn: invalid credentials");
}

#[test]
fn urls() {
    let Some(slapd) = slapd() else { return };
    let database = Postgres::shared().database("ldap_urls");
    let reader = format!("ldapbinddn={} ldapbindpasswd={}", quoted(READER), quoted(READER_PASSWORD));
    let (port, tls) = (slapd.port(), slapd.tls_port());
    let ca = slapd.ca_file();
    let ca = ca.display();
    for options in [
        format!("ldapurl=\"ldap://127.0.0.1:{port}/{BASE}?uid?sub\" {reader}"),
        format!("ldapurl=\"ldap://localhost:{port}/{BASE}??sub?(uid=$username)\" {reader}"),
        format!("ldapurl=\"ldap://127.0.0.1:{port}/{BASE}??one\" ldapsearchfilter=(uid=$username) {reader}"),
        format!("ldapurl=ldap://127.0.0.1:{port} {UID}"),
        format!("ldapurl=\"ldaps://localhost:{tls}/{BASE}?uid?sub\" ldapcafile={ca} {reader}"),
    ] {
        let pooler = asking(&database, &options).start();
        assert_eq!(login(&pooler, "ann", "secret of ann"), Ok(()), "{options}");
        assert_eq!(login(&pooler, "ann", "wrong"), failed(), "{options}");
    }
    // The base alone is looked at where no scope is given.
    let pooler =
        asking(&database, &format!("ldapurl=\"ldap://127.0.0.1:{port}/{BASE}?uid\" {reader}")).start();
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
}

#[test]
fn tls_is_used_and_checked() {
    let Some(slapd) = slapd() else { return };
    let database = Postgres::shared().database("ldap_tls");
    let ca = format!("ldapcafile={}", slapd.ca_file().display());
    let starttls = format!("ldapserver=127.0.0.1 ldapport={} ldaptls=1 {UID}", slapd.port());
    let ldaps = format!("ldapserver=localhost ldapport={} ldapscheme=ldaps {UID}", slapd.tls_port());
    for options in [&starttls, &ldaps] {
        let pooler = asking(&database, &format!("{options} {ca}")).start();
        assert_eq!(login(&pooler, "ann", "secret of ann"), Ok(()), "{options}");
        assert_eq!(login(&pooler, "ann", "wrong"), failed(), "{options}");
        // The variable of OpenLDAP's library counts where the option does not say.
        let named = slapd.ca_file();
        let pooler = asking(&database, options).env("LDAPTLS_CACERT", named.to_str().unwrap()).start();
        assert_eq!(login(&pooler, "ann", "secret of ann"), Ok(()), "{options}");
        // Nobody whom the system trusts has signed it.
        let pooler = asking(&database, options).env("LDAPTLS_CACERT", "").start();
        assert_eq!(login(&pooler, "ann", "secret of ann"), failed(), "{options}");
    }
    // The authority is right and the name is not.
    let other =
        format!("ldapserver=localhost.localdomain ldapport={} ldapscheme=ldaps {UID} {ca}", slapd.tls_port());
    let pooler = asking(&database, &other).start();
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
    assert!(slapd.log().contains("TLS established"), "{}", slapd.log());
    // TLS is asked for and refused by a server without: nothing is sent in the clear.
    let plain = LdapServer::start(|session| {
        let request = session.read()?;
        session.send(&outcome(request.id, 0x78, 2))?;
        session.read().map(drop)
    });
    let options = format!("ldapserver=127.0.0.1 ldapport={} ldaptls=1 {UID} {ca}", plain.port());
    let pooler = asking(&database, &options).start();
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
    assert!(!plain.received().windows(6).any(|window| window == b"secret"));
}

/// Without a user list and without a forced user: the password that the directory has found right opens the server, by
/// every method that the server may want, and a wrong one opens nothing.
#[test]
fn servers_are_opened_with_the_proven_password() {
    let Some(slapd) = slapd() else { return };
    let database = Postgres::shared().database("ldap_servers");
    let options = format!("ldapserver=127.0.0.1 ldapport={} {UID}", slapd.port());
    let pooler = asking(&database, &options).database(&database, "").start();
    let mut clients = Vec::new();
    for user in [PLAIN_USER, MD5_USER, SCRAM_USER] {
        let target = pooler.target(database.name()).user(user);
        let refused = Client::try_login(&target.clone().password("wrong")).map(drop).unwrap_err();
        assert_eq!(refused.refusal().message(), FAILED);
        let mut client = Client::login(&target.password(PASSWORD));
        assert_eq!(client.scalar("select current_user"), user);
        clients.push((client, user));
    }
    // A process that takes over opens its own, for clients that have proven nothing to it.
    pooler.take_over().wait_ended();
    for (client, user) in &mut clients {
        assert_eq!(client.scalar("select current_user"), *user);
    }
    assert!(!pooler.log().contains(PASSWORD));
}

#[test]
fn options_can_be_changed_while_it_runs() {
    let Some(slapd) = slapd() else { return };
    let database = Postgres::shared().database("ldap_reload");
    let mut pooler =
        asking(&database, &format!("ldapserver=127.0.0.1 ldapport={} {UID}", free_port())).start();
    assert_eq!(login(&pooler, "ann", "secret of ann"), failed());
    let right = format!("ldapserver=127.0.0.1 ldapport={} {UID}", slapd.port());
    pooler.rewrite(|builder| builder.setting("auth_ldap_options", &right));
    pooler.signal(Signal::SIGHUP);
    eventually("the new options count", SOON, || login(&pooler, "ann", "secret of ann").is_ok());
}

#[test]
fn nobody_gets_in_without_options() {
    let database = Postgres::shared().database("ldap_null");
    let pooler = pooler()
        .database_as("forced", &database, &format!("user={USER}"))
        .setting("auth_type", "ldap")
        .start();
    assert_eq!(login(&pooler, "ann", "secret of ann"), Err("auth_ldap_options is null".to_owned()));
}

// ---- with a server that follows a script ------------------------------------------------------------------------

/// Says yes to every bind.
fn yes(session: &mut LdapSession) -> std::io::Result<()> {
    loop {
        let request = session.read()?;
        if request.operation == 0x60 {
            session.send(&outcome(request.id, 0x61, 0))?;
        }
    }
}

#[test]
fn several_servers_are_tried_in_order() {
    let database = Postgres::shared().database("ldap_order");
    let [first, second] = [0, 1].map(|_| LdapServer::start(yes));
    let garbage = LdapServer::start(|session| session.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let reset = LdapServer::start(|session| session.read().map(drop));
    let busy = LdapServer::start(|session| {
        let request = session.read()?;
        session.send(&outcome(request.id, 0x61, 51))
    });
    let servers = [free_port(), garbage.port(), reset.port(), busy.port(), first.port(), second.port()];
    let servers = servers.map(|port| format!("127.0.0.1:{port}")).join(" ");
    let pooler = asking(&database, &format!("ldapserver=\"{servers}\" {UID}")).start();
    assert_eq!(login(&pooler, "ann", "x"), Ok(()));
    assert_eq!((garbage.accepted(), reset.accepted(), busy.accepted()), (1, 1, 1));
    assert_eq!((first.accepted(), second.accepted()), (1, 0));
    // Those that were of no use are left alone for a while.
    assert_eq!(login(&pooler, "ann", "x"), Ok(()));
    assert_eq!((garbage.accepted(), first.accepted(), second.accepted()), (1, 2, 0));
    // A no is a no: nobody else is asked.
    let no = LdapServer::start(|session| {
        let request = session.read()?;
        session.send(&outcome(request.id, 0x61, 49))
    });
    let servers = format!("127.0.0.1:{} 127.0.0.1:{}", no.port(), second.port());
    let pooler = asking(&database, &format!("ldapserver=\"{servers}\" {UID}")).start();
    assert_eq!(login(&pooler, "ann", "x"), failed());
    assert_eq!(second.accepted(), 0);
}

/// Whatever a server says but a yes to the right question, nobody gets in and the pooler lives.
#[test]
fn hostile_answers() {
    let database = Postgres::shared().database("ldap_hostile");
    let deep = [[0x30, 0x84, 0, 0, 0xf0, 0].repeat(2000), vec![0; 0xf000]].concat();
    let mut answers: Vec<Vec<u8>> = [
        &b"\x30\x00"[..],
        b"\x30\x03\x02\x01\x01",
        b"\x30\x05\x0a\x01\x00\x61\x00",
        b"\x30\x80\x02\x01\x01\x00\x00",
        b"\x30\x84\xff\xff\xff\xff\x02\x01\x01",
        b"\x30\x88\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\x16\x03\x01\x00\x05hello",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    answers.push(deep);
    answers.push(outcome(2, 0x61, 0)); // to another question
    answers.push(outcome(0, 0x61, 0));
    answers.push(outcome(1, 0x65, 0)); // to another kind of question
    answers.push(outcome(1, 0x78, 0));
    answers.push(entry(1, "uid=ann"));
    answers.push(outcome(1, 0x61, 10)); // a referral
    answers.push(message(1, 0x61, &[0x0a, 1, 0])); // cut
    answers.push(message(1, 0x61, &[0x0a, 0, 4, 0, 4, 0]));
    let count = answers.len();
    let turn = AtomicUsize::new(0);
    let server = LdapServer::start(move |session| {
        session.read()?;
        session.send(&answers[turn.fetch_add(1, Ordering::SeqCst) % count])
    });
    let pooler = asking(&database, &format!("ldapserver=127.0.0.1 ldapport={} {UID}", server.port())).start();
    for answer in 0..count {
        assert_eq!(login(&pooler, "ann", "x"), failed(), "answer {answer}");
    }
    assert!(pooler.ended().is_none());
}

#[test]
fn a_search_that_does_not_find_exactly_one() {
    let database = Postgres::shared().database("ldap_found");
    for (what, replies, lets_in) in [
        ("one", vec![entry(2, "uid=ann"), outcome(2, 0x65, 0)], true),
        (
            "a reference besides",
            vec![message(2, 0x73, b"\x04\x08ldap://x"), entry(2, "uid=ann"), outcome(2, 0x65, 0)],
            true,
        ),
        ("nobody", vec![outcome(2, 0x65, 0)], false),
        ("two", vec![entry(2, "uid=ann"), entry(2, "uid=bob"), outcome(2, 0x65, 0)], false),
        ("more than it tells", vec![entry(2, "uid=ann"), outcome(2, 0x65, 4)], false),
        ("one without a name", vec![entry(2, ""), outcome(2, 0x65, 0)], false),
        ("a referral", vec![outcome(2, 0x65, 10)], false),
        ("only references", vec![message(2, 0x73, b"\x04\x08ldap://x"); 200], false),
        ("another search's", vec![entry(7, "uid=ann"), outcome(7, 0x65, 0)], false),
    ] {
        let server = LdapServer::start(move |session| {
            let bind = session.read()?;
            session.send(&outcome(bind.id, 0x61, 0))?;
            session.read()?;
            session.send(&replies.concat())?;
            let bind = session.read()?;
            session.send(&outcome(bind.id, 0x61, 0))
        });
        let options = format!("ldapserver=127.0.0.1 ldapport={} ldapbasedn=dc=x", server.port());
        let pooler = asking(&database, &options).start();
        let expected = if lets_in { Ok(()) } else { failed() };
        assert_eq!(login(&pooler, "ann", "secret"), expected, "{what}");
        let told = server.received().windows(6).any(|window| window == b"secret");
        assert_eq!(told, lets_in, "{what}: the password goes to nobody else");
    }
}

/// What it costs others that an LDAP server says nothing, or one byte a second: nothing.
#[test]
fn a_silent_server_delays_its_own_logins_only() {
    let database = Postgres::shared().database("ldap_silent");
    let silent = LdapServer::start(|session| {
        session.wait_for_end();
        Ok(())
    });
    let pooler = asking(&database, &format!("ldapserver=127.0.0.1 ldapport={} {UID}", silent.port()))
        .setting("client_login_timeout", 4)
        .setting("workers", 1)
        .start();
    let refused = thread::scope(|scope| {
        let logins: Vec<_> = (0..40).map(|_| scope.spawn(|| login(&pooler, "ann", "x"))).collect();
        eventually("the server is asked as often as it may be", SOON, || silent.accepted() == 32);
        // The one worker is as quick as ever.
        let begun = Instant::now();
        for _ in 0..20 {
            let admin = pooler.target("pgbouncer").user("nobody_at_all").password("x");
            assert!(Client::try_login(&admin).is_err());
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        logins.into_iter().map(|login| login.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(refused.iter().all(|outcome| outcome == &Err("client_login_timeout".to_owned())), "{refused:?}");
    assert!(silent.accepted() <= 40);
}

#[test]
fn a_server_that_drips_is_given_up() {
    let database = Postgres::shared().database("ldap_drip");
    let drip = LdapServer::start(|session| {
        let request = session.read()?;
        let answer = message(request.id, 0x61, &[&[0x0a, 1, 0, 4, 0, 4, 100][..], &[b'x'; 100]].concat());
        session.drip(&answer, Duration::from_millis(200))
    });
    let good = LdapServer::start(yes);
    let servers = format!("127.0.0.1:{} 127.0.0.1:{}", drip.port(), good.port());
    let pooler = asking(&database, &format!("ldapserver=\"{servers}\" {UID}")).start();
    let begun = Instant::now();
    assert_eq!(login(&pooler, "ann", "x"), Ok(()), "the other one is asked after 5 s");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

/// A client that leaves takes its question along.
#[test]
fn nobody_is_asked_for_a_client_that_has_left() {
    let database = Postgres::shared().database("ldap_left");
    let ended = Arc::new(AtomicUsize::new(0));
    let silent = LdapServer::start({
        let ended = ended.clone();
        move |session| {
            session.wait_for_end();
            ended.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let pooler = asking(&database, &format!("ldapserver=127.0.0.1 ldapport={} {UID}", silent.port())).start();
    let target = pooler.target("forced").user("ann").password("x");
    let mut client = Client::open(&target.address);
    client.send(target.startup());
    client.expect(b'R');
    client.send(support::frontend::password("x"));
    eventually("the server is asked", SOON, || silent.accepted() == 1);
    client.abort();
    eventually("and left", Duration::from_secs(5), || ended.load(Ordering::SeqCst) == 1);
}
