//! What a session is when it travels from one process to another (pure).

use super::fields::{Fields, Writer, number, pair, text, texts};

/// A client at rest: it owes nothing and is owed nothing. Its socket travels beside it, and behind that the one of the
/// server that it keeps, if it keeps one. Moments are in microseconds of the clock that both processes have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Traveller {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) secret: [u8; 4],
    pub(crate) database: String,
    pub(crate) login: String,
    pub(crate) connected: u64,
    pub(crate) requested: u64,
    pub(crate) idle_since: u64,
    /// The tracked parameters that have a value, by name, ...
    pub(crate) params: Vec<(String, String)>,
    /// ... and whether a server has accepted them.
    pub(crate) proven: bool,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) beginning: Vec<(String, String)>,
    pub(crate) began: Option<Vec<(String, String)>>,
    pub(crate) statements: Vec<Prepared>,
    pub(crate) unnamed: Option<Vec<u8>>,
    pub(crate) asks_sequences: bool,
    /// The new process listens for it already.
    pub(crate) listens: bool,
    /// What it has sent and nobody has dealt with: part of a message, or requests that waited for a server.
    pub(crate) input: Vec<u8>,
    pub(crate) server: Option<Companion>,
}

/// A statement under a client's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) name: Vec<u8>,
    /// What follows the name in `Parse`.
    pub(crate) text: Vec<u8>,
    /// What the client was told of it: hashes of its parameters and of its rows; 0: nothing.
    pub(crate) told: (u64, u64),
}

/// The server that a client keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Companion {
    pub(crate) pid: u32,
    pub(crate) secret: Vec<u8>,
    /// Where it goes to: a name, or the directory of a Unix socket.
    pub(crate) host: String,
    pub(crate) is_unix: bool,
    pub(crate) port: u16,
    pub(crate) opened: u64,
    /// Why the client keeps it, as bits, the statement that began it, and since when.
    pub(crate) pins: u16,
    pub(crate) blamed: String,
    pub(crate) pinned_since: u64,
    /// It is kept for a moment only: since when, since when the client is idle, whether firmly, and until when.
    pub(crate) brief: Option<(u64, u64, bool, u64)>,
    /// Settings of the application's own that were named since all were looked at.
    pub(crate) custom: Vec<String>,
}

mod tag {
    pub(super) const ID: u8 = 1;
    pub(super) const KEY: u8 = 2;
    pub(super) const DATABASE: u8 = 3;
    pub(super) const LOGIN: u8 = 4;
    pub(super) const CONNECTED: u8 = 5;
    pub(super) const REQUESTED: u8 = 6;
    pub(super) const IDLE_SINCE: u8 = 7;
    pub(super) const PARAM: u8 = 8;
    pub(super) const PROVEN: u8 = 9;
    pub(super) const SETTING: u8 = 10;
    pub(super) const BEGINNING: u8 = 11;
    pub(super) const BEGAN: u8 = 12;
    pub(super) const STATEMENT: u8 = 13;
    pub(super) const TOLD: u8 = 14;
    pub(super) const UNNAMED: u8 = 15;
    pub(super) const ASKS_SEQUENCES: u8 = 16;
    pub(super) const INPUT: u8 = 17;
    pub(super) const SERVER: u8 = 18;
    pub(super) const HOST: u8 = 19;
    pub(super) const UNIX_HOST: u8 = 20;
    pub(super) const PORT: u8 = 21;
    pub(super) const PINS: u8 = 22;
    pub(super) const BLAMED: u8 = 23;
    pub(super) const PINNED_SINCE: u8 = 24;
    pub(super) const BRIEF: u8 = 25;
    pub(super) const CUSTOM: u8 = 26;
    pub(super) const LISTENS: u8 = 27;
}

impl Traveller {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(tag::ID, self.id);
        out.pairs(tag::KEY, [(self.pid.to_be_bytes(), self.secret)]);
        out.put(tag::DATABASE, &self.database).put(tag::LOGIN, &self.login);
        out.number(tag::CONNECTED, self.connected).number(tag::REQUESTED, self.requested);
        out.number(tag::IDLE_SINCE, self.idle_since);
        out.pairs(tag::PARAM, self.params.iter().map(|(a, b)| (a, b))).flag(tag::PROVEN, self.proven);
        out.pairs(tag::SETTING, self.settings.iter().map(|(a, b)| (a, b)));
        out.pairs(tag::BEGINNING, self.beginning.iter().map(|(a, b)| (a, b)));
        if let Some(began) = &self.began {
            let mut list = Writer::default();
            out.put(tag::BEGAN, list.pairs(tag::PARAM, began.iter().map(|(a, b)| (a, b))).finish());
        }
        for statement in &self.statements {
            out.pairs(tag::STATEMENT, [(&statement.name, &statement.text)]);
            if statement.told != (0, 0) {
                out.pairs(tag::TOLD, [(statement.told.0.to_be_bytes(), statement.told.1.to_be_bytes())]);
            }
        }
        if let Some(unnamed) = &self.unnamed {
            out.put(tag::UNNAMED, unnamed);
        }
        out.flag(tag::ASKS_SEQUENCES, self.asks_sequences).flag(tag::LISTENS, self.listens);
        if !self.input.is_empty() {
            out.put(tag::INPUT, &self.input);
        }
        if let Some(server) = &self.server {
            out.put(tag::SERVER, server.encode());
        }
        out.finish()
    }

    /// `None`: it was cut off, or something in it is not what it should be.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Traveller> {
        let mut it = Traveller::default();
        Fields(bytes).each(|tag, bytes| {
            match tag {
                tag::ID => it.id = number(bytes)?,
                tag::KEY => {
                    let (pid, secret) = pair(bytes)?;
                    it.pid = u32::from_be_bytes(pid.try_into().ok()?);
                    it.secret = secret.try_into().ok()?;
                }
                tag::DATABASE => it.database = text(bytes)?,
                tag::LOGIN => it.login = text(bytes)?,
                tag::CONNECTED => it.connected = number(bytes)?,
                tag::REQUESTED => it.requested = number(bytes)?,
                tag::IDLE_SINCE => it.idle_since = number(bytes)?,
                tag::PARAM => it.params.push(texts(bytes)?),
                tag::PROVEN => it.proven = true,
                tag::SETTING => it.settings.push(texts(bytes)?),
                tag::BEGINNING => it.beginning.push(texts(bytes)?),
                tag::BEGAN => {
                    let began = it.began.get_or_insert_default();
                    Fields(bytes).each(|_, bytes| {
                        began.push(texts(bytes)?);
                        Some(())
                    })?;
                }
                tag::STATEMENT => {
                    let (name, text) = pair(bytes)?;
                    it.statements.push(Prepared { name: name.into(), text: text.into(), told: (0, 0) });
                }
                tag::TOLD => {
                    let (parameters, rows) = pair(bytes)?;
                    it.statements.last_mut()?.told = (number(parameters)?, number(rows)?);
                }
                tag::UNNAMED => it.unnamed = Some(bytes.to_vec()),
                tag::ASKS_SEQUENCES => it.asks_sequences = true,
                tag::LISTENS => it.listens = true,
                tag::INPUT => it.input = bytes.to_vec(),
                tag::SERVER => it.server = Some(Companion::decode(bytes)?),
                _ => {}
            }
            Some(())
        })?;
        (it.id != 0 && it.pid != 0 && !it.database.is_empty() && !it.login.is_empty()).then_some(it)
    }
}

impl Companion {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.pairs(tag::KEY, [(&self.pid.to_be_bytes()[..], &self.secret[..])]);
        out.put(if self.is_unix { tag::UNIX_HOST } else { tag::HOST }, &self.host);
        out.number(tag::PORT, self.port.into()).number(tag::CONNECTED, self.opened);
        out.number(tag::PINS, self.pins.into()).put(tag::BLAMED, &self.blamed);
        out.number(tag::PINNED_SINCE, self.pinned_since);
        if let Some((since, idle_since, firm, until)) = self.brief {
            let brief = [since, idle_since, firm.into(), until].map(u64::to_be_bytes);
            out.put(tag::BRIEF, brief.concat());
        }
        for name in &self.custom {
            out.put(tag::CUSTOM, name);
        }
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Companion> {
        let mut it = Companion::default();
        Fields(bytes).each(|tag, bytes| {
            match tag {
                tag::KEY => {
                    let (pid, secret) = pair(bytes)?;
                    it.pid = u32::from_be_bytes(pid.try_into().ok()?);
                    it.secret = secret.to_vec();
                }
                tag::HOST => it.host = text(bytes)?,
                tag::UNIX_HOST => (it.host, it.is_unix) = (text(bytes)?, true),
                tag::PORT => it.port = number(bytes)?.try_into().ok()?,
                tag::CONNECTED => it.opened = number(bytes)?,
                tag::PINS => it.pins = number(bytes)?.try_into().ok()?,
                tag::BLAMED => it.blamed = text(bytes)?,
                tag::PINNED_SINCE => it.pinned_since = number(bytes)?,
                tag::BRIEF => {
                    let (numbers, []) = bytes.as_chunks::<8>() else { return None };
                    let &[since, idle_since, firm, until] = numbers else { return None };
                    let [since, idle_since, firm, until] =
                        [since, idle_since, firm, until].map(u64::from_be_bytes);
                    it.brief = Some((since, idle_since, firm != 0, until));
                }
                tag::CUSTOM => it.custom.push(text(bytes)?),
                _ => {}
            }
            Some(())
        })?;
        Some(it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> Traveller {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        Traveller {
            id: 7,
            pid: 0x7fff_0001,
            secret: [0, 1, 2, 255],
            database: "app".into(),
            login: "ann".into(),
            connected: 1,
            requested: 2,
            idle_since: 3,
            params: pairs(&[("TimeZone", "UTC"), ("application_name", "")]),
            proven: true,
            settings: pairs(&[("search_path", "\"a b\", public")]),
            beginning: pairs(&[("work_mem", "1MB")]),
            began: Some(Vec::new()),
            statements: vec![
                Prepared { name: b"a\xff".into(), text: b"select 1\0\0\0".into(), told: (0, 9) },
                Prepared { name: b"b".into(), text: b"select 2\0\0\0".into(), told: (0, 0) },
            ],
            unnamed: Some(Vec::new()),
            asks_sequences: true,
            listens: true,
            input: b"Q\0\0".into(),
            server: Some(Companion {
                pid: 5,
                secret: vec![1, 2, 3, 4],
                host: "/run/postgresql".into(),
                is_unix: true,
                port: 5432,
                opened: 4,
                pins: 3,
                blamed: "create temp table t".into(),
                pinned_since: 5,
                brief: Some((6, 7, true, u64::MAX)),
                custom: vec!["app.user".into()],
            }),
        }
    }

    #[test]
    fn all_of_it_arrives() {
        let whole = somebody();
        assert_eq!(Traveller::decode(&whole.encode()), Some(whole));
        let bare = Traveller {
            server: None,
            began: None,
            unnamed: None,
            proven: false,
            asks_sequences: false,
            input: Vec::new(),
            ..somebody()
        };
        assert_eq!(Traveller::decode(&bare.encode()), Some(bare));
    }

    #[test]
    fn what_another_version_has_added_is_passed_over() {
        let mut bytes = Writer::default().put(200, b"new").finish();
        bytes.extend(somebody().encode());
        bytes.extend(Writer::default().flag(201, true).finish());
        assert_eq!(Traveller::decode(&bytes), Some(somebody()));
    }

    /// Nothing that was cut off or changed is taken for a session that it is not, nor does it end the process.
    #[test]
    fn damaged_ones_are_refused() {
        let bytes = somebody().encode();
        for end in 0..bytes.len() {
            assert_ne!(Traveller::decode(&bytes[..end]), Some(somebody()), "cut off at {end}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            let _ = Traveller::decode(&damaged);
        }
        assert_eq!(Traveller::decode(b""), None);
    }
}
