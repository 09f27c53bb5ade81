//! `POST /v1/embeddings`: a vector for each text.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use brooklet::Pooling;
use brooklet::generate::Limits;
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::schedule::Request as Text;
use serde_json::{Value, json};

use super::body;
use crate::api::{self, Embeddings};
use crate::error::{ApiError, Result};
use crate::jobs::What;
use crate::shared::{Asked, Server};
use crate::stream;

/// Answers. Vectors have the length 1, as OpenAI's have.
pub(crate) async fn embeddings(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response> {
    let (came, owner) = (Instant::now(), body::owner(&request));
    let body = body::read_json(&server, request).await?;
    let asked: Embeddings = api::read(&body)?;
    drop(body);
    let is_base64 = match asked.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format: expected float or base64, found {other:?}");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let pooling = match asked.pooling.as_deref() {
        None | Some("last") => Pooling::Last,
        Some("mean") => Pooling::Mean,
        Some(other) => {
            let message = format!("pooling: expected last or mean, found {other:?}");
            return Err(ApiError::field("pooling", message));
        }
    };
    let width = server.model.d_model();
    if asked.dimensions.is_some_and(|dimensions| dimensions != width) {
        let message = format!("dimensions: this model's vectors have {width}");
        return Err(ApiError::field("dimensions", message));
    }
    let inputs = asked.input.each();
    let most = server.options.parallel + server.options.queue;
    if inputs.is_empty() || inputs.len() > most {
        let message = format!("input: {} texts: expected 1 to {most}", inputs.len());
        return Err(ApiError::field("input", message));
    }
    let permit = server.admit(inputs.len())?;
    let prepared = server.prepare(move |server| {
        let text = |input| {
            let prompted = server.prompt(input, None)?;
            let sampler = Sampler::new(SamplerOptions::greedy(), server.model.n_vocab());
            let sampler = sampler.map_err(|error| ApiError::engine("input", &error))?;
            let request = Text::new(prompted.tokens, sampler, Limits::new(0));
            Ok(Text { pooling: Some(pooling), cache: owner.0, ..request })
        };
        inputs.into_iter().map(text).collect::<Result<Vec<Text>>>()
    });
    let texts = prepared.await?;
    let tokens: usize = texts.iter().map(|text| text.prompt.len()).sum();
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
    let groups = texts.into_iter().map(|text| VecDeque::from([text])).collect();
    let mut updates = server.submit(Asked { groups, logprobs: None, came }, permit)?;
    let mut left = vectors.len();
    while left > 0 {
        let update = updates.next().await.ok_or_else(ApiError::stopping)?;
        match update.what {
            What::Embedded(vector) => vectors[update.index] = Some(vector),
            What::Ended(end) => {
                end?;
                left -= 1;
            }
            _ => {}
        }
    }
    let vectors = vectors.into_iter().enumerate().map(|(index, vector)| {
        let vector = unit(vector.unwrap_or_default());
        json!({ "object": "embedding", "index": index, "embedding": told(&vector, is_base64) })
    });
    Ok(stream::json(&json!({
        "object": "list",
        "data": vectors.collect::<Vec<Value>>(),
        "model": server.options.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

/// A vector as JSON: numbers, or the bytes of little-endian f32.
fn told(vector: &[f32], is_base64: bool) -> Value {
    match is_base64 {
        false => json!(vector),
        true => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            json!(BASE64_STANDARD.encode(bytes))
        }
    }
}

/// Divides a vector by its length, unless that is 0.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}
