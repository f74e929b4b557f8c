//! Users that no list has: PostgreSQL is asked for them, over a pool of its own user (`auth_query`).
//!
//! Logins of the same user share a question until it is sent. Who comes while it is on its way waits for the next, because
//! the answer may be older than a password that was changed meanwhile. A few may be on their way at the same time, so that
//! a slow one does not hold up those who come later:
//!
//! ```text
//!            first login                     a server is free                     the answer
//!   nothing ─────────────▶ next, with a task ────────────────▶ on its way ───────────────────────▶ nothing
//!                           ▲  │ all clients                      │ clients come, and few              │
//!                           │  ▼ have left                        │ are on their way                   │
//!                           │ nothing                             ▼                                    │
//!                           │                             a next one, with a task                      │
//!                           └──────────────────────────────────────────────────────────────────────────┘
//!                                            clients have come, and many were on their way
//! ```

mod ask;
mod place;
mod row;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Secret;
use crate::error::Refusal;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::worker::Worker;

pub(crate) use place::lookup;

/// What a client is told where the configuration, or what it asks PostgreSQL for, is wrong; the log knows more.
const CONFIG_ERROR: &str = "bouncer config error";

/// A row of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Who the client is from here on.
    pub(crate) user: String,
    /// `None`: no password fits.
    pub(crate) secret: Option<Secret>,
}

/// `None`: there is no such user.
pub(crate) type Answer = Option<Arc<Found>>;

/// One question: by whom, where, what and about whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Lookup {
    /// Database, by the name that clients use.
    pub(crate) database: String,
    pub(crate) asker: String,
    pub(crate) sql: String,
    pub(crate) login: String,
}

/// Whether an answer may be one that another login got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// As old as `auth_query_cache_ttl` says.
    Kept,
    /// Begun after the caller asked for it.
    Fresh,
}

/// Answers that were got, and the questions that are being asked.
#[derive(Default)]
pub(crate) struct AuthQueries {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    kept: HashMap<Lookup, Kept>,
    /// Questions that have a task.
    asked: HashMap<Lookup, Asked>,
}

/// What is done about one question.
#[derive(Default)]
struct Asked {
    /// Those who wait for the one that is sent next. It has a task if there are more tasks than are on their way.
    next: Option<Arc<Clients>>,
    tasks: usize,
    /// Sent and not answered.
    on_way: usize,
}

/// So often the same question may be on its way.
const MOST_ON_WAY: usize = 4;

/// Those who wait for one question.
type Clients = watch::Sender<Option<Result<Answer, Refusal>>>;

struct Kept {
    answer: Answer,
    /// When it was asked for, in microseconds.
    asked_at: u64,
    /// Until when it counts, in microseconds.
    until: u64,
    /// Of the pool that it came from: after `RECONNECT` it counts no more.
    generation: u64,
}

/// More answers than this are not kept: each stranger's name has one.
const MOST_KEPT: usize = 8192;

/// An answer, and where from.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) answer: Answer,
    /// Another login has got it, some time ago.
    pub(crate) kept: bool,
}

enum Joined {
    Known(Answer),
    Waits(watch::Receiver<Option<Result<Answer, Refusal>>>),
}

impl AuthQueries {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that is kept counts any more.
    pub(crate) fn forget(&self) {
        self.lock().kept.clear();
    }

    /// Finds a user out. Cancel-safe: a question that nobody waits for any more is given up.
    ///
    /// # Errors
    /// What the client is to be told.
    pub(crate) async fn find(worker: &Rc<Worker>, lookup: &Lookup, age: Age) -> Result<Told, Refusal> {
        let shared = &worker.shared;
        loop {
            let pool = place::pool(shared, lookup)?;
            let mut waits = match shared.auth_queries.join(worker, &pool, lookup, age) {
                Joined::Known(answer) => return Ok(Told { answer, kept: true }),
                Joined::Waits(waits) => waits,
            };
            // Without an answer it was given up at the very moment when this login joined: once more.
            if let Ok(answer) = waits.wait_for(Option::is_some).await
                && let Some(answer) = &*answer
            {
                return answer.clone().map(|answer| Told { answer, kept: false });
            }
        }
    }

    fn join(&self, worker: &Rc<Worker>, pool: &Arc<Pool>, lookup: &Lookup, age: Age) -> Joined {
        let now = worker.shared.clock.micros();
        let mut table = self.lock();
        if age == Age::Kept
            && let Some(kept) = table.kept.get(lookup)
            && now < kept.until
            && kept.generation == pool.generation()
        {
            return Joined::Known(kept.answer.clone());
        }
        let asked = table.asked.entry(lookup.clone()).or_default();
        let waits = asked.next.get_or_insert_with(Arc::default).subscribe();
        if asked.tasks == asked.on_way && asked.tasks < MOST_ON_WAY {
            asked.tasks += 1;
            worker.spawn(run(worker.clone(), pool.clone(), lookup.clone()));
        }
        Joined::Waits(waits)
    }

    /// Those who wait, as long as the question has not been sent.
    fn waiting(&self, lookup: &Lookup) -> Option<Arc<Clients>> {
        self.lock().asked.get(lookup)?.next.clone()
    }

    /// The question is about to be sent: who comes now waits for the next.
    fn close(&self, lookup: &Lookup) {
        if let Some(asked) = self.lock().asked.get_mut(lookup) {
            asked.next = None;
            asked.on_way += 1;
        }
    }

    /// It has come back, or was given up.
    fn came_back(&self, lookup: &Lookup) {
        if let Some(asked) = self.lock().asked.get_mut(lookup) {
            asked.on_way -= 1;
        }
    }

    /// Nobody waits, or another task looks after those who do: the task ends. False: it has to ask.
    fn end(&self, lookup: &Lookup) -> bool {
        let mut table = self.lock();
        let Some(asked) = table.asked.get_mut(lookup) else { return true };
        let wanted = asked.next.as_ref().is_some_and(|clients| clients.receiver_count() > 0);
        if wanted && asked.tasks == asked.on_way + 1 {
            return false;
        }
        asked.tasks -= 1;
        if asked.tasks == 0 {
            table.asked.remove(lookup);
        }
        true
    }

    fn keep(&self, shared: &Shared, lookup: &Lookup, answer: &Answer, (asked_at, generation): (u64, u64)) {
        let ttl = shared.config.load().auth.query.cache_ttl;
        let now = shared.clock.micros();
        let mut table = self.lock();
        if ttl.is_zero() {
            table.kept.remove(lookup);
            return;
        }
        if table.kept.get(lookup).is_some_and(|kept| kept.asked_at > asked_at) {
            return; // a later question was faster
        }
        if table.kept.len() >= MOST_KEPT {
            table.kept.retain(|_, kept| now < kept.until);
        }
        if table.kept.len() < MOST_KEPT || table.kept.contains_key(lookup) {
            let until = now.saturating_add(lifetime(answer, ttl).as_micros() as u64);
            table.kept.insert(lookup.clone(), Kept { answer: answer.clone(), asked_at, until, generation });
        }
    }

    /// What has run out is wiped.
    pub(crate) fn sweep(&self, now: u64) {
        self.lock().kept.retain(|_, kept| now < kept.until);
    }
}

/// A user who was just made, or whose time was extended, is not kept out for long.
fn lifetime(answer: &Answer, ttl: Duration) -> Duration {
    let has_secret = answer.as_ref().is_some_and(|found| found.secret.is_some());
    if has_secret { ttl } else { ttl / 4 }
}

/// Asks until nobody wants to know.
async fn run(worker: Rc<Worker>, pool: Arc<Pool>, lookup: Lookup) {
    let shared = worker.shared.clone();
    let queries = &shared.auth_queries;
    while !queries.end(&lookup) {
        let Some(clients) = queries.waiting(&lookup) else { continue };
        let server = tokio::select! {
            biased;
            () = clients.closed() => continue,
            server = ask::wait_for_server(&worker, &pool) => server,
        };
        queries.close(&lookup);
        let begun = (shared.clock.micros(), pool.generation());
        let answer = match server {
            Ok(server) => ask::ask(&worker, server, &lookup, clients.closed()).await,
            Err(refusal) => Some(Err(refusal)),
        };
        queries.came_back(&lookup);
        let Some(answer) = answer else { continue }; // all have left
        if let Ok(answer) = &answer {
            queries.keep(&shared, &lookup, answer, begun);
        }
        clients.send_replace(Some(answer));
    }
}

/// Asks anew for the user of a pool whose server login has failed. True: its secret is another one now, which may do.
pub(crate) async fn renew(worker: &Rc<Worker>, pool: &Arc<Pool>) -> bool {
    let Some(learnt) = pool.learnt() else { return false };
    let lookup = &learnt.lookup;
    if pool.db.name == lookup.database && pool.user.name == lookup.asker {
        return false; // it would ask itself
    }
    let asked = tokio::time::timeout(RENEWAL, AuthQueries::find(worker, lookup, Age::Fresh)).await;
    let Ok(Ok(Told { answer: Some(found), .. })) = asked else { return false };
    let secret = found.secret.as_ref().filter(|_| found.user == pool.user.name);
    secret.is_some_and(|secret| pool.learn(Learnt::new(secret, lookup)))
}

/// How long clients of a pool wait for that.
const RENEWAL: Duration = Duration::from_secs(5);

/// What a pool knows of its user from a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Learnt {
    pub(crate) secret: Secret,
    pub(crate) lookup: Lookup,
}

impl Learnt {
    /// `None`: there is nothing to log in to a server with.
    pub(crate) fn new(secret: &Secret, lookup: &Lookup) -> Option<Learnt> {
        let usable = !secret.reveal().is_empty();
        usable.then(|| Learnt { secret: secret.clone(), lookup: lookup.clone() })
    }
}
