//! What handlers share: the model's words, the way to the engine thread, states, counters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use brooklet::chat::ChatTemplate;
use brooklet::schedule::Request;
use brooklet::{Grammar, Model, Syntax, Text};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use axum::http::StatusCode;

use crate::auth::Auth;
use crate::error::{ApiError, Result};
use crate::jobs::{Command, Job, Updates, channel};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::states::States;

/// Bytes of a body that need no room of their own.
pub(crate) const BODY: usize = 64 << 10;

/// A line for the log.
pub(crate) type Log = Box<dyn Fn(&str) + Send + Sync>;

/// A server, as handlers see it.
pub(crate) struct Server {
    pub(crate) options: Options,
    pub(crate) model: Model,
    pub(crate) text: Text,
    /// Or why there is none.
    pub(crate) template: Result<ChatTemplate, String>,
    /// Names what texts depend on beside a request: the program and the model. The same seed and
    /// the same fingerprint give the same text.
    pub(crate) fingerprint: String,
    /// Strings that end an answer of a chat.
    pub(crate) chat_stops: Vec<String>,
    pub(crate) commands: Sender<Command>,
    pub(crate) queue: Arc<Semaphore>,
    /// Memory for bodies that are read, in units of [`BODY`].
    pub(crate) bodies: Arc<Semaphore>,
    /// At most so many requests are prepared at a time.
    pub(crate) preparing: Arc<Semaphore>,
    pub(crate) auth: Auth,
    pub(crate) states: States,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) grammars: Mutex<VecDeque<(Syntax, String, Grammar)>>,
    pub(crate) is_stopping: AtomicBool,
    pub(crate) next: AtomicU64,
    /// Unix time of the start, in seconds.
    pub(crate) since: u64,
    pub(crate) log: Log,
}

/// What is asked of the engine thread.
pub(crate) struct Asked {
    /// Texts with the same prompt stand together.
    pub(crate) groups: Vec<VecDeque<Request>>,
    pub(crate) logprobs: Option<usize>,
    /// When the request came.
    pub(crate) came: Instant,
}

impl Server {
    /// Room in the queue for so many texts.
    pub(crate) fn admit(&self, texts: usize) -> Result<OwnedSemaphorePermit> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(ApiError::stopping());
        }
        let n = u32::try_from(texts).unwrap_or(u32::MAX);
        self.queue.clone().try_acquire_many_owned(n).map_err(|_| {
            let all = self.options.parallel + self.options.queue;
            let message = format!("the queue is full: {all} texts at a time; come again later");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full")
        })
    }

    /// Sends texts to the engine thread.
    pub(crate) fn submit(&self, asked: Asked, permit: OwnedSemaphorePermit) -> Result<Updates> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (outbox, updates) = channel();
        let Asked { groups, logprobs, came } = asked;
        let deadline = came + self.options.timeout;
        let job = Job { id, groups, outbox, came, deadline, logprobs, _permit: permit };
        let sent = self.commands.send(Command::Begin(Box::new(job)));
        sent.map_err(|_| ApiError::stopping())?;
        Ok(updates)
    }

    /// Does work that takes its time, of which not too much is done at once.
    pub(crate) async fn prepare<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Server) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.preparing.clone().acquire_owned().await;
        let permit = permit.map_err(|_| ApiError::stopping())?;
        let server = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&server)
        });
        done.await.map_err(|_| ApiError::internal("the request could not be prepared"))?
    }

    /// A new name that begins so.
    pub(crate) fn new_id(&self, prefix: &str) -> String {
        use std::hash::{BuildHasher, RandomState};
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:016x}", RandomState::new().hash_one(n))
    }
}
