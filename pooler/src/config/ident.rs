//! `auth_ident_file`: which database users a name of another system may be.

use super::Pattern;

/// All lines for one map.
#[derive(Debug, Default, PartialEq)]
pub struct IdentMap {
    /// As rules call it.
    pub name: String,
    /// Any that fits lets the client in.
    pub lines: Vec<IdentLine>,
}

/// One line of the file.
#[derive(Debug, PartialEq)]
pub struct IdentLine {
    /// The name in the other system.
    pub system: SystemName,
    /// The users that it may be.
    pub user: MappedUser,
}

/// The second field.
#[derive(Debug, PartialEq)]
pub enum SystemName {
    /// This one.
    Name(String),
    /// `/…`: every one in which the expression is found.
    Pattern(Pattern),
}

/// The third field.
#[derive(Debug, PartialEq)]
pub enum MappedUser {
    /// `all`.
    All,
    /// This one.
    Name(String),
    /// The first group of the system name's expression, between these two.
    Group(String, String),
    /// `/…`: every one in whose name the expression is found.
    Pattern(Pattern),
}

impl IdentMap {
    /// Whether who has this name elsewhere may be this user.
    pub fn allows(&self, system: &str, user: &str) -> bool {
        self.lines.iter().any(|line| line.allows(system, user))
    }
}

impl IdentLine {
    fn allows(&self, system: &str, user: &str) -> bool {
        let group = match &self.system {
            SystemName::Name(name) if name == system => None,
            SystemName::Name(_) => return false,
            SystemName::Pattern(pattern) => match pattern.first_group(system) {
                Some(group) => group,
                None => return false,
            },
        };
        match &self.user {
            MappedUser::All => true,
            MappedUser::Name(name) => name == user,
            MappedUser::Pattern(pattern) => pattern.is_in(user),
            // A group that took no part stands for nothing, and nobody.
            MappedUser::Group(before, behind) => group.is_some_and(|group| {
                let rest = user.strip_prefix(before.as_str());
                rest.and_then(|rest| rest.strip_suffix(behind.as_str())) == Some(group)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(system: &str, user: MappedUser) -> IdentMap {
        let system = match system.strip_prefix('/') {
            Some(text) => SystemName::Pattern(Pattern::new(text).unwrap()),
            None => SystemName::Name(system.into()),
        };
        IdentMap { name: "m".into(), lines: vec![IdentLine { system, user }] }
    }

    #[test]
    fn names_patterns_and_all() {
        let map = line("ann", MappedUser::Name("app".into()));
        assert!(map.allows("ann", "app") && !map.allows("ann", "ann") && !map.allows("bob", "app"));
        let map = line("/^a", MappedUser::All);
        assert!(map.allows("ann", "anybody") && !map.allows("bob", "anybody"));
        let map = line("ann", MappedUser::Pattern(Pattern::new("^app_").unwrap()));
        assert!(map.allows("ann", "app_1") && !map.allows("ann", "app"));
    }

    #[test]
    fn the_group_takes_its_place() {
        let map = line("/^(.*)@shop$", MappedUser::Group("u_".into(), "_x".into()));
        assert!(map.allows("ann@shop", "u_ann_x"));
        assert!(
            !map.allows("ann@shop", "u_bob_x")
                && !map.allows("ann@shop", "ann")
                && !map.allows("ann", "u_ann_x")
        );
        assert!(!map.allows("@shop", "u_x"), "before and behind do not overlap");
        let map = line("/^(a)?n", MappedUser::Group(String::new(), String::new()));
        assert!(map.allows("an", "a") && !map.allows("n", "") && !map.allows("n", "a"));
    }

    #[test]
    fn any_line_will_do() {
        let mut map = line("ann", MappedUser::Name("a".into()));
        map.lines.extend(line("ann", MappedUser::Name("b".into())).lines);
        assert!(map.allows("ann", "a") && map.allows("ann", "b") && !map.allows("ann", "c"));
    }
}
