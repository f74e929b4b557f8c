//! Who waits for whom in PostgreSQL, and who idles in a transaction, in terms of the pooler's clients.
//!
//! PostgreSQL is asked when somebody wants to know, one database after the other at the same time: over an idle connection
//! of one of its pools, else over one more, which counts for the limits of the database and the user but not for the
//! pool's, since a pool that is full of those who wait is what this is for.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::answers::Values;
use crate::clients::ClientInfo;
use crate::events::LONGEST_SHOWN;
use crate::net::Peer;
use crate::pool::Pool;
use crate::server::{self, ServerInfo, ServerState};
use crate::shared::Shared;
use crate::worker::{Order, Worker};

/// One side of a wait.
#[derive(Debug, Clone, Default)]
pub struct Party {
    /// Number of the client's socket, if it is one of this pooler's.
    pub client: Option<u64>,
    /// Process id of its backend; 0: a prepared transaction.
    pub pid: u32,
    /// Where the client is; of one that is not the pooler's, what PostgreSQL lets the pooler see, like the rest.
    pub address: Option<String>,
    /// `application_name`.
    pub application_name: Option<String>,
    /// Login user.
    pub user: Option<String>,
    /// Its last statement, without literals.
    pub statement: String,
}

/// Somebody waits, or nobody does yet.
#[derive(Debug, Clone)]
pub struct BlockerRow {
    /// Client-side database over which this was found.
    pub database: String,
    /// Who waits for a lock, and for how many microseconds; `None`: nobody, but the other idles in a transaction.
    pub waiting: Option<(Party, u64)>,
    /// Who is waited for; `None`: `state` says why nothing is known of this database.
    pub blocking: Option<Party>,
    /// Of the blocking backend, in PostgreSQL's words; empty if PostgreSQL does not show it to the pool's user.
    pub state: String,
    /// How many microseconds it has been in its transaction, or its statement if it is in none.
    pub duration: Option<u64>,
}

/// Time for all answers.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than this (bytes) is not read.
const LONGEST: usize = 4 << 20;

/// What a worker is to ask.
pub(crate) struct Question {
    pool: Arc<Pool>,
    sql: &'static str,
    answer: oneshot::Sender<Result<Vec<Values>, String>>,
}

/// Every database that has a pool.
pub(crate) async fn rows(shared: &Shared) -> Vec<BlockerRow> {
    let mut databases = shared.registry.databases();
    databases.sort_by(|a, b| a.name.cmp(&b.name));
    let asked = databases.into_iter().filter_map(|db| whom_to_ask(db.pools())).collect();
    let mut rows = Vec::new();
    for (pool, answer) in ask_all(shared, asked, QUESTION).await {
        match answer {
            Ok(found) => {
                let parties = Parties::new(shared, &pool);
                rows.extend(found.iter().filter_map(|values| row(&pool, &parties, values)));
            }
            Err(why) => rows.push(BlockerRow {
                database: pool.db.name.clone(),
                waiting: None,
                blocking: None,
                state: format!("not known: {why}"),
                duration: None,
            }),
        }
    }
    rows
}

/// Of these pools one whose idle connection can be used, else one that is in use.
pub(crate) fn whom_to_ask(pools: Vec<Arc<Pool>>) -> Option<Arc<Pool>> {
    let in_use = pools.into_iter().filter(|pool| pool.open.get() > 0);
    in_use.max_by_key(|pool| (pool.idle(), pool.open.get()))
}

/// Asks over each of these pools at the same time.
pub(crate) async fn ask_all(
    shared: &Shared,
    pools: Vec<Arc<Pool>>,
    sql: &'static str,
) -> Vec<(Arc<Pool>, Result<Vec<Values>, String>)> {
    let ask = |pool: Arc<Pool>| {
        let (sender, answer) = oneshot::channel();
        let question = Question { pool: pool.clone(), sql, answer: sender };
        shared.order(pool.idle_worker(), Order::Ask(question));
        (pool, answer)
    };
    let asked: Vec<_> = pools.into_iter().map(ask).collect();
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    for (pool, answer) in asked {
        let answer = match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err("no answer in time".to_owned()),
        };
        answers.push((pool, answer));
    }
    answers
}

/// Who is behind each backend of one PostgreSQL.
struct Parties {
    servers: HashMap<u32, Arc<ServerInfo>>,
    clients: HashMap<u64, Arc<ClientInfo>>,
}

impl Parties {
    fn new(shared: &Shared, pool: &Pool) -> Parties {
        let members = pool.neighbours().into_iter().flat_map(|pool| pool.members());
        Parties {
            servers: members.map(|server| (server.pid, server)).collect(),
            clients: shared.clients.all().into_iter().map(|client| (client.id, client)).collect(),
        }
    }

    /// The client that has this backend, else what PostgreSQL says: user, application, address, statement.
    fn party(&self, pid: u32, told: &[Option<String>]) -> Party {
        let server = self.servers.get(&pid);
        let client = server.and_then(|server| self.clients.get(&server.client.load(Relaxed)));
        if let (Some(server), Some(client)) = (server, client) {
            return Party {
                client: Some(client.id),
                pid,
                address: Some(address(client.remote)),
                application_name: client.params().application_name().map(str::to_owned),
                user: Some(client.login.name.clone()),
                statement: sql::outline(&server.text(), LONGEST_SHOWN),
            };
        }
        let told = |index: usize| told.get(index).cloned().flatten();
        Party {
            client: None,
            pid,
            address: told(2),
            application_name: told(1),
            user: told(0),
            statement: sql::outline(told(3).unwrap_or_default().as_bytes(), LONGEST_SHOWN),
        }
    }
}

fn address(peer: Peer) -> String {
    match peer.port() {
        Some(port) => format!("{}:{port}", peer.host()),
        None => peer.host(),
    }
}

/// A row of what [`QUESTION`] returns.
fn row(pool: &Pool, parties: &Parties, values: &[Option<String>]) -> Option<BlockerRow> {
    let number = |index: usize| values.get(index).and_then(|value| value.as_deref()?.parse::<u64>().ok());
    let waiting = number(0).map(|pid| {
        (parties.party(pid as u32, values.get(2..6).unwrap_or_default()), number(1).unwrap_or_default())
    });
    let pid = number(6)? as u32;
    Some(BlockerRow {
        database: pool.db.name.clone(),
        waiting,
        blocking: Some(parties.party(pid, values.get(9..13).unwrap_or_default())),
        state: match pid {
            0 => "prepared transaction".to_owned(),
            _ => values.get(7).cloned().flatten().unwrap_or_default(),
        },
        duration: number(8),
    })
}

/// Those who wait for a lock with each who blocks them, then those who idle in a transaction and block nobody. Names with a
/// schema, and no operator that a `search_path` could replace. Older versions have no `waitstart`.
const QUESTION: &str = "\
    WITH a AS MATERIALIZED (SELECT pid, usename, application_name, client_addr, query, state, xact_start, query_start, \
    state_change FROM pg_catalog.pg_stat_activity WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()), \
    w AS MATERIALIZED (SELECT l.pid, pg_catalog.min((pg_catalog.to_jsonb(l) OPERATOR(pg_catalog.->>) 'waitstart')\
    ::pg_catalog.timestamptz) AS since FROM pg_catalog.pg_locks l WHERE NOT l.granted GROUP BY l.pid), \
    p AS MATERIALIZED (SELECT DISTINCT w.pid, b.pid AS blocker, w.since FROM w, \
    LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) AS b(pid)) \
    SELECT p.pid, (EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) coalesce(p.since, a.query_start)) \
    OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, a.usename, a.application_name, pg_catalog.host(a.client_addr), \
    a.query, p.blocker, b.state, (EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) \
    coalesce(b.xact_start, b.query_start)) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, b.usename, \
    b.application_name, pg_catalog.host(b.client_addr), b.query \
    FROM p JOIN a ON a.pid OPERATOR(pg_catalog.=) p.pid LEFT JOIN pg_catalog.pg_stat_activity b \
    ON b.pid OPERATOR(pg_catalog.=) p.blocker \
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, a.pid, a.state, (EXTRACT(epoch FROM pg_catalog.clock_timestamp() \
    OPERATOR(pg_catalog.-) a.xact_start) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, a.usename, a.application_name, \
    pg_catalog.host(a.client_addr), a.query FROM a WHERE a.state IN ('idle in transaction', \
    'idle in transaction (aborted)') AND a.state_change OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() \
    OPERATOR(pg_catalog.-) '1 second'::pg_catalog.interval) AND NOT EXISTS (SELECT FROM p WHERE p.blocker \
    OPERATOR(pg_catalog.=) a.pid)";

/// Asks PostgreSQL, on this worker.
pub(crate) async fn ask(worker: Rc<Worker>, question: Question) {
    let Question { pool, sql, answer } = question;
    let found = match tokio::time::timeout(PATIENCE, ask_in_time(&worker, &pool, sql)).await {
        Ok(found) => found,
        Err(_) => Err("no answer in time".to_owned()), // the connection is closed
    };
    let _ = answer.send(found);
    pool.pump(&worker);
}

async fn ask_in_time(worker: &Rc<Worker>, pool: &Arc<Pool>, sql: &str) -> Result<Vec<Values>, String> {
    if pool.is_held() {
        return Err("paused".to_owned());
    }
    let idle = pool.shards[worker.index].take_idle(false).and_then(|server| server.into_clean());
    if let Some(mut server) = idle {
        server.info.set_state(ServerState::Tested);
        let found = server::ask(&mut server, sql, LONGEST).await.map_err(|error| error.to_string())?;
        if let Some(server) = server.into_idle() {
            pool.give_back(worker.index, server);
        }
        return Ok(found);
    }
    let now = pool.shared.clock.micros();
    let begun = pool.dial(now, || pool.admit_aside(&pool.watching)).ok_or("no connection for it is free")?;
    let server = server::connect(worker, pool, begun, &[]).await.map_err(|error| error.to_string())?;
    let mut server = server.into_server();
    server.info.set_state(ServerState::Tested);
    let found = server::ask(&mut server, sql, LONGEST).await.map_err(|error| error.to_string());
    server.close("was opened for one question of the console");
    found
}

impl Pool {
    fn idle(&self) -> usize {
        self.shards.iter().map(|shard| shard.idle_count()).sum()
    }

    /// A worker that has an idle server, if one has.
    fn idle_worker(&self) -> usize {
        self.shards.iter().position(|shard| shard.idle_count() > 0).unwrap_or(0)
    }
}
