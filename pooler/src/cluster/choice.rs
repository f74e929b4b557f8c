//! Which replica serves a read: of two that are drawn the one with less to do. Pure.

use super::{Lsn, NoReplica, Wanted};
use crate::config::MOST_HOSTS;

/// Added to every latency (microseconds): differences below it are no reason to prefer a host.
const SAME_LATENCY: u64 = 1_000;

/// A replica that was away is back to its whole weight after so long, in microseconds.
const WARM_UP: u64 = 10_000_000;

/// Weights are multiplied by this, so that small ones can be divided.
const SCALE: u64 = 1 << 20;

/// The place of a host among a cluster's, as a bit.
pub(super) fn bit(index: usize) -> u64 {
    1u64.checked_shl(index as u32).unwrap_or(0) // there are no more hosts than bits
}

/// A replica that is healthy.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Candidate {
    pub(super) index: usize,
    /// It is in the pooler's zone.
    pub(super) near: bool,
    /// See [`strength`].
    pub(super) strength: u64,
    pub(super) outstanding: usize,
    pub(super) replayed: Lsn,
    /// In microseconds; `None`: not known.
    pub(super) lag: Option<u64>,
}

/// The share of reads that a replica gets while it has nothing to do, beside those of the others: by its weight, less where
/// it is slow (`latency` in microseconds) or has been healthy for a short time (`healthy_for`).
pub(super) fn strength(weight: u32, latency: u64, healthy_for: u64) -> u64 {
    let warmth = healthy_for.clamp(WARM_UP / 10, WARM_UP);
    let weight = u64::from(weight) * SCALE / (WARM_UP / 1_000) * (warmth / 1_000);
    (weight / latency.saturating_add(SAME_LATENCY)).max(1)
}

/// One of these, by its index.
pub(super) fn choose(
    candidates: impl Iterator<Item = Candidate>,
    wanted: &Wanted<'_>,
) -> Result<usize, NoReplica> {
    let mut drawing = Drawing::default();
    let mut behind = false;
    for candidate in candidates {
        let failed = wanted.without & bit(candidate.index) != 0;
        let late = wanted.max_lag.is_some_and(|most| candidate.lag.is_none_or(|lag| lag > most));
        if failed || late {
            continue;
        }
        if wanted.seen.is_some_and(|seen| candidate.replayed < seen) {
            behind = true;
            continue;
        }
        drawing.add(candidate);
    }
    let none = if behind { NoReplica::Behind } else { NoReplica::NoneHealthy };
    drawing.draw(wanted.random).ok_or(none)
}

/// Those that one is drawn from: where some are near, these alone.
struct Drawing {
    near: bool,
    candidates: [Candidate; MOST_HOSTS],
    count: usize,
    total: u64,
}

impl Default for Drawing {
    fn default() -> Drawing {
        Drawing { near: false, candidates: [Candidate::default(); MOST_HOSTS], count: 0, total: 0 }
    }
}

impl Drawing {
    fn add(&mut self, candidate: Candidate) {
        match (self.near, candidate.near) {
            (true, false) => return,
            (false, true) => (self.near, self.count, self.total) = (true, 0, 0),
            _ => {}
        }
        if let Some(place) = self.candidates.get_mut(self.count) {
            *place = candidate;
            self.count += 1;
            self.total += candidate.strength;
        }
    }

    /// Each is drawn as often as it is strong; with the same to do, in proportion to that, the first of the two has it.
    fn draw(&self, random: u64) -> Option<usize> {
        let first = self.pick(random >> 32)?;
        let second = self.pick(random & 0xffff_ffff)?;
        let load = |one: &Candidate, other: &Candidate| one.outstanding as u128 * u128::from(other.strength);
        let better = if load(second, first) < load(first, second) { second } else { first };
        Some(better.index)
    }

    /// `random`: 32 bits.
    fn pick(&self, random: u64) -> Option<&Candidate> {
        let mut at = ((u128::from(random) * u128::from(self.total)) >> 32) as u64;
        let candidates = self.candidates.get(..self.count)?;
        candidates.iter().find(|candidate| {
            let is_it = at < candidate.strength;
            at = at.wrapping_sub(candidate.strength);
            is_it
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(index: usize) -> Candidate {
        let strength = strength(1, 0, WARM_UP);
        Candidate { index, strength, replayed: Lsn(100), lag: Some(0), ..Candidate::default() }
    }

    /// How often each is chosen, in percent.
    fn shares(candidates: &[Candidate], wanted: Wanted<'_>) -> Vec<usize> {
        const DRAWS: u64 = 20_000;
        let mut shares = vec![0; candidates.len()];
        let mut random = 1u64;
        for _ in 0..DRAWS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Of such a generator only the upper bits are random.
            let mixed = random ^ (random >> 29) ^ (random << 17);
            let wanted = Wanted { random: mixed, ..wanted };
            shares[choose(candidates.iter().copied(), &wanted).expect("one of them")] += 1;
        }
        shares.iter().map(|count| (count * 100 + DRAWS as usize / 2) / DRAWS as usize).collect()
    }

    #[track_caller]
    fn assert_about(shares: &[usize], expected: &[usize]) {
        let close = shares.iter().zip(expected).all(|(share, expected)| share.abs_diff(*expected) <= 2);
        assert!(close && shares.len() == expected.len(), "{shares:?} is not about {expected:?}");
    }

    fn alone(candidate: Candidate, wanted: Wanted<'_>) -> Result<usize, NoReplica> {
        choose([candidate].into_iter(), &wanted)
    }

    #[test]
    fn equal_ones_share_and_weights_count() {
        assert_about(&shares(&[replica(0), replica(1)], Wanted::default()), &[50, 50]);
        let heavy = Candidate { strength: strength(3, 0, WARM_UP), ..replica(1) };
        assert_about(&shares(&[replica(0), heavy], Wanted::default()), &[25, 75]);
    }

    #[test]
    fn who_has_more_to_do_gets_less() {
        let busy = Candidate { outstanding: 5, ..replica(0) };
        // Only where it is drawn twice.
        assert_about(&shares(&[busy, replica(1)], Wanted::default()), &[25, 75]);
        let heavy = Candidate { strength: strength(10, 0, WARM_UP), ..busy };
        let light = Candidate { outstanding: 1, ..replica(1) };
        assert!(shares(&[heavy, light], Wanted::default())[0] > 90, "for its weight it has less to do");
    }

    #[test]
    fn who_is_slow_gets_less() {
        let slow = Candidate { strength: strength(1, 9_000, WARM_UP), ..replica(0) };
        assert_about(&shares(&[slow, replica(1)], Wanted::default()), &[9, 91]);
        let near_enough = Candidate { strength: strength(1, 50, WARM_UP), ..replica(0) };
        assert_about(&shares(&[near_enough, replica(1)], Wanted::default()), &[49, 51]);
    }

    #[test]
    fn who_has_just_come_is_warmed_up() {
        let new = Candidate { strength: strength(1, 0, 0), ..replica(0) };
        assert_about(&shares(&[new, replica(1)], Wanted::default()), &[9, 91]);
        let half = Candidate { strength: strength(1, 0, WARM_UP / 2), ..replica(0) };
        assert_about(&shares(&[half, replica(1)], Wanted::default()), &[33, 67]);
    }

    #[test]
    fn strengths_have_no_limits() {
        assert!(strength(u32::MAX, 0, u64::MAX).checked_mul(MOST_HOSTS as u64).is_some());
        assert_eq!(strength(1, u64::MAX, 0), 1);
    }

    #[test]
    fn ones_own_zone_comes_first() {
        let near = Candidate { near: true, outstanding: 100, ..replica(0) };
        assert_about(&shares(&[near, replica(1)], Wanted::default()), &[100, 0]);
        let wanted = Wanted { seen: Some(Lsn(101)), ..Wanted::default() };
        let fresh = Candidate { replayed: Lsn(101), ..replica(1) };
        assert_about(&shares(&[near, fresh], wanted), &[0, 100]);
    }

    #[test]
    fn who_may_not_serve_does_not() {
        let wanted = Wanted { seen: Some(Lsn(100)), ..Wanted::default() };
        assert_eq!(alone(replica(0), wanted), Ok(0));
        let wanted = Wanted { seen: Some(Lsn(101)), ..Wanted::default() };
        assert_eq!(alone(replica(0), wanted), Err(NoReplica::Behind));
        let wanted = Wanted { without: 0b10, ..Wanted::default() };
        assert_eq!(alone(replica(0), wanted), Ok(0));
        assert_eq!(alone(replica(1), wanted), Err(NoReplica::NoneHealthy));
        let late = Candidate { lag: Some(11), ..replica(0) };
        let wanted = Wanted { max_lag: Some(10), ..Wanted::default() };
        assert_eq!(alone(late, wanted), Err(NoReplica::NoneHealthy));
        assert_eq!(alone(Candidate { lag: None, ..late }, wanted), Err(NoReplica::NoneHealthy));
        assert_eq!(alone(Candidate { lag: Some(10), ..late }, wanted), Ok(0));
        assert_eq!(choose([].into_iter(), &wanted), Err(NoReplica::NoneHealthy));
    }
}
