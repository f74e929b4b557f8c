//! Methods of authentication that need more than their name.

use super::*;

#[test]
fn rules_and_maps_count_with_their_method_only() {
    let load = |auth_type: &str, hba: &str, ident: &str| {
        let ini = format!(
            "[pgbouncer]\nauth_file = users\nauth_type = {auth_type}\nauth_hba_file = hba\nauth_ident_file = ident\n"
        );
        load_files(&[("a.ini", &ini), ("users", ""), ("hba", hba), ("ident", ident)])
    };
    let loaded = load("hba", "local all all peer map=m\nhost all all 10.0.0.1/8 md5\n", "m a b\n").unwrap();
    assert_eq!(loaded.config.auth.method, AuthMethod::Hba);
    let rules = &loaded.config.auth.hba.0;
    assert_eq!(rules.iter().map(|rule| rule.method).collect::<Vec<_>>(), [AuthMethod::Peer, AuthMethod::Md5]);
    assert!(rules[0].map.as_ref().is_some_and(|map| map.allows("a", "b")));
    assert_eq!(
        warnings(&loaded),
        [
            "the address has bits set that its mask leaves out (hba:2): those bits do not count; PgBouncer would take \
          the rule for one that never matches"
        ]
    );
    let refused = load("hba", "local all all\n", "m a\n").unwrap_err().to_string();
    assert_eq!(
        refused.lines().collect::<Vec<_>>(),
        [
            "end-of-line before authentication method (hba:1): a rule is TYPE DATABASES USERS [ADDRESS] METHOD [OPTIONS]",
            "missing entry at end of line (ident:1): a line is MAP SYSTEM-NAME DATABASE-USER",
        ]
    );
    let unread = load("md5", "local all all\n", "m a\n").unwrap();
    assert!(unread.config.auth.hba.0.is_empty());
    let missing = faults("[pgbouncer]\nauth_file = users\nauth_type = hba\nauth_hba_file = none\n");
    assert_eq!(missing, ["could not open file \"none\": No such file or directory (none)"]);
    let certificates = faults("[pgbouncer]\nauth_file = users\nauth_type = cert\n");
    assert_eq!(
        certificates,
        [
            "auth_type=cert requires client_tls_sslmode=verify-full (a.ini:3): nobody could log in; set it, and \
          client_tls_ca_file"
        ]
    );
}

#[test]
fn options_of_ldap_are_read_where_they_count() {
    let text = |auth_type: &str, options: &str| {
        format!("[pgbouncer]\nauth_type = {auth_type}\nauth_file = users\nauth_ldap_options = {options}\n")
    };
    let good = "ldapurl=\"ldaps://h/dc=x?uid?sub\" ldapbinddn=cn=a ldapbindpasswd=geheim";
    let with = loaded(&text("ldap", good));
    assert_eq!(with.config.auth.method, AuthMethod::Ldap);
    assert_eq!(with.config.auth.ldap.as_ref().unwrap().servers[0].to_string(), "h:636");
    assert_eq!(shown(&with, "auth_ldap_options").as_deref(), Some("(secret)"));
    assert_eq!(
        faults(&text("ldap", "ldapserver=h ldaptls=2 ldapfoo=1")),
        [
            "auth_ldap_options: ldaptls is 0 or 1, not \"2\" (a.ini:4)",
            "auth_ldap_options: invalid LDAP key parameter: \"ldapfoo\" (a.ini:4)",
        ]
    );
    let unused = loaded(&text("md5", "ldapserver=h"));
    let expected = "auth_ldap_options: ldapbasedn, ldapprefix, or ldapsuffix is missing (a.ini:4): \
                    they are used with auth_type = ldap";
    assert_eq!(warnings(&unused), [expected]);
    assert_eq!(
        warnings(&loaded("[pgbouncer]\nauth_type = ldap\n")),
        ["auth_ldap_options is null (a.ini:2): every login will fail; say where the LDAP server is"]
    );
}

#[test]
fn pam_is_there_if_it_was_built_in() {
    let text = "[pgbouncer]\nauth_type = PAM\nauth_pam_service = mine\n";
    if pooler::HAS_PAM {
        let with = loaded(text);
        assert_eq!(
            (with.config.auth.method, with.config.auth.pam_service.as_str()),
            (AuthMethod::Pam, "mine")
        );
    } else {
        let expected = "auth_type = pam: pam is not supported by this build (a.ini:2): build it with \
                        `cargo build --release --features pam`, which needs libpam0g-dev";
        assert_eq!(faults(text), [expected]);
    }
}
