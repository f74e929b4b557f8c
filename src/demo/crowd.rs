//! Clients that mostly read, write now and then, and look whether they see what they have written.

use std::error::Error;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::NAME;
use super::client::{Client, Failure};
use super::experience::{Experience, Kind};

/// Reads between two writes of a client.
const READS: u64 = 8;

/// Pause before a statement that has failed is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How they come in.
#[derive(Debug, Clone)]
pub(super) struct WayIn {
    pub(super) port: u16,
    pub(super) password: String,
}

impl WayIn {
    async fn login(&self) -> Result<Client<TcpStream>, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        Client::login(stream, NAME, &self.password).await
    }

    /// Makes the table that they work on, a row for each.
    ///
    /// # Errors
    /// The database refuses.
    pub(super) async fn fill(&self, clients: u32) -> Result<(), Box<dyn Error>> {
        let failed = |failure: Failure| format!("could not make a table to work on: {}", failure.code);
        let mut client = self.login().await.map_err(failed)?;
        client.query("CREATE TABLE counters (client int PRIMARY KEY, value bigint)").await.map_err(failed)?;
        let rows = format!("INSERT INTO counters SELECT n, 0 FROM generate_series(0, {clients}) n");
        client.query(&rows).await.map_err(failed)?;
        Ok(())
    }

    /// Keeps so many clients at work. Returns only if there is none.
    pub(super) async fn work(&self, clients: u32, experience: &Experience) {
        let mut all = JoinSet::new();
        for index in 0..clients as usize {
            let (way_in, experience) = (self.clone(), experience.clone());
            all.spawn(async move { One { way_in, experience, index, seen: 0, client: None }.work().await });
        }
        while all.join_next().await.is_some() {}
    }
}

struct One {
    way_in: WayIn,
    experience: Experience,
    index: usize,
    /// What it must see of its own row.
    seen: u64,
    client: Option<Client<TcpStream>>,
}

impl One {
    async fn work(mut self) {
        for turn in 0.. {
            // They must not march in step.
            sleep(Duration::from_millis(10 + (self.index as u64 * 37 + turn * 53) % 80)).await;
            let kind = if turn % (READS + 1) == 0 { Kind::Write } else { Kind::Read };
            self.experience.begin(self.index, Instant::now());
            let value = self.until_done(kind).await;
            self.experience.done(self.index, kind, Instant::now());
            if kind == Kind::Read && value < self.seen {
                self.experience.missed();
            }
            self.seen = value;
        }
    }

    async fn until_done(&mut self, kind: Kind) -> u64 {
        loop {
            match self.attempt(kind).await {
                Ok(value) => return value,
                Err(failure) => {
                    self.experience.failed(&failure.code);
                    if failure.over {
                        self.client = None;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The value of its row, written or read.
    async fn attempt(&mut self, kind: Kind) -> Result<u64, Failure> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(self.way_in.login().await?),
        };
        let index = self.index;
        let sql = match kind {
            Kind::Read => format!("SELECT value FROM counters WHERE client = {index}"),
            Kind::Write => {
                format!("UPDATE counters SET value = value + 1 WHERE client = {index} RETURNING value")
            }
        };
        let value = client.query(&sql).await?;
        Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
    }
}
