//! Rules that choose how clients log in.

use pooler::config::HbaRule;
use pooler::control::Control;

use crate::rows::{Table, cells};

/// In the order in which they are looked at. `hits` counts since the files were read last.
pub(super) fn hba(table: &mut Table, control: &Control) {
    for (number, rule) in (1..).zip(control.config().auth.hba.0.iter()) {
        let (address, netmask) = rule.address_columns();
        let number: usize = number;
        table.row(cells![
            number,
            rule.file.display().to_string(),
            rule.line,
            rule.transport.keyword(),
            list(&rule.databases),
            list(&rule.users),
            address,
            netmask,
            rule.method.name(),
            options(rule),
            rule.hits.get(),
        ]);
    }
}

fn list(of: &[impl ToString]) -> String {
    of.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// All but passwords.
fn options(rule: &HbaRule) -> String {
    let option = |(name, value): &(String, String)| match &name[..] {
        "ldapbindpasswd" => format!("{name}=(secret)"),
        _ => format!("{name}={value}"),
    };
    rule.options.iter().map(option).collect::<Vec<_>>().join(",")
}
