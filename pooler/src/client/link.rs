//! A session's hold on a server.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protocol::message;
use protocol::session::Origin;

use super::{End, Session};
use crate::clients::ClientState;
use crate::config::PoolMode;
use crate::net::Watch;
use crate::params::ParamSet;
use crate::salvage;
use crate::server::{Server, ServerState};
use crate::state::{self, Answer};
use crate::unsent::Unsent;

/// A server, while a client has it.
pub(super) struct Link {
    pub(super) server: Box<Server>,
    pub(super) unsent: Unsent,
    pub(super) watch: Watch,
    /// The client's parameters are being set, and nobody has seen a server accept them: its requests wait.
    pub(super) setting: bool,
    /// The audit that is being answered.
    pub(super) audit: Option<Answer>,
    /// Settings with a dot in their name that the client has named.
    pub(super) custom: Vec<String>,
    /// Settings may have been reset in the transaction at hand.
    pub(super) may_reset: bool,
    /// The transaction at hand may have written.
    pub(super) wrote: bool,
    /// What the client knew of the reported parameters before it reset some: those of its start-up packet return to what
    /// that said, and so it is told only when they have.
    pub(super) told: Option<Arc<ParamSet>>,
    /// The next request depends on what the server answers to those before it.
    pub(super) stalled: bool,
    /// The server has said why it ends the session.
    pub(super) fatal: bool,
    /// It takes no more bytes; what it still has to say is read.
    pub(super) deaf: bool,
    /// When the transaction began, in microseconds; 0 outside one.
    pub(super) xact_since: u64,
    /// When the round of requests at hand began; 0 if none is.
    pub(super) query_since: u64,
}

impl Link {
    pub(super) fn takes_requests(&self) -> bool {
        !self.setting && !self.stalled && self.unsent.is_empty() && !self.server.machine.is_overrun()
    }

    /// The server alone. What it has not been sent will not be.
    pub(super) fn into_server(mut self) -> Box<Server> {
        if !self.unsent.is_empty() {
            self.server.machine.on_sent_rest(false);
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
        self.pool.take_idle(self.worker.index, now, self.rules.now()).is_some_and(|server| self.link(server))
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
            setting: false,
            audit: None,
            custom: Vec::new(),
            may_reset: false,
            wrote: false,
            told: None,
            stalled: false,
            fatal: false,
            deaf: false,
            xact_since: 0,
            query_since: 0,
        };
        link.server.statements.end_batch();
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
        {
            self.bring_parameters(&mut link);
        }
        self.link = Some(link);
        true
    }

    /// Puts the statements in front of the request that give the server this client's parameters.
    fn bring_parameters(&mut self, link: &mut Link) {
        let mut sql = String::new();
        let tracked = &self.worker.shared.tracked;
        let server = &mut link.server;
        server.params.values().write_changes(self.params.values(), tracked, &mut sql);
        let other_settings = !Arc::ptr_eq(&self.settings, &server.settings);
        if other_settings {
            state::write_changes(&server.settings, &self.settings, &mut sql);
        }
        if sql.is_empty() {
            self.adopt(server.params.clone());
            return;
        }
        server.own_query(Origin::Pooler);
        link.unsent.add(|out| message::query(out, &sql));
        // Without its settings (its role, say) a request must not run.
        link.setting = other_settings || !self.params.is_proven();
        self.local.preparing.set(true);
    }

    /// The parameters of the linked server are the client's from now on.
    pub(super) fn adopt(&mut self, params: Arc<crate::params::ParamSet>) {
        if !Arc::ptr_eq(&self.params, &params) {
            self.params = params.clone();
            self.local.info.set_params(params);
        }
    }

    /// Gives the server back if the client needs it no more.
    pub(super) fn release_if_free(&mut self) {
        let Some(link) = &self.link else { return };
        let server = &link.server;
        let over = server.machine.idle().is_some() && server.is_between_messages();
        let over = over && link.unsent.is_empty() && !link.setting;
        let over = over && link.audit.is_none() && server.pins.is_empty();
        if over && self.shares_servers() {
            self.release();
        }
    }

    fn release(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.adopt(link.server.params.clone());
        self.unlinked();
        let server = link.into_server();
        let cancels = self.local.cancels.take();
        if cancels.is_some() || self.rules.now().must_reset() {
            self.worker.spawn(salvage::salvage(self.worker.clone(), server, cancels));
        } else if let Some(server) = server.into_idle() {
            self.pool.give_back_at(self.worker.index, server, self.worker.now(), self.rules.now());
        }
    }

    pub(super) fn unlinked(&self) {
        *self.local.server.borrow_mut() = None;
        self.local.busy.set(false);
        self.local.info.server.store(0, Relaxed);
        self.local.info.since.store(0, Relaxed);
        self.local.info.set_state(ClientState::Idle);
    }

    /// A request of the client's begins to be answered.
    pub(super) fn request_begins(&mut self, now: u64) {
        let Some(link) = &mut self.link else { return };
        if link.query_since == 0 {
            link.query_since = now;
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

    /// Nothing is owed any more.
    pub(super) fn requests_answered(&mut self, now: u64) {
        let Some(link) = &mut self.link else { return };
        let counters = &self.pool.counters[self.worker.index];
        if link.query_since != 0 {
            counters.query_time.add(now - link.query_since);
            link.query_since = 0;
            self.local.info.since.store(0, Relaxed);
            self.local.busy.set(false);
        }
        if link.xact_since != 0 && link.server.machine.idle().is_some() {
            counters.xact_time.add(now - link.xact_since);
            link.xact_since = 0;
        }
    }

    /// The server's connection has ended.
    pub(super) fn server_ended(&self) -> End {
        match &self.link {
            Some(link) if self.leaving && link.server.machine.is_lost() => End::Terminated, // as it was asked to
            Some(link) if link.fatal => End::ServerEnded,
            _ => End::Refused(crate::error::Refusal::fatal("server conn crashed?")),
        }
    }

    pub(super) fn forbids_transactions(&mut self) -> bool {
        self.mode() == PoolMode::Statement
    }
}
