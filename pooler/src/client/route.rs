//! Which host a request goes to.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use protocol::frame::{HEADER_LEN, messages};

use super::deadline::sent_text;
use super::request::Incoming;
use super::{End, Session};
use crate::cluster::{Causal, Cluster, NoReplica, Wanted};
use crate::config::{PoolMode, ReadConsistency, ReplicaFallback, Route};
use crate::pool::Pool;
use crate::prepared::split_name;
use crate::routing::{self, Defaults, Nature, Seen, Target, Why};
use crate::worker::Waits;

/// More of a request (bytes) is not looked at before it is sent: it goes to the primary.
const LONGEST_REQUEST: usize = 64 << 10;

/// How long a read that must see what others have written waits where nothing is configured.
const STRONG_WAIT: Duration = Duration::from_millis(100);

/// It is limited by the time that clients wait for any server.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// What a client has to do with the choice of hosts.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Its own route, if it has said one.
    pub(super) route: Option<Route>,
    /// The modes that its transactions have by default.
    pub(super) defaults: Defaults,
    pub(super) causal: Arc<Causal>,
    /// Where the request at hand goes, if not to the primary.
    pub(super) target: Option<Arc<Pool>>,
    pub(super) why: Why,
    /// Members that have failed the request at hand, by their indices as bits.
    pub(super) without: u64,
    /// How many servers the request at hand has lost while they ran it.
    pub(super) lost: u8,
    /// The request at hand goes to the primary, because a replica has refused it.
    pub(super) refused: bool,
    /// When the request at hand began to wait for a replica, in microseconds; 0: it does not.
    pub(super) asked: u64,
    /// Until when it waits.
    pub(super) patience: u64,
}

impl Reading {
    /// There is nothing to choose from any more: every request is for the pool itself.
    fn end_choice(&mut self) {
        (self.target, self.why, self.asked) = (None, Why::Off, 0);
    }
}

/// What was seen of a request before any of it is sent.
pub(super) struct Ahead {
    pub(super) seen: Seen,
    /// Its length in bytes.
    pub(super) len: usize,
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

    /// Decides where the request goes that begins with this message, by what is seen `ahead`. False: it has to wait for a
    /// replica.
    pub(super) fn aim(&mut self, message: &Incoming<'_>, ahead: &mut Option<Ahead>) -> bool {
        let Some(cluster) = self.pool.cluster().filter(|_| self.follows.routes) else {
            self.reading.iter_mut().for_each(|reading| reading.end_choice());
            return true;
        };
        let now = self.worker.now();
        self.begin_reading();
        *ahead = self.look_ahead(message);
        let (why, aim) = self.choose(&cluster, ahead.as_ref(), now);
        let Some(reading) = &mut self.reading else { return true };
        reading.why = why;
        match aim {
            Aim::Patience(time) => {
                if reading.asked == 0 {
                    (reading.asked, reading.patience) = (now, now + time.as_micros() as u64);
                }
                reading.without = 0; // by the next look they may be well
                return false;
            }
            Aim::Home => reading.target = None,
            Aim::Site(pool) => reading.target = Some(pool),
        }
        reading.asked = 0;
        self.pool.routed.count(why);
        true
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
        let why = routing::decide(routing, route, reading.defaults, ahead.map(|ahead| ahead.seen));
        if why.target() == Target::Primary {
            return (why, Aim::Home);
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
    pub(super) fn look_ahead(&self, message: &Incoming<'_>) -> Option<Ahead> {
        let bytes = message.read.get(message.at..)?;
        let routing = &self.pool.rules.load().routing;
        let refused = &self.pool.db.refused;
        let mut seen = Seen { nature: Nature::NOTHING, refused: false };
        let mut len = 0;
        let mut parsed: Vec<&[u8]> = Vec::new();
        for (tag, body) in messages(bytes) {
            len += HEADER_LEN + body.len();
            if len > LONGEST_REQUEST {
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
                b'S' => return Some(Ahead { seen, len }),
                b'E' | b'C' | b'H' => continue,
                _ => return None,
            };
            seen.nature = seen.nature.then(nature);
            seen.refused |= !refused.is_empty() && refused.contains(self.worker.fingerprints.of(text));
            match tag {
                b'Q' if len == HEADER_LEN + body.len() => return Some(Ahead { seen, len }),
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

    /// The pool at the replica has no server for the request at hand, and will have none soon.
    pub(super) fn try_elsewhere(&mut self, pool: &Pool) {
        if let (Some(reading), Some(site)) = (&mut self.reading, &pool.site) {
            reading.without |= site.member.bit();
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
        let local = self.local.clone();
        let cancelled = poll_fn(|_| match local.cancelled_late.get() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        let waiting = async {
            tokio::select! {
                biased;
                () = cancelled => {}
                _ = tokio::time::timeout(time, observed.changed()) => {}
            }
        };
        *self.local.waits.borrow_mut() = Some(Waits::ForReplica);
        let waited = self.or_gone(waiting).await;
        *self.local.waits.borrow_mut() = None;
        waited?;
        self.worker.stamp();
        let (is_cancelled, is_late) = (self.local.cancelled_late.take(), self.request_is_late());
        if is_cancelled || is_late {
            self.reading.iter_mut().for_each(|reading| reading.asked = 0);
        }
        if is_cancelled {
            return self.wait_was_cancelled();
        }
        if is_late {
            self.refuse_late();
        }
        Ok(())
    }
}
