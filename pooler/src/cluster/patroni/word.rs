use super::answer::Told;
use crate::cluster::choice::bit;
use crate::config::Host;

/// What Patroni says, as far as it decides who may be written to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// The member that leads and runs.
    pub(super) leader: Option<usize>,
    /// Members that may not be written to while this counts, by their indices as bits.
    pub(super) forbidden: u64,
}

impl Word {
    /// What an answer means for members at these addresses.
    ///
    /// While a host leads that runs, nobody else may be written to. A leader that is none of the members (Patroni may know it
    /// under another address) says nothing of those whom the answer does not name either.
    pub(super) fn new(members: &[(Host, u16)], told: &[Told]) -> Word {
        let Some(leading) = told.iter().find(|told| told.leads()) else {
            return Word::default();
        };
        let leader = members.iter().position(|member| is_at(member, leading));
        let named = |member: &(Host, u16)| told.iter().any(|told| is_at(member, told));
        let others = members
            .iter()
            .enumerate()
            .filter(|(index, member)| Some(*index) != leader && (leader.is_some() || named(member)));
        let forbidden = others.fold(0, |bits, (index, _)| bits | bit(index));
        Word { leader, forbidden }
    }
}

/// Whether this is the member's own address, as it is written.
pub(super) fn is_at((host, port): &(Host, u16), told: &Told) -> bool {
    matches!(host, Host::Tcp(host) if host.eq_ignore_ascii_case(&told.host)) && *port == told.port
}

#[cfg(test)]
mod tests {
    use super::super::answer::Part;
    use super::*;

    fn told(host: &str, role: Part) -> Told {
        Told { host: host.to_owned(), port: 5432, role, running: true, timeline: None, lag_bytes: None }
    }

    /// Of members a, b, c: the leader, and those that may not be written to.
    fn means(told: &[Told]) -> (Option<usize>, Vec<usize>) {
        let members = ["a", "b", "c"].map(|host| (Host::Tcp(host.to_owned()), 5432));
        let Word { leader, forbidden } = Word::new(&members, told);
        (leader, (0..64).filter(|index| forbidden >> index & 1 == 1).collect())
    }

    #[test]
    fn only_the_leader_may_be_written_to() {
        assert_eq!(means(&[told("a", Part::Replica), told("B", Part::Leader)]), (Some(1), vec![0, 2]));
        assert_eq!(means(&[told("c", Part::StandbyLeader)]), (Some(2), vec![0, 1]));
    }

    #[test]
    fn without_a_leader_that_runs_all_may() {
        assert_eq!(means(&[told("a", Part::Replica), told("b", Part::Replica)]), (None, vec![]));
        let stopped = Told { running: false, ..told("b", Part::Leader) };
        assert_eq!(means(&[told("a", Part::Replica), stopped]), (None, vec![]));
        assert_eq!(means(&[]), (None, vec![]));
    }

    #[test]
    fn a_leader_elsewhere_forbids_those_that_are_named_as_something_else() {
        let elsewhere = Told { port: 6000, ..told("a", Part::Leader) };
        assert_eq!(means(&[elsewhere.clone(), told("b", Part::Replica)]), (None, vec![1]));
        assert_eq!(means(&[elsewhere]), (None, vec![]));
    }
}
