//! Connections, routes, and how a server ends.
//!
//! Asked to end, it takes no more connections and refuses what comes on those that are open (503);
//! texts that are being written go on for `grace`, then the engine thread ends with an error for
//! each. Test: `tests/serve/shutdown.rs`.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use brooklet::chat::ChatTemplate;
use brooklet::schedule::Scheduler;
use brooklet::{EngineError, Model, Text};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use crate::auth::Auth;
use crate::error::ApiError;
use crate::jobs::Command;
use crate::metrics::{Metrics, now};
use crate::options::Options;
use crate::shared::{BODY, Server};
use crate::states::States;
use crate::worker::Worker;
use crate::{guard, handlers, page, setup};

/// How long a head of a request may take to come.
const HEAD: Duration = Duration::from_secs(30);

/// How long a client may take nothing of what is sent to it.
const WRITE: Duration = Duration::from_secs(60);

/// Bytes of all bodies that are read at a time, unless one may have more.
const BODIES: usize = 512 << 20;

/// How often somebody looks whether the server is to end.
const TICK: Duration = Duration::from_millis(50);

/// Why a server cannot start, or ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The model, or a folder of the prefix cache.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A thread, or a socket.
    #[error("the server cannot go on: {0}")]
    Io(#[from] std::io::Error),
    /// The engine thread is gone.
    #[error("the engine thread ended by itself: this is a fault of brooklet's")]
    Worker,
}

/// Serves a model until `stop` says so, which is asked several times a second. Lines for a log go
/// to `log`; they never have a key, and a prompt only where [`Options::logs_prompts`] says so.
///
/// # Errors
/// The server cannot start: the model's tokenizer cannot be read, a folder cannot be made. Or the
/// system refuses threads or sockets.
pub fn serve(
    model: &Model,
    options: Options,
    listener: TcpListener,
    log: impl Fn(&str) + Send + Sync + 'static,
    stop: impl Fn() -> bool + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let (commands, orders) = channel();
    let metrics = Arc::new(Metrics::default());
    let template = ChatTemplate::of(model).map_err(|error| error.to_string());
    let mut text = Text::of(model)?;
    let mut chat_stops = Vec::new();
    if let Ok(template) = &template {
        let ends = template.ends();
        (text.ends, chat_stops) = (ends.tokens, ends.stops);
    }
    let auth = Auth::new(&options.keys);
    let texts = (options.parallel.max(1)).saturating_add(options.queue);
    let options = Options { max_texts: options.max_texts.clamp(1, texts), ..options };
    let caches = setup::caches(model, &options, &auth)?;
    let drafts = setup::drafts(model, &options)?;
    let largest = options.max_body.max(options.max_state);
    let bodies = (largest.max(BODIES) / BODY + 1).min(Semaphore::MAX_PERMITS);
    let server = Arc::new(Server {
        model: model.clone(),
        text: text.clone(),
        template,
        fingerprint: setup::fingerprint(model),
        chat_stops,
        commands,
        queue: Arc::new(Semaphore::new(texts.min(Semaphore::MAX_PERMITS))),
        bodies: Arc::new(Semaphore::new(bodies)),
        preparing: Arc::new(Semaphore::new(4)),
        states: States::new(
            options.states,
            auth.owners(),
            options.states_folder.clone(),
            metrics.clone(),
        ),
        auth,
        metrics: metrics.clone(),
        grammars: Mutex::new(VecDeque::new()),
        is_stopping: AtomicBool::new(false),
        next: AtomicU64::new(1),
        since: now(),
        log: Box::new(log),
        options,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .thread_name("brooklet-http")
        .enable_io()
        .enable_time()
        .build()?;
    listener.set_nonblocking(true)?;
    let Options { engine, parallel: most, patience, .. } = server.options.clone();
    let guesses = server.options.guesses.most;
    let (model, is_gone) = (model.clone(), Arc::new(AtomicBool::new(false)));
    let gone = Gone(is_gone.clone());
    let work = move || {
        let _gone = gone;
        let mut caches = caches.into_iter();
        let Some(first) = caches.next() else { return };
        let mut scheduler = Scheduler::new(&model, &text, &engine, most, first);
        for cache in caches {
            scheduler.add_cache(cache);
        }
        scheduler.guess(drafts, guesses);
        Worker::new(scheduler, &text, orders, metrics, patience).run();
    };
    let thread = std::thread::Builder::new().name("brooklet-engine".to_owned()).spawn(work)?;
    let is_alive = move || !is_gone.load(Ordering::Relaxed);
    let served = runtime.block_on(listen(server.clone(), listener, stop, is_alive));
    let _ = server.commands.send(Command::Leave);
    let joined = thread.join();
    runtime.shutdown_timeout(Duration::from_secs(1));
    let was_alive = served?;
    if was_alive && joined.is_ok() { Ok(()) } else { Err(ServeError::Worker) }
}

/// Tells when the thread that has it ends, however it does.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn router(server: Arc<Server>) -> Router {
    let api = Router::new()
        .route("/v1/models", get(handlers::models))
        .route("/v1/models/{name}", get(handlers::model))
        .route("/v1/completions", post(handlers::completions))
        .route("/v1/chat/completions", post(handlers::chat))
        .route("/v1/embeddings", post(handlers::embeddings))
        .route("/v1/states", get(handlers::list).post(handlers::upload))
        .route(
            "/v1/states/{id}",
            get(handlers::download).put(handlers::upload_as).delete(handlers::delete),
        )
        .route("/v1/states/{id}/fork", post(handlers::fork))
        .route("/v1/states/{id}/save", post(handlers::save))
        .route("/v1/states/{id}/load", post(handlers::load));
    Router::new()
        .merge(api)
        .merge(page::routes())
        .route("/health", get(handlers::health))
        .route("/metrics", get(handlers::metrics))
        .fallback(|| async { ApiError::not_found("there is no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        })
        .layer(from_fn_with_state(server.clone(), guard::guard))
        // Handlers read bodies themselves, within bounds of their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(server)
}

/// One of the connections that there may be.
struct Connection(Arc<Metrics>);

impl Connection {
    fn new(metrics: &Arc<Metrics>) -> Connection {
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        Connection(metrics.clone())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes connections until the server is asked to stop, or its engine thread is gone; whether it
/// was there to the end.
async fn listen(
    server: Arc<Server>,
    listener: TcpListener,
    stop: impl Fn() -> bool,
    is_alive: impl Fn() -> bool,
) -> std::io::Result<bool> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = router(server.clone());
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(server.options.connections.clamp(1, 1 << 20)));
    while !stop() && is_alive() {
        // Whoever finds no room waits in the system's queue.
        let accepted = async {
            let permit = room.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let Ok((accepted, permit)) = tokio::time::timeout(TICK, accepted).await else { continue };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(_) => {
                // No more files, say: those that are open end some time.
                tokio::time::sleep(TICK).await;
                continue;
            }
        };
        // A small piece of a text goes out at once.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE));
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        let counted = Connection::new(&server.metrics);
        tokio::spawn(async move {
            let _kept = (permit, counted);
            // A client that breaks off is no failure of ours.
            let _ = connection.await;
        });
    }
    let was_alive = is_alive();
    server.is_stopping.store(true, Ordering::Relaxed);
    drop(listener);
    (server.log)("shutting down");
    let closed = tokio::time::timeout(server.options.grace, graceful.shutdown()).await;
    if closed.is_err() {
        (server.log)("texts were cut short");
        let _ = server.commands.send(Command::Leave);
        // Their clients are told.
        let until = tokio::time::Instant::now() + Duration::from_secs(1);
        while server.metrics.connections.load(Ordering::Relaxed) > 0
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(TICK).await;
        }
    }
    Ok(was_alive)
}
