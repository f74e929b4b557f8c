use super::{Applies, Kind, Setting, Status, Unit};
use crate::routing;

/// Every setting of `[pgbouncer]`: PgBouncer's, in the order of its `SHOW CONFIG`, then this program's own.
pub const SETTINGS: &[Setting] = &[
    list("admin_users", "", "Users with full rights on the console."),
    flag("application_name_add_host", "0", "Append the client's address to its `application_name` at login."),
    text("auth_dbname", "Database in which `auth_query` runs, by the name clients use; without it, the client's own.")
        .unset(),
    text("auth_file", "File with users and their secrets; see [auth_file](#auth_file).").unset(),
    text(
        "auth_hba_file",
        "File with rules that choose the authentication method, with `auth_type = hba`; see [authentication](authentication.md).",
    ),
    text("auth_ident_file", "File that maps names of certificates and system users to users, for rules with `map=`.").unset(),
    row(
        "auth_ldap_options",
        Kind::Secret,
        "",
        "How to reach the LDAP server of `auth_type = ldap`; see [authentication](authentication.md#ldap).",
    )
    .unset(),
    text(
        "auth_query",
        "Query that `auth_user` runs for the secret of a user who is not in `auth_file`: two columns, name and secret, \
         for the name in `$1`. The name that it returns is the user of the session. Without a row there is no such user; \
         with NULL as its secret a user can't log in by password.",
    )
    .default(
        "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
         FROM pg_authid WHERE rolname=$1 AND rolcanlogin",
    ),
    choice(
        "auth_type",
        "md5",
        &["any", "trust", "plain", "md5", "cert", "hba", "ldap", "pam", "scram-sha-256"],
        "How clients prove who they are; with `md5`, users who have a SCRAM secret are asked for SCRAM.",
    ),
    text("auth_user", "User who runs `auth_query` for users not in `auth_file`.").unset(),
    seconds(
        "autodb_idle_timeout",
        "3600",
        "A database that came from `*` is forgotten after this long without use; 0: never.",
    ),
    seconds("cancel_wait_timeout", "10", "How long a cancel request may take to reach its server; 0: 60 s."),
    seconds(
        "client_idle_timeout",
        "0",
        "Disconnect clients that are idle without a server connection this long; 0: never.",
    ),
    seconds("client_login_timeout", "60", "Time for a client to log in; 0: no limit."),
    list("client_tls13_ciphers", "", "TLS 1.3 cipher suites towards clients; unset: all.").unset(),
    text("client_tls_ca_file", "Authorities that sign clients' certificates (PEM)."),
    text("client_tls_cert_file", "Certificate shown to clients."),
    text("client_tls_ciphers", "Ciphers up to TLS 1.2 towards clients.")
        .default("default")
        ,
    choice(
        "client_tls_dheparams",
        "auto",
        &["none", "auto", "legacy"],
        "Accepted for PgBouncer's sake: keys are exchanged by elliptic curves only.",
    ),
    text("client_tls_ecdhcurve", "Elliptic curves towards clients: `auto`, `X25519`, `prime256v1`, `secp384r1`.").default("auto"),
    text("client_tls_key_file", "Private key of `client_tls_cert_file`."),
    list("client_tls_protocols", "secure", "TLS versions towards clients: `tlsv1.2`, `tlsv1.3`, or `secure` for both."),
    choice("client_tls_sslmode", "disable", SSL_MODES, "Whether clients over TCP may or must use TLS; see [TLS](tls.md)."),
    text("conffile", "File that the next reload reads; unless set, the one named on the command line.")
        .unset(),
    connections(
        "default_pool_size",
        "20",
        "Server connections of a pool, that is of one database and one user; 0: no limit.",
    ),
    flag(
        "disable_pqexec",
        "0",
        "Refuse simple queries, so that no query string can hold several statements.",
    )
    .at_start(),
    seconds("dns_max_ttl", "15", "How long the addresses of a server's name are kept; several take turns."),
    seconds("dns_nxdomain_ttl", "15", "How long a failed look-up of a server's name is kept."),
    seconds("dns_zone_check_period", "0", "How often zones are checked for changes; 0: never.").harmless(DNS),
    seconds(
        "idle_transaction_timeout",
        "0",
        "Disconnect clients that do nothing in a transaction this long; 0: never.",
    ),
    list(
        "ignore_startup_parameters",
        "",
        "Start-up parameters dropped in silence; `options` drops unknown settings inside `options`.",
    ),
    text("job_name", "Name of the Windows service.")
        .default("pgbouncer")
        .at_start()
        .harmless("there is no Windows service"),
    list("listen_addr", "", "TCP addresses to listen on; `*`: all; empty: none.").at_start(),
    int("listen_backlog", "128", "Connections the kernel queues before they are accepted.").at_start(),
    int("listen_port", "6432", "TCP port, and the number in the Unix socket's name.")
        .range(0, 65535)
        .at_start(),
    flag("log_connections", "1", "Log logins and new server connections."),
    flag("log_disconnections", "1", "Log why connections are closed."),
    flag("log_pooler_errors", "1", "Log errors that the pooler itself sends to clients."),
    flag("log_stats", "1", "Log a line of statistics every `stats_period`."),
    text("logfile", "File that the log is appended to, besides standard error."),
    text("login_notify_message", "Notice sent to every client that logs in, the console's included."),
    connections("max_client_conn", "100", "Client connections in all."),
    connections("max_db_client_connections", "0", "Client connections a database; 0: no limit."),
    connections("max_db_connections", "0", "Server connections a database, over all its pools; 0: no limit."),
    int("max_packet_size", "2147483647", "Largest message either side may send.")
        .unit(Unit::Bytes)
        .range(1, MAX),
    int(
        "max_prepared_statements",
        "200",
        "Prepared statements kept on a server connection in transaction mode; 0: none.",
    ),
    connections("max_user_client_connections", "0", "Client connections a login user; 0: no limit."),
    connections(
        "max_user_connections",
        "0",
        "Server connections a server-side user, over all pools; 0: no limit.",
    ),
    connections(
        "min_pool_size",
        "0",
        "Server connections a pool keeps open while it has clients or a forced user; 0: none.",
    ),
    int(
        "peer_id",
        "0",
        "This process's number among peers that pass cancel requests on (`[peers]`); 0: alone.",
    )
    .range(0, 65535),
    text("pidfile", "File that holds the process id while the program runs.").at_start(),
    int("pkt_buf", "4096", "Size of a connection's buffer.")
        .unit(Unit::Bytes)
        .at_start()
        .harmless("connections own no buffer of a fixed size"),
    choice("pool_mode", "session", POOL_MODES, "When a server connection goes back to its pool."),
    seconds(
        "pool_idle_timeout",
        "0",
        "Forget a pool, and its statistics, after this long without a connection on either side; 0: never. One with a \
         forced user and a `min_pool_size` stays.",
    ),
    seconds(
        "query_timeout",
        "0",
        "Disconnect clients whose query, or wait for a server connection, takes this long; 0: never.",
    ),
    int(
        "query_wait_notify",
        "5",
        "A client that waits for a server this long is told by a notice; 0: never.",
    )
    .unit(Unit::Seconds),
    seconds("query_wait_timeout", "120", "Time a client may wait for a server connection; 0: no limit."),
    connections(
        "reserve_pool_size",
        "0",
        "Server connections a pool may open above its size once clients have waited; 0: none.",
    ),
    seconds(
        "reserve_pool_timeout",
        "5",
        "How long the first client waits before the reserve is used; 0: the reserve is off.",
    ),
    text("resolv_conf", "Another file in place of `/etc/resolv.conf`, which the system's resolver cannot be told.")
        .at_start()
        .only(&[""]),
    int("sbuf_loopcnt", "5", "Reads a connection gets before others have their turn; 0: no limit.")
        .harmless("every connection gets one read a turn"),
    int(
        "scram_iterations",
        "4096",
        "Hash rounds of SCRAM verifiers made here, from plain secrets and for unknown users.",
    )
    .range(1, MAX),
    seconds(
        "server_check_delay",
        "30",
        "A server connection idle for longer is checked before use; 0: always checked.",
    ),
    text("server_check_query", "The check; `<empty>` is the empty query, the cheapest; empty: no check.")
        .default("<empty>"),
    seconds("server_connect_timeout", "15", "Time to connect and log in to a server; 0: no limit."),
    flag(
        "server_fast_close",
        "0",
        "When servers are to be closed (their database's configuration changed, or `RECONNECT`), disconnect clients of \
         session mode that have one, outside their transactions.",
    ),
    seconds("server_idle_timeout", "600", "Close server connections idle this long; 0: never."),
    seconds(
        "server_lifetime",
        "3600",
        "Close server connections of this age when nobody uses them; 0: after one use.",
    ),
    seconds(
        "server_login_retry",
        "15",
        "Pause after a server refused or could not be reached, and up to a tenth more.",
    ),
    text(
        "server_reset_query",
        "Run when a client of session mode leaves its server connection; empty: no reset.",
    )
    .default("DISCARD ALL"),
    flag("server_reset_query_always", "0", "Run `server_reset_query` in every pool mode."),
    flag(
        "server_round_robin",
        "0",
        "Use the server connection that was idle longest, not the one used last.",
    ),
    list("server_tls13_ciphers", "", "TLS 1.3 cipher suites towards servers; unset: all.").unset(),
    text(
        "server_tls_ca_file",
        "Authorities that sign servers' certificates (PEM); with `require` and more these are verified.",
    ),
    text("server_tls_cert_file", "Certificate shown to servers that ask for one."),
    text("server_tls_ciphers", "Ciphers up to TLS 1.2 towards servers.")
        .default("default")
        ,
    text("server_tls_key_file", "Private key of `server_tls_cert_file`."),
    list("server_tls_protocols", "secure", "TLS versions towards servers: `tlsv1.2`, `tlsv1.3`, or `secure` for both."),
    choice(
        "server_tls_sslmode",
        "prefer",
        SSL_MODES,
        "Whether servers over TCP may or must use TLS; `prefer` goes on without. See [TLS](tls.md).",
    ),
    flag("so_reuseport", "0", "Let several processes listen on the same TCP port.").at_start(),
    int("stats_period", "60", "Period of averages and of the log's line of statistics.")
        .unit(Unit::Seconds)
        .range(1, MAX),
    list("stats_users", "", "Users with read-only rights on the console."),
    seconds("suspend_timeout", "10", "How long `SUSPEND` waits for buffers to empty; 0: for ever."),
    flag("syslog", "0", "Log to syslog, too."),
    choice("syslog_facility", "daemon", FACILITIES, "Facility of syslog."),
    text("syslog_ident", "Tag of lines in syslog.").default("pgbouncer"),
    flag(
        "tcp_defer_accept",
        "1",
        "Let the kernel hand over a connection only when its first bytes are there.",
    )
    .at_start_quietly(),
    flag("tcp_keepalive", "1", "Probe idle TCP connections."),
    int(
        "tcp_keepcnt",
        "0",
        "Probes without an answer before a connection is dropped; 0: the system's setting.",
    ),
    int("tcp_keepidle", "0", "Idle time before the first probe; 0: the system's setting.")
        .unit(Unit::Seconds),
    int("tcp_keepintvl", "0", "Time between probes; 0: the system's setting.").unit(Unit::Seconds),
    int("tcp_socket_buffer", "0", "The kernel's buffers of a TCP connection; 0: the system's setting.")
        .unit(Unit::Bytes),
    int("tcp_user_timeout", "0", "How long sent bytes may stay unacknowledged; 0: the system's setting.")
        .unit(Unit::Milliseconds),
    list(
        "track_extra_parameters",
        "IntervalStyle",
        "Parameters, of those that servers report, kept for each client beside the usual five.",
    )
    .at_start(),
    seconds("transaction_timeout", "0", "Disconnect clients whose transaction takes this long; 0: never."),
    text(
        "unix_socket_dir",
        "Directory of the Unix socket, and of servers without `host`; `@name`: abstract; empty: none.",
    )
    .default("/tmp")
    .at_start(),
    text("unix_socket_group", "Group of the Unix socket's file, name or number.").at_start(),
    mode("unix_socket_mode", "0777", "Permissions of the Unix socket's file.").at_start(),
    text("user", "Unix user to become after start.").unset().at_start(),
    int(
        "verbose",
        "",
        "Detail in the log: 1 debug, 2 and more everything. Unset: what `-v` says; taken out of the file, the last value \
         stays until the next start.",
    )
    .unset(),
    row(
        "audit_sample",
        Kind::Percent,
        "0.1",
        "How many of the transactions that look harmless are followed by a look at the session all the same; below one \
         percent no more than ten a second for each worker. What that finds is logged as a warning with the statements. \
         Not a setting of PgBouncer.",
    ),
    seconds(
        "auth_failure_delay",
        "0.1",
        "How long the answer to an address's second failed login in a row waits; it doubles with every further one, up to 5 \
         s, and one failure is forgiven every 10 s. 0: no answer waits. A right password never does. Not a setting of \
         PgBouncer.",
    ),
    text(
        "auth_pam_service",
        "As which service PAM is asked: the name of a file in `/etc/pam.d`. Not a setting of PgBouncer.",
    )
    .default("pgbouncer"),
    seconds(
        "auth_query_cache_ttl",
        "0",
        "How long an answer of `auth_query` counts for further logins, with a fraction if need be; that there is no such \
         user, or no secret, a quarter of it. So long a password that was replaced or has run out may be taken. 0: every \
         login asks. A password that does not fit what is kept is compared with a new answer before it is refused. Not a \
         setting of PgBouncer.",
    ),
    text("availability_zone",
        "Where this pooler runs; reads go to replicas of the same zone (`@ZONE` in `replicas`) as long as there are any. Not a setting of PgBouncer.",
    ),
    int(
        "buffer_limit",
        "1073741824",
        "What may be kept for all clients: prepared statements, notifications, parts of messages, replies that are not \
         taken; 0: no limit. Beyond it clients for whom much is kept are not read, and those for whom most is are \
         disconnected. Not a setting of PgBouncer.",
    )
    .unit(Unit::Bytes)
    .range(0, MAX),
    int(
        "client_buffer_limit",
        "67108864",
        "What may be kept for one client of its prepared statements, and of notifications that it does not take; 0: no \
         limit. With more it is disconnected. Not a setting of PgBouncer.",
    )
    .unit(Unit::Bytes)
    .range(0, MAX),
    flag(
        "client_gone_cancel",
        "1",
        "Cancel what the server does for a client that has left; 0: let it finish, as PostgreSQL would, for no longer than \
         `statement_timeout`. A transaction left open is rolled back in any case. Not a setting of PgBouncer.",
    ),
    flag(
        "commit_certainty",
        "0",
        "When the primary is lost while it commits, the next one is asked (`txid_status`) what became of the \
         transaction, so that the client learns it instead of `40003`, where that can be known. It costs a query, but \
         no round trip, in every transaction that may write. Not a setting of PgBouncer.",
    ),
    seconds(
        "drain_grace",
        "0",
        "With `drain_timeout`: how long clients go on as before when the process was told to end; behind that each is \
         disconnected (`57P01`) as soon as it is outside a transaction. Not a setting of PgBouncer.",
    ),
    seconds(
        "drain_timeout",
        "0",
        "When the process was told to wait for its clients (SIGTERM, `SHUTDOWN WAIT_FOR_CLIENTS`), they are disconnected \
         with `57P01`: outside a transaction at once, and all when this time is over; 0: they are waited for without a \
         limit. Not a setting of PgBouncer.",
    ),
    row(
        "http_admin_token",
        Kind::Secret,
        "",
        "Who sends it (`Authorization: Bearer TOKEN`) may give orders over HTTP; empty: nobody may. Not shown on the \
         console. Not a setting of PgBouncer.",
    ),
    list(
        "http_listen",
        "",
        "Where metrics, health checks and the dashboard are served over HTTP, such as `127.0.0.1:9127`; `*:9127`: on all \
         addresses; empty: nowhere. See [METRICS](METRICS.md). Not a setting of PgBouncer.",
    ),
    choice(
        "log_format",
        "text",
        &["text", "json"],
        "Lines as PgBouncer writes them, or an object a line with `time`, `level`, `pid`, `message` and, where they are \
         known, `client` or `server`, `database`, `user` and `addr`. Syslog always gets text. Not a setting of PgBouncer.",
    ),
    connections(
        "max_connecting",
        "16",
        "Server connections that may be opening at the same time to one host, for all pools together; 0: no limit. Where \
         the last attempt has not reached the host it is one. Not a setting of PgBouncer.",
    ),
    connections(
        "max_login_clients",
        "0",
        "Connections that have not logged in yet, in all; 0: `max_client_conn` and a hundred more. Beyond it they are \
         refused (`53300`) unheard. Not a setting of PgBouncer.",
    ),
    connections(
        "max_login_clients_per_address",
        "0",
        "Connections from one address that have not logged in yet; 0: no limit, but after several failed logins there are \
         16. Not a setting of PgBouncer.",
    ),
    connections(
        "max_pins_per_pool",
        "0",
        "Clients of a pool that may keep their server connection for what they have in its session (`SHOW PINS`); 0: no \
         limit. One more is disconnected behind its transaction. Not a setting of PgBouncer.",
    ),
    seconds(
        "max_replica_lag",
        "0",
        "Replicas that are further behind the primary get no reads, whatever `read_consistency` says; 0: how far they \
         are behind does not matter. Not a setting of PgBouncer.",
    ),
    connections(
        "max_waiting_clients",
        "0",
        "Clients of a pool that may wait for a server connection while none can be opened for them; 0: no limit. The \
         request of one more is refused (`53300`), and its client keeps its connection. In a pause all may wait. Not a \
         setting of PgBouncer.",
    ),
    choice(
        "on_timeout",
        "disconnect",
        &["disconnect", "terminate", "error"],
        "What `transaction_timeout` and `idle_transaction_timeout` do to a client: it is disconnected as by PgBouncer, or \
         as by PostgreSQL's own limits (`25P04`, `25P03`), or its transaction is rolled back and its next request gets an \
         error of that code. Not a setting of PgBouncer.",
    ),
    list(
        "patroni",
        "",
        "Addresses of Patroni's REST interface, `http://HOST:PORT`, of which the first that answers is asked at \
         `probe_interval` who leads. While it names a leader that runs, no other host of the cluster is written to. Not a \
         setting of PgBouncer.",
    ),
    row(
        "primary_read_share",
        Kind::Percent,
        "100",
        "The part of a pool's connections to the primary that reads may have for which there is no replica, so that \
         they leave the rest to what only the primary can do. Not a setting of PgBouncer.",
    ),
    seconds(
        "probe_interval",
        "1",
        "The longest time between two looks at a host that belongs to others (`replicas`), from 10ms to 60s; while \
         something depends on it, it is looked at more often. Not a setting of PgBouncer.",
    ),
    seconds(
        "probe_timeout",
        "1",
        "Time for such a look, from 10ms to 60s; a host that does not answer in it has failed it. Not a setting of \
         PgBouncer.",
    ),
    text("probe_user",
        "As which user hosts are looked at; empty: one whose pool there is. Not a setting of PgBouncer.",
    ),
    int(
        "query_stats",
        "500",
        "Statements of each pool that `SHOW QUERIES` knows, those that hold servers longest; each takes up to 600 bytes for \
         every worker. 0: they are not counted. Not a setting of PgBouncer.",
    ),
    choice(
        "read_consistency",
        "session",
        routing::CONSISTENCIES,
        "What a read on a replica sees: all that its client has committed itself (`session`), what the replica has \
         (`eventual`), or all that anybody has committed before the read (`strong`). See [replicas](replicas.md). Not \
         a setting of PgBouncer.",
    ),
    seconds(
        "read_consistency_wait",
        "0",
        "How long a read waits for a replica that has what it must see, before it goes to the primary; 0: it goes \
         there at once. Not a setting of PgBouncer.",
    ),
    list(
        "read_functions",
        "",
        "Functions that only read, such as `total` or `shop.total`: statements that call them may go to a replica. \
         Not a setting of PgBouncer.",
    ),
    choice(
        "read_routing",
        "off",
        routing::READS,
        "Who sends reads to replicas: nobody (`off`); clients that ask for it (`explicit`), by `pgferry.route` or a \
         `READ ONLY` transaction; or the pooler as well, wherever it is certain that a statement only reads (`auto`). \
         See [replicas](replicas.md). Not a setting of PgBouncer.",
    ),
    choice(
        "replica_fallback",
        "primary",
        routing::FALLBACKS,
        "What becomes of a read for which there is no replica: the primary runs it (`primary`), or it waits for a \
         replica as for any server (`error`). Not a setting of PgBouncer.",
    ),
    seconds(
        "request_timeout",
        "0",
        "Time for a request: waiting for a server connection, connecting, and running together; 0: no limit. One that \
         waits too long is refused and not sent, one that runs is cancelled (`57014`). Clients set their own with `SET \
         pgferry.deadline = '800ms'` or `/*deadline=800ms*/` at the head of a statement; the stricter holds. Not a setting \
         of PgBouncer.",
    ),
    choice(
        "route",
        "auto",
        routing::ROUTES,
        "Where requests of clients go that do not say so themselves (`pgferry.route`): as `read_routing` says (`auto`, `any`), \
         to the primary (`primary`, `read-write`), to a replica and nowhere else (`replica`, `standby`, `read-only`), or to \
         one if there is any (`prefer-standby`, `prefer-replica`). Not a setting of PgBouncer.",
    ),
    choice(
        "server_channel_binding",
        "prefer",
        &["disable", "prefer", "require"],
        "Whether SCRAM logins to servers are bound to the certificate that the server has shown, so that nobody in between \
         can pass them on: `prefer` where both sides can; `require`: a server that logs in the pooler in any other way is \
         not believed. Not a setting of PgBouncer.",
    ),
    choice(
        "server_tls_negotiation",
        "postgres",
        &["postgres", "direct"],
        "How TLS to a server begins: by PostgreSQL's request for it, or at once (`direct`, PostgreSQL 17 and later, with \
         `server_tls_sslmode = require` or more). Not a setting of PgBouncer.",
    ),
    choice(
        "session_state",
        "preserve",
        &["preserve", "discard"],
        "Whether settings and all else a session has follow a client between transactions. Not a setting of PgBouncer.",
    ),
    seconds(
        "statement_timeout",
        "0",
        "Cancel a statement that a server works on this long; 0: never. Time in which the client does not take the \
         answer, or does nothing in a transaction, does not count. Not a setting of PgBouncer.",
    ),
    seconds(
        "statement_timeout_grace",
        "5",
        "How long a server may take to end a statement that was cancelled by `statement_timeout`, before its connection \
         and the client's are closed. Not a setting of PgBouncer.",
    ),
    int("workers", "0", "Threads that carry connections; 0: one a core. Not a setting of PgBouncer.")
        .range(0, 1024)
        .at_start(),
];

const MAX: i64 = i32::MAX as i64;
const POOL_MODES: &[&str] = &["session", "transaction", "statement"];
const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

const DNS: &str =
    "the system's resolver is asked, which shows no zones; `dns_max_ttl` is how long a change may go unseen";
const FACILITIES: &[&str] = &[
    "auth", "authpriv", "cron", "daemon", "user", "local0", "local1", "local2", "local3", "local4", "local5",
    "local6", "local7",
];

const fn row(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { name, kind, default: Some(default), applies: Applies::Reload, status: Status::Active, help }
}

const fn flag(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    row(name, Kind::Bool, default, help)
}

const fn int(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    row(name, Kind::Int { unit: Unit::None, min: 0, max: MAX }, default, help)
}

const fn connections(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    int(name, default, help).unit(Unit::Connections)
}

const fn mode(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    row(name, Kind::Mode, default, help)
}

const fn seconds(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    row(name, Kind::Seconds, default, help)
}

const fn list(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    row(name, Kind::List, default, help)
}

/// Empty unless a default follows.
const fn text(name: &'static str, help: &'static str) -> Setting {
    row(name, Kind::Text, "", help)
}

const fn choice(
    name: &'static str,
    default: &'static str,
    words: &'static [&'static str],
    help: &'static str,
) -> Setting {
    row(name, Kind::Choice(words), default, help)
}

impl Setting {
    const fn default(self, default: &'static str) -> Setting {
        Setting { default: Some(default), ..self }
    }

    /// No default: NULL in PgBouncer.
    const fn unset(self) -> Setting {
        Setting { default: None, ..self }
    }

    const fn unit(self, unit: Unit) -> Setting {
        match self.kind {
            Kind::Int { min, max, .. } => Setting { kind: Kind::Int { unit, min, max }, ..self },
            _ => self,
        }
    }

    const fn range(self, min: i64, max: i64) -> Setting {
        match self.kind {
            Kind::Int { unit, .. } => Setting { kind: Kind::Int { unit, min, max }, ..self },
            _ => self,
        }
    }

    const fn at_start(self) -> Setting {
        Setting { applies: Applies::Start, ..self }
    }

    const fn at_start_quietly(self) -> Setting {
        Setting { applies: Applies::StartQuietly, ..self }
    }

    const fn harmless(self, why: &'static str) -> Setting {
        Setting { status: Status::Harmless(why), ..self }
    }

    const fn only(self, values: &'static [&'static str]) -> Setting {
        Setting { status: Status::Only(values), ..self }
    }
}
