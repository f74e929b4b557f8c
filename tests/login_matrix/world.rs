//! A PostgreSQL with a database for each method and a role for each combination, and poolers in front of it.

use std::fs;
use std::sync::OnceLock;

use support::pki::{Authority, Files};
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Options, Postgres};
use support::secrets;
use support::wire::{Client, Target};

use super::model::{Case, Given, Method, Place, Secret, Server};
use crate::common::pooler;

/// Has what connection strings and user lists have to quote.
pub(super) const PASSWORD_OF_ALL: &str = "open 'sesame'";

/// Few, so that a login costs its messages rather than its arithmetic.
const ITERATIONS: u32 = 8;

/// How the pooler comes to its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    BySetting,
    ByRule,
}

pub(super) struct World {
    /// Has TLS, with a certificate for `localhost`.
    pub(super) postgres: Postgres,
    /// Has none.
    pub(super) plain: Postgres,
    /// Of everybody.
    pub(super) authority: Authority,
    /// Of nobody.
    pub(super) strangers: Authority,
    pub(super) files: Files,
}

impl World {
    pub(super) fn shared() -> &'static World {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(World::new)
    }

    fn new() -> World {
        let (authority, strangers) = (Authority::new("everybody's"), Authority::new("strangers'"));
        let files = Files::new();
        files.write("ca.crt", &authority.pem());
        files.write("strangers.crt", &strangers.pem());
        files.identity("shown_to_clients", &authority.server(&["localhost"]));
        files.identity("shown_to_servers", &authority.client("pooler"));
        let secured = Options::new().tls(&authority.server(&["localhost"]), Some(&authority));
        World { postgres: start(secured), plain: start(Options::new()), authority, strangers, files }
    }

    /// A pooler in front of all of it, without TLS.
    pub(super) fn front(&self, method: Method, chosen: Chosen) -> Front {
        let mut builder = asking(few_iterations(pooler()), method, chosen)
            .setting("max_client_conn", 50)
            .setting("default_pool_size", 1)
            .setting("server_tls_sslmode", "disable");
        for server in Server::ALL {
            let way = self.way_to(server);
            builder = builder.database_line(server.name(), &way);
            let asked = format!("{way} auth_user=asker auth_dbname=secrets");
            builder = builder.database_line(&format!("asked_{}", server.name()), &asked);
        }
        let secrets = format!("host=127.0.0.1 port={} dbname=secrets", self.postgres.port());
        builder = builder
            .database_line("secrets", &secrets)
            .setting("auth_query", "select name, secret from secrets where name = $1");
        for case in everybody(method) {
            builder = self.with(builder, &case);
        }
        Front { pooler: builder.start() }
    }

    fn way_to(&self, server: Server) -> String {
        format!("host=127.0.0.1 port={} dbname=wants_{}", self.postgres.port(), server.name())
    }

    /// The records and the database of one combination.
    fn with(&self, builder: PoolerBuilder, case: &Case) -> PoolerBuilder {
        match case.place {
            Place::Query => builder,
            Place::File => known(builder, case),
            Place::Line => {
                known(builder, case).database_line(&case.database(), &line(case, &self.postgres, "127.0.0.1"))
            }
            Place::Forced => known(builder, case)
                .secret(&case.role(), &secret_of_role(case))
                .database_line(&case.database(), &line(case, &self.postgres, "127.0.0.1")),
        }
    }
}

/// The connection string of a combination's database.
pub(super) fn line(case: &Case, postgres: &Postgres, host: &str) -> String {
    let (role, secret) = (case.role(), secret_of_role(case));
    let way = format!("host={host} port={} dbname=wants_{}", postgres.port(), case.server.name());
    match case.place {
        Place::File | Place::Query => way,
        // Where it is empty the word may not stand there at all.
        Place::Line if !secret.is_empty() => {
            format!("{way} user={role} password='{}'", secret.replace('\'', "''"))
        }
        Place::Line | Place::Forced => format!("{way} user={role}"),
    }
}

fn secret_of_role(case: &Case) -> String {
    secret(case, &case.role()).unwrap_or_else(|| PASSWORD_OF_ALL.into())
}

/// A pooler that asks clients in one way.
pub(super) struct Front {
    pooler: Pooler,
}

impl Front {
    pub(super) fn target(&self, case: &Case) -> Target {
        self.pooler.target(&case.database()).user(&case.login()).password(case.password())
    }
}

/// Passwords are compared, not guarded.
pub(super) fn few_iterations(builder: PoolerBuilder) -> PoolerBuilder {
    match builder.is_pgbouncer() {
        true => builder,
        false => builder.setting("scram_iterations", ITERATIONS),
    }
}

fn asking(builder: PoolerBuilder, method: Method, chosen: Chosen) -> PoolerBuilder {
    match chosen {
        Chosen::BySetting => builder.setting("auth_type", method.name()),
        Chosen::ByRule => builder
            .setting("auth_type", "hba")
            .setting("auth_hba_file", "{dir}/hba")
            .beside("hba", &format!("local all all trust\nhost all all all {}\n", method.name())),
    }
}

/// With the client's record in the user list.
pub(super) fn known(builder: PoolerBuilder, case: &Case) -> PoolerBuilder {
    let login = case.login();
    match secret(case, &login) {
        Some(secret) => builder.secret(&login, &secret),
        None => builder,
    }
}

/// The secret that is stored for a user of a combination; `None`: no such user.
fn secret(case: &Case, user: &str) -> Option<String> {
    match case.secret {
        Secret::Unknown => None,
        Secret::Empty => Some(String::new()),
        Secret::Plain => Some(PASSWORD_OF_ALL.into()),
        Secret::Md5 => Some(secrets::md5(user, PASSWORD_OF_ALL)),
        // The same for the visitor and the user at the server: all the more tempting to mix them up.
        Secret::Scram => Some(verifier(&case.role())),
    }
}

fn verifier(role: &str) -> String {
    secrets::verifier(role, PASSWORD_OF_ALL, ITERATIONS)
}

/// One case for each combination of place, secret and server.
fn everybody(method: Method) -> impl Iterator<Item = Case> {
    Case::all(method).into_iter().filter(|case| case.given == Given::Right)
}

fn start(options: Options) -> Postgres {
    let options = options
        .config("max_connections = 900")
        .hba("host wants_password all 127.0.0.1/32 password")
        .hba("host wants_md5 all 127.0.0.1/32 md5")
        .hba("host wants_scram all 127.0.0.1/32 scram-sha-256")
        .hba("hostssl wants_cert all 127.0.0.1/32 cert map=pooler")
        .hba("host wants_cert all 127.0.0.1/32 reject");
    let postgres = Postgres::start(options);
    let certified = everybody(Method::Any).map(|case| format!("pooler pooler {}\n", case.role()));
    fs::write(postgres.socket_dir().join("data/pg_ident.conf"), certified.collect::<String>()).unwrap();
    postgres.sql("select pg_reload_conf()");
    for server in Server::ALL {
        postgres.sql(&format!("create database wants_{}", server.name()));
    }
    // What is stored at the server is what it needs for its own method, whatever the pooler knows.
    let create = |case: Case| {
        let role = case.role();
        let stored = match case.server {
            Server::Md5 => secrets::md5(&role, PASSWORD_OF_ALL),
            _ => verifier(&role),
        };
        format!("create role {role} login password '{stored}';")
    };
    postgres.sql(&everybody(Method::Any).map(create).collect::<String>());
    keep_secrets(&postgres);
    postgres
}

/// What `auth_query` looks into, in a database of its own.
fn keep_secrets(postgres: &Postgres) {
    postgres.sql("create role asker login");
    postgres.sql("create database secrets owner asker");
    let asked = everybody(Method::Any).filter(|case| case.place == Place::Query);
    let row = |case: Case| {
        let secret = secret(&case, &case.role())?.replace('\'', "''");
        Some(format!("insert into secrets values ('{}', '{secret}');", case.role()))
    };
    let rows: String = asked.filter_map(row).collect();
    let target = Target::new(postgres.address(), "asker", "secrets");
    Client::login(&target).execute(&format!("create table secrets (name text, secret text); {rows}"));
}
