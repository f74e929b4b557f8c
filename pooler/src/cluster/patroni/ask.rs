//! One question to Patroni's REST interface.

use std::fmt;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;

use super::answer::{Told, Unreadable, read};
use crate::config::Host;
use crate::server::{ConnectError, reach};
use crate::shared::Shared;

/// Longest answer, in bytes.
const LARGEST: usize = 1 << 20;

/// Longest head of one.
const LARGEST_HEAD: usize = 16 << 10;

/// Where nothing else is written.
const HTTP_PORT: u16 = 80;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// Not of the form `http://HOST[:PORT][/PATH]`.
    NoUrl,
    Unreachable(ConnectError),
    Http(hyper::Error),
    Refused(StatusCode),
    /// It is too long, or breaks off.
    Body(Box<dyn std::error::Error + Send + Sync>),
    Unreadable(Unreadable),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::NoUrl => f.write_str("not of the form http://HOST[:PORT]"),
            Silence::Unreachable(error) => error.fmt(f),
            Silence::Http(error) => error.fmt(f),
            Silence::Refused(status) => write!(f, "it answers {status}"),
            Silence::Body(error) => write!(f, "the answer can't be read: {error}"),
            Silence::Unreadable(error) => error.fmt(f),
        }
    }
}

/// Asks the Patroni at `url` for its cluster, over a connection of its own. The time is the caller's to bound: the future
/// may be dropped anywhere.
pub(super) async fn ask(shared: &Shared, url: &str) -> Result<Vec<Told>, Silence> {
    let (host, port, request) = request(url).ok_or(Silence::NoUrl)?;
    let socket = reach(shared, &host, port).await.map_err(Silence::Unreachable)?;
    let mut builder = http1::Builder::new();
    let handshake = builder.max_buf_size(LARGEST_HEAD).handshake(TokioIo::new(socket));
    let (mut sender, connection) = handshake.await.map_err(Silence::Http)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(Silence::Http)?;
        if response.status() != StatusCode::OK {
            return Err(Silence::Refused(response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(Silence::Body)?;
        read(&body.to_bytes()).map_err(Silence::Unreadable)
    };
    // What ends the connection early ends the exchange as well.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

fn request(url: &str) -> Option<(Host, u16, Request<Empty<Bytes>>)> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let path = format!("{}/cluster", uri.path().trim_end_matches('/'));
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "close")
        .body(Empty::new())
        .ok()?;
    (!host.is_empty())
        .then(|| (Host::Tcp(host.to_owned()), authority.port_u16().unwrap_or(HTTP_PORT), request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_lead_to_its_cluster() {
        for (url, expected) in [
            ("http://10.0.0.1:8008", Some(("10.0.0.1", 8008, "/cluster"))),
            ("http://10.0.0.1:8008/", Some(("10.0.0.1", 8008, "/cluster"))),
            ("http://pg.internal/a/b/", Some(("pg.internal", 80, "/a/b/cluster"))),
            ("http://[::1]:8008", Some(("::1", 8008, "/cluster"))),
            ("https://10.0.0.1:8008", None),
            ("10.0.0.1:8008", None),
            ("http://", None),
            ("http://:8008", None),
            ("", None),
        ] {
            let found =
                request(url).map(|(host, port, request)| (host, port, request.uri().path().to_owned()));
            let expected =
                expected.map(|(host, port, path)| (Host::Tcp(host.to_owned()), port, path.to_owned()));
            assert_eq!(found, expected, "{url}");
        }
    }
}
