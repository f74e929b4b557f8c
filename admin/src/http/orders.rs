//! Orders: the console's commands that an operator's tools give most, for who knows `http_admin_token`.

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, StatusCode};
use pooler::console::Rights;
use serde_json::json;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tracing::info;

use super::routes::{Answer, Site, bearer, in_json, parameter, unauthorized};

/// An order that waits (`PAUSE`) is answered after this time; it stays in effect.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The paths, the commands, and the parameter that a command takes.
const ORDERS: [(&str, &str, Option<Parameter>); 5] = [
    ("/api/pause", "PAUSE", Some(Parameter::Database)),
    ("/api/resume", "RESUME", Some(Parameter::Database)),
    ("/api/reconnect", "RECONNECT", Some(Parameter::Database)),
    ("/api/kill_client", "KILL_CLIENT", Some(Parameter::Id)),
    ("/api/reload", "RELOAD", None),
];

#[derive(Clone, Copy)]
enum Parameter {
    /// May be left out: all databases.
    Database,
    /// Number of a client.
    Id,
}

pub(super) fn is_order(path: &str) -> bool {
    ORDERS.iter().any(|(known, _, _)| *known == path)
}

pub(super) async fn obey(site: &Site, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        let mut answer = in_json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "POST only" }));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let config = site.control.config();
    let Some(token) = &config.http.admin_token else {
        return in_json(StatusCode::FORBIDDEN, &json!({ "error": "http_admin_token is not set" }));
    };
    let given = bearer(request).unwrap_or_default();
    if !bool::from(given.ct_eq(token.reveal().as_bytes())) {
        info!("http: refused {}: the token is missing or wrong", request.uri().path());
        return unauthorized();
    }
    let Some(command) = command(request) else {
        return in_json(StatusCode::BAD_REQUEST, &json!({ "error": "parameter id: the number of a client" }));
    };
    info!("http: {command}");
    let obeyed = site.console.answer(&site.control, &command, Rights::Admin);
    match tokio::time::timeout(ANSWER_WITHIN, obeyed).await {
        Err(_) => in_json(StatusCode::ACCEPTED, &json!({ "done": false, "command": command })),
        Ok(Ok(_)) => in_json(StatusCode::OK, &json!({ "done": true, "command": command })),
        Ok(Err(error)) => in_json(StatusCode::CONFLICT, &json!({ "error": error.message })),
    }
}

/// As it would be typed on the console.
fn command(request: &Request<Incoming>) -> Option<String> {
    let (_, verb, parameters) = ORDERS.iter().find(|(path, _, _)| *path == request.uri().path())?;
    let query = request.uri().query();
    Some(match parameters {
        None => (*verb).to_owned(),
        Some(Parameter::Database) => match parameter(query, "database") {
            Some(name) => format!("{verb} \"{}\"", name.replace('"', "\"\"")),
            None => (*verb).to_owned(),
        },
        Some(Parameter::Id) => format!("{verb} {}", parameter(query, "id")?.parse::<u64>().ok()?),
    })
}
