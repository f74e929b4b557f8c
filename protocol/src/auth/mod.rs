//! Authentication: the messages, and the exchanges in both roles. The pooler is the server towards its clients and
//! the client towards its servers.

use std::fmt;

use crate::error_fields::put_cstr;
use crate::frame::put;

pub mod md5;
pub mod scram;

use md5::Md5Secret;
use scram::Verifier;

/// What a server asks of its client: the body of an `R` message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthRequest<'a> {
    /// `AuthenticationOk`: the login succeeded.
    Ok,
    /// `AuthenticationCleartextPassword`.
    CleartextPassword,
    /// `AuthenticationMD5Password`.
    Md5Password {
        /// Mixed into the answer, see [`Md5Secret::response`].
        salt: [u8; 4],
    },
    /// `AuthenticationSASL`: the client chooses one of these.
    Sasl(Mechanisms<'a>),
    /// `AuthenticationSASLContinue`: the mechanism's next message.
    SaslContinue(&'a [u8]),
    /// `AuthenticationSASLFinal`: the mechanism's last message, `AuthenticationOk` follows.
    SaslFinal(&'a [u8]),
}

impl<'a> AuthRequest<'a> {
    /// Reads the body of an `R` message.
    ///
    /// # Errors
    /// [`AuthError::Unsupported`] for a method that is not spoken here, [`AuthError::Malformed`] for junk.
    pub fn decode(body: &'a [u8]) -> Result<AuthRequest<'a>, AuthError> {
        let (code, rest) = body.split_first_chunk::<4>().ok_or(AuthError::Malformed)?;
        match (u32::from_be_bytes(*code), rest) {
            (0, []) => Ok(AuthRequest::Ok),
            (3, []) => Ok(AuthRequest::CleartextPassword),
            (5, &[a, b, c, d]) => Ok(AuthRequest::Md5Password { salt: [a, b, c, d] }),
            (10, list) => Mechanisms::decode(list).map(AuthRequest::Sasl),
            (11, data) => Ok(AuthRequest::SaslContinue(data)),
            (12, data) => Ok(AuthRequest::SaslFinal(data)),
            (0 | 3 | 5, _) => Err(AuthError::Malformed),
            (code, _) => Err(AuthError::Unsupported { code }),
        }
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (code, data): (u32, &[u8]) = match self {
            AuthRequest::Ok => (0, &[]),
            AuthRequest::CleartextPassword => (3, &[]),
            AuthRequest::Md5Password { salt } => (5, salt),
            AuthRequest::Sasl(mechanisms) => (10, mechanisms.list),
            AuthRequest::SaslContinue(data) => (11, data),
            AuthRequest::SaslFinal(data) => (12, data),
        };
        put(out, b'R', |body| {
            body.extend_from_slice(&code.to_be_bytes());
            body.extend_from_slice(data);
        });
    }
}

/// Names of SASL mechanisms, the server's favourite first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mechanisms<'a> {
    /// As on the wire: NUL-terminated names, then an empty one. Invariant: that is its form.
    list: &'a [u8],
}

impl<'a> Mechanisms<'a> {
    /// What is offered where nothing can be bound to; see [`scram::Offer`].
    pub const SCRAM_SHA_256: Mechanisms<'static> = Mechanisms { list: b"SCRAM-SHA-256\0\0" };

    /// What is offered over TLS.
    pub const SCRAM_SHA_256_PLUS: Mechanisms<'static> =
        Mechanisms { list: b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0" };

    fn decode(list: &'a [u8]) -> Result<Mechanisms<'a>, AuthError> {
        let names = list.strip_suffix(&[0]).ok_or(AuthError::Malformed)?;
        let whole =
            names.ends_with(&[0]) && !names.starts_with(&[0]) && !names.windows(2).any(|w| w == [0, 0]);
        if names.is_empty() || whole { Ok(Mechanisms { list }) } else { Err(AuthError::Malformed) }
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.list.split(|&b| b == 0).take_while(|name| !name.is_empty())
    }

    /// Whether this one is among them.
    pub fn contains(&self, mechanism: &str) -> bool {
        self.iter().any(|name| name == mechanism.as_bytes())
    }
}

impl fmt::Debug for Mechanisms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

/// Reads the body of a `PasswordMessage`: a clear-text password or the answer to an MD5 challenge. It may be empty.
///
/// # Errors
/// [`AuthError::Malformed`] unless the body is exactly one NUL-terminated string.
pub fn decode_password(body: &[u8]) -> Result<&[u8], AuthError> {
    let password = body.strip_suffix(&[0]).ok_or(AuthError::Malformed)?;
    if password.contains(&0) { Err(AuthError::Malformed) } else { Ok(password) }
}

/// Appends a `PasswordMessage`. The buffer grows before that, so that it leaves no copy of the password behind.
pub fn encode_password(out: &mut Vec<u8>, password: &[u8]) {
    out.reserve(password.len() + 16);
    put(out, b'p', |body| put_cstr(body, password));
}

/// `SASLInitialResponse`: the client's choice and the mechanism's first message. What the client sends after it is a
/// `SASLResponse`, whose body is the mechanism's message and nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// Name of the mechanism chosen.
    pub mechanism: &'a [u8],
    /// The mechanism's first message; `None` where it has to be asked for.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body of a `p` message that answers [`AuthRequest::Sasl`].
    ///
    /// # Errors
    /// [`AuthError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<SaslInitialResponse<'a>, AuthError> {
        let end = body.iter().position(|&b| b == 0).ok_or(AuthError::Malformed)?;
        let (mechanism, rest) = (&body[..end], &body[end + 1..]);
        let (len, data) = rest.split_first_chunk::<4>().ok_or(AuthError::Malformed)?;
        match i32::from_be_bytes(*len) {
            -1 if data.is_empty() => Ok(SaslInitialResponse { mechanism, data: None }),
            len if usize::try_from(len) == Ok(data.len()) => {
                Ok(SaslInitialResponse { mechanism, data: Some(data) })
            }
            _ => Err(AuthError::Malformed),
        }
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, b'p', |body| {
            put_cstr(body, self.mechanism);
            let len = self.data.map_or(-1, |data| data.len() as i32);
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(self.data.unwrap_or_default());
        });
    }
}

/// Appends a `SASLResponse`.
pub fn encode_sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    put(out, b'p', |body| body.extend_from_slice(data));
}

/// An authentication message that can't be acted upon. Only for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// Not laid out as the protocol says.
    Malformed,
    /// The server wants a method that is not spoken here.
    Unsupported {
        /// First number of the `R` message.
        code: u32,
    },
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::Malformed => f.write_str("malformed authentication message"),
            AuthError::Unsupported { code } => {
                let name = match code {
                    2 => "Kerberos V5",
                    6 => "SCM credentials",
                    7 | 8 => "GSSAPI",
                    9 => "SSPI",
                    _ => "unknown",
                };
                write!(f, "unsupported authentication method {code} ({name})")
            }
        }
    }
}

impl std::error::Error for AuthError {}

/// What a stored secret is, told from its text as PostgreSQL tells it: whatever is neither a whole MD5 hash nor a
/// whole SCRAM verifier is a password.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretKind<'a> {
    /// A password.
    Plain(&'a str),
    /// `md5` and 32 hex digits.
    Md5(Md5Secret),
    /// `SCRAM-SHA-256$...`.
    Scram(Verifier),
}

impl<'a> SecretKind<'a> {
    /// Classifies the text.
    pub fn of(secret: &'a str) -> SecretKind<'a> {
        if let Some(md5) = Md5Secret::parse(secret) {
            SecretKind::Md5(md5)
        } else if let Some(verifier) = Verifier::parse(secret) {
            SecretKind::Scram(verifier)
        } else {
            SecretKind::Plain(secret)
        }
    }
}

impl fmt::Debug for SecretKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretKind::Plain(_) => "Plain(..)",
            SecretKind::Md5(_) => "Md5(..)",
            SecretKind::Scram(_) => "Scram(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(encode: impl FnOnce(&mut Vec<u8>)) -> (u8, Vec<u8>) {
        let mut out = Vec::new();
        encode(&mut out);
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, out.len() - 1);
        (out[0], out.split_off(5))
    }

    #[test]
    fn requests_come_back() {
        let requests = [
            AuthRequest::Ok,
            AuthRequest::CleartextPassword,
            AuthRequest::Md5Password { salt: [0, 1, 2, 255] },
            AuthRequest::Sasl(Mechanisms::SCRAM_SHA_256),
            AuthRequest::Sasl(Mechanisms::SCRAM_SHA_256_PLUS),
            AuthRequest::SaslContinue(b"r=x"),
            AuthRequest::SaslFinal(b"v=y"),
        ];
        for request in requests {
            let (tag, bytes) = body(|out| request.encode(out));
            assert_eq!((tag, AuthRequest::decode(&bytes)), (b'R', Ok(request)));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut out = Vec::new();
        AuthRequest::Ok.encode(&mut out);
        AuthRequest::Sasl(Mechanisms::SCRAM_SHA_256).encode(&mut out);
        SaslInitialResponse { mechanism: b"SCRAM-SHA-256", data: Some(b"n") }.encode(&mut out);
        let expected =
            b"R\0\0\0\x08\0\0\0\0R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0p\0\0\0\x17SCRAM-SHA-256\0\0\0\0\x01n";
        assert_eq!(out, expected);
    }

    #[test]
    fn unknown_requests_are_named() {
        let text = |code: u32| AuthRequest::decode(&code.to_be_bytes()).unwrap_err().to_string();
        assert_eq!(text(7), "unsupported authentication method 7 (GSSAPI)");
        assert_eq!(text(13), "unsupported authentication method 13 (unknown)");
        for junk in [&b""[..], b"\0\0\0", b"\0\0\0\0x", b"\0\0\0\x05abc", b"\0\0\0\x0a"] {
            assert_eq!(AuthRequest::decode(junk), Err(AuthError::Malformed), "{junk:?}");
        }
    }

    #[test]
    fn mechanism_lists_end_at_their_end() {
        let of = |list: &'static [u8]| Mechanisms::decode(list).map(|m| m.iter().collect::<Vec<_>>());
        assert_eq!(of(b"A\0B\0\0"), Ok(vec![&b"A"[..], b"B"]));
        assert_eq!(of(b"\0"), Ok(vec![]));
        for junk in [&b""[..], b"A", b"A\0", b"A\0\0B\0\0", b"\0\0", b"\0A\0\0", b"A\0\0\0"] {
            assert_eq!(of(junk), Err(AuthError::Malformed), "{junk:?}");
        }
        assert!(Mechanisms::SCRAM_SHA_256.contains(scram::MECHANISM));
        assert!(!Mechanisms::SCRAM_SHA_256.contains(scram::MECHANISM_PLUS));
        let preferred: Vec<_> = Mechanisms::SCRAM_SHA_256_PLUS.iter().collect();
        assert_eq!(preferred, [scram::MECHANISM_PLUS.as_bytes(), scram::MECHANISM.as_bytes()]);
    }

    #[test]
    fn passwords_have_one_nul_at_their_end() {
        assert_eq!(body(|out| encode_password(out, b"se\xffcret")), (b'p', b"se\xffcret\0".to_vec()));
        assert_eq!(decode_password(b"se\xffcret\0"), Ok(&b"se\xffcret"[..]));
        assert_eq!(decode_password(b"\0"), Ok(&b""[..]));
        for junk in [&b""[..], b"secret", b"sec\0ret\0", b"secret\0\0"] {
            assert_eq!(decode_password(junk), Err(AuthError::Malformed), "{junk:?}");
        }
    }

    #[test]
    fn sasl_answers_come_back() {
        for data in [None, Some(&b""[..]), Some(b"n,,n=,r=x")] {
            let response = SaslInitialResponse { mechanism: b"SCRAM-SHA-256", data };
            let (tag, bytes) = body(|out| response.encode(out));
            assert_eq!(tag, b'p');
            assert!(SaslInitialResponse::decode(&bytes) == Ok(response));
        }
        let junk = [
            &b""[..],
            b"X",
            b"X\0",
            b"X\0\0\0\0",
            b"X\0\0\0\0\x02a",
            b"X\0\0\0\0\x01ab",
            b"X\0\xff\xff\xff\xffa",
            b"X\0\xff\xff\xff\xfe",
        ];
        for junk in junk {
            assert!(SaslInitialResponse::decode(junk) == Err(AuthError::Malformed), "{junk:?}");
        }
        assert_eq!(body(|out| encode_sasl_response(out, b"c=biws")), (b'p', b"c=biws".to_vec()));
    }

    #[test]
    fn secrets_are_told_by_their_form() {
        let md5 = postgres_protocol::password::md5(b"secret", "ann");
        let scram = postgres_protocol::password::scram_sha_256(b"secret");
        assert!(matches!(SecretKind::of(&md5), SecretKind::Md5(_)));
        assert!(matches!(SecretKind::of(&scram), SecretKind::Scram(_)));
        for plain in ["", "secret", &md5[1..], &md5[..34], &md5.to_uppercase(), &scram[..scram.len() - 1]] {
            assert!(SecretKind::of(plain) == SecretKind::Plain(plain), "{plain}");
        }
        assert_eq!(format!("{:?}", SecretKind::of("secret")), "Plain(..)");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), code in 0u8..14) {
            let _ = AuthRequest::decode(&[&[0, 0, 0, code], &bytes[..]].concat());
            let _ = (decode_password(&bytes).is_ok(), SaslInitialResponse::decode(&bytes).is_ok());
        }
    }
}
