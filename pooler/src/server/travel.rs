//! A server that goes to another process with its client, and one that has come so.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use protocol::frame::Cutter;
use protocol::session::{Route, ServerMachine};
use sql::Effects;

use super::{Server, ServerInfo, ServerState};
use crate::config::Host;
use crate::handover::Companion;
use crate::net::Stream;
use crate::params::ParamSet;
use crate::pool::Pool;
use crate::prepared::ServerStatements;
use crate::queries::{Ended, Holder};
use crate::state::{Leavings, Pins, Settings};

/// The generation of servers from another process: never the present one.
const FOREIGN: u64 = u64::MAX;

impl Server {
    /// Leaves it to the process that has got its socket: it is not told that it is left, and counts no more.
    pub(crate) fn leave_behind(mut self: Box<Self>) {
        self.permit = None;
        self.pool.member_closed(&self.info, "handed over");
        self.pool.place_is_free();
    }

    /// One that comes from another process with its client, whose alone it is: it is closed when the client needs it no
    /// more, because only that process knew all of what was done to it.
    pub(crate) fn arrive(
        pool: &Arc<Pool>,
        home: usize,
        stream: Stream,
        from: &Companion,
        params: Arc<ParamSet>,
        settings: Arc<Settings>,
    ) -> Box<Server> {
        let info = Arc::new(ServerInfo {
            id: pool.shared.next_id(),
            host: match from.is_unix {
                true => Host::Unix(from.host.clone().into()),
                false => Host::Tcp(from.host.clone()),
            },
            port: from.port,
            remote: stream.remote(),
            local: stream.local(),
            tls: "",
            pid: from.pid,
            secret: from.secret.clone().into(),
            fd: stream.fd_number(),
            opened: from.opened,
            generation: FOREIGN,
            current: pool.generation_cell(),
            replication: false,
            state: AtomicU8::new(ServerState::Idle as u8),
            requested: AtomicU64::new(from.opened),
            client: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            notifier: AtomicU32::new(0),
            params: Mutex::new(params.clone()),
            text: Mutex::default(),
        });
        pool.member_arrived(&info);
        Box::new(Server {
            stream,
            machine: ServerMachine::new(),
            cutter: Cutter::default(),
            route: Route::Swallow,
            carry: Vec::new(),
            params,
            statements: ServerStatements::of_another_process(),
            settings,
            suspect: Effects::NONE,
            leavings: Leavings::default(),
            pins: Pins::from_bits(from.pins),
            defining: None,
            info,
            home,
            idle_since: 0,
            ended: Ended::default(),
            holder: Holder::default(),
            pool: pool.clone(),
            permit: Some(pool.admit_anyway()),
            reason: "close_needed",
        })
    }
}
