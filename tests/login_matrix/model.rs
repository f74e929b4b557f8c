//! Who should get in, from PgBouncer's documented behaviour and PostgreSQL's. A login is two questions, one after the
//! other: is the client who it says, and can the pooler be who it has to be at the server.

use super::world::PASSWORD_OF_ALL;

/// How clients prove who they are (`auth_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Any,
    Trust,
    Plain,
    Md5,
    Scram,
}

impl Method {
    pub(super) const ALL: [Method; 5] =
        [Method::Any, Method::Trust, Method::Plain, Method::Md5, Method::Scram];

    pub(super) fn name(self) -> &'static str {
        match self {
            Method::Any => "any",
            Method::Trust => "trust",
            Method::Plain => "plain",
            Method::Md5 => "md5",
            Method::Scram => "scram-sha-256",
        }
    }

    fn asks_for_a_password(self) -> bool {
        matches!(self, Method::Plain | Method::Md5 | Method::Scram)
    }
}

/// What is stored for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secret {
    /// There is no such user.
    Unknown,
    Empty,
    Plain,
    Md5,
    Scram,
}

impl Secret {
    pub(super) const ALL: [Secret; 5] =
        [Secret::Unknown, Secret::Empty, Secret::Plain, Secret::Md5, Secret::Scram];

    pub(super) fn name(self) -> &'static str {
        match self {
            Secret::Unknown => "unknown",
            Secret::Empty => "empty",
            Secret::Plain => "plain",
            Secret::Md5 => "md5",
            Secret::Scram => "scram",
        }
    }
}

/// Where the secret is that the pooler logs in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The client's own record in the user list, used on both sides.
    File,
    /// The answer of `auth_query`, used on both sides.
    Query,
    /// `user=` and `password=` of the database.
    Line,
    /// `user=` of the database, and that user's record in the user list.
    Forced,
}

impl Place {
    pub(super) const ALL: [Place; 4] = [Place::File, Place::Query, Place::Line, Place::Forced];

    pub(super) fn name(self) -> &'static str {
        match self {
            Place::File => "file",
            Place::Query => "query",
            Place::Line => "line",
            Place::Forced => "forced",
        }
    }

    fn forces_a_user(self) -> bool {
        matches!(self, Place::Line | Place::Forced)
    }
}

/// What the server wants: a method of `pg_hba.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Trust,
    Password,
    Md5,
    Scram,
    /// TLS and a certificate.
    Cert,
}

impl Server {
    pub(super) const ALL: [Server; 5] =
        [Server::Trust, Server::Password, Server::Md5, Server::Scram, Server::Cert];

    pub(super) fn name(self) -> &'static str {
        match self {
            Server::Trust => "trust",
            Server::Password => "password",
            Server::Md5 => "md5",
            Server::Scram => "scram",
            Server::Cert => "cert",
        }
    }
}

/// What the client answers when it is asked for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Right,
    Wrong,
    Empty,
}

/// One login.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) method: Method,
    pub(super) place: Place,
    /// Of the client, and of the user at the server unless the client is unknown (then that one's is plain).
    pub(super) secret: Secret,
    pub(super) server: Server,
    pub(super) given: Given,
}

/// Severity, code and text of a refusal.
pub(super) type Denial = (String, String, String);

/// The user at the server, or why there is none.
pub(super) type Outcome = Result<String, Denial>;

/// What is between the pooler and a server. With TLS the pooler has a certificate that the server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Plain,
    Tls,
}

impl Case {
    /// Everything that there is with a method. A wrong password ends a login before any server counts, so it is tried in
    /// front of the servers only that would let anybody in, and that a client's own keys could open.
    pub(super) fn all(method: Method) -> Vec<Case> {
        let mut cases = Vec::new();
        for place in Place::ALL {
            for secret in Secret::ALL {
                for server in Server::ALL {
                    let all_passwords =
                        method.asks_for_a_password() && matches!(server, Server::Trust | Server::Scram);
                    let passwords: &[Given] = if all_passwords {
                        &[Given::Right, Given::Wrong, Given::Empty]
                    } else {
                        &[Given::Right]
                    };
                    cases.extend(passwords.iter().map(|&given| Case {
                        method,
                        place,
                        secret,
                        server,
                        given,
                    }));
                }
            }
        }
        cases
    }

    pub(super) fn expected(&self) -> Outcome {
        self.client().and_then(|()| self.server(Link::Plain))
    }

    /// The user that the client says it is.
    pub(super) fn login(&self) -> String {
        match self.place {
            Place::File | Place::Query => self.role(),
            Place::Line | Place::Forced => format!("visitor_of_{}", self.role()),
        }
    }

    /// The user that the pooler is at the server.
    pub(super) fn role(&self) -> String {
        format!("{}_{}_{}", self.place.name(), self.secret.name(), self.server.name())
    }

    /// The name of the database at the pooler.
    pub(super) fn database(&self) -> String {
        match self.place {
            Place::File => self.server.name().into(),
            Place::Query => format!("asked_{}", self.server.name()),
            Place::Line | Place::Forced => format!("as_{}", self.role()),
        }
    }

    pub(super) fn password(&self) -> &'static str {
        match self.given {
            Given::Right => PASSWORD_OF_ALL,
            Given::Wrong => "open 'sesame",
            Given::Empty => "",
        }
    }

    /// What the pooler decides, before any server is asked.
    pub(super) fn client(&self) -> Result<(), Denial> {
        let has_password = !matches!(self.secret, Secret::Unknown | Secret::Empty);
        let is_right = self.given == Given::Right && has_password;
        match self.method {
            Method::Any if self.place.forces_a_user() => Ok(()),
            Method::Any => refused("bouncer config error"),
            _ if self.place == Place::Query && self.secret == Secret::Unknown => refused("no such user"),
            Method::Trust if self.secret == Secret::Unknown => refused("\"trust\" authentication failed"),
            Method::Trust => Ok(()),
            Method::Plain if self.given == Given::Empty => refused("empty password returned by client"),
            Method::Scram if is_right && self.secret != Secret::Md5 => Ok(()),
            Method::Plain | Method::Md5 if is_right => Ok(()),
            Method::Scram => refused("SASL authentication failed"),
            Method::Md5 if self.secret == Secret::Scram => refused("SASL authentication failed"),
            Method::Plain | Method::Md5 => refused("password authentication failed"),
        }
    }

    /// What becomes of the pooler's own login with the secret that it has.
    pub(super) fn server(&self, link: Link) -> Outcome {
        let wrong_type = || refused("server login failed: wrong password type");
        match (self.server, self.known_secret()) {
            (Server::Trust, _) => Ok(self.role()),
            (Server::Cert, _) => match link {
                Link::Tls => Ok(self.role()),
                Link::Plain => Err(rejected(&self.role(), self.server)),
            },
            (_, Secret::Plain) | (Server::Md5, Secret::Md5) => Ok(self.role()),
            (Server::Scram, Secret::Scram) if self.passes_through() => Ok(self.role()),
            (_, Secret::Md5 | Secret::Scram) => wrong_type(),
            // An empty password is sent like any, also where there is none at all; PostgreSQL takes none.
            (Server::Password, _) => by_postgresql("empty password returned by client"),
            (Server::Md5 | Server::Scram, _) => {
                by_postgresql(&format!("password authentication failed for user \"{}\"", self.role()))
            }
        }
    }

    fn known_secret(&self) -> Secret {
        match self.secret {
            Secret::Unknown if self.place.forces_a_user() => Secret::Plain,
            known => known,
        }
    }

    /// Whether the client has shown, in a SCRAM login as the very user of the server, the key that opens it.
    fn passes_through(&self) -> bool {
        !self.place.forces_a_user() && matches!(self.method, Method::Scram | Method::Md5)
    }
}

pub(super) fn refused<T>(text: &str) -> Result<T, Denial> {
    Err(("FATAL".into(), "08P01".into(), text.into()))
}

fn by_postgresql(text: &str) -> Outcome {
    Err(("FATAL".into(), "28P01".into(), text.into()))
}

/// PostgreSQL has no way in to this database without TLS.
fn rejected(role: &str, server: Server) -> Denial {
    let database = server.name();
    let text = format!(
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"{role}\", database \"wants_{database}\", no encryption"
    );
    ("FATAL".into(), "28000".into(), text)
}
