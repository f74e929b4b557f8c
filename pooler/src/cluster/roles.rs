//! Who is the primary, from what was seen of each host. Pure.
//!
//! Timelines decide: a promotion begins a new one, so that of two hosts that take writes the one with the older timeline
//! was left behind. Those numbers only grow, and so does what is known of them: who is behind once stays behind until it is
//! seen in recovery, or on a newer timeline.

use super::choice::bit;
use super::{Role, Sighting};

/// What is known of one host.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// What it was when it was seen last.
    last: Option<Seen>,
    /// It could be reached when it was tried last.
    there: bool,
    /// It was tried at least once.
    tried: bool,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    recovers: bool,
    timeline: u32,
    /// Identifier of the database system; hosts with different ones have no timelines in common.
    system: u64,
    /// It took writes on the timeline of another host that was the primary: nobody knows what it has written.
    apart: bool,
}

/// What is known of all hosts of a cluster.
#[derive(Debug)]
pub(super) struct Roles {
    hosts: Box<[Known]>,
    /// The system of the primary; `None`: there was none yet.
    system: Option<u64>,
    /// The newest timeline of that system that was seen anywhere.
    newest: u32,
    primary: Option<usize>,
    /// The last primary there was.
    last_primary: Option<usize>,
    epoch: u64,
    /// Hosts that may not be written to, by their indices as bits: somebody who must know names another one.
    forbidden: u64,
}

impl Roles {
    pub(super) fn new(hosts: usize) -> Roles {
        Roles {
            hosts: vec![Known::default(); hosts].into(),
            system: None,
            newest: 0,
            primary: None,
            last_primary: None,
            epoch: 0,
            forbidden: 0,
        }
    }

    pub(super) fn primary(&self) -> Option<usize> {
        self.primary
    }

    /// How often another host became the primary.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A host was looked at.
    pub(super) fn observe(&mut self, host: usize, sighting: &Sighting) {
        self.learn_system(host, sighting);
        let before = self.hosts[host].last.filter(|seen| seen.system == sighting.system);
        // A standby tells its timeline late, and not at all while it receives nothing.
        let known = before.filter(|seen| seen.recovers && sighting.recovers).map_or(0, |seen| seen.timeline);
        let timeline = sighting.timeline.max(known);
        let went_on = before.is_some_and(|seen| seen.apart && seen.timeline == timeline);
        let rival = self.primary.is_some_and(|primary| primary != host && self.is_newest(primary));
        let is_newest = self.is_of_system(sighting.system) && timeline >= self.newest;
        let equal = is_newest && timeline == self.newest;
        let apart = !sighting.recovers && (went_on || rival && equal);
        let seen = Seen { recovers: sighting.recovers, timeline, system: sighting.system, apart };
        self.hosts[host] = Known { last: Some(seen), there: true, tried: true };
        if is_newest {
            self.newest = timeline;
        }
        self.decide();
    }

    /// A host could not be reached.
    pub(super) fn lose(&mut self, host: usize) {
        self.hosts[host].there = false;
        self.pass_over(host);
    }

    /// A host does not tell what it is: nobody waits for that any more.
    pub(super) fn pass_over(&mut self, host: usize) {
        self.hosts[host].tried = true;
        self.decide();
    }

    /// Only the other hosts may be written to from now on.
    pub(super) fn forbid(&mut self, hosts: u64) {
        self.forbidden = hosts;
        self.decide();
    }

    /// The first host that takes writes says which system this is. It is another one where the primary itself has changed,
    /// as after an upgrade, or nobody of the old one is left.
    fn learn_system(&mut self, host: usize, sighting: &Sighting) {
        if sighting.recovers || self.system == Some(sighting.system) {
            return;
        }
        let is_of_old = |known: &Known| known.there && known.last.map(|seen| seen.system) == self.system;
        let others = self.hosts.iter().enumerate().filter(|(index, _)| *index != host);
        let replaced = self.last_primary == Some(host) || !others.map(|(_, known)| known).any(is_of_old);
        if self.system.is_none() || replaced {
            self.system = Some(sighting.system);
            let seen = self.hosts.iter().filter_map(|known| known.last);
            let timelines = seen.filter(|seen| seen.system == sighting.system).map(|seen| seen.timeline);
            self.newest = timelines.max().unwrap_or(0);
        }
    }

    fn is_of_system(&self, system: u64) -> bool {
        self.system.is_none_or(|ours| ours == system)
    }

    /// It takes writes on the newest timeline.
    fn is_newest(&self, host: usize) -> bool {
        let Known { last, there, .. } = self.hosts[host];
        let fits = |seen: Seen| {
            !seen.recovers && !seen.apart && self.is_of_system(seen.system) && seen.timeline == self.newest
        };
        there && last.is_some_and(fits)
    }

    /// There was a primary, or every host was tried. Before that the first to answer may be one that was left behind when
    /// nobody looked.
    fn knows_all(&self) -> bool {
        self.last_primary.is_some() || self.hosts.iter().all(|known| known.tried)
    }

    fn decide(&mut self) {
        let knows_all = self.knows_all();
        let fits = |host: &usize| knows_all && self.is_newest(*host) && self.forbidden & bit(*host) == 0;
        let still = self.primary.filter(fits);
        self.primary = still.or_else(|| (0..self.hosts.len()).find(fits));
        let Some(primary) = self.primary.filter(|_| self.primary != self.last_primary) else { return };
        self.last_primary = self.primary;
        self.epoch += 1;
        let rivals: Vec<usize> =
            (0..self.hosts.len()).filter(|host| *host != primary && self.is_newest(*host)).collect();
        for host in rivals {
            self.hosts[host].last.iter_mut().for_each(|seen| seen.apart = true);
        }
    }

    pub(super) fn role(&self, host: usize) -> Role {
        match self.hosts[host] {
            Known { there: true, last: Some(seen), .. } => match seen.recovers {
                _ if self.primary == Some(host) => Role::Primary,
                true if self.is_of_system(seen.system) => Role::Standby,
                false if !self.knows_all() => Role::Unknown,
                _ => Role::Fenced,
            },
            _ => Role::Unknown,
        }
    }

    /// The timeline that it was seen on.
    pub(super) fn timeline(&self, host: usize) -> Option<u32> {
        self.hosts[host].last.map(|seen| seen.timeline)
    }

    /// A standby that is on the newest timeline. What another one has replayed says nothing: it may have gone past the place
    /// where that begins.
    pub(super) fn follows(&self, host: usize) -> bool {
        let timeline = self.hosts[host].last.map_or(0, |seen| seen.timeline);
        self.role(host) == Role::Standby && timeline >= self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lsn;
    use super::*;

    fn writer(timeline: u32) -> Sighting {
        Sighting { recovers: false, timeline, system: 1, lsn: Lsn(0), checkpoint: Lsn(0), xmax: 3 }
    }

    fn standby(timeline: u32) -> Sighting {
        Sighting { recovers: true, ..writer(timeline) }
    }

    fn of_system(system: u64, sighting: Sighting) -> Sighting {
        Sighting { system, ..sighting }
    }

    fn seen(sightings: &[Sighting]) -> Roles {
        let mut roles = Roles::new(sightings.len());
        sightings.iter().enumerate().for_each(|(host, sighting)| roles.observe(host, sighting));
        roles
    }

    fn all(roles: &Roles) -> Vec<Role> {
        (0..roles.hosts.len()).map(|host| roles.role(host)).collect()
    }

    use Role::{Fenced, Primary, Standby, Unknown};

    #[test]
    fn the_one_out_of_recovery_is_the_primary() {
        let mut roles = Roles::new(2);
        assert_eq!((roles.primary(), roles.epoch(), all(&roles)), (None, 0, vec![Unknown, Unknown]));
        roles.observe(1, &standby(1));
        assert_eq!((roles.primary(), all(&roles)), (None, vec![Unknown, Standby]));
        roles.observe(0, &writer(1));
        assert_eq!((roles.primary(), roles.epoch(), all(&roles)), (Some(0), 1, vec![Primary, Standby]));
        assert!(roles.follows(1) && !roles.follows(0));
    }

    #[test]
    fn the_first_primary_is_found_when_all_were_tried() {
        let mut roles = Roles::new(3);
        roles.observe(0, &writer(1));
        roles.lose(1);
        assert_eq!((roles.primary(), roles.role(0)), (None, Unknown));
        roles.observe(2, &writer(2));
        assert_eq!(
            (roles.primary(), roles.epoch(), all(&roles)),
            (Some(2), 1, vec![Fenced, Unknown, Primary])
        );
        let mut roles = Roles::new(2);
        roles.observe(0, &writer(1));
        roles.pass_over(1);
        assert_eq!(roles.primary(), Some(0));
    }

    #[test]
    fn a_promotion_fences_the_old_primary_until_it_recovers() {
        let mut roles = seen(&[writer(1), standby(1)]);
        roles.observe(1, &writer(2));
        assert_eq!((roles.primary(), roles.epoch(), all(&roles)), (Some(1), 2, vec![Fenced, Primary]));
        roles.observe(0, &writer(1));
        assert_eq!(roles.role(0), Fenced);
        // Not even when the new one is gone.
        roles.lose(1);
        roles.observe(0, &writer(1));
        assert_eq!((roles.primary(), all(&roles)), (None, vec![Fenced, Unknown]));
        roles.observe(0, &standby(1));
        assert_eq!((roles.role(0), roles.follows(0)), (Standby, false));
        roles.observe(0, &standby(2));
        assert!(roles.follows(0));
        // Promoted again, and nobody has seen it recover.
        roles.observe(0, &writer(3));
        assert_eq!((roles.primary(), roles.epoch()), (Some(0), 3));
    }

    #[test]
    fn a_standby_on_a_newer_timeline_is_enough() {
        let mut roles = seen(&[writer(1), standby(1), standby(1)]);
        roles.observe(2, &standby(2));
        assert_eq!((roles.primary(), all(&roles)), (None, vec![Fenced, Standby, Standby]));
        assert!(!roles.follows(1) && roles.follows(2));
        roles.observe(1, &writer(2));
        assert_eq!(roles.primary(), Some(1));
    }

    #[test]
    fn a_primary_that_was_away_is_no_new_one() {
        let mut roles = seen(&[writer(1), standby(1)]);
        roles.lose(0);
        assert_eq!((roles.primary(), roles.role(0)), (None, Unknown));
        roles.observe(0, &writer(1));
        assert_eq!((roles.primary(), roles.epoch()), (Some(0), 1));
    }

    #[test]
    fn two_on_one_timeline_are_never_both_used() {
        let mut roles = seen(&[writer(2), writer(2)]);
        assert_eq!(all(&roles), [Primary, Fenced]);
        roles.lose(0);
        roles.observe(1, &writer(2));
        assert_eq!((roles.primary(), roles.role(1)), (None, Fenced));
        roles.observe(0, &writer(2));
        assert_eq!(roles.primary(), Some(0));
        roles.observe(1, &standby(2));
        roles.lose(0);
        roles.observe(1, &writer(2));
        assert_eq!(roles.primary(), Some(1), "it has followed since");
        roles.observe(0, &writer(2));
        assert_eq!((roles.primary(), roles.role(0)), (Some(1), Fenced));
    }

    #[test]
    fn a_forbidden_host_is_fenced_while_it_is_so() {
        let mut roles = seen(&[writer(1), standby(1)]);
        roles.forbid(0b01);
        assert_eq!((roles.primary(), roles.epoch(), all(&roles)), (None, 1, vec![Fenced, Standby]));
        roles.observe(0, &writer(1));
        assert_eq!(roles.role(0), Fenced);
        roles.observe(1, &writer(2));
        assert_eq!((roles.primary(), roles.epoch()), (Some(1), 2));
        // Somebody promotes the other one behind the back of who must know.
        roles.observe(0, &writer(3));
        assert_eq!((roles.primary(), all(&roles)), (None, vec![Fenced, Fenced]));
        roles.forbid(0);
        assert_eq!((roles.primary(), roles.epoch()), (Some(0), 3));
    }

    #[test]
    fn a_standby_that_receives_nothing_stays_on_its_timeline() {
        let mut roles = seen(&[writer(2), standby(2)]);
        roles.observe(1, &standby(1));
        assert!(roles.follows(1));
    }

    #[test]
    fn a_host_of_another_system_is_not_used() {
        let mut roles = seen(&[writer(1), of_system(9, standby(7)), of_system(9, writer(7))]);
        assert_eq!((roles.primary(), all(&roles)), (Some(0), vec![Primary, Fenced, Fenced]));
        roles.lose(0);
        assert_eq!(roles.primary(), None);
        roles.observe(2, &of_system(9, writer(7)));
        assert_eq!((roles.primary(), all(&roles)), (Some(2), vec![Unknown, Standby, Primary]));
    }

    #[test]
    fn an_upgraded_primary_begins_anew() {
        let mut roles = seen(&[writer(5), standby(5)]);
        roles.observe(0, &of_system(2, writer(1)));
        assert_eq!((roles.primary(), roles.epoch(), all(&roles)), (Some(0), 1, vec![Primary, Fenced]));
        roles.observe(1, &of_system(2, standby(1)));
        assert!(roles.follows(1));
    }
}
