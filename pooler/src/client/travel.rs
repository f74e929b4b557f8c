//! A client that goes to another process, and one that comes from there. See the module [`handover`](crate::handover).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use protocol::params::Values;
use protocol::session::ClientMachine;
use protocol::sqlstate::SqlState;
use protocol::startup::Replication;

use super::link::Link;
use super::{Admitted, End, Session};
use crate::clients::{CancelKey, NewClient};
use crate::config::Host;
use crate::error::Refusal;
use crate::handover::{Companion, Traveller};
use crate::listen::Accepted;
use crate::load::Leave;
use crate::net::Stream;
use crate::params::ParamSet;
use crate::pool::Pool;
use crate::prepared::ClientStatements;
use crate::server::Server;
use crate::state::{BriefPin, Pins, Settings};
use crate::vacate::Vacating;
use crate::worker::{Leaving, Local, Worker};

/// What became of an attempt to give a client away.
pub(super) enum Travelled {
    /// The other process has it.
    Away,
    /// There is no other process any more.
    Not,
    /// That does not want it.
    Refused(Refusal),
}

impl Session {
    /// Nothing is owed to either side, and what is known of the session can be told. A client that keeps its server takes
    /// that along, where all that was done to it is known.
    pub(super) fn may_travel(&self) -> bool {
        let nothing_owed = self.unsent.is_empty() && self.held.is_none() && self.refusal.is_none();
        let between = self.cutter.at_boundary() && self.machine == ClientMachine::Open && !self.leaving;
        let stays = self.replication.is_some()
            || self.local.vacating.get() != Vacating::No
            || self.has_expired()
            || self.local.cancels.borrow().is_some()
            || self.stream.fd().is_none();
        nothing_owed && between && !stays && self.link.as_ref().is_none_or(|link| self.takes_along(link))
    }

    /// The end of a client that is to leave, if it can leave now.
    #[cold]
    pub(super) fn may_leave(&self) -> Option<End> {
        let transaction = |link: &Link| link.server.machine.idle().is_none() || link.xact_since != 0;
        match self.local.leaving.get() {
            Leaving::Travels => self.may_travel().then_some(End::Travels),
            Leaving::Drains if self.unsent.is_empty() && !self.link.as_ref().is_some_and(transaction) => {
                Some(End::Refused(drained()))
            }
            _ => None,
        }
    }

    fn takes_along(&self, link: &Link) -> bool {
        let server = &link.server;
        link.is_at_rest()
            && server.suspect.is_empty()
            && !server.statements.has_strays()
            && !server.pins.contains(Pins::LONG)
            && !server.leavings.concern(self.local.info.id, true)
            && server.stream.fd().is_some()
    }

    /// Gives the client to the process that takes over, and waits until it is there. Nobody reads it meanwhile.
    pub(super) async fn travel(&mut self) -> Travelled {
        self.local.leaving.set(Leaving::No); // it is asked again later, if it can't go now
        let Some(listener) = self.listener.take().filter(|listener| !listener.channels.is_empty()) else {
            return self.go(false).await;
        };
        let info = &self.local.info;
        let names = (self.pool.db.name.as_str(), info.login.name.as_str());
        let ahead = self.worker.shared.handover.listen_ahead(info.key, names, &listener.channels);
        let Ok(Some((channel, number))) = tokio::time::timeout(MARKER_WITHIN, ahead).await else {
            self.listener = Some(listener);
            return Travelled::Not;
        };
        let mut told = Vec::new();
        let marked = listener.mark(&channel, number) && {
            let before = listener.told_before(&channel, number, &mut told);
            tokio::time::timeout(MARKER_WITHIN, before).await.is_ok()
        };
        self.unsent.add(|out| out.append(&mut told));
        let flushed = poll_fn(|cx| match self.unsent.flush(cx, &mut self.stream) {
            Ok(()) if !self.unsent.is_empty() => Poll::Pending,
            flushed => Poll::Ready(flushed.is_ok()),
        });
        let told = marked && tokio::time::timeout(MARKER_WITHIN, flushed).await == Ok(true);
        let travelled = if told { self.go(true).await } else { Travelled::Not };
        listener.unmark(&channel);
        if !matches!(travelled, Travelled::Away) {
            self.listener = Some(listener); // with what has come behind the marker
        }
        travelled
    }

    async fn go(&mut self, listens: bool) -> Travelled {
        let fds = [Some(&self.stream), self.link.as_ref().map(|link| &link.server.stream)];
        let fds = fds.into_iter().flatten().map(|stream| stream.fd()?.try_clone_to_owned().ok());
        let Some(fds) = fds.collect::<Option<Vec<_>>>() else { return Travelled::Not };
        let traveller = Traveller { listens, ..self.pack() };
        let Some(answered) = self.worker.shared.handover.give(&traveller, fds) else {
            return Travelled::Not;
        };
        match answered.await {
            Ok(Ok(_)) => Travelled::Away,
            Ok(Err(why)) => Travelled::Refused(Refusal::fatal(why)),
            Err(_) => Travelled::Not,
        }
    }

    /// The client is another process's: nothing is said to it, nor to its server.
    pub(crate) fn leave_behind(&mut self) {
        tracing::debug!(peer = %self.local.info.peer(), "is with the other process");
        self.worker.sessions.borrow_mut().remove(&self.local.info.id);
        self.worker.shared.clients.remove(self.local.info.key);
        *self.local.info.pin() = None;
        if let Some(link) = self.link.take() {
            link.into_server().leave_behind();
        }
    }

    fn pack(&self) -> Traveller {
        let info = &self.local.info;
        let (statements, unnamed) = self.statements.pack();
        Traveller {
            id: info.id,
            pid: info.key.pid,
            secret: info.key.secret,
            database: self.pool.db.name.clone(),
            login: info.login.name.clone(),
            connected: info.connected,
            requested: info.requested.load(Relaxed),
            idle_since: self.local.idle_since.get(),
            params: self.named(self.params.values()),
            proven: self.params.is_proven(),
            settings: self.settings.values().iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
            beginning: self.beginning.to_vec(),
            began: self.began.as_ref().map(|began| self.named(began.values())),
            statements,
            unnamed,
            asks_sequences: self.asks_sequences,
            listens: false,
            input: self.input.clone(),
            server: self.link.as_ref().map(|link| self.companion(link)),
        }
    }

    /// Values by the names of their parameters.
    fn named(&self, values: &Values) -> Vec<(String, String)> {
        let names = self.worker.shared.tracked.names().enumerate();
        names.filter_map(|(at, name)| Some((name.to_owned(), values.get(at)?.to_owned()))).collect()
    }

    fn companion(&self, link: &Link) -> Companion {
        let info = &link.server.info;
        let (host, is_unix) = match &info.host {
            Host::Tcp(name) => (name.clone(), false),
            Host::Unix(dir) => (dir.to_string_lossy().into_owned(), true),
        };
        let until = self.local.unpin_at.get();
        let pin = info_pin(self);
        Companion {
            pid: info.pid,
            secret: info.secret.to_vec(),
            host,
            is_unix,
            port: info.port,
            opened: info.opened,
            pins: link.server.pins.bits(),
            blamed: pin.0,
            pinned_since: pin.1,
            brief: self.brief.as_ref().map(|brief| (brief.since, brief.idle_since, brief.firm, until)),
            custom: link.trail.iter().flat_map(|trail| trail.custom.iter().cloned()).collect(),
        }
    }

    /// The session of a client that has come from another process.
    ///
    /// # Errors
    /// It can't go on here; what the client is to be told.
    pub(crate) fn arrive(
        worker: &Rc<Worker>,
        from: Traveller,
        fds: Vec<OwnedFd>,
        leave: Leave,
    ) -> Result<Box<Session>, String> {
        let shared = &worker.shared;
        let key = CancelKey { pid: from.pid, secret: from.secret };
        let (stream, companion) = connections(fds);
        let stream = stream.ok_or("the connection was lost")?;
        let listener = shared.handover.listener(key);
        if companion.is_some() != from.server.is_some() || listener.is_some() != from.listens {
            return Err("what belongs to the session was lost".into());
        }
        let config = shared.config.load();
        let db = shared.registry.database(&config, &from.database, from.connected);
        let db = db.map_err(|_| "database removed")?;
        let login = shared.registry.user(&from.login);
        let pool = shared.registry.pool(shared, &db, &from.login);
        let counted = [&login.clients, &db.clients, &pool.clients].map(|tally| tally.count().0);
        let params = intern(&pool, worker, &from.params, from.proven);
        let settings: BTreeMap<_, _> = from.settings.iter().cloned().collect();
        let settings = pool.settings.intern(Settings::new(settings));
        let new = NewClient {
            // One that the old process has given out meanwhile may be another client's here.
            id: if from.id < shared.first_id() { from.id } else { shared.next_id() },
            worker: worker.index,
            pool: pool.clone(),
            login,
            remote: stream.remote(),
            local: stream.local(),
            replication: Replication::Off,
            tls: "",
            fd: stream.fd_number(),
            connected: from.connected,
            params: params.clone(),
        };
        let info = shared.clients.add_known(new, key).ok_or("its cancel key is another client's here")?;
        info.requested.store(from.requested, Relaxed);
        let mut session = Session::new(Admitted {
            worker: worker.clone(),
            local: Local::new(info),
            stream,
            input: from.input,
            params: params.clone(),
            settings: settings.clone(),
            beginning: from.beginning.into(),
            replication: None,
            counted: (shared.clients.sockets.count().0, counted),
            leave,
        });
        let meaning = (settings.meaning() ^ params.meaning()) >> 1;
        let latest = pool.moments.latest();
        session.statements =
            ClientStatements::unpack(from.statements, from.unnamed, &pool.texts, latest, meaning);
        session.local.info.prepared.store(session.statements.len() as u32, Relaxed);
        session.began = from.began.map(|began| intern(&pool, worker, &began, true));
        session.asks_sequences = from.asks_sequences;
        session.listener = listener.map(Box::new);
        session.local.idle_since.set(from.idle_since);
        session.note_past_writes();
        if let Some((companion, stream)) = from.server.zip(companion) {
            session.bring_along(&companion, stream);
        }
        Ok(session)
    }

    /// Links the server that has come with the client.
    fn bring_along(&mut self, from: &Companion, stream: Stream) {
        let (params, settings) = (self.params.clone(), self.settings.clone());
        let server = Server::arrive(&self.pool, self.worker.index, stream, from, params, settings);
        self.link(server);
        if let Some(link) = self.link.as_mut().filter(|_| from.pins != 0) {
            let trail = link.trail();
            trail.blamed.clone_from(&from.blamed);
            trail.custom.extend(from.custom.iter().cloned());
        }
        if let Some((since, idle_since, firm, until)) = from.brief {
            let counted = self.pool.pins.brief.count().0;
            self.brief = Some(Box::new(BriefPin { since, idle_since, firm, _counted: counted }));
            self.local.unpin_at.set(until);
            self.worker.watch_pinned(&self.local);
        }
        let _ = self.note_pins(); // it was within the limits
        if let Some(pin) = &mut *self.local.info.pin() {
            pin.since = from.pinned_since;
        }
    }
}

/// The client's connection, and that of the server which it keeps.
fn connections(fds: Vec<OwnedFd>) -> (Option<Stream>, Option<Stream>) {
    let mut streams = fds.into_iter().map(|fd| Accepted::of(fd).and_then(Accepted::into_stream));
    (streams.next().flatten(), streams.next().flatten())
}

/// What a client is told that is ended because the process ends: what PostgreSQL says then, and drivers know.
pub(crate) fn drained() -> Refusal {
    Refusal::with_code(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// How long a client that listens may be held up before it goes on here, to try again later.
const MARKER_WITHIN: Duration = Duration::from_secs(2);

/// The statement behind a client's pin, and when that began.
fn info_pin(session: &Session) -> (String, u64) {
    session.local.info.pin().as_ref().map(|pin| (pin.statement.clone(), pin.since)).unwrap_or_default()
}

fn intern(pool: &Pool, worker: &Worker, named: &[(String, String)], proven: bool) -> Arc<ParamSet> {
    let tracked = &worker.shared.tracked;
    let mut values = Values::none(tracked);
    for (name, value) in named {
        if let Some(at) = tracked.index(name) {
            values.set(at, value);
        }
    }
    pool.params.intern(values, proven)
}
