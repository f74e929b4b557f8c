//! sqlx: its statement cache, its pool, streams, nested transactions, COPY, its listener, advisory locks of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::TryStreamExt;
use pgferry_drivers::{COMMON, Client, IDENTITY, LOCK, MY_LOCKS, Me, Shared, expect, run};
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, Row, query, query_scalar};

struct Sqlx {
    me: Me,
    shared: Arc<Shared>,
    db: PgConnection,
    listener: PgListener,
    sent_to_me: Vec<String>,
}

fn main() {
    run::<Sqlx>()
}

impl Client for Sqlx {
    const CHECKS: &'static [&'static str] = &[
        "settings",
        "startup",
        "role",
        "temporary",
        "advisory",
        "cursors",
        "sql prepare",
        "statements",
        "ddl",
        "currval",
        "savepoints",
        "copy",
        "pool",
        "notify",
    ];

    async fn start(me: Me, shared: Arc<Shared>) -> Result<Self> {
        let db = open(&me).await?;
        let pool = PgPoolOptions::new().max_connections(1).connect_with(PgConnectOptions::new()).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen_all([COMMON, me.channel.as_str()]).await?;
        Ok(Sqlx { me, shared, db, listener, sent_to_me: Vec::new() })
    }

    async fn reopen(&mut self) -> Result<()> {
        self.db = open(&self.me).await?;
        Ok(())
    }

    async fn identity(&mut self) -> Result<()> {
        let identity: String = query_scalar(IDENTITY).fetch_one(&mut self.db).await?;
        expect("identity", identity, self.me.identity())
    }

    async fn check(&mut self, name: &str, turn: u32) -> Result<()> {
        match name {
            "settings" => self.settings().await,
            "startup" => self.startup().await,
            "role" => self.role().await,
            "temporary" => self.temporary().await,
            "advisory" => self.advisory().await,
            "cursors" => self.cursors().await,
            "sql prepare" => self.sql_prepare().await,
            "statements" => self.statements().await,
            "ddl" => self.ddl(turn).await,
            "currval" => self.currval().await,
            "savepoints" => self.savepoints().await,
            "copy" => self.copy().await,
            "pool" => self.pool().await,
            "notify" => self.notify(turn).await,
            _ => bail!("no such check"),
        }
    }

    async fn finish(mut self) -> Result<()> {
        let mut sent = self.shared.sent.lock().unwrap().clone();
        let (mut common, mut own) = (Vec::new(), Vec::new());
        while common.len() + own.len() < sent.len() + self.sent_to_me.len() {
            let Ok(heard) = tokio::time::timeout(Duration::from_secs(10), self.listener.recv()).await else {
                break;
            };
            let heard = heard?;
            let to = if heard.channel() == COMMON { &mut common } else { &mut own };
            to.push(heard.payload().to_owned());
        }
        expect("own channel", own, self.sent_to_me)?;
        common.sort();
        sent.sort();
        expect("common channel", common, sent)
    }
}

impl Sqlx {
    async fn text(&mut self, sql: &'static str) -> Result<String> {
        query_scalar(sql).fetch_one(&mut self.db).await.context(sql)
    }

    /// With the simple protocol.
    async fn run(&mut self, sql: String) -> Result<()> {
        self.db.execute(AssertSqlSafe(sql.clone())).await.context(sql)?;
        Ok(())
    }

    async fn settings(&mut self) -> Result<()> {
        let mut transaction = self.db.begin().await?;
        transaction.execute("set local work_mem to '1MB'").await?;
        let memory: String =
            query_scalar("select current_setting('work_mem')").fetch_one(&mut *transaction).await?;
        expect("SET LOCAL", memory, "1MB")?;
        transaction.commit().await?;
        self.identity().await?;
        let mut transaction = self.db.begin().await?;
        transaction.execute("set timezone to 'Asia/Tokyo'; set app.user_id to '0815'").await?;
        transaction.rollback().await?;
        self.identity().await?;
        let note = format!("note {}", self.me.number);
        query("select set_config('app.note', $1, false)").bind(&note).execute(&mut self.db).await?;
        self.identity().await?;
        expect("set_config", self.text("select current_setting('app.note')").await?, note)?;
        self.run("reset app.note".into()).await
    }

    async fn startup(&mut self) -> Result<()> {
        let options = [("search_path", self.me.schema.as_str()), ("app.note", "start")];
        let mut db = PgConnection::connect_with(&PgConnectOptions::new().options(options)).await?;
        for end in ["select 1", "select 1", "set app.note to 'changed'; set search_path to public; reset all"]
        {
            db.execute(end).await?;
            let state = "select concat_ws('|', current_setting('app.note'), min(owner)) from item";
            let state: String = query_scalar(state).fetch_one(&mut db).await?;
            expect("start-up options", state, format!("start|{}", self.me.number))?;
        }
        Ok(db.close().await?)
    }

    async fn role(&mut self) -> Result<()> {
        self.run(format!("set role {}", self.me.role)).await?;
        for _ in 0..3 {
            let role = self.text("select concat_ws('|', current_user, array_agg(owner)) from secret").await?;
            expect("SET ROLE", role, format!("{}|{{{}}}", self.me.role, self.me.number))?;
        }
        self.run("reset role".into()).await
    }

    async fn temporary(&mut self) -> Result<()> {
        self.run("create temp table scratch (owner int)".into()).await?;
        query("insert into scratch values ($1)").bind(self.me.number).execute(&mut self.db).await?;
        let owners: Vec<i32> = query_scalar("select owner from scratch").fetch_all(&mut self.db).await?;
        expect("temporary table", owners, [self.me.number])?;
        self.identity().await?;
        self.run("drop table scratch".into()).await
    }

    async fn unlock(&mut self, key: i64) -> Result<()> {
        let done: bool =
            query_scalar("select pg_advisory_unlock($1)").bind(key).fetch_one(&mut self.db).await?;
        expect("unlock", done, true)
    }

    async fn advisory(&mut self) -> Result<()> {
        let lock = "select pg_advisory_lock($1)";
        let mut transaction = self.db.begin().await?;
        query(lock).bind(self.me.lock).execute(&mut *transaction).await?;
        transaction.commit().await?;
        expect("locks of the session", self.text(MY_LOCKS).await?, format!("{{{}}}", self.me.lock))?;
        self.unlock(self.me.lock).await?;
        query(lock).bind(LOCK).execute(&mut self.db).await?;
        self.shared.hold(None, Some(self.me.number))?;
        self.identity().await?;
        self.shared.hold(Some(self.me.number), None)?;
        self.unlock(LOCK).await?;
        let own = PgAdvisoryLock::new(format!("own {}", self.me.number));
        let mut guard = own.acquire(&mut self.db).await?;
        let held: i64 = query_scalar(
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        )
        .fetch_one(guard.as_mut())
        .await?;
        expect("locks of the session", held, 1)?;
        guard.release_now().await?;
        Ok(())
    }

    async fn cursors(&mut self) -> Result<()> {
        let ids = {
            let rows = query_scalar::<_, i32>("select id from item where id > $1 order by id")
                .bind(0)
                .fetch(&mut self.db);
            rows.try_collect::<Vec<_>>().await?
        };
        expect("stream", ids, (1..=100).collect::<Vec<_>>())?;
        let first =
            query_scalar::<_, i32>("select id from item order by id").fetch(&mut self.db).try_next().await?;
        expect("stream that is given up", first, Some(1))?;
        self.run("declare held cursor with hold for select id from item order by id".into()).await?;
        self.identity().await?;
        expect("cursor with hold", self.db.fetch_all("fetch 40 held").await?.len(), 40)?;
        self.run("close held".into()).await
    }

    async fn sql_prepare(&mut self) -> Result<()> {
        let base = self.me.number * 1000;
        self.run(format!("prepare plan (int) as select ({base} + $1)::text")).await?;
        for n in 0..3 {
            let row = self.db.fetch_one(AssertSqlSafe(format!("execute plan ({n})"))).await?;
            expect("EXECUTE", row.get::<String, _>(0), (base + n).to_string())?;
        }
        self.run("deallocate plan".into()).await
    }

    async fn statements(&mut self) -> Result<()> {
        for n in 0..20 {
            let row = query("select owner, $1::int4 from item where id = 1")
                .bind(n)
                .fetch_one(&mut self.db)
                .await?;
            expect("cached statement", (row.get::<i32, _>(0), row.get::<i32, _>(1)), (self.me.number, n))?;
            let unnamed = query("select $1::int4").persistent(false).bind(n).fetch_one(&mut self.db).await?;
            expect("without a name", unnamed.get::<i32, _>(0), n)?;
        }
        for _ in 0..3 {
            let refused = query("select 1 / $1::int4").bind(0).execute(&mut self.db).await;
            expect_code(refused, "22012")?;
            expect_code(query("select * from missing").execute(&mut self.db).await, "42P01")?;
        }
        expect("statements", self.db.cached_statements_size() > 1, true)?;
        self.db.clear_cached_statements().await?;
        self.identity().await
    }

    async fn ddl(&mut self, turn: u32) -> Result<()> {
        let shape = "select * from shape";
        let mut columns = 0;
        for _ in 0..3 {
            columns = query(shape).fetch_one(&mut self.db).await?.len();
        }
        self.run(format!("alter table shape add column more_{turn} int default {turn}")).await?;
        match query(shape).fetch_one(&mut self.db).await {
            Ok(row) => expect("first column", row.get::<i32, _>(0), self.me.number)?,
            refused => expect_code(refused, "0A000")?, // direct: the application forgets its statements
        }
        self.db.clear_cached_statements().await?;
        expect("columns", query(shape).fetch_one(&mut self.db).await?.len(), columns + 1)?;
        let mut fresh = open(&self.me).await?;
        expect("columns for a new client", query(shape).fetch_one(&mut fresh).await?.len(), columns + 1)?;
        Ok(fresh.close().await?)
    }

    async fn currval(&mut self) -> Result<()> {
        let mut db = PgConnection::connect_with(&PgConnectOptions::new()).await?;
        let ticket: i64 = query_scalar("select nextval('public.ticket')").fetch_one(&mut db).await?;
        for _ in 0..5 {
            let current: i64 = query_scalar("select currval('public.ticket')").fetch_one(&mut db).await?;
            expect("currval", current, ticket)?;
        }
        Ok(db.close().await?)
    }

    async fn savepoints(&mut self) -> Result<()> {
        let insert = "insert into entry (note) values ('kept')";
        let mut transaction = self.db.begin().await?;
        query(insert).execute(&mut *transaction).await?;
        for _ in 0..2 {
            let mut savepoint = transaction.begin().await?;
            expect_code(query(insert).execute(&mut *savepoint).await, "23505")?;
            savepoint.rollback().await?;
        }
        let rows: i64 = query_scalar("select count(*) from entry").fetch_one(&mut *transaction).await?;
        expect("rows", rows, 1)?;
        drop(transaction); // rolls back, in front of the next statement
        let rows: i64 = query_scalar("select count(*) from entry").fetch_one(&mut self.db).await?;
        expect("rows after the rollback", rows, 0)
    }

    async fn copy(&mut self) -> Result<()> {
        let lines: String = (0..500).map(|n| format!("{}/{n}\n", self.me.number)).collect();
        let mut copy = self.db.copy_in_raw("copy entry (note) from stdin").await?;
        for part in lines.as_bytes().chunks(700) {
            copy.send(part).await?;
        }
        expect("rows in", copy.finish().await?, 500)?;
        let out = self.db.copy_out_raw("copy (select note from entry order by id) to stdout").await?;
        let out: Vec<u8> =
            out.try_fold(Vec::new(), |all, part| async move { Ok([all, part.to_vec()].concat()) }).await?;
        expect("rows out", String::from_utf8(out)?, lines)?;
        self.db.copy_in_raw("copy entry (note) from stdin").await?.abort("changed my mind").await?;
        self.run("truncate entry".into()).await
    }

    /// A pool of the application's on top of the pooler's.
    async fn pool(&mut self) -> Result<()> {
        let settings = self.me.settings();
        let pool: PgPool = PgPoolOptions::new()
            .max_connections(1)
            .after_connect(move |db, _| {
                let settings = settings.clone();
                Box::pin(async move { db.execute(AssertSqlSafe(settings)).await.map(|_| ()) })
            })
            .connect_with(PgConnectOptions::new())
            .await?;
        for _ in 0..3 {
            let identity: String = query_scalar(IDENTITY).fetch_one(&pool).await?;
            expect("identity in the pool", identity, self.me.identity())?;
        }
        pool.close().await;
        Ok(())
    }

    async fn notify(&mut self, turn: u32) -> Result<()> {
        let message = format!("{}:{turn}", self.me.number);
        let mut transaction = self.db.begin().await?;
        for channel in [COMMON, &self.me.channel] {
            query("select pg_notify($1, $2)").bind(channel).bind(&message).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        self.shared.sent.lock().unwrap().push(message.clone());
        self.sent_to_me.push(message);
        let mut transaction = self.db.begin().await?;
        query("select pg_notify($1, 'never')").bind(&self.me.channel).execute(&mut *transaction).await?;
        Ok(transaction.rollback().await?)
    }
}

fn expect_code<T>(outcome: Result<T, sqlx::Error>, wanted: &str) -> Result<()> {
    let error = outcome.err().ok_or_else(|| anyhow!("{wanted} was expected"))?;
    let code = error.as_database_error().and_then(|error| error.code());
    if code.as_deref() == Some(wanted) { Ok(()) } else { Err(error.into()) }
}

/// [`PgConnectOptions::new`] reads the PG* variables.
async fn open(me: &Me) -> Result<PgConnection> {
    let mut db = PgConnection::connect_with(&PgConnectOptions::new()).await?;
    db.execute(AssertSqlSafe(me.settings())).await?;
    Ok(db)
}
