//! What a host says of itself. Pure.

use super::Lsn;

/// A host at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) recovers: bool,
    /// The newest one that it shows.
    pub(crate) timeline: u32,
    /// The identifier of its database system.
    pub(crate) system: u64,
    /// Up to where it has written, or replayed.
    pub(crate) lsn: Lsn,
    /// Its newest checkpoint.
    pub(crate) checkpoint: Lsn,
    /// Every transaction id below it has been given to somebody.
    pub(crate) xmax: u64,
}

/// Names with a schema, and no operator that a `search_path` could replace. Whether it recovers is asked once: a promotion
/// may come in between, and what is asked of a standby works on a primary as well, but not the other way round; the
/// snapshot is older than that answer. What a standby receives is shown to some users only.
pub(super) const QUESTION: &str = "SELECT s.recovers, \
    CASE WHEN s.recovers THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
    CASE WHEN s.recovers THEN NULL ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END, \
    (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() c), \
    (SELECT c.min_recovery_end_timeline FROM pg_catalog.pg_control_recovery() c), \
    (SELECT w.received_tli FROM pg_catalog.pg_stat_wal_receiver w), \
    (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c), \
    pg_catalog.current_setting('wal_block_size'), \
    pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), \
    (SELECT c.checkpoint_lsn FROM pg_catalog.pg_control_checkpoint() c), \
    pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) \
    FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovers OFFSET 0) s";

/// Headers of a page of the WAL, in bytes; the first page of a segment has the long one.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

impl Sighting {
    /// From the row that answers [`QUESTION`]; `None`: it is no such row.
    pub(super) fn read(row: &[Option<String>]) -> Option<Sighting> {
        let value = |index: usize| row.get(index)?.as_deref();
        let number = |index: usize| value(index).and_then(|text| text.parse::<u64>().ok());
        let recovers = match value(0)? {
            "t" => true,
            "f" => false,
            _ => return None,
        };
        let lsn = match value(1) {
            Some(text) => text.parse().ok()?,
            None if recovers => Lsn::default(), // it has not replayed anything yet
            None => return None,
        };
        let written = value(2).and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
        let timeline = match recovers {
            true => (3..=5).filter_map(number).max().and_then(|timeline| u32::try_from(timeline).ok()),
            false => written,
        };
        let (page, segment) = (number(7)?, number(8)?);
        let lsn = if recovers { lsn } else { end_of_record(lsn, page, segment) };
        let checkpoint = value(9)?.parse().ok()?;
        Some(Sighting {
            recovers,
            timeline: timeline?,
            system: number(6)?,
            lsn,
            checkpoint,
            xmax: number(10)?,
        })
    }
}

/// Where the last record ends if the next one begins at `lsn`. At the end of a page that is behind the header of the next,
/// which nobody replays before there is a record in it.
fn end_of_record(lsn: Lsn, page: u64, segment: u64) -> Lsn {
    let is_start = |at: u64, of: u64| of > 0 && at.is_multiple_of(of);
    let behind = |header: u64| lsn.0.checked_sub(header);
    match (behind(LONG_HEADER), behind(SHORT_HEADER)) {
        (Some(start), _) if is_start(start, segment) => Lsn(start),
        (_, Some(start)) if is_start(start, page) && !is_start(start, segment) => Lsn(start),
        _ => lsn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: [Option<&str>; 11]) -> Option<Sighting> {
        Sighting::read(&row.map(|value| value.map(str::to_owned)))
    }

    const PRIMARY: [Option<&str>; 11] = [
        Some("f"),
        Some("0/3000148"),
        Some("0000000A0000000000000003"),
        Some("9"),
        Some("0"),
        None,
        Some("7400000000000000001"),
        Some("8192"),
        Some("16777216"),
        Some("0/2000060"),
        Some("4294968040"),
    ];

    fn with(changes: &[(usize, Option<&'static str>)]) -> [Option<&'static str>; 11] {
        let mut row = PRIMARY;
        changes.iter().for_each(|(index, value)| row[*index] = *value);
        row
    }

    #[test]
    fn a_primary_and_a_standby() {
        let primary = Sighting {
            recovers: false,
            timeline: 10,
            system: 7_400_000_000_000_000_001,
            lsn: Lsn(0x300_0148),
            checkpoint: Lsn(0x200_0060),
            xmax: 4_294_968_040,
        };
        assert_eq!(read(PRIMARY), Some(primary));
        let standby = with(&[(0, Some("t")), (2, None)]);
        assert_eq!(read(standby), Some(Sighting { recovers: true, timeline: 9, ..primary }));
        let receives = with(&[(0, Some("t")), (1, None), (2, None), (4, Some("10")), (5, Some("11"))]);
        assert_eq!(read(receives), Some(Sighting { recovers: true, timeline: 11, lsn: Lsn(0), ..primary }));
    }

    #[test]
    fn other_answers_say_nothing() {
        for (index, value) in [
            (0, None),
            (0, Some("x")),
            (1, None),
            (1, Some("3")),
            (2, None),
            (6, None),
            (7, None),
            (9, None),
            (10, None),
        ] {
            assert_eq!(read(with(&[(index, value)])), None, "{index} {value:?}");
        }
        assert_eq!(Sighting::read(&[]), None);
    }

    #[test]
    fn headers_of_pages_are_nobodys_records() {
        let end = |lsn: u64| end_of_record(Lsn(lsn), 8192, 16 << 20).0;
        assert_eq!(end(0x300_2018), 0x300_2000);
        assert_eq!(end(0x300_0028), 0x300_0000);
        assert_eq!(end(0x300_2028), 0x300_2028, "16 bytes of a record are there");
        assert_eq!(end(0x300_0018), 0x300_0018);
        assert_eq!(end(0x300_2020), 0x300_2020);
        assert_eq!(end(24), 24);
        assert_eq!(end(0), 0);
    }
}
