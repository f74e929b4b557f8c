//! tokio-postgres: statements kept over transactions, requests in flight at once, portals, COPY, notifications, types.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use pgferry_drivers::{COMMON, Client, IDENTITY, LOCK, MY_LOCKS, Me, Shared, expect, run};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Config, Error, NoTls, Row, SimpleQueryMessage, Statement};

type Heard = Arc<Mutex<Vec<(String, String)>>>;

struct TokioPostgres {
    me: Me,
    shared: Arc<Shared>,
    db: tokio_postgres::Client,
    identity: Statement,
    listener: tokio_postgres::Client,
    heard: Heard,
    sent_to_me: Vec<String>,
}

fn main() {
    run::<TokioPostgres>()
}

impl Client for TokioPostgres {
    const CHECKS: &'static [&'static str] = &[
        "settings",
        "startup",
        "role",
        "temporary",
        "advisory",
        "cursors",
        "sql prepare",
        "statements",
        "pipeline",
        "ddl",
        "currval",
        "savepoints",
        "copy",
        "types",
        "cancel",
        "notify",
    ];

    async fn start(me: Me, shared: Arc<Shared>) -> Result<Self> {
        let (db, identity) = open(&me).await?;
        let heard = Heard::default();
        let listener = connect(&config()?, heard.clone()).await?;
        listener.batch_execute(&format!("listen {COMMON}; listen {}", me.channel)).await?;
        Ok(TokioPostgres { me, shared, db, identity, listener, heard, sent_to_me: Vec::new() })
    }

    async fn reopen(&mut self) -> Result<()> {
        (self.db, self.identity) = open(&self.me).await?;
        Ok(())
    }

    async fn identity(&mut self) -> Result<()> {
        let row = self.db.query_one(&self.identity, &[]).await?; // prepared once, for the life of the connection
        expect("identity", row.get::<_, String>(0), self.me.identity())
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
            "pipeline" => self.pipeline().await,
            "ddl" => self.ddl(turn).await,
            "currval" => self.currval().await,
            "savepoints" => self.savepoints().await,
            "copy" => self.copy().await,
            "types" => self.types().await,
            "cancel" => self.cancel().await,
            "notify" => self.notify(turn).await,
            _ => bail!("no such check"),
        }
    }

    async fn finish(self) -> Result<()> {
        let mut sent = self.shared.sent.lock().unwrap().clone();
        for _ in 0..200 {
            if self.heard.lock().unwrap().len() >= sent.len() + self.sent_to_me.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let heard = self.heard.lock().unwrap().clone();
        let on = |channel: &str| -> Vec<String> {
            heard.iter().filter(|(name, _)| name == channel).map(|(_, text)| text.clone()).collect()
        };
        expect("own channel", on(&self.me.channel), self.sent_to_me)?;
        let mut common = on(COMMON);
        common.sort();
        sent.sort();
        expect("common channel", common, sent)?;
        drop(self.listener);
        Ok(())
    }
}

impl TokioPostgres {
    async fn one(&self, query: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        self.db.query_one(query, values).await.with_context(|| query.to_owned())
    }

    async fn text(&self, query: &str) -> Result<String> {
        Ok(self.one(query, &[]).await?.get(0))
    }

    async fn run(&self, query: &str) -> Result<()> {
        self.db.batch_execute(query).await.with_context(|| query.to_owned())
    }

    async fn settings(&mut self) -> Result<()> {
        let transaction = self.db.transaction().await?;
        transaction.batch_execute("set local work_mem to '1MB'").await?;
        let row = transaction.query_one("select current_setting('work_mem')", &[]).await?;
        expect("SET LOCAL", row.get::<_, &str>(0), "1MB")?;
        transaction.commit().await?;
        self.identity().await?;
        let transaction = self.db.transaction().await?;
        transaction.batch_execute("set timezone to 'Asia/Tokyo'; set app.user_id to '0815'").await?;
        transaction.rollback().await?;
        self.identity().await?;
        let note = format!("note {}", self.me.number);
        self.one("select set_config('app.note', $1, false)", &[&note]).await?;
        self.identity().await?;
        expect("set_config", self.text("select current_setting('app.note')").await?, note)?;
        self.run("reset app.note").await
    }

    async fn startup(&mut self) -> Result<()> {
        let mut config = config()?;
        config.options(format!("-c search_path={} -c app.note=start", self.me.schema));
        let db = connect(&config, Heard::default()).await?;
        let state = db.prepare("select current_setting('app.note'), min(owner) from item").await?;
        let wanted = ("start".to_owned(), self.me.number);
        for end in ["", "", "set app.note to 'changed'; set search_path to public; reset all"] {
            db.batch_execute(end).await?; // several in one string are one transaction
            let row = db.query_one(&state, &[]).await?;
            expect("start-up options", (row.get::<_, String>(0), row.get::<_, i32>(1)), wanted.clone())?;
        }
        Ok(())
    }

    async fn role(&mut self) -> Result<()> {
        self.run(&format!("set role {}", self.me.role)).await?;
        for _ in 0..3 {
            expect("SET ROLE", self.text("select current_user::text").await?, self.me.role)?;
            let secret = self.text("select array_agg(owner)::text from secret").await?;
            expect("row security", secret, format!("{{{}}}", self.me.number))?;
        }
        self.run("reset role").await
    }

    async fn temporary(&mut self) -> Result<()> {
        self.run("create temp table scratch (owner int)").await?;
        self.db.execute("insert into scratch values ($1)", &[&self.me.number]).await?;
        let owners: Vec<i32> = self.one("select array_agg(owner) from scratch", &[]).await?.get(0);
        expect("temporary table", owners, [self.me.number])?;
        self.identity().await?;
        self.run("drop table scratch").await
    }

    async fn unlock(&self, key: i64) -> Result<()> {
        expect("unlock", self.one("select pg_advisory_unlock($1)", &[&key]).await?.get::<_, bool>(0), true)
    }

    async fn advisory(&mut self) -> Result<()> {
        let transaction = self.db.transaction().await?;
        transaction.execute("select pg_advisory_lock($1)", &[&self.me.lock]).await?;
        transaction.commit().await?;
        expect("locks of the session", self.text(MY_LOCKS).await?, format!("{{{}}}", self.me.lock))?;
        self.unlock(self.me.lock).await?;
        self.db.execute("select pg_advisory_lock($1)", &[&LOCK]).await?;
        self.shared.hold(None, Some(self.me.number))?;
        self.identity().await?;
        self.shared.hold(Some(self.me.number), None)?;
        self.unlock(LOCK).await
    }

    async fn cursors(&mut self) -> Result<()> {
        let transaction = self.db.transaction().await?;
        let portal = transaction.bind("select id from item where id > $1 order by id", &[&0]).await?;
        let mut seen = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 30).await?;
            seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
            if rows.is_empty() {
                break;
            }
        }
        expect("portal", seen, (1..=100).collect::<Vec<_>>())?;
        transaction.commit().await?;
        self.run("declare held cursor with hold for select id from item order by id").await?;
        self.identity().await?;
        expect("cursor with hold", self.db.query("fetch 40 held", &[]).await?.len(), 40)?;
        self.run("close held").await
    }

    async fn sql_prepare(&mut self) -> Result<()> {
        let base = self.me.number * 1000;
        self.run(&format!("prepare plan (int) as select ({base} + $1)::text")).await?;
        for n in 0..3 {
            let replies = self.db.simple_query(&format!("execute plan ({n})")).await?;
            let row = replies.iter().find_map(|reply| match reply {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            expect("EXECUTE", row, Some((base + n).to_string().as_str()))?;
        }
        self.run("deallocate plan").await
    }

    async fn statements(&mut self) -> Result<()> {
        let kept = self.db.prepare("select owner, $1::int4 from item where id = 1").await?;
        for n in 0..20 {
            let row = self.db.query_one(&kept, &[&n]).await?;
            expect("kept statement", (row.get::<_, i32>(0), row.get::<_, i32>(1)), (self.me.number, n))?;
            self.identity().await?;
        }
        for _ in 0..3 {
            let refused = self.db.query_one("select 1 / $1::int4", &[&0]).await;
            expect_code(refused, &SqlState::DIVISION_BY_ZERO)?;
            expect_code(self.db.prepare("select * from missing").await, &SqlState::UNDEFINED_TABLE)?;
        }
        let row = self.db.query_typed("select $1 + 1", &[(&41, tokio_postgres::types::Type::INT4)]).await?;
        expect("without a name", row[0].get::<_, i32>(0), 42)
    }

    async fn pipeline(&mut self) -> Result<()> {
        let ask = self.db.prepare("select owner, $1::int4 from item where id = 1").await?;
        let numbers: Vec<i32> = (0..30).collect();
        let answers =
            try_join_all(numbers.iter().map(|n| async { self.db.query_one(&ask, &[n]).await })).await?;
        let answers: Vec<i32> = answers.iter().map(|row| row.get(1)).collect();
        expect("answers", answers, numbers)
    }

    async fn ddl(&mut self, turn: u32) -> Result<()> {
        let shape = self.db.prepare("select * from shape").await?;
        for _ in 0..3 {
            self.db.query_one(&shape, &[]).await?;
        }
        let columns = shape.columns().len();
        self.run(&format!("alter table shape add column more_{turn} int default {turn}")).await?;
        match self.db.query_one(&shape, &[]).await {
            Ok(row) => expect("first column", row.get::<_, i32>(0), self.me.number)?,
            refused => expect_code(refused, &SqlState::FEATURE_NOT_SUPPORTED)?, // direct: the application prepares again
        }
        let shape = self.db.prepare("select * from shape").await?;
        expect("columns", self.db.query_one(&shape, &[]).await?.len(), columns + 1)?;
        let (fresh, _) = open(&self.me).await?;
        expect(
            "columns for a new client",
            fresh.query_one("select * from shape", &[]).await?.len(),
            columns + 1,
        )
    }

    async fn currval(&mut self) -> Result<()> {
        let db = connect(&config()?, Heard::default()).await?;
        let ticket: i64 = db.query_one("select nextval('public.ticket')", &[]).await?.get(0);
        for _ in 0..5 {
            let row = db.query_one("select currval('public.ticket')", &[]).await?;
            expect("currval", row.get::<_, i64>(0), ticket)?;
        }
        Ok(())
    }

    async fn savepoints(&mut self) -> Result<()> {
        let insert = "insert into entry (note) values ('kept')";
        let mut transaction = self.db.transaction().await?;
        transaction.execute(insert, &[]).await?;
        for _ in 0..2 {
            let savepoint = transaction.transaction().await?;
            expect_code(savepoint.execute(insert, &[]).await, &SqlState::UNIQUE_VIOLATION)?;
            savepoint.rollback().await?;
        }
        let row = transaction.query_one("select count(*), min(owner) from entry", &[]).await?;
        expect("rows", (row.get::<_, i64>(0), row.get::<_, i32>(1)), (1, self.me.number))?;
        drop(transaction); // rolls back
        expect(
            "rows after the rollback",
            self.one("select count(*) from entry", &[]).await?.get::<_, i64>(0),
            0,
        )
    }

    async fn copy(&mut self) -> Result<()> {
        let lines: String = (0..500).map(|n| format!("{}/{n}\n", self.me.number)).collect();
        expect("rows in", copy_in(&self.db, &lines).await?, 500)?;
        let out = self.db.copy_out("copy (select note from entry order by id) to stdout").await?;
        let out: Vec<u8> =
            out.try_fold(Vec::new(), |all, part| async move { Ok([all, part.to_vec()].concat()) }).await?;
        expect("rows out", String::from_utf8(out)?, lines.clone())?;
        expect_code(copy_in(&self.db, &lines).await, &SqlState::UNIQUE_VIOLATION)?;
        self.run("truncate entry").await
    }

    /// The driver looks up types that it does not know with statements of its own, kept for the connection.
    async fn types(&mut self) -> Result<()> {
        let (db, _) = open(&self.me).await?;
        let statement = db.prepare("select $1::mood, array[$1]").await?;
        expect("schema of the type", statement.params()[0].schema(), self.me.schema.as_str())?;
        let kind = format!("{:?}", statement.params()[0].kind());
        expect("labels", kind, format!("Enum([\"calm\", \"mood of {}\"])", self.me.number))
    }

    async fn cancel(&mut self) -> Result<()> {
        let token = self.db.cancel_token();
        let address = format!("{}:{}", from_env("PGHOST")?, from_env("PGPORT")?);
        let sleep = self.db.batch_execute("select pg_sleep(30)");
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // PostgreSQL signals a session twice (itself and its group) and only then closes. The driver's own way
            // does not wait for that, and the second signal may meet whatever comes next.
            let mut stream = TcpStream::connect(&address).await?;
            token.cancel_query_raw(&mut stream, NoTls).await?;
            stream.read_to_end(&mut Vec::new()).await?;
            anyhow::Ok(())
        };
        let (slept, cancelled) = tokio::join!(sleep, cancel);
        cancelled?;
        expect_code(slept, &SqlState::QUERY_CANCELED)
    }

    async fn notify(&mut self, turn: u32) -> Result<()> {
        let message = format!("{}:{turn}", self.me.number);
        let send = "select pg_notify($1, $2)";
        let transaction = self.db.transaction().await?;
        transaction.execute(send, &[&COMMON, &message]).await?;
        transaction.execute(send, &[&self.me.channel, &message]).await?;
        transaction.commit().await?;
        self.shared.sent.lock().unwrap().push(message.clone());
        self.sent_to_me.push(message);
        let transaction = self.db.transaction().await?;
        transaction.execute(send, &[&self.me.channel, &"never"]).await?;
        Ok(transaction.rollback().await?)
    }
}

async fn copy_in(db: &tokio_postgres::Client, lines: &str) -> Result<u64, Error> {
    let mut sink = pin!(db.copy_in("copy entry (note) from stdin").await?);
    for part in lines.as_bytes().chunks(700) {
        sink.send(std::io::Cursor::new(part.to_vec())).await?;
    }
    sink.finish().await
}

fn expect_code<T>(outcome: Result<T, Error>, wanted: &SqlState) -> Result<()> {
    let error = outcome.err().ok_or_else(|| anyhow!("{wanted:?} was expected"))?;
    if error.code() == Some(wanted) { Ok(()) } else { Err(error.into()) }
}

fn config() -> Result<Config> {
    let mut config = Config::new();
    config.host(from_env("PGHOST")?).port(from_env("PGPORT")?.parse()?).dbname(from_env("PGDATABASE")?);
    config.user(from_env("PGUSER")?).password(from_env("PGPASSWORD")?);
    Ok(config)
}

fn from_env(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| name.to_owned())
}

async fn connect(config: &Config, heard: Heard) -> Result<tokio_postgres::Client> {
    let (client, mut connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(it) = message {
                heard.lock().unwrap().push((it.channel().to_owned(), it.payload().to_owned()));
            }
        }
    });
    Ok(client)
}

async fn open(me: &Me) -> Result<(tokio_postgres::Client, Statement)> {
    let db = connect(&config()?, Heard::default()).await?;
    db.batch_execute(&me.settings()).await?;
    let identity = db.prepare(IDENTITY).await?;
    Ok((db, identity))
}
