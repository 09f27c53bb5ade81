//! How a server is set up.

use std::path::PathBuf;
use std::time::Duration;

use brooklet::sampler::SamplerOptions;
use brooklet::{EngineOptions, Model};

/// How a server is set up. Everything has a default that suits one machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The model's name in answers.
    pub name: String,
    /// The engine.
    pub engine: EngineOptions,
    /// Who guesses what follows a text that is alone.
    pub guesses: GuessOptions,
    /// Texts that are read and written at a time; each takes a state.
    pub parallel: usize,
    /// Texts that wait beside them; a request that finds no room is told to come again.
    pub queue: usize,
    /// What requests do not say of sampling.
    pub sampler: SamplerOptions,
    /// Tokens of a text, where a request does not say.
    pub tokens: usize,
    /// Tokens of a text at most.
    pub max_tokens: usize,
    /// Tokens of a prompt at most.
    pub max_prompt: usize,
    /// Texts of a request at most: prompts times `n`.
    pub max_texts: usize,
    /// Bytes of a request's body at most; uploaded states may have `max_state`.
    pub max_body: usize,
    /// Bytes of an uploaded state at most.
    pub max_state: usize,
    /// Connections at a time.
    pub connections: usize,
    /// How long a request may take, its wait included.
    pub timeout: Duration,
    /// How long a client may leave its answer unread.
    pub patience: Duration,
    /// How long texts may go on after the server was asked to end.
    pub grace: Duration,
    /// What prompts begin with alike.
    pub prefix: PrefixOptions,
    /// Memory for states that clients keep, of all keys together, in bytes.
    pub states: usize,
    /// The folder where states may be saved.
    pub states_folder: Option<PathBuf>,
    /// Keys; without any, everybody is let in.
    pub keys: Keys,
    /// Names that the server answers to, beside those of this machine: others in a `Host` header
    /// are refused where there are no keys, so that no foreign page can ask through a browser.
    pub hosts: Vec<String>,
    /// Whether prompts stand in the log.
    pub logs_prompts: bool,
}

/// Guesses of what follows a text while it is alone: the same text, sooner. The first of them that
/// guesses anything is heard. By default there are none.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct GuessOptions {
    /// That what followed the last tokens before follows again.
    pub lookup: bool,
    /// Smaller models with the same vocabulary.
    pub drafts: Vec<Model>,
    /// Guesses of a pass at most; the engine gives logits for one more at once
    /// ([`EngineOptions::logits`]), or fewer are made.
    pub most: usize,
}

impl std::fmt::Debug for GuessOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let GuessOptions { lookup, drafts, most } = self;
        write!(f, "lookup {lookup}, {} models, {most} at most", drafts.len())
    }
}

/// The prefix cache.
#[derive(Clone, Debug)]
pub struct PrefixOptions {
    /// Memory, of all keys together, in bytes.
    pub bytes: usize,
    /// A folder for the next process, which takes as many bytes.
    pub folder: Option<PathBuf>,
}

/// Keys that let clients in.
#[derive(Clone, Default)]
pub struct Keys(pub(crate) Vec<String>);

impl Keys {
    /// These keys.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Keys {
        let mut all: Vec<String> = Vec::new();
        for key in keys {
            if !all.contains(&key) {
                all.push(key);
            }
        }
        Keys(all)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// A key is a secret.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Options {
    /// The defaults for a model of that name.
    pub fn new(name: impl Into<String>) -> Options {
        Options {
            name: name.into(),
            engine: EngineOptions::new(),
            guesses: GuessOptions::default(),
            parallel: 8,
            queue: 256,
            sampler: SamplerOptions::new().temperature(0.8).top_p(0.9),
            tokens: 1024,
            max_tokens: 16384,
            max_prompt: 131_072,
            max_texts: 32,
            max_body: 16 << 20,
            max_state: 256 << 20,
            connections: 10_240,
            timeout: Duration::from_secs(600),
            patience: Duration::from_secs(20),
            grace: Duration::from_secs(10),
            prefix: PrefixOptions { bytes: 256 << 20, folder: None },
            states: 256 << 20,
            states_folder: None,
            keys: Keys::default(),
            hosts: Vec::new(),
            logs_prompts: false,
        }
    }
}
