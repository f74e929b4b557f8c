//! Settings to the pooler's types. The table has judged every value, so nothing can fail here.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pooler::config::{
    Application, Auth, AuthMethod, AuthQuery, CheckQuery, ClientTls, Config, Database, DnsRules, Hba, Http,
    Limits, Listen, ListenAddr, LogRules, LoginLimits, PeerInstance, PoolMode, PoolSizes, Secret,
    ServerRules, SocketOptions, StartupParams, TimeLimits, Timeouts, UnixListen, User, Userlist,
};

use super::{LogFormat, Program, Syslog};
use crate::routing;
use crate::settings::Values;
use crate::users;

pub(super) fn config(
    settings: &Values,
    (userlist, hba): (Userlist, Hba),
    (databases, fallback): (BTreeMap<String, Arc<Database>>, Option<Arc<Database>>),
    users: HashMap<String, User>,
    applications: Arc<[Application]>,
    peers: BTreeMap<u16, PeerInstance>,
) -> Config {
    Config {
        listen: listen(settings),
        workers: workers(settings.count("workers")),
        peer_id: settings.count("peer_id"),
        peers,
        auth: Auth {
            method: auth_method(settings.text("auth_type")),
            hba,
            userlist,
            admin_users: settings.list("admin_users"),
            stats_users: settings.list("stats_users"),
            scram_iterations: settings.count("scram_iterations"),
            logins: logins(settings),
            query: AuthQuery {
                user: settings.text_if_any("auth_user").map(str::to_owned),
                dbname: settings.text_if_any("auth_dbname").map(str::to_owned),
                sql: settings.text("auth_query").to_owned(),
                cache_ttl: settings.time("auth_query_cache_ttl"),
            },
            ldap: None,
            pam_service: settings.text("auth_pam_service").to_owned(),
        },
        limits: limits(settings),
        dns: DnsRules {
            max_ttl: settings.time("dns_max_ttl"),
            nxdomain_ttl: settings.time("dns_nxdomain_ttl"),
        },
        timeouts: timeouts(settings),
        times: times(settings),
        sizes: PoolSizes {
            size: NonZeroUsize::new(settings.count("default_pool_size")),
            min: settings.count("min_pool_size"),
            reserve: settings.count("reserve_pool_size"),
        },
        pool_mode: users::pool_mode(settings.text("pool_mode")).unwrap_or(PoolMode::Session),
        session_state: users::session_state(settings.text("session_state")).unwrap_or_default(),
        audit_sample: users::share(settings.text("audit_sample")).unwrap_or_default(),
        server: server_rules(settings),
        routing: routing::global(settings),
        probes: routing::probes(settings),
        patroni: routing::patroni(settings.text("patroni")).unwrap_or_default(),
        params: StartupParams {
            ignore: settings.list("ignore_startup_parameters"),
            track_extra: settings.list("track_extra_parameters"),
            application_name_add_host: settings.flag("application_name_add_host"),
            refuse_simple_query: settings.flag("disable_pqexec"),
            login_notice: settings.text_if_any("login_notify_message").map(str::to_owned),
        },
        client_tls: ClientTls::default(), // files are not read here
        server_tls: Arc::default(),
        socket: socket_options(settings),
        log: LogRules {
            connections: settings.flag("log_connections"),
            disconnections: settings.flag("log_disconnections"),
            pooler_errors: settings.flag("log_pooler_errors"),
            stats: settings.flag("log_stats"),
        },
        http: Http {
            listen: settings.list("http_listen"),
            admin_token: settings.text_if_any("http_admin_token").map(Secret::new),
        },
        stats_period: settings.time("stats_period"),
        query_stats: settings.count("query_stats"),
        databases,
        fallback,
        users,
        applications,
    }
}

/// `started_from` is the file named on the command line.
pub(super) fn program(settings: &Values, started_from: &Path) -> Program {
    let path = |name| settings.text_if_any(name).map(PathBuf::from);
    Program {
        conffile: settings.place("conffile").and(path("conffile")).unwrap_or(started_from.into()),
        pidfile: path("pidfile"),
        logfile: path("logfile"),
        syslog: syslog(settings),
        log_format: match settings.text("log_format") {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        user: settings.text_if_any("user").map(str::to_owned),
        verbose: settings.place("verbose").map(|_| settings.count("verbose")),
    }
}

fn syslog(settings: &Values) -> Syslog {
    let facility = match settings.text("syslog_facility") {
        "user" => 1,
        "auth" => 4,
        "cron" => 9,
        "authpriv" => 10,
        "local0" => 16,
        "local1" => 17,
        "local2" => 18,
        "local3" => 19,
        "local4" => 20,
        "local5" => 21,
        "local6" => 22,
        "local7" => 23,
        _ => 3, // daemon
    };
    Syslog { on: settings.flag("syslog"), facility, ident: settings.text("syslog_ident").to_owned() }
}

fn listen(settings: &Values) -> Listen {
    let addr = |word: String| match word.parse() {
        Ok(ip) => ListenAddr::Ip(ip),
        Err(_) if word == "*" => ListenAddr::Any,
        Err(_) => ListenAddr::Name(word),
    };
    Listen {
        addrs: settings.list("listen_addr").into_iter().map(addr).collect(),
        port: settings.count("listen_port"),
        backlog: settings.count("listen_backlog"),
        unix: settings.text_if_any("unix_socket_dir").map(|dir| UnixListen {
            dir: dir.into(),
            mode: settings.count("unix_socket_mode"),
            group: settings.text_if_any("unix_socket_group").map(str::to_owned),
        }),
        reuse_port: settings.flag("so_reuseport"),
        defer_accept: settings.flag("tcp_defer_accept"),
    }
}

/// 0 is one a core.
fn workers(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count)
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

/// The table admits no other method.
fn auth_method(name: &str) -> AuthMethod {
    match name {
        "any" => AuthMethod::Any,
        "trust" => AuthMethod::Trust,
        "plain" => AuthMethod::Plain,
        "scram-sha-256" => AuthMethod::Scram,
        "cert" => AuthMethod::Cert,
        "hba" => AuthMethod::Hba,
        "ldap" => AuthMethod::Ldap,
        "pam" => AuthMethod::Pam,
        _ => AuthMethod::Md5,
    }
}

/// Connections that have not logged in beyond `max_client_conn`, for the console and cancel requests.
const LOGINS_ABOVE: usize = 100;

fn logins(settings: &Values) -> LoginLimits {
    LoginLimits {
        most: match settings.count("max_login_clients") {
            0 => settings.count::<usize>("max_client_conn").saturating_add(LOGINS_ABOVE),
            most => most,
        },
        most_of_address: NonZeroU32::new(settings.count("max_login_clients_per_address")),
        failure_delay: settings.time("auth_failure_delay"),
    }
}

fn limits(settings: &Values) -> Limits {
    let limit = |name| NonZeroUsize::new(settings.count(name));
    Limits {
        max_client_conn: settings.count("max_client_conn"),
        max_db_connections: limit("max_db_connections"),
        max_db_client_connections: limit("max_db_client_connections"),
        max_user_connections: limit("max_user_connections"),
        max_user_client_connections: limit("max_user_client_connections"),
        max_pins_per_pool: limit("max_pins_per_pool"),
        max_waiting_clients: limit("max_waiting_clients"),
        max_connecting: limit("max_connecting"),
        max_packet_size: settings.count("max_packet_size"),
        client_buffer: limit("client_buffer_limit"),
        buffers: limit("buffer_limit"),
    }
}

fn timeouts(settings: &Values) -> Timeouts {
    Timeouts {
        query_wait: settings.time_limit("query_wait_timeout"),
        query_wait_notify: settings.time_limit("query_wait_notify"),
        client_login: settings.time_limit("client_login_timeout"),
        server_connect: settings.time_limit("server_connect_timeout"),
        server_login_retry: settings.time("server_login_retry"),
        reserve_pool: settings.time_limit("reserve_pool_timeout"),
        client_idle: settings.time_limit("client_idle_timeout"),
        statement_grace: settings.time("statement_timeout_grace"),
        cancel_wait: settings.time_limit("cancel_wait_timeout"),
        drain: settings.time_limit("drain_timeout"),
        drain_grace: settings.time("drain_grace"),
        autodb_idle: settings.time_limit("autodb_idle_timeout"),
        pool_idle: settings.time_limit("pool_idle_timeout"),
        suspend: settings.time_limit("suspend_timeout"),
    }
}

fn times(settings: &Values) -> TimeLimits {
    TimeLimits {
        query: settings.time_limit("query_timeout"),
        statement: settings.time_limit("statement_timeout"),
        request: settings.time_limit("request_timeout"),
        transaction: settings.time_limit("transaction_timeout"),
        idle_transaction: settings.time_limit("idle_transaction_timeout"),
        on_timeout: crate::limits::on_timeout(settings.text("on_timeout")).unwrap_or_default(),
    }
}

fn server_rules(settings: &Values) -> ServerRules {
    ServerRules {
        reset_query: settings.text("server_reset_query").to_owned(),
        reset_query_always: settings.flag("server_reset_query_always"),
        client_gone_cancel: settings.flag("client_gone_cancel"),
        max_prepared_statements: settings.count("max_prepared_statements"),
        check_query: match settings.text("server_check_query") {
            "" => CheckQuery::Off,
            "<empty>" => CheckQuery::Empty,
            sql => CheckQuery::Sql(sql.to_owned()),
        },
        check_delay: settings.time("server_check_delay"),
        round_robin: settings.flag("server_round_robin"),
        lifetime: settings.time("server_lifetime"),
        idle_timeout: settings.time_limit("server_idle_timeout"),
        fast_close: settings.flag("server_fast_close"),
        channel_binding: crate::databases::channel_binding(settings.text("server_channel_binding"))
            .unwrap_or_default(),
    }
}

fn socket_options(settings: &Values) -> SocketOptions {
    let option = |name| NonZeroU32::new(settings.count(name)).map(NonZeroU32::get);
    SocketOptions {
        keepalive: settings.flag("tcp_keepalive"),
        keepcnt: option("tcp_keepcnt"),
        keepidle: option("tcp_keepidle"),
        keepintvl: option("tcp_keepintvl"),
        buffer: option("tcp_socket_buffer"),
        user_timeout: option("tcp_user_timeout"),
    }
}
