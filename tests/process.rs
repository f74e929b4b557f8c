//! The process: pid file, exit codes, signals, drain, the log in its forms, systemd.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::frontend::*;
use support::pooler::{Pooler, StartError};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooled, pooler, prepared_database};
use crate::console::row_where;

const SOON: Duration = Duration::from_secs(10);

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgferry")).args(arguments).output().expect("run pgferry")
}

#[test]
fn the_command_line() {
    let version = run(&["-V"]);
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("PgBouncer 1."), "{version:?}");
    assert!(run(&["--help"]).status.success());
    for wrong in [&[][..], &["a.ini", "b.ini"], &["--nonsense", "a.ini"]] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Try \"pgferry --help\""), "{output:?}");
    }
    let missing = run(&["/nonexistent/pooler.ini"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("FATAL cannot load config file"),
        "{missing:?}"
    );
    assert_eq!(run(&["-q", "/nonexistent/pooler.ini"]).stderr, b"");
}

/// A stale pid file is removed, one of a running process or one that is no pid file is respected; the reason is in the log.
#[test]
fn pid_files() {
    let database = prepared_database("pid", "");
    let start = |text: &str| {
        let path = std::env::temp_dir().join(format!("pgferry-pid-{}-{}", std::process::id(), text.len()));
        fs::write(&path, text).unwrap();
        let started = pooler().setting("pidfile", path.display()).database(&database, "").try_start();
        let _ = fs::remove_file(&path);
        started
    };
    for text in ["", "what?", "1\n"] {
        match start(text) {
            Err(StartError::Ended(status, said)) => {
                assert_eq!(status.code(), Some(1));
                assert!(
                    said.contains("FATAL pidfile '") && said.contains("another instance running?"),
                    "{said}"
                );
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let pooled = pooled("", |builder| builder.setting("pidfile", "{dir}/pid"));
    let path = pooled.pooler.dir().join("pid");
    pooled.pooler.wait_for_log("process up: ");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pooled.pooler.pid()));
    pooled.pooler.signal(Signal::SIGKILL);
    let _ = pooled.pooler.wait_ended();
    assert!(path.exists(), "nobody could remove it");
    pooled.pooler.take_over();
    pooled.pooler.wait_for_log("stale pidfile, removing");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pooled.pooler.pid()));
    pooled.pooler.signal(Signal::SIGINT);
    assert!(pooled.pooler.wait_ended().success());
    assert!(!path.exists());
}

/// SIGTERM waits for clients and accepts no more; with a time, clients outside a transaction are told at once, others when
/// that ends, and the rest when the time is over.
#[test]
fn drain_at_the_boundary() {
    let pooled = pooled("create table t (id int)", |builder| {
        builder.setting("default_pool_size", 5).setting("drain_timeout", 5)
    });
    let (mut idle, mut ends, mut stays) = (pooled.connect(), pooled.connect(), pooled.connect());
    idle.execute("select 1");
    ends.execute("begin; insert into t values (1)");
    stays.execute("begin; insert into t values (2)");
    let begin = Instant::now();
    pooled.pooler.signal(Signal::SIGTERM);
    let fatal = idle.expect(b'E').error().expect("an error");
    assert_eq!((fatal.code(), fatal.severity()), ("57P01", "FATAL"));
    assert_eq!(fatal.message(), "terminating connection due to administrator command");
    idle.expect_closed();
    assert!(begin.elapsed() < Duration::from_secs(4), "at once: {:?}", begin.elapsed());
    assert_eq!(pooled.pooler.address().connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ends.query("insert into t values (3)").tags(), "CZ", "its transaction goes on");
    ends.execute("commit");
    assert_eq!(ends.expect(b'E').error().expect("an error").code(), "57P01");
    assert_eq!(stays.expect(b'E').error().expect("an error").code(), "57P01");
    assert!(begin.elapsed() >= Duration::from_secs(5), "not before its time: {:?}", begin.elapsed());
    assert!(pooled.pooler.wait_ended().success());
    assert_eq!(
        pooled.database.connect().scalar("select string_agg(id::text, ',' order by id) from t"),
        "1,3"
    );
}

/// In the grace clients go on as before.
#[test]
fn drain_after_a_grace() {
    let pooled =
        pooled("", |builder| builder.setting("drain_timeout", "30s").setting("drain_grace", "1500ms"));
    let mut client = pooled.connect();
    let begin = Instant::now();
    pooled.pooler.signal(Signal::SIGTERM);
    pooled.pooler.wait_for_log("got SIGTERM, shutting down, waiting for all clients disconnect");
    while begin.elapsed() < Duration::from_secs(1) {
        assert_eq!(client.scalar("select 1"), "1");
    }
    assert_eq!(client.expect(b'E').error().expect("an error").code(), "57P01");
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    assert!(pooled.pooler.wait_ended().success());
}

/// Two processes on one port: one ends by SIGTERM while the other accepts, and nobody is refused.
#[test]
fn rolling_over_one_port() {
    let database = prepared_database("rolling", "");
    let first = pooler().setting("so_reuseport", 1).database(&database, "").start();
    let port = first.port();
    let second = pooler().setting("so_reuseport", 1).database(&database, "").start_on(port);
    let mut clients: Vec<_> = (0..20).map(|_| first.connect(database.name())).collect();
    first.signal(Signal::SIGTERM);
    first.wait_for_log("got SIGTERM");
    eventually("its port is closed", SOON, || {
        (0..20).all(|_| Client::try_login(&second.target(database.name())).is_ok())
    });
    clients.iter_mut().for_each(|client| assert_eq!(client.scalar("select 1"), "1"));
    clients.into_iter().for_each(Client::terminate);
    assert!(first.wait_ended().success());
    assert_eq!(second.connect(database.name()).scalar("select 1"), "1");
}

/// One object a line, from the start on or from a reload on; the level changes while it runs.
#[test]
fn the_log_as_json() {
    let mut pooled = pooled("", |builder| builder.setting("log_format", "json"));
    pooled.connect().execute("select 1");
    pooled.pooler.wait_for_log("login attempt");
    let log = pooled.pooler.log();
    for line in log.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
    let login = log.lines().find(|line| line.contains("login attempt")).unwrap();
    for part in [
        "\"level\":\"LOG\"".to_owned(),
        format!("\"database\":\"{}\"", pooled.database.name()),
        "\"client\":\"0x".into(),
        "\"addr\":\"127.0.0.1:".into(),
    ] {
        assert!(login.contains(&part), "{part} in {login}");
    }
    pooled.pooler.reload(|builder| builder.setting("log_format", "text").setting("verbose", 2));
    pooled.connect().execute("select 1");
    let unix = Client::login(&support::wire::Target::new(
        pooled.pooler.unix_address(),
        support::postgres::USER,
        pooled.database.name(),
    ));
    let label = format!("@unix({}):{} login attempt", std::process::id(), pooled.pooler.port());
    pooled.pooler.wait_for_log(&label);
    drop(unix);
    let log = pooled.pooler.log();
    assert!(log.lines().last().unwrap().starts_with("20"), "{log}");
    let silent = pooled.pooler.address().connect().unwrap();
    drop(silent);
    assert!(!log.contains("(nodb)/(nouser)"), "{log}");
}

fn told(systemd: &UnixDatagram) -> String {
    let mut buf = [0; 4096];
    let len = systemd.recv(&mut buf).expect("systemd is told something");
    String::from_utf8_lossy(&buf[..len]).into_owned()
}

/// `Type=notify` and `notify-reload`, by an abstract name and by a path's.
#[test]
fn systemd_is_notified() {
    let name = format!("pgferry-test-{}", std::process::id());
    let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    systemd.set_read_timeout(Some(SOON * 2)).unwrap();
    let pooled =
        pooled("", |builder| builder.env("NOTIFY_SOCKET", &format!("@{name}")).setting("stats_period", 2));
    let ready = format!("READY=1\nMAINPID={}", pooled.pooler.pid());
    assert_eq!(told(&systemd), ready);
    pooled.pooler.signal(Signal::SIGHUP);
    let mut all = vec![told(&systemd)];
    while !all.iter().any(|said| said.starts_with("STATUS=")) || all.last() != Some(&ready) && all.len() < 6 {
        all.push(told(&systemd));
    }
    assert!(all.iter().any(|said| said.starts_with("RELOADING=1\nMONOTONIC_USEC=")), "{all:?}");
    assert!(all.contains(&ready), "{all:?}");
    assert!(all.iter().any(|said| said.starts_with("STATUS=stats: ") && said.contains(" µs")), "{all:?}");
    pooled.pooler.signal(Signal::SIGTERM);
    eventually("it says that it ends", SOON, || told(&systemd) == "STOPPING=1");
    assert!(pooled.pooler.wait_ended().success());
}

/// A process that is started with a socket which somebody else has bound listens on that, and leaves its file alone.
#[test]
fn sockets_of_a_service_manager() {
    let database = prepared_database("activated", "");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let pooler: Pooler = pooler().database(&database, "").start_with_socket(&socket, port);
    drop(socket);
    assert_eq!(pooler.connect(database.name()).scalar("select 1"), "1");
    assert!(pooler.log().contains("the service manager has passed sockets"), "{}", pooler.log());
    assert!(!pooler.dir().join(format!(".s.PGSQL.{port}")).exists());
    let row = row_where(&mut pooler.console(), "CLIENTS", "database", "pgbouncer");
    assert_eq!(row.text("user"), "admin");
    pooler.connect(database.name()).send(terminate());
}
