use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgbouncer_compat::hba::{Files, read_maps, read_rules};
use pooler::config::{AddressMatch, Found, Hba, HbaRule, IdentMap, Incoming};

/// Files are missing from here on: those that include themselves would take all the time.
const MOST_FILES: u32 = 6;

/// HBA and ident files: a line gives a rule, a fault, or nothing; what was read can be asked; and what a rule is shown as
/// reads as the same rule again. Three parts, divided by zero bytes: the rules, a file that they may include, the maps.
pub fn hba(data: &[u8]) {
    let parts: Vec<&[u8]> = data.splitn(3, |byte| *byte == 0).collect();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let left = Cell::new(MOST_FILES);
    let read = |path: &Path| match path.to_str().filter(|_| left.replace(left.get().saturating_sub(1)) > 0) {
        Some("hba") => Ok(part(0).to_vec()),
        Some("other.conf") => Ok(part(1).to_vec()),
        Some("ident") => Ok(part(2).to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let list = |_: &Path| Ok(vec![PathBuf::from("other.conf"), PathBuf::from(".other.conf")]);
    let files = Files { read: &read, list: &list };
    let maps = read_maps(Path::new("ident"), files);
    let rules = read_rules(Path::new("hba"), files, &maps.entries);
    for finding in maps.faults.iter().chain(&rules.faults).chain(&rules.warnings) {
        assert!(!finding.message.is_empty() && !finding.message.contains('\n'));
    }
    for map in &maps.entries {
        assert!(!map.name.is_empty() && !map.lines.is_empty());
        map.allows("ann@shop.example", "ann");
    }
    rules.entries.iter().take(3).for_each(|rule| reads_again(rule, &maps.entries));
    asked(&Hba(rules.entries.into_iter().map(Arc::new).collect()));
}

/// Databases and users are left out of the comparison: a name that is a keyword unless it is quoted is shown like that.
fn reads_again(rule: &HbaRule, maps: &[Arc<IdentMap>]) {
    let quoted = |text: String| match &text[..] {
        "all" | "sameuser" | "replication" => text,
        _ => format!("\"{}\"", text.replace('"', "\"\"")),
    };
    let list = |all: Vec<String>| all.into_iter().map(quoted).collect::<Vec<_>>().join(",");
    let databases = list(rule.databases.iter().map(ToString::to_string).collect());
    let users = list(rule.users.iter().map(ToString::to_string).collect());
    let (mut address, mask) = rule.address_columns();
    if let AddressMatch::Name(name) = &rule.address {
        address = Some(format!("\"{}\"", name.replace('"', "\"\"")));
    }
    let options = rule
        .options
        .iter()
        .map(|(name, value)| format!("\"{}={}\"", name.replace('"', "\"\""), value.replace('"', "\"\"")));
    let line = format!(
        "{} {databases} {users} {} {} {} {}",
        rule.transport.keyword(),
        address.unwrap_or_default(),
        mask.unwrap_or_default(),
        rule.method.name(),
        options.collect::<Vec<_>>().join(" "),
    );
    let read = |_: &Path| Ok(line.clone().into_bytes());
    let again = read_rules(Path::new("again"), Files::read_by(&read), maps);
    assert!(again.faults.is_empty(), "{line}: {:?}", again.faults);
    let shown = |rule: &HbaRule| {
        let shown = (rule.transport, &rule.address, rule.method, rule.certificate, rule.name, &rule.options);
        format!("{shown:?} {:?}", rule.map.as_ref().map(|map| &map.name))
    };
    assert_eq!(again.entries.iter().map(shown).collect::<Vec<_>>(), [shown(rule)], "{line}");
}

/// The search goes forward, and ends.
fn asked(rules: &Hba) {
    for (address, tls, physical_replication) in [
        (None, false, false),
        (Some(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))), true, false),
        (Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), false, true),
    ] {
        let incoming = Incoming { address, tls, database: "shop", user: "ann", physical_replication };
        let own: Arc<[_]> =
            [(IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(255, 0, 0, 0)))].into();
        let mut from = 0;
        while let Found::Rule(at) | Found::IfNamed(at, _) = rules.first(from, &incoming, &mut || own.clone())
        {
            assert!(at >= from && at < rules.0.len());
            from = at + 1;
        }
    }
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let rules = "local all all peer map=m # comment\nhost shop,sameuser ann,\"all\" 10.0.0.0/8 md5\n\
                 hostssl all /^a.*(b|c)+$ samenet scram-sha-256 clientcert=verify-ca clientname=DN\n\
                 hostnossl \"my \"\"db\"\"\" all ::1 ffff:: reject\ninclude other.conf\n";
    let more = "host replication @other.conf 127.0.0.1 255.255.255.255 \\\n password\ninclude_dir d\n\
                include_if_exists none\nhost all all db.example trust\nlocal @ident all cert\n";
    let maps = "m /^(.*)@shop\\.example$ \\1\nm root all\nn \"a b\" /^x[[:digit:]]{1,3}$\n";
    let ldap = "hostnogssenc all all all ldap ldapserver=x ldapprefix=\"cn=\" ldapsuffix=\", dc=x\"\n\
                hostgssenc all all samehost pam pamservice=x\nhost all /(?i)x.?y*? 1.2.3.4/32 trust\n";
    let join = |parts: [&str; 3]| parts.join("\0").into_bytes();
    vec![
        join([rules, more, maps]),
        join([more, rules, maps]),
        join([ldap, "ann, bob # both\n\n\"c d\"", maps]),
        join(["local @other.conf all trust\ninclude hba\n", "x y", ""]),
    ]
}
