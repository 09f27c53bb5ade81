//! `/v1/states`: states by their ids. Kept by a request with `keep_state`, or uploaded.
//!
//! Fork, save and load cost a copy of the state, whatever it has read.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use brooklet::{DType, Snapshot};
use serde_json::json;

use super::body;
use crate::auth::Owner;
use crate::error::{ApiError, Result};
use crate::prepare::Talk;
use crate::shared::Server;
use crate::states::Kept;
use crate::stream;

/// Tokens that are kept with a state, so that a text can go on inside a character.
const TAIL: usize = 64;

impl Server {
    /// The state that a request begins with, if it names one.
    pub(crate) fn kept(&self, owner: Owner, id: Option<&str>) -> Result<Option<Arc<Kept>>> {
        id.map(|id| self.states.get((&self.auth, owner), &self.model, id)).transpose()
    }

    /// Keeps where a text stands.
    pub(crate) fn keep(
        &self,
        owner: Owner,
        id: &str,
        mut snapshot: Snapshot,
        talk: Option<&Talk>,
    ) -> Result<()> {
        let kept = TAIL.max(snapshot.unread);
        snapshot.tail.drain(..snapshot.tail.len().saturating_sub(kept));
        if let Some(talk) = talk {
            let note = serde_json::to_string(talk);
            snapshot.note = note.map_err(|error| ApiError::internal(error.to_string()))?;
        }
        self.states.keep(owner, id, snapshot)
    }
}

/// All states of a key.
pub(crate) async fn list(State(server): State<Arc<Server>>, request: Request) -> Result<Response> {
    let owner = body::owner(&request);
    let listed = server.prepare(move |server| Ok(server.states.list(&server.auth, owner)));
    let (data, saved) = listed.await?;
    Ok(stream::json(&json!({ "object": "list", "data": data, "saved": saved })))
}

/// The state as a file (`.brks`).
pub(crate) async fn download(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let owner = body::owner(&request);
    let bytes = server.prepare(move |server| {
        let kept = server.states.get((&server.auth, owner), &server.model, &id)?;
        let bytes = kept.snapshot.to_bytes(DType::F32);
        bytes.map_err(|error| ApiError::engine("id", &error))
    });
    let mut response = Response::new(Body::from(bytes.await?));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Takes a state under a new id.
pub(crate) async fn upload(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response> {
    let id = server.new_id("st-");
    upload_as(State(server), Path(id), request).await
}

/// Takes a state under an id.
pub(crate) async fn upload_as(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let owner = body::owner(&request);
    let read = body::read(&server, request, server.options.max_state).await?;
    answer(&server, owner, id, move |server, id| {
        let snapshot = Snapshot::from_bytes(&server.model, &read.bytes);
        let snapshot = snapshot.map_err(|error| ApiError::engine("body", &error))?;
        server.states.keep(owner, id, snapshot)
    })
    .await
}

/// Keeps the same state under another id.
pub(crate) async fn fork(
    State(server): State<Arc<Server>>,
    Path(from): Path<String>,
    request: Request,
) -> Result<Response> {
    let owner = body::owner(&request);
    body::ignore(&server, request).await?;
    let id = server.new_id("st-");
    answer(&server, owner, id, move |server, id| {
        let kept = server.states.get((&server.auth, owner), &server.model, &from)?;
        server.states.keep(owner, id, kept.snapshot.clone())
    })
    .await
}

/// Saves a state in the server's folder.
pub(crate) async fn save(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let owner = body::owner(&request);
    body::ignore(&server, request).await?;
    answer(&server, owner, id, move |server, id| {
        let who = (&server.auth, owner);
        let kept = server.states.get(who, &server.model, id)?;
        server.states.save(who, id, &kept)
    })
    .await
}

/// Reads a state from the server's folder, if it is not in memory.
pub(crate) async fn load(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let owner = body::owner(&request);
    body::ignore(&server, request).await?;
    answer(&server, owner, id, |_, _| Ok(())).await
}

/// Forgets a state, its file included.
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let owner = body::owner(&request);
    let name = id.clone();
    server.prepare(move |server| server.states.remove((&server.auth, owner), &name)).await?;
    Ok(stream::json(&json!({ "id": id, "object": "state", "deleted": true })))
}

/// Does something with a state, and tells of it.
async fn answer(
    server: &Arc<Server>,
    owner: Owner,
    id: String,
    work: impl FnOnce(&Server, &str) -> Result<()> + Send + 'static,
) -> Result<Response> {
    let told = server.prepare(move |server| {
        work(server, &id)?;
        let who = (&server.auth, owner);
        let kept = server.states.get(who, &server.model, &id)?;
        Ok(json!(server.states.told(who, &id, &kept)))
    });
    Ok(stream::json(&told.await?))
}
