//! A PostgreSQL with a database for each method and a role for each combination, and poolers in front of it.

use std::sync::OnceLock;

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

pub(super) struct World {
    postgres: Postgres,
}

impl World {
    pub(super) fn shared() -> World {
        static POSTGRES: OnceLock<Postgres> = OnceLock::new();
        World { postgres: POSTGRES.get_or_init(start).clone() }
    }

    /// A pooler in front of all of it.
    pub(super) fn front(&self, method: Method) -> Front {
        let mut builder = pooler()
            .setting("auth_type", method.name())
            .setting("max_client_conn", 50)
            .setting("default_pool_size", 1);
        if !builder.is_pgbouncer() {
            builder = builder.setting("scram_iterations", ITERATIONS);
        }
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
        if case.place == Place::Query {
            return builder;
        }
        let (role, login) = (case.role(), case.login());
        let builder = match secret(case, &login) {
            Some(secret) => builder.secret(&login, &secret),
            None => builder,
        };
        let of_role = secret(case, &role).unwrap_or_else(|| PASSWORD_OF_ALL.into());
        let way = self.way_to(case.server);
        match case.place {
            Place::File | Place::Query => builder,
            // Where it is empty the word may not stand there at all.
            Place::Line if of_role.is_empty() => {
                builder.database_line(&case.database(), &format!("{way} user={role}"))
            }
            Place::Line => {
                let quoted = of_role.replace('\'', "''");
                builder.database_line(&case.database(), &format!("{way} user={role} password='{quoted}'"))
            }
            Place::Forced => {
                builder.secret(&role, &of_role).database_line(&case.database(), &format!("{way} user={role}"))
            }
        }
    }
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

fn start() -> Postgres {
    let options = Options::new()
        .config("max_connections = 500")
        .hba("host wants_password all 127.0.0.1/32 password")
        .hba("host wants_md5 all 127.0.0.1/32 md5")
        .hba("host wants_scram all 127.0.0.1/32 scram-sha-256")
        .hba("hostssl wants_cert all 127.0.0.1/32 cert")
        .hba("host wants_cert all 127.0.0.1/32 reject");
    let postgres = Postgres::start(options);
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
