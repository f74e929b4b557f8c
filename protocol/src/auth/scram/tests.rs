use postgres_protocol::authentication::sasl::{ChannelBinding as Foreign, ScramSha256};
use postgres_protocol::password::scram_sha_256;
use proptest::prelude::*;

use super::*;

const NONCE: [u8; NONCE_LEN] = [7; NONCE_LEN];
const SALT: &[u8] = b"sixteen bytes of";

/// Few rounds: the tests run without optimization.
const ROUNDS: u32 = 16;

fn verifier(password: &[u8]) -> Verifier {
    derive(password, SALT, ROUNDS).unwrap().verifier(SALT, ROUNDS)
}

fn unbound() -> Accepted<'static> {
    Offer::new(None).accept(MECHANISM.as_bytes()).unwrap()
}

/// Runs the whole exchange between the two roles here.
fn exchange(verifier: &Verifier, password: &[u8]) -> Result<Keys, ScramError> {
    let (client, client_first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
    let (server, server_first) = AwaitProof::start(unbound(), client_first.as_bytes(), verifier, NONCE)?;
    let client = client.server_first(server_first.as_bytes())?;
    assert!(client.is_salted_like(verifier));
    let keys = derive(password, client.salt(), client.iterations())?;
    let (client, client_final) = client.prove(&keys);
    let proved = server.client_final(client_final.as_bytes())?;
    client.server_final(proved.server_final.as_bytes())?;
    Ok(Keys::pass_through(&proved.client_key, verifier))
}

fn syntax<T>(result: Result<T, ScramError>) -> bool {
    matches!(result, Err(ScramError::Syntax { .. }))
}

#[test]
fn the_example_of_rfc_7677() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = derive(b"pencil", &salt, 4096).unwrap();
    let verifier = keys.verifier(&salt, 4096);

    let (client, client_first) =
        AwaitServerFirst::begin(Choice::UNBOUND, "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
    assert_eq!(client_first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (server, server_first) =
        AwaitProof::begin(unbound(), client_first.as_bytes(), &verifier, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
            .unwrap();
    assert_eq!(
        server_first,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let (client, client_final) = client.server_first(server_first.as_bytes()).unwrap().prove(&keys);
    assert_eq!(
        client_final,
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    let proved = server.client_final(client_final.as_bytes()).unwrap();
    assert_eq!(proved.server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(client.server_final(proved.server_final.as_bytes()), Ok(()));
    assert!(*proved.client_key == keys.client_key);
}

#[test]
fn the_keys_of_a_proof_log_in_elsewhere() {
    let stored = verifier(b"secret");
    let keys = exchange(&stored, b"secret").unwrap();
    assert!(keys == derive(b"secret", SALT, ROUNDS).unwrap());
    assert_eq!(exchange(&stored, b"Secret").unwrap_err(), ScramError::WrongProof);
    assert_eq!(
        exchange(&Verifier::fake("ann", b"process", ROUNDS), b"").unwrap_err(),
        ScramError::WrongProof
    );
}

/// Another implementation's client against the server here.
fn foreign_client(verifier: &Verifier, password: &[u8]) -> Result<(), ScramError> {
    let mut client = ScramSha256::new(password, Foreign::unsupported());
    let (server, server_first) = AwaitProof::start(unbound(), client.message(), verifier, NONCE)?;
    client.update(server_first.as_bytes()).unwrap();
    let proved = server.client_final(client.message())?;
    client.finish(proved.server_final.as_bytes()).unwrap();
    Ok(())
}

#[test]
fn another_client_logs_in() {
    let stored = verifier(b"secret");
    assert_eq!(foreign_client(&stored, b"secret"), Ok(()));
    assert_eq!(foreign_client(&stored, b"secreT"), Err(ScramError::WrongProof));
    // It could bind but was offered no binding: flag `y`.
    let mut client = ScramSha256::new(b"secret", Foreign::unrequested());
    let (server, server_first) = AwaitProof::start(unbound(), client.message(), &stored, NONCE).unwrap();
    client.update(server_first.as_bytes()).unwrap();
    assert!(server.client_final(client.message()).is_ok());
    // It was offered one that this server has not made.
    let client = ScramSha256::new(b"secret", Foreign::tls_server_end_point(vec![1]));
    let refused = AwaitProof::start(unbound(), client.message(), &stored, NONCE).unwrap_err();
    assert_eq!(refused, ScramError::BindingUnasked);
}

#[test]
fn passwords_are_prepared_as_postgresql_does() {
    let passwords = [
        "",
        "secret",
        "I\u{ad}X",
        "\u{2168}",
        "a\u{a0}b",
        "\u{aa}",
        "p\u{fc}\u{301}",
        "\u{7}bell",
        "\u{627}1",
        "\u{e000}private",
        "longer than the sixty-four bytes of one block of the hash function, so it is hashed",
    ];
    for password in passwords {
        let stored = Verifier::parse(&scram_sha_256(password.as_bytes())).unwrap();
        let keys = derive(password.as_bytes(), stored.salt(), stored.iterations()).unwrap();
        assert!(keys.verifier(stored.salt(), stored.iterations()) == stored, "{password:?}");
    }
}

#[test]
fn stored_verifiers() {
    let text = scram_sha_256(b"secret");
    let stored = Verifier::parse(&text).unwrap();
    assert_eq!((stored.iterations(), stored.salt().len()), (4096, 16));
    assert_eq!(stored.to_string(), text);
    assert_eq!(format!("{stored:?}"), "Verifier(..)");

    let key = BASE64.encode([1; 32]);
    let with = |count: &str, salt: &str, keys: &str| format!("SCRAM-SHA-256${count}:{salt}${keys}");
    let keys = format!("{key}:{key}");
    assert!(Verifier::parse(&with("1", "", &keys)).is_some());
    assert!(Verifier::parse(&with("2147483647", "AAAA", &keys)).is_some());
    let too_long = BASE64.encode(vec![0; MAX_SALT_LEN + 1]);
    let junk = [
        String::new(),
        "SCRAM-SHA-256$".to_owned(),
        with("0", "AAAA", &keys),
        with("-1", "AAAA", &keys),
        with("+1", "AAAA", &keys),
        with("2147483648", "AAAA", &keys),
        with("99999999999999999999", "AAAA", &keys),
        with("", "AAAA", &keys),
        with("1", "AAA", &keys),
        with("1", &too_long, &keys),
        with("1", "AAAA", &key),
        with("1", "AAAA", &format!("{key}:AAAA")),
        with("1", "AAAA", &format!("{keys}:")),
        with("1", "AAAA", &keys).replace("256$", "1$"),
        format!(" {}", with("1", "AAAA", &keys)),
    ];
    for text in junk {
        assert!(Verifier::parse(&text).is_none(), "{text}");
    }
}

#[test]
fn unknown_users_have_a_steady_salt_of_their_own() {
    let fake = |user: &str, secret: &[u8]| Verifier::fake(user, secret, 4096);
    assert!(fake("ann", b"x") == fake("ann", b"x"));
    assert_ne!(fake("ann", b"x").salt(), fake("bob", b"x").salt());
    assert_ne!(fake("ann", b"x").salt(), fake("ann", b"y").salt());
    assert_eq!(
        fake("ann", b"x").salt(),
        salt_for("ann", b"x"),
        "as for one whose password is stored in plain"
    );
    assert_ne!(fake("ann", b"x").stored_key, fake("ann", b"x").server_key);
}

#[test]
fn iterations_are_bounded() {
    for count in [0, MAX_DERIVE_ITERATIONS + 1, u32::MAX] {
        assert_eq!(derive(b"secret", SALT, count).unwrap_err(), ScramError::Iterations);
    }
    let challenge = |count: &str| {
        let (client, first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
        let nonce = first.split_once("r=").unwrap().1.to_owned();
        client.server_first(format!("r={nonce}x,s=AAAA,i={count}").as_bytes()).map(|c| c.iterations())
    };
    assert_eq!(challenge("1"), Ok(1));
    assert_eq!(challenge("2147483647"), Ok(i32::MAX as u32));
    for count in ["0", "2147483648", "4294967297", "18446744073709551617"] {
        assert_eq!(challenge(count), Err(ScramError::Iterations), "{count}");
    }
    for count in ["", "-1", "+1", " 1", "1.0", "x"] {
        assert!(syntax(challenge(count)), "{count}");
    }
}

#[test]
fn first_messages_of_clients() {
    let stored = verifier(b"secret");
    let start = |message: &str| AwaitProof::start(unbound(), message.as_bytes(), &stored, NONCE);
    for good in ["n,,n=,r=x", "y,,n=ann,r=!~", "n,,n=a=2Cb,r=x,e=ext,f=", "n,,n=ann\u{e9},r=x"] {
        assert!(start(good).is_ok(), "{good}");
    }
    assert_eq!(start("p=tls-unique,,n=,r=x").unwrap_err(), ScramError::BindingUnasked);
    assert_eq!(start("n,a=bob,n=,r=x").unwrap_err(), ScramError::AuthorizationIdentity);
    assert_eq!(start("n,,m=ext,n=,r=x").unwrap_err(), ScramError::MandatoryExtension);
    let junk = [
        "",
        "n",
        "n,",
        "n,,",
        "N,,n=,r=x",
        "nn,,n=,r=x",
        ",,n=,r=x",
        "n,,r=x",
        "n,,n=",
        "n,,n=,r=",
        "n,,n=,r=a b",
        "n,,n=,r=\u{e9}",
        "n,,n=,r=x,",
        "n,,n=,r=x,1=a",
        "n,,n=,r=x,ab",
        "n,,n=\0,r=x",
        "n,,n=,s=x",
    ];
    for message in junk {
        assert!(syntax(start(message)), "{message:?}");
    }
    assert!(syntax(AwaitProof::start(unbound(), b"n,,n=\xff,r=x", &stored, NONCE)));
    let long = |len: usize| format!("n,,n=,r={}", "x".repeat(len - 8));
    assert!(start(&long(MAX_MESSAGE_LEN)).is_ok());
    assert_eq!(start(&long(MAX_MESSAGE_LEN + 1)).unwrap_err(), ScramError::TooLong);
}

#[test]
fn last_messages_of_clients() {
    let stored = verifier(b"secret");
    let finish = |edit: &dyn Fn(&str) -> String| {
        let (client, client_first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
        let (server, server_first) =
            AwaitProof::start(unbound(), client_first.as_bytes(), &stored, NONCE).unwrap();
        let keys = derive(b"secret", SALT, ROUNDS).unwrap();
        let (_, client_final) = client.server_first(server_first.as_bytes()).unwrap().prove(&keys);
        server.client_final(edit(&client_final).as_bytes()).map(|_| ())
    };
    assert_eq!(finish(&str::to_owned), Ok(()));
    assert_eq!(finish(&|m| m.replace("c=biws", "c=eSws")), Err(ScramError::BindingMismatch));
    assert_eq!(finish(&|m| m.replace(",p=", "x,p=")), Err(ScramError::NonceMismatch));
    assert_eq!(finish(&|m| m.replace(",r=", ",r=x")), Err(ScramError::NonceMismatch));
    assert_eq!(finish(&|m| m.replace(",p=", ",e=signed too,p=")), Err(ScramError::WrongProof));
    assert_eq!(finish(&|m| m.replace(",r=", ",m=ext,r=")), Err(ScramError::MandatoryExtension));
    let proof = |p: &str, m: &str| format!("{},p={p}", m.rsplit_once(",p=").unwrap().0);
    assert_eq!(finish(&|m| proof(&BASE64.encode([0; 32]), m)), Err(ScramError::WrongProof));
    for wrong in ["", "AAAA", &BASE64.encode([0; 31]), &BASE64.encode([0; 33]), "*"] {
        assert!(syntax(finish(&|m| proof(wrong, m))), "{wrong}");
    }
    let edits: [&dyn Fn(&str) -> String; 4] =
        [&|_| String::new(), &|m| m[7..].to_owned(), &|m| m.replace(",p=", ",q="), &|m| format!("{m},e=x")];
    for (i, edit) in edits.iter().enumerate() {
        assert!(syntax(finish(edit)), "{i}");
    }
    assert_eq!(finish(&|m| format!("{}{m}", "x".repeat(MAX_MESSAGE_LEN))), Err(ScramError::TooLong));
}

#[test]
fn messages_of_servers() {
    let first = |message: &dyn Fn(&str) -> String| {
        let (client, client_first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
        let nonce = client_first.split_once("r=").unwrap().1;
        client.server_first(message(nonce).as_bytes()).map(|_| ())
    };
    assert_eq!(first(&|n| format!("r={n}x,s=AAAA,i=1")), Ok(()));
    assert_eq!(first(&|n| format!("r={n}x,s=AAAA,i=1,e=ext")), Ok(()));
    assert_eq!(first(&|n| format!("r={n},s=AAAA,i=1")), Err(ScramError::NonceMismatch));
    assert_eq!(first(&|n| format!("r={}x,s=AAAA,i=1", &n[1..])), Err(ScramError::NonceMismatch));
    assert_eq!(first(&|n| format!("m=x,r={n}x,s=AAAA,i=1")), Err(ScramError::MandatoryExtension));
    let salt = BASE64.encode([0; MAX_SALT_LEN + 1]);
    assert_eq!(first(&|n| format!("r={n}x,s={salt},i=1")), Err(ScramError::TooLong));
    let junk: [&dyn Fn(&str) -> String; 4] = [
        &|_| "e=other-error".to_owned(),
        &|n| format!("r={n}x,s=AAA,i=1"),
        &|n| format!("r={n}x,i=1,s=AAAA"),
        &|n| format!("r={n}x,s=AAAA,i=1,"),
    ];
    for (i, message) in junk.iter().enumerate() {
        assert!(syntax(first(message)), "{i}");
    }

    let last = |message: &str| {
        let (client, _) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
        let challenge = format!("r={}x,s=AAAA,i=1", nonce_text(NONCE));
        let keys = derive(b"secret", &[0; 3], 1).unwrap();
        let (client, _) = client.server_first(challenge.as_bytes()).unwrap().prove(&keys);
        client.server_final(message.as_bytes())
    };
    let wrong = format!("v={}", BASE64.encode([0; 32]));
    assert_eq!(last(&wrong), Err(ScramError::WrongSignature));
    let refused = last("e=invalid-proof").unwrap_err();
    assert_eq!(refused.to_string(), "server ended SCRAM exchange: \"invalid-proof\"");
    for message in ["", "v=", "v=AAAA", "r=x", &wrong[1..]] {
        assert!(syntax(last(message)), "{message}");
    }
}

proptest! {
    #[test]
    fn any_password_logs_in(password in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,20}") {
        prop_assert!(exchange(&verifier(&password), &password).is_ok());
        prop_assert!(exchange(&verifier(text.as_bytes()), text.as_bytes()).is_ok());
    }

    #[test]
    fn random_messages_never_panic(message in prop::collection::vec(any::<u8>(), 0..80), text in "[nyp=,rsicve+/A0]{0,40}") {
        let stored = Verifier::fake("ann", b"x", 1);
        for bytes in [&message[..], text.as_bytes()] {
            let _ = AwaitProof::start(unbound(), bytes, &stored, NONCE).is_ok();
            let (server, _) = AwaitProof::start(unbound(), b"n,,n=,r=x", &stored, NONCE).unwrap();
            let _ = server.client_final(bytes).is_ok();
            let _ = AwaitServerFirst::start(Choice::UNBOUND, NONCE).0.server_first(bytes).is_ok();
        }
        let _ = Verifier::parse(&text);
    }
}

mod binding;

/// A verifier that was replaced takes the keys of the old one with it, even with the same salt.
#[test]
fn keys_fit_their_own_verifier_only() {
    let stored = verifier(b"secret");
    let keys = exchange(&stored, b"secret").unwrap();
    assert!(keys.fit(&stored));
    assert!(!keys.fit(&verifier(b"another")));
    let other_salt =
        derive(b"secret", b"another salt here", ROUNDS).unwrap().verifier(b"another salt here", ROUNDS);
    assert!(!keys.fit(&other_salt));
}

/// What has crashed the parser of another pooler (CVE-2026-6664, 6665, 6666): lengths, counts and repetitions that the
/// peer chooses.
#[test]
fn messages_of_hostile_peers_cost_nothing() {
    let stored = verifier(b"secret");
    let floods = [
        "n,,n=,r=x".to_owned() + &",e=1".repeat(1 << 18),
        "n,,".to_owned() + &"n=,".repeat(1 << 18),
        ",".repeat(1 << 20),
        "p=".to_owned() + &"t".repeat(1 << 20),
        "n,,n=,r=".to_owned() + &"x".repeat(1 << 20),
    ];
    for flood in floods {
        assert_eq!(
            AwaitProof::start(unbound(), flood.as_bytes(), &stored, NONCE).unwrap_err(),
            ScramError::TooLong
        );
        let (server, _) = AwaitProof::start(unbound(), b"n,,n=,r=x", &stored, NONCE).unwrap();
        assert_eq!(server.client_final(flood.as_bytes()).unwrap_err(), ScramError::TooLong);
        let (client, _) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
        assert_eq!(client.server_first(flood.as_bytes()).unwrap_err(), ScramError::TooLong);
    }
    // A count that a server asks for is neither cut off to fewer bits nor worked off.
    for count in ["4294967296", "4294967297", "18446744073709551616", "99999999999999999999999999"] {
        let (client, first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
        let nonce = first.split_once("r=").unwrap().1.to_owned();
        let challenge = format!("r={nonce}x,s=AAAA,i={count}");
        assert_eq!(client.server_first(challenge.as_bytes()).unwrap_err(), ScramError::Iterations);
        assert!(Verifier::parse(&format!("SCRAM-SHA-256${count}:AAAA$AAAA:AAAA")).is_none());
    }
    assert_eq!(derive(b"secret", SALT, i32::MAX as u32).unwrap_err(), ScramError::Iterations);
}
