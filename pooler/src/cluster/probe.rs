//! Looks at one host, again and again, over one connection that is kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use protocol::error_fields::ErrorFields;
use protocol::message::{self, TxStatus};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::sighting::QUESTION;
use super::{Cluster, Member, Sighting};
use crate::answers::{self, Values};
use crate::config::Host;
use crate::net::{Conversation, Peer};
use crate::pool::Pool;
use crate::server::{self, ConnectError};

/// What the server shows for its `application_name`.
const NAME: &str = "pgferry probe";

/// The first pause after a refused login; each is twice as long as the one before, up to the longest.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Time between two looks whether a pause is over.
const RESTING: Duration = Duration::from_millis(100);

/// The task of one host.
pub(crate) struct Probe {
    pub(super) cluster: Weak<Cluster>,
    pub(super) member: Arc<Member>,
}

/// What one look has come to.
pub(super) enum Look {
    /// The answer, when it was asked for, and how long it took, in microseconds.
    Seen(Sighting, u64, u64),
    /// It could not be asked, but not because it is down.
    Nothing(String),
    /// Nobody is there as whom it could be asked.
    NotYet(String),
    /// It can't be reached, or does not answer.
    Failed(String),
}

/// Why a connection has not answered.
enum Unanswered {
    Broken,
    Refused(String),
}

/// What a probe has from one look to the next.
#[derive(Default)]
struct State {
    connection: Option<Conversation>,
    /// Logins that were refused in turn; each is tried by another pool, if there is one.
    refused: u32,
    /// Its name is being looked up, to see whether the host has moved.
    resolving: Option<JoinHandle<Result<Vec<SocketAddr>, ConnectError>>>,
}

impl Probe {
    /// Until nobody has the cluster any more.
    pub(crate) async fn run(self) {
        let mut state = State::default();
        while let Some(cluster) = self.cluster.upgrade() {
            let begun = cluster.now();
            let pause = if cluster.rests() {
                state.connection = None; // who pauses may want to stop the server
                cluster.rest(&self.member);
                RESTING
            } else {
                let look = state.look(&cluster, &self.member).await;
                let pause = cluster.note(&self.member, look);
                let pause = pause.saturating_sub(Duration::from_micros(cluster.now() - begun));
                pause.max(state.pause())
            };
            drop(cluster);
            tokio::select! {
                () = self.member.wake.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }
}

impl State {
    /// The shortest time to the next login.
    fn pause(&self) -> Duration {
        match self.refused {
            0 => Duration::ZERO,
            times => REFUSED_PAUSE.saturating_mul(1 << (times - 1).min(16)).min(LONGEST_PAUSE),
        }
    }

    async fn look(&mut self, cluster: &Cluster, member: &Member) -> Look {
        let limit = cluster.probe_timeout();
        let looking = self.look_in_time(cluster, member);
        let look = timeout(limit, looking).await;
        let look =
            look.unwrap_or_else(|_| Look::Failed(format!("no answer within {limit:?} (probe_timeout)")));
        if !matches!(look, Look::Seen(..)) {
            self.connection = None;
        }
        look
    }

    /// The host's name stands for other addresses than the one that is connected. The answer is that of the last question,
    /// so that no look waits for the resolver, and the resolver is asked when what it has said counts no more.
    async fn has_moved(&mut self, cluster: &Cluster, member: &Member) -> bool {
        let remote = self.connection.as_ref().map(|connection| connection.stream.remote());
        let (Host::Tcp(name), Some(Peer::Tcp(at))) = (&member.host, remote) else { return false };
        if name.parse::<IpAddr>().is_ok() || self.resolving.as_ref().is_some_and(|asked| !asked.is_finished())
        {
            return false;
        }
        let said = match self.resolving.take() {
            Some(asked) => asked.await.ok(),
            None => None,
        };
        let (shared, name, port) = (cluster.shared.clone(), name.clone(), member.port);
        self.resolving = Some(spawn_local(async move { shared.addresses(&name, port).await }));
        matches!(said, Some(Ok(addresses)) if !addresses.iter().any(|address| address.ip() == at.ip()))
    }

    /// Over the connection there is, else over a new one: that one was closed says nothing of the host.
    async fn look_in_time(&mut self, cluster: &Cluster, member: &Member) -> Look {
        if self.has_moved(cluster, member).await {
            self.connection = None;
        }
        if let Some(connection) = &mut self.connection {
            match ask(cluster, connection).await {
                Ok(look) => return look,
                Err(Unanswered::Refused(why)) => return Look::Nothing(why),
                Err(Unanswered::Broken) => self.connection = None,
            }
        }
        let pools = cluster.pools_for_probes();
        let Some(pool) = pools.get(self.refused as usize % pools.len().max(1)) else {
            return Look::NotYet("nobody has logged in yet, and there is no probe_user".to_owned());
        };
        let mut connection = match connect(pool, member).await {
            Ok(connection) => connection,
            Err(error @ ConnectError::Exhausted(_)) => return Look::Nothing(error.to_string()),
            Err(error) if error.is_of_host() => return Look::Failed(error.to_string()),
            Err(error) => {
                let why = format!("{error} (as {})", pool.name());
                if self.refused == 0 {
                    warn!("{member}: {why}");
                }
                self.refused = self.refused.saturating_add(1);
                return Look::Nothing(why);
            }
        };
        self.refused = 0;
        let look = ask(cluster, &mut connection).await;
        self.connection = Some(connection);
        match look {
            Ok(look) => look,
            Err(Unanswered::Refused(why)) => Look::Nothing(why),
            Err(Unanswered::Broken) => Look::Failed("connection closed".to_owned()),
        }
    }
}

async fn connect(pool: &Arc<Pool>, member: &Member) -> Result<Conversation, ConnectError> {
    let address = (&member.host, member.port);
    let (connection, _) = server::log_in(pool, address, &[("application_name", NAME)]).await?;
    Ok(connection)
}

async fn ask(cluster: &Cluster, connection: &mut Conversation) -> Result<Look, Unanswered> {
    let begun = cluster.now();
    let row = row(connection).await?;
    let took = cluster.now() - begun;
    match Sighting::read(&row) {
        Some(sighting) => Ok(Look::Seen(sighting, begun, took)),
        None => Ok(Look::Nothing(format!("what it says is not understood: {row:?}"))),
    }
}

/// The last row of the answer.
async fn row(connection: &mut Conversation) -> Result<Values, Unanswered> {
    let mut request = Vec::new();
    message::query(&mut request, QUESTION);
    connection.send(&request).await.map_err(|_| Unanswered::Broken)?;
    let (mut row, mut refused) = (Values::new(), None);
    loop {
        let (tag, body) = connection.next().await.map_err(|_| Unanswered::Broken)?;
        match tag {
            b'D' => row = answers::values(&body).unwrap_or_default(),
            b'E' => {
                let message = ErrorFields::new(&body).message().unwrap_or_default().into_owned();
                refused = Some(message); // one that ends the connection is followed by its end
            }
            b'Z' if message::read_ready_for_query(&body) != Some(TxStatus::Idle) => {
                return Err(Unanswered::Broken);
            }
            b'Z' => return refused.map_or(Ok(row), |why| Err(Unanswered::Refused(why))),
            _ => {}
        }
    }
}
