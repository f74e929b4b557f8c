//! What PostgreSQL would have in one session: random statements, what they do to it, and what they must answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use support::frontend::*;

use crate::probe::Random;

/// Settings that are changed, with values as the server shows them. None of them disturbs the hunt itself.
const SETTINGS: [(&str, &[&str]); 15] = [
    ("DateStyle", &["ISO, MDY", "German, DMY", "SQL, DMY"]),
    ("IntervalStyle", &["postgres", "iso_8601"]),
    ("TimeZone", &["UTC", "Asia/Tokyo", "Europe/Rome"]),
    ("app.tenant", &["blue", "it's \"green\"", "a, b"]),
    ("app.user_id", &["1", "2", "3", "4"]),
    ("application_name", &["first", "second"]),
    ("client_encoding", &["UTF8", "LATIN1"]),
    ("default_transaction_isolation", &["read committed", "repeatable read"]),
    ("enable_seqscan", &["on", "off"]),
    ("extra_float_digits", &["0", "1", "3"]),
    ("lock_timeout", &["0", "50s", "1min"]),
    ("search_path", &["one", "two, one", "\"three 3\", public", "\"\"", "nowhere"]),
    ("standard_conforming_strings", &["on", "off"]),
    ("statement_timeout", &["0", "40s", "2min"]),
    ("work_mem", &["4MB", "5MB", "12345kB"]),
];

/// What the server reports of them (and of the user), under the names of its messages.
const REPORTED: [&str; 7] = [
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "application_name",
    "client_encoding",
    "standard_conforming_strings",
    "session_authorization",
];

const ROLE: &str = "role";
const AUTHORIZATION: &str = "session_authorization";
pub(super) const ROLES: [&str; 2] = ["hunt_one", "hunt_two"];
/// A superuser, who may become others.
pub(super) const BOSS: &str = "hunt_boss";
/// Whom the superuser becomes.
pub(super) const OTHER: &str = "hunt_other";

/// What every database of a hunt holds: a table `who` in several schemas, so that a text means what its path makes of it.
pub(super) fn setup() -> String {
    let schemas = ["public", "one", "two", "\"three 3\""].map(|schema| {
        format!(
            "create schema if not exists {schema}; grant usage on schema {schema} to public; \
             create table {schema}.who as select '{}'::text v; grant select on {schema}.who to public;",
            schema.replace('"', "")
        )
    });
    let function = "create function public.change(text, text) returns text language plpgsql \
                    as 'begin return set_config($1, $2, false); end'";
    schemas.concat() + function
}

/// All that a session can see of itself, in one row of one column; its channels, too, or not: asking for them is what
/// the pooler acts upon.
fn sees(channels: bool) -> String {
    let settings = SETTINGS.map(|(name, _)| format!("coalesce(current_setting('{name}', true), '')"));
    let lists = [
        "relname order by relname) from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'",
        "objid::text order by objid) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "name order by name) from pg_cursors where is_holdable",
        "name order by name) from pg_prepared_statements where from_sql",
        "c order by c) from pg_listening_channels() c",
    ]
    .map(|list| format!("(select array_agg({list})::text"));
    format!(
        "select array[{}, current_user::text, session_user::text]::text || concat_ws(' ', {})",
        settings.join(","),
        lists[..4 + usize::from(channels)]
            .iter()
            .map(|list| format!("coalesce({list}, '{{}}')"))
            .collect::<Vec<_>>()
            .join(",")
    )
}

/// A value in the session, and the one that counts until the transaction ends.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    session: String,
    now: String,
}

impl Setting {
    fn both(value: &str) -> Setting {
        Setting { session: value.into(), now: value.into() }
    }
}

#[derive(Debug, Clone)]
struct Table {
    rows: usize,
    on_commit: &'static str,
}

/// What a transaction takes back.
#[derive(Debug, Clone, Default)]
struct Undoable {
    settings: BTreeMap<&'static str, Setting>,
    tables: BTreeMap<String, Table>,
    locks: BTreeSet<u64>,
    channels: BTreeSet<String>,
    /// `LISTEN` (true) and `UNLISTEN` of a channel, which count from the commit on.
    listens: Vec<(bool, String)>,
    notices: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
struct Cursor {
    position: u64,
    /// In how many transactions and savepoints it was made; 0: committed.
    depth: usize,
}

/// What a statement must answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Want {
    /// Success; rows do not count.
    Done,
    /// The first column of all rows.
    Rows(Vec<String>),
    /// An error with this SQLSTATE.
    Fails(&'static str),
}

/// A statement.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) shown: String,
    /// For a simple query.
    pub(super) simple: Option<String>,
    /// For the extended protocol, without `Sync`.
    pub(super) extended: Vec<u8>,
    /// `None`: its success does not show.
    pub(super) want: Option<Want>,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    number: u64,
    /// How many sessions the client has had: what is sent in one must not be heard in the next.
    life: u64,
    user: String,
    base: BTreeMap<&'static str, String>,
    now: Undoable,
    /// As it was at the beginning of the transaction and at each of its savepoints.
    levels: Vec<Undoable>,
    aborted: bool,
    locks: BTreeMap<u64, usize>,
    cursors: BTreeMap<String, Cursor>,
    protocol: BTreeMap<String, usize>,
    prepared: BTreeMap<String, usize>,
    payloads: u64,
    /// Notifications that must come, in order.
    pub(super) heard: VecDeque<(String, String)>,
    /// It may make what keeps its server.
    pub(super) may_pin: bool,
    /// What comes is sent before this is answered.
    pub(super) at_once: bool,
    /// `UNLISTEN` is among what is sent: in the same transaction a `NOTIFY` behind it would still come, and a `RESET ALL`
    /// hide what has ended.
    pub(super) unlistened: bool,
    pub(super) reset_all: bool,
    /// The settings of its start-up packet. What was reset returns to them when its `ReadyForQuery` came, which shows
    /// in messages that were sent before that.
    given: BTreeSet<&'static str>,
}

const MISSING: &str = "42P01";
const ABORTED: &str = "25P02";

impl Model {
    /// A new session, which begins with the server's settings and those of its start-up packet.
    pub(super) fn new(
        (number, life): (u64, u64),
        user: &str,
        defaults: &BTreeMap<String, String>,
        given: &[(&'static str, &'static str)],
    ) -> Model {
        let default = |name| defaults.get(name).cloned().unwrap_or_default();
        let mut base: BTreeMap<&str, String> =
            SETTINGS.iter().map(|(name, _)| (*name, default(*name))).collect();
        base.extend(given.iter().map(|(name, value)| (*name, (*value).to_owned())));
        base.insert(ROLE, "none".into());
        base.insert(AUTHORIZATION, user.into());
        let settings = base.iter().map(|(name, value)| (*name, Setting::both(value))).collect();
        Model {
            number,
            life,
            user: user.into(),
            base,
            now: Undoable { settings, ..Undoable::default() },
            levels: Vec::new(),
            aborted: false,
            locks: BTreeMap::new(),
            cursors: BTreeMap::new(),
            protocol: BTreeMap::new(),
            prepared: BTreeMap::new(),
            payloads: 0,
            heard: VecDeque::new(),
            may_pin: false,
            at_once: false,
            unlistened: false,
            reset_all: false,
            given: given.iter().map(|(name, _)| *name).collect(),
        }
    }

    /// Random settings for a start-up packet.
    pub(super) fn beginning(random: &mut Random) -> Vec<(&'static str, &'static str)> {
        let mut given = Vec::new();
        for (name, values) in SETTINGS {
            if random.one_in(8) {
                given.push((name, *pick(random, values)));
            }
        }
        given
    }

    fn get(&self, name: &str) -> &str {
        &self.now.settings[name].now
    }

    fn current_user(&self) -> &str {
        match self.get(ROLE) {
            "none" => self.get(AUTHORIZATION),
            role => role,
        }
    }

    /// Looks at all that there is. The channels show only outside a transaction, and in messages of their own.
    pub(super) fn look(&self, channels: bool) -> Piece {
        Piece { shown: "look".into(), ..plain(sees(channels), self.seen(channels)) }
    }

    /// What [`sees`] must answer.
    fn seen(&self, channels: bool) -> Want {
        let array = |items: Vec<String>| {
            let quoted = items.iter().map(|item| array_element(item));
            format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
        };
        let settings = SETTINGS.iter().map(|(name, _)| self.get(name).to_owned());
        let users = [self.current_user().to_owned(), self.get(AUTHORIZATION).to_owned()];
        let locks: BTreeSet<u64> = self.locks.keys().chain(&self.now.locks).copied().collect();
        let lists = [
            array(self.now.tables.keys().cloned().collect()),
            array(locks.iter().map(u64::to_string).collect()),
            array(self.cursors.keys().cloned().collect()),
            array(self.prepared.keys().cloned().collect()),
            array(self.now.channels.iter().cloned().collect()),
        ];
        Want::Rows(vec![
            array(settings.chain(users).collect()) + &lists[..4 + usize::from(channels)].join(" "),
        ])
    }

    /// Reported parameters that are not what they must be, as `(name, wanted)`.
    pub(super) fn misreported(&self, reported: &BTreeMap<String, String>) -> Option<(&'static str, &str)> {
        REPORTED
            .into_iter()
            .map(|name| (name, self.get(name)))
            .find(|(name, value)| reported.get(*name).map(String::as_str) != Some(value))
    }

    /// Something of it keeps its server.
    pub(super) fn is_pinned(&self) -> bool {
        let now = &self.now;
        let listens = !(now.channels.is_empty() && now.listens.is_empty());
        let has = !(now.tables.is_empty() && self.locks.is_empty() && self.cursors.is_empty());
        listens || has || !self.prepared.is_empty()
    }

    // ---- transactions ------------------------------------------------------------------------------------------

    pub(super) fn begin(&mut self) {
        self.levels = vec![self.now.clone()];
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// Ends the transaction as `COMMIT` does.
    pub(super) fn commit(&mut self) {
        if self.aborted {
            return self.roll_back();
        }
        let now = &mut self.now;
        now.settings.values_mut().for_each(|setting| setting.now = setting.session.clone());
        now.tables.retain(|_, table| table.on_commit != "drop");
        now.tables
            .values_mut()
            .filter(|table| table.on_commit == "delete rows")
            .for_each(|table| table.rows = 0);
        now.locks.clear();
        for (listen, channel) in std::mem::take(&mut now.listens) {
            match (listen, channel.as_str()) {
                (true, _) => drop(now.channels.insert(channel)),
                (false, "*") => now.channels.clear(),
                (false, _) => drop(now.channels.remove(&channel)),
            }
        }
        let notices = std::mem::take(&mut now.notices);
        self.heard.extend(notices.into_iter().filter(|(channel, _)| now.channels.contains(channel)));
        self.cursors.values_mut().for_each(|cursor| cursor.depth = 0);
        self.levels.clear();
    }

    pub(super) fn roll_back(&mut self) {
        self.now = self.levels.swap_remove(0);
        self.levels.clear();
        self.cursors.retain(|_, cursor| cursor.depth == 0);
        self.aborted = false;
    }

    /// `SAVEPOINT`, `ROLLBACK TO` or `RELEASE`, whatever is possible.
    pub(super) fn savepoint(&mut self, random: &mut Random) -> Piece {
        let last = self.levels.len() as u64 - 1;
        let chosen = 1 + if last > 0 { random.below(last) as usize } else { 0 };
        match random.below(3) {
            0 if last > 0 && !self.aborted => {
                self.levels.truncate(chosen);
                self.cursors.values_mut().for_each(|cursor| cursor.depth = cursor.depth.min(chosen));
                plain(format!("release s{chosen}"), Want::Done)
            }
            1 if !self.aborted => {
                self.levels.push(self.now.clone());
                plain(format!("savepoint s{}", last + 1), Want::Done)
            }
            _ if last > 0 => {
                self.now = self.levels[chosen].clone();
                self.levels.truncate(chosen + 1);
                self.cursors.retain(|_, cursor| cursor.depth <= chosen);
                self.aborted = false;
                plain(format!("rollback to s{chosen}"), Want::Done)
            }
            _ => self.fails("select 1/0", "22012"),
        }
    }

    fn fails(&mut self, sql: &str, code: &'static str) -> Piece {
        let code = if self.aborted { ABORTED } else { code };
        self.aborted = true;
        plain(sql, Want::Fails(code))
    }

    // ---- statements --------------------------------------------------------------------------------------------

    /// A random statement inside a transaction. `simple`: one for a simple query.
    pub(super) fn statement(&mut self, random: &mut Random, simple: bool) -> Piece {
        if self.aborted {
            return self.fails("select 1", ABORTED);
        }
        let own = self.get(AUTHORIZATION) == self.user && self.get(ROLE) == "none";
        match random.below(25) {
            0..=4 => self.set(random, simple),
            5 => self.reset(random, simple),
            6 => self.role(random),
            7 | 8 if self.may_pin && own => self.table(random),
            9 | 10 if self.may_pin => self.lock(random),
            11 | 12 if self.may_pin => self.cursor(random),
            13 if self.may_pin => self.prepare(random),
            14 | 15 | 24 if self.may_listen() => self.listen(random),
            16 => self.transaction_lock(random),
            17 => match random.below(4) {
                0 => self.fails("select * from does_not_exist", MISSING),
                1 => self.fails("set work_mem = 'much'", "22023"),
                2 => self.fails("select set_config('timezone', 'Nowhere', false)", "22023"),
                _ => self.fails("select 1/0", "22012"),
            },
            18 => self.look(false),
            19 => self.ask(random),
            _ if simple => self.set(random, simple),
            _ => self.protocol(random),
        }
    }

    /// Runs one statement as a transaction of its own.
    pub(super) fn alone(&mut self, statement: impl FnOnce(&mut Model) -> Piece) -> Piece {
        self.begin();
        let piece = statement(self);
        self.commit();
        piece
    }

    fn set(&mut self, random: &mut Random, simple: bool) -> Piece {
        let (name, values) = *pick(random, &SETTINGS);
        let value = *pick(random, values);
        if value == "LATIN1"
            && !self.may_pin
            && !(self.now.channels.is_empty() && self.now.listens.is_empty())
        {
            return self.ask(random);
        }
        let (text, local) = (quote(value), random.one_in(4));
        let bare = match name {
            "search_path" => value.replace("\"\"", "''"),
            _ => text.clone(),
        };
        let scope = if local { "local " } else { ["", "session "][random.below(2) as usize] };
        let sql = match random.below(7) {
            0 => format!("select set_config('{name}', {text}, {local})"),
            1 => format!("do $$ begin perform set_config('{name}', {text}, {local}); end $$"),
            2 if !local => format!("select public.change('{name}', {text})"),
            3 if name == "TimeZone" => format!("set {scope}time zone {text}"),
            4 => {
                // What an inner transaction has taken back.
                let inner = format!("perform set_config('{name}', {text}, {local}); perform 1/0;");
                let sql = format!("do $$ begin begin {inner} exception when others then null; end; end $$");
                return plain(sql, Want::Done);
            }
            5 if !simple => {
                self.change(name, value, local);
                let sql = format!("select set_config($1, $2, {local})");
                return bound(&sql, &[name, value], Want::Rows(vec![value.into()]));
            }
            _ => format!("set {scope}{name} = {bare}"),
        };
        self.change(name, value, local);
        plain(sql, Want::Done)
    }

    fn change(&mut self, name: &'static str, value: &str, local: bool) {
        let setting = self.now.settings.get_mut(name).expect("all are there");
        setting.now = value.into();
        if !local {
            setting.session = value.into();
        }
    }

    fn reset(&mut self, random: &mut Random, simple: bool) -> Piece {
        let (name, _) = *pick(random, &SETTINGS);
        let sql = match random.below(4) {
            _ if self.at_once && !self.given.is_empty() => return self.set(random, simple),
            0 if !self.unlistened => {
                self.reset_all = true;
                SETTINGS.iter().for_each(|(name, _)| self.reset_one(name));
                return plain("reset all", Want::Done);
            }
            1 => format!("set {name} to default"),
            _ => format!("reset {name}"),
        };
        self.reset_one(name);
        plain(sql, Want::Done)
    }

    fn reset_one(&mut self, name: &'static str) {
        let value = self.base[name].clone();
        self.change(name, &value, false);
    }

    /// The role goes with a change of the session's user, in ways that depend on the order: only without one.
    fn may_change_user(&self) -> bool {
        let none = |state: &Undoable| state.settings[ROLE] == Setting::both("none");
        none(&self.now) && self.levels.iter().all(none)
    }

    fn role(&mut self, random: &mut Random) -> Piece {
        if self.user == BOSS && self.may_change_user() && random.one_in(2) {
            let user = if random.one_in(2) { OTHER.to_owned() } else { self.user.clone() };
            self.change(AUTHORIZATION, &user, false);
            let sql = match user == OTHER {
                true => format!("set session authorization {OTHER}"),
                false => "reset session authorization".to_owned(),
            };
            return plain(sql, Want::Done);
        }
        let local = random.one_in(4);
        let (sql, role) = match (random.below(4), pick(random, &ROLES)) {
            (0, role) => (format!("set {}role {role}", if local { "local " } else { "" }), role),
            (1, role) => (format!("select set_config('role', '{role}', {local})"), role),
            (2, _) => {
                self.change(ROLE, "none", false);
                return plain("reset role", Want::Done);
            }
            _ => (format!("set {}role none", if local { "local " } else { "" }), &"none"),
        };
        self.change(ROLE, role, local);
        plain(sql, Want::Done)
    }

    fn table(&mut self, random: &mut Random) -> Piece {
        let name = format!("temp_{}", random.below(3));
        let Some(table) = self.now.tables.get_mut(&name) else {
            let on_commit = *pick(random, &["preserve rows", "delete rows", "drop"]);
            let schema = *pick(random, &["temp ", "temporary ", "pg_temp."]);
            let made = match schema {
                "pg_temp." => format!("table pg_temp.{name}"),
                _ => format!("{schema}table {name}"),
            };
            let sql = format!("create {made} (v int) on commit {on_commit}");
            self.now.tables.insert(name, Table { rows: 0, on_commit });
            return plain(maybe_inside(random, sql), Want::Done);
        };
        match random.below(3) {
            0 => {
                table.rows += 1;
                plain(format!("insert into pg_temp.{name} values (1)"), Want::Done)
            }
            1 => {
                let rows = table.rows.to_string();
                plain(format!("select count(*) from pg_temp.{name}"), Want::Rows(vec![rows]))
            }
            _ => {
                self.now.tables.remove(&name);
                plain(format!("drop table pg_temp.{name}"), Want::Done)
            }
        }
    }

    fn lock(&mut self, random: &mut Random) -> Piece {
        let key = self.number * 10 + random.below(3);
        match random.below(6) {
            0 | 1 => {
                let held = self.locks.remove(&key);
                if let Some(more) = held.map(|count| count - 1).filter(|count| *count > 0) {
                    self.locks.insert(key, more);
                }
                let answer = if held.is_some() { "t" } else { "f" };
                plain(format!("select pg_advisory_unlock({key})"), Want::Rows(vec![answer.into()]))
            }
            2 => {
                self.locks.clear();
                plain("select pg_advisory_unlock_all()", Want::Done)
            }
            3 => {
                *self.locks.entry(key).or_default() += 1;
                plain(format!("do $$ begin perform pg_advisory_lock({key}); end $$"), Want::Done)
            }
            _ => {
                *self.locks.entry(key).or_default() += 1;
                plain(format!("select pg_advisory_lock({key})"), Want::Done)
            }
        }
    }

    fn transaction_lock(&mut self, random: &mut Random) -> Piece {
        let key = self.number * 10 + 5 + random.below(3);
        self.now.locks.insert(key);
        plain(format!("select pg_advisory_xact_lock({key})"), Want::Done)
    }

    fn cursor(&mut self, random: &mut Random) -> Piece {
        const ROWS: u64 = 5;
        let (name, depth) = (format!("cursor_{}", random.below(2)), self.levels.len());
        let first = self.number * 1000;
        let Some(cursor) = self.cursors.get_mut(&name) else {
            let sql = format!(
                "declare {name} cursor with hold for select {first} + g from generate_series(1, {ROWS}) g"
            );
            self.cursors.insert(name, Cursor { position: 0, depth });
            return plain(sql, Want::Done);
        };
        if random.one_in(3) {
            self.cursors.remove(&name);
            return plain(format!("close {name}"), Want::Done);
        }
        cursor.position = (cursor.position + 1).min(ROWS + 1);
        let row = (cursor.position <= ROWS).then(|| (first + cursor.position).to_string());
        plain(format!("fetch 1 from {name}"), Want::Rows(row.into_iter().collect()))
    }

    fn prepare(&mut self, random: &mut Random) -> Piece {
        let name = format!("sql_{}", random.below(2));
        let Some(text) = self.prepared.get(&name).copied() else {
            let text = random.below(TEXTS.len() as u64) as usize;
            return match self.answer(text) {
                Want::Fails(code) => self.fails(&format!("prepare {name} as {}", TEXTS[text]), code),
                _ => {
                    self.prepared.insert(name.clone(), text);
                    plain(format!("prepare {name} as {}", TEXTS[text]), Want::Done)
                }
            };
        };
        if random.one_in(3) {
            self.prepared.remove(&name);
            return plain(format!("deallocate {name}"), Want::Done);
        }
        let want = self.run(text);
        plain(format!("execute {name}"), want)
    }

    /// In another encoding `LISTEN` keeps the server.
    fn may_listen(&self) -> bool {
        let encoding = &self.now.settings["client_encoding"];
        self.may_pin || *encoding == Setting::both("UTF8") && !self.given.contains("client_encoding")
    }

    fn listen(&mut self, random: &mut Random) -> Piece {
        let channel = format!("channel_{}_{}_{}", self.number, self.life, random.below(2));
        let sql = match random.below(6) {
            0 | 1 => {
                let sql = format!("listen {channel}");
                self.now.listens.push((true, channel));
                sql
            }
            2 if self.now.notices.is_empty() && !self.reset_all => {
                self.unlistened = true;
                let channel = if random.one_in(4) { "*".to_owned() } else { channel };
                let sql = format!("unlisten {channel}");
                self.now.listens.push((false, channel));
                sql
            }
            _ if self.unlistened => return self.ask(random),
            _ => {
                self.payloads += 1;
                let sql = format!("notify {channel}, '{}'", self.payloads);
                self.now.notices.push((channel, self.payloads.to_string()));
                sql
            }
        };
        plain(sql, Want::Done)
    }

    fn ask(&mut self, random: &mut Random) -> Piece {
        let text = random.below(TEXTS.len() as u64) as usize;
        let want = self.run(text);
        plain(TEXTS[text], want)
    }

    /// What a text answers now.
    fn answer(&self, text: usize) -> Want {
        let rows = |value: &str| Want::Rows(vec![value.to_owned()]);
        match text {
            0 => match self.get("search_path") {
                "one" => rows("one"),
                "two, one" => rows("two"),
                "\"three 3\", public" => rows("three 3"),
                "\"\"" | "nowhere" => Want::Fails(MISSING),
                _ => rows("public"),
            },
            1 => rows(self.get("app.user_id")),
            2 => rows(self.current_user()),
            _ => rows(match self.get("DateStyle") {
                "German, DMY" => "21.11.2026",
                "SQL, DMY" => "21/11/2026",
                _ => "2026-11-21",
            }),
        }
    }

    /// The same, for one that is run: an error counts.
    fn run(&mut self, text: usize) -> Want {
        let want = self.answer(text);
        self.aborted |= matches!(want, Want::Fails(_));
        want
    }

    /// Named statements of the protocol: the same few names in all clients.
    fn protocol(&mut self, random: &mut Random) -> Piece {
        let name = format!("s{}", random.below(3));
        let execute = || [bind("", &name, &[]), execute("", 0)].concat();
        match self.protocol.get(&name).copied() {
            // On a server that has to parse it first this is 26000, not 42P01.
            Some(text) if matches!(self.answer(text), Want::Fails(_)) => self.set(random, false),
            None => {
                let text = random.below(TEXTS.len() as u64) as usize;
                let made = parse(&name, TEXTS[text], &[]);
                let want = self.run(text);
                if !self.aborted {
                    self.protocol.insert(name.clone(), text);
                }
                let made = [made, describe_statement(&name)].concat();
                messages(
                    format!("Parse and run {name}: {}", TEXTS[text]),
                    [made, execute()].concat(),
                    Some(want),
                )
            }
            Some(_) if random.one_in(4) => {
                self.protocol.remove(&name);
                messages(format!("Close {name}"), close_statement(&name), None)
            }
            Some(_) if random.one_in(6) => {
                self.aborted = true;
                let again = parse(&name, "select 'again'", &[]);
                messages(format!("Parse {name} again"), again, Some(Want::Fails("42P05")))
            }
            Some(text) => {
                let want = self.run(text);
                messages(format!("run {name}: {}", TEXTS[text]), execute(), Some(want))
            }
        }
    }

    // ---- ends --------------------------------------------------------------------------------------------------

    /// A statement that can't be in a transaction and takes off much or all; `None` if not now.
    pub(super) fn discard(&mut self, random: &mut Random, all: bool) -> Option<Piece> {
        if !all && random.one_in(2) {
            let sql = *pick(random, &["discard temp", "discard plans", "deallocate all"]);
            match sql {
                "discard temp" => self.now.tables.clear(),
                "deallocate all" => self.deallocate(),
                _ => {}
            }
            return Some(plain(sql, Want::Done));
        }
        if !self.may_change_user() {
            return None;
        }
        self.deallocate();
        self.locks.clear();
        self.cursors.clear();
        self.now.tables.clear();
        self.now.channels.clear();
        SETTINGS.iter().map(|(name, _)| *name).chain([AUTHORIZATION]).for_each(|name| self.reset_one(name));
        Some(plain("discard all", Want::Done))
    }

    fn deallocate(&mut self) {
        self.protocol.clear();
        self.prepared.clear();
    }

    /// The statements that end all for which the server is kept, one by one.
    pub(super) fn tidy(&mut self) -> Vec<Piece> {
        let mut sql: Vec<String> = Vec::new();
        sql.extend(self.cursors.keys().map(|name| format!("close {name}")));
        sql.extend(self.prepared.keys().map(|name| format!("deallocate {name}")));
        sql.extend(self.now.tables.keys().map(|name| format!("drop table pg_temp.{name}")));
        sql.extend(self.now.channels.iter().map(|name| format!("unlisten {name}")));
        let locks = self.locks.iter().flat_map(|(key, count)| std::iter::repeat_n(key, *count));
        sql.extend(locks.map(|key| format!("select pg_advisory_unlock({key})")));
        let became_other = self.get(AUTHORIZATION) != self.user;
        if became_other || self.get(ROLE) != "none" {
            let back = if became_other { "reset session authorization" } else { "reset role" };
            sql.splice(0..0, ["reset role".to_owned(), back.to_owned()]);
            self.reset_one(ROLE);
            self.reset_one(AUTHORIZATION);
        }
        self.cursors.clear();
        self.prepared.clear();
        self.locks.clear();
        self.now.tables.clear();
        self.now.channels.clear();
        sql.into_iter().map(|sql| plain(sql, Want::Done)).collect()
    }
}

/// What prepared statements say; see [`Model::answer`].
const TEXTS: [&str; 4] = [
    "select v from who",
    "select coalesce(current_setting('app.user_id', true), '')",
    "select current_user::text",
    "select '2026-11-21'::date::text",
];

pub(super) fn plain(sql: impl Into<String>, want: Want) -> Piece {
    let sql = sql.into();
    let extended = bound(&sql, &[], want.clone()).extended;
    Piece { shown: sql.clone(), simple: Some(sql), extended, want: Some(want) }
}

fn bound(sql: &str, values: &[&str], want: Want) -> Piece {
    let all: Vec<Option<&str>> = values.iter().map(|value| Some(*value)).collect();
    let extended = [parse("", sql, &[]), bind("", "", &all), execute("", 0)].concat();
    messages(format!("{sql} with {values:?}"), extended, Some(want))
}

fn messages(shown: String, extended: Vec<u8>, want: Option<Want>) -> Piece {
    Piece { shown, simple: None, extended, want }
}

/// As it is, or inside a function's body.
fn maybe_inside(random: &mut Random, sql: String) -> String {
    match random.one_in(3) {
        true => format!("do $$ begin {sql}; end $$"),
        false => sql,
    }
}

pub(super) fn pick<'a, T>(random: &mut Random, list: &'a [T]) -> &'a T {
    &list[random.below(list.len() as u64) as usize]
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// As PostgreSQL writes it in an array.
fn array_element(text: &str) -> String {
    let special = |c: char| "{},\"\\ ".contains(c);
    match text.is_empty() || text.contains(special) || text.eq_ignore_ascii_case("null") {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        false => text.to_owned(),
    }
}
