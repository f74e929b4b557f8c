//! What Patroni says of the hosts decides who may not be written to, for as long as it says so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use support::frontend::query;
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Database, Postgres};
use support::wait::eventually;
use support::wire::Client;

use super::{SOON, database_of, hosts, quiet_set};
use crate::common::pooler;

/// Answers every request with the same bytes and closes, as Patroni does. Ends with the test's process.
struct Patroni {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// `None`: it takes the request and says nothing.
    answer: Option<Vec<u8>>,
    requests: Vec<String>,
}

impl Patroni {
    fn start() -> Patroni {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let patroni = Patroni { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = patroni.state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                thread::spawn(move || converse(stream, &state));
            }
        });
        patroni
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, head: &str, body: &[u8]) {
        let head = format!("HTTP/1.0 {head}\r\nContent-Type: application/json\r\n\r\n");
        self.with(|state| state.answer = Some([head.as_bytes(), body].concat()));
    }

    /// Names hosts with their roles, all of them running.
    fn says(&self, hosts: &[(&Postgres, &str)]) {
        let members: Vec<String> = hosts
            .iter()
            .map(|(host, role)| {
                let port = host.port();
                let state = if *role == "leader" { "running" } else { "streaming" };
                format!(
                    r#"{{"name": "{port}", "role": "{role}", "state": "{state}", "host": "127.0.0.1", "port": {port}, "timeline": 1}}"#
                )
            })
            .collect();
        let body = format!(r#"{{"members": [{}], "scope": "main"}}"#, members.join(", "));
        self.answer("200 OK", body.as_bytes());
    }

    fn is_silent(&self) {
        self.with(|state| state.answer = None);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.with(|state| state.requests.clone())
    }
}

fn converse(mut stream: TcpStream, state: &Mutex<State>) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
        state.requests.push(first);
        state.answer.clone()
    };
    match answer {
        Some(answer) => {
            let _ = stream.write_all(&answer); // who has heard enough hangs up
        }
        None => {
            let _ = stream.read(&mut buffer); // until the other side gives up
        }
    }
}

struct World {
    database: Database,
    pooler: Pooler,
}

fn start(urls: &[String], configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> World {
    let set = quiet_set();
    let database = database_of(&set, "create table written (id int)");
    let builder = pooler()
        .setting("read_routing", "auto")
        .setting("query_wait_timeout", 2)
        .setting("probe_interval", "100ms")
        .setting("probe_timeout", "300ms")
        .setting("patroni", urls.join(", "));
    let pooler = configure(builder).database_line(database.name(), &hosts(&set, &database)).start();
    World { database, pooler }
}

impl World {
    /// Whether a write is carried out. One that is not waits, and is refused in the end.
    fn takes_writes(&self) -> bool {
        let Ok(mut client) = Client::try_login(&self.pooler.target(self.database.name())) else {
            return false;
        };
        client.send(query("insert into written values (1)"));
        loop {
            match client.try_read() {
                Ok(message) if message.tag == b'Z' => return true,
                Ok(message) if message.tag != b'E' => {}
                _ => return false,
            }
        }
    }

    /// Rows that were written at the hosts, whoever says so.
    fn written(&self) -> String {
        let primary = quiet_set().primary.superuser(self.database.name());
        Client::login(&primary).scalar("select count(*) from written")
    }

    #[track_caller]
    fn wait_for_writes(&self, expected: bool, why: &str) {
        eventually(why, SOON, || self.takes_writes() == expected);
    }
}

#[test]
fn only_the_leader_that_it_names_is_written_to() {
    let set = quiet_set();
    let (primary, others) = (&set.primary, &set.replicas);
    let patroni = Patroni::start();
    patroni.says(&[(primary, "leader"), (&others[0], "replica"), (&others[1], "sync_standby")]);
    let world = start(&[patroni.url()], |builder| builder);
    world.wait_for_writes(true, "the leader is written to");

    patroni.says(&[(primary, "replica"), (&others[0], "leader"), (&others[1], "replica")]);
    world.pooler.wait_for_log(&format!("patroni: 127.0.0.1:{} is leader, timeline 1", others[0].port()));
    world.pooler.wait_for_log(&format!("host 127.0.0.1:{}: fenced, was primary", primary.port()));
    let before = world.written();
    assert!(!world.takes_writes(), "a primary that has lost its lock is written to");
    assert_eq!(world.written(), before);

    patroni.says(&[(primary, "replica"), (&others[0], "replica")]);
    world.wait_for_writes(true, "nobody leads, and the primary that is seen is written to");
    patroni.says(&[(&others[0], "leader")]);
    world.wait_for_writes(false, "another leads again");
    patroni.is_silent();
    world.wait_for_writes(true, "what was said does not count for ever");
    assert_eq!(patroni.requests()[0], "GET /cluster HTTP/1.1");
}

#[test]
fn whoever_answers_is_asked() {
    let set = quiet_set();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let [silent, broken, endless, junk, good] = std::array::from_fn(|_| Patroni::start());
    broken.answer("503 Service Unavailable", b"{\"members\": []}");
    endless.answer("200 OK", &[b' '; 2 << 20]);
    junk.answer("200 OK", b"[[[[");
    good.says(&[(&set.primary, "replica"), (&set.replicas[0], "leader")]);
    let urls =
        [format!("http://{closed}"), silent.url(), broken.url(), endless.url(), junk.url(), good.url()];
    let world = start(&urls, |builder| builder);
    world.takes_writes(); // so that the database is known
    world.pooler.wait_for_log(&format!("patroni: {} answers", good.url()));
    assert!(!world.takes_writes(), "its word counts");
    for other in [&silent, &broken, &endless, &junk] {
        assert_eq!(other.requests().len(), 1, "the one that answers is asked first from then on");
    }
    good.is_silent();
    world.pooler.wait_for_log("patroni: no answer");
    world.wait_for_writes(true, "without an answer probes decide");
}
