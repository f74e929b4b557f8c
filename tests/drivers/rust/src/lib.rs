//! What the two programs share: who a client is, and how its checks are run and reported.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::process::exit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::Barrier;

/// The advisory lock for which all clients compete.
pub const LOCK: i64 = 4711;
/// The channel on which all clients listen.
pub const COMMON: &str = "everybody";
/// What tells a client from the others; compared with [`Me::identity`].
pub const IDENTITY: &str = "
    select concat_ws('|', session_user, current_user, current_setting('app.user_id'), current_setting('TimeZone'),
        current_setting('work_mem'), current_setting('search_path'),
        (select min(owner) from item), (select array_agg(owner) from secret))";
/// The advisory locks of the session.
pub const MY_LOCKS: &str = "select array_agg(objid::int4)::text from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";

const TIMEOUT: Duration = Duration::from_secs(60);

/// A client, by its number.
#[derive(Debug, Clone)]
pub struct Me {
    /// From 0 on; also the owner of its rows.
    pub number: i32,
    /// Where its tables are.
    pub schema: String,
    /// The channel of its own.
    pub channel: String,
    /// The advisory lock of its own.
    pub lock: i64,
    /// The role that it takes now and then.
    pub role: &'static str,
}

impl Me {
    fn new(number: i32) -> Me {
        Me {
            number,
            schema: format!("c{number}"),
            channel: format!("channel_{number}"),
            lock: i64::from(1000 + number),
            role: if number % 2 == 0 { "alice" } else { "bob" },
        }
    }

    /// The statements that a client begins with.
    pub fn settings(&self) -> String {
        format!(
            "set search_path to {}, public; set timezone to 'Etc/GMT+{}'; set work_mem to '{}kB'; set app.user_id to '{1}'",
            self.schema,
            self.number,
            65 + self.number
        )
    }

    /// What [`IDENTITY`] must say.
    pub fn identity(&self) -> String {
        let user = std::env::var("PGUSER").unwrap_or_default();
        let (n, memory) = (self.number, 65 + self.number);
        format!("{user}|{user}|{n}|Etc/GMT+{n}|{memory}kB|{}, public|{n}|{{{n}}}", self.schema)
    }
}

/// What all clients of a program know.
#[derive(Debug, Default)]
pub struct Shared {
    /// The client that has the common advisory lock.
    pub holder: Mutex<Option<i32>>,
    /// What was sent on the common channel.
    pub sent: Mutex<Vec<String>>,
}

impl Shared {
    /// Notes who has the lock, or nobody, and fails if it was not `before`.
    pub fn hold(&self, before: Option<i32>, now: Option<i32>) -> Result<()> {
        let held = std::mem::replace(&mut *self.holder.lock().unwrap(), now);
        expect("who has the lock", held, before)
    }
}

/// One client of a driver.
pub trait Client: Sized {
    /// The groups of checks.
    const CHECKS: &'static [&'static str];
    /// Connects and listens.
    fn start(me: Me, shared: Arc<Shared>) -> impl Future<Output = Result<Self>>;
    /// Gives up the connection and makes another.
    fn reopen(&mut self) -> impl Future<Output = Result<()>>;
    /// Runs a group of checks.
    fn check(&mut self, name: &str, turn: u32) -> impl Future<Output = Result<()>>;
    /// Checks that the settings are this client's.
    fn identity(&mut self) -> impl Future<Output = Result<()>>;
    /// Checks that everything that was sent has arrived, after the last check of all clients.
    fn finish(self) -> impl Future<Output = Result<()>>;
}

/// Fails unless the two are equal.
pub fn expect<T: PartialEq<U> + Debug, U: Debug>(what: &str, got: T, wanted: U) -> Result<()> {
    ensure!(got == wanted, "{what} is {got:?}, not {wanted:?}");
    Ok(())
}

/// Runs the program and ends the process. Each client has a thread: the drivers are to wait for the server, not for
/// each other.
pub fn run<C: Client>() -> ! {
    let arguments: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let &[clients, rounds] = arguments.as_slice() else {
        eprintln!("Say how many clients and how many rounds.");
        exit(2);
    };
    let report = Arc::new(Report::default());
    let shared = Arc::new(Shared::default());
    let together = Arc::new(Barrier::new(clients as usize));
    let threads: Vec<_> = (0..clients as i32)
        .map(|number| {
            let (report, shared, together) = (report.clone(), shared.clone(), together.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let life = live::<C>(Me::new(number), rounds, &report, shared, &together);
                match runtime.block_on(async { tokio::time::timeout(TIMEOUT, life).await }) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        report.failed("run", number, &error);
                        report.finish(); // the others would wait for this one
                    }
                    Err(_) => {
                        let group = report.at.lock().unwrap().get(&number).copied().unwrap_or("start");
                        report.failed(group, number, &anyhow::anyhow!("not done after {TIMEOUT:?}"));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        if thread.join().is_err() {
            report.failed("run", -1, &anyhow::anyhow!("a thread has panicked"));
        }
    }
    report.finish()
}

async fn live<C: Client>(
    me: Me,
    rounds: u32,
    report: &Report,
    shared: Arc<Shared>,
    together: &Barrier,
) -> Result<()> {
    let number = me.number;
    let mut client = C::start(me, shared).await?;
    together.wait().await;
    for turn in 0..rounds {
        for n in 0..C::CHECKS.len() {
            let check = C::CHECKS[(n + number as usize) % C::CHECKS.len()]; // each begins elsewhere, so that they mix
            report.at.lock().unwrap().insert(number, check);
            let outcome = match client.check(check, turn).await {
                Ok(()) => client.identity().await,
                failed => failed,
            };
            if let Err(error) = outcome {
                report.failed(check, number, &error);
                client.reopen().await?;
            }
        }
    }
    report.at.lock().unwrap().insert(number, "finish");
    together.wait().await;
    client.finish().await
}

#[derive(Default)]
struct Report {
    failures: Mutex<BTreeMap<&'static str, Vec<String>>>,
    at: Mutex<BTreeMap<i32, &'static str>>, // what each client does
}

impl Report {
    fn failed(&self, group: &'static str, number: i32, error: &anyhow::Error) {
        let text = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        self.failures.lock().unwrap().entry(group).or_default().push(format!("client {number}: {text}"));
    }

    fn finish(&self) -> ! {
        let failures = self.failures.lock().unwrap();
        for (group, lines) in &*failures {
            let more =
                if lines.len() > 1 { format!(" (and {} more)", lines.len() - 1) } else { String::new() };
            println!("{group}: {}{more}", lines[0]);
        }
        exit(i32::from(!failures.is_empty()))
    }
}
