//! Channel binding: every offer, every choice, and who gets in between.

use super::*;
use crate::auth::Mechanisms;

const HASH: &[u8] = &[0x5a; 32];
const OTHER: &[u8] = &[0xa5; 32];

fn offered(end_point: Option<&'static [u8]>, mechanism: &str) -> Option<Accepted<'static>> {
    Offer::new(end_point).accept(mechanism.as_bytes())
}

fn plus() -> Accepted<'static> {
    offered(Some(HASH), MECHANISM_PLUS).unwrap()
}

/// The whole exchange: what each side knows of the certificate, and what the client wants.
fn exchange(
    server: Option<&'static [u8]>,
    client: Option<&[u8]>,
    rule: ChannelBinding,
) -> Result<bool, ScramError> {
    let stored = verifier(b"secret");
    let offer = Offer::new(server);
    let choice = Choice::of(&offer.mechanisms(), client, rule).expect("something to choose");
    let accepted = offer.accept(choice.mechanism().as_bytes()).expect("something that was offered");
    let (client, first) = AwaitServerFirst::start(choice, NONCE);
    let (server, challenge) = AwaitProof::start(accepted, first.as_bytes(), &stored, NONCE)?;
    let client = client.server_first(challenge.as_bytes())?;
    let (client, last) = client.prove(&derive(b"secret", SALT, ROUNDS).unwrap());
    let proved = server.client_final(last.as_bytes())?;
    client.server_final(proved.server_final.as_bytes())?;
    Ok(accepted.is_bound())
}

#[test]
fn both_roles_bind_where_both_can() {
    use ChannelBinding::{Disable, Prefer, Require};
    for hash in [HASH, &[1; 48], &[2; 64]] {
        assert_eq!(exchange(Some(hash), Some(hash), Prefer), Ok(true));
        assert_eq!(exchange(Some(hash), Some(hash), Require), Ok(true));
        assert_eq!(exchange(Some(hash), Some(hash), Disable), Ok(false));
    }
    assert_eq!(exchange(Some(HASH), None, Prefer), Ok(false), "a client that can't");
    assert_eq!(exchange(None, Some(HASH), Prefer), Ok(false), "a server that can't");
    assert_eq!(exchange(None, None, Prefer), Ok(false), "no TLS");
    assert_eq!(exchange(None, None, Disable), Ok(false));
}

/// Who stands between shows the client another certificate than the server has.
#[test]
fn a_man_in_the_middle_is_noticed() {
    assert_eq!(exchange(Some(HASH), Some(OTHER), ChannelBinding::Prefer), Err(ScramError::BindingWrong));
    assert_eq!(
        exchange(Some(HASH), Some(&HASH[..31]), ChannelBinding::Prefer),
        Err(ScramError::BindingWrong)
    );
    // Or takes the offer away.
    let choice = Choice::of(&Mechanisms::SCRAM_SHA_256, Some(HASH), ChannelBinding::Prefer).unwrap();
    let (_, first) = AwaitServerFirst::start(choice, NONCE);
    assert!(first.starts_with("y,,"), "{first}");
    let accepted = offered(Some(HASH), choice.mechanism()).unwrap();
    let refused = AwaitProof::start(accepted, first.as_bytes(), &verifier(b"secret"), NONCE).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "SCRAM channel binding negotiation error: The client supports SCRAM channel binding but thinks the server does \
         not.  However, this server does support channel binding."
    );
}

#[test]
fn what_can_be_chosen() {
    assert_eq!(offered(None, MECHANISM_PLUS), None, "not offered without a certificate");
    assert_eq!(offered(Some(HASH), "SCRAM-SHA-1"), None);
    assert_eq!(offered(Some(HASH), ""), None);
    assert!(!offered(Some(HASH), MECHANISM).unwrap().is_bound());
    assert_eq!(Offer::new(None).mechanisms(), Mechanisms::SCRAM_SHA_256);
    assert_eq!(Offer::new(Some(HASH)).mechanisms(), Mechanisms::SCRAM_SHA_256_PLUS);

    use ChannelBinding::{Disable, Prefer, Require};
    let list = |bytes: &'static [u8]| Mechanisms::decode(bytes).unwrap();
    let (plain, both) = (Mechanisms::SCRAM_SHA_256, Mechanisms::SCRAM_SHA_256_PLUS);
    let (only_plus, foreign) = (list(b"SCRAM-SHA-256-PLUS\0\0"), list(b"OAUTHBEARER\0\0"));
    let choose = |offered: &Mechanisms<'_>, end_point, rule| {
        Choice::of(offered, end_point, rule).map(|choice| (choice.mechanism(), choice.header()))
    };
    let bound = Ok((MECHANISM_PLUS, "p=tls-server-end-point,,"));
    let (could, unable) = (Ok((MECHANISM, "y,,")), Ok((MECHANISM, "n,,")));
    for (offered, end_point, rule, expected) in [
        (both, Some(HASH), Prefer, bound),
        (both, Some(HASH), Require, bound),
        (both, Some(HASH), Disable, unable),
        (both, None, Prefer, unable),
        (both, None, Require, Err(NoMechanism::Binding)),
        (plain, Some(HASH), Prefer, could),
        (plain, Some(HASH), Require, Err(NoMechanism::Binding)),
        (plain, Some(HASH), Disable, unable),
        (plain, None, Prefer, unable),
        (plain, None, Require, Err(NoMechanism::Binding)),
        (only_plus, Some(HASH), Prefer, bound),
        (only_plus, Some(HASH), Disable, Err(NoMechanism::Unknown)),
        (only_plus, None, Prefer, Err(NoMechanism::Unknown)),
        (foreign, Some(HASH), Prefer, Err(NoMechanism::Unknown)),
        (foreign, None, Disable, Err(NoMechanism::Unknown)),
    ] {
        assert_eq!(choose(&offered, end_point, rule), expected, "{offered:?} {end_point:?} {rule:?}");
    }
}

/// The words are PostgreSQL's.
#[test]
fn headers_that_do_not_fit_the_mechanism() {
    let stored = verifier(b"secret");
    let refusal = |accepted, header: &str| {
        let first = format!("{header},,n=,r=x");
        AwaitProof::start(accepted, first.as_bytes(), &stored, NONCE).unwrap_err().to_string()
    };
    for flag in ["n", "y"] {
        assert_eq!(
            refusal(plus(), flag),
            "malformed SCRAM message: The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include \
             channel binding data."
        );
    }
    for end_point in [None, Some(HASH)] {
        assert_eq!(
            refusal(offered(end_point, MECHANISM).unwrap(), "p=tls-server-end-point"),
            "malformed SCRAM message: The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message \
             includes channel binding data."
        );
    }
    for (sent, told) in [
        ("tls-unique", "tls-unique"),
        ("tls-exporter", "tls-exporter"),
        ("", ""),
        ("TLS-SERVER-END-POINT", "TLS-SERVER-END-POINT"),
        ("a\nb\u{e9}", "a?b?"),
        (&"x".repeat(40), &"x".repeat(30)),
    ] {
        let expected = format!("unsupported SCRAM channel-binding type \"{told}\"");
        assert_eq!(refusal(plus(), &format!("p={sent}")), expected);
    }
    for header in ["", "p", "P=tls-server-end-point", "nn"] {
        let text = refusal(plus(), header);
        assert!(text.starts_with("malformed SCRAM message: expected a channel binding"), "{header}: {text}");
    }
}

/// The last message says once more what was bound to.
#[test]
fn bindings_of_last_messages() {
    let finish = |accepted: Accepted<'_>, choice: Choice<'_>, binding: &[u8]| {
        let stored = verifier(b"secret");
        let (client, first) = AwaitServerFirst::start(choice, NONCE);
        let (server, challenge) = AwaitProof::start(accepted, first.as_bytes(), &stored, NONCE).unwrap();
        let client = client.server_first(challenge.as_bytes()).unwrap();
        let (_, last) = client.prove(&derive(b"secret", SALT, ROUNDS).unwrap());
        let rest = last.split_once(',').unwrap().1;
        server.client_final(format!("c={},{rest}", BASE64.encode(binding)).as_bytes()).map(drop)
    };
    let header = b"p=tls-server-end-point,,";
    let bound = Choice::of(&Mechanisms::SCRAM_SHA_256_PLUS, Some(HASH), ChannelBinding::Require).unwrap();
    assert_eq!(finish(plus(), bound, &[header, HASH].concat()), Ok(()));
    for wrong in [&header[..], b"", b"n,,", &[header, &HASH[..31]].concat(), &[header, HASH, b"\0"].concat()]
    {
        assert_eq!(finish(plus(), bound, wrong), Err(ScramError::BindingWrong));
    }
    assert_eq!(finish(unbound(), Choice::UNBOUND, b"n,,"), Ok(()));
    for wrong in [&b"y,,"[..], b"", &[&b"n,,"[..], HASH].concat()] {
        let refused = finish(unbound(), Choice::UNBOUND, wrong).unwrap_err();
        assert_eq!(refused.to_string(), "unexpected SCRAM channel-binding attribute in client-final-message");
    }
}

/// Another implementation's client, which binds.
#[test]
fn another_client_binds() {
    let stored = verifier(b"secret");
    let login = |hash: &[u8]| {
        let mut client = ScramSha256::new(b"secret", Foreign::tls_server_end_point(hash.to_vec()));
        let (server, challenge) = AwaitProof::start(plus(), client.message(), &stored, NONCE)?;
        client.update(challenge.as_bytes()).unwrap();
        let proved = server.client_final(client.message())?;
        client.finish(proved.server_final.as_bytes()).unwrap();
        Ok(())
    };
    assert_eq!(login(HASH), Ok(()));
    assert_eq!(login(OTHER), Err(ScramError::BindingWrong));
}
