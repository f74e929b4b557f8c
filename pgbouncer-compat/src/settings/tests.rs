use super::*;
use proptest::prelude::*;

const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
     FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// PgBouncer's settings in the order of its `SHOW CONFIG`: name, default, changeable, and the type with its unit.
const PGBOUNCER: &[(&str, Option<&str>, bool, &str)] = &[
    ("admin_users", Some(""), true, "list"),
    ("application_name_add_host", Some("0"), true, "bool"),
    ("auth_dbname", None, true, "text"),
    ("auth_file", None, true, "text"),
    ("auth_hba_file", Some(""), true, "text"),
    ("auth_ident_file", None, true, "text"),
    ("auth_ldap_options", None, true, "text"),
    ("auth_query", Some(AUTH_QUERY), true, "text"),
    ("auth_type", Some("md5"), true, "enum"),
    ("auth_user", None, true, "text"),
    ("autodb_idle_timeout", Some("3600"), true, "seconds"),
    ("cancel_wait_timeout", Some("10"), true, "seconds"),
    ("client_idle_timeout", Some("0"), true, "seconds"),
    ("client_login_timeout", Some("60"), true, "seconds"),
    ("client_tls13_ciphers", None, true, "list"),
    ("client_tls_ca_file", Some(""), true, "text"),
    ("client_tls_cert_file", Some(""), true, "text"),
    ("client_tls_ciphers", Some("default"), true, "text"),
    ("client_tls_dheparams", Some("auto"), true, "enum"),
    ("client_tls_ecdhcurve", Some("auto"), true, "text"),
    ("client_tls_key_file", Some(""), true, "text"),
    ("client_tls_protocols", Some("secure"), true, "list"),
    ("client_tls_sslmode", Some("disable"), true, "enum"),
    ("conffile", None, true, "text"),
    ("default_pool_size", Some("20"), true, "int connections"),
    ("disable_pqexec", Some("0"), false, "bool"),
    ("dns_max_ttl", Some("15"), true, "seconds"),
    ("dns_nxdomain_ttl", Some("15"), true, "seconds"),
    ("dns_zone_check_period", Some("0"), true, "seconds"),
    ("idle_transaction_timeout", Some("0"), true, "seconds"),
    ("ignore_startup_parameters", Some(""), true, "list"),
    ("job_name", Some("pgbouncer"), false, "text"),
    ("listen_addr", Some(""), false, "list"),
    ("listen_backlog", Some("128"), false, "int"),
    ("listen_port", Some("6432"), false, "int"),
    ("log_connections", Some("1"), true, "bool"),
    ("log_disconnections", Some("1"), true, "bool"),
    ("log_pooler_errors", Some("1"), true, "bool"),
    ("log_stats", Some("1"), true, "bool"),
    ("logfile", Some(""), true, "text"),
    ("login_notify_message", Some(""), true, "text"),
    ("max_client_conn", Some("100"), true, "int connections"),
    ("max_db_client_connections", Some("0"), true, "int connections"),
    ("max_db_connections", Some("0"), true, "int connections"),
    ("max_packet_size", Some("2147483647"), true, "int bytes"),
    ("max_prepared_statements", Some("200"), true, "int"),
    ("max_user_client_connections", Some("0"), true, "int connections"),
    ("max_user_connections", Some("0"), true, "int connections"),
    ("min_pool_size", Some("0"), true, "int connections"),
    ("peer_id", Some("0"), true, "int"),
    ("pidfile", Some(""), false, "text"),
    ("pkt_buf", Some("4096"), false, "int bytes"),
    ("pool_mode", Some("session"), true, "enum"),
    ("pool_idle_timeout", Some("0"), true, "seconds"),
    ("query_timeout", Some("0"), true, "seconds"),
    ("query_wait_notify", Some("5"), true, "int s"),
    ("query_wait_timeout", Some("120"), true, "seconds"),
    ("reserve_pool_size", Some("0"), true, "int connections"),
    ("reserve_pool_timeout", Some("5"), true, "seconds"),
    ("resolv_conf", Some(""), false, "text"),
    ("sbuf_loopcnt", Some("5"), true, "int"),
    ("scram_iterations", Some("4096"), true, "int"),
    ("server_check_delay", Some("30"), true, "seconds"),
    ("server_check_query", Some("<empty>"), true, "text"),
    ("server_connect_timeout", Some("15"), true, "seconds"),
    ("server_fast_close", Some("0"), true, "bool"),
    ("server_idle_timeout", Some("600"), true, "seconds"),
    ("server_lifetime", Some("3600"), true, "seconds"),
    ("server_login_retry", Some("15"), true, "seconds"),
    ("server_reset_query", Some("DISCARD ALL"), true, "text"),
    ("server_reset_query_always", Some("0"), true, "bool"),
    ("server_round_robin", Some("0"), true, "bool"),
    ("server_tls13_ciphers", None, true, "list"),
    ("server_tls_ca_file", Some(""), true, "text"),
    ("server_tls_cert_file", Some(""), true, "text"),
    ("server_tls_ciphers", Some("default"), true, "text"),
    ("server_tls_key_file", Some(""), true, "text"),
    ("server_tls_protocols", Some("secure"), true, "list"),
    ("server_tls_sslmode", Some("prefer"), true, "enum"),
    ("so_reuseport", Some("0"), false, "bool"),
    ("stats_period", Some("60"), true, "int s"),
    ("stats_users", Some(""), true, "list"),
    ("suspend_timeout", Some("10"), true, "seconds"),
    ("syslog", Some("0"), true, "bool"),
    ("syslog_facility", Some("daemon"), true, "enum"),
    ("syslog_ident", Some("pgbouncer"), true, "text"),
    ("tcp_defer_accept", Some("1"), true, "bool"),
    ("tcp_keepalive", Some("1"), true, "bool"),
    ("tcp_keepcnt", Some("0"), true, "int"),
    ("tcp_keepidle", Some("0"), true, "int s"),
    ("tcp_keepintvl", Some("0"), true, "int s"),
    ("tcp_socket_buffer", Some("0"), true, "int bytes"),
    ("tcp_user_timeout", Some("0"), true, "int ms"),
    ("track_extra_parameters", Some("IntervalStyle"), false, "list"),
    ("transaction_timeout", Some("0"), true, "seconds"),
    ("unix_socket_dir", Some("/tmp"), false, "text"),
    ("unix_socket_group", Some(""), false, "text"),
    ("unix_socket_mode", Some("0777"), false, "octal"),
    ("user", None, false, "text"),
    ("verbose", None, true, "int"),
];

#[test]
fn every_setting_of_pgbouncer_with_its_default() {
    let ours: Vec<_> =
        SETTINGS.iter().map(|setting| (setting.name, setting.default, setting.changeable())).collect();
    for (ours, (name, default, changeable, _)) in ours.iter().zip(PGBOUNCER) {
        assert_eq!(*ours, (*name, *default, *changeable));
    }
    assert_eq!(
        ours[PGBOUNCER.len()..],
        [
            ("audit_sample", Some("0.1"), true),
            ("auth_failure_delay", Some("0.1"), true),
            ("auth_pam_service", Some("pgbouncer"), true),
            ("auth_query_cache_ttl", Some("0"), true),
            ("availability_zone", Some(""), true),
            ("buffer_limit", Some("1073741824"), true),
            ("client_buffer_limit", Some("67108864"), true),
            ("client_gone_cancel", Some("1"), true),
            ("commit_certainty", Some("0"), true),
            ("drain_grace", Some("0"), true),
            ("drain_timeout", Some("0"), true),
            ("http_admin_token", Some(""), true),
            ("http_listen", Some(""), true),
            ("log_format", Some("text"), true),
            ("max_connecting", Some("16"), true),
            ("max_login_clients", Some("0"), true),
            ("max_login_clients_per_address", Some("0"), true),
            ("max_pins_per_pool", Some("0"), true),
            ("max_replica_lag", Some("0"), true),
            ("max_waiting_clients", Some("0"), true),
            ("on_timeout", Some("disconnect"), true),
            ("patroni", Some(""), true),
            ("primary_read_share", Some("100"), true),
            ("probe_interval", Some("1"), true),
            ("probe_timeout", Some("1"), true),
            ("probe_user", Some(""), true),
            ("query_stats", Some("500"), true),
            ("read_consistency", Some("session"), true),
            ("read_consistency_wait", Some("0"), true),
            ("read_functions", Some(""), true),
            ("read_routing", Some("off"), true),
            ("replica_fallback", Some("primary"), true),
            ("request_timeout", Some("0"), true),
            ("route", Some("auto"), true),
            ("server_channel_binding", Some("prefer"), true),
            ("server_tls_negotiation", Some("postgres"), true),
            ("session_state", Some("preserve"), true),
            ("statement_timeout", Some("0"), true),
            ("statement_timeout_grace", Some("5"), true),
            ("workers", Some("0"), false)
        ]
    );
}

/// What a number in the file counts, and what else is a value.
#[test]
fn every_setting_of_pgbouncer_with_its_type_and_unit() {
    for (name, _, _, kind) in PGBOUNCER {
        let ours = match Setting::find(name).unwrap().kind {
            Kind::Bool => "bool",
            Kind::Int { unit: Unit::None, .. } => "int",
            Kind::Int { unit: Unit::Connections, .. } => "int connections",
            Kind::Int { unit: Unit::Bytes, .. } => "int bytes",
            Kind::Int { unit: Unit::Seconds, .. } => "int s",
            Kind::Int { unit: Unit::Milliseconds, .. } => "int ms",
            Kind::Mode => "octal",
            Kind::Seconds | Kind::Percent => "seconds",
            Kind::List => "list",
            Kind::Text | Kind::Secret => "text",
            Kind::Choice(_) => "enum",
        };
        // What is not used yet takes any text.
        let unused = ours == "text" && matches!(Setting::find(name).unwrap().status, Status::Harmless(_));
        assert!(ours == *kind || unused, "{name} is {ours}, PgBouncer's {kind}");
    }
}

#[test]
fn every_default_is_a_value_that_this_version_honours() {
    let mut values = Values::default();
    for setting in SETTINGS {
        if let Some(default) = setting.default {
            assert_eq!(values.set(setting.name, default, None), Ok(()), "{}", setting.name);
            assert_eq!(values.get(setting.name), &setting.parse(default).unwrap());
        }
    }
}

#[test]
fn every_row_reads_well() {
    for setting in SETTINGS {
        assert!(setting.help.ends_with('.') && !setting.help.contains(['|', '\n']), "{}", setting.name);
        if let Status::Harmless(why) = setting.status {
            assert!(!why.is_empty() && !why.ends_with('.') && !why.contains('|'), "{}", setting.name);
        }
        if let (Kind::Choice(words), Status::Only(values)) = (setting.kind, setting.status) {
            assert!(values.iter().all(|value| words.contains(value)), "{}", setting.name);
        }
    }
}

#[test]
fn values_are_shown_as_pgbouncer_shows_them() {
    for (name, text, shown) in [
        ("unix_socket_mode", "0777", "511"),
        ("unix_socket_mode", "0x1ff", "511"),
        ("auth_type", "SCRAM-SHA-256", "scram-sha-256"),
        ("pool_mode", "Transaction", "transaction"),
        ("server_lifetime", "3600", "3600"),
        ("server_lifetime", "1.50", "1.5"),
        ("server_lifetime", "1h", "3600"),
        ("server_lifetime", "12d", "1.0368e+06"),
        ("query_wait_timeout", "500ms", "0.5"),
        ("log_stats", "45", "1"),
        ("log_stats", "off", "0"),
        ("max_packet_size", "64MB", "67108864"),
        ("max_client_conn", "0x10", "16"),
        ("max_client_conn", "010", "8"),
        ("query_wait_notify", "1min", "60"),
        ("tcp_user_timeout", "30s", "30000"),
        ("admin_users", "a, b", "a, b"),
        ("server_reset_query", "", ""),
    ] {
        let mut values = Values::default();
        assert_eq!(values.set(name, text, None), Ok(()), "{name} = {text}");
        let row = values.show().find(|row| row.key == name).unwrap();
        assert_eq!(row.value.as_deref(), Some(shown), "{name} = {text}");
    }
}

#[test]
fn unset_is_null_and_an_unset_number_is_zero() {
    let values = Values::default();
    let shown = |name| values.show().find(|row| row.key == name).unwrap();
    assert_eq!((shown("auth_file").value, shown("auth_file").default), (None, None));
    assert_eq!((shown("verbose").value.as_deref(), shown("verbose").default), (Some("0"), None));
    assert_eq!((shown("listen_addr").value.as_deref(), shown("listen_addr").default), (Some(""), Some("")));
}

#[test]
fn values_out_of_bounds_or_of_another_type() {
    for (name, text) in [
        ("listen_port", "65536"),
        ("listen_port", "-1"),
        ("listen_port", ""),
        ("listen_port", "6432 ; comment"),
        ("max_client_conn", "99999999999"),
        ("max_client_conn", "ten"),
        ("max_client_conn", "10s"),
        ("scram_iterations", "0"),
        ("stats_period", "500ms"),
        ("server_lifetime", "-1"),
        ("server_lifetime", "soon"),
        ("unix_socket_mode", "0999"),
        ("unix_socket_mode", "010000"),
        ("log_stats", "maybe"),
        ("pool_mode", "pool"),
        ("auth_type", "peer"),
        ("workers", "100000"),
        ("peer_id", "65536"),
    ] {
        let mut values = Values::default();
        assert!(matches!(values.set(name, text, None), Err(SetError::Invalid { .. })), "{name} = {text}");
        assert!(values.is_default(Setting::find(name).unwrap()));
    }
    assert_eq!(Values::default().set("service_name", "x", None), Err(SetError::Unknown));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let (name, refused, accepted) = ("resolv_conf", "/etc/other", "");
    let mut values = Values::default();
    let error = values.set(name, refused, None);
    assert!(matches!(error, Err(SetError::NotImplemented { .. })), "{name} = {refused}: {error:?}");
    assert_eq!(values.set(name, accepted, None), Ok(()), "{name} = {accepted}");
}

#[test]
fn a_restart_keeps_only_what_has_no_default() {
    let place = Place { file: std::path::Path::new("f").into(), line: Some(1) };
    let mut values = Values::default();
    assert!(!values.restart());
    values.set("auth_file", "users", Some(&place)).unwrap();
    assert!(!values.restart());
    values.set("max_client_conn", "7", Some(&place)).unwrap();
    assert!(values.restart());
    assert_eq!((values.text("auth_file"), values.int("max_client_conn")), ("users", 100));
}

proptest! {
    #[test]
    fn any_value_is_judged(text in "\\PC*|[0-9a-z. ]{0,12}") {
        let mut values = Values::default();
        for setting in SETTINGS {
            let _ = values.set(setting.name, &text, None);
        }
    }
}

#[test]
fn a_reload_leaves_alone_what_is_fixed_at_the_start() {
    let running = Values::default();
    let mut read = Values::default();
    read.set("listen_port", "7000", None).unwrap();
    read.set("default_pool_size", "7", None).unwrap();
    read.set("conffile", "under/another/name", None).unwrap();
    let change = |name, old: &str, new: &str, applies| Change {
        name,
        old: Some(old.into()),
        new: Some(new.into()),
        applies,
    };
    let changes = read.keep_fixed(&running);
    assert_eq!(
        changes,
        [
            change("default_pool_size", "20", "7", Applies::Reload),
            change("listen_port", "6432", "7000", Applies::Start)
        ]
    );
    assert_eq!(read.get("listen_port"), running.get("listen_port"));
    assert_ne!(read.get("default_pool_size"), running.get("default_pool_size"));
}
