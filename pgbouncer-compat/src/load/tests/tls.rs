//! Settings of TLS, and the files that they name.

use super::*;

/// Every setting of TLS counts, the content of files included.
#[test]
fn settings_of_tls_reach_their_place() {
    let identities: Vec<_> = ["a", "b"]
        .map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap())
        .map(|identity| (identity.cert.pem(), identity.signing_key.serialize_pem()))
        .into();
    let [(cert, key), (other_cert, other_key)] = &identities[..] else { panic!("two") };
    let tls = |text: &str, swapped: bool| {
        let (a, b) = if swapped {
            ((other_cert, other_key), (cert, key))
        } else {
            ((cert, key), (other_cert, other_key))
        };
        let files = [("users", ""), ("c", a.0), ("k", a.1), ("c2", b.0), ("k2", b.1)];
        let files: Vec<(&str, &str)> = [("a.ini", text)].into_iter().chain(files).collect();
        let config = load_files(&files).unwrap().config;
        (config.client_tls, config.server_tls)
    };
    let base = "[pgbouncer]\nauth_file = users\nclient_tls_sslmode = require\nclient_tls_cert_file = c\n\
                client_tls_key_file = k\nserver_tls_sslmode = require\n";
    let unchanged = tls(base, false);
    assert_eq!(tls(base, false), unchanged);
    assert_ne!(tls(base, true).0, unchanged.0, "the content of a file");
    for line in [
        "client_tls_sslmode = prefer",
        "client_tls_ca_file = c2",
        "client_tls_cert_file = c2\nclient_tls_key_file = k2",
        "client_tls_protocols = tlsv1.3",
        "client_tls_ciphers = HIGH:!AES128",
        "client_tls13_ciphers = TLS_AES_128_GCM_SHA256",
        "client_tls_ecdhcurve = prime256v1",
        "client_tls_dheparams = none",
        "server_tls_sslmode = prefer",
        "server_tls_negotiation = direct",
        "server_tls_ca_file = c2",
        "server_tls_cert_file = c2\nserver_tls_key_file = k2",
        "server_tls_protocols = tlsv1.3",
        "server_tls_ciphers = HIGH:!AES128",
        "server_tls13_ciphers = TLS_AES_128_GCM_SHA256",
    ] {
        let (clients, servers) = tls(&format!("{base}{line}\n"), false);
        let changed = (clients != unchanged.0, servers != unchanged.1);
        assert_eq!(changed, (line.starts_with("client"), line.starts_with("server")), "{line}");
    }
}

#[test]
fn faults_of_tls_name_the_setting_the_file_and_the_reason() {
    let identity = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let (cert, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap().cert.pem();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let faults = |lines: &str| {
        let text = format!("[pgbouncer]\nauth_file = users\nclient_tls_sslmode = require\n{lines}");
        let files = [
            ("a.ini", &*text),
            ("users", ""),
            ("c", &cert),
            ("k", &key),
            ("other", &other),
            ("sealed", encrypted),
        ];
        load_files(&files).map(|loaded| warnings(&loaded).join("\n")).map_err(|faults| faults.to_string())
    };
    let own = "client_tls_cert_file = c\nclient_tls_key_file = k\n";
    for (lines, expected) in [
        ("", "client_tls_cert_file: not set (a.ini): clients can't use TLS without"),
        (
            "client_tls_cert_file = gone\nclient_tls_key_file = k",
            "client_tls_cert_file: could not load gone: No such file or directory (a.ini:4)",
        ),
        (
            "client_tls_cert_file = c\nclient_tls_key_file = gone",
            "client_tls_key_file: could not load gone: No such file or directory (a.ini:5)",
        ),
        (
            "client_tls_cert_file = k\nclient_tls_key_file = k",
            "client_tls_cert_file: could not load k: no certificate in it (a.ini:4)",
        ),
        (
            "client_tls_cert_file = c\nclient_tls_key_file = c",
            "client_tls_key_file: could not load c: no private key in it (a.ini:5)",
        ),
        (
            "client_tls_cert_file = c\nclient_tls_key_file = sealed",
            "client_tls_key_file: could not load sealed: the key in it is encrypted (a.ini:5)",
        ),
        (
            "client_tls_cert_file = other\nclient_tls_key_file = k",
            "client_tls_key_file: the key in k is not that of the certificate in other (a.ini:5)",
        ),
        (
            &format!("{own}client_tls_ca_file = gone"),
            "client_tls_ca_file: could not load gone: No such file or directory (a.ini:6)",
        ),
        (
            &format!("{own}client_tls_protocols = sslv3"),
            "client_tls_protocols: unknown TLS version \"sslv3\" (a.ini:6)",
        ),
        (
            &format!("{own}client_tls13_ciphers = TLS_BOGUS"),
            "client_tls13_ciphers: unknown cipher suite \"TLS_BOGUS\" of TLS 1.3 (a.ini:6)",
        ),
        (
            &format!("{own}client_tls_ecdhcurve = secp521r1"),
            "client_tls_ecdhcurve: unknown curve \"secp521r1\" (a.ini:6)",
        ),
        (
            &format!("{own}server_tls_negotiation = direct"),
            "server_tls_negotiation: direct with server_tls_sslmode = prefer (a.ini:6)",
        ),
        (
            &format!("{own}server_tls_cert_file = c"),
            "server_tls_key_file: there is a certificate without a key (a.ini)",
        ),
        (
            &format!("{own}[databases]\nd = host=h server_tls_sslmode=verify-ca"),
            "database d: server_tls_sslmode: verify-ca needs server_tls_ca_file (a.ini:7)",
        ),
        (
            &format!("{own}[databases]\nd = host=h client_tls_sslmode=verify-full"),
            "database d has client_tls_sslmode = verify-full, and there is no client_tls_ca_file (a.ini:7)",
        ),
        (
            &format!("{own}client_tls_sslmode = disable\n[users]\nu = client_tls_sslmode=require"),
            "user u has client_tls_sslmode = require, and clients are not offered TLS (a.ini:8)",
        ),
    ] {
        let said = faults(lines).expect_err(lines);
        assert!(said.starts_with(expected), "{lines}: {said}");
        assert!(!said.contains("BEGIN") || said.contains("expected PEM"), "{said}");
    }
    let said = faults(&format!("{own}client_tls_protocols = all")).unwrap();
    assert!(
        said.starts_with("client_tls_protocols: \"all\" includes versions that are gone (a.ini:6)"),
        "{said}"
    );
}
