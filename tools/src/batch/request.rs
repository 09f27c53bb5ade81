//! The requests: JSON lines, read while others are answered.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use brooklet::Grammar;
use brooklet::generate::Limits;
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::schedule::Request;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::words::{Reader, Words};
use crate::failure::{Failure, Result};
use crate::input;

/// Bytes of a request at most.
const MAX_LINE: u64 = 64 << 20;

/// Whoever waits for a request looks so often whether it is to go on.
const TICK: Duration = Duration::from_millis(100);

/// The requests of a file, as they come.
pub(super) struct Requests {
    lines: Receiver<std::io::Result<Vec<u8>>>,
    path: PathBuf,
    number: usize,
    is_over: bool,
    expected: u64,
}

/// A line of the file.
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    pub(super) id: Option<Value>,
    /// A hash of it.
    pub(super) print: String,
    asked: Result<Asked, String>,
}

/// A request as it is written.
#[derive(Deserialize)]
struct Asked {
    id: Option<Value>,
    #[serde(flatten)]
    words: Words,
    tokens: Option<usize>,
    stop: Option<Stop>,
    seed: Option<u64>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    /// A name that is misspelled would be an option that is not heeded.
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// One string or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// A request as the engine takes it, but for what the command line says.
pub(super) struct Ready {
    pub(super) request: Request,
    pub(super) tokens: Option<usize>,
    /// Strings that end it whatever else does: of an answer.
    pub(super) ends: Vec<String>,
}

impl Requests {
    /// Begins to read, up to `ahead` requests ahead of their time.
    pub(super) fn open(path: &Path, ahead: usize) -> Result<Requests> {
        let failed = |error| Failure::io("read", path.display())(error);
        let is_stream = path == Path::new("-");
        let file = if is_stream {
            None
        } else {
            Some(input::open(path, File::options().read(true)).map_err(failed)?)
        };
        let expected = match &file {
            Some(file) if file.metadata().is_ok_and(|found| found.is_file()) => {
                let lines = BufReader::new(File::open(path).map_err(failed)?).split(b'\n');
                lines.map_while(Result::ok).filter(|line| !line.trim_ascii().is_empty()).count()
            }
            _ => 0,
        };
        let (send, lines) = sync_channel(ahead.max(1));
        let read = move || {
            let mut reader: Box<dyn BufRead> = match file {
                Some(file) => Box::new(BufReader::new(file)),
                None => Box::new(std::io::stdin().lock()),
            };
            loop {
                let mut line = Vec::new();
                let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line);
                let is_over = matches!(read, Ok(0) | Err(_)) || line.len() as u64 > MAX_LINE;
                // Nobody listens any more, or nothing follows.
                if send.send(read.map(|_| line)).is_err() || is_over {
                    break;
                }
            }
        };
        std::thread::Builder::new().spawn(read).map_err(Failure::io("start", "a thread"))?;
        let path = path.to_owned();
        Ok(Requests { lines, path, number: 0, is_over: false, expected: expected as u64 })
    }

    /// How many there are, if that is known.
    pub(super) fn expected(&self) -> u64 {
        self.expected
    }

    /// Whether the last one has come.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next request, if it is there, or comes within [`TICK`] if somebody waits for it.
    pub(super) fn next(&mut self, waits: bool) -> Result<Option<Line>> {
        while !self.is_over {
            let line = if waits {
                self.lines.recv_timeout(TICK).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                })
            } else {
                self.lines.try_recv()
            };
            let bytes = match line {
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => Vec::new(),
                Ok(bytes) => bytes.map_err(Failure::io("read", self.path.display()))?,
            };
            if bytes.is_empty() {
                self.is_over = true;
                break;
            }
            self.number += 1;
            if bytes.len() as u64 > MAX_LINE {
                return Err(Failure::new(format!(
                    "{}: line {} has more than 64 MB",
                    self.path.display(),
                    self.number
                )));
            }
            let line = bytes.trim_ascii();
            if !line.is_empty() {
                return Ok(Some(Line::new(self.number, line)));
            }
        }
        Ok(None)
    }
}

impl Line {
    fn new(number: usize, line: &[u8]) -> Line {
        let print = format!("{:016x}", xxh3_64(line));
        let asked = serde_json::from_slice::<Asked>(line);
        let mut asked = asked.map_err(|error| format!("the request: {error}"));
        let id = match &mut asked {
            Ok(asked) => asked.id.take(),
            // A request that is wrong may have a name all the same.
            Err(_) => serde_json::from_slice::<Value>(line)
                .ok()
                .and_then(|value| value.get("id").cloned()),
        };
        Line { number, id, print, asked }
    }

    /// The request, with these options where it says nothing, and a grammar; or its mistake.
    pub(super) fn request(
        &self,
        (mut options, grammar): (SamplerOptions, Option<Grammar>),
        reader: &Reader<'_>,
        n_vocab: usize,
    ) -> Result<Ready, String> {
        let asked = self.asked.as_ref().map_err(Clone::clone)?;
        if let Some(name) = asked.others.keys().next() {
            return Err(format!("the request: the field {name:?} is not known"));
        }
        // Texts without a seed of their own shall differ.
        let own = options.seed.map(|seed| seed.wrapping_add(self.number as u64 - 1));
        options.seed = asked.seed.or(own);
        options.temperature = asked.temperature.unwrap_or(options.temperature);
        options.top_k = asked.top_k.unwrap_or(options.top_k);
        options.top_p = asked.top_p.unwrap_or(options.top_p);
        options.min_p = asked.min_p.unwrap_or(options.min_p);
        let words = |error: brooklet::EngineError| error.to_string();
        let mut sampler = Sampler::new(options, n_vocab).map_err(words)?;
        let begun = reader.begin(&asked.words)?;
        sampler.constrain(begun.grammar.or(grammar));
        let mut request = Request::new(begun.prompt, sampler, Limits::default());
        request.start = begun.start;
        request.stops = match &asked.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
        };
        Ok(Ready { request, tokens: asked.tokens, ends: begun.stops })
    }
}
