//! Which host a request goes to, and what becomes of one that can't stay where it went.

use std::sync::Arc;
use std::time::Duration;

use protocol::error_fields::ErrorMessage;
use protocol::frame::{HEADER_LEN, put};
use protocol::message::TxStatus;
use protocol::sqlstate::SqlState;

use super::deadline::sent_text;
use super::request::Incoming;
use super::trial::{Armed, Trial};
use super::{End, Session};
use crate::cluster::{Causal, Cluster, Member, NoReplica, Wanted};
use crate::config::{PoolMode, ReadConsistency, ReplicaFallback, Route};
use crate::error::Refusal;
use crate::pool::Pool;
use crate::prepared::split_name;
use crate::routing::{self, Defaults, Nature, Target, Why};

/// More of a request (bytes) is not looked at before it is sent: it goes to the primary.
const LONGEST_REQUEST: usize = 64 << 10;

/// How long a read that must see what others have written waits where nothing is configured.
const STRONG_WAIT: Duration = Duration::from_millis(100);

/// It is limited by the time that clients wait for any server.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The setting that says where a client's requests go.
pub(crate) const ROUTE: &str = "pgferry.route";
const CAUSAL_KEY: &str = "pgferry.causal_key";
const CAUSAL_TOKEN: &str = "pgferry.causal_token";

/// The values that these have.
pub(crate) const ROUTES: &str =
    "Write auto, primary, replica or prefer-standby, or a word of target_session_attrs.";
const TOKENS: &str = "Take what SHOW pgferry.causal_token has answered.";

/// What a client that asks for its causality token is answered by the primary.
const TOKEN_SQL: &str =
    "SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text AS \"pgferry.causal_token\"";

/// What a client has to do with the choice of hosts.
#[derive(Debug)]
pub(super) struct Reading {
    /// Its own route, if it has said one.
    route: Option<Route>,
    /// The modes that its transactions have by default.
    defaults: Defaults,
    causal: Arc<Causal>,
    /// Where the request at hand goes, if not to the primary.
    target: Option<Arc<Pool>>,
    why: Why,
    /// Members that have failed the request at hand, by their indices as bits.
    without: u64,
    /// The request at hand goes to the primary, because a replica has refused it.
    refused: bool,
    /// When the request at hand began to wait for a replica, in microseconds; 0: it does not.
    asked: u64,
    /// Until when it waits.
    patience: u64,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading {
            route: None,
            defaults: Defaults::default(),
            causal: Arc::default(),
            target: None,
            why: Why::Nothing,
            without: 0,
            refused: false,
            asked: 0,
            patience: 0,
        }
    }
}

/// What was seen of a request before any of it is sent.
struct Ahead {
    nature: Nature,
    /// Its length in bytes.
    len: usize,
    /// A replica has refused it before.
    remembered: bool,
}

/// Where a request goes.
enum Aim {
    Home,
    Site(Arc<Pool>),
    /// Nowhere yet: for so long it waits for a replica.
    Patience(Duration),
}

impl Session {
    /// The pool whose server the request at hand gets.
    pub(super) fn aimed_at(&self) -> &Arc<Pool> {
        self.reading.as_ref().and_then(|reading| reading.target.as_ref()).unwrap_or(&self.pool)
    }

    /// Decides where the request goes that begins with this message. False: it has to wait for a replica.
    pub(super) fn aim(&mut self, message: &Incoming<'_>) -> bool {
        let Some(cluster) = self.pool.cluster() else { return true };
        let now = self.worker.now();
        self.begin_reading();
        let ahead = self.look_ahead(message);
        let (why, aim) = self.choose(&cluster, ahead.as_ref(), now);
        let Some(reading) = &mut self.reading else { return true };
        reading.why = why;
        match aim {
            Aim::Patience(time) => {
                if reading.asked == 0 {
                    (reading.asked, reading.patience) = (now, now + time.as_micros() as u64);
                }
                return false;
            }
            Aim::Home => reading.target = None,
            Aim::Site(pool) => reading.target = Some(pool),
        }
        reading.asked = 0;
        self.pool.routed.count(why);
        true
    }

    fn begin_reading(&mut self) {
        if self.reading.is_none() {
            self.reading = Some(Box::default());
            self.note_reading();
        }
    }

    fn choose(&mut self, cluster: &Arc<Cluster>, ahead: Option<&Ahead>, now: u64) -> (Why, Aim) {
        let for_session = self.mode() == PoolMode::Session;
        let rules = self.pool.rules.load();
        let routing = &*rules.routing;
        let config = self.pool.shared.config.load();
        let Some(reading) = &self.reading else { return (Why::Nothing, Aim::Home) };
        let route = routing.heeded(reading.route.unwrap_or(routing.route));
        if reading.refused {
            return (Why::Again, Aim::Home);
        }
        // Who keeps its server for its session says beforehand where that is to be.
        let ahead = ahead.filter(|_| !for_session);
        let why = routing::decide(routing, route, reading.defaults, ahead.map(|ahead| ahead.nature));
        if why.target() == Target::Primary {
            return (why, Aim::Home);
        }
        if route == Route::Auto && ahead.is_some_and(|ahead| ahead.remembered) {
            return (Why::Remembered, Aim::Home);
        }
        let (needs, patience) = match routing.consistency {
            ReadConsistency::Eventual => (Ok(None), Duration::ZERO),
            ReadConsistency::Session => (reading.causal.needs(cluster, now), routing.consistency_wait),
            ReadConsistency::Strong => {
                let wait = Some(routing.consistency_wait).filter(|wait| !wait.is_zero());
                let wait = wait.unwrap_or(STRONG_WAIT);
                // The moment at which it came, however often it is looked at.
                let came = if reading.asked == 0 { now } else { reading.asked };
                (cluster.bound(came).map(Some).ok_or(crate::cluster::NotYet), wait)
            }
        };
        let found = match needs {
            Ok(seen) => cluster.choose(Wanted {
                seen,
                without: reading.without,
                zone: config.probes.zone.as_deref(),
                max_lag: routing.max_lag.map(|lag| lag.as_micros() as u64),
                random: (now ^ self.local.info.id.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            }),
            Err(_) => Err(NoReplica::Behind),
        };
        let lacking = match found {
            Ok(member) => return (why, Aim::Site(self.pool.at(&member))),
            Err(lacking) => lacking,
        };
        let why = match lacking {
            NoReplica::Behind => {
                cluster.wants_sample();
                Why::Behind
            }
            NoReplica::NoneHealthy => Why::NoReplica,
        };
        let strict = route == Route::Replica || routing.fallback == ReplicaFallback::Error;
        let patience = match lacking {
            _ if strict => FOR_EVER,
            NoReplica::NoneHealthy if self.guests_are_many(routing) => FOR_EVER,
            NoReplica::NoneHealthy => Duration::ZERO,
            NoReplica::Behind => patience,
        };
        let over = reading.asked != 0 && now >= reading.patience;
        match patience.is_zero() || over {
            true => (why, Aim::Home),
            false => (why, Aim::Patience(patience)),
        }
    }

    /// The primary has as many reads of this pool as it may have that are for replicas.
    fn guests_are_many(&self, routing: &crate::config::Routing) -> bool {
        let share = routing.primary_read_share.get();
        let size = self.pool.rules.load().size;
        size.is_some_and(|size| {
            let most = size as u64 * u64::from(share) / u64::from(crate::config::Share::WHOLE);
            share < crate::config::Share::WHOLE && self.pool.guests.get() as u64 >= most
        })
    }

    /// Looks at a whole request: a simple query, or a batch up to its `Sync`. `None`: not all of it has come, or it has
    /// something of which nobody knows beforehand what it does.
    fn look_ahead(&self, message: &Incoming<'_>) -> Option<Ahead> {
        let bytes = message.read.get(message.at..)?;
        let routing = &self.pool.rules.load().routing;
        let refused = &self.pool.db.refused;
        let mut ahead = Ahead { nature: Nature::NOTHING, len: 0, remembered: false };
        let mut parsed: Vec<&[u8]> = Vec::new();
        for (tag, body) in messages(bytes) {
            ahead.len += HEADER_LEN + body.len();
            if ahead.len > LONGEST_REQUEST {
                return None;
            }
            let (nature, text) = match tag {
                b'Q' | b'P' => {
                    let text = sent_text(tag, body);
                    (routing::nature_of(routing, text), text)
                }
                b'B' | b'D' => match self.meant(tag, body, &parsed)? {
                    Some((nature, text)) if nature.kind == routing::Plain::Calls => {
                        match routing.read_functions.is_empty() {
                            true => (nature, text),
                            false => (routing::nature_of(routing, text), text),
                        }
                    }
                    Some(meant) => meant,
                    None => continue,
                },
                b'S' => return Some(ahead),
                b'E' | b'C' | b'H' => continue,
                _ => return None,
            };
            ahead.nature = ahead.nature.then(nature);
            ahead.remembered |= !refused.is_empty() && refused.contains(self.worker.fingerprints.of(text));
            match tag {
                b'Q' if ahead.len == HEADER_LEN + body.len() => return Some(ahead),
                b'Q' => return None, // within a batch
                b'P' => parsed.extend(split_name(body).map(|(name, _)| name)),
                _ => {}
            }
        }
        None
    }

    /// What a `Bind` or a `Describe` is about, unless the batch itself has parsed it. `None`: nobody knows.
    fn meant(&self, tag: u8, body: &[u8], parsed: &[&[u8]]) -> Option<Option<(Nature, &[u8])>> {
        let name = match tag {
            b'B' => split_name(split_name(body)?.1)?.0,
            _ if body.first() == Some(&b'S') => split_name(&body[1..])?.0,
            _ => return Some(None), // a portal: its Bind was looked at
        };
        match parsed.contains(&name) {
            true => Some(None),
            false => self.statements.nature(name).map(Some),
        }
    }

    /// Whether the request that begins with this message may go to the replica whose server the client has. If not, it
    /// waits for what is under way, and then for a server of its own.
    pub(super) fn may_follow(&mut self, message: &Incoming<'_>) -> bool {
        let Some(link) = &mut self.link else { return true };
        let machine = &link.server.machine;
        if machine.batch_is_open() || !link.server.pins.is_empty() || link.exclusive {
            return true;
        }
        if matches!(link.trial, Trial::None) {
            // What the client has just set may be where it wants to go.
            link.parting = link.audit.is_some() && link.audit_matters;
            return !link.parting;
        }
        if !matches!(message.tag, b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F' | b'S' | b'H') {
            return true;
        }
        if machine.requests_owed() > 0 {
            link.stalled = true;
            return false;
        }
        if machine.status() != TxStatus::Idle {
            return true;
        }
        match link.trial {
            Trial::Over(_) => {
                link.parting = true;
                false
            }
            _ => {
                self.begin_trial(message);
                true
            }
        }
    }

    fn begin_trial(&mut self, message: &Incoming<'_>) {
        let ahead = self.look_ahead(message);
        let auto = self.reading.as_ref().is_some_and(|reading| reading.why != Why::RouteReplica);
        let Some(link) = &mut self.link else { return };
        link.trial = match ahead {
            Some(ahead) if ahead.nature.only_reads() => Trial::Armed(Box::new(Armed {
                request: message.read[message.at..message.at + ahead.len].to_vec(),
                reply: Vec::new(),
                movable: auto,
                refused: false,
                fatal: false,
            })),
            _ => Trial::Over(Vec::new()), // the client's own wish: it hears what the replica says
        };
    }

    /// The replica has refused the request, which another host answers then.
    pub(super) fn move_to_primary(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.parting = true;
        let Trial::Armed(trial) = std::mem::replace(&mut link.trial, Trial::Over(Vec::new())) else { return };
        let cluster = self.pool.cluster();
        self.remember(&trial.request);
        if let Some(reading) = self.reading.as_mut().filter(|_| cluster.is_some()) {
            reading.refused = true;
        }
        self.take_again(trial.request);
    }

    /// The client's server was lost. True: the client need not notice, because nothing was under way, or what was goes to
    /// another host.
    pub(super) fn survives_loss(&mut self) -> bool {
        let survives =
            |link: &super::Link| matches!(link.trial, Trial::Armed(_)) || link.has_nothing_to_lose();
        if self.leaving || !self.pool.is_clustered() || !self.link.as_ref().is_some_and(survives) {
            return false;
        }
        let Some(mut link) = self.link.take() else { return false };
        let trial = std::mem::take(&mut link.trial);
        self.unlinked();
        self.local.cancels.take();
        if let (Some(reading), Some(site)) = (&mut self.reading, &link.server.pool().site) {
            reading.without |= bit(&site.member);
        }
        let mut server = link.into_server();
        server.machine.lose();
        server.close("server conn crashed?");
        self.unpin();
        let _ = self.note_pins(); // there are no more than before
        match trial {
            Trial::Armed(trial) => self.take_again(trial.request),
            _ => self.resume = !self.input.is_empty(),
        }
        true
    }

    /// The request comes to its turn once more, as if the client sent it now.
    fn take_again(&mut self, mut request: Vec<u8>) {
        for (tag, body) in messages(&request) {
            if let (b'P', Some((name, _))) = (tag, split_name(body))
                && !name.is_empty()
            {
                self.statements.retract(name); // or it would be one too many
            }
        }
        request.append(&mut self.input);
        self.input = request;
        self.resume = true;
    }

    /// Requests like this one are not tried at a replica any more.
    pub(super) fn remember(&self, request: &[u8]) {
        for (tag, body) in messages(request) {
            let text = match tag {
                b'B' => self.statements.bound(body).map_or(&[][..], |(text, ..)| text),
                _ => sent_text(tag, body),
            };
            if !text.is_empty() {
                self.pool.db.refused.insert(self.worker.fingerprints.of(text));
            }
        }
    }

    /// The pool at the replica has no server for the request at hand, and will have none soon.
    pub(super) fn try_elsewhere(&mut self, pool: &Pool) {
        if let (Some(reading), Some(site)) = (&mut self.reading, &pool.site) {
            reading.without |= bit(&site.member);
            reading.target = None;
        }
    }

    /// The request at hand has a server. Says whether it is for replicas but at the primary, and whether it may write
    /// although its text does not look like it.
    pub(super) fn has_arrived(&mut self) -> (bool, bool) {
        let Some(reading) = &mut self.reading else { return (false, false) };
        reading.without = 0;
        reading.asked = 0;
        let writes = std::mem::take(&mut reading.refused) || reading.why == Why::Remembered;
        (reading.why == Why::NoReplica, writes)
    }

    /// The request at hand is for a replica, for which it waits.
    pub(super) fn awaits_replica(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.asked != 0)
    }

    /// Waits until something was observed of the cluster, or it has waited for long enough.
    pub(super) async fn wait_for_replica(&mut self) -> Result<(), End> {
        let Some(cluster) = self.pool.cluster() else { return Ok(()) };
        let mut observed = cluster.observed();
        let now = self.worker.shared.clock.micros();
        let waits = self.reading.as_ref().map(|reading| (reading.asked, reading.patience));
        let (asked, patience) = waits.unwrap_or((now, now));
        if let Some(refusal) = self.wait_limit().over(now.saturating_sub(asked)) {
            return Err(End::Refused(refusal));
        }
        // A look now and then, for limits of other kinds.
        let time = Duration::from_micros(patience.saturating_sub(now)).min(Duration::from_millis(100));
        let _ = self.or_gone(tokio::time::timeout(time, observed.changed())).await?;
        self.worker.stamp();
        Ok(())
    }

    /// The client has written: what it reads from now on includes that.
    pub(super) fn note_write(&mut self) {
        if !self.follows.routes {
            return;
        }
        if let (Some(reading), Some(cluster)) = (&self.reading, self.pool.cluster()) {
            reading.causal.wrote(self.worker.shared.clock.micros());
            cluster.wants_sample();
        }
    }

    /// The bytes that a client has sent, if it asks for its causality token there: with a question in its place that the
    /// primary can answer.
    pub(super) fn with_token(&self, input: &[u8]) -> Option<Vec<u8>> {
        let token = b"causal_token";
        let may_ask = self.follows.routes && self.cutter.at_boundary();
        if !may_ask || !input.windows(token.len()).any(|word| word.eq_ignore_ascii_case(token)) {
            return None;
        }
        let (mut out, mut at) = (Vec::new(), 0);
        for (tag, body) in messages(input) {
            let end = at + HEADER_LEN + body.len();
            if matches!(tag, b'Q' | b'P') && asks_for_token(sent_text(tag, body)) {
                let name = if tag == b'P' { split_name(body).map_or(&[][..], |(name, _)| name) } else { &[] };
                put(&mut out, tag, |out| {
                    if tag == b'P' {
                        out.extend_from_slice(name);
                        out.push(0);
                    }
                    out.extend_from_slice(TOKEN_SQL.as_bytes());
                    out.extend_from_slice(if tag == b'P' { b"\0\0\0" } else { b"\0" });
                });
            } else {
                out.extend_from_slice(&input[at..end]);
            }
            at = end;
        }
        out.extend_from_slice(&input[at..]);
        Some(out)
    }

    /// Its server's host is no more what it was when the client got that server. Ends what can't go on: nobody may write to
    /// a former primary.
    pub(super) fn heed_roles(&mut self) -> Option<End> {
        let cluster = self.pool.cluster()?;
        let link = self.link.as_ref()?;
        match &link.server.pool().site {
            Some(site) => {
                if !cluster.is_usable(&site.member) {
                    self.survives_loss();
                }
                None
            }
            None => {
                let info = &link.server.info;
                let primary = cluster.primary()?;
                if (&primary.host, primary.port) == (&info.host, info.port) {
                    return None;
                }
                let begun = link.query_since != 0 || link.xact_since != 0;
                let keeps = begun || !link.has_nothing_to_lose();
                if !keeps {
                    self.survives_loss();
                }
                keeps.then(|| self.lost_server("another host has become the primary"))
            }
        }
    }

    /// What a client is told whose server is gone. A transaction that was being committed may have been.
    pub(super) fn lost(&self, why: &str) -> Refusal {
        let Some(link) = &self.link else { return Refusal::fatal("server conn crashed?") };
        let text = link.server.info.text();
        let nature = Nature::from(sql::scan(&text).access);
        let commits = link.query_since != 0
            && match link.server.machine.status() {
                TxStatus::Idle => !nature.only_reads(),
                TxStatus::Open => nature.transaction == sql::Transaction::Ends,
                TxStatus::Failed => false,
            };
        let refusal: Refusal = match commits {
            true => ErrorMessage::fatal(
                SqlState::STATEMENT_COMPLETION_UNKNOWN,
                format!("the server connection was lost while the transaction was being committed: {why}"),
            )
            .with_detail("It is not known whether the transaction was committed.")
            .with_hint("Look whether its changes are there before you repeat it.")
            .into(),
            false => ErrorMessage::fatal(SqlState::ADMIN_SHUTDOWN, format!("terminating connection: {why}"))
                .with_detail("The transaction, if one was open, was rolled back.")
                .into(),
        };
        refusal.because("server lost")
    }

    /// Takes over what the client's settings say of hosts.
    pub(super) fn note_reading(&mut self) {
        let Some(mut reading) = self.reading.take() else { return };
        let settings = self.settings.values();
        reading.route = settings.get(ROUTE).and_then(|word| Route::of(word));
        if let (Some(key), Some(cluster)) = (settings.get(CAUSAL_KEY), self.pool.cluster()) {
            reading.causal = cluster.keys().of(key);
        }
        let said = self.pool.welcome();
        let reported = |name: &str| {
            let said = said.as_ref()?;
            said.untracked.iter().find(|(said, _)| said == name).map(|(_, value)| value.as_str())
        };
        let now = |name: &str| settings.get(name).map(|value| &**value).or_else(|| reported(name));
        reading.defaults = Defaults {
            read_only: now("default_transaction_read_only") == Some("on"),
            serializable: now("default_transaction_isolation") == Some("serializable"),
        };
        self.reading = Some(reading);
    }

    /// Takes over a setting of a text that runs, before an audit tells.
    pub(super) fn note_own_setting(&mut self, name: &[u8], value: Option<&str>) {
        if !self.follows.routes {
            return;
        }
        let cluster = self.pool.cluster();
        let Some(cluster) = cluster else { return };
        self.begin_reading();
        let Some(reading) = &mut self.reading else { return };
        let mut wrong = None;
        match name {
            name if name == ROUTE.as_bytes() => {
                let route = value.map(Route::of);
                if route == Some(None) {
                    wrong = Some((ROUTE, ROUTES));
                }
                reading.route = route.flatten();
            }
            name if name == CAUSAL_KEY.as_bytes() => {
                reading.causal = match value {
                    Some(key) if !key.is_empty() => cluster.keys().of(key),
                    _ => Arc::default(),
                };
            }
            name if name == CAUSAL_TOKEN.as_bytes() => {
                match value.map(str::trim).filter(|value| !value.is_empty()).map(str::parse) {
                    Some(Ok(lsn)) => reading.causal.must_see(lsn, cluster.epoch()),
                    Some(Err(_)) => wrong = Some((CAUSAL_TOKEN, TOKENS)),
                    None => {}
                }
            }
            _ => {}
        }
        if let Some((name, hint)) = wrong {
            self.warn_of_value(format!("this value of {name} is none: it has no effect"), hint);
        }
    }
}

/// `SHOW pgferry.causal_token`, and nothing else.
fn asks_for_token(text: &[u8]) -> bool {
    let text = text.trim_ascii().strip_suffix(b";").unwrap_or(text.trim_ascii());
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let is = |word: Option<&[u8]>, other: &str| {
        word.is_some_and(|word| word.eq_ignore_ascii_case(other.as_bytes()))
    };
    is(words.next(), "show") && is(words.next(), CAUSAL_TOKEN) && words.next().is_none()
}

fn bit(member: &Member) -> u64 {
    1 << (member.index % 64)
}

/// Whole messages, by tag and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let [tag, length @ ..] = *header;
        let end = (u32::from_be_bytes(length) as usize).checked_add(1)?;
        let body = bytes.get(HEADER_LEN..end)?;
        bytes = &bytes[end..];
        Some((tag, body))
    })
}
