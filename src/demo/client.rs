//! A client of the demonstration's own: it logs in, and runs one statement at a time.

use std::io;

use protocol::auth::scram::{self, AwaitServerFinal, AwaitServerFirst, ChannelBinding, Choice, NONCE_LEN};
use protocol::auth::{self, AuthRequest, SaslInitialResponse};
use protocol::error_fields::ErrorFields;
use protocol::frame::HEADER_LEN;
use protocol::{message, startup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message that is read.
const LONGEST: usize = 64 << 10;

/// Why a statement has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The SQLSTATE of the answer, or what took its place.
    pub(super) code: String,
    /// The connection is of no use any more.
    pub(super) over: bool,
}

impl Failure {
    fn over(code: &str) -> Failure {
        Failure { code: code.to_owned(), over: true }
    }

    fn of(body: &[u8], over: bool) -> Failure {
        let fields = ErrorFields::new(body);
        let code = String::from_utf8_lossy(fields.get(b'C').unwrap_or(b"?????")).into_owned();
        Failure { code, over: over || fields.severity().is_some_and(|severity| severity.ends_session()) }
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::over("connection lost")
    }
}

/// One that is logged in.
pub(super) struct Client<S> {
    stream: S,
    input: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Logs in over a fresh connection, by SCRAM if it is asked to.
    ///
    /// # Errors
    /// It is refused, or the connection ends.
    pub(super) async fn login(stream: S, user: &str, password: &str) -> Result<Client<S>, Failure> {
        let mut client = Client { stream, input: Vec::new() };
        let mut out = Vec::new();
        startup::encode_startup(&mut out, 0, [("user", user), ("database", user)]);
        client.stream.write_all(&out).await?;
        let mut scram = Scram::NotBegun;
        loop {
            let (tag, body) = client.next().await?;
            match tag {
                b'R' => {
                    let mut out = Vec::new();
                    scram = scram.step(&body, password, &mut out).ok_or(Failure::over("login failed"))?;
                    client.stream.write_all(&out).await?;
                }
                b'E' => return Err(Failure::of(&body, true)),
                b'Z' => return Ok(client),
                _ => {}
            }
        }
    }

    /// The first column of the first row of what a statement brings, if it brings any.
    ///
    /// # Errors
    /// It fails, or the connection ends.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        let mut out = Vec::new();
        message::query(&mut out, sql);
        self.stream.write_all(&out).await?;
        let (mut value, mut failure) = (None, None);
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                b'D' if value.is_none() => value = first_column(&body),
                b'E' => {
                    let error = Failure::of(&body, false);
                    if error.over {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                b'Z' => return failure.map_or(Ok(value), Err),
                _ => {}
            }
        }
    }

    /// The next message: its type and its body.
    async fn next(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        loop {
            if let Some(header) = self.input.first_chunk::<HEADER_LEN>() {
                let total = 1 + u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                if !(HEADER_LEN..=LONGEST).contains(&total) {
                    return Err(Failure::over("no such message"));
                }
                if self.input.len() >= total {
                    let tag = header[0];
                    let body = self.input[HEADER_LEN..total].to_vec();
                    self.input.drain(..total);
                    return Ok((tag, body));
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Failure::over("connection lost"));
            }
        }
    }
}

/// A DataRow: the number of columns, then each with its length before it.
fn first_column(row: &[u8]) -> Option<String> {
    let length = i32::from_be_bytes(row.get(2..6)?.try_into().ok()?);
    let value = row.get(6..6 + usize::try_from(length).ok()?)?; // -1 is NULL
    Some(String::from_utf8_lossy(value).into_owned())
}

enum Scram {
    NotBegun,
    Begun(AwaitServerFirst),
    Proved(AwaitServerFinal),
    Done,
}

impl Scram {
    /// `None`: that is no login that it can do.
    fn step(self, request: &[u8], password: &str, out: &mut Vec<u8>) -> Option<Scram> {
        match (self, AuthRequest::decode(request).ok()?) {
            (state @ (Scram::NotBegun | Scram::Done), AuthRequest::Ok) => Some(state),
            (Scram::NotBegun, AuthRequest::Sasl(mechanisms)) => {
                let choice = Choice::of(&mechanisms, None, ChannelBinding::Disable).ok()?;
                let mut nonce = [0; NONCE_LEN];
                getrandom::fill(&mut nonce).ok()?;
                let (exchange, first) = AwaitServerFirst::start(choice, nonce);
                let mechanism = choice.mechanism().as_bytes();
                SaslInitialResponse { mechanism, data: Some(first.as_bytes()) }.encode(out);
                Some(Scram::Begun(exchange))
            }
            (Scram::Begun(exchange), AuthRequest::SaslContinue(data)) => {
                let challenge = exchange.server_first(data).ok()?;
                let keys =
                    scram::derive(password.as_bytes(), challenge.salt(), challenge.iterations()).ok()?;
                let (exchange, last) = challenge.prove(&keys);
                auth::encode_sasl_response(out, last.as_bytes());
                Some(Scram::Proved(exchange))
            }
            (Scram::Proved(exchange), AuthRequest::SaslFinal(data)) => {
                exchange.server_final(data).ok()?;
                Some(Scram::Done)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_column_of_a_row() {
        assert_eq!(first_column(b"\0\x02\0\0\0\x0212\0\0\0\x013"), Some("12".to_owned()));
        assert_eq!(first_column(b"\0\x01\xff\xff\xff\xff"), None);
        assert_eq!(first_column(b"\0\x01\0\0\0\x09short"), None);
        assert_eq!(first_column(b"\0\0"), None);
    }

    #[test]
    fn a_failure_has_a_code_and_may_end_the_connection() {
        let body = b"SFATAL\0VFATAL\0C57P01\0Mgone\0\0";
        assert_eq!(Failure::of(body, false), Failure::over("57P01"));
        let body = b"SERROR\0VERROR\0C25006\0Mno\0\0";
        assert_eq!(Failure::of(body, false), Failure { code: "25006".to_owned(), over: false });
    }
}
