//! The packets that come before typed messages: a big-endian length that counts itself, a 32-bit code, a body.

use std::fmt;

use crate::error_fields::put_cstr;
use crate::frame::put;

/// Longest user name accepted, in bytes (PgBouncer's limit).
pub const MAX_USER_LEN: usize = 127;

/// Parameters accepted in one packet. PostgreSQL has fewer than 400 settings; the bound keeps a packet of tiny strings
/// from costing many times its size in memory before anybody has logged in.
pub const MAX_PARAMS: usize = 512;

/// Lengths a cancel secret may have, in bytes: 4 in protocol 3.0, up to 256 in 3.2.
pub const SECRET_LEN: std::ops::RangeInclusive<usize> = 4..=256;

/// Prefix of parameters that ask for protocol extensions rather than settings.
pub const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

const HEADER_LEN: usize = 8;
const MAJOR: u16 = 3;
const CANCEL_CODE: u32 = code(1234, 5678);
const SSL_CODE: u32 = code(1234, 5679);
const GSS_CODE: u32 = code(1234, 5680);

const fn code(major: u16, minor: u16) -> u32 {
    (major as u32) << 16 | minor as u32
}

/// What [`parse`] found at the front of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Not all there yet.
    Incomplete {
        /// Bytes from the start of the packet that are needed to get further. Never above the limit given.
        needed: usize,
    },
    /// One packet.
    Complete {
        /// The packet.
        packet: StartupPacket,
        /// Its length in bytes.
        used: usize,
    },
}

/// An untagged packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// `SSLRequest`: answered with one byte, `S` or `N`.
    Ssl,
    /// `GSSENCRequest`: answered with one byte, `G` or `N`.
    GssEnc,
    /// `CancelRequest`: never answered, the connection is closed.
    Cancel(CancelRequest),
    /// `StartupMessage`.
    Startup(Startup),
}

/// Asks to cancel what the session with this key is doing.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Process id from `BackendKeyData`. Not necessarily a process.
    pub pid: u32,
    /// Secret from `BackendKeyData`, see [`SECRET_LEN`].
    pub secret: Box<[u8]>,
}

impl fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelRequest").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// A start-up message of protocol 3. It names a user, see [`Startup::user`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Minor version asked for; see [`Startup::agreed_minor`].
    pub minor: u16,
    /// Names and values in the order sent. Of a name that comes twice the last counts.
    pub params: Vec<(String, String)>,
}

/// What the parameter `replication` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session; also for values that mean nothing.
    Off,
    /// Physical replication, bound to no database.
    Physical,
    /// Logical replication from the database that is named.
    Logical,
}

impl Startup {
    /// The user, never empty in a parsed packet.
    pub fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// The database: the user's name unless one is given.
    pub fn database(&self) -> &str {
        self.get("database").filter(|name| !name.is_empty()).unwrap_or_else(|| self.user())
    }

    /// The value of the parameter of exactly this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether this is a replication connection. Booleans are spelled as in PostgreSQL: any case, abbreviated.
    pub fn replication(&self) -> Replication {
        let value = self.get("replication").unwrap_or_default();
        if value == "database" {
            return Replication::Logical;
        }
        let value = value.to_ascii_lowercase();
        let abbreviates = |word: &str| !value.is_empty() && word.starts_with(&value);
        if abbreviates("true") || abbreviates("yes") || value == "on" || value == "1" {
            Replication::Physical
        } else {
            Replication::Off
        }
    }

    /// Names of the protocol extensions asked for (`_pq_.*`).
    pub fn protocol_options(&self) -> impl Iterator<Item = &str> {
        self.params
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| name.starts_with(PROTOCOL_OPTION_PREFIX))
    }

    /// The minor version both sides speak, where `newest` is the newest one supported here.
    pub fn agreed_minor(&self, newest: u16) -> u16 {
        self.minor.min(newest)
    }

    /// The client must be told what it does not get, by [`encode_negotiate_protocol_version`] with
    /// [`agreed_minor`](Startup::agreed_minor) and [`protocol_options`](Startup::protocol_options). Once a
    /// connection, before authentication.
    pub fn must_negotiate(&self, newest: u16) -> bool {
        self.minor > newest || self.protocol_options().next().is_some()
    }
}

/// Why a packet was refused; the connection ends. `Display` is the text for the client, in PgBouncer's words where
/// PgBouncer has some, to be sent as `FATAL` `08P01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupError {
    /// Not a start-up packet, or one of an impossible or forbidden length.
    BadHeader {
        /// The first eight bytes.
        header: [u8; HEADER_LEN],
    },
    /// Protocol 2.0.
    OldProtocol,
    /// Bytes follow an `SSLRequest` before it was answered. Read as part of the encrypted session they would be an
    /// attacker's.
    DataAfterSsl,
    /// The same behind a `GSSENCRequest`.
    DataAfterGss,
    /// The list of strings does not end exactly with the packet.
    Layout,
    /// A name or value is not UTF-8.
    NotUtf8,
    /// More than [`MAX_PARAMS`] parameters.
    TooManyParams,
    /// No user, or an empty one.
    NoUser,
    /// User name longer than [`MAX_USER_LEN`].
    UserTooLong,
    /// A cancel request whose secret has an impossible length.
    CancelLength,
    /// A typed message where a start-up packet belongs.
    Typed,
    /// The same, and it is a password.
    PasswordFirst,
}

impl StartupError {
    /// No answer is sent before closing: cancel requests never get one, nor who begins in the middle.
    pub fn is_silent(&self) -> bool {
        matches!(self, StartupError::CancelLength | StartupError::Typed)
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StartupError::BadHeader { header } => return write_bad_header(f, header),
            StartupError::OldProtocol => "old V2 protocol not supported",
            StartupError::DataAfterSsl => "received unencrypted data after SSL request",
            StartupError::DataAfterGss => "received unencrypted data after GSSAPI encryption request",
            StartupError::Layout => "invalid startup packet layout: expected terminator as last byte",
            StartupError::NotUtf8 => "invalid startup packet: parameters must be UTF-8",
            StartupError::TooManyParams => "invalid startup packet: too many parameters",
            StartupError::NoUser => "no username supplied",
            StartupError::UserTooLong => "username too long",
            StartupError::CancelLength => "invalid length of cancel request",
            StartupError::Typed => "message before startup packet",
            StartupError::PasswordFirst => "client password pkt before startup packet",
        })
    }
}

impl std::error::Error for StartupError {}

fn write_bad_header(f: &mut fmt::Formatter<'_>, header: &[u8]) -> fmt::Result {
    f.write_str("bad packet header: '")?;
    header.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
    f.write_str("'")
}

/// Reads the packet at the front of `input`, everything received and not yet used. `max_len` bounds a start-up
/// message in bytes, its length word included (PostgreSQL takes 10,004, PgBouncer up to 64 KiB). What is refused by
/// its length is refused from the first eight bytes, before anything is buffered for it.
///
/// # Errors
/// [`StartupError`]: answer as it says and close.
pub fn parse(input: &[u8], max_len: usize) -> Result<Parsed, StartupError> {
    refuse_typed(input, max_len)?;
    let Some(header) = input.first_chunk::<HEADER_LEN>() else {
        return Ok(Parsed::Incomplete { needed: HEADER_LEN });
    };
    let (kind, len) = check_header(header, max_len)?;
    let Some(body) = input.get(HEADER_LEN..len) else {
        return Ok(Parsed::Incomplete { needed: len });
    };
    let behind = input.len() > len;
    let packet = match kind {
        Kind::Ssl if behind => return Err(StartupError::DataAfterSsl),
        Kind::GssEnc if behind => return Err(StartupError::DataAfterGss),
        Kind::Ssl => StartupPacket::Ssl,
        Kind::GssEnc => StartupPacket::GssEnc,
        Kind::Cancel => StartupPacket::Cancel(parse_cancel(body)?),
        Kind::Startup { minor } => StartupPacket::Startup(parse_params(minor, body)?),
    };
    Ok(Parsed::Complete { packet, used: len })
}

enum Kind {
    Ssl,
    GssEnc,
    Cancel,
    Startup { minor: u16 },
}

/// A packet that begins with anything but 0 is far too long, unless it is a typed message.
fn refuse_typed(input: &[u8], max_len: usize) -> Result<(), StartupError> {
    let Some([tag, length @ ..]) = input.first_chunk::<5>() else { return Ok(()) };
    let plausible = (4..=max_len).contains(&(u32::from_be_bytes(*length) as usize));
    match tag {
        0 => Ok(()),
        b'p' if plausible => Err(StartupError::PasswordFirst),
        _ if plausible => Err(StartupError::Typed),
        _ => Ok(()),
    }
}

fn check_header(header: &[u8; HEADER_LEN], max_len: usize) -> Result<(Kind, usize), StartupError> {
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let bad = StartupError::BadHeader { header: *header };
    let len = usize::try_from(i32::from_be_bytes([l0, l1, l2, l3])).map_err(|_| bad)?;
    let (major, minor) = (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([c2, c3]));
    match code(major, minor) {
        SSL_CODE if len == HEADER_LEN => Ok((Kind::Ssl, len)),
        GSS_CODE if len == HEADER_LEN => Ok((Kind::GssEnc, len)),
        CANCEL_CODE if len < HEADER_LEN + 4 + SECRET_LEN.start() => Err(StartupError::CancelLength),
        CANCEL_CODE if len > HEADER_LEN + 4 + SECRET_LEN.end() => Err(StartupError::CancelLength),
        CANCEL_CODE => Ok((Kind::Cancel, len)),
        _ if major == 2 => Err(StartupError::OldProtocol),
        _ if major == MAJOR && (HEADER_LEN..=max_len).contains(&len) => Ok((Kind::Startup { minor }, len)),
        _ => Err(bad),
    }
}

fn parse_cancel(body: &[u8]) -> Result<CancelRequest, StartupError> {
    let (pid, secret) = body.split_first_chunk::<4>().ok_or(StartupError::CancelLength)?;
    Ok(CancelRequest { pid: u32::from_be_bytes(*pid), secret: secret.into() })
}

/// Names and values, each ended by a zero byte; an empty name is the terminator and the last byte.
fn parse_params(minor: u16, body: &[u8]) -> Result<Startup, StartupError> {
    let mut params = Vec::new();
    let mut rest = body;
    while rest != [0] {
        let (name, after_name) = take_cstr(rest)?;
        let (value, after_value) = take_cstr(after_name)?;
        if name.is_empty() {
            return Err(StartupError::Layout);
        }
        if params.len() == MAX_PARAMS {
            return Err(StartupError::TooManyParams);
        }
        params.push((utf8(name)?, utf8(value)?));
        rest = after_value;
    }
    let startup = Startup { minor, params };
    match startup.user().len() {
        0 => Err(StartupError::NoUser),
        len if len > MAX_USER_LEN => Err(StartupError::UserTooLong),
        _ => Ok(startup),
    }
}

fn take_cstr(bytes: &[u8]) -> Result<(&[u8], &[u8]), StartupError> {
    let end = bytes.iter().position(|&b| b == 0).ok_or(StartupError::Layout)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn utf8(bytes: &[u8]) -> Result<String, StartupError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| StartupError::NotUtf8)
}

/// Appends a `StartupMessage` of protocol 3.`minor`. Names must not be empty.
pub fn encode_startup<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    params: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    put_untagged(out, code(MAJOR, minor), |body| {
        for (name, value) in params {
            put_cstr(body, name.as_bytes());
            put_cstr(body, value.as_bytes());
        }
        body.push(0);
    });
}

/// Appends a `CancelRequest`.
pub fn encode_cancel(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    put_untagged(out, CANCEL_CODE, |body| {
        body.extend_from_slice(&pid.to_be_bytes());
        body.extend_from_slice(secret);
    });
}

/// Appends an `SSLRequest`.
pub fn encode_ssl_request(out: &mut Vec<u8>) {
    put_untagged(out, SSL_CODE, |_| {});
}

/// Appends a `NegotiateProtocolVersion`: the session goes on as 3.`minor`, and `options` (in full, `_pq_.` included)
/// are not known here.
pub fn encode_negotiate_protocol_version<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    options: impl IntoIterator<Item = &'a str>,
) {
    put(out, b'v', |body| {
        body.extend_from_slice(&code(MAJOR, minor).to_be_bytes());
        let count_at = body.len();
        body.extend_from_slice(&[0; 4]);
        let mut count = 0u32;
        for option in options {
            put_cstr(body, option.as_bytes());
            count += 1;
        }
        body[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
    });
}

fn put_untagged(out: &mut Vec<u8>, code: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&code.to_be_bytes());
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 10_004;

    fn startup_bytes(params: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_startup(&mut out, 0, params.iter().copied());
        out
    }

    fn startup(params: &[(&str, &str)]) -> Startup {
        match parse(&startup_bytes(params), MAX) {
            Ok(Parsed::Complete { packet: StartupPacket::Startup(startup), .. }) => startup,
            other => panic!("{other:?}"),
        }
    }

    /// A packet with this code and body and a right length.
    fn raw(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_untagged(&mut out, code, |b| b.extend_from_slice(body));
        out
    }

    fn refused(input: &[u8]) -> String {
        parse(input, MAX).unwrap_err().to_string()
    }

    #[test]
    fn a_startup_message_is_read() {
        let s = startup(&[("user", "ann"), ("application_name", "x"), ("application_name", "")]);
        assert_eq!((s.user(), s.database(), s.minor), ("ann", "ann", 0));
        assert_eq!(s.get("application_name"), Some(""), "the last one counts");
        assert_eq!(s.get("Application_Name"), None);
        assert_eq!(startup(&[("user", "ann"), ("database", "")]).database(), "ann");
        assert_eq!(startup(&[("user", "ann"), ("database", "shop")]).database(), "shop");
    }

    #[test]
    fn replication_is_spelled_as_in_postgresql() {
        let of = |value| startup(&[("user", "u"), ("replication", value)]).replication();
        assert_eq!(of("database"), Replication::Logical);
        for value in ["true", "T", "on", "YES", "y", "1"] {
            assert_eq!(of(value), Replication::Physical, "{value}");
        }
        for value in ["false", "off", "no", "0", "", "o", "Database", "truely", "11"] {
            assert_eq!(of(value), Replication::Off, "{value}");
        }
    }

    #[test]
    fn typed_messages_come_later() {
        let first = |bytes: &[u8]| parse(bytes, MAX).unwrap_err();
        assert_eq!(first(b"p\0\0\0\x05"), StartupError::PasswordFirst);
        for message in [&b"X\0\0\0\x04"[..], b"Q\0\0\0\x0dselect 1\0"] {
            assert_eq!(first(message), StartupError::Typed);
            assert!(first(message).is_silent());
        }
        assert!(matches!(first(b"GET / HT"), StartupError::BadHeader { .. }));
    }

    #[test]
    fn requests_without_a_body() {
        let mut ssl = Vec::new();
        encode_ssl_request(&mut ssl);
        assert_eq!(ssl, [0, 0, 0, 8, 4, 210, 22, 47]);
        assert_eq!(parse(&ssl, MAX), Ok(Parsed::Complete { packet: StartupPacket::Ssl, used: 8 }));
        let gss = raw(GSS_CODE, b"");
        assert_eq!(gss, [0, 0, 0, 8, 4, 210, 22, 48]);
        assert_eq!(parse(&gss, MAX), Ok(Parsed::Complete { packet: StartupPacket::GssEnc, used: 8 }));
        assert_eq!(refused(&[&ssl[..], b"x"].concat()), "received unencrypted data after SSL request");
        assert_eq!(
            refused(&[&gss[..], &ssl].concat()),
            "received unencrypted data after GSSAPI encryption request"
        );
        assert_eq!(refused(&raw(SSL_CODE, b"x")), "bad packet header: '0000000904d2162f'");
    }

    #[test]
    fn cancel_secrets_have_4_to_256_bytes() {
        for len in [4usize, 8, 32, 256] {
            let mut bytes = Vec::new();
            encode_cancel(&mut bytes, u32::MAX, &vec![7; len]);
            let request = CancelRequest { pid: u32::MAX, secret: vec![7; len].into() };
            let packet = StartupPacket::Cancel(request);
            assert_eq!(parse(&bytes, MAX), Ok(Parsed::Complete { packet, used: 12 + len }));
        }
        for len in [0usize, 3, 257] {
            let error = parse(&raw(CANCEL_CODE, &vec![7; 4 + len]), MAX).unwrap_err();
            assert!(error.is_silent(), "{len}");
        }
        assert!(parse(&raw(CANCEL_CODE, b""), MAX).unwrap_err().is_silent());
        let shown = format!("{:?}", CancelRequest { pid: 1, secret: [200; 4].into() });
        assert!(!shown.contains("200"), "{shown}");
    }

    #[test]
    fn hostile_headers_are_refused_from_eight_bytes() {
        let version = code(3, 0).to_be_bytes();
        for len in [i32::MIN, -1, 0, 3, 7, MAX as i32 + 1, i32::MAX] {
            let header = [len.to_be_bytes(), version].concat();
            let hex: String = header.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(refused(&header), format!("bad packet header: '{hex}'"), "{len}");
        }
        for (major, minor) in [(0, 0), (1, 0), (4, 0), (1234, 5677), (1234, 5681), (u16::MAX, u16::MAX)] {
            assert!(refused(&raw(code(major, minor), b"")).starts_with("bad packet header: '"), "{major}");
        }
        assert_eq!(refused(&raw(code(2, 0), b"")), "old V2 protocol not supported");
        assert_eq!(refused(b"GET / HTTP/1.1\r\n"), "bad packet header: '474554202f204854'");
    }

    #[test]
    fn the_limit_is_the_length_word_s() {
        let value = "x".repeat(MAX - 8 - "user\0u\0a\0\0\0".len());
        let bytes = startup_bytes(&[("user", "u"), ("a", &value)]);
        assert_eq!(bytes.len(), MAX);
        assert!(parse(&bytes, MAX).is_ok());
        assert!(parse(&bytes[..8], MAX - 1).is_err());
    }

    #[test]
    fn the_terminator_is_the_last_byte() {
        let text = "invalid startup packet layout: expected terminator as last byte";
        let bodies: [&[u8]; 10] = [
            b"",
            b"user\0u\0",
            b"user\0u",
            b"user\0",
            b"user\0\0",
            b"user\0u\0a\0\0",
            b"user\0u\0\0x",
            b"user\0u\0\0\0",
            b"user\0u\0\0\0\0",
            b"user\0u\0\0x\0y\0\0",
        ];
        for body in bodies {
            assert_eq!(refused(&raw(code(3, 0), body)), text, "{body:?}");
        }
    }

    #[test]
    fn users_and_parameters_are_checked() {
        assert_eq!(refused(&raw(code(3, 0), b"\0")), "no username supplied");
        assert_eq!(refused(&startup_bytes(&[("user", "")])), "no username supplied");
        assert_eq!(refused(&startup_bytes(&[("user", &"u".repeat(128))])), "username too long");
        assert_eq!(startup(&[("user", &"u".repeat(127))]).user().len(), 127);
        assert_eq!(parse(&raw(code(3, 0), b"user\0\xff\0\0"), MAX), Err(StartupError::NotUtf8));
        let many: Vec<_> =
            std::iter::once(("user", "u")).chain(std::iter::repeat_n(("a", ""), 511)).collect();
        assert_eq!(startup(&many).params.len(), MAX_PARAMS);
        let too_many = [&many[..], &[("a", "")]].concat();
        assert_eq!(parse(&startup_bytes(&too_many), MAX), Err(StartupError::TooManyParams));
    }

    #[test]
    fn negotiation() {
        let mut of = startup(&[("user", "u"), ("_pq_.a", "1"), ("x", "y"), ("_pq_.b", "")]);
        assert!(of.must_negotiate(0));
        assert_eq!(of.protocol_options().collect::<Vec<_>>(), ["_pq_.a", "_pq_.b"]);
        let mut out = Vec::new();
        encode_negotiate_protocol_version(&mut out, of.agreed_minor(0), of.protocol_options());
        assert_eq!(out, b"v\0\0\0\x1a\0\x03\0\0\0\0\0\x02_pq_.a\0_pq_.b\0");

        of.params.truncate(1);
        assert!(!of.must_negotiate(0));
        of.minor = 2;
        assert!(of.must_negotiate(0));
        assert!(!of.must_negotiate(2));
        of.minor = 9999;
        assert_eq!((of.must_negotiate(2), of.agreed_minor(2)), (true, 2));
        out.clear();
        encode_negotiate_protocol_version(&mut out, 2, []);
        assert_eq!(out, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
    }

    fn params() -> impl Strategy<Value = Vec<(String, String)>> {
        let pairs = prop::collection::vec(("[^\0]{1,12}", "[^\0]{0,20}"), 0..6);
        ("[^\0]{1,30}", pairs).prop_map(|(user, mut pairs)| {
            pairs.push(("user".to_owned(), user));
            pairs
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_packet(params in params(), minor in any::<u16>(), behind in "[a-z]{0,5}") {
            let mut bytes = Vec::new();
            encode_startup(&mut bytes, minor, params.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let len = bytes.len();
            let packet = StartupPacket::Startup(Startup { minor, params });
            bytes.extend_from_slice(behind.as_bytes());
            for have in 0..=bytes.len() {
                let expected = if have < len {
                    Parsed::Incomplete { needed: if have < 8 { 8 } else { len } }
                } else {
                    Parsed::Complete { packet: packet.clone(), used: len }
                };
                prop_assert_eq!(parse(&bytes[..have], MAX), Ok(expected));
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, MAX);
        }

        #[test]
        fn random_bodies_never_panic(body in prop::collection::vec(0u8..4, 0..40), version in prop::bool::ANY) {
            let _ = parse(&raw(if version { code(3, 0) } else { CANCEL_CODE }, &body), MAX);
        }
    }
}
