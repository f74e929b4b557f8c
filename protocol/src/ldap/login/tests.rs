use super::super::ber::{self, ENUMERATED, INTEGER, OCTETS, Reader, SEQUENCE, nest, put, put_number};
use super::*;
use proptest::prelude::*;

fn reply(id: u32, tag: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    nest(&mut out, SEQUENCE, |out| {
        put_number(out, INTEGER, id);
        nest(out, tag, body);
    });
    out
}

fn result(id: u32, tag: u8, code: u32) -> Vec<u8> {
    reply(id, tag, |out| {
        put_number(out, ENUMERATED, code);
        put(out, OCTETS, b"");
        put(out, OCTETS, b"said");
    })
}

fn found(id: u32, name: &str) -> Vec<u8> {
    reply(id, 0x64, |out| {
        put(out, OCTETS, name.as_bytes());
        nest(out, SEQUENCE, |_| {});
    })
}

const BOUND: u8 = 0x61;
const DONE: u8 = 0x65;
const EXTENDED: u8 = 0x78;

fn outcome(code: u32) -> Outcome {
    Outcome { code, text: "said".to_owned() }
}

fn password(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn simple() -> Login {
    Login::new(false, Ok("uid=ann,dc=x".to_owned()), "ann", password("secret")).unwrap()
}

fn searching() -> Login {
    let search = Search {
        bind_name: "cn=reader".to_owned(),
        bind_password: password("look"),
        base: "dc=x".to_owned(),
        scope: Scope::Subtree,
        filter: Arc::new(Filter::equals("uid").unwrap()),
    };
    let mut login = Login::new(false, Err(search), "ann", password("secret")).unwrap();
    assert_eq!(bind_of(login.begin()), ("cn=reader".to_owned(), "look".to_owned()));
    assert!(matches!(login.receive(&result(1, BOUND, 0)), Ok(Step::Send(_))));
    login
}

/// Name and password of a bind.
fn bind_of(step: Step) -> (String, String) {
    let Step::Send(bytes) = step else { panic!("{step:?}") };
    assert_eq!(ber::frame(&bytes), Ok(Some(bytes.len())));
    let mut message = Reader(Reader(&bytes).expect(SEQUENCE).unwrap());
    message.number(INTEGER).unwrap();
    let mut bind = Reader(message.expect(0x60).unwrap());
    assert_eq!(bind.number(INTEGER), Ok(3));
    let [name, password] =
        [OCTETS, 0x80].map(|tag| String::from_utf8(bind.expect(tag).unwrap().to_vec()).unwrap());
    (name, password)
}

#[test]
fn a_simple_bind_is_the_servers_word() {
    let mut login = simple();
    assert_eq!(bind_of(login.begin()), ("uid=ann,dc=x".to_owned(), "secret".to_owned()));
    assert_eq!(login.receive(&result(1, BOUND, 0)), Ok(Step::Accepted));
    for (code, failure) in [
        (49, Failure::Refused(outcome(49))),
        (10, Failure::Refused(outcome(10))),
        (51, Failure::Unavailable(outcome(51))),
    ] {
        let mut login = simple();
        login.begin();
        assert_eq!(login.receive(&result(1, BOUND, code)), Err(failure));
    }
}

#[test]
fn a_search_must_find_exactly_one() {
    let mut login = searching();
    assert_eq!(login.receive(&found(2, "uid=ann,ou=p")), Ok(Step::Wait));
    assert_eq!(bind_of(login.receive(&result(2, DONE, 0)).unwrap()).0, "uid=ann,ou=p");
    assert_eq!(login.receive(&result(3, BOUND, 0)), Ok(Step::Accepted));

    let mut login = searching();
    assert_eq!(login.receive(&result(2, DONE, 0)), Err(Failure::NobodyFound));
    let mut login = searching();
    login.receive(&found(2, "uid=ann,ou=p")).unwrap();
    assert_eq!(login.receive(&found(2, "uid=ann,ou=q")), Err(Failure::SeveralFound));
    let mut login = searching();
    login.receive(&found(2, "uid=ann,ou=p")).unwrap();
    let cut = Err(Failure::Unusable("the search failed", outcome(4)));
    assert_eq!(login.receive(&result(2, DONE, 4)), cut, "who knows what else there is");
}

#[test]
fn nothing_is_proven_without_a_name_and_a_password() {
    assert!(Login::new(false, Ok("uid=ann".to_owned()), "ann", password("")).is_none());
    assert!(Login::new(false, Ok(String::new()), "ann", password("x")).is_none());
    let mut login = searching();
    assert_eq!(login.receive(&found(2, "")), Err(Failure::Malformed));
}

#[test]
fn references_are_passed_over_and_counted() {
    let mut login = searching();
    let reference = reply(2, 0x73, |out| put(out, OCTETS, b"ldap://elsewhere"));
    for _ in 0..MOST_REPLIES {
        assert_eq!(login.receive(&reference), Ok(Step::Wait));
    }
    assert_eq!(login.receive(&reference), Err(Failure::Malformed));
}

#[test]
fn no_password_goes_out_before_tls() {
    let mut login = Login::new(true, Ok("uid=ann".to_owned()), "ann", password("secret")).unwrap();
    let Step::Send(request) = login.begin() else { panic!() };
    assert!(!request.windows(6).any(|w| w == b"secret"));
    assert_eq!(login.receive(&result(1, EXTENDED, 0)), Ok(Step::StartTls));
    assert_eq!(bind_of(login.begin()).1, "secret");
    assert_eq!(login.receive(&result(2, BOUND, 0)), Ok(Step::Accepted));

    let mut login = Login::new(true, Ok("uid=ann".to_owned()), "ann", password("secret")).unwrap();
    login.begin();
    let refused = Err(Failure::Unusable("it does not start TLS", outcome(2)));
    assert_eq!(login.receive(&result(1, EXTENDED, 2)), refused);
    let mut login = Login::new(true, Ok("uid=ann".to_owned()), "ann", password("secret")).unwrap();
    login.begin();
    assert_eq!(login.receive(&result(1, BOUND, 0)), Err(Failure::Malformed), "a yes to what was not asked");
}

#[test]
fn only_the_answer_to_the_question_counts() {
    for wrong in
        [result(2, BOUND, 0), result(0, BOUND, 0), result(1, DONE, 0), result(1, EXTENDED, 0), found(1, "x")]
    {
        let mut login = simple();
        login.begin();
        assert_eq!(login.receive(&wrong), Err(Failure::Malformed), "{wrong:x?}");
        assert_eq!(login.receive(&result(1, BOUND, 0)), Err(Failure::Malformed), "it is over");
    }
    let mut login = simple();
    login.begin();
    assert_eq!(
        login.receive(&result(0, EXTENDED, 52)),
        Err(Failure::Unavailable(outcome(52))),
        "it hangs up"
    );
    let mut login = simple();
    assert_eq!(login.receive(&result(0, BOUND, 0)), Err(Failure::Malformed), "nothing was asked");
}

/// These three end ldap3 0.12 with a panic, and so does the depth.
#[test]
fn hostile_messages_are_only_malformed() {
    let mut deep = vec![2, 1, 1];
    for _ in 0..20_000 {
        let mut outer = Vec::new();
        outer.extend((deep.len() as u16).to_be_bytes().iter().rev());
        outer.extend([0x82, 0x30]);
        deep.extend(outer);
    }
    deep.reverse();
    for bytes in [&b"\x30\0"[..], b"\x30\x03\x02\x01\x01", b"\x30\x05\x0a\x01\0\x61\0", &deep] {
        let mut login = simple();
        login.begin();
        assert_eq!(login.receive(bytes), Err(Failure::Malformed));
    }
}

#[test]
fn names_for_a_simple_bind() {
    let name = |prefix, user, suffix| bind_name(prefix, user, suffix);
    assert_eq!(name("uid=", "ann", ",dc=x").unwrap(), "uid=ann,dc=x");
    assert_eq!(name("uid=", "a,ou=b", ",dc=x").unwrap(), "uid=a\\2cou\\3db,dc=x");
    assert_eq!(name("uid=", "#a b ", ",dc=x").unwrap(), "uid=\\23a b\\20,dc=x");
    assert_eq!(name("uid=", " ", "").unwrap(), "uid=\\20");
    assert_eq!(name("uid=", "jörg", "").unwrap(), "uid=jörg");
    assert_eq!(name("CORP\\", "ann", "").unwrap(), "CORP\\ann");
    assert_eq!(name("", "ann", "@corp.example").unwrap(), "ann@corp.example");
    assert_eq!(name("", "uid=root,dc=x", ""), None);
    assert_eq!(name("CORP\\", "a\\b", ""), None);
    assert_eq!(name("", "a\nb", "@x"), None);
}

proptest! {
    #[test]
    fn no_bytes_but_the_right_ones_are_a_yes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut login = simple();
        login.begin();
        let _ = ber::frame(&bytes);
        prop_assert_ne!(login.receive(&bytes), Ok(Step::Accepted));
    }

    #[test]
    fn a_changed_byte_does_no_harm(at in 0usize..40, byte: u8) {
        for message in [result(2, DONE, 0), found(2, "uid=ann")] {
            let mut message = message;
            let at = at % message.len();
            message[at] = byte;
            let _ = searching().receive(&message);
        }
    }
}
