//! What the process has open, and what its memory goes to.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protocol::startup::Replication;

use super::SocketRow;
use crate::client::Session;
use crate::clients::{Arriving, ClientInfo};
use crate::config::Secret;
use crate::lifecycle::Phase;
use crate::net::Peer;
use crate::params::ParamSet;
use crate::peers::Peer as Instance;
use crate::pool::{Db, Pool, User};
use crate::server::{Server, ServerInfo};
use crate::shared::Shared;
use crate::worker::READ_BUFFER;

/// A descriptor.
#[derive(Debug, Clone)]
pub struct FdRow {
    /// Its number.
    pub fd: i32,
    /// `pooler` for a listening socket, `client` or `server`.
    pub task: &'static str,
    /// User, unless it listens.
    pub user: Option<String>,
    /// Client-side database, unless it listens.
    pub database: Option<String>,
    /// The other end, or where it listens.
    pub addr: String,
    /// Its port.
    pub port: u16,
    /// What cancels its query; 0: nothing.
    pub cancel: u64,
    /// Descriptor of the linked socket, or 0.
    pub link: i32,
    /// `DateStyle`, `client_encoding`, `TimeZone` and `standard_conforming_strings`, where they are known.
    pub params: [Option<String>; 4],
}

/// Memory that one kind of object takes, what these point to left out.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRow {
    /// The kind.
    pub name: &'static str,
    /// Bytes each.
    pub size: usize,
    /// How many there are.
    pub used: usize,
    /// Bytes in all.
    pub total: usize,
}

/// A socket that the process listens on.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    pub(crate) fd: i32,
    /// IP, or `unix`.
    pub(crate) addr: String,
    pub(crate) is_tcp: bool,
}

/// Listening sockets, clients, servers. Those of the console are left out, as PgBouncer leaves them.
pub(crate) fn fds(shared: &Shared) -> Vec<FdRow> {
    let listening = shared.listening.get().map_or(&[][..], Vec::as_slice).iter();
    let open = listening.filter(|socket| shared.phase() == Phase::Running || !socket.is_tcp);
    let mut rows: Vec<FdRow> = open
        .map(|socket| FdRow {
            fd: socket.fd,
            task: "pooler",
            user: None,
            database: None,
            addr: socket.addr.clone(),
            port: shared.port(),
            cancel: 0,
            link: 0,
            params: Default::default(),
        })
        .collect();
    let clients = shared.clients.all();
    let servers: Vec<_> = shared.registry.pools().into_iter().flat_map(members).collect();
    let server_fds: HashMap<u64, i32> = servers.iter().map(|(_, server)| (server.id, server.fd)).collect();
    let client_fds: HashMap<u64, i32> = clients.iter().map(|client| (client.id, client.fd)).collect();
    let link = |fds: &HashMap<u64, i32>, id: u64| fds.get(&id).copied().unwrap_or(0);
    rows.extend(clients.iter().map(|client| FdRow {
        link: link(&server_fds, client.server.load(Relaxed)),
        ..client_fd(shared, client)
    }));
    rows.extend(servers.iter().map(|(pool, server)| FdRow {
        link: link(&client_fds, server.client.load(Relaxed)),
        ..server_fd(pool, server)
    }));
    rows
}

fn members(pool: Arc<Pool>) -> Vec<(Arc<Pool>, Arc<ServerInfo>)> {
    let mut members = pool.members();
    members.sort_by_key(|member| member.id);
    members.into_iter().map(|member| (pool.clone(), member)).collect()
}

fn client_fd(shared: &Shared, client: &ClientInfo) -> FdRow {
    FdRow {
        fd: client.fd,
        task: "client",
        user: Some(client.login.name.clone()),
        database: Some(client.pool.db.name.clone()),
        addr: client.remote.host(),
        port: client.remote.port().unwrap_or(shared.port()),
        cancel: key(client.key.pid, &client.key.secret),
        link: 0,
        params: tracked(&client.params()),
    }
}

fn server_fd(pool: &Pool, server: &ServerInfo) -> FdRow {
    FdRow {
        fd: server.fd,
        task: "server",
        user: Some(pool.user.name.clone()),
        database: Some(pool.db.name.clone()),
        addr: server.remote.host(),
        port: server.remote.port().unwrap_or(server.port),
        cancel: key(server.pid, &server.secret),
        link: 0,
        params: tracked(&server.params()),
    }
}

/// A key as one number, if it is as short as it was until protocol 3.2.
fn key(pid: u32, secret: &[u8]) -> u64 {
    secret.try_into().map_or(0, |secret| u64::from(pid) << 32 | u64::from(u32::from_be_bytes(secret)))
}

fn tracked(params: &ParamSet) -> [Option<String>; 4] {
    [0, 1, 2, 3].map(|index| params.values().get(index).map(str::to_owned))
}

/// Clients that have not finished their login.
pub(crate) fn arriving(shared: &Shared) -> Vec<SocketRow> {
    let row = |(id, client): (u64, Arriving)| SocketRow {
        user: "(nouser)".to_owned(),
        database: "(nodb)".to_owned(),
        replication: Replication::Off,
        state: "login",
        remote: client.remote,
        local: client.local,
        tls: "",
        fallback_port: shared.port(),
        connected: shared.clock.wall(client.since),
        requested: shared.clock.wall(client.since),
        wait: 0,
        close_needed: false,
        prepared: 0,
        id,
        link: None,
        remote_pid: client.remote.pid().map_or(0, |pid| pid as u32),
        application_name: None,
        answering: 0,
        input: 0,
        unsent: 0,
    };
    shared.clients.arriving().into_iter().map(row).collect()
}

/// PgBouncer's names where it has the kind.
pub(crate) fn memory(shared: &Shared) -> Vec<MemoryRow> {
    let objects = |name, size: usize, used: usize| MemoryRow { name, size, used, total: size * used };
    let bytes = |name, used: usize, total: usize| MemoryRow {
        name,
        size: total.checked_div(used).unwrap_or(0),
        used,
        total,
    };
    let pools = shared.registry.pools();
    let (statements, texts) =
        pools.iter().map(|pool| pool.texts.usage()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let secrets = shared.config.load().auth.userlist.0.len();
    let server = size_of::<Server>() + size_of::<ServerInfo>();
    let client = size_of::<Session>() + size_of::<ClientInfo>();
    vec![
        objects("user_cache", size_of::<User>(), shared.registry.user_count()),
        objects("credentials_cache", size_of::<(String, Secret)>(), secrets),
        objects("db_cache", size_of::<Db>(), shared.registry.databases().len()),
        objects("peer_cache", size_of::<Instance>(), shared.peers.all().len()),
        objects("pool_cache", size_of::<Pool>(), pools.len()),
        objects("server_cache", server, pools.iter().map(|pool| pool.members().len()).sum()),
        objects("client_cache", client, shared.clients.len()),
        objects("iobuf_cache", READ_BUFFER, shared.worker_count()),
        objects("var_list_cache", size_of::<ParamSet>(), pools.iter().map(|pool| pool.params.count()).sum()),
        bytes("server_prepared_statement_cache", statements, texts),
        bytes(
            "client_buffers",
            shared.clients.all().iter().filter(|c| c.kept.load(Relaxed) > 0).count(),
            shared.buffers.kept(),
        ),
    ]
}

impl Listening {
    pub(crate) fn new(fd: i32, address: Option<Peer>) -> Listening {
        let addr = address.map_or_else(|| "unix".to_owned(), |peer| peer.host());
        Listening { fd, addr, is_tcp: address.is_some() }
    }
}
