//! `EngineError`: everything that can go wrong while a model runs.
//!
//! One enum for the crate, variants by cause, fields instead of ready-made text. `Display` is one
//! lower-case sentence that says what was expected and what was found; `source` is kept where
//! another library failed first. What is wrong with bytes on disk is
//! `brooklet_formats::FormatError`, not here.

use std::error::Error;
use std::path::PathBuf;

use brooklet_formats::{DType, FormatError};

use crate::device::Device;
use crate::kernels::IsaError;

/// Result of the engine's functions.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model file cannot be read or is damaged.
    #[error(transparent)]
    File(#[from] FormatError),
    /// An architecture that this version does not run.
    #[error("{}: architecture {found:?} is not known; this version runs {known}", file.display())]
    Architecture {
        /// The file.
        file: PathBuf,
        /// The architecture that it names.
        found: String,
        /// The architectures that run.
        known: String,
    },
    /// A session without logits was asked for what follows.
    #[error("the session has no logits: it has to read something first")]
    NoLogits,
    /// A pass over several texts failed, so that none of them goes on.
    #[error("the pass over all texts failed: {why}")]
    Pass {
        /// The reason.
        why: String,
    },
    /// A request to a scheduler that names a cache which it does not have.
    #[error("prefix cache {cache}: the scheduler has {caches}")]
    NoSuchCache {
        /// Its number.
        cache: usize,
        /// How many there are, numbered from 0.
        caches: usize,
    },
    /// A folder where states of a prefix cache cannot be kept.
    #[error("{}: no prefix cache can be kept there: {why}", folder.display())]
    PrefixFolder {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        why: String,
    },
    /// A hyper-parameter that is absent or cannot be.
    #[error("{}: hyper-parameter {name}: expected {expected}, found {found}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The hyper-parameter.
        name: String,
        /// The values that it may have.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// A tensor that the architecture needs and the file lacks.
    #[error("{}: tensor {tensor} is missing", file.display())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose shape does not fit the hyper-parameters.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Layout and shape that the hyper-parameters ask for.
        expected: String,
        /// Layout and shape in the file.
        found: String,
    },
    /// A model for the sizes of whose layers no device but the processor has operations.
    #[error("{}: {part} run on the processor alone: open the model there", file.display())]
    NotListed {
        /// The file.
        file: PathBuf,
        /// The part without operations.
        part: &'static str,
    },
    /// No driver of a card on this machine.
    #[error("there is no NVIDIA driver here: install version 550 or a newer one, or use the cpu")]
    #[cfg(feature = "cuda")]
    NoDriver,
    /// A card that is not there.
    #[error("there is no card {number}: the driver sees {cards}; `brooklet devices` lists them")]
    #[cfg(feature = "cuda")]
    NoCard {
        /// Its number.
        number: usize,
        /// How many there are.
        cards: usize,
    },
    /// A card, or its driver, that failed.
    #[error("{what}: the card's driver says {reason}: {mend}")]
    #[cfg(feature = "cuda")]
    Card {
        /// During what.
        what: &'static str,
        /// Its name for what is wrong.
        reason: String,
        /// The mend.
        mend: &'static str,
    },
    /// A device that does not compute what the processor does.
    #[error(
        "{}: {device} computes other logits than this processor (token {token}: {found}, expected \
         {expected}): run the model on the processor, and report the device and its driver",
        .file.display()
    )]
    DeviceDiffers {
        /// The file.
        file: PathBuf,
        /// Where it runs.
        device: Device,
        /// The token at which they differ first, from 1.
        token: usize,
        /// A logit of the processor.
        expected: f32,
        /// The device's.
        found: f32,
    },
    /// Not enough memory on a card.
    #[error(
        "the card has {:.3} GB of free memory, expected {:.3} GB: choose a smaller model or number \
         format, fewer sequences or a smaller chunk, or use the cpu",
        *free as f64 / 1e9,
        *needed as f64 / 1e9
    )]
    #[cfg(feature = "cuda")]
    CardMemory {
        /// Bytes that are needed at once.
        needed: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// Hyper-parameters that ask for a state too large to be real.
    #[error("{}: a state of {elements} elements: expected {limit} at most", file.display())]
    StateSize {
        /// The file.
        file: PathBuf,
        /// Elements that the hyper-parameters ask for.
        elements: usize,
        /// How many there may be.
        limit: usize,
    },
    /// An instruction set that does not exist or that this processor lacks.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A forward pass or a prompt without tokens.
    #[error("no tokens: expected at least one")]
    NoTokens,
    /// A batch larger than the engine was made for.
    #[error("a forward pass of {found} {what}: this engine was made for {limit}")]
    BatchSize {
        /// Tokens, or rows of logits.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// How many fit.
        limit: usize,
    },
    /// A hidden state was asked for where no token was.
    #[error("hidden state of token {column}: the last forward pass had {limit}")]
    NoSuchColumn {
        /// The token asked for, among those of the last pass.
        column: usize,
        /// How many tokens it had.
        limit: usize,
    },
    /// A state that another model made.
    #[error(
        "the state belongs to another model: expected fingerprint {model:016x}, found {state:016x}"
    )]
    ForeignState {
        /// This model's fingerprint.
        model: u64,
        /// The state's.
        state: u64,
    },
    /// A state kept in another number format than the model was opened for.
    #[error(
        "the state is kept as {state}, the model was opened for {model}: save it and load it again"
    )]
    StateFormat {
        /// The model's choice.
        model: DType,
        /// The state's.
        state: DType,
    },
    /// A state with another window of attention than the model was opened for.
    #[error("the state is kept for {}, the model was opened for {}", window(state), window(model))]
    StateWindow {
        /// The model's choice.
        model: Option<usize>,
        /// The state's.
        state: Option<usize>,
    },
    /// A state that a card had when it failed.
    #[error("the state is lost: {reason}; go on from a saved one, or from the beginning")]
    LostState {
        /// What the card said.
        reason: String,
    },
    /// A window for a model that has no use for it.
    #[error(
        "{}: a window of {window} tokens: no layer of this model attends to every token",
        file.display()
    )]
    NoWindow {
        /// The file.
        file: PathBuf,
        /// The window that was asked for.
        window: usize,
    },
    /// A text that does not fit the model's context.
    #[error("{tokens} tokens after {position}: this model attends to {limit} at most")]
    Context {
        /// Tokens that the state has read.
        position: u64,
        /// Tokens to be read.
        tokens: usize,
        /// The most of both together.
        limit: usize,
    },
    /// An option of a horizon outside its range.
    #[error("{name}: expected {expected}, found {found}")]
    Horizon {
        /// The option.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A way back that is too long.
    #[error("cannot go back {tokens} tokens: {reach} can be undone")]
    Rollback {
        /// Tokens to go back.
        tokens: usize,
        /// The most, where the session stands.
        reach: usize,
    },
    /// A model that guesses for another with other tokens.
    #[error("a model of {draft} tokens cannot guess for one of {model}")]
    DraftVocabulary {
        /// Tokens of the model that guesses.
        draft: usize,
        /// Tokens of the model that it guesses for.
        model: usize,
    },
    /// Logits that are no distribution.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// A text that the model's tokenizer does not give back.
    #[error("the model's tokenizer changes this text at byte {at}")]
    ChangedText {
        /// The first byte that comes back as another one.
        at: usize,
    },
    /// Bytes that are no packed text.
    #[error("this is no text that brooklet has packed")]
    NoArchive,
    /// A packed text of a later version.
    #[error(
        "version {found} of packed texts is unknown to this version of brooklet, which knows {known}"
    )]
    ArchiveVersion {
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// A packed text whose bytes are not those that were written.
    #[error("the packed text is damaged")]
    DamagedArchive,
    /// A packed text of another model.
    #[error("the text was packed with the model {archive:016x}, this one is {model:016x}")]
    ForeignArchive {
        /// The model's fingerprint.
        model: u64,
        /// That of the model that packed it.
        archive: u64,
    },
    /// A packed text of a model that kept its states otherwise.
    #[error("the text was packed with states in {archive}, the model was opened for {model}")]
    ArchiveStates {
        /// The model's choice.
        model: DType,
        /// That of the model that packed it.
        archive: DType,
    },
    /// A packed text of a model that attended to more or less.
    #[error(
        "the text was packed with attention to {}, the model was opened for {}",
        window(archive),
        window(model)
    )]
    ArchiveWindow {
        /// The model's choice.
        model: Option<usize>,
        /// That of the model that packed it.
        archive: Option<usize>,
    },
    /// No memory for what a state grows by.
    #[error("no memory for {bytes} more bytes of a state")]
    NoMemory {
        /// Bytes of a page.
        bytes: usize,
    },
    /// A number format that states cannot be kept in.
    #[error("states in {found}: expected f32, f16 or int8")]
    NoStateFormat {
        /// The format that was asked for.
        found: DType,
    },
    /// States in int8 of a model without keys and values.
    #[error(
        "{}: states in int8: the model has no keys and values of attention, which alone can be \
         kept so; take f16",
        file.display()
    )]
    NoKeys {
        /// The model.
        file: PathBuf,
    },
    /// A state file that another model's state was saved to.
    #[error(
        "{}: the state belongs to another model: expected {expected}, found {found}",
        file.display()
    )]
    ForeignStateFile {
        /// The state file.
        file: PathBuf,
        /// This model: architecture and fingerprint, or its slot.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A checkpoint without tuned states.
    #[error(
        "{}: no tuned state: expected tensors blocks.N.att.time_state, found {found:?}",
        file.display()
    )]
    NotTuned {
        /// The checkpoint.
        file: PathBuf,
        /// Its first tensor.
        found: String,
    },
    /// A tuned state for an architecture that has none.
    #[error("tuned states are for rwkv5, rwkv6 and rwkv7; this model is {found}")]
    TunedArchitecture {
        /// The model's architecture.
        found: &'static str,
    },
    /// A tokenizer of a kind that this engine does not know.
    #[error(
        "unknown tokenizer kind {found:?}: \
         expected one of \"world\", \"huggingface\", \"bytes\", \"none\""
    )]
    TokenizerKind {
        /// The kind that was asked for.
        found: String,
    },
    /// Text was to be made into tokens, or tokens into text, with a model that carries no
    /// tokenizer.
    #[error("the model carries no tokenizer: give token ids, or convert it again with one")]
    NoTokenizer,
    /// A chat template that cannot be read, refuses a conversation, or exceeds its bounds.
    #[error("{}: the model's chat template, {why}", file.display())]
    ChatTemplate {
        /// The model.
        file: PathBuf,
        /// The line and what is wrong there.
        why: String,
    },
    /// A chat template that is only a name, and an unknown one.
    #[error("{}: the model's chat template is only a name, {found:?}", file.display())]
    ChatTemplateName {
        /// The model.
        file: PathBuf,
        /// The name.
        found: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// An empty prompt, and no token that could stand for it.
    #[error("the prompt is empty and the model has no token to begin with")]
    EmptyPrompt,
    /// Something that this build leaves out.
    #[error("{what} is not in this build of brooklet: build it with the cargo feature {feature:?}")]
    NotBuilt {
        /// The thing that was needed.
        what: &'static str,
        /// The feature that has it.
        feature: &'static str,
    },
    /// A World vocabulary that cannot be read.
    #[error("world vocabulary, {place}: expected {expected}, found {found}")]
    WorldVocabulary {
        /// Where: "line 7", "the header", …
        place: String,
        /// The value that should stand there.
        expected: &'static str,
        /// The value that stands there.
        found: String,
    },
    /// A `tokenizer.json` that cannot be read.
    #[error("tokenizer.json cannot be read: {source}")]
    TokenizerJson {
        /// The reader's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The tokenizer failed on this text.
    #[error("the text cannot be made into tokens: {source}")]
    Encode {
        /// The tokenizer's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A World vocabulary without a token for this byte.
    #[error(
        "the vocabulary has no token that begins with byte {byte:#04x} (byte {offset} of the text)"
    )]
    NoTokenForByte {
        /// The byte.
        byte: u8,
        /// Where it stands.
        offset: usize,
    },
    /// Bytes that are no UTF-8 were given to a tokenizer that has no tokens for them.
    #[error(
        "the text is not UTF-8 (byte {offset} is {byte:#04x}), \
         and the vocabulary has no token for that byte alone"
    )]
    NotUtf8 {
        /// The first bad byte.
        byte: u8,
        /// Where it stands.
        offset: usize,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {id} is outside the vocabulary of {n_vocab} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary: ids are `0..n_vocab`, and not every id need be in use.
        n_vocab: usize,
    },
    /// A sampler option outside its range.
    #[error("sampler option {name}: expected {expected}, found {found}")]
    SamplerOption {
        /// The option's name, as in `SamplerOptions`.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value that was given.
        found: String,
    },
    /// A text that has to be a single token, or inside one, and is not.
    #[error("no token {relation} {text:?} (a text of {tokens} tokens)")]
    NotOneToken {
        /// The text.
        text: String,
        /// Its relation to the token that is missing: "is" or "contains".
        relation: &'static str,
        /// Its length in tokens; 0 where there are none for it.
        tokens: usize,
    },
    /// A grammar that is none, asks for too much, or lets none of the model's tokens follow.
    #[error("grammar: {reason}")]
    Grammar {
        /// What is wrong with it.
        reason: String,
    },
    /// A step of a sampler that there is not.
    #[error("sampler step {found:?} is not known; there are {known}")]
    SamplerStep {
        /// The name that was given.
        found: String,
        /// The names that there are.
        known: String,
    },
    /// A saved sampler state that cannot be taken over.
    #[error("saved sampler state: expected {expected}, found {found}")]
    SamplerState {
        /// The value that should stand there.
        expected: String,
        /// The value that stands there.
        found: String,
    },
}

/// A window in words.
fn window(window: &Option<usize>) -> String {
    match window {
        None => "attention to every token".to_owned(),
        Some(tokens) => format!("attention to the last {tokens} tokens"),
    }
}
