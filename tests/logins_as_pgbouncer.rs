//! What PgBouncer's test_auth checks and no other module does.

use std::time::Duration;

use support::pki::Authority;
use support::postgres::{Database, PASSWORD, Postgres, USER};
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::pooler;
use crate::console::row_where;
use crate::tls::Pki;

const SOON: Duration = Duration::from_secs(10);

fn refusal(target: &Target) -> (String, String) {
    let fields = Client::try_login(target).expect_err("no login").refusal();
    (fields.code().to_owned(), fields.message().to_owned())
}

/// A role of this test's own, with this password and more words.
fn role(database: &Database, hint: &str, password: &str, more: &str) -> String {
    let name = format!("{hint}_of_{}", database.name());
    let quoted = password.replace('\'', "''");
    database.postgres().sql(&format!("create role {name} password '{quoted}' {more}"));
    name
}

fn verifier(database: &Database, role: &str) -> String {
    let sql = format!("select rolpassword from pg_authid where rolname = '{role}'");
    database.postgres().sql(&sql).rows()[0][0].clone().expect("a verifier")
}

/// test_message.
#[test]
fn what_the_server_says_of_a_login_is_told_each_time() {
    let database = Postgres::shared().database("told");
    let barred = role(&database, "barred", PASSWORD, "nologin");
    let pooler = pooler().database(&database, "").secret(&barred, PASSWORD).start();
    for _ in 0..3 {
        let told = refusal(&pooler.target(database.name()).user(&barred));
        assert_eq!(told, ("28000".into(), format!("role \"{barred}\" is not permitted to log in")));
    }
}

/// test_password_server, test_password_client: as long as PgBouncer takes them, and longer than anybody does.
#[test]
fn long_passwords() {
    let database = Postgres::shared().database("long");
    let password = "p".repeat(990);
    for (hint, auth_type) in [("plain", "plain"), ("md5", "md5"), ("scram", "scram-sha-256")] {
        let role = role(&database, hint, &password, &format!("login in role {hint}_logins"));
        let builder = pooler().database(&database, "").setting("auth_type", auth_type);
        let pooler = builder.secret(&role, &password).start();
        let target = pooler.target(database.name()).user(&role);
        let mut client = Client::login(&target.clone().password(&password));
        assert_eq!(client.scalar("select current_user"), role);
        for wrong in [format!("{password}p"), "p".repeat(989), "p".repeat(50_000)] {
            let (code, text) = refusal(&target.clone().password(&wrong));
            assert!(code == "08P01" && text.ends_with("authentication failed"), "{code} {text}");
        }
        assert_eq!(client.scalar("select 1"), "1");
    }
}

/// test_scram_cached_adhoc_secrets_after_reconnect, test_scram_passthrough_after_reconnect,
/// test_scram_both_reauthentication_using_cache.
#[test]
fn servers_are_opened_again_behind_reconnect() {
    let database = Postgres::shared().database("again");
    let user = role(&database, "again", PASSWORD, "login in role scram_logins");
    for secret in [PASSWORD.to_owned(), verifier(&database, &user)] {
        let builder = pooler().database(&database, "").setting("auth_type", "scram-sha-256");
        let pooler =
            builder.setting("default_pool_size", 1).secret("admin", PASSWORD).secret(&user, &secret).start();
        let target = pooler.target(database.name()).user(&user).password(PASSWORD);
        let mut console = Client::login(&pooler.target("pgbouncer").user("admin").password(PASSWORD));
        let mut client = Client::login(&target);
        let mut pid = client.backend_pid();
        for _ in 0..3 {
            console.execute("RECONNECT");
            eventually("it has another server", SOON, || client.backend_pid() != pid);
            pid = client.backend_pid();
            assert_eq!(Client::login(&target).backend_pid(), pid);
        }
    }
}

/// test_change_server_password_reconnect, test_change_server_password_server_lifetime: everybody is told by one attempt.
#[test]
fn one_attempt_with_an_outdated_password_tells_all() {
    for lifetime in [1, 3600] {
        let database = Postgres::shared().database("outdated");
        let user = role(&database, "outdated", PASSWORD, "login in role scram_logins");
        let pooler = pooler()
            .database(&database, "")
            .setting("default_pool_size", 1)
            .setting("server_login_retry", 600)
            .setting("server_lifetime", lifetime)
            .secret(&user, PASSWORD)
            .start();
        let target = pooler.target(database.name()).user(&user);
        let mut clients: Vec<Client> = (0..5).map(|_| Client::login(&target)).collect();
        database.postgres().sql(&format!("alter role {user} password 'another'"));
        if lifetime == 3600 {
            pooler.console().execute("RECONNECT");
        }
        eventually("the server has gone", SOON, || database.backends(&user).is_empty());
        clients.iter_mut().for_each(|client| client.send(support::frontend::query("select 1")));
        let told = format!("password authentication failed for user \"{user}\"");
        for client in &mut clients {
            let error = client.expect_closed().error().expect("an error");
            assert!(error.message().contains(&told), "{error:?}");
        }
        assert_eq!(database.log().matches(&told).count(), 1);
    }
}

/// test_client_login_count.
#[test]
fn only_good_logins_are_counted() {
    let database = Postgres::shared().database("counted");
    let builder = pooler().database(&database, "").setting("auth_type", "plain");
    let pooler = builder.secret("admin", PASSWORD).secret(USER, PASSWORD).start();
    let mut console = Client::login(&pooler.target("pgbouncer").user("admin").password(PASSWORD));
    let mut count =
        move || row_where(&mut console, "TOTALS", "name", "total_client_login_count").number("value");
    let before = count();
    let target = pooler.target(database.name());
    refusal(&target.clone().password("wrong"));
    refusal(&target.clone().user("nobody").password(PASSWORD));
    refusal(&target.clone().database("nowhere").password(PASSWORD));
    assert_eq!(count(), before);
    let mut client = Client::login(&target.password(PASSWORD));
    client.execute("select 1");
    eventually("it is counted", SOON, || count() == before + 1);
}

/// test_client_hba_cert: the certificate's name is the user's, or one that the map turns into it.
#[test]
fn certificates_of_mapped_names() {
    let (pki, database) = (Pki::new(), Postgres::shared().database("mapped"));
    let with_map = |map: &str| {
        pki.offer(pooler(), "verify-full")
            .setting("client_tls_ca_file", pki.path("ca.crt"))
            .setting("auth_type", "hba")
            .setting("auth_hba_file", "{dir}/hba")
            .beside("hba", &format!("local all all trust\nhostssl all all all cert {map}\n"))
            .setting("auth_ident_file", "{dir}/ident")
            .beside("ident", "own somebody app\nown /^(.*)\\.services\\.example$ \\1\n")
            .database(&database, "")
            .start()
    };
    let (plain, mapped) = (with_map(""), with_map("map=own"));
    let strangers = Authority::new("strangers");
    for (name, is_plain, is_mapped) in [
        ("app", true, false),
        ("somebody", false, true),
        ("app.services.example", false, true),
        ("admin.services.example", false, false),
        ("app.services.example.org", false, false),
    ] {
        let tls = pki.client().identity(&pki.authority.client(name));
        for (pooler, passes) in [(&plain, is_plain), (&mapped, is_mapped)] {
            let target = pooler.target(database.name()).tls(&tls);
            match passes {
                true => assert_eq!(Client::login(&target).scalar("select current_user"), USER, "{name}"),
                false => assert_eq!(refusal(&target).1, "certificate authentication failed", "{name}"),
            }
        }
        let forged = pki.client().identity(&strangers.client(name));
        Client::try_login(&plain.target(database.name()).tls(&forged)).expect_err("a forged certificate");
    }
}
