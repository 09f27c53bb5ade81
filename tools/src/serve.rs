//! `brooklet serve`: a model for many, over HTTP.
//!
//! Arguments, and the socket; the server is `brooklet_serve`. Test: `tests/cli/serve.rs`.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use brooklet::Text;
use brooklet_serve::{Keys, Options, PrefixOptions, ServeError, serve};

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::guesses::GuessArgs;
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::sampling::SamplerArgs;
use crate::{demo, input, output, units};

/// Serves a model over HTTP, as OpenAI's clients ask for it, with a page to talk to it.
///
/// Open http://127.0.0.1:8080 in a browser, or give http://127.0.0.1:8080/v1 to a client as its
/// base address. Several texts are read and written at a time, each pass reads the weights once for
/// all of them, and what prompts begin with alike is read once. Guesses (--lookup, --draft) are
/// made for a text that is alone, by the first who guesses anything. The sampling options stand for
/// what a request does not say. Ctrl-C ends the server when the texts at hand are written; a second
/// one at once.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet serve model.brk
  brooklet serve model.brk --parallel 16 --prefix-cache 1GB:cache --states states
  brooklet serve model.brk --host 0.0.0.0 --key-file keys.txt
  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once upon a time\"}'")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    /// [default: the demo model]
    model: Option<PathBuf>,
    /// The address to listen at; 0.0.0.0 lets other machines in: give keys then
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one, which is shown
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// The model's name in answers [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Let clients in that have one of the keys in this file, one in each line; what is kept for
    /// one key is never seen by another
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Answer to this name, too, where there are no keys. May be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Texts that are read and written at a time; each takes a state
    #[arg(long, value_name = "K", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Texts that wait beside them; whoever comes then is told to come again
    #[arg(long, value_name = "K", default_value_t = 256)]
    queue: u16,
    /// Tokens of a text, where a request does not say
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 1024)]
    n: usize,
    /// Tokens that a request may ask for
    #[arg(long, value_name = "N", default_value_t = 16384)]
    max_tokens: usize,
    /// Tokens that a prompt may have
    #[arg(long, value_name = "N", default_value_t = 131_072)]
    max_prompt: usize,
    /// Memory for what prompts begin with alike, such as 256MB (0 keeps nothing), and a folder
    /// where as much is kept for the next time
    #[arg(long, value_name = "BYTES[:DIR]", default_value = "256MB", value_parser = prefix)]
    prefix_cache: Prefix,
    /// Memory for states that clients keep
    #[arg(long, value_name = "BYTES", default_value = "256MB", value_parser = bytes)]
    state_memory: usize,
    /// Let clients save states in this folder, by their ids
    #[arg(long, value_name = "DIR")]
    states: Option<PathBuf>,
    /// Seconds that a request may take, its wait included
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u32).range(1..=86400))]
    timeout: u32,
    /// Seconds that texts may go on after Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u16,
    /// Bytes that a request's body may have
    #[arg(long, value_name = "BYTES", default_value = "16MB", value_parser = bytes)]
    max_body: usize,
    /// Write prompts into the log, too
    #[arg(long)]
    log_prompts: bool,
    #[command(flatten)]
    guesses: GuessArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
}

/// `BYTES[:DIR]`.
#[derive(Clone, Debug)]
struct Prefix(PrefixOptions);

fn prefix(text: &str) -> Result<Prefix, String> {
    let (size, folder) = match text.split_once(':') {
        Some((_, "")) => return Err("expected a folder behind the colon".to_owned()),
        Some((size, folder)) => (size, Some(PathBuf::from(folder))),
        None => (text, None),
    };
    Ok(Prefix(PrefixOptions { bytes: bytes(size)?, folder }))
}

/// A number of bytes, such as 256MB.
fn bytes(text: &str) -> Result<usize, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[number.len()..].to_ascii_uppercase()[..] {
        "" | "B" => 1,
        "K" | "KB" => 1000,
        "KIB" => 1 << 10,
        "M" | "MB" => 1_000_000,
        "MIB" => 1 << 20,
        "G" | "GB" => 1_000_000_000,
        "GIB" => 1 << 30,
        _ => return Err("expected bytes, such as 256MB or 1GiB".to_owned()),
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let bytes = number.and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| "expected bytes, such as 256MB or 1GiB".to_owned())
}

/// The keys of a file.
fn keys(path: &Path) -> Result<Keys> {
    let lines = input::lines(path)?.into_iter().map(|line| line.trim().to_owned());
    let keys = Keys::new(lines.filter(|line| !line.is_empty() && !line.starts_with('#')));
    if keys.is_empty() {
        return Err(Failure::usage(
            format!("{}: no key is in it", path.display()),
            "write one in each line, or leave --key-file away",
        ));
    }
    Ok(keys)
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = demo::model_or_demo(args.model.as_deref())?;
    let source = Source::new(&path, &args.checkpoint)?;
    let keys = args.key_file.as_deref().map_or(Ok(Keys::default()), keys)?;
    // A port that is taken shall be known before a checkpoint is converted.
    let listener = listen(&args.host, args.port)?;
    let address = listener.local_addr().map_err(Failure::io("listen at", &args.host))?;
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let stem = if demo::is(&path) { "demo".to_owned() } else { stem.into_owned() };
    let name = args.name.clone().unwrap_or(stem);
    let text = Text::of(&model)?;
    if args.sampler.grammar(&text)?.is_some() {
        return Err(Failure::usage(
            "a grammar for all requests",
            "leave it away: a request says its own (response_format, regex, grammar)",
        ));
    }
    let mut options = Options::new(name);
    options.parallel = usize::from(args.parallel);
    let rows = options.parallel.max(args.guesses.rows());
    options.engine = args.engine.options(&model, rows)?;
    options.guesses = args.guesses.options(&args.engine, quiet)?;
    options.queue = usize::from(args.queue);
    options.sampler = args.sampler.options(&text)?;
    (options.tokens, options.max_tokens) = (args.n.min(args.max_tokens), args.max_tokens);
    options.max_prompt = args.max_prompt;
    options.max_body = args.max_body;
    options.timeout = Duration::from_secs(u64::from(args.timeout));
    options.grace = Duration::from_secs(u64::from(args.grace));
    options.prefix = args.prefix_cache.0.clone();
    options.states = args.state_memory;
    options.states_folder.clone_from(&args.states);
    let is_open = keys.is_empty() && !address.ip().is_loopback();
    (options.keys, options.hosts) = (keys, args.allow_host.clone());
    options.logs_prompts = args.log_prompts;
    if is_open {
        output::note("brooklet: note: everybody who reaches this address is let in: --key-file");
    }
    if !quiet {
        let states = (model.state_layout().bytes() * options.parallel) as u64;
        let states = units::bytes(states);
        output::note(&format!(
            "serving {} at http://{address}/ ({states} of states)",
            options.name
        ));
    }
    raise_files();
    let watch = Watch::new();
    let log = move |line: &str| {
        if !quiet {
            output::note(line);
        }
    };
    serve(&model, options, listener, log, move || watch.requested()).map_err(|error| match error {
        ServeError::Engine(error) => error.into(),
        error => Failure::new(error),
    })
}

fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let failed = |error: std::io::Error| {
        let what = format!("cannot listen at {host}, port {port}: {error}");
        Failure::with(what, "give another --host or --port; port 0 takes a free one")
    };
    let addresses = (host.trim_start_matches('[').trim_end_matches(']'), port).to_socket_addrs();
    let addresses: Vec<_> = addresses.map_err(failed)?.collect();
    TcpListener::bind(&addresses[..]).map_err(failed)
}

/// A connection is an open file: as many as the system lets this program have.
#[cfg(unix)]
fn raise_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is refused, fewer connections are open at a time.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(not(unix))]
fn raise_files() {}
