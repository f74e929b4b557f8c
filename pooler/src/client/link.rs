//! A session's hold on a server.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protocol::message;
use protocol::params::literal;
use protocol::session::Origin;

use super::certainty::Commit;
use super::notify::Native;
use super::trail::{Returning, Trail};
use super::trial::{Trial, Visit};
use super::{End, Session};
use crate::clients::ClientState;
use crate::config::PoolMode;
use crate::net::Watch;
use crate::params::ParamSet;
use crate::pool::Pool;
use crate::queries::{Ended, Holder};
use crate::salvage::{self, Running};
use crate::server::{Server, ServerState};
use crate::state::{self, Answer, Trust};
use crate::unsent::Unsent;
use crate::worker::Worker;

const ENCODING: &str = "client_encoding";

/// A server, while a client has it.
pub(super) struct Link {
    pub(super) server: Box<Server>,
    pub(super) unsent: Unsent,
    pub(super) watch: Watch,
    /// It is, or was once, the client's for its whole session.
    pub(super) exclusive: bool,
    /// The client's parameters are being set, and nobody has seen a server accept them: its requests wait.
    pub(super) setting: bool,
    /// Statements that give the server the client's parameters are under way.
    pub(super) bringing: bool,
    /// The audit that is being answered.
    pub(super) audit: Option<Answer>,
    /// The audit that is being answered, if any, may find that the session was changed.
    pub(super) audit_matters: bool,
    /// The transaction at hand is audited, whatever its statements.
    pub(super) sampled: bool,
    /// Something ran for which the session was not looked at yet.
    pub(super) ran: bool,
    /// The transaction at hand may have written.
    pub(super) wrote: bool,
    /// It has called functions that these say are clean.
    pub(super) trust: Option<Arc<Trust>>,
    /// What the audit will want to know.
    pub(super) trail: Option<Box<Trail>>,
    /// What the server listens to for the client.
    pub(super) native: Option<Box<Native>>,
    /// The client's channels at the hub were given back to the server.
    pub(super) brought: bool,
    /// The client, who listens itself, has notified in the transaction at hand.
    pub(super) notified: bool,
    /// The next request depends on what the server answers to those before it.
    pub(super) stalled: bool,
    /// Whether another host may yet have to answer the request at hand.
    pub(super) trial: Trial,
    /// A COMMIT whose outcome will be asked for if its answer is lost.
    pub(super) commit: Option<Box<Commit>>,
    /// It counts among the requests that a replica is at work on, or among the primary's guests.
    _visit: Option<Visit>,
    /// The next request is for another host: it waits until this server is given back.
    pub(super) parting: bool,
    /// The server has said why it ends the session.
    pub(super) fatal: bool,
    /// It takes no more bytes; what it still has to say is read.
    pub(super) deaf: bool,
    /// A cancel request was sent for what has ended meanwhile: until it has arrived nothing else may begin.
    pub(super) settling: bool,
    /// When the transaction began, in microseconds; 0 outside one.
    pub(super) xact_since: u64,
    /// When the round of requests at hand began; 0 if none is.
    pub(super) query_since: u64,
}

impl Link {
    pub(super) fn takes_requests(&self) -> bool {
        let telling = self.audit.is_some() && self.holds_back(); // the client hears of it before the next reply
        !self.setting
            && !self.is_returning(Returning::Told)
            && !self.settling
            && !self.stalled
            && !self.parting
            && !telling
            && !self.server.statements.again.is_pending()
            && !self.native.as_ref().is_some_and(|native| native.is_moving())
            && self.unsent.is_empty()
            && !self.server.machine.is_overrun()
    }

    /// Nothing is under way either way, outside a transaction, and it is known what its session has.
    pub(super) fn is_at_rest(&self) -> bool {
        let busy = self.setting
            || self.bringing
            || self.audit.is_some()
            || self.ran
            || self.trust.is_some()
            || self.native.is_some()
            || self.brought
            || self.notified
            || self.stalled
            || self.parting
            || self.fatal
            || self.deaf
            || self.settling
            || self.xact_since != 0
            || self.query_since != 0;
        let server = &self.server;
        let idle = server.machine.idle().is_some() && server.is_between_messages();
        !busy && idle && self.unsent.is_empty() && !server.statements.again.is_pending()
    }

    /// None of the client's requests is under way, and what its session has on the server is known, or is next to nothing
    /// (`currval`).
    pub(super) fn has_nothing_to_lose(&self) -> bool {
        let begun = self.query_since != 0 || self.xact_since != 0;
        let bound = self.exclusive || !self.server.pins.lasting().is_empty() || self.native.is_some();
        let unknown = self.audit_matters || !self.server.suspect.is_empty() || self.trust.is_some();
        !begun && !bound && !unknown && !self.settling
    }

    /// Nobody knows that the transaction at hand leaves the database as it is; `is_followed`: its texts were looked at. Who
    /// asks what a sequence gave last may do more in the same statement. At a replica nothing is written.
    pub(super) fn may_have_written(&self, is_followed: bool) -> bool {
        let unknown = self.wrote || !is_followed || self.server.suspect.contains(sql::Effects::SEQUENCE_READ);
        unknown && matches!(self.trial, Trial::None)
    }

    /// Requests of the client's are being answered, and will be before the server has got more.
    pub(super) fn awaits_answer(&self) -> bool {
        let machine = &self.server.machine;
        let can_tell = !machine.reads_copy() && !machine.skips_until_sync() && !machine.is_lost();
        can_tell && machine.requests_owed() > 0
    }

    /// Settings that the client has reset have come so far on their way to those of its start-up packet.
    pub(super) fn is_returning(&self, stage: Returning) -> bool {
        self.trail.as_ref().is_some_and(|trail| trail.returning == stage)
    }

    /// The client is not told yet what a reset has changed.
    pub(super) fn holds_back(&self) -> bool {
        self.trail.as_ref().is_some_and(|trail| trail.told.is_some())
    }

    /// Adds a query of the pooler's own to what is to be sent.
    pub(super) fn add_query(&mut self, origin: Origin, sql: &str) {
        self.server.own_query(origin);
        self.unsent.add(|out| message::query(out, sql));
    }

    /// The client may be told what the hub has: it is certain to listen to it still, and the server has nothing that was
    /// before it.
    pub(super) fn may_tell(&self) -> bool {
        !self.brought && !self.native.as_ref().is_some_and(|native| native.is_moving())
    }

    /// A round of requests has been answered: it counts under its last statement.
    fn count_query(&mut self, worker: &Worker, pool: &Pool, now: u64) {
        let ended = Ended { ran: now - self.query_since, ..std::mem::take(&mut self.server.ended) };
        let most = worker.query_stats.get();
        if most == 0 {
            return;
        }
        let counted = self.server.info.take_text(|text| {
            let fingerprint = worker.fingerprints.of(text);
            pool.queries.record(worker.index, fingerprint, text, ended, most);
            fingerprint
        });
        self.server.holder = Holder { fingerprint: counted.unwrap_or(0), since: now };
    }

    /// The server alone. What it has not been sent will not be.
    pub(super) fn into_server(mut self) -> Box<Server> {
        self.server.statements.again.forget();
        if !self.unsent.is_empty() {
            self.server.machine.on_sent_rest(false);
        }
        if self.setting || self.audit.is_some() {
            self.server.suspect |= sql::Effects::OPAQUE; // what its session has was about to be known
        }
        if self.trust.is_some() {
            self.server.suspect |= sql::Effects::CALLS; // nobody will ask whether they still are clean
        }
        self.server
    }
}

impl Session {
    /// Links an idle server of this worker, if there is one. False: the slow path is needed.
    pub(super) fn link_now(&mut self, now: u64) -> bool {
        if self.replication.is_some() {
            return false;
        }
        let target = self.reading.as_ref().and_then(|reading| reading.target.as_ref());
        let idle = target.unwrap_or(&self.pool).take_idle(self.worker.index, now, self.rules.now());
        idle.is_some_and(|server| self.link(server))
    }

    /// Takes hold of a server and brings it to the client's parameters. False if it turns out unusable.
    pub(super) fn link(&mut self, mut server: Box<Server>) -> bool {
        if server.move_to(self.worker.index).is_err() {
            server.close("could not be moved to another worker");
            return false;
        }
        let mut link = Link {
            server,
            unsent: Unsent::default(),
            watch: Watch::default(),
            exclusive: self.mode() == PoolMode::Session,
            trial: Trial::default(),
            commit: None,
            _visit: None,
            parting: false,
            setting: false,
            bringing: false,
            audit: None,
            audit_matters: false,
            sampled: false,
            ran: false,
            wrote: false,
            trust: None,
            trail: None,
            native: None,
            brought: false,
            notified: false,
            stalled: false,
            fatal: false,
            deaf: false,
            settling: false,
            xact_since: 0,
            query_since: 0,
        };
        if self.reading.is_some() {
            self.note_arrival(&mut link);
        }
        link.server.statements.end_batch();
        link.server.ended = Ended::default();
        if let Some(timing) = &mut self.timing {
            timing.link();
        }
        let info = &link.server.info;
        info.set_state(ServerState::Active);
        info.client.store(self.local.info.id, Relaxed);
        self.local.info.server.store(info.id, Relaxed);
        self.local.info.set_state(ClientState::Active);
        *self.local.server.borrow_mut() = Some(info.clone());
        self.counters().assignments.add(1);
        if self.replication.is_some() {
            self.adopt(link.server.params.clone()); // they were in its start-up packet; a walsender takes no SET
        } else if !Arc::ptr_eq(&self.params, &link.server.params)
            || !Arc::ptr_eq(&self.settings, &link.server.settings)
            || self.began.as_ref().is_some_and(|began| !Arc::ptr_eq(began, &self.params))
            || self.is_concerned(&link.server)
        {
            self.bring_parameters(&mut link);
        }
        self.link = Some(link);
        true
    }

    fn note_arrival(&mut self, link: &mut Link) {
        let (is_guest, writes) = self.has_arrived();
        link.wrote = writes;
        if let Some(site) = &link.server.pool().site {
            link._visit = Some(Visit::new(&site.member));
            link.trial = Trial::Fresh;
        } else if is_guest {
            link._visit = Some(Visit::Guest(self.pool.guests.count().0));
        }
    }

    /// The server has something of other clients that this one could see.
    fn is_concerned(&self, server: &Server) -> bool {
        server.leavings.concern(self.local.info.id, self.pool.habits.anybody_asks())
    }

    /// Puts the statements in front of the request that give the server this client's parameters.
    fn bring_parameters(&mut self, link: &mut Link) {
        let mut sql = String::new();
        if self.is_concerned(&link.server) {
            link.server.leavings.write_removal(&mut sql);
        }
        let tracked = &self.worker.shared.tracked;
        let server = &mut link.server;
        server.params.values().write_changes(self.params.values(), tracked, &mut sql);
        if let Some(began) = &self.began {
            let given = |index| self.beginning.iter().any(|(name, _)| tracked.index(name) == Some(index));
            began.values().write_kept(self.params.values(), server.params.values(), tracked, given, &mut sql);
        }
        let other_settings = !Arc::ptr_eq(&self.settings, &server.settings);
        if other_settings {
            state::write_changes(&server.settings, &self.settings, &mut sql);
        }
        if sql.is_empty() {
            self.adopt(server.params.clone());
            return;
        }
        let in_utf8 = !sql.is_ascii() && !self.reads_utf8(&link.server.params);
        if in_utf8 {
            // Settings are kept in UTF-8, and a text is read in the encoding that the server has when it comes.
            link.add_query(Origin::Pooler, "SET client_encoding='UTF8'");
            let values = self.params.values();
            tracked.index(ENCODING).and_then(|index| values.get(index)).inspect(|encoding| {
                let _ = write!(sql, "SET {ENCODING}={};", literal(encoding));
            });
        }
        link.add_query(Origin::Pooler, &sql);
        link.bringing = true;
        // Without its settings (its role, say) a request must not run.
        link.setting = other_settings || in_utf8 || !self.params.is_proven();
        self.local.preparing.set(true);
    }

    /// What is UTF-8 means to a server with these parameters what it says, and comes as such from it.
    pub(super) fn reads_utf8(&self, params: &ParamSet) -> bool {
        let encoding =
            self.worker.shared.tracked.index(ENCODING).and_then(|index| params.values().get(index));
        matches!(encoding, Some("UTF8" | "SQL_ASCII"))
    }

    /// The parameters of the linked server are the client's from now on.
    pub(super) fn adopt(&mut self, params: Arc<ParamSet>) {
        if !Arc::ptr_eq(&self.params, &params) {
            self.params = params.clone();
            self.local.info.set_params(params);
        }
    }

    /// Its server is wanted by others, or is to be closed, and goes back once it is known what its session has. Who is
    /// quicker with its next request than the server with telling that would keep it for as long as it goes on.
    pub(super) fn parts_soon(&self, link: &Link) -> bool {
        let wanted = || link.server.pool().oldest_wait().is_some() || link.server.info.is_outdated();
        link.audit.is_some() && !link.exclusive && wanted()
    }

    /// Gives the server back if the client needs it no more.
    pub(super) fn release_if_free(&mut self) {
        let Some(link) = &self.link else { return };
        let server = &link.server;
        let over = server.machine.idle().is_some() && server.is_between_messages();
        let over = over && link.unsent.is_empty() && !link.setting && server.suspect.is_empty();
        let over = over && link.audit.is_none() && server.pins.is_empty() && self.held.is_none();
        if over && self.shares_servers() {
            self.release();
        }
    }

    fn release(&mut self) {
        let Some(link) = self.link.take() else { return };
        let visits = !matches!(link.trial, Trial::None);
        self.adopt(link.server.params.clone());
        self.unlinked();
        let server = link.into_server();
        let cancels = self.local.cancels.take();
        if cancels.is_some() || self.rules.now().must_reset() {
            salvage::begin(&self.worker, server, cancels, Running::Cancel);
        } else if let Some(server) = server.into_idle() {
            let pool = match visits {
                true => &server.pool().clone(),
                false => &self.pool,
            };
            pool.give_back_at(self.worker.index, server, self.worker.now(), self.rules.now());
        }
    }

    pub(super) fn unlinked(&self) {
        *self.local.server.borrow_mut() = None;
        self.local.idle_since.set(self.worker.now());
        self.local.busy.set(false);
        self.local.prepared();
        self.local.info.server.store(0, Relaxed);
        self.local.info.since.store(0, Relaxed);
        self.local.info.set_state(ClientState::Idle);
    }

    /// The request at hand, which waits for its settings, can be cancelled from now on.
    pub(super) fn request_begins_early(&mut self, now: u64) {
        if self.follows.state {
            self.sample(now);
        }
        self.request_begins(now);
    }

    /// Decides of a transaction that begins whether it is audited although it may look harmless.
    pub(super) fn sample(&mut self, now: u64) {
        if let Some(link) = self.link.as_mut().filter(|link| link.xact_since == 0) {
            link.sampled = self.worker.sampler.picks(self.rules.now().audit_sample, now);
        }
    }

    /// A request of the client's begins to be answered.
    pub(super) fn request_begins(&mut self, now: u64) {
        let Some(link) = &mut self.link else { return };
        if link.query_since == 0 {
            link.query_since = now;
            self.pool.holder_ends(self.worker.index, &mut link.server.holder, now);
            if let Some(timing) = &mut self.timing {
                timing.asks(now);
                timing.statement_begins(now);
            }
            link.server.info.requested.store(now, Relaxed);
            self.local.info.since.store(now, Relaxed);
            self.local.busy.set(true);
            self.local.request.set(self.local.request.get() + 1);
            self.pool.counters[self.worker.index].queries.add(1);
        }
        if link.xact_since == 0 {
            link.xact_since = now;
            self.pool.counters[self.worker.index].xacts.add(1);
        }
    }

    /// Nothing is owed any more. `idle`: nor is a transaction open.
    pub(super) fn requests_answered(&mut self, now: u64, idle: bool) {
        let Some(link) = &mut self.link else { return };
        let counters = &self.pool.counters[self.worker.index];
        let times = self.pool.latency.of(self.worker.index);
        if link.query_since != 0 {
            counters.query_time.add(now - link.query_since);
            times.running.record(now - link.query_since);
            link.count_query(&self.worker, &self.pool, now);
            link.query_since = 0;
            link.commit = None;
            if let Some(timing) = &mut self.timing {
                timing.idles(now);
            }
            self.local.info.since.store(0, Relaxed);
            self.local.waited.set(0);
            self.local.busy.set(false);
        }
        if link.xact_since != 0 && idle {
            counters.xact_time.add(now - link.xact_since);
            times.transaction.record(now - link.xact_since);
            link.xact_since = 0;
            link.server.holder = Holder::default();
            link.notified = false;
            if let Some(timing) = &mut self.timing {
                timing.transaction_ends();
            }
        }
    }

    /// Whether a cancel request is under way for what has been answered. It must not meet what comes next.
    pub(super) fn awaits_cancels(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let settling = self.local.cancels.borrow().as_ref().is_some_and(|cancels| cancels.are_under_way());
        if settling != link.settling {
            link.settling = settling;
            link.server.info.set_state(if settling {
                ServerState::BeingCanceled
            } else {
                ServerState::Active
            });
        }
        settling
    }

    /// The server's connection has ended.
    pub(super) fn server_ended(&self) -> End {
        match &self.link {
            Some(link) if self.leaving && link.server.machine.is_lost() => End::Terminated, // as it was asked to
            Some(link) if link.fatal => End::ServerEnded,
            Some(_) if self.pool.is_clustered() => self.lost_server("the connection to the server was lost"),
            _ => End::Refused(crate::error::Refusal::fatal("server conn crashed?")),
        }
    }

    pub(super) fn forbids_transactions(&mut self) -> bool {
        self.mode() == PoolMode::Statement
    }
}
