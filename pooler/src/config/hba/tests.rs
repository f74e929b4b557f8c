use super::*;

fn rule(
    transport: Transport,
    database: DatabaseMatch,
    user: UserMatch,
    address: AddressMatch,
) -> Arc<HbaRule> {
    Arc::new(HbaRule {
        file: Path::new("hba").into(),
        line: 1,
        transport,
        databases: vec![DatabaseMatch::Name("other".into()), database],
        users: vec![user],
        address,
        method: AuthMethod::Md5,
        certificate: CertificateCheck::None,
        name: CertificateName::Common,
        map: None,
        ldap: None,
        options: Vec::new(),
        hits: Hits::default(),
    })
}

fn of_all(transport: Transport, address: AddressMatch) -> Arc<HbaRule> {
    rule(transport, DatabaseMatch::All, UserMatch::All, address)
}

const TCP: Incoming<'_> = Incoming {
    address: Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3))),
    tls: false,
    database: "shop",
    user: "ann",
    physical_replication: false,
};

fn fits(rule: &Arc<HbaRule>, incoming: &Incoming<'_>) -> bool {
    let own: Arc<[Interface]> = [(ip("10.1.2.9"), ip("255.255.0.0")), (ip("fe80::1"), ip("ffff::"))].into();
    let rules = Hba(Arc::new([rule.clone()]));
    rules.first(0, incoming, &mut || own.clone()) == Found::Rule(0)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(base: &str, mask: &str) -> AddressMatch {
    AddressMatch::Net { base: ip(base), mask: ip(mask) }
}

#[test]
fn the_way_that_it_came() {
    use Transport::*;
    let tls = Incoming { tls: true, ..TCP };
    let unix = Incoming { address: None, ..TCP };
    for (transport, expected) in [
        (Local, [false, false, true]),
        (Host, [true, true, false]),
        (HostSsl, [false, true, false]),
        (HostNoSsl, [true, false, false]),
        (HostGss, [false, false, false]),
        (HostNoGss, [true, true, false]),
    ] {
        let rule = of_all(transport, AddressMatch::All);
        assert_eq!([&TCP, &tls, &unix].map(|incoming| fits(&rule, incoming)), expected, "{transport:?}");
    }
}

#[test]
fn databases_and_users() {
    let pattern = |text| Pattern::new(text).unwrap();
    let fits =
        |database, user, incoming| fits(&rule(Transport::Host, database, user, AddressMatch::All), incoming);
    let name = |name: &str| DatabaseMatch::Name(name.into());
    assert!(fits(name("shop"), UserMatch::All, &TCP) && !fits(name("Shop"), UserMatch::All, &TCP));
    assert!(fits(DatabaseMatch::Pattern(pattern("^sh")), UserMatch::Name("ann".into()), &TCP));
    assert!(!fits(DatabaseMatch::Pattern(pattern("^ho")), UserMatch::All, &TCP));
    assert!(!fits(DatabaseMatch::All, UserMatch::Name("bob".into()), &TCP));
    assert!(fits(DatabaseMatch::All, UserMatch::Pattern(pattern("n{2}$")), &TCP));
    assert!(!fits(DatabaseMatch::SameUser, UserMatch::All, &TCP));
    assert!(fits(DatabaseMatch::SameUser, UserMatch::All, &Incoming { database: "ann", ..TCP }));
}

#[test]
fn replication_has_no_database() {
    let physical = Incoming { physical_replication: true, ..TCP };
    let fits = |database, incoming| {
        fits(&rule(Transport::Host, database, UserMatch::All, AddressMatch::All), incoming)
    };
    assert!(fits(DatabaseMatch::Replication, &physical) && !fits(DatabaseMatch::Replication, &TCP));
    assert!(!fits(DatabaseMatch::All, &physical) && !fits(DatabaseMatch::Name("shop".into()), &physical));
    assert!(!fits(DatabaseMatch::SameUser, &Incoming { database: "ann", ..physical }));
}

#[test]
fn addresses() {
    let at = |address: AddressMatch, client: &str| {
        fits(&of_all(Transport::Host, address), &Incoming { address: Some(ip(client)), ..TCP })
    };
    assert!(at(net("10.9.9.9", "255.0.0.0"), "10.1.2.3"), "bits outside the mask do not count");
    assert!(!at(net("10.0.0.0", "255.0.0.0"), "11.0.0.1") && at(net("0.0.0.0", "0.0.0.0"), "11.0.0.1"));
    assert!(
        at(net("10.0.3.0", "255.0.255.0"), "10.7.3.1") && !at(net("10.0.3.0", "255.0.255.0"), "10.7.4.1")
    );
    assert!(!at(net("0.0.0.0", "0.0.0.0"), "::1") && !at(net("::", "::"), "10.0.0.1"));
    assert!(at(net("2001:db8::", "ffff:ffff::"), "2001:db8::1"));
    assert!(at(net("10.0.0.0", "255.0.0.0"), "::ffff:10.1.2.3"), "an IPv4 client of an IPv6 socket");
    assert!(at(AddressMatch::SameHost, "10.1.2.9") && !at(AddressMatch::SameHost, "10.1.2.3"));
    assert!(at(AddressMatch::SameNet, "10.1.200.3") && !at(AddressMatch::SameNet, "10.2.0.1"));
    assert!(at(AddressMatch::SameNet, "fe80::77") && !at(AddressMatch::SameNet, "fe81::77"));
}

#[test]
fn the_first_that_fits_decides_and_names_are_asked_for_only_then() {
    let rules = Hba(Arc::new([
        rule(
            Transport::Host,
            DatabaseMatch::All,
            UserMatch::Name("bob".into()),
            AddressMatch::Name("a".into()),
        ),
        of_all(Transport::Host, AddressMatch::Name("b".into())),
        of_all(Transport::Host, net("11.0.0.0", "255.0.0.0")),
        of_all(Transport::Host, AddressMatch::All),
        of_all(Transport::Host, AddressMatch::All),
    ]));
    let first = |from| rules.first(from, &TCP, &mut || unreachable!("no rule is about this machine"));
    assert_eq!(
        [0, 2, 4, 5].map(first),
        [Found::IfNamed(1, "b"), Found::Rule(3), Found::Rule(4), Found::None]
    );
}

#[test]
fn thousands_of_rules_are_searched_in_no_time() {
    let strangers = (0..20_000u32).map(|n| {
        let [_, a, b, c] = n.to_be_bytes();
        of_all(Transport::Host, net(&format!("172.{a}.{b}.{c}"), "255.255.255.255"))
    });
    let rules = Hba(strangers.chain([of_all(Transport::Host, AddressMatch::All)]).collect());
    let started = std::time::Instant::now();
    assert_eq!(rules.first(0, &TCP, &mut || unreachable!()), Found::Rule(20_000));
    println!("{:?} for 20,000 rules", started.elapsed());
    assert!(started.elapsed() < std::time::Duration::from_millis(250));
}

#[test]
fn ipv4_addresses_written_as_ipv6_ones() {
    let rule = |base, mask| of_all(Transport::Host, net(base, mask));
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert!(fits(&rule("::ffff:10.1.2.3", all), &TCP) && !fits(&rule("::ffff:10.1.2.4", all), &TCP));
    assert!(fits(&rule("::ffff:10.1.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"), &TCP));
    // This is a network of more than them, of which an IPv4 client is none.
    assert!(!fits(&rule("::", "::"), &TCP) && !fits(&rule("::ffff:0:0", "ffff:ffff::"), &TCP));
}
