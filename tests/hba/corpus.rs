//! Lines good and bad, and in what PostgreSQL and we differ about them.

/// Part of a message, and why only one of the two refuses what has it.
pub(super) type Differs = (&'static str, &'static str);

/// The first version of PostgreSQL with regular expressions, and `include`, in its HBA file.
pub(super) const FIRST_WITH_PATTERNS: u32 = 16;

pub(super) const MAPS: &str = "m a b\n";

/// Faults of ours.
pub(super) const REFUSED_HERE: &[Differs] = &[
    ("samerole is not supported", "membership is known to the server only"),
    ("samegroup is not supported", "membership is known to the server only"),
    ("the group", "membership is known to the server only"),
    ("\"gss\": not supported", "a method that we do not have"),
    ("\"ident\": not supported", "a method that we do not have"),
    ("the domain", "names of addresses are not asked for"),
    ("invalid IP address", "a number that only inet_aton takes for an address, or an empty name"),
    ("invalid IP mask", "a number that only inet_aton takes for an address"),
    ("does not exist", "a map without a line would let nobody in"),
    ("invalid CIDR mask", "a number with a sign or blanks"),
    ("of groups that start with (?", "options of an expression that the two do not share"),
    ("is not supported", "an expression that the two would read differently"),
    ("is only valid for authentication methods peer and cert", "GSSAPI and ident have maps, too"),
];

/// Errors of PostgreSQL.
pub(super) const ACCEPTED_HERE: &[Differs] = &[
    ("peer authentication is only supported on local sockets", "PgBouncer reads it; nobody passes"),
    ("cert authentication is only supported on hostssl connections", "PgBouncer reads it; nobody passes"),
    ("invalid authentication method \"plain\"", "PgBouncer's word for password"),
    ("not supported by this build", "a matter of PostgreSQL's build"),
    ("requires argument", "what LDAP needs is judged elsewhere"),
    ("cannot use ldap", "what LDAP needs is judged elsewhere"),
    ("token too long", "PostgreSQL 15 ends tokens at 255 bytes"),
];

const TYPES: &[&str] = &["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

const ADDRESSES: &[&str] = &[
    "all",
    "samehost",
    "samenet",
    "\"all\"",
    "\"samehost\"",
    "127.0.0.1/32",
    "127.0.0.1/0",
    "10.1.2.3/8",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/+8",
    "10.0.0.0/",
    "10.0.0.0/8x",
    "10.0.0.0/8/8",
    "10.0.0.0",
    "10.0.0.0 255.0.0.0",
    "10.0.0.0 255.0.255.0",
    "10.0.0.0 255.0.0",
    "10.0.0.0 nonsense",
    "10.0.0.0 ::",
    "10.0.0.0 255.0.0.0,255.0.0.0",
    "::1/128",
    "::1/129",
    "fe80::/10",
    "2001:db8::5/32",
    "::1",
    "::1 ffff::",
    "::ffff:10.0.0.1/128",
    "::1 255.0.0.0",
    "1.2.3.4.5/8",
    "256.0.0.1/8",
    "10/8",
    "0x7f.1/8",
    "127.1/8",
    "db.example",
    "db-1.example.com",
    ".example.com",
    "db.example/8",
    "db_1",
    "::zz/8",
    "10.0.0.0/8,11.0.0.0/8",
    "\"10.0.0.0/8\"",
    "\"\"",
    "",
];

const METHODS: &[&str] = &[
    "trust",
    "reject",
    "password",
    "plain",
    "md5",
    "scram-sha-256",
    "scram-sha-256-plus",
    "peer",
    "cert",
    "ident",
    "gss",
    "pam",
    "hba",
    "any",
    "TRUST",
    "\"trust\"",
    "trust,md5",
    "",
];

const OPTIONS: &[&str] = &[
    "map=m",
    "map=none",
    "map=",
    "\"map=m\"",
    "map=\"m\"",
    "map = m",
    "map",
    "=m",
    "map=m=m",
    "map=m,map=m",
    "map=m map=m",
    "clientcert=verify-ca",
    "clientcert=verify-full",
    "clientcert=1",
    "clientcert=no-verify",
    "clientcert=verify-ca clientname=DN",
    "clientname=CN",
    "clientname=DN",
    "clientname=cn",
    "pamservice=x",
    "pamservice=x pam_use_hostname=1",
    "ldapserver=x ldapprefix=a",
    "ldapport=389",
    "krb_realm=x",
    "include_realm=1",
    "nonsense=1",
    "MAP=m",
];

const OPTIONS_OF: &[&str] = &[
    "local all all peer",
    "local all all trust",
    "hostssl all all all cert",
    "hostssl all all all scram-sha-256",
    "host all all all cert",
    "host all all all md5",
    "hostnossl all all all password",
    "hostssl all all all pam",
    "host all all all ldap",
    "host all all all gss",
];

const DATABASES: &[&str] = &[
    "all",
    "sameuser",
    "samerole",
    "samegroup",
    "replication",
    "ALL",
    "\"all\"",
    "\"sameuser\"",
    "\"samerole\"",
    "\"replication\"",
    "shop",
    "Shop",
    "\"my shop\"",
    "shop,all",
    "a,b,c",
    "a, b ,c",
    "a,,b",
    ",a",
    "a,",
    "\"a,b\"",
    "\"a\"\"b\"",
    "a\"b c\"d",
    "\"\"",
    "\"unclosed trust",
    "+group",
    "\"+group\"",
    "@missing",
    "\"@missing\"",
    "@",
    "a#b",
    "\"a#b\"",
    "größe",
];

const USERS: &[&str] = &[
    "all",
    "sameuser",
    "replication",
    "ann",
    "\"all\"",
    "+group",
    "\"+group\"",
    "+",
    "ann,bob",
    "ann,+group",
    "\"a b\"",
];

/// Whole lines. `\\` at an end continues them.
const OTHERS: &[&str] = &[
    "",
    "   \t ",
    "# comment",
    "  # comment",
    "\"\"",
    ",",
    ", ,",
    "local",
    "local all",
    "local all all",
    "local all all trust trust",
    "local all all trust # comment",
    "local all all trust# comment",
    "local,host all all trust",
    "Local all all trust",
    "\"local\" all all trust",
    "hostx all all all trust",
    "host all all",
    "host all all all",
    "host all all all all trust",
    "local all all 10.0.0.0/8 trust",
    "local\tall\tall\ttrust",
    "local all all trust\r",
    "local \\\nall all trust",
    "local all all \\\n\\\ntrust",
    "local all al\\\nl trust",
    "local all all trust \\\\",
    "local all all trust\\",
    "# comment \\\nlocal all all trust",
    "local all \"a\\\nb\" trust",
    "local all all trust;",
    "; local all all trust",
    "host all all all ldap ldapserver=ldap.example ldapprefix=\"cn=\" ldapsuffix=\", dc=example\"",
    "host all all all ldap ldapserver=ldap.example ldapport=1389 ldapbasedn=\"dc=example\" ldapsearchattribute=uid",
    "host all all all ldap",
    "host all all all ldap ldapserver=x ldapprefix=a ldapbasedn=b",
    "include nowhere.conf more",
];

/// What older versions take for names.
const PATTERNS: &[&str] = &[
    "local /^a all trust",
    "local all /^a(b|c)+$ trust",
    "local \"/a b\" all trust",
    "local a,/b,c \"/x,y\",z trust",
    "local / all trust",
    "local all /( trust",
    "local all /a{2,1} trust",
    "local all /[ trust",
    "local all /* trust",
    "local all /\\ya trust",
    "local all /(?x)a trust",
    "local all \"/(?i)a\" trust",
    "local all /^\\d+\\w\\s trust",
    "local all /[[:alpha:]] trust",
    "local all /[^a-c]?x*? trust",
    "local all /(?:a|b){2,3} trust",
];

/// All lines for this version.
pub(super) fn rule_lines(version: u32) -> Vec<String> {
    let mut lines: Vec<String> = OTHERS.iter().map(|line| (*line).to_owned()).collect();
    for kind in TYPES {
        let address = if *kind == "local" { "" } else { "all" };
        lines.extend(METHODS.iter().map(|method| format!("{kind} all all {address} {method}")));
        if *kind != "local" {
            lines.extend(ADDRESSES.iter().map(|address| format!("{kind} all all {address} md5")));
        }
    }
    lines.extend(
        OPTIONS_OF.iter().flat_map(|rule| OPTIONS.iter().map(move |option| format!("{rule} {option}"))),
    );
    lines.extend(DATABASES.iter().map(|databases| format!("local {databases} all trust")));
    lines.extend(USERS.iter().map(|users| format!("host all {users} samenet md5")));
    if version >= FIRST_WITH_PATTERNS {
        lines.extend(PATTERNS.iter().map(|line| (*line).to_owned()));
    }
    lines
}

/// Lines of the ident file.
pub(super) const IDENT_LINES: &[&str] = &[
    "",
    "# comment",
    "m a b",
    "m a b # comment",
    "m a",
    "m",
    "m a b c",
    "m a,b c",
    "m,n a b",
    "m a b,c",
    "m \"a b\" \"c d\"",
    "\"m x\" a b",
    "m a all",
    "m a \"all\"",
    "m a \\1",
    "m /^(.*)@x$ \\1",
    "m /^(.*)@x$ u_\\1_y",
    "m /^.*@x$ \\1",
    "m /^.*@x$ b",
    "m /( b",
    "m \"/^a b\" c",
    "m a \\\nb",
    "m a +group",
    "m a \"+group\"",
    "m a /^b",
    "m /^(a) /^\\1",
    "m a @missing",
    "\"\" a b",
];

/// Lines that only we refuse, and why.
pub(super) const IDENT_REFUSED_HERE: &[Differs] = &[
    ("m a b c", "PostgreSQL takes no notice of what it does not know, PgBouncer does"),
    ("m /^.*@x$ \\1", "PostgreSQL says so at each login"),
    ("m a +group", "membership is known to the server only"),
    ("m /^(a) /^\\1", "a back reference in an expression"),
    ("\"\" a b", "no rule can name such a map"),
];
