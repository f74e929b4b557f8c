//! PgBouncer's test_client_hba_cert: what rules want of the certificates of clients.

use rcgen::DnType;
use support::pki::{Authority, common_name};
use support::postgres::{PASSWORD, USER};
use support::tls::ClientTls;
use support::wire::{Client, Target};

use super::logins::{assert_refused, with_rules};
use crate::common::{pooler, prepared_database};
use crate::tls::Pki;

const RULES: &str = r#"
local     all admin  trust
hostnossl all open   all trust
hostssl   all open   all reject
hostnossl all closed all reject
hostssl   all app    all cert
hostssl   all mapped all cert map=by_name
hostssl   all dn     all cert clientname=DN map=by_subject
hostssl   all exact  all cert clientname=DN
hostssl   all sealed all scram-sha-256 clientcert=verify-ca
hostssl   all both   all scram-sha-256 clientcert=verify-full
"#;

/// A name in quotes is read to the end of the quotes; the comma in the organization's name is escaped as RFC 2253 has it.
const MAPS: &str = r#"
by_name    /^(.*)\.services$      \1
by_name    ann                    mapped
by_subject "O=Shop\, Inc,CN=ann"  dn
by_subject /^O=Shop.*CN=bob$      dn
"#;

const FAILED: &str = "certificate authentication failed";
const NO_RULE: &str = "no authentication method is found";

#[test]
fn what_rules_want_of_certificates() {
    let pki = Pki::new();
    let database = prepared_database("certificates", "");
    let builder = pki.offer(with_rules(pooler(), RULES), "allow");
    let builder = builder
        .setting("client_tls_ca_file", pki.path("ca.crt"))
        .setting("auth_ident_file", "{dir}/ident")
        .beside("ident", MAPS);
    let builder = ["open", "closed", "app", "mapped", "dn", "exact"]
        .into_iter()
        .fold(builder, |builder, user| builder.secret(user, ""));
    let builder = builder.secret("sealed", PASSWORD).secret("both", PASSWORD);
    let pooler = builder.database_as("d", &database, &format!("user={USER}")).start();

    let without = |user: &str| pooler.target("d").user(user).password(PASSWORD);
    let with = |user: &str, tls: &ClientTls| without(user).tls(tls);
    let passes = |target: &Target| assert_eq!(Client::login(target).scalar("select current_user"), USER);
    let of = |name: &str| pki.client().identity(&pki.authority.client(name));
    let shop = |name: &str| {
        let request = common_name(name)
            .usage(rcgen::ExtendedKeyUsagePurpose::ClientAuth)
            .with(|params| params.distinguished_name.push(DnType::OrganizationName, "Shop, Inc"));
        pki.client().identity(&pki.authority.issue(request))
    };
    let alternative = |name: &str, others: &[&str]| {
        let request =
            common_name(name).alternatives(others).usage(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        pki.client().identity(&pki.authority.issue(request))
    };
    let none = pki.client();

    // With TLS and without.
    passes(&without("open"));
    assert_refused(&with("open", &none), "login rejected");
    assert_refused(&without("closed"), "login rejected");
    assert_refused(&with("closed", &of("closed")), NO_RULE);
    assert_refused(&without("app"), NO_RULE);

    // A certificate with the user's name, in one of its places.
    passes(&with("app", &of("app")));
    passes(&with("app", &alternative("another", &["x.example", "app"])));
    for wrong in [none.clone(), of("App"), of("app "), of("mapped"), alternative("another", &["app.example"])]
    {
        assert_refused(&with("app", &wrong), FAILED);
    }
    let stranger = none.clone().identity(&Authority::new("strangers").client("app"));
    assert!(Client::try_login(&with("app", &stranger)).is_err());

    // By maps. With one the same name is not enough.
    passes(&with("mapped", &of("mapped.services")));
    passes(&with("mapped", &of("ann")));
    passes(&with("mapped", &alternative("nobody", &["mapped.services"])));
    for wrong in [of("mapped"), of("other.services"), of("mapped.services.example"), of("xann")] {
        assert_refused(&with("mapped", &wrong), FAILED);
    }
    passes(&with("dn", &shop("ann")));
    passes(&with("dn", &shop("bob")));
    for wrong in [shop("carl"), of("ann"), of("dn"), of("O=Shop\\, Inc,CN=ann"), none.clone()] {
        assert_refused(&with("dn", &wrong), FAILED);
    }
    assert_refused(&with("exact", &of("exact")), FAILED);

    // Beside a password.
    passes(&with("sealed", &of("anybody")));
    passes(&with("both", &of("both")));
    assert_refused(&with("sealed", &none), FAILED);
    assert_refused(&with("both", &none), FAILED);
    assert_refused(&with("both", &of("sealed")), FAILED);
    for (user, name) in [("sealed", "anybody"), ("both", "both")] {
        assert_refused(&with(user, &of(name)).password("wrong"), "SASL authentication failed");
    }
}
