//! What goes to the engine thread, and what comes back.
//!
//! A handler sends a [`Job`] and reads its [`Updates`]; when it is dropped, which happens when its
//! client leaves, the job is cancelled. The engine thread counts what a client has not read: it
//! waits for none, and cancels those that do not read for too long. Not here: what the thread does
//! (`worker`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use brooklet::Snapshot;
use brooklet::generate::Reason;
use brooklet::prefix::Reading;
use brooklet::schedule::Request;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::ApiError;
use crate::tokens::TokenInfo;

/// Updates that a client may leave unread for as long as it likes.
pub(crate) const UNREAD: usize = 512;

/// Updates that no client may leave unread, however short it has been behind.
pub(crate) const MOST_UNREAD: usize = 32 * UNREAD;

/// Work for the engine thread.
pub(crate) enum Command {
    Begin(Box<Job>),
    /// Ends with all that it was doing.
    Leave,
}

/// The texts of one request.
pub(crate) struct Job {
    pub(crate) id: u64,
    /// Texts with the same prompt, of which the first is read before the others begin.
    pub(crate) groups: Vec<VecDeque<Request>>,
    pub(crate) outbox: Outbox,
    /// When the request came, and when it has to be done.
    pub(crate) came: Instant,
    pub(crate) deadline: Instant,
    /// Log-probabilities of the tokens, with so many of the likeliest.
    pub(crate) logprobs: Option<usize>,
    /// Its room in the queue, which is free again when it has ended.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What happened to text `index` of a job.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) index: usize,
    pub(crate) at: Instant,
    pub(crate) what: What,
}

/// What happened to a text.
#[derive(Debug)]
pub(crate) enum What {
    /// Its prompt has been read.
    Read(Reading),
    /// A piece of it is certain.
    Piece {
        text: String,
        token: Option<TokenInfo>,
    },
    Embedded(Vec<f32>),
    Stands(Box<Snapshot>),
    /// Nothing follows.
    Ended(Result<End, ApiError>),
}

/// How a text ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) reason: Reason,
    pub(crate) tokens: usize,
}

/// The engine thread's end of a job's channel.
pub(crate) struct Outbox {
    updates: UnboundedSender<Update>,
    unread: Arc<AtomicUsize>,
}

impl Outbox {
    /// Tells something; false where nobody listens any more.
    pub(crate) fn tell(&self, index: usize, what: What) -> bool {
        self.unread.fetch_add(1, Ordering::Relaxed);
        self.updates.send(Update { index, at: Instant::now(), what }).is_ok()
    }

    /// Updates that wait to be read.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.updates.is_closed()
    }
}

/// The handler's end of a job's channel. The engine thread looks before each pass whether it is
/// still there, and cancels the job where it is not.
pub(crate) struct Updates {
    updates: UnboundedReceiver<Update>,
    unread: Arc<AtomicUsize>,
    /// One that was looked at already.
    first: Option<Update>,
}

/// Both ends of the channel of a job.
pub(crate) fn channel() -> (Outbox, Updates) {
    let (send, updates) = unbounded_channel();
    let unread = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox { updates: send, unread: unread.clone() };
    (outbox, Updates { updates, unread, first: None })
}

impl Updates {
    /// The next update; none after all texts have ended.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let Poll::Ready(update) = self.updates.poll_recv(context) else { return Poll::Pending };
        if update.is_some() {
            self.unread.fetch_sub(1, Ordering::Relaxed);
        }
        Poll::Ready(update)
    }

    pub(crate) async fn next(&mut self) -> Option<Update> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll(context)).await
    }

    /// Waits until the first thing has happened, and tells whether it was a failure.
    pub(crate) async fn begun(&mut self) -> Result<(), ApiError> {
        match self.next().await {
            Some(Update { what: What::Ended(Err(error)), .. }) => Err(error),
            Some(first) => {
                self.first = Some(first);
                Ok(())
            }
            None => Err(ApiError::stopping()),
        }
    }
}
