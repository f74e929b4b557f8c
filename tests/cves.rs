//! What was found in PgBouncer and published, as attacks on this pooler: nobody else notices, and the attacker is told
//! what any malformed or forbidden input is told. Those against `auth_query` and TLS are in the modules of these.

use std::time::Duration;

use support::backend;
use support::frontend::*;
use support::message::Side;
use support::pooler::Pooler;
use support::postgres::{Database, PASSWORD, Postgres, USER};
use support::scripted::{ScriptedServer, Session};
use support::wait::eventually;
use support::wire::{Client, LoginError};

use crate::common::pooler;

const SOON: Duration = Duration::from_secs(10);

/// A pooler that wants SCRAM, and a client that was logged in before anything happens.
fn scram() -> (Database, Pooler, Client) {
    let database = Postgres::shared().database("cves");
    let builder = pooler().database(&database, "").setting("auth_type", "scram-sha-256");
    let pooler = builder.secret(USER, PASSWORD).start();
    let bystander = Client::login(&pooler.target(database.name()).password(PASSWORD));
    (database, pooler, bystander)
}

/// The password message of a client whose nonce is right so far, told as raw bytes of its body.
fn answer_to_a_challenge(pooler: &Pooler, database: &Database, body: &[u8]) -> String {
    let mut client = Client::open(&pooler.address());
    client.send(pooler.target(database.name()).startup());
    client.expect(b'R');
    client.send(raw(b'p', body));
    let reply = client.expect_closed();
    reply.error().map(|error| error.message().to_owned()).unwrap_or_default()
}

/// CVE-2026-6664: a length inside a SCRAM message that overflows where it is added to.
#[test]
fn lengths_inside_a_scram_message() {
    let (database, pooler, mut bystander) = scram();
    for length in [-1, -2, i32::MIN, i32::MIN + 1, i32::MAX, i32::MAX - 4, 0, 1, 11, 13, 1 << 16] {
        let data = b"n,,n=,r=abc".as_slice();
        let body = [b"SCRAM-SHA-256\0", &length.to_be_bytes()[..], data].concat();
        if length == data.len() as i32 {
            continue; // the right one
        }
        let text = answer_to_a_challenge(&pooler, &database, &body);
        assert_eq!(text, "SASL authentication failed", "length {length}");
        assert_eq!(bystander.scalar("select 1"), "1");
    }
    for body in [&b"SCRAM-SHA-256"[..], b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0", b"\0", b""] {
        let text = answer_to_a_challenge(&pooler, &database, body);
        assert!(text.ends_with("failed") || text.ends_with("mechanism"), "{text:?}");
    }
    assert_eq!(bystander.scalar("select 1"), "1");
}

/// CVE-2026-6665: SCRAM messages that are longer than what is built from them has room for. From clients ...
#[test]
fn long_scram_messages_of_clients() {
    let (database, pooler, mut bystander) = scram();
    let long = "x".repeat(60_000);
    let commas = ",".repeat(60_000);
    for first in [
        format!("n,,n={long},r=abc"),
        format!("n,,n=,r={long}"),
        format!("n,a={long},n=,r=abc"),
        format!("n,,n=,r=abc,{long}"),
        format!("n,,n=,r=abc{commas}"),
        format!("p={long},,n=,r=abc"),
        format!("n,,n={},r=abc", "=2C".repeat(20_000)),
    ] {
        let mut client = Client::open(&pooler.address());
        client.send(pooler.target(database.name()).startup());
        client.expect(b'R');
        client.send(sasl_initial("SCRAM-SHA-256", first.as_bytes()));
        client.send(sasl_response(format!("c=biws,r={long},p={long}").as_bytes()));
        let reply = client.expect_closed();
        let text = reply.error().map(|error| error.message().to_owned());
        assert_eq!(text.as_deref(), Some("SASL authentication failed"), "{}", &first[..20]);
    }
    assert_eq!(bystander.scalar("select 1"), "1");
}

/// Plays the server's side of SCRAM with this challenge, and remembers nothing.
fn challenge(session: &mut Session, first: impl Fn(&str) -> String) -> std::io::Result<()> {
    session.send(&backend::authentication(10, b"SCRAM-SHA-256\0\0"))?;
    let initial = session.peer().read_message(Side::Frontend)?.body;
    let text = String::from_utf8_lossy(&initial).into_owned();
    let nonce = text.rsplit_once("r=").map(|(_, nonce)| nonce.to_owned()).unwrap_or_default();
    session.send(&backend::authentication(11, first(&nonce).as_bytes()))?;
    // Whatever is answered: a server signature, far too long as well.
    let _ = session.peer().read_message(Side::Frontend)?;
    session.send(&backend::authentication(12, format!("v={}", "A".repeat(60_000)).as_bytes()))
}

/// Makes a server's first message of the client's nonce.
type Challenge = Box<dyn Fn(&str) -> String + Send + Sync>;

/// ... and from a server, which the pooler has to answer.
#[test]
fn long_scram_messages_of_servers() {
    let long = "x".repeat(60_000);
    let challenges: Vec<Challenge> = vec![
        Box::new({
            let long = long.clone();
            move |nonce| format!("r={nonce}{long},s=AAAA,i=1")
        }),
        Box::new(|nonce| format!("r={nonce}x,s={},i=1", "A".repeat(60_000))),
        Box::new(|nonce| format!("r={nonce}x,s=AAAA,i={}", u64::MAX)),
        Box::new(|nonce| format!("r={nonce}x,s=AAAA,i={}", u32::MAX)),
        Box::new(|nonce| format!("r={nonce}x,s=AAAA,i=0")),
        Box::new(|nonce| format!("r={nonce}x,s=AAAA,i=-1")),
        Box::new(move |nonce| format!("r={nonce}x,s=AAAA,i=1,{long}")),
    ];
    let count = challenges.len();
    let server = ScriptedServer::start(move |session| {
        let first = &challenges[session.number % count];
        challenge(session, first)
    });
    let database = Postgres::shared().database("cves");
    let builder = (0..count).fold(pooler().database(&database, ""), |builder, number| {
        let line = format!("host=127.0.0.1 port={} dbname=any user=app password=secret", server.port());
        builder.database_line(&format!("hostile_{number}"), &line)
    });
    let pooler = builder.setting("client_login_timeout", 2).start();
    let mut bystander = pooler.connect(database.name());
    for number in 0..count {
        let target = pooler.target(&format!("hostile_{number}"));
        let Err(error) = Client::try_login(&target) else {
            panic!("let in by way of a server without the password")
        };
        assert!(matches!(&error, LoginError::Refused(fields) if fields.code() == "08P01"), "{error:?}");
        assert_eq!(bystander.scalar("select 1"), "1");
    }
    eventually("no connection is left", SOON, || server.open_connections() == 0);
}

/// CVE-2026-6666: an error of a server without a SQLSTATE, at login and in a query.
#[test]
fn errors_of_servers_without_a_code() {
    let bare = |fields: &[u8]| raw(b'E', &[fields, b"\0"].concat());
    let error = bare(b"SFATAL\0Mno code\0");
    let errors = [error.clone(), bare(b""), bare(b"C\0"), bare(b"SERROR\0"), bare(b"C\0M\0S\0")];
    let at_login = ScriptedServer::start({
        let errors = errors.clone();
        move |session| session.send(&errors[session.number % errors.len()])
    });
    let in_queries = ScriptedServer::start(move |session| {
        session.login()?;
        let mut number = 0;
        session.serve(|message| match message.tag {
            b'Q' => {
                number += 1;
                [errors[(number - 1) % errors.len()].clone(), backend::ready(b'I')].concat()
            }
            _ => Vec::new(),
        })
    });
    let database = Postgres::shared().database("cves");
    let to = |port: u16| format!("host=127.0.0.1 port={port} dbname=any");
    let builder = (0..5).fold(pooler().database(&database, ""), |builder, number| {
        builder.database_line(&format!("login_{number}"), &to(at_login.port()))
    });
    let pooler = builder.database_line("queries", &to(in_queries.port())).start();
    let mut bystander = pooler.connect(database.name());
    for number in 0..5 {
        let Err(error) = Client::try_login(&pooler.target(&format!("login_{number}"))) else {
            panic!("let in")
        };
        let fields = error.refusal();
        assert_eq!((fields.severity(), fields.code()), ("FATAL", "08P01"), "{fields:?}");
        assert_eq!(bystander.scalar("select 1"), "1");
    }
    let mut client = pooler.connect("queries");
    for _ in 0..5 {
        client.send(query("select 1"));
        let reply = client.read_until_ready();
        assert_eq!(reply.tags(), "EZ", "{reply:?}");
        assert_eq!(bystander.scalar("select 1"), "1");
    }
}

/// CVE-2026-6667: every command of the console that changes something, by a user who may only look.
#[test]
fn who_may_look_may_change_nothing() {
    let database = Postgres::shared().database("cves");
    let builder = pooler().database(&database, "").setting("stats_users", "viewer").secret("viewer", "");
    let pooler = builder.start();
    let mut bystander = pooler.connect(database.name());
    let pid = bystander.backend_pid();
    let mut console = pooler.console();
    let clients = console.execute("SHOW CLIENTS").rows();
    let mut viewer = Client::login(&pooler.target("pgbouncer").user("viewer"));
    let name = database.name();
    let mut commands: Vec<String> = clients
        .iter()
        .flatten()
        .flatten()
        .filter(|value| value.parse::<u64>().is_ok() || value.starts_with("0x"))
        .map(|id| format!("KILL_CLIENT {id}"))
        .collect();
    assert!(!commands.is_empty(), "{clients:?}");
    for verb in ["PAUSE", "RESUME", "KILL", "DISABLE", "ENABLE", "RECONNECT", "WAIT_CLOSE"] {
        commands.extend([verb.to_owned(), format!("{verb} {name}")]);
    }
    commands.extend(["SUSPEND", "RELOAD", "SHUTDOWN", "SHUTDOWN WAIT_FOR_CLIENTS"].map(str::to_owned));
    commands.push("SET max_client_conn = 1".into());
    for command in commands {
        let reply = viewer.query(&command);
        let error = reply.error().unwrap_or_else(|| panic!("{command}: {reply:?}"));
        let refused = ["admin access needed", "a database is required"].contains(&error.message());
        assert!(refused && error.code() == "08P01", "{command}: {error:?}");
    }
    assert_eq!(bystander.backend_pid(), pid);
}
