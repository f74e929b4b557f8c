//! What is to be had at which path.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use pooler::control::Control;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::details::Details;
use super::{health, orders, state};
use crate::console::AdminConsole;
use crate::prometheus::{Exporter, View};

pub(super) type Answer = Response<Full<Bytes>>;

/// Everything that is served.
pub(super) struct Site {
    pub(super) control: Control,
    pub(super) console: Arc<AdminConsole>,
    exporter: Exporter,
    details: Details,
    /// One rendering at a time: however many ask, traffic loses no more than a part of one core.
    turn: Semaphore,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Nothing from elsewhere, nothing inline, and no other page may show this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Site {
    pub(super) fn new(control: Control, console: Arc<AdminConsole>) -> Site {
        Site {
            control,
            console,
            exporter: Exporter::default(),
            details: Details::default(),
            turn: Semaphore::new(1),
        }
    }

    /// `local`: the connection came in on the loopback interface.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>, local: bool) -> Answer {
        if local && !names_this_machine(&request) {
            let text = "this address is served under its number or as localhost only\n";
            return with_type(StatusCode::MISDIRECTED_REQUEST, TEXT, text);
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if orders::is_order(path) => orders::obey(&self, &request).await,
            _ if !reads => {
                let mut answer = with_type(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            "/" => with_type(StatusCode::OK, "text/html; charset=utf-8", include_str!("page/index.html")),
            "/dashboard.css" => {
                with_type(StatusCode::OK, "text/css; charset=utf-8", include_str!("page/dashboard.css"))
            }
            "/dashboard.js" => {
                let script = include_str!("page/dashboard.js");
                with_type(StatusCode::OK, "text/javascript; charset=utf-8", script)
            }
            "/healthz" => self.alive(),
            "/readyz" => {
                let database = parameter(request.uri().query(), "database");
                let (ready, text) = self
                    .render(move |site| health::readiness(&View::of(&site.control), database.as_deref()))
                    .await
                    .unwrap_or((false, Value::Null));
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                in_json(status, &text)
            }
            "/metrics" => {
                let text = self.render(|site| site.exporter.text(&site.control)).await;
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                text.map_or_else(failed, |text| with_type(StatusCode::OK, kind, text))
            }
            "/api/state" => {
                let state = self.render(|site| state::state(&site.control)).await;
                state.map_or_else(failed, |state| in_json(StatusCode::OK, &state))
            }
            "/api/details" => in_json(StatusCode::OK, &self.details.now(&self.control).await),
            _ => with_type(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        }
    }

    /// That this is answered at all is what it says.
    fn alive(&self) -> Answer {
        let uptime = self.control.started().elapsed().unwrap_or_default().as_secs();
        in_json(StatusCode::OK, &json!({ "status": "ok", "uptime_seconds": uptime }))
    }

    /// Off the event loop, in turn. `None` if it could not be rendered.
    async fn render<T: Send + 'static>(
        self: &Arc<Self>,
        render: impl FnOnce(&Site) -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.turn.acquire().await.ok()?;
        let site = self.clone();
        spawn_blocking(move || render(&site)).await.ok()
    }
}

fn failed() -> Answer {
    with_type(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot be rendered\n")
}

/// A page from elsewhere can have its own name point here, and would then be let read what is answered. It can't have
/// its browser leave that name out of the request.
fn names_this_machine(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST) else { return true }; // no browser
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<hyper::http::uri::Authority>() else {
        return false;
    };
    let host = authority.host();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    literal.parse::<std::net::IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
}

/// The first value of a parameter behind the path's `?`.
pub(super) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).next()
}

/// Percent and plus signs undone; what is no UTF-8 then is replaced.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = behind.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn in_json(status: StatusCode, value: &Value) -> Answer {
    with_type(status, JSON, format!("{value}\n"))
}

/// An order's answer to who has not said the token.
pub(super) fn unauthorized() -> Answer {
    let mut answer = in_json(StatusCode::UNAUTHORIZED, &json!({ "error": "the token is missing or wrong" }));
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// What the request gives as its token.
pub(super) fn bearer(request: &Request<Incoming>) -> Option<&[u8]> {
    let given = request.headers().get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = given.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn with_type(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Some("a=1&database=my%20db%2B+x&database=second&broken%=%zz%4");
        assert_eq!(parameter(query, "database").as_deref(), Some("my db+ x"));
        assert_eq!(parameter(query, "broken%").as_deref(), Some("%zz%4"));
        assert_eq!(parameter(query, "b"), None);
        assert_eq!(parameter(None, "a"), None);
    }
}
