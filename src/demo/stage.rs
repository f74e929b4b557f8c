//! The PostgreSQL servers of the demonstration: one, or a primary with replicas that change places when they are told to.

use std::error::Error;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::client::Client;
use super::guard::Guard;
use super::postgres::Postgres;
use super::programs::Programs;

/// The number of the first server; the others follow.
const FIRST: u16 = 5432;

/// Time to ask a server how far it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The primary is shut down, its clients sent away.
    StopPrimary,
    /// The replica that is furthest becomes the primary.
    Promote,
    /// What follows nobody any more becomes a replica of the primary.
    Rejoin,
}

impl Order {
    /// What a key stands for.
    pub(super) fn of(key: u8) -> Option<Order> {
        match key.to_ascii_lowercase() {
            b's' => Some(Order::StopPrimary),
            b'p' => Some(Order::Promote),
            b'r' => Some(Order::Rejoin),
            _ => None,
        }
    }
}

/// What was done.
#[derive(Debug)]
pub(super) struct News {
    pub(super) at: Instant,
    pub(super) done: String,
}

/// Gives each order at its time, counted from now; for ever.
pub(super) async fn give_in_time(
    mut orders: Vec<(Duration, Order)>,
    to: &mpsc::UnboundedSender<Order>,
) -> std::convert::Infallible {
    let start = tokio::time::Instant::now();
    orders.sort_by_key(|(after, _)| *after);
    for (after, order) in orders {
        sleep_until(start + after).await;
        let _ = to.send(order); // nobody takes any at the end
    }
    std::future::pending().await
}

/// All of them.
pub(super) struct Stage<'a> {
    programs: &'a Programs,
    guard: &'a Guard,
    servers: Vec<Postgres>,
    primary: usize,
    /// Servers that follow the primary.
    following: Vec<usize>,
}

impl<'a> Stage<'a> {
    /// Starts a primary with so many replicas.
    ///
    /// # Errors
    /// One of PostgreSQL's programs fails.
    pub(super) async fn start(
        programs: &'a Programs,
        guard: &'a Guard,
        replicas: u8,
    ) -> Result<Stage<'a>, Box<dyn Error>> {
        let numbers = FIRST..=FIRST + u16::from(replicas);
        let servers = numbers.map(|number| Postgres::new(guard, number)).collect();
        let mut stage = Stage { programs, guard, servers, primary: 0, following: Vec::new() };
        let settings = stage.settings();
        stage.servers[0].init(programs, guard).await?;
        stage.servers[0].start(programs, guard, &settings).await?;
        stage.servers[0].make_database(programs, guard).await?;
        if replicas == 0 {
            stage.servers[0].fill(programs, guard).await?;
        }
        for index in 1..stage.servers.len() {
            stage.attach(index).await?;
        }
        Ok(stage)
    }

    /// Beside those that all have. A replica finds whichever server is the primary.
    fn settings(&self) -> Vec<String> {
        if self.servers.len() == 1 {
            return vec!["synchronous_commit=off".to_owned()];
        }
        let numbers: Vec<String> = self.servers.iter().map(|server| server.number.to_string()).collect();
        let dirs = vec![self.guard.dir().display().to_string(); numbers.len()];
        vec![
            format!(
                "primary_conninfo=host={} port={} user=postgres target_session_attrs=read-write",
                dirs.join(","),
                numbers.join(",")
            ),
            "wal_receiver_status_interval=1s".to_owned(),
            "wal_retrieve_retry_interval=200ms".to_owned(),
        ]
    }

    async fn attach(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let settings = self.settings();
        self.servers[index].stop(self.guard).await?;
        self.servers[index].copy(self.programs, self.guard, &self.servers[self.primary]).await?;
        self.servers[index].start(self.programs, self.guard, &settings).await?;
        self.following.push(index);
        Ok(())
    }

    /// The numbers of the primary and of the replicas.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        self.servers.iter().map(|server| server.number)
    }

    /// Does as it is told, and says what was done, until a server ends that was not told to.
    pub(super) async fn play(
        &mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        news: &mpsc::UnboundedSender<News>,
    ) -> Box<dyn Error> {
        loop {
            let order = tokio::select! {
                failure = any_ended(&mut self.servers) => return failure,
                Some(order) = orders.recv() => order,
            };
            match self.obey(order).await {
                Ok(done) => {
                    let _ = news.send(News { at: Instant::now(), done }); // the screen may have ended
                }
                Err(error) => return error,
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<String, Box<dyn Error>> {
        match order {
            Order::StopPrimary => self.stop_primary().await,
            Order::Promote => self.promote().await,
            Order::Rejoin => self.rejoin().await,
        }
    }

    async fn stop_primary(&mut self) -> Result<String, Box<dyn Error>> {
        let primary = &mut self.servers[self.primary];
        if !primary.runs() {
            return Ok("there is no primary to stop".to_owned());
        }
        primary.stop(self.guard).await?;
        Ok(format!("{} was the primary, and is stopped", primary.number))
    }

    /// Replicas that are further than the new primary could not follow it, so the one that is furthest is taken. While the
    /// old primary runs on, those that stream from it do not follow the new one.
    async fn promote(&mut self) -> Result<String, Box<dyn Error>> {
        let mut furthest = None;
        for index in self.following.iter().copied() {
            let position = position(&self.servers[index], self.guard).await;
            furthest = furthest.max(position.map(|position| (position, index)));
        }
        let Some((_, chosen)) = furthest else {
            return Ok("there is no replica to promote".to_owned());
        };
        self.servers[chosen].promote(self.programs, self.guard).await?;
        self.following.retain(|index| *index != chosen);
        if self.servers[self.primary].runs() {
            self.following.clear();
        }
        self.primary = chosen;
        Ok(format!("{} is promoted", self.servers[chosen].number))
    }

    async fn rejoin(&mut self) -> Result<String, Box<dyn Error>> {
        if !self.servers[self.primary].runs() {
            let settings = self.settings();
            let primary = &mut self.servers[self.primary];
            primary.start(self.programs, self.guard, &settings).await?;
            return Ok(format!("{} is started, and the primary as before", primary.number));
        }
        let apart: Vec<usize> = (0..self.servers.len())
            .filter(|index| *index != self.primary && !self.following.contains(index))
            .collect();
        for index in &apart {
            self.attach(*index).await?;
        }
        let numbers: Vec<String> =
            apart.iter().map(|index| self.servers[*index].number.to_string()).collect();
        Ok(match numbers.is_empty() {
            true => "all follow the primary already".to_owned(),
            false => format!("replicas of the primary again: {}", numbers.join(", ")),
        })
    }
}

async fn any_ended(servers: &mut [Postgres]) -> Box<dyn Error> {
    let mut watched: Vec<_> = servers.iter_mut().map(|server| Box::pin(server.ended())).collect();
    std::future::poll_fn(|cx| {
        let ended = watched.iter_mut().find_map(|ended| match ended.as_mut().poll(cx) {
            std::task::Poll::Ready(error) => Some(error),
            std::task::Poll::Pending => None,
        });
        ended.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

/// How much WAL a standby has, in bytes from the beginning; `None`: it does not say.
async fn position(server: &Postgres, guard: &Guard) -> Option<u64> {
    let ask = async {
        let path = guard.dir().join(format!(".s.PGSQL.{}", server.number));
        let mut client = Client::login(UnixStream::connect(path).await?, "postgres", "").await?;
        let sql =
            "SELECT pg_wal_lsn_diff(GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')";
        client.query(sql).await
    };
    timeout(PATIENCE, ask).await.ok()?.ok()??.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let orders = [b's', b'P', b'r', b'x', 0x1b].map(Order::of);
        let expected = [Some(Order::StopPrimary), Some(Order::Promote), Some(Order::Rejoin), None, None];
        assert_eq!(orders, expected);
    }

    #[tokio::test]
    async fn orders_come_in_time() {
        let (to, mut from) = mpsc::unbounded_channel();
        let at = Duration::from_millis;
        let orders = vec![(at(60), Order::Promote), (at(30), Order::StopPrimary)];
        let start = tokio::time::Instant::now();
        let given = tokio::spawn(async move { give_in_time(orders, &to).await });
        for (order, after) in [(Order::StopPrimary, at(30)), (Order::Promote, at(60))] {
            assert_eq!(from.recv().await, Some(order));
            assert!(start.elapsed() >= after, "{order:?}");
        }
        given.abort();
    }
}
