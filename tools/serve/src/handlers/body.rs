//! Bodies of requests: bounded in bytes, time and depth.

use std::pin::Pin;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use futures_core::Stream;
use serde_json::Value;

use crate::auth::Owner;
use crate::error::{ApiError, Result};

/// How long a body may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A body that is too large is read, and forgotten, up to so many times what it may have: a client
/// that still sends does not read the answer.
const DRAINED: usize = 16;

fn too_large(most: usize) -> ApiError {
    let message = format!("the body has more than the {most} bytes that this server reads");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
}

/// Whose request it is.
pub(super) fn owner(request: &Request) -> Owner {
    request.extensions().get::<Owner>().copied().unwrap_or_default()
}

/// The body as JSON. Values nested deeper than 128 are refused by the parser.
pub(super) async fn read_json(request: Request, most: usize) -> Result<Value> {
    let bytes = read(request, most).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"))
    })
}

/// The body's bytes.
pub(super) async fn read(request: Request, most: usize) -> Result<Vec<u8>> {
    let late = || {
        let message = "the body did not come in time";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    };
    tokio::time::timeout(PATIENCE, collect(request, most)).await.map_err(|_| late())?
}

async fn collect(request: Request, most: usize) -> Result<Vec<u8>> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most_drained = most.saturating_mul(DRAINED);
    if length.is_some_and(|length| length > most_drained as u64) {
        return Err(too_large(most));
    }
    let mut stream = request.into_body().into_data_stream();
    let (mut bytes, mut size) = (Vec::new(), 0usize);
    while let Some(part) = next(&mut stream).await {
        let part = part.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
        })?;
        size = size.saturating_add(part.len());
        if size > most_drained {
            break;
        }
        if size > most {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&part);
        }
    }
    if size > most { Err(too_large(most)) } else { Ok(bytes) }
}

async fn next(stream: &mut axum::body::BodyDataStream) -> Option<Result<Bytes, axum::Error>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Nothing is in it that anybody reads.
pub(super) async fn ignore(request: Request) -> Result<()> {
    read(request, 1 << 16).await.map(drop)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn deep_nesting_is_refused() {
        let deep = "[".repeat(100_000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let error = runtime.block_on(read_json(Request::new(Body::from(deep)), 1 << 20));
        assert_eq!(error.unwrap_err().status, StatusCode::BAD_REQUEST);
        let large = runtime.block_on(read_json(Request::new(Body::from("[1,2,3]")), 4));
        assert_eq!(large.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
