//! The same with TLS on both sides. First what the modes demand: of clients, of servers. Then methods of both sides,
//! secrets and modes in every combination.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use nix::unistd::{User, geteuid};
use support::pki::Identity;
use support::pooler::{Pooler, PoolerBuilder};
use support::tls::ClientTls;
use support::wire::{Client, LoginError, Target};

use super::model::{Case, Denial, Given, Link, Method, Outcome, Place, Secret, Server, refused};
use super::world::{Chosen, PASSWORD_OF_ALL, World, few_iterations, known, line};
use super::{Results, seen};
use crate::common::pooler;

/// `client_tls_sslmode` and `server_tls_sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    const ALL: [Mode; 6] =
        [Mode::Disable, Mode::Allow, Mode::Prefer, Mode::Require, Mode::VerifyCa, Mode::VerifyFull];

    fn name(self) -> &'static str {
        match self {
            Mode::Disable => "disable",
            Mode::Allow => "allow",
            Mode::Prefer => "prefer",
            Mode::Require => "require",
            Mode::VerifyCa => "verify-ca",
            Mode::VerifyFull => "verify-full",
        }
    }

    fn is_mandatory(self) -> bool {
        matches!(self, Mode::Require | Mode::VerifyCa | Mode::VerifyFull)
    }

    fn wants_certificates(self) -> bool {
        matches!(self, Mode::VerifyCa | Mode::VerifyFull)
    }
}

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coming {
    Unix,
    Plain,
    Tls,
    /// With `channel_binding=require`.
    Bound,
    /// With a certificate of its name.
    Certified,
    /// With a certificate of another name.
    Misnamed,
    /// With a certificate of its name, by an authority that nobody knows.
    Forged,
}

impl Coming {
    const ALL: [Coming; 7] = [
        Coming::Unix,
        Coming::Plain,
        Coming::Tls,
        Coming::Bound,
        Coming::Certified,
        Coming::Misnamed,
        Coming::Forged,
    ];

    fn has_tls(self) -> bool {
        !matches!(self, Coming::Unix | Coming::Plain)
    }

    fn has_certificate(self) -> bool {
        matches!(self, Coming::Certified | Coming::Misnamed | Coming::Forged)
    }
}

/// What the pooler asks of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Proof(Method),
    Certificate,
    /// Rules only; a map allows everything to who runs the tests.
    Peer,
}

impl Demand {
    fn name(self) -> &'static str {
        match self {
            Demand::Proof(method) => method.name(),
            Demand::Certificate => "cert",
            Demand::Peer => "peer",
        }
    }

    fn all() -> impl Iterator<Item = Demand> {
        Method::ALL.into_iter().map(Demand::Proof).chain([Demand::Certificate, Demand::Peer])
    }

    /// Whether there is such a pooler.
    fn can_be(self, chosen: Chosen, mode: Mode) -> bool {
        match (self, chosen) {
            (Demand::Proof(Method::Any), Chosen::ByRule) | (Demand::Peer, Chosen::BySetting) => false,
            (Demand::Certificate, Chosen::BySetting) => mode == Mode::VerifyFull,
            _ => true,
        }
    }
}

// ---- clients --------------------------------------------------------------------------------------------------------

/// A client in front of a server that lets anybody in.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    demand: Demand,
    chosen: Chosen,
    mode: Mode,
    coming: Coming,
    secret: Secret,
}

impl Arrival {
    fn all(demand: Demand, chosen: Chosen, mode: Mode) -> Vec<Arrival> {
        let of = |coming| Secret::ALL.map(|secret| Arrival { demand, chosen, mode, coming, secret });
        Coming::ALL.into_iter().flat_map(of).collect()
    }

    fn case(&self) -> Case {
        let method = match self.demand {
            Demand::Proof(method) => method,
            Demand::Certificate | Demand::Peer => Method::Trust,
        };
        let place = place_for(method);
        Case { method, place, secret: self.secret, server: Server::Trust, given: Given::Right }
    }

    fn database(&self, world: &World) -> Entry {
        let case = self.case();
        let name = match self.chosen {
            Chosen::BySetting => case.database(),
            Chosen::ByRule => format!("{}_{}", self.demand.name(), case.database()),
        };
        (case, name, line(&case, &world.postgres, "127.0.0.1"))
    }

    fn expected(&self) -> Outcome {
        self.connection()?;
        self.login()?;
        let case = self.case();
        let is_asked =
            case.method == Method::Scram || (case.method, self.secret) == (Method::Md5, Secret::Scram);
        match self.coming == Coming::Bound && !is_asked {
            true => Err(broken("let in without channel binding")),
            false => case.server(Link::Plain),
        }
    }

    fn connection(&self) -> Result<(), Denial> {
        match self.coming {
            Coming::Unix => Ok(()),
            Coming::Plain if self.mode.is_mandatory() => refused("SSL required"),
            Coming::Plain => Ok(()),
            _ if self.mode == Mode::Disable => Err(broken("no TLS")),
            Coming::Forged => Err(broken("handshake")),
            _ if self.mode.wants_certificates() && !self.coming.has_certificate() => Err(broken("handshake")),
            _ => Ok(()),
        }
    }

    fn login(&self) -> Result<(), Denial> {
        let is_known = self.secret != Secret::Unknown;
        match self.demand {
            Demand::Proof(_) => self.case().client(),
            // A rule of type `hostssl`.
            Demand::Certificate if self.chosen == Chosen::ByRule && !self.coming.has_tls() => {
                refused("no authentication method is found")
            }
            Demand::Certificate if self.coming == Coming::Certified && is_known => Ok(()),
            Demand::Certificate => refused("certificate authentication failed"),
            Demand::Peer if self.coming == Coming::Unix && is_known => Ok(()),
            Demand::Peer => refused("unix socket login rejected"),
        }
    }

    fn outcome(&self, world: &World, clients: &Clients, pooler: &Pooler) -> Outcome {
        let (case, database, _) = self.database(world);
        let target = pooler.target(&database).user(&case.login()).password(PASSWORD_OF_ALL);
        told(clients.log_in(self.coming, &case, target, pooler))
    }
}

/// Who needs no secret needs a user.
fn place_for(method: Method) -> Place {
    match method {
        Method::Any => Place::Line,
        _ => Place::File,
    }
}

/// A login that came to no words of the pooler's.
fn broken(how: &str) -> Denial {
    ("none".into(), "none".into(), how.into())
}

/// As [`seen`], without what a handshake fails with: the alert may be overtaken by the end of the connection.
fn told(login: Result<Client, LoginError>) -> Outcome {
    match &login {
        Err(LoginError::Io(error)) if error.kind() == ErrorKind::Unsupported => Err(broken("no TLS")),
        Err(LoginError::Io(error)) if !error.to_string().contains("channel binding") => {
            Err(broken("handshake"))
        }
        _ => seen(login),
    }
}

/// What clients show, made once.
struct Clients {
    tls: ClientTls,
    misnamed: ClientTls,
    /// By name of the login.
    named: Vec<(String, ClientTls, ClientTls)>,
}

impl Clients {
    fn new(world: &World, logins: impl Iterator<Item = String>) -> Clients {
        let tls = ClientTls::new(&world.authority);
        let with = |identity: &Identity| tls.clone().identity(identity);
        let mut logins: Vec<String> = logins.collect();
        logins.sort();
        logins.dedup();
        let named = logins.into_iter().map(|name| {
            let (own, forged) = (world.authority.client(&name), world.strangers.client(&name));
            (name, with(&own), with(&forged))
        });
        let named = named.collect();
        Clients { misnamed: with(&world.authority.client("somebody")), named, tls: tls.clone() }
    }

    fn log_in(
        &self,
        coming: Coming,
        case: &Case,
        target: Target,
        pooler: &Pooler,
    ) -> Result<Client, LoginError> {
        let own =
            || self.named.iter().find(|(name, ..)| *name == case.login()).expect("a name that is known");
        let target = match coming {
            Coming::Unix => Target { address: pooler.unix_address(), ..target },
            Coming::Plain => target,
            Coming::Tls => target.tls(&self.tls),
            Coming::Bound => target.tls(&self.tls).bound(),
            Coming::Certified => target.tls(&own().1),
            Coming::Misnamed => target.tls(&self.misnamed),
            Coming::Forged => target.tls(&own().2),
        };
        Client::try_login(&target)
    }
}

#[test]
fn every_method_for_clients_that_come_in_every_way() {
    let world = World::shared();
    let everybody = Demand::all().flat_map(|demand| Arrival::all(demand, Chosen::BySetting, Mode::Prefer));
    let clients = Clients::new(world, everybody.map(|arrival| arrival.case().login()));
    let mut results = Results::default();
    for mode in Mode::ALL {
        let by_rule = in_front(world, mode, "hba", |builder| with_rules(world, builder));
        for demand in Demand::all() {
            for chosen in [Chosen::BySetting, Chosen::ByRule] {
                if !demand.can_be(chosen, mode) {
                    continue;
                }
                let arrivals = Arrival::all(demand, chosen, mode);
                let of_its_own = (chosen == Chosen::BySetting).then(|| {
                    in_front(world, mode, demand.name(), |builder| {
                        with_databases(builder, arrivals.iter().map(|arrival| arrival.database(world)))
                    })
                });
                let pooler = of_its_own.as_ref().unwrap_or(&by_rule);
                results.judge(&arrivals, |arrival| {
                    (arrival.expected(), arrival.outcome(world, &clients, pooler))
                });
            }
        }
    }
    results.finish();
}

/// A database for each method that a rule can choose.
fn with_rules(world: &World, builder: PoolerBuilder) -> PoolerBuilder {
    let own = User::from_uid(geteuid()).unwrap().unwrap().name;
    let mut rules = String::from("local pgbouncer all trust\n");
    let mut arrivals = Vec::new();
    for demand in Demand::all().filter(|demand| demand.can_be(Chosen::ByRule, Mode::Prefer)) {
        let name = demand.name();
        let database = format!("{name}_trust");
        rules += &match demand {
            Demand::Certificate => format!("hostssl {database} all all cert\n"),
            Demand::Peer => format!("local {database} all peer map=own\nhost {database} all all peer\n"),
            Demand::Proof(_) => format!("local {database} all {name}\nhost {database} all all {name}\n"),
        };
        arrivals.extend(Arrival::all(demand, Chosen::ByRule, Mode::Prefer));
    }
    with_databases(builder, arrivals.iter().map(|arrival| arrival.database(world)))
        .setting("auth_hba_file", "{dir}/hba")
        .beside("hba", &rules)
        .setting("auth_ident_file", "{dir}/ident")
        .beside("ident", &format!("own {own} all\n"))
}

/// A client's case, the name of the database that it goes to, and where that is.
type Entry = (Case, String, String);

fn with_databases(builder: PoolerBuilder, entries: impl Iterator<Item = Entry>) -> PoolerBuilder {
    let mut lines = BTreeMap::new();
    let builder = entries.fold(builder, |builder, (case, database, line)| {
        lines.insert(database, line);
        known(builder, &case)
    });
    lines.iter().fold(builder, |builder, (database, line)| builder.database_line(database, line))
}

/// A pooler with certificates for both sides.
fn in_front(
    world: &World,
    mode: Mode,
    auth_type: &str,
    configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder,
) -> Pooler {
    let path = |name: &str| world.files.dir().join(name).display().to_string();
    let builder = few_iterations(pooler())
        .setting("auth_type", auth_type)
        .setting("max_client_conn", 50)
        .setting("default_pool_size", 1)
        .setting("client_tls_sslmode", mode.name())
        .setting("client_tls_cert_file", path("shown_to_clients.crt"))
        .setting("client_tls_key_file", path("shown_to_clients.key"))
        .setting("client_tls_ca_file", path("ca.crt"))
        .setting("server_tls_cert_file", path("shown_to_servers.crt"))
        .setting("server_tls_key_file", path("shown_to_servers.key"))
        .setting("server_tls_ca_file", path("ca.crt"))
        .setting("server_tls_sslmode", "disable");
    configure(builder).start()
}

/// Clients in front of servers that can't be had.
const AT_ONCE_WAITING: usize = 50;

// ---- servers --------------------------------------------------------------------------------------------------------

/// What stands at the other end of the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Plain,
    Tls,
    /// Its certificate is by an authority that the pooler does not know.
    Foreign,
    /// Its certificate is for another host.
    Misnamed,
}

/// A client that anybody believes, to a server.
#[derive(Debug, Clone, Copy)]
struct Departure {
    mode: Mode,
    end: End,
    case: Case,
}

impl Departure {
    fn all() -> Vec<Departure> {
        let mut all = Vec::new();
        for mode in Mode::ALL {
            for end in [End::Plain, End::Tls, End::Foreign, End::Misnamed] {
                for server in Server::ALL {
                    all.extend([Secret::Empty, Secret::Plain, Secret::Md5, Secret::Scram].map(|secret| {
                        let case = Case {
                            method: Method::Trust,
                            place: Place::File,
                            secret,
                            server,
                            given: Given::Right,
                        };
                        Departure { mode, end, case }
                    }));
                }
            }
        }
        all
    }

    fn database(&self, world: &World) -> Entry {
        let (mode, case) = (self.mode.name(), self.case);
        let strangers = world.files.dir().join("strangers.crt");
        let line = match self.end {
            End::Plain => line(&case, &world.plain, "localhost"),
            End::Tls => line(&case, &world.postgres, "localhost"),
            End::Foreign => {
                let line = line(&case, &world.postgres, "localhost");
                format!("{line} server_tls_ca_file={}", strangers.display())
            }
            End::Misnamed => line(&case, &world.postgres, "127.0.0.1"),
        };
        let name = format!("{mode}_{:?}_{}", self.end, case.database());
        (case, name, format!("{line} server_tls_sslmode={mode}"))
    }

    fn expected(&self) -> Outcome {
        match self.link() {
            Ok(link) => self.case.server(link),
            // Who logs in waits for a server; the log knows why there is none.
            Err(_) => refused("query_wait_timeout"),
        }
    }

    fn link(&self) -> Result<Link, &'static str> {
        match (self.end, self.mode) {
            (_, Mode::Disable) => Ok(Link::Plain),
            (End::Plain, mode) if mode.is_mandatory() => Err("server refused SSL"),
            (End::Plain, _) => Ok(Link::Plain),
            // With an authority in its file `require` looks as well.
            (End::Foreign, mode) if mode.is_mandatory() => {
                Err("TLS handshake failed: invalid peer certificate: UnknownIssuer")
            }
            (End::Misnamed, Mode::VerifyFull) => Err(
                "TLS handshake failed: invalid peer certificate: certificate not valid for name \"127.0.0.1\"",
            ),
            _ => Ok(Link::Tls),
        }
    }

    /// What the log must say of it.
    fn line_in_log(&self, world: &World) -> Option<String> {
        let reason = self.link().err()?;
        let (case, database, _) = self.database(world);
        Some(format!("{database}/{} server login failed: {reason}", case.login()))
    }
}

#[test]
fn every_server_with_every_mode_and_certificate() {
    let world = World::shared();
    let departures = Departure::all();
    let pooler = in_front(world, Mode::Disable, "trust", |builder| {
        let builder =
            builder.setting("query_wait_timeout", 1).setting("max_client_conn", 2 * AT_ONCE_WAITING);
        with_databases(builder, departures.iter().map(|departure| departure.database(world)))
    });
    let mut results = Results { at_once: AT_ONCE_WAITING, ..Results::default() };
    results.judge(&departures, |departure| {
        let (_, database, _) = departure.database(world);
        let target = pooler.target(&database).user(&departure.case.login());
        (departure.expected(), seen(Client::try_login(&target)))
    });
    results.finish();
    let log = pooler.log();
    for line in departures.iter().filter_map(|departure| departure.line_in_log(world)) {
        assert!(log.contains(&line), "not in the log: {line}");
    }
}

// ---- both -----------------------------------------------------------------------------------------------------------

/// A login over what both modes make of it, the client with whatever the mode allows.
#[derive(Debug, Clone, Copy)]
struct Passage {
    towards_client: Mode,
    towards_server: Mode,
    case: Case,
}

impl Passage {
    fn all(method: Method, towards_client: Mode) -> Vec<Passage> {
        let mut all = Vec::new();
        for towards_server in Mode::ALL {
            for server in Server::ALL {
                all.extend(Secret::ALL.map(|secret| {
                    let case = Case { method, place: place_for(method), secret, server, given: Given::Right };
                    Passage { towards_client, towards_server, case }
                }));
            }
        }
        all
    }

    fn database(&self, world: &World) -> Entry {
        let (mode, case) = (self.towards_server.name(), self.case);
        let line = line(&case, &world.postgres, "localhost");
        (case, format!("{mode}_{}", case.database()), format!("{line} server_tls_sslmode={mode}"))
    }

    fn coming(&self) -> Coming {
        match self.towards_client {
            Mode::Disable => Coming::Plain,
            _ => Coming::Certified,
        }
    }

    fn expected(&self) -> Outcome {
        let link = match self.towards_server {
            Mode::Disable => Link::Plain,
            _ => Link::Tls,
        };
        self.case.client().and_then(|()| self.case.server(link))
    }
}

#[test]
fn every_method_with_every_secret_and_tls_on_both_sides() {
    let world = World::shared();
    let everybody = Method::ALL.into_iter().flat_map(|method| Passage::all(method, Mode::Prefer));
    let clients = Clients::new(world, everybody.map(|passage| passage.case.login()));
    let mut results = Results::default();
    for method in Method::ALL {
        for mode in Mode::ALL {
            let passages = Passage::all(method, mode);
            let pooler = in_front(world, mode, method.name(), |builder| {
                with_databases(builder, passages.iter().map(|passage| passage.database(world)))
            });
            results.judge(&passages, |passage| {
                let (case, database, _) = passage.database(world);
                let target = pooler.target(&database).user(&case.login()).password(PASSWORD_OF_ALL);
                (passage.expected(), told(clients.log_in(passage.coming(), &case, target, &pooler)))
            });
        }
    }
    results.finish();
}
