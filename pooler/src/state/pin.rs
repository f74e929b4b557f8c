use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Pins;
use crate::pool::{Counting, Tally};

/// A client's hold on its server, as others may see it.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) reasons: Pins,
    /// The statement that began it, without its literals.
    pub(crate) statement: String,
    /// When it began, in microseconds of the process's clock.
    pub(crate) since: u64,
    /// Its place among those that are limited, if it is one of them.
    counted: Option<Counting>,
}

/// The pins of one pool. They are made rarely, so that all workers may count in one place.
#[derive(Debug, Default)]
pub(crate) struct PinCounts {
    /// Clients that have one now that `max_pins_per_pool` counts.
    pub(crate) lasting: Arc<Tally>,
    /// Clients that keep theirs as long as nobody else needs it.
    pub(crate) brief: Arc<Tally>,
    /// Made since the start, by reason in the order of [`Pins::NAMES`].
    made: [AtomicU64; Pins::NAMES.len()],
    /// Not made because of the limit.
    pub(crate) refused: AtomicU64,
}

impl PinCounts {
    /// Brings a client's pin to what now ties it to its server, and counts what is new in it. False: it would be one
    /// more than `limit` that lasts; then nothing is changed.
    pub(crate) fn update(
        &self,
        pin: &mut Option<Pin>,
        reasons: Pins,
        limit: Option<usize>,
        now: u64,
        statement: impl FnOnce() -> String,
    ) -> bool {
        if reasons.is_empty() {
            *pin = None;
            return true;
        }
        let counted = pin.as_mut().and_then(|pin| pin.counted.take());
        let counted = match counted {
            _ if reasons.lasting().is_empty() => None,
            None => {
                let (counting, count) = self.lasting.count();
                if limit.is_some_and(|limit| count > limit) {
                    self.refused.fetch_add(1, Relaxed);
                    return false;
                }
                Some(counting)
            }
            counted => counted,
        };
        let before = pin.as_ref().map_or(Pins::default(), |pin| pin.reasons);
        for ((reason, _), made) in Pins::NAMES.iter().zip(&self.made) {
            made.fetch_add(u64::from(reasons.without(before).contains(*reason)), Relaxed);
        }
        match pin {
            Some(pin) => (pin.reasons, pin.counted) = (reasons, counted),
            None => *pin = Some(Pin { reasons, statement: statement(), since: now, counted }),
        }
        true
    }

    /// How many were made since the start, by reason.
    pub(crate) fn made(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Pins::NAMES.iter().zip(&self.made).map(|((_, name), made)| (*name, made.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_once_and_only_lasting_ones_are_limited() {
        let counts = PinCounts::default();
        let update = |pin: &mut Option<Pin>, reasons: &[Pins]| {
            let mut all = Pins::default();
            reasons.iter().for_each(|reason| all.add(*reason));
            counts.update(pin, all, Some(1), 7, || "x".to_owned())
        };
        let (mut a, mut b) = (None, None);
        assert!(update(&mut a, &[Pins::SEQUENCES]) && update(&mut b, &[Pins::SEQUENCES]));
        assert_eq!(counts.lasting.get(), 0);
        assert!(update(&mut a, &[Pins::SEQUENCES, Pins::LOCKS]));
        assert!(update(&mut a, &[Pins::LOCKS, Pins::TEMPORARY]), "the same client may have more");
        assert!(!update(&mut b, &[Pins::LOCKS]), "another may not");
        assert_eq!((counts.lasting.get(), counts.refused.load(Relaxed)), (1, 1));
        assert!(update(&mut a, &[]) && a.is_none());
        assert!(update(&mut b, &[Pins::LOCKS]));
        let made: Vec<_> = counts.made().filter(|(_, made)| *made > 0).collect();
        assert_eq!(made, [("temporary objects", 1), ("advisory locks", 2), ("sequences", 2)]);
    }
}
