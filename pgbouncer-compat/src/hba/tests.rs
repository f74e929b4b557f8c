use std::collections::HashMap;

use pooler::config::{AddressMatch, AuthMethod, CertificateCheck, CertificateName, DatabaseMatch, Transport};
use proptest::prelude::*;

use super::*;

/// Reads `hba` among these files.
fn rules(files: &[(&str, &str)]) -> Parsed<HbaRule> {
    let files: HashMap<_, _> =
        files.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes())).collect();
    let read = |path: &Path| {
        files.get(path).map(|bytes| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let list = |directory: &Path| {
        Ok(files.keys().filter(|path| path.parent() == Some(directory)).cloned().collect())
    };
    let maps = read_maps(Path::new("ident"), Files { read: &read, list: &list }).entries;
    read_rules(Path::new("hba"), Files { read: &read, list: &list }, &maps)
}

fn faults(text: &str) -> Vec<String> {
    rules(&[("hba", text), ("ident", "m a b")]).faults.iter().map(ToString::to_string).collect()
}

fn lines(parsed: &Parsed<HbaRule>) -> Vec<(String, u32)> {
    parsed.entries.iter().map(|rule| (rule.file.display().to_string(), rule.line)).collect()
}

#[test]
fn a_rule_has_all_its_parts() {
    let text = "hostssl shop,sameuser ann 10.0.0.0/8 cert map=m clientname=DN\n";
    let parsed = rules(&[("hba", text), ("ident", "m a b")]);
    assert!(parsed.faults.is_empty() && parsed.warnings.is_empty(), "{parsed:?}");
    let rule = &parsed.entries[0];
    assert_eq!((rule.line, rule.transport, rule.method), (1, Transport::HostSsl, AuthMethod::Cert));
    assert!(
        matches!(&rule.databases[..], [DatabaseMatch::Name(name), DatabaseMatch::SameUser] if name == "shop")
    );
    let net = AddressMatch::Net { base: [10, 0, 0, 0].into(), mask: [255, 0, 0, 0].into() };
    assert_eq!(rule.address, net);
    assert_eq!((rule.certificate, rule.name), (CertificateCheck::OfUser, CertificateName::Distinguished));
    assert_eq!(rule.map.as_ref().map(|map| &map.name[..]), Some("m"));
}

#[test]
fn every_bad_line_is_told_with_its_place() {
    let text = "local all all trust\nhost all all\n\nlocal all \\\nall nonsense\nlocal all +group trust\n\
                local all all peer map=other\nlocal all \"\u{fffd}\0\" trust\n";
    assert_eq!(
        faults(text),
        [
            "end-of-line before IP address specification (hba:2): a rule is TYPE DATABASES USERS [ADDRESS] METHOD \
             [OPTIONS]",
            "invalid authentication method \"nonsense\" (hba:4): it is one of trust, reject, password, plain, md5, \
             scram-sha-256, peer, cert, ldap, pam",
            "the group +group is not supported (hba:6): the pooler does not know who is a member of what; name the \
             users",
            "ident map other does not exist (hba:7): auth_ident_file has no line for it",
            "the line holds a zero byte (hba:8)",
        ]
    );
}

/// A word may be the rest of a password whose quotes were forgotten.
#[test]
fn faults_tell_no_secret() {
    for options in
        ["ldapbindpasswd=half S3CRET", "ldapbindpasswd=half,S3CRET=x", "ldapbindpasswd=a S3CRET=\"x\""]
    {
        let parsed = rules(&[("hba", &format!("host all all all ldap ldapserver=x {options}\n"))]);
        assert_eq!(parsed.faults.len(), 1, "{options}");
        assert!(!format!("{:?}", parsed.faults).contains("S3CRET"), "{:?}", parsed.faults);
    }
}

#[test]
fn what_never_lets_anybody_in_is_warned_about() {
    let text = "host all all all peer\nlocal all all cert\nhost all all 10.0.0.1/8 md5\nhostgssenc all all all trust\n\
                hostssl all all all cert\nlocal all all peer\n";
    let parsed = rules(&[("hba", text)]);
    assert_eq!((parsed.entries.len(), parsed.faults.len()), (6, 0));
    let warned: Vec<_> = parsed.warnings.iter().map(|warning| warning.place.line).collect();
    assert_eq!(warned, [Some(1), Some(2), Some(3), Some(4)]);
}

#[test]
fn lines_of_other_files() {
    let parsed = rules(&[
        ("hba", "include dir/more\nlocal a all trust\ninclude_dir dir\ninclude_if_exists none\n"),
        ("dir/more", "local b all trust\ninclude b.conf\n"),
        ("dir/b.conf", "local c @names trust\n"),
        ("dir/names", "x, y\nz"),
        ("dir/.c.conf", "nonsense"),
        ("dir/.conf", "nonsense"),
    ]);
    assert!(parsed.faults.is_empty(), "{:?}", parsed.faults);
    let expected = [("dir/more", 1), ("dir/b.conf", 1), ("hba", 2), ("dir/b.conf", 1)];
    assert_eq!(lines(&parsed), expected.map(|(file, line)| (file.to_owned(), line)));
    assert_eq!(parsed.entries[1].users.len(), 3);
}

#[test]
fn files_within_files_end() {
    let parsed = rules(&[("hba", "local a all trust\ninclude hba\n")]);
    assert_eq!(parsed.entries.len(), 11);
    assert_eq!(parsed.faults.len(), 1);
    assert!(parsed.faults[0].message.contains("nesting depth"), "{:?}", parsed.faults);
    let parsed = rules(&[("hba", "include hba\ninclude hba\n")]);
    assert!(parsed.faults.iter().any(|fault| fault.message.contains("too many files")));
    let parsed = rules(&[("hba", "local @hba all trust\n")]);
    assert!(parsed.entries.is_empty() && !parsed.faults.is_empty());
}

#[test]
fn comments_may_be_in_any_encoding() {
    let read = |_: &Path| Ok(b"# \xff\xfe\nlocal all all trust # \xff\nlocal all \xff trust".to_vec());
    let parsed = read_rules(Path::new("hba"), Files::read_by(&read), &[]);
    assert_eq!((parsed.entries.len(), parsed.faults.len()), (1, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        let read = |_: &Path| Ok(bytes.clone());
        read_rules(Path::new("hba"), Files::read_by(&read), &[]);
        read_maps(Path::new("ident"), Files::read_by(&read));
    }

    /// Nothing that a name is made of gives it another meaning when it is quoted.
    #[test]
    fn a_quoted_name_is_that_name(name in "[^\\x00\n\r/\\\\]{1,30}") {
        let text = format!("local \"{}\" all trust", name.replace('"', "\"\""));
        let parsed = rules(&[("hba", &text)]);
        let databases = parsed.entries.first().map(|rule| format!("{:?}", rule.databases));
        prop_assert_eq!(databases, Some(format!("{:?}", [DatabaseMatch::Name(name)])));
    }
}
