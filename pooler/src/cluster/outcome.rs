//! What became of a transaction whose COMMIT was not answered: what a primary says of its id, and whether that is about this
//! transaction. Pure.
//!
//! **An id may be given twice.** PostgreSQL writes an id into the WAL with the first record of its transaction, and that is
//! not flushed before the COMMIT. Who starts from a WAL without any such record, after a crash or a promotion, gives the
//! same id to another transaction. So of the answers of `txid_status`
//!
//! * "aborted", or that there is no such id yet, is true in any case: had the COMMIT been in this WAL, the id would not
//!   have been given again, and it would be "committed". So is that it was rolled back if the host has started since, and
//!   the id was still to be given then;
//! * "committed" may be about another transaction. It is believed where it is certain that the id was never given twice:
//!   1. The host and its timeline are the same, and so is its newest checkpoint: every start writes one, so there was none.
//!   2. The host and its timeline are the same, and its newest checkpoint is the one with which it has started, at which the
//!      id had been given. (Two crashes in a row would deceive this: so it does not count if a server was lost that was
//!      being asked.)
//!   3. The host was promoted straight from the timeline of the transaction, and while it still recovered on that it was
//!      seen to know the id: from there on it gives higher ones.
//!
//! Everything else is not known, and not said.

use super::{Lsn, Sighting};
use crate::answers::Values;

/// What was known of the primary when a COMMIT was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scene {
    /// The host, by its index among the cluster's.
    pub(crate) host: usize,
    system: u64,
    timeline: u32,
    checkpoint: Lsn,
    /// When it was asked for that, in microseconds.
    at: u64,
}

/// The ids that a host knew when it was seen last in recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recovered {
    timeline: u32,
    xmax: u64,
}

/// A transaction whose outcome is sought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought {
    pub(crate) xid: u64,
    pub(crate) scene: Scene,
    /// When its connection was opened, in microseconds.
    pub(crate) opened: u64,
}

/// What a primary says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Testimony {
    status: Status,
    system: u64,
    timeline: u32,
    checkpoint: Lsn,
    /// The checkpoint is the one with which it has started; the id that was the next to be given then.
    first: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Running,
    Committed,
    Aborted,
    /// It has not given that id yet.
    Future,
    /// It is so old that nothing is kept of it.
    Forgotten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    RolledBack,
    /// It has not ended; ask again.
    Running,
    Unknown,
}

/// What is asked in front of a COMMIT.
pub(crate) const OWN_ID: &str = "SELECT pg_catalog.txid_current_if_assigned()";

/// Asks a primary about an id. That takes an id itself, as a comparison that is no error for those of the future, and gives
/// it up, so that nobody is told that it was committed. A checkpoint at the start (or the end) of a run has no oldest transaction, as none ran; all others have one where there is
/// a replica.
pub(crate) fn question(xid: u64) -> String {
    format!(
        "BEGIN; SELECT CASE WHEN pg_catalog.txid_current() OPERATOR(pg_catalog.<=) x.id THEN 'future' \
         ELSE pg_catalog.txid_status(x.id) END, \
         (SELECT s.system_identifier FROM pg_catalog.pg_control_system() s), \
         pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), \
         c.checkpoint_lsn, c.next_xid, c.oldest_active_xid \
         FROM pg_catalog.pg_control_checkpoint() c, (SELECT '{xid}'::pg_catalog.int8 AS id) x; \
         ROLLBACK"
    )
}

impl Scene {
    /// `at`: when the look began, in microseconds. `None`: the host took no writes then.
    pub(super) fn new(host: usize, sighting: &Sighting, at: u64) -> Option<Scene> {
        let Sighting { recovers, system, timeline, checkpoint, .. } = *sighting;
        (!recovers).then_some(Scene { host, system, timeline, checkpoint, at })
    }

    /// A connection that was opened at this moment, and is there, is of the same run of the host.
    fn is_of_run_of(&self, opened: u64) -> bool {
        self.at >= opened
    }
}

impl Recovered {
    /// `None`: the host does not recover.
    pub(super) fn new(sighting: &Sighting) -> Option<Recovered> {
        let Sighting { recovers, timeline, xmax, .. } = *sighting;
        recovers.then_some(Recovered { timeline, xmax })
    }
}

impl Testimony {
    /// From the row that answers a [`question`]; `None`: it is no such row.
    pub(crate) fn read(row: &Values) -> Option<Testimony> {
        let value = |index: usize| row.get(index)?.as_deref();
        let status = match value(0) {
            None => Status::Forgotten,
            Some("in progress") => Status::Running,
            Some("committed") => Status::Committed,
            Some("aborted") => Status::Aborted,
            Some("future") => Status::Future,
            Some(_) => return None,
        };
        let starts = value(5)? == "0";
        Some(Testimony {
            status,
            system: value(1)?.parse().ok()?,
            timeline: u32::from_str_radix(value(2)?.get(..8)?, 16).ok()?,
            checkpoint: value(3)?.parse().ok()?,
            first: starts.then(|| whole_id(value(4)?)).flatten(),
        })
    }

    /// What follows for a transaction. `is_host`: it is told by the host where that was; `recovered`: what the host that
    /// tells it was last seen to know in recovery; `lost`: a server was lost that was asked before.
    pub(crate) fn outcome(
        &self,
        sought: &Sought,
        is_host: bool,
        recovered: Option<Recovered>,
        lost: bool,
    ) -> Outcome {
        let scene = &sought.scene;
        if self.system != scene.system || self.timeline < scene.timeline {
            return Outcome::Unknown;
        }
        match self.status {
            Status::Running => Outcome::Running,
            Status::Aborted | Status::Future => Outcome::RolledBack,
            Status::Forgotten => Outcome::Unknown,
            Status::Committed if is_host && self.timeline == scene.timeline => {
                self.committed_there(sought, lost)
            }
            Status::Committed => {
                let knew = |host: Recovered| host.timeline == scene.timeline && host.xmax > sought.xid;
                match self.timeline == scene.timeline + 1 && recovered.is_some_and(knew) {
                    true => Outcome::Committed,
                    false => Outcome::Unknown,
                }
            }
        }
    }

    /// The host of the transaction says that its id was committed.
    fn committed_there(&self, sought: &Sought, lost: bool) -> Outcome {
        if self.checkpoint == sought.scene.checkpoint {
            return Outcome::Committed;
        }
        match self.first {
            Some(first) if first > sought.xid && !lost => Outcome::Committed,
            Some(first) if first <= sought.xid && sought.scene.is_of_run_of(sought.opened) => {
                Outcome::RolledBack
            }
            _ => Outcome::Unknown,
        }
    }
}

/// An id with its epoch, of 64 bits, from `epoch:id`.
fn whole_id(text: &str) -> Option<u64> {
    let (epoch, id) = text.split_once(':')?;
    Some(u64::from(epoch.parse::<u32>().ok()?) << 32 | u64::from(id.parse::<u32>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XID: u64 = (1 << 32) + 700;

    fn scene() -> Scene {
        Scene { host: 0, system: 7, timeline: 3, checkpoint: Lsn(0x500), at: 100 }
    }

    fn sought() -> Sought {
        Sought { xid: XID, scene: scene(), opened: 100 }
    }

    fn row(status: Option<&str>) -> Values {
        let rest = ["7", "000000030000000000000001", "0/500", "1:600", "590"];
        [status].into_iter().chain(rest.map(Some)).map(|value| value.map(str::to_owned)).collect()
    }

    fn told(status: &str) -> Testimony {
        Testimony::read(&row(Some(status))).expect("a testimony")
    }

    fn at_host(told: Testimony) -> Outcome {
        told.outcome(&sought(), true, None, false)
    }

    #[test]
    fn it_is_read_from_a_row() {
        let expected = Testimony {
            status: Status::Committed,
            system: 7,
            timeline: 3,
            checkpoint: Lsn(0x500),
            first: None,
        };
        assert_eq!(told("committed"), expected);
        let mut start = row(Some("in progress"));
        start[5] = Some("0".to_owned());
        let expected = Testimony { status: Status::Running, first: Some((1 << 32) + 600), ..expected };
        assert_eq!(Testimony::read(&start), Some(expected));
        assert_eq!(Testimony::read(&row(None)).map(|told| told.status), Some(Status::Forgotten));
        assert_eq!(Testimony::read(&row(Some("?"))), None);
        assert_eq!(Testimony::read(&Vec::new()), None);
    }

    #[test]
    fn what_is_not_committed_is_always_true() {
        for status in ["aborted", "future"] {
            assert_eq!(at_host(told(status)), Outcome::RolledBack);
            let promoted = Testimony { timeline: 9, ..told(status) };
            assert_eq!(promoted.outcome(&sought(), false, None, true), Outcome::RolledBack);
        }
        assert_eq!(at_host(told("in progress")), Outcome::Running);
        assert_eq!(at_host(Testimony { status: Status::Forgotten, ..told("aborted") }), Outcome::Unknown);
    }

    #[test]
    fn a_host_that_did_not_start_since_is_believed() {
        assert_eq!(at_host(told("committed")), Outcome::Committed);
        let checkpointed = Testimony { checkpoint: Lsn(0x600), ..told("committed") };
        assert_eq!(at_host(checkpointed), Outcome::Unknown, "a start may have come in between");
    }

    #[test]
    fn a_host_that_has_started_is_believed_if_it_knew_the_id_then() {
        let started = |first| Testimony { checkpoint: Lsn(0x600), first: Some(first), ..told("committed") };
        assert_eq!(at_host(started(XID + 1)), Outcome::Committed);
        assert_eq!(at_host(started(XID)), Outcome::RolledBack, "it has given it to another since");
        let earlier = Sought { opened: 101, ..sought() };
        let outcome = started(XID).outcome(&earlier, true, None, false);
        assert_eq!(outcome, Outcome::Unknown, "this start may have been the one before the transaction");
        let again = started(XID + 1).outcome(&sought(), true, None, true);
        assert_eq!(again, Outcome::Unknown, "it may have started twice");
    }

    #[test]
    fn a_promoted_host_is_believed_if_it_knew_the_id_in_recovery() {
        let promoted = Testimony { timeline: 4, ..told("committed") };
        let outcome = |told: Testimony, timeline, xmax| {
            let recovered = Some(Recovered { timeline, xmax });
            [true, false].map(|is_host| told.outcome(&sought(), is_host, recovered, true))
        };
        assert_eq!(outcome(promoted, 3, XID + 1), [Outcome::Committed; 2]);
        assert_eq!(outcome(promoted, 3, XID), [Outcome::Unknown; 2]);
        assert_eq!(outcome(promoted, 2, XID + 1), [Outcome::Unknown; 2], "ids of another history");
        assert_eq!(outcome(Testimony { timeline: 5, ..promoted }, 3, XID + 1), [Outcome::Unknown; 2]);
        assert_eq!(promoted.outcome(&sought(), false, None, false), Outcome::Unknown);
    }

    #[test]
    fn hosts_of_other_histories_say_nothing() {
        for other in
            [Testimony { system: 8, ..told("aborted") }, Testimony { timeline: 2, ..told("aborted") }]
        {
            assert_eq!(at_host(other), Outcome::Unknown);
        }
    }
}
