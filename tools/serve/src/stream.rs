//! Answers: as server-sent events while they are written, or whole.
//!
//! Source: WHATWG HTML, "Server-sent events". Everything that has happened goes out in one piece.
//! Where nothing happens (a long prompt is read, others are before it) a comment goes out now and
//! then, which clients ignore, and for which proxies leave the connection open. Test:
//! `tests/serve/openai.rs`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_core::Stream;
use serde_json::Value;
use tokio::time::{Instant, Interval, interval_at, timeout};

use crate::error::{ApiError, Result};
use crate::jobs::{Update, Updates};

/// How long an answer waits for its first update before it begins without one: what fails until
/// then has a status of its own.
const FIRST: Duration = Duration::from_millis(250);

/// How long nothing may be sent.
const SILENCE: Duration = Duration::from_secs(5);

/// What is sent then.
const COMMENT: &[u8] = b": reading\n\n";

/// What becomes of updates.
pub(crate) trait Reply: Send + Unpin + 'static {
    /// Takes an update, and gives the events that it makes.
    ///
    /// # Errors
    /// The text failed, and with it the answer.
    fn take(&mut self, update: Update) -> Result<Vec<Value>>;
    /// Whether all texts have ended.
    fn is_over(&self) -> bool;
    /// The events behind the last text.
    fn last(&mut self) -> Vec<Value>;
    /// The whole answer.
    fn whole(&mut self) -> Value;
}

/// An answer as JSON.
pub(crate) fn json(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Waits for all texts, and answers.
pub(crate) async fn whole(mut updates: Updates, mut reply: impl Reply) -> Result<Response> {
    while !reply.is_over() {
        let update = updates.next().await.ok_or_else(ApiError::stopping)?;
        reply.take(update)?;
    }
    Ok(json(&reply.whole()))
}

/// Answers with events.
pub(crate) async fn events(mut updates: Updates, reply: impl Reply) -> Result<Response> {
    let first = match timeout(FIRST, updates.begun()).await {
        Ok(begun) => {
            begun?;
            SILENCE
        }
        Err(_) => Duration::ZERO,
    };
    let silence = interval_at(Instant::now() + first, SILENCE);
    let events = Events { updates, reply, silence, is_done: false };
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies shall pass events on as they come.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Events<R> {
    updates: Updates,
    reply: R,
    /// Is ready where nothing was sent for too long.
    silence: Interval,
    is_done: bool,
}

impl<R: Reply> Stream for Events<R> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let events = self.get_mut();
        let mut out = String::new();
        while !events.is_done {
            let update = match events.updates.poll(context) {
                Poll::Pending if out.is_empty() => {
                    let silence = events.silence.poll_tick(context);
                    return silence.map(|_| Some(Ok(Bytes::from_static(COMMENT))));
                }
                Poll::Pending => break,
                Poll::Ready(update) => update.ok_or_else(ApiError::stopping),
            };
            match update.and_then(|update| events.reply.take(update)) {
                Ok(values) => values.iter().for_each(|value| put(&mut out, value)),
                Err(error) => {
                    put(&mut out, &error.json());
                    events.is_done = true;
                    break;
                }
            }
            if events.reply.is_over() {
                events.reply.last().iter().for_each(|value| put(&mut out, value));
                out += "data: [DONE]\n\n";
                events.is_done = true;
            }
        }
        events.silence.reset();
        Poll::Ready((!out.is_empty()).then(|| Ok(Bytes::from(out))))
    }
}

/// One event: JSON has no line feeds.
fn put(out: &mut String, value: &Value) {
    *out += "data: ";
    *out += &value.to_string();
    *out += "\n\n";
}
