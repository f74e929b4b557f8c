use protocol::auth::md5::Md5Secret;
use protocol::auth::scram::{
    Accepted, AwaitProof, AwaitServerFirst, ChannelBinding, Choice, Keys, MECHANISM, MECHANISM_PLUS,
    NONCE_LEN, Offer, Verifier, derive, salt_for,
};
use protocol::auth::{AuthRequest, SaslInitialResponse, SecretKind, decode_password};

use crate::input::Input;

const NONCE: [u8; NONCE_LEN] = [1; NONCE_LEN];
const ROUNDS: u32 = 2;

/// Authentication: arbitrary messages to both roles of SCRAM, and an exchange in which one message is changed on its
/// way, which must fail. Also the messages and stored secrets around it.
pub fn scram(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => arbitrary(input.rest()),
        1 => exchange(input),
        _ => around(input.rest()),
    }
}

fn stored() -> (Keys, Verifier) {
    let salt = salt_for("ann", b"process");
    let keys = derive(b"secret", &salt, ROUNDS).expect("few iterations");
    let verifier = keys.verifier(&salt, ROUNDS);
    (keys, verifier)
}

/// What a certificate hashes to.
const END_POINT: &[u8] = &[7; 32];

fn accepted(offer: Offer<'static>, mechanism: &str) -> Accepted<'static> {
    offer.accept(mechanism.as_bytes()).expect("a mechanism that is offered")
}

fn unbound() -> Accepted<'static> {
    accepted(Offer::new(None), MECHANISM)
}

fn arbitrary(message: &[u8]) {
    let (keys, verifier) = stored();
    let bindable = Offer::new(Some(END_POINT));
    for accepted in [unbound(), accepted(bindable, MECHANISM), accepted(bindable, MECHANISM_PLUS)] {
        if let Ok((server, server_first)) = AwaitProof::start(accepted, message, &verifier, NONCE) {
            assert!(server_first.starts_with("r="));
            assert!(accepted.is_bound() == message.starts_with(b"p=tls-server-end-point,"));
            assert!(server.client_final(message).is_err(), "accepted without a password");
        }
    }
    let _ = bindable.accept(message);
    let (client, client_first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
    let (server, server_first) = AwaitProof::start(unbound(), client_first.as_bytes(), &verifier, NONCE)
        .expect("a first message made here");
    assert!(server.client_final(message).is_err(), "accepted without a password");
    let (client, _) =
        client.server_first(server_first.as_bytes()).expect("a challenge made here").prove(&keys);
    assert!(client.server_final(message).is_err(), "believed a server without the password");

    // With the right nonce in front, a challenge gets further.
    let (client, client_first) = AwaitServerFirst::start(Choice::UNBOUND, NONCE);
    let nonce = client_first.split_once("r=").map_or("", |(_, nonce)| nonce);
    let challenge = [b"r=", nonce.as_bytes(), message].concat();
    if let Ok(client) = client.server_first(&challenge) {
        assert!(client.iterations() >= 1);
        let _ = client.prove(&keys);
    }
}

/// The messages in their order; one of them is changed.
fn exchange(mut input: Input) {
    let (keys, verifier) = stored();
    let which = input.byte() % 8;
    let mut transmit = |number: u8, message: String| {
        let mut bytes = message.into_bytes();
        let original = bytes.clone();
        while number == which / 2 && !input.is_empty() {
            edit(&mut bytes, &mut input);
        }
        let changed = bytes != original;
        (bytes, changed, original)
    };
    let end_point = which.is_multiple_of(2).then_some(END_POINT);
    let offer = Offer::new(end_point);
    let choice = Choice::of(&offer.mechanisms(), end_point, ChannelBinding::Prefer).expect("what is offered");
    let accepted = accepted(offer, choice.mechanism());
    let (client, message) = AwaitServerFirst::start(choice, NONCE);
    let (message, first_changed, _) = transmit(0, message);
    let Ok((server, message)) = AwaitProof::start(accepted, &message, &verifier, NONCE) else { return };
    let (message, challenge_changed, _) = transmit(1, message);
    let Ok(client) = client.server_first(&message) else { return };
    let (client, message) = client.prove(&keys);
    let (message, final_changed, _) = transmit(2, message);
    let changed = first_changed || challenge_changed || final_changed;
    let Ok(proved) = server.client_final(&message) else {
        assert!(changed, "refused a right proof");
        return;
    };
    assert!(!changed, "accepted a changed exchange");
    assert!(Keys::pass_through(&proved.client_key, &verifier) == keys);
    let (message, _, original) = transmit(3, proved.server_final);
    match client.server_final(&message) {
        // Extensions are all that may follow a signature, and nothing signs them.
        Ok(()) => assert!(message.starts_with(&original), "accepted a changed signature"),
        Err(_) => assert!(message != original, "refused a right signature"),
    }
}

fn edit(bytes: &mut Vec<u8>, input: &mut Input) {
    let (what, at, byte) = (input.byte() % 4, input.byte(), input.byte());
    let at = usize::from(at) % (bytes.len() + 1);
    match what {
        0 if at < bytes.len() => bytes[at] = byte,
        1 => bytes.insert(at, byte),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 => bytes.truncate(at),
        _ => {}
    }
}

fn around(data: &[u8]) {
    if let Ok(request) = AuthRequest::decode(data) {
        let mut out = Vec::new();
        request.encode(&mut out);
        assert_eq!(&out[5..], data);
    }
    if let Ok(response) = SaslInitialResponse::decode(data) {
        let mut out = Vec::new();
        response.encode(&mut out);
        assert_eq!(&out[5..], data);
    }
    let _ = decode_password(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    match SecretKind::of(text) {
        SecretKind::Plain(plain) => assert_eq!(plain, text),
        SecretKind::Md5(secret) => assert_eq!(Md5Secret::parse(text), Some(secret)),
        SecretKind::Scram(verifier) => assert!(Verifier::parse(&verifier.to_string()) == Some(verifier)),
    }
    let _ = derive(data, b"salt", 1);
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let (_, verifier) = stored();
    let arbitrary: [&[u8]; 7] = [
        b"n,,n=,r=rOprNGfwEbeRWgbNEkqO",
        b"y,,n=a=2Cb,r=x,e=ext",
        b"p=tls-server-end-point,,n=,r=x",
        b"n,a=bob,n=,r=x",
        b"c=biws,r=AQEBAQEBAQEBAQEBAQEBAQEBAQEB,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"more,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ];
    let around: [&[u8]; 5] = [
        b"\0\0\0\x0aSCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0",
        b"\0\0\0\x05salt",
        b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=x",
        b"md5a3556571e93b0d20722ba62be61e8c2d",
        "p\u{fc}\u{301}\u{2168}\u{ad}".as_bytes(),
    ];
    let mut corpus: Vec<Vec<u8>> = arbitrary.iter().map(|m| [&[0], *m].concat()).collect();
    corpus.extend((0..8).map(|which| vec![1, which]));
    corpus.extend((0..8).map(|which| vec![1, which, 0, 40, b'A']));
    corpus.extend(around.iter().map(|m| [&[2], *m].concat()));
    corpus.push([&[2], verifier.to_string().as_bytes()].concat());
    corpus
}
