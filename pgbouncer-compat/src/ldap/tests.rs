use super::*;

fn read(text: &str) -> LdapOptions {
    parse(text).unwrap_or_else(|faults| panic!("{text}: {faults}"))
}

fn faults(text: &str) -> String {
    parse(text).map_or_else(|faults| faults.to_string(), |options| panic!("{text}: {options:?}"))
}

fn search(options: LdapOptions) -> Search {
    match options.lookup {
        LdapLookup::Search(search) => search,
        LdapLookup::Bind { .. } => panic!("it does not search"),
    }
}

fn servers(options: &LdapOptions) -> Vec<String> {
    options.servers.iter().map(LdapServer::to_string).collect()
}

#[test]
fn a_simple_bind() {
    let expected = ("cn=".to_owned(), ", dc=x".to_owned());
    for text in [
        "ldapserver=h ldapprefix=cn= ldapsuffix=\", dc=x\"",
        "ldapserver=h,ldapprefix=\"cn=\",ldapsuffix=\", dc=x\"",
        "\"ldapserver\"=\"h\" , \"ldapprefix\"=cn= \"ldapsuffix=, dc=x\"\n",
        "ldapurl=ldap://h ldapprefix=cn= ldapsuffix=\", dc=x\"",
    ] {
        let options = read(text);
        assert_eq!(
            (servers(&options), options.security),
            (vec!["h:389".to_owned()], LdapSecurity::None),
            "{text}"
        );
        let LdapLookup::Bind { prefix, suffix } = options.lookup else { panic!("{text}") };
        assert_eq!((prefix, suffix), expected, "{text}");
    }
}

#[test]
fn search_and_bind() {
    let text =
        "ldapserver=h ldapbasedn=\"dc=x,dc=y\" ldapbinddn=\"cn=a,dc=x\" ldapbindpasswd=\"a \"\"b\"\"\"";
    let found = search(read(text));
    assert_eq!((found.base.as_str(), found.bind_name.as_str()), ("dc=x,dc=y", "cn=a,dc=x"));
    assert_eq!((found.bind_password.as_str(), found.scope), ("a \"b\"", Scope::Subtree));
    assert_eq!(*found.filter, Filter::equals("uid").unwrap());
    let by = |more: &str| search(read(&format!("ldapserver=h ldapbasedn=dc=x {more}"))).filter;
    assert_eq!(*by("ldapsearchattribute=mail"), Filter::equals("mail").unwrap());
    let filter = "(|(uid=$username)(mail=$username))";
    assert_eq!(*by(&format!("ldapsearchfilter=\"{filter}\"")), Filter::parse(filter).unwrap());
}

#[test]
fn urls() {
    let options = read("ldapurl=\"ldaps://h:1636/dc=x,dc=y?mail,cn?sub\" ldapbinddn=cn=a");
    assert_eq!((servers(&options), options.security), (vec!["h:1636".to_owned()], LdapSecurity::Tls));
    let found = search(options);
    assert_eq!((found.base.as_str(), found.scope), ("dc=x,dc=y", Scope::Subtree));
    assert_eq!(*found.filter, Filter::equals("mail").unwrap());

    let found = search(read("ldapurl=\"ldap://h/dc=x%2cdc=y??one?(cn=$username%2A)\""));
    assert_eq!((found.base.as_str(), found.scope), ("dc=x,dc=y", Scope::One));
    assert_eq!(*found.filter, Filter::parse("(cn=$username*)").unwrap());

    // Both, though it is not documented.
    let found = search(read("ldapurl=ldap://h/dc=x??sub ldapsearchfilter=(cn=$username)"));
    assert_eq!(*found.filter, Filter::parse("(cn=$username)").unwrap());
    assert_eq!(search(read("ldapurl=ldap://h/dc=x")).scope, Scope::Base, "as RFC 4516 says");
    assert_eq!(servers(&read("ldapurl=ldaps://[::1]/dc=x")), ["[::1]:636"]);
    assert_eq!(servers(&read("ldapurl=ldap:///dc=x ldapserver=\"a b\"")), ["a:389", "b:389"]);
}

#[test]
fn several_servers_and_their_ports() {
    let text = "ldapserver=\"a  b:7 ::1 [::2]:8\" ldapport=9 ldapprefix=\"\" ldapcafile=/x";
    let options = read(text);
    assert_eq!(servers(&options), ["a:9", "b:7", "[::1]:9", "[::2]:8"]);
    assert_eq!(options.ca_file.unwrap().to_str(), Some("/x"));
    let tls = |text: &str| read(&format!("ldapserver=a ldapprefix=cn= {text}"));
    assert_eq!(tls("ldaptls=1").security, LdapSecurity::StartTls);
    assert_eq!(tls("ldaptls=0").security, LdapSecurity::None);
    assert_eq!(servers(&tls("ldapscheme=ldaps")), ["a:636"]);
}

#[test]
fn what_is_wrong_is_all_told() {
    for (text, expected) in [
        (
            "",
            "ldapserver, or a host in ldapurl, is missing; it is not looked for in the DNS; ldapbasedn, ldapprefix, or ldapsuffix is missing",
        ),
        ("ldapserver=h", "ldapbasedn, ldapprefix, or ldapsuffix is missing"),
        ("ldapserver=h ldapprefix=\"a", "a double quote is not closed"),
        ("ldapserver=h ldapprefix=a ldapfoo=1", "invalid LDAP key parameter: \"ldapfoo\""),
        (
            "ldapserver= h ldapprefix=a",
            "ldapserver has no value; there is no blank around the =; there is a word that is no LDAP option; values with blanks or commas need double quotes",
        ),
        (
            "ldapserver=h ldapprefix=a ldapport=0 ldapscheme=ldapi ldaptls=yes",
            "invalid LDAP port number: \"0\"; invalid ldapscheme value: \"ldapi\"; it is ldap or ldaps; ldaptls is 0 or 1, not \"yes\"",
        ),
        (
            "ldapserver=h ldapprefix=a ldapscheme=ldaps ldaptls=1",
            "ldaptls = 1 (StartTLS) can't be used together with ldaps",
        ),
        (
            "ldapserver=h ldapbasedn=dc=x ldapsearchattribute=a ldapsearchfilter=(a=$username)",
            "cannot use ldapsearchattribute together with ldapsearchfilter",
        ),
        (
            "ldapserver=h ldapbasedn=dc=x ldapsearchfilter=(a=b)",
            "ldapsearchfilter can't be used: $username does not occur in it",
        ),
        (
            "ldapserver=h ldapbasedn=dc=x ldapsearchattribute=a)(b",
            "ldapsearchattribute can't be used: the name of an attribute has letters, digits, hyphens and dots only",
        ),
        ("ldapurl=http://h/dc=x", "unsupported LDAP URL scheme: http"),
        (
            "ldapurl=ldap://h/dc=x?uid?all",
            "could not parse LDAP URL \"ldap://h/dc=x?uid?all\": its scope is base, one or sub",
        ),
        (
            "ldapurl=ldap://h/%zz",
            "could not parse LDAP URL \"ldap://h/%zz\": a % needs two hexadecimal digits behind it",
        ),
        ("ldapserver=h:x ldapprefix=a", "invalid LDAP port number: \"x\""),
    ] {
        assert_eq!(faults(text), expected, "{text}");
    }
    for search in [
        "ldapbasedn=a",
        "ldapbinddn=a",
        "ldapbindpasswd=a",
        "ldapsearchattribute=a",
        "ldapsearchfilter=(a=$username)",
        "ldapurl=ldap://h/dc=x",
    ] {
        for simple in ["ldapprefix=a", "ldapsuffix=a"] {
            let fault = faults(&format!("ldapserver=h {search} {simple}"));
            assert!(fault.starts_with("cannot use ldapbasedn"), "{search} {simple}: {fault}");
        }
    }
}

#[test]
fn no_password_is_told() {
    for text in
        ["ldapserver=h ldapbasedn=x ldapbindpasswd=abc, geheim=1", "ldapserver=h ldapbindpasswd=abc geheim"]
    {
        let fault = faults(text);
        assert!(!fault.contains("abc") && !fault.contains("geheim"), "{fault}");
    }
    let options = read("ldapserver=h ldapbasedn=x ldapbindpasswd=geheim");
    assert!(!format!("{options:?}").contains("geheim"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "((ldap(server|url|port|tls|basedn|searchfilter|prefix)|ldaps?://)?[=\"\\[\\]:/?% ,()*$a-z0-9]{0,12}){0,6}") {
        let _ = parse(&text);
    }
}
