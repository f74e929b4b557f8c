//! Connections: clients, servers, and who keeps a server.

use super::*;

/// One connection, client or server.
#[derive(Debug, Clone)]
pub struct SocketRow {
    /// User.
    pub user: String,
    /// Client-side database.
    pub database: String,
    /// Replication mode of a client, or of the client a server is for.
    pub replication: Replication,
    /// State, in the console's terms.
    pub state: &'static str,
    /// The other end.
    pub remote: Peer,
    /// This end.
    pub local: Peer,
    /// TLS version and cipher suite; empty without.
    pub tls: &'static str,
    /// Port shown where the socket has none of its own (Unix).
    pub fallback_port: u16,
    /// When it connected.
    pub connected: SystemTime,
    /// When the last request came or went.
    pub requested: SystemTime,
    /// Microseconds since the query or the wait began; 0 without one.
    pub wait: u64,
    /// Closed as soon as it is free.
    pub close_needed: bool,
    /// Prepared statements: those that a client knows by name, those that a server keeps.
    pub prepared: u32,
    /// Number of the socket.
    pub id: u64,
    /// Number of the linked socket.
    pub link: Option<u64>,
    /// Backend process id, or that of a Unix peer.
    pub remote_pid: u32,
    /// Tracked `application_name`.
    pub application_name: Option<String>,
    /// Bytes of the message that the console is answering.
    pub answering: usize,
    /// Bytes that were read from it and could not be dealt with yet.
    pub input: usize,
    /// Bytes for it that it has not taken yet.
    pub unsent: usize,
}

/// A client that keeps its server between transactions.
#[derive(Debug, Clone)]
pub struct PinRow {
    /// Login user.
    pub user: String,
    /// Client-side database.
    pub database: String,
    /// Tracked `application_name`.
    pub application_name: Option<String>,
    /// Where the client is.
    pub remote: Peer,
    /// Port shown where the socket has none of its own (Unix).
    pub fallback_port: u16,
    /// Number of the client's socket.
    pub client: u64,
    /// Number of the server's socket.
    pub server: u64,
    /// Backend process id.
    pub server_pid: u32,
    /// What it keeps it for, separated by commas.
    pub reasons: String,
    /// The statement that began it, without its literals.
    pub statement: String,
    /// How long it has kept it, in microseconds.
    pub age: u64,
}

pub(crate) fn clients(shared: &Shared) -> Vec<SocketRow> {
    let clients = shared.clients.all();
    let consoles = shared.consoles.all();
    let mut rows: Vec<_> = clients.iter().map(|c| client_row(shared, c)).collect();
    rows.extend(consoles.into_iter().map(|c| console_client(shared, c)));
    rows.sort_by_key(|row| row.id);
    rows
}

fn console_client(shared: &Shared, client: ConsoleInfo) -> SocketRow {
    SocketRow {
        user: client.user,
        database: console::NAME.to_owned(),
        replication: Replication::Off,
        state: "idle",
        remote: client.remote,
        local: client.local,
        tls: client.tls,
        fallback_port: shared.port(),
        connected: shared.clock.wall(client.connected),
        requested: shared.clock.wall(client.requested),
        wait: 0,
        close_needed: false,
        prepared: 0,
        id: client.id,
        link: None,
        remote_pid: client.remote.pid().map_or(0, |pid| pid as u32),
        application_name: client.application_name,
        answering: client.busy,
        input: 0,
        unsent: 0,
    }
}

fn client_row(shared: &Shared, client: &ClientInfo) -> SocketRow {
    let since = client.since.load(Relaxed);
    SocketRow {
        user: client.login.name.clone(),
        database: client.pool.db.name.clone(),
        replication: client.replication,
        state: match client.state() {
            ClientState::Idle => "idle",
            ClientState::Active => "active",
            ClientState::Waiting => "waiting",
        },
        remote: client.remote,
        local: client.local,
        tls: client.tls,
        fallback_port: shared.port(),
        connected: shared.clock.wall(client.connected),
        requested: shared.clock.wall(client.requested.load(Relaxed)),
        wait: if since == 0 { 0 } else { shared.clock.micros().saturating_sub(since) },
        close_needed: false,
        prepared: client.prepared.load(Relaxed),
        id: client.id,
        link: Some(client.server.load(Relaxed)).filter(|id| *id != 0),
        remote_pid: client.remote.pid().map_or(0, |pid| pid as u32),
        application_name: client.params().application_name().map(str::to_owned),
        answering: 0,
        input: client.input.load(Relaxed),
        unsent: client.unsent.load(Relaxed),
    }
}

pub(crate) fn servers(shared: &Shared) -> Vec<SocketRow> {
    let clients = shared.clients.all();
    let replicating: HashMap<u64, Replication> =
        clients.iter().filter(|c| c.replication != Replication::Off).map(|c| (c.id, c.replication)).collect();
    let mut rows = Vec::new();
    for pool in shared.registry.pools() {
        let mut members = pool.members();
        members.sort_by_key(|m| (m.state(), m.id));
        rows.extend(members.iter().map(|m| SocketRow {
            replication: replicating.get(&m.client.load(Relaxed)).copied().unwrap_or(Replication::Off),
            ..server_row(shared, &pool, m)
        }));
    }
    rows
}

fn server_row(shared: &Shared, pool: &Pool, server: &ServerInfo) -> SocketRow {
    SocketRow {
        user: pool.user.name.clone(),
        database: pool.db.name.clone(),
        replication: Replication::Off,
        state: match server.state() {
            ServerState::Active => "active",
            ServerState::Idle => "idle",
            ServerState::Used => "used",
            ServerState::Tested => "tested",
            ServerState::BeingCanceled => "being_canceled",
            ServerState::Listening => "listening",
        },
        remote: server.remote,
        local: server.local,
        tls: server.tls,
        fallback_port: server.port,
        connected: shared.clock.wall(server.opened),
        requested: shared.clock.wall(server.requested.load(Relaxed).max(server.opened)),
        wait: 0,
        close_needed: server.is_outdated(),
        prepared: server.prepared.load(Relaxed),
        id: server.id,
        link: Some(server.client.load(Relaxed)).filter(|id| *id != 0),
        remote_pid: server.pid,
        application_name: server.params().application_name().map(str::to_owned),
        answering: 0,
        input: 0,
        unsent: 0,
    }
}

/// Every client that keeps its server, by number.
pub(crate) fn pins(shared: &Shared) -> Vec<PinRow> {
    let now = shared.clock.micros();
    let row = |client: Arc<ClientInfo>| {
        let pin = client.pin();
        let pin = pin.as_ref()?;
        let server = client.server.load(Relaxed);
        Some(PinRow {
            user: client.login.name.clone(),
            database: client.pool.db.name.clone(),
            application_name: client.params().application_name().map(str::to_owned),
            remote: client.remote,
            fallback_port: shared.port(),
            client: client.id,
            server,
            server_pid: client.pool.member(server).map_or(0, |server| server.pid),
            reasons: pin.reasons.reasons(),
            statement: pin.statement.clone(),
            age: now.saturating_sub(pin.since),
        })
    };
    shared.clients.all().into_iter().filter_map(row).collect()
}
