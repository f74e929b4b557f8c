use std::collections::{BTreeSet, HashSet};
use std::ops::BitOrAssign;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;

use super::calls::{Facts, Listing, Mark};
use crate::pool::lock;

/// What is known of a database's functions, as far as no text of a client tells it. It is looked up with an audit, by one
/// client at a time and only so often that it takes a small part of the server's time, however many functions are
/// defined. What has been defined in between counts as the worst that it could be.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    known: Mutex<Known>,
    /// When they are to be looked up, in microseconds: these are read for every transaction.
    due: AtomicU64,
    hidden: [AtomicBool; 2],
    /// Those that may be called. Replaced as soon as any may have changed.
    trust: ArcSwapOption<Trust>,
}

#[derive(Debug, Default)]
struct Known {
    names: BTreeSet<String>,
    roles: Vec<(String, String)>,
    facts: Facts,
    /// Some look-up has told: until then every audit needs one, for the names.
    told: bool,
    /// Not before they are looked up again.
    again: u64,
    changes: u64,
}

/// What a look-up tells.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Settings with a dot in their name that functions name. No view shows such settings, so an audit must ask for each.
    pub(crate) names: BTreeSet<String>,
    /// Writing, and anything at all, may call functions that change the session: triggers and defaults; views, policies,
    /// operators.
    pub(crate) hidden: [bool; 2],
    /// The roles with which sessions begin, by user, those first that count more. An empty name stands for all.
    pub(crate) roles: Vec<(String, String)>,
    pub(crate) functions: Listing,
}

/// Functions that may be called without an audit, by name. They hold good for a while: what changes functions without the
/// pooler is not seen.
#[derive(Debug)]
pub(crate) struct Trust {
    names: HashSet<Box<[u8]>>,
    /// In microseconds.
    until: AtomicU64,
}

impl Trust {
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }
}

/// What a definition may change.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Defined {
    /// Functions, and with them whatever calls them.
    pub(crate) functions: bool,
    /// What writing calls, what anything calls.
    pub(crate) hidden: [bool; 2],
}

impl Defined {
    pub(crate) const ANYTHING: Defined = Defined { functions: true, hidden: [true, true] };
}

impl BitOrAssign for Defined {
    fn bitor_assign(&mut self, other: Defined) {
        self.functions |= other.functions;
        self.hidden.iter_mut().zip(other.hidden).for_each(|(hidden, may)| *hidden |= may);
    }
}

/// For how long (microseconds) changes of functions that did not come through the pooler are not seen.
const KNOWN_FOR: u64 = 60_000_000;

/// Time for a look-up that others need not repeat. The server gives it up before.
const PATIENCE: u64 = 20_000_000;

/// The server works on look-ups no more than one part in so many of the time.
const PART: u64 = 100;

/// The least and the most time between two, ...
const PAUSE: (u64, u64) = (1_000_000, 600_000_000);

/// ... and that behind one that has failed.
const FAILED: u64 = 300_000_000;

/// More names than this are not asked for.
const MOST_NAMES: usize = 1024;

/// A look-up under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// The changes that it knows of.
    changes: u64,
    began: u64,
    /// It tells of functions that are new since; the first ones for a database do so one at a time, since the answers may
    /// be long.
    pub(crate) since: Option<Mark>,
}

impl Functions {
    /// The names, or that they have to be looked up.
    pub(crate) fn names(&self, now: u64) -> Result<BTreeSet<String>, Lookup> {
        let mut known = lock(&self.known);
        if now < self.due.load(Relaxed) {
            return Ok(known.names.clone());
        }
        let since = (now >= known.again).then(|| known.facts.mark());
        if since.is_some() {
            known.again = now + PATIENCE;
        }
        if known.told {
            self.due.store(known.again, Relaxed);
        }
        Err(Lookup { changes: known.changes, began: now, since })
    }

    /// The role with which this user's sessions begin, as far as anybody has looked.
    pub(crate) fn role(&self, user: &str) -> String {
        role_of(&lock(&self.known).roles, user)
    }

    /// Those that may be called without an audit.
    pub(crate) fn trust(&self, now: u64) -> Option<Arc<Trust>> {
        self.trust.load_full().filter(|trust| now < trust.until.load(Relaxed))
    }

    /// Nothing has changed since.
    pub(crate) fn still_trusts(&self, trust: &Arc<Trust>) -> bool {
        self.trust.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, trust))
    }

    /// Whether a transaction that looks harmless may have called functions that are not. Behind one that wrote it is also
    /// time to look whether that is so.
    pub(crate) fn hide(&self, wrote: bool, now: u64) -> bool {
        let [writing, all] = &self.hidden;
        all.load(Relaxed) || wrote && (writing.load(Relaxed) || now >= self.due.load(Relaxed))
    }

    /// They were looked up.
    pub(crate) fn found(&self, lookup: &Lookup, findings: Findings, now: u64) {
        let news = findings.functions.read();
        let mut known = lock(&self.known);
        let pause = (now.saturating_sub(lookup.began) * PART).clamp(PAUSE.0, PAUSE.1);
        (known.told, known.again) = (true, now + pause);
        known.roles = findings.roles;
        if let Some(since) = &lookup.since {
            known.facts.learn(since, news);
        }
        if known.changes != lookup.changes || lookup.since.is_none() {
            // Nobody knows whether it has seen the last of them, or the functions are not told of.
            known.note(findings.names);
            return self.due.store(known.again, Relaxed);
        }
        known.names = findings.names;
        self.hidden.iter().zip(findings.hidden).for_each(|(hidden, found)| hidden.store(found, Relaxed));
        self.due.store(now + pause.max(KNOWN_FOR), Relaxed);
        self.trust_these(known.facts.clean_names(), now + KNOWN_FOR + PATIENCE);
    }

    fn trust_these(&self, names: HashSet<Box<[u8]>>, until: u64) {
        match &*self.trust.load() {
            Some(trust) if trust.names == names => trust.until.store(until, Relaxed),
            _ => self.trust.store(Some(Arc::new(Trust { names, until: until.into() }))),
        }
    }

    /// A look-up has failed, or took too long for the server.
    pub(crate) fn lookup_failed(&self, now: u64) {
        let mut known = lock(&self.known);
        known.again = now + FAILED;
        self.due.store(known.again, Relaxed);
    }

    /// They may have changed. `names`: settings that they may now name.
    pub(crate) fn forget(&self, defined: Defined, names: impl IntoIterator<Item = String>) {
        let mut known = lock(&self.known);
        known.changes += 1;
        known.note(names);
        for (hidden, may) in self.hidden.iter().zip(defined.hidden) {
            hidden.fetch_or(may, Relaxed);
        }
        if defined.functions {
            self.trust.store(None);
        }
        self.due.store(known.again, Relaxed);
    }
}

impl Known {
    fn note(&mut self, names: impl IntoIterator<Item = String>) {
        let room = MOST_NAMES.saturating_sub(self.names.len());
        self.names.extend(names.into_iter().take(room));
    }
}

pub(crate) fn role_of(roles: &[(String, String)], user: &str) -> String {
    let own = roles.iter().find(|(name, _)| name.is_empty() || name == user);
    own.map_or("none", |(_, role)| role).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of a look-up: all functions with their bodies.
    fn told(functions: &[(&str, &str)]) -> Findings {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let row =
            |(number, (name, body)): (usize, &(&str, &str))| (format!("{number} s {}", hex(name)), hex(body));
        let mark = Some(("1.2 3".to_owned(), format!("{} t", functions.len())));
        let functions = functions.iter().enumerate().map(row).collect();
        Findings {
            names: BTreeSet::from(["a.b".to_owned()]),
            functions: Listing { mark, functions },
            ..Findings::default()
        }
    }

    fn look(functions: &Functions, findings: Findings, now: u64) -> bool {
        let lookup = functions.names(now).err();
        lookup.map(|lookup| functions.found(&lookup, findings, now)).is_some()
    }

    #[test]
    fn functions_are_known_until_they_change() {
        let functions = Functions::default();
        let hides = |now| [false, true].map(|wrote| functions.hide(wrote, now));
        assert_eq!(hides(5), [false, true], "nobody knows");
        let findings = Findings { hidden: [true, false], ..told(&[]) };
        let early = functions.names(5).unwrap_err();
        let late = functions.names(5).unwrap_err();
        assert!(early.since.is_some() && late.since.is_none(), "one asks for bodies");
        functions.found(&early, findings.clone(), 5);
        assert_eq!((functions.names(6).unwrap(), hides(6)), (findings.names.clone(), [false, true]));
        let again = 5 + KNOWN_FOR;
        assert!(functions.names(again).is_err());
        assert!(functions.names(again).is_ok(), "one look-up is enough");
        functions.forget(Defined::ANYTHING, ["c.d".to_owned()]);
        assert_eq!(hides(again), [true, true]);
        functions.found(&late, findings, again);
        assert_eq!(hides(again), [true, true], "looked up before the change");
        assert!(functions.names(again).unwrap().contains("c.d"));
    }

    #[test]
    fn look_ups_take_a_small_part_of_the_time() {
        let functions = Functions::default();
        let lookup = functions.names(0).unwrap_err();
        functions.forget(Defined::ANYTHING, []);
        functions.found(&lookup, told(&[]), 50_000);
        let again = 50_000 + 50_000 * PART;
        for now in (50_000..again).step_by(100_000) {
            functions.forget(Defined::ANYTHING, []);
            assert!(!look(&functions, told(&[]), now), "{now}");
        }
        let lookup = functions.names(again).unwrap_err();
        functions.forget(Defined::ANYTHING, []);
        assert!(functions.names(again + 1).is_ok(), "one at a time");
        functions.found(&lookup, told(&[]), again + 1);
        assert!(functions.names(again + 2).is_ok() && functions.names(again + 1 + PAUSE.0).is_err());
        functions.lookup_failed(again);
        functions.forget(Defined::ANYTHING, []);
        assert!(functions.names(again + FAILED - 1).is_ok() && functions.names(again + FAILED).is_err());
    }

    #[test]
    fn functions_are_trusted_while_nothing_changes() {
        let functions = Functions::default();
        assert!(functions.trust(0).is_none());
        let clean = [("f", "select 1"), ("g", "select f()")];
        assert!(look(&functions, told(&clean), 0));
        let first = functions.trust(1).unwrap();
        assert!(first.contains(b"f") && first.contains(b"g") && !first.contains(b"lower"));
        assert!(look(&functions, told(&clean), KNOWN_FOR));
        assert!(functions.still_trusts(&first) && functions.trust(KNOWN_FOR + PATIENCE).is_some());
        assert!(functions.trust(2 * KNOWN_FOR + PATIENCE).is_none(), "nobody has looked");
        functions.forget(Defined { functions: false, ..Defined::ANYTHING }, []);
        assert!(functions.still_trusts(&first), "not even a view calls others");
        functions.forget(Defined::ANYTHING, []);
        assert!(!functions.still_trusts(&first) && functions.trust(KNOWN_FOR).is_none());
        assert!(look(&functions, told(&[("f", "reset work_mem"), clean[1], ("h", "")]), 2 * KNOWN_FOR));
        let second = functions.trust(2 * KNOWN_FOR).unwrap();
        assert_eq!([b"f", b"g", b"h"].map(|name| second.contains(name)), [false, false, true]);
        assert!(!functions.still_trusts(&first));
    }
}
