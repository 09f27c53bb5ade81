//! `GET /v1/models`, `/health`, `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::shared::Server;
use crate::stream;

fn told(server: &Server) -> Value {
    let model = &server.model;
    json!({
        "id": server.options.name,
        "object": "model",
        "created": server.since,
        "owned_by": "brooklet",
        "meta": {
            "architecture": model.state_layout().architecture(),
            "n_vocab": model.n_vocab(),
            "d_model": model.d_model(),
            "state_bytes": model.state_layout().bytes(),
            "has_template": model.meta().chat_template.is_some(),
            "max_tokens": server.options.max_tokens,
            "max_prompt": server.options.max_prompt,
        },
    })
}

pub(crate) async fn models(State(server): State<Arc<Server>>) -> Response {
    stream::json(&json!({ "object": "list", "data": [told(&server)] }))
}

pub(crate) async fn model(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Response> {
    if name != server.options.name {
        let message =
            format!("there is no model {name:?}; this server has {:?}", server.options.name);
        return Err(ApiError::not_found(message).code("model_not_found"));
    }
    Ok(stream::json(&told(&server)))
}

/// Whether the server takes requests.
pub(crate) async fn health(State(server): State<Arc<Server>>) -> Result<Response> {
    match server.is_stopping.load(Ordering::Relaxed) {
        true => Err(ApiError::stopping()),
        false => Ok(stream::json(&json!({ "status": "ok" }))),
    }
}

pub(crate) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let mut response = server.metrics.text().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
