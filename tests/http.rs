//! HTTP: metrics agree with the console and with PostgreSQL, health checks say why, orders need the token, and nothing
//! that comes in harms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::frontend::*;
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Postgres, USER};
use support::wait::{eventually, free_port, holds_within, patient};
use support::wire::Client;

use crate::common::{Pooled, pooled};
use crate::console::{row_where, rows_where, table};
use crate::probe::{Probe, size};

const SOON: Duration = Duration::from_secs(10);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub(crate) fn with_http(builder: PoolerBuilder) -> PoolerBuilder {
    builder.setting("http_listen", "127.0.0.1:0")
}

/// Where the pooler serves HTTP.
#[track_caller]
fn site(pooler: &Pooler) -> SocketAddr {
    const SAID: &str = "http: listening on http://";
    pooler.wait_for_log(SAID);
    let log = pooler.log();
    let (_, behind) = log.rsplit_once(SAID).expect("it was waited for");
    behind.split_once('/').expect("a slash").0.parse().expect("an address")
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Sends these bytes and reads until the other side closes. `None`: it did so without an answer.
fn exchange(site: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(site).expect("connect");
    stream.set_read_timeout(Some(patient(Duration::from_secs(30)))).unwrap();
    let _ = stream.write_all(bytes); // it may have been closed
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_lowercase(), body: body.into() })
}

#[track_caller]
fn request(site: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {site}\r\n{headers}Connection: close\r\n\r\n");
    exchange(site, text.as_bytes()).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

#[track_caller]
fn get(site: SocketAddr, path: &str) -> Answer {
    request(site, "GET", path, "")
}

/// A page as text.
#[track_caller]
pub(crate) fn page(pooler: &Pooler, path: &str) -> String {
    get(site(pooler), path).body
}

#[track_caller]
fn order(site: SocketAddr, path: &str, token: &str) -> Answer {
    request(site, "POST", path, &format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n"))
}

/// What a scrape says: the value of every series, by its name with its labels.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    #[track_caller]
    fn read(site: SocketAddr) -> Metrics {
        let answer = get(site, "/metrics");
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
        Metrics(
            lines
                .map(|line| line.rsplit_once(' ').expect(line))
                .map(|(series, value)| (series.to_owned(), value.parse().expect(value)))
                .collect(),
        )
    }

    /// Of a pooler that serves them.
    #[track_caller]
    pub(crate) fn of_pooler(pooler: &Pooler) -> Metrics {
        Metrics::read(site(pooler))
    }

    /// The value of a series, 0 if there is none.
    pub(crate) fn of(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let series = if labels.is_empty() { name.into() } else { format!("{name}{{{}}}", labels.join(",")) };
        self.0.get(&series).copied().unwrap_or(0.0) as u64
    }

    fn pool(&self, name: &str, database: &str, more: &[(&str, &str)]) -> u64 {
        self.of(name, &[&[("database", database), ("user", USER)], more].concat())
    }
}

/// Names that a text holds, of metrics, without what a histogram's series add.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("pgferry_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn metrics_agree_with_the_console_and_with_postgresql() {
    let pooled = pooled("", |builder| {
        with_http(builder).setting("default_pool_size", 3).setting("statement_timeout", "300ms")
    });
    let (site, name) = (site(&pooled.pooler), pooled.database.name());
    let mut clients: Vec<Client> = (0..7).map(|_| pooled.connect()).collect();
    clients[0].execute("begin");
    clients[1].execute("begin");
    assert_eq!(clients[2].query("select pg_sleep(60)").error_code(), "57014");
    clients[2].execute("create temp table mine (id int)"); // keeps its server
    clients[3].send(query("select 1")); // waits: all three are taken
    clients[4].send(query("select 1"));
    let mut console = pooled.pooler.console();
    eventually("both wait", SOON, || {
        row_where(&mut console, "POOLS", "database", name).number("cl_waiting") == 2
    });
    eventually("the pin is seen", SOON, || !table(&mut console, "PINS").is_empty());

    let metrics = Metrics::read(site);
    let pool = row_where(&mut console, "POOLS", "database", name);
    let clients_in = |state| metrics.pool("pgferry_pool_clients", name, &[("state", state)]);
    assert_eq!([clients_in("idle"), clients_in("linked"), clients_in("waiting")], [2, 3, 2]);
    assert_eq!(clients_in("idle") + clients_in("linked"), pool.number("cl_active"));
    for state in ["active", "idle", "used", "tested", "login", "being_canceled"] {
        let column = format!("sv_{state}");
        let shown = metrics.pool("pgferry_pool_servers", name, &[("state", state)]);
        assert_eq!(shown, pool.number(&column), "{state}");
    }
    let servers: u64 = ["active", "idle", "used"]
        .map(|state| metrics.pool("pgferry_pool_servers", name, &[("state", state)]))
        .iter()
        .sum();
    assert_eq!(servers, pooled.database.backends(USER).len() as u64);
    assert_eq!(servers, rows_where(&mut console, "SERVERS", "database", name).len() as u64);
    assert_eq!(metrics.pool("pgferry_pool_saturation_ratio", name, &[]), 1);
    assert_eq!(metrics.pool("pgferry_pool_servers_in_use", name, &[]), 3);
    assert_eq!(metrics.pool("pgferry_pool_allowed_servers", name, &[]), 3);
    assert!(
        metrics.0[&format!("pgferry_pool_oldest_wait_seconds{{database=\"{name}\",user=\"{USER}\"}}")] > 0.0
    );
    let database = row_where(&mut console, "DATABASES", "name", name);
    let columns = [
        ("pgferry_database_servers", "current_connections"),
        ("pgferry_database_clients", "current_client_connections"),
    ];
    for (metric, column) in columns {
        assert_eq!(metrics.of(metric, &[("database", name)]), database.number(column), "{metric}");
    }
    let user = row_where(&mut console, "USERS", "name", USER);
    assert_eq!(
        metrics.of("pgferry_user_clients", &[("user", USER)]),
        user.number("current_client_connections")
    );

    let stats = row_where(&mut console, "STATS_TOTALS", "database", name);
    let columns = [
        ("pgferry_pool_transactions_total", "xact_count"),
        ("pgferry_pool_queries_total", "query_count"),
        ("pgferry_pool_assignments_total", "server_assignment_count"),
        ("pgferry_pool_received_bytes_total", "bytes_received"),
        ("pgferry_pool_sent_bytes_total", "bytes_sent"),
        ("pgferry_pool_logins_total", "client_login_count"),
    ];
    for (metric, column) in columns {
        assert_eq!(metrics.pool(metric, name, &[]), stats.number(column), "{metric}");
    }
    let events = rows_where(&mut console, "EVENTS", "database", name);
    let shown = metrics.pool("pgferry_pool_events_total", name, &[("reason", events[0].text("reason"))]);
    assert_eq!((events[0].text("reason"), shown), ("statement_timeout", 1));
    let pinned = metrics.pool("pgferry_pool_pins_total", name, &[("reason", "temporary objects")]);
    assert_eq!([pinned, metrics.pool("pgferry_pool_pinned_clients", name, &[])], [1, 1]);
    let timed = metrics.pool("pgferry_pool_query_seconds_count", name, &[]);
    assert_eq!(timed, metrics.pool("pgferry_pool_query_seconds_bucket", name, &[("le", "+Inf")]));
    assert_eq!(timed, metrics.pool("pgferry_pool_queries_total", name, &[]));
    assert_eq!(metrics.of("pgferry_ready", &[]), 1);
    assert_eq!(metrics.of("pgferry_console_clients", &[]), 1);

    // What a page shows is the same.
    let state = get(site, "/api/state").json();
    assert_eq!(state["pools"][0]["clients"]["waiting"], 2);
    assert_eq!(state["pools"][0]["database"], name);
    assert_eq!(state["pools"][0]["in_use"], 3);
    assert_eq!(state["pins"]["rows"][0]["statement"], "create temp table mine (id int)");
    let details = get(site, "/api/details").json();
    let waiting = details["waiting"]["rows"].as_array().expect("rows");
    let statements: Vec<_> =
        waiting.iter().map(|row| row["statement"].as_str().unwrap_or_default()).collect();
    assert_eq!(statements, ["select ?", "select ?"]);
    assert!(details["queries"]["rows"].to_string().contains("create temp table mine (id int)"), "{details}");
    clients[0].execute("commit");
    clients[1].execute("commit");
}

/// One more database, whose primary is the shared server and whose replica is not there.
fn with_a_replica(builder: PoolerBuilder) -> PoolerBuilder {
    let port = Postgres::shared().port();
    let hosts = format!("host=127.0.0.1 port={port} dbname=postgres replicas=127.0.0.1:1 read_routing=auto");
    builder.database_line("replicated", &hosts)
}

/// Waits until both of its hosts were looked at.
#[track_caller]
fn wait_for_hosts(pooler: &Pooler) {
    pooler.connect("replicated").execute("select 1");
    eventually("both hosts were looked at", SOON, || {
        let rows = table(&mut pooler.console(), "HOSTS");
        let has = |column: &str, value: &str| rows.iter().any(|row| row.text(column) == value);
        has("role", "primary") && has("breaker", "open")
    });
}

/// Every metric is documented, every documented one exists, and so do those that dashboard and alert rules name.
#[test]
fn names_are_those_of_the_documents() {
    let pooled = pooled("", |builder| {
        let builder = with_a_replica(with_http(builder)).setting("statement_timeout", "200ms");
        let builder = builder.setting("max_db_connections", 9).setting("max_db_client_connections", 90);
        builder.setting("max_user_connections", 9).setting("max_user_client_connections", 90)
    });
    let site = site(&pooled.pooler);
    wait_for_hosts(&pooled.pooler);
    Client::try_login(&pooled.target().user("stranger")).expect_err("a stranger").refusal();
    let mut client = pooled.connect();
    assert_eq!(client.query("select pg_sleep(60)").error_code(), "57014");
    let live = || {
        let text = get(site, "/metrics").body;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split_once(' ').expect(line).0.to_owned()).collect::<BTreeSet<String>>()
    };
    eventually("the event is counted", SOON, || live().contains("pgferry_pool_events_total"));
    let page = include_str!("../docs/METRICS.md");
    let documented =
        page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split_once('`'));
    let documented: BTreeSet<String> =
        documented.map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with('/')).collect();
    let live = live();
    let questions = documented.iter().filter(|name| name.contains(' ')).count();
    assert_eq!(questions, 0, "a row of another table looks like a metric");
    assert_eq!(documented, live);

    let shipped = [
        include_str!("../contrib/grafana/pgferry.json"),
        include_str!("../contrib/prometheus/pgferry.rules.yml"),
        page,
    ];
    for text in shipped {
        let names = names_in(text);
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            assert!(
                live.contains(&name) || base.is_some_and(|base| live.contains(base)),
                "there is no {name}"
            );
        }
    }
    let grafana: Value = serde_json::from_str(shipped[0]).expect("JSON");
    assert!(grafana["panels"].as_array().is_some_and(|panels| panels.len() > 15));
}

/// What `/readyz` answers: the status, and each reason with its database.
#[track_caller]
fn readiness(site: SocketAddr, query: &str) -> (u16, Vec<(String, String)>) {
    let answer = get(site, &format!("/readyz{query}"));
    let json = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reasons = json["reasons"].as_array().expect("reasons").iter();
    let reasons: Vec<_> =
        reasons.map(|reason| (text(&reason["reason"]), text(&reason["database"]))).collect();
    assert_eq!(json["ready"], Value::Bool(answer.status == 200));
    (answer.status, reasons)
}

#[test]
fn readiness_gives_its_reasons() {
    let port = free_port();
    let pooled = pooled("", |builder| {
        with_http(builder).database_line("away", &format!("host=127.0.0.1 port={port}"))
    });
    let (site, name) = (site(&pooled.pooler), pooled.database.name());
    let unready = |reason: &str, database: &str| (503, vec![(reason.to_owned(), database.to_owned())]);
    let ready = (200, vec![]);
    let mut client = pooled.connect();
    let mut console = pooled.pooler.console();
    assert_eq!(readiness(site, ""), ready);
    console.execute("PAUSE");
    assert_eq!(readiness(site, ""), unready("paused", ""));
    assert_eq!(Metrics::read(site).of("pgferry_ready", &[]), 0);
    console.execute("RESUME");
    console.execute("SUSPEND");
    assert_eq!(readiness(site, ""), unready("suspended", ""));
    console.execute("RESUME");
    console.execute(&format!("PAUSE \"{name}\""));
    assert_eq!(readiness(site, ""), unready("database paused", name));
    assert_eq!(readiness(site, "?database=away"), ready);
    console.execute(&format!("RESUME \"{name}\""));
    assert_eq!(readiness(site, ""), ready);

    // Nobody listens there; a client finds out.
    let away = pooled.pooler.target("away");
    let lost = thread::spawn(move || drop(Client::try_login(&away)));
    eventually("it is found out", SOON, || readiness(site, "") == unready("no server reachable", "away"));
    assert_eq!(readiness(site, &format!("?database={name}")), ready);
    assert_eq!(Metrics::read(site).of("pgferry_database_up", &[("database", "away")]), 0);
    client.execute("select 1");
    // Now somebody does. It is found out without any client.
    pooled.pooler.console().execute("KILL away");
    pooled.pooler.console().execute("RESUME away");
    lost.join().unwrap();
    let _listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    eventually("it is found again", SOON, || readiness(site, "") == ready);

    pooled.pooler.signal(Signal::SIGTERM);
    eventually("it shuts down", SOON, || readiness(site, "") == unready("shutting down", ""));
    let alive = get(site, "/healthz");
    assert_eq!((alive.status, &alive.json()["status"]), (200, &Value::from("ok")));
    client.execute("select 1");
    drop((client, console));
    assert!(pooled.pooler.wait_ended().success());
    assert!(TcpStream::connect(site).is_err());
}

#[test]
fn orders_need_the_token() {
    let mut pooled = pooled("", |builder| with_http(builder).setting("http_admin_token", TOKEN));
    let site = site(&pooled.pooler);
    let mut console = pooled.pooler.console();
    let state = |console: &mut Client, wanted: &str| {
        row_where(console, "STATE", "key", wanted).text("value").to_owned()
    };
    for (method, headers, status) in [
        ("GET", String::new(), 405),
        ("GET", format!("Authorization: Bearer {TOKEN}\r\n"), 405),
        ("POST", String::new(), 401),
        ("POST", format!("Authorization: Basic {TOKEN}\r\n"), 401),
        ("POST", format!("Authorization: Bearer {}\r\n", &TOKEN[1..]), 401),
        ("POST", format!("Authorization: Bearer {TOKEN}x\r\n"), 401),
        ("POST", "Authorization: Bearer\r\n".into(), 401),
    ] {
        assert_eq!(request(site, method, "/api/pause", &headers).status, status, "{method} {headers}");
    }
    assert_eq!(state(&mut console, "paused"), "no");
    assert_eq!(order(site, "/api/pause", TOKEN).json()["done"], true);
    assert_eq!(state(&mut console, "paused"), "yes");
    assert_eq!(order(site, "/api/resume", TOKEN).status, 200);
    assert_eq!(state(&mut console, "paused"), "no");
    let refused = order(site, "/api/resume", TOKEN);
    assert_eq!((refused.status, &refused.json()["error"]), (409, &"pooler is not paused/suspended".into()));
    let name = pooled.database.name();
    assert_eq!(order(site, &format!("/api/pause?database={name}"), TOKEN).status, 200);
    assert_eq!(readiness(site, "").0, 503);
    assert_eq!(order(site, &format!("/api/resume?database={name}"), TOKEN).status, 200);
    let refused = order(site, "/api/pause?database=no%22such%20one", TOKEN);
    assert_eq!((refused.status, &refused.json()["error"]), (409, &"no such database: no\"such one".into()));
    assert_eq!(order(site, "/api/kill_client?id=1;+SHUTDOWN", TOKEN).status, 400);
    assert_eq!(order(site, "/api/kill_client", TOKEN).status, 400);
    assert_eq!(order(site, "/api/reload", TOKEN).status, 200);
    pooled.pooler.wait_for_log("RELOAD command issued");

    let mut client = pooled.connect();
    let before = client.scalar("select pg_backend_pid()");
    assert_eq!(order(site, &format!("/api/reconnect?database={name}"), TOKEN).status, 200);
    assert_ne!(client.scalar("select pg_backend_pid()"), before);
    let id = row_where(&mut console, "CLIENTS", "database", name).text("id").to_owned();
    assert_eq!(order(site, &format!("/api/kill_client?id={id}"), TOKEN).status, 200);
    assert_eq!(client.expect_closed().error().expect("an error").message(), "admin forced disconnect");
    assert_eq!(order(site, &format!("/api/kill_client?id={id}"), TOKEN).status, 409);

    // A pause that must wait for a client is answered all the same.
    let mut client = pooled.connect();
    client.execute("begin");
    assert_eq!(order(site, "/api/pause", TOKEN).status, 202);
    client.execute("commit");
    assert_eq!(order(site, "/api/resume", TOKEN).status, 200);

    // The secret is nowhere to be seen.
    let mut console = pooled.pooler.console();
    assert_eq!(row_where(&mut console, "CONFIG", "key", "http_admin_token").text("value"), "(secret)");
    for text in [
        pooled.pooler.log(),
        pooled.pooler.stderr(),
        get(site, "/api/state").body,
        get(site, "/metrics").body,
    ] {
        assert!(!text.contains(TOKEN));
    }
    pooled.pooler.reload(|builder| builder.setting("http_admin_token", ""));
    assert_eq!(order(site, "/api/pause", TOKEN).status, 403);
    assert_eq!(order(site, "/api/pause", "").status, 403);
}

#[test]
fn bad_requests_harm_nobody() {
    let pooled = pooled("", with_http);
    let site = site(&pooled.pooler);
    let mut client = pooled.connect();
    let status = |bytes: &[u8]| exchange(site, bytes).map_or(0, |answer| answer.status);
    assert_eq!(status(b"\0\x01\x02 nonsense\r\n\r\n"), 400);
    assert_eq!(status(b"GET / HTTP/9.9\r\n\r\n"), 400);
    let long = format!("GET / HTTP/1.1\r\nHost: {site}\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!([0, 431].contains(&status(long.as_bytes())));
    let target = format!("GET /{} HTTP/1.1\r\nHost: {site}\r\n\r\n", "x".repeat(1 << 20));
    assert!([0, 414, 431].contains(&status(target.as_bytes())));
    assert_eq!(get(site, "/../etc/passwd").status, 404);
    assert_eq!(get(site, "/api/state/").status, 404);
    assert_eq!(request(site, "POST", "/metrics", "Content-Length: 0\r\n").status, 405);
    assert_eq!(request(site, "DELETE", "/", "").status, 405);
    let head = request(site, "HEAD", "/metrics", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // A body that never comes is not waited for.
    let body = format!(
        "POST /api/pause HTTP/1.1\r\nHost: {site}\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(status(body.as_bytes()), 403);
    // A name that points here, in a browser that shows somebody else's page.
    for (host, expected) in
        [("evil.example", 421), ("localhost:1", 200), ("[::1]:80", 200), ("10.0.0.1", 200)]
    {
        let text = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(text.as_bytes()), expected, "{host}");
    }
    let page = get(site, "/");
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(page.head.contains("x-content-type-options: nosniff"), "{}", page.head);

    // Those that are one too many are closed, and the pooler's clients do not notice.
    let mut idle: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(site).expect("connect")).collect();
    let closed = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        stream.read(&mut [0]).is_ok_and(|read| read == 0)
    };
    eventually("twelve are closed", SOON, || {
        idle.iter_mut().map(closed).filter(|closed| *closed).count() == 12
    });
    client.execute("select 1");
    drop(idle);
    eventually("there is room again", SOON, || {
        let text = format!("GET /healthz HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n");
        status(text.as_bytes()) == 200
    });
}

#[test]
fn it_listens_where_the_settings_say() {
    let mut pooled = pooled("", |builder| builder);
    assert!(!pooled.pooler.log().contains("http"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second = taken.local_addr().unwrap();
    pooled.pooler.reload(|builder| builder.setting("http_listen", format!("127.0.0.1:0, {second}")));
    let first = site(&pooled.pooler);
    assert_eq!(get(first, "/healthz").status, 200);
    pooled.pooler.wait_for_log(&format!("http: cannot listen on {second}"));
    drop(taken);
    eventually("the second is served, too", SOON, || {
        pooled.pooler.log().contains(&format!("http: listening on http://{second}/"))
    });
    assert_eq!(get(second, "/healthz").status, 200);
    let mut open = TcpStream::connect(second).expect("connect");
    pooled.pooler.reload(|builder| builder.setting("http_listen", ""));
    eventually("nothing is served", SOON, || {
        TcpStream::connect(first).is_err() && TcpStream::connect(second).is_err()
    });
    open.set_read_timeout(Some(patient(SOON))).unwrap();
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
}

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file())
}

/// What a browser has made of the page once it has asked for the state a few times.
fn page_in_browser(program: &PathBuf, pooled: &Pooled, site: SocketAddr, width: u32) -> String {
    let profile = pooled.pooler.dir().join(format!("browser-{width}"));
    let dump = pooled.pooler.dir().join(format!("page-{width}"));
    let mut browser = Command::new(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--virtual-time-budget=9000", "--dump-dom", &format!("--window-size={width},900")])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{site}/"))
        .stdout(File::create(&dump).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the browser");
    let mut ended = None;
    let in_time = holds_within(Duration::from_secs(90), || {
        ended = browser.try_wait().expect("wait for the browser");
        ended.is_some()
    });
    let _ = browser.kill();
    assert!(in_time && ended.is_some_and(|status| status.success()), "the browser: {ended:?}");
    fs::read_to_string(dump).expect("the page")
}

#[test]
fn the_dashboard_in_a_browser() {
    let Some(program) = chromium() else {
        return println!("skipped: there is no Chromium in PATH");
    };
    let pooled = pooled("", |builder| with_a_replica(with_http(builder)).setting("default_pool_size", 2));
    let (site, name) = (site(&pooled.pooler), pooled.database.name());
    wait_for_hosts(&pooled.pooler);
    let mut clients: Vec<Client> = (0..4).map(|_| pooled.connect()).collect();
    clients[0].execute("begin");
    clients[1].execute("select pg_advisory_lock(7)");
    clients[2].send(query("select '<i>not markup</i>'"));
    let mut console = pooled.pooler.console();
    eventually("one waits", SOON, || {
        row_where(&mut console, "POOLS", "database", name).number("cl_waiting") == 1
    });
    for width in [1280, 390] {
        let page = page_in_browser(&program, &pooled, site, width);
        for text in [
            ">running<",
            ">2 of 2<",
            "aria-valuenow=\"2\"",
            name,
            "select pg_advisory_lock(?)",
            "advisory locks",
            ">primary<",
            ">127.0.0.1:1<",
            "connect failed: Connection refused",
            "live, every 2 s",
            "waiting clients: now 1, highest of the last five minutes 1",
            "select ?",
        ] {
            assert!(page.contains(text), "{width}: no {text:?} in {page}");
        }
    }
}

/// Clients are counted, not looked at: a scrape of thousands is fast, and the traffic does not notice.
/// `HTTP_CLIENTS=10000` is what is promised.
#[test]
fn a_scrape_of_many_clients() {
    const THREADS: usize = 4;
    let wanted = size("HTTP_CLIENTS", 500);
    let pooled = pooled("", |builder| {
        let builder =
            with_http(builder).setting("max_client_conn", wanted + 100).setting("listen_backlog", 4096);
        builder.setting("default_pool_size", 5).setting("log_connections", 0).setting("log_disconnections", 0)
    });
    let site = site(&pooled.pooler);
    let target = pooled.target();
    pooled.connect().execute("select 1");
    let log_in = |count: usize| (0..count).map(|_| Client::login(&target)).collect::<Vec<Client>>();
    let clients: Vec<Client> = thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| log_in(wanted / THREADS))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("the logins")).collect()
    });
    // By turns, so that what else the machine does is the same for both.
    let (mut scrapes, mut quiet, mut scraped) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..2 * size("HTTP_TURNS", 2) {
        let probe = Probe::start(&target, "select 1", Duration::from_micros(500));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            if turn % 2 == 1 {
                let one = Instant::now();
                assert_eq!(get(site, "/metrics").status, 200);
                scrapes.push(one.elapsed());
            }
            thread::sleep(Duration::from_millis(200));
        }
        let p99 = probe.finish().quantile(0.99);
        if turn % 2 == 1 { scraped.push(p99) } else { quiet.push(p99) }
    }
    for times in [&mut scrapes, &mut quiet, &mut scraped] {
        times.sort_unstable();
    }
    let median = |times: &[Duration]| times[times.len() / 2];
    let (longest, usual) = (scrapes[scrapes.len() - 1], median(&scrapes));
    println!(
        "{} clients: {} scrapes, median {usual:.1?}, longest {longest:.1?}",
        clients.len(),
        scrapes.len()
    );
    println!("p99 of the traffic without: {:.1?}, with: {:.1?}", median(&quiet), median(&scraped));
    let name = pooled.database.name();
    assert!(holds_within(SOON, || {
        let metrics = Metrics::read(site);
        metrics.pool("pgferry_pool_clients", name, &[("state", "idle")]) == clients.len() as u64
    }));
    assert!(usual < patient(Duration::from_millis(50)), "{usual:?}");
}
