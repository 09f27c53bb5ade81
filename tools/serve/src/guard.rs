//! Which requests get to a handler: those with a key, and those that a foreign page has not sent.
//!
//! A browser lets any page send requests to this machine. It says where they come from (`Origin`),
//! and for which name it took the server (`Host`): without keys, a foreign name (DNS rebinding) is
//! refused, and a foreign origin always. Test: `tests/serve/keys.rs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::Owner;
use crate::error::{ApiError, Result};
use crate::page::FILES;
use crate::shared::Server;

/// Whether a path needs no key: nothing of anybody is there.
fn is_open(path: &str) -> bool {
    path == "/health" || FILES.iter().any(|(file, ..)| *file == path)
}

/// All routes but those of the page, as they are counted.
const ROUTES: [&str; 12] = [
    "/health",
    "/metrics",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/states",
    "/v1/states/{id}",
    "/v1/states/{id}/fork",
    "/v1/states/{id}/save",
    "/v1/states/{id}/load",
];

/// Headers of every answer.
const HEADERS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Lets a request in or not, and counts the answer.
pub(crate) async fn guard(
    State(server): State<Arc<Server>>,
    mut request: Request,
    next: Next,
) -> Response {
    let came = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let path = known(path.as_deref().unwrap_or_default());
    let method = request.method().clone();
    let mut response = match admit(&server, &request) {
        Ok(owner) => {
            request.extensions_mut().insert(owner);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    for (name, value) in HEADERS {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let status = response.status().as_u16();
    server.metrics.answered(path, status);
    if !matches!(path, "/health" | "/metrics") || status >= 400 {
        let ms = came.elapsed().as_millis();
        (server.log)(&format!("{method} {path} {status} {ms} ms"));
    }
    response
}

/// The route, never what a client typed.
fn known(path: &str) -> &'static str {
    let files = FILES.into_iter().map(|(file, ..)| file);
    let mut routes = ROUTES.into_iter().chain(files);
    routes.find(|route| *route == path).unwrap_or("other")
}

fn admit(server: &Server, request: &Request) -> Result<Owner> {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let refused = |message: &str| ApiError::new(StatusCode::FORBIDDEN, message);
    if !server.auth.is_on() && !is_ours(server, host) {
        return Err(refused(
            "this server does not answer to that name: start it with --allow-host NAME, or with \
             a key",
        )
        .code("foreign_host"));
    }
    if let Some(origin) = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok())
        && origin.split_once("://").is_none_or(|(_, from)| from != host)
    {
        return Err(refused("a page of another server asks").code("foreign_origin"));
    }
    let is_open = is_open(request.uri().path());
    let owner = server.auth.owner(key(headers)).or(is_open.then(Owner::default));
    let owner = owner.ok_or_else(|| {
        let message = match key(headers) {
            None => "this server wants a key: Authorization: Bearer KEY",
            Some(_) => "the key is wrong",
        };
        ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
    })?;
    if server.is_stopping.load(Ordering::Relaxed) && !is_open {
        return Err(ApiError::stopping());
    }
    Ok(owner)
}

/// Whether the server has that name, whatever its port. Addresses are nobody's name: no page can
/// make one its own.
fn is_ours(server: &Server, host: &str) -> bool {
    let name = match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is = |own: &str| own.eq_ignore_ascii_case(name);
    address.parse::<IpAddr>().is_ok()
        || is("localhost")
        || server.options.hosts.iter().any(|own| is(own))
}

/// The key of a request.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let given = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = given.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}
