//! Bodies of requests: bounded in bytes, time and depth.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use futures_core::Stream;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Owner;
use crate::error::{ApiError, Result};
use crate::shared::{BODY, Server};

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
pub(super) async fn read_json(server: &Server, request: Request) -> Result<Value> {
    let body = read(server, request, server.options.max_body).await?;
    serde_json::from_slice(&body.bytes).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"))
    })
}

/// A body, and its room in memory.
#[derive(Default)]
pub(super) struct Read {
    pub(super) bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

/// The body's bytes.
pub(super) async fn read(server: &Server, request: Request, most: usize) -> Result<Read> {
    let late = || {
        let message = "the body did not come in time";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    };
    let read = collect(&server.bodies, request, most);
    tokio::time::timeout(PATIENCE, read).await.map_err(|_| late())?
}

async fn collect(bodies: &Arc<Semaphore>, request: Request, most: usize) -> Result<Read> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let most_drained = most.saturating_mul(DRAINED);
    if length.is_some_and(|length| length > most_drained) {
        return Err(too_large(most));
    }
    let mut stream = request.into_body().into_data_stream();
    let (mut read, mut size) = (Read::default(), 0usize);
    while let Some(part) = next(&mut stream).await {
        let part = part.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
        })?;
        size = size.saturating_add(part.len());
        if size > most_drained {
            break;
        }
        if size > most {
            read = Read::default();
            continue;
        }
        // All of it at once: nobody shall hold a part and wait for another.
        if size > BODY && read.room.is_none() {
            let units = length.unwrap_or(most).min(most).div_ceil(BODY);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            let room = bodies.clone().acquire_many_owned(units).await;
            read.room = Some(room.map_err(|_| ApiError::stopping())?);
        }
        read.bytes.extend_from_slice(&part);
    }
    if size > most { Err(too_large(most)) } else { Ok(read) }
}

async fn next(stream: &mut axum::body::BodyDataStream) -> Option<Result<Bytes, axum::Error>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Nothing is in it that anybody reads.
pub(super) async fn ignore(server: &Server, request: Request) -> Result<()> {
    read(server, request, BODY).await.map(drop)
}
