//! A snapshot: a state and what is needed to go on from it exactly, as a value, as bytes, as a
//! `.brks` file.
//!
//! Here: [`Snapshot`], and saving and loading for it and for a bare [`State`]. Not here: the bytes
//! (`state_file` of `brooklet_formats`). In f32, save, load and continue give the same bits as
//! never having stopped; f16 and int8 are smaller, at the error that README states. How the model
//! keeps its states is not the file's matter: any loads any. `tuned` begins a state from a
//! state-tuning checkpoint. Tests: `tests/state.rs`, for every
//! architecture.

#[cfg(feature = "convert")]
mod tuned;

use std::borrow::Cow;
use std::path::Path;

use brooklet_formats::atomic::{AtomicFile, NO_INPUTS, Target};
use brooklet_formats::state_file::{self, Contents, SlotValues, StateFile};
use brooklet_formats::{DType, FormatError};

use crate::model::Model;
use crate::sampler::SamplerState;
use crate::state::{KeysOrValues, State, StateLayout};
use crate::{EngineError, Result};

/// Where a sequence stands, and what the one who goes on has to know.
///
/// ```no_run
/// use brooklet::{DType, EngineOptions, Model, Session, Snapshot};
///
/// # fn main() -> Result<(), brooklet::EngineError> {
/// let model = Model::open("model.brk")?;
/// let mut session = Session::new(&model, &EngineOptions::default());
/// session.prefill(&[1, 2, 3])?;
/// session.snapshot().save("here.brks", DType::F32)?;
/// session.resume(&Snapshot::load(&model, "here.brks")?)?; // the logits are there again
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The model's memory of the sequence.
    pub state: State,
    /// The last tokens of the sequence, the newest last; at least the unread ones. Text streams
    /// need some of them to go on inside a character.
    pub tail: Vec<u32>,
    /// Tokens at the end of `tail` that the state has not read yet: one that was sampled last,
    /// usually.
    pub unread: usize,
    /// Logits after the last token that the state has read; empty where they are not known, or
    /// where tokens are unread.
    pub logits: Vec<f32>,
    /// The sampler, if it is to go on as well.
    pub sampler: Option<SamplerState>,
    /// Belongs to the program that saves.
    pub note: String,
}

impl Snapshot {
    /// A state alone.
    pub fn new(state: State) -> Snapshot {
        Snapshot {
            state,
            tail: Vec::new(),
            unread: 0,
            logits: Vec::new(),
            sampler: None,
            note: String::new(),
        }
    }

    /// The tokens that the state has not read yet.
    pub fn unread(&self) -> &[u32] {
        &self.tail[self.tail.len().saturating_sub(self.unread)..]
    }

    /// The bytes of a state file, slots stored as f32, f16 or int8.
    ///
    /// # Errors
    /// Another number format; more unread tokens than there are, or unread tokens beside logits; a
    /// state that a card has lost.
    pub fn to_bytes(&self, dtype: DType) -> Result<Vec<u8>> {
        self.state.fetch()?;
        let sampler = self.sampler.as_ref().map_or(Vec::new(), SamplerState::to_bytes);
        let contents = Contents {
            tail: &self.tail,
            unread: self.unread,
            logits: &self.logits,
            sampler: &sampler,
            note: &self.note,
            ..self.state.contents()
        };
        Ok(state_file::encode(&contents, dtype)?)
    }

    /// Reads what [`Snapshot::to_bytes`] wrote for the same model.
    ///
    /// # Errors
    /// Damaged bytes, or a state of another model.
    pub fn from_bytes(model: &Model, bytes: &[u8]) -> Result<Snapshot> {
        Snapshot::parse(model, Path::new("(memory)"), bytes)
    }

    /// Writes a state file, which appears whole or not at all. Another state file is replaced,
    /// anything else is not.
    ///
    /// # Errors
    /// As [`Snapshot::to_bytes`], or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        self.save_to(&target(path.as_ref()), dtype)
    }

    /// As [`Snapshot::save`]; the target says what else may be replaced, and what must not.
    ///
    /// # Errors
    /// As [`Snapshot::save`].
    pub fn save_to(&self, target: &Target, dtype: DType) -> Result<()> {
        write(target, &self.to_bytes(dtype)?)
    }

    /// Reads a state file of the same model.
    ///
    /// # Errors
    /// The file cannot be read or is damaged, or its state is another model's.
    pub fn load(model: &Model, path: impl AsRef<Path>) -> Result<Snapshot> {
        let path = path.as_ref();
        Snapshot::parse(model, path, &state_file::open(path)?)
    }

    fn parse(model: &Model, path: &Path, bytes: &[u8]) -> Result<Snapshot> {
        let file = StateFile::parse(path, bytes)?;
        let state = State::from_file(model, &file)?;
        let bad = |what, expected: String, found: String| {
            EngineError::File(FormatError::Field { path: path.to_owned(), what, expected, found })
        };
        let n_vocab = model.n_vocab();
        if let Some(id) = file.tail().iter().find(|&&id| id as usize >= n_vocab) {
            return Err(bad("a token of the state", format!("below {n_vocab}"), id.to_string()));
        }
        let logits = file.logits();
        if !logits.is_empty() && logits.len() != n_vocab {
            return Err(bad(
                "the number of logits",
                format!("{n_vocab} or none"),
                logits.len().to_string(),
            ));
        }
        let sampler = match file.sampler() {
            [] => None,
            bytes => Some(SamplerState::from_bytes(bytes)?),
        };
        let (tail, unread, note) = (file.tail().to_vec(), file.unread(), file.note().to_owned());
        Ok(Snapshot { state, tail, unread, logits, sampler, note })
    }
}

impl State {
    /// The bytes of a state file that holds this state alone, its slots stored as f32, f16 or int8.
    ///
    /// # Errors
    /// Another number format, or a card has lost the state.
    pub fn to_bytes(&self, dtype: DType) -> Result<Vec<u8>> {
        self.fetch()?;
        Ok(state_file::encode(&self.contents(), dtype)?)
    }

    /// The state in the bytes of a state file of the same model.
    ///
    /// # Errors
    /// Damaged bytes, or a state of another model.
    pub fn from_bytes(model: &Model, bytes: &[u8]) -> Result<State> {
        State::from_file(model, &StateFile::parse(Path::new("(memory)"), bytes)?)
    }

    /// Writes a state file that holds this state alone; it appears whole or not at all. Another
    /// state file is replaced, anything else is not.
    ///
    /// # Errors
    /// Another number format, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        write(&target(path.as_ref()), &self.to_bytes(dtype)?)
    }

    /// The state in a state file of the same model.
    ///
    /// # Errors
    /// The file cannot be read or is damaged, or its state is another model's.
    pub fn load(model: &Model, path: impl AsRef<Path>) -> Result<State> {
        let path = path.as_ref();
        State::from_file(model, &StateFile::parse(path, &state_file::open(path)?)?)
    }

    /// The state in a parsed file, after comparing model and slots; nothing is allocated before.
    fn from_file(model: &Model, file: &StateFile<'_>) -> Result<State> {
        let layout = model.state_layout();
        let other = |expected: String, found: String| {
            Err(EngineError::ForeignStateFile { file: file.path().to_owned(), expected, found })
        };
        if (file.architecture(), file.fingerprint()) != (layout.architecture(), model.fingerprint())
        {
            let name =
                |architecture, print: u64| format!("{architecture} with fingerprint {print:016x}");
            return other(
                name(layout.architecture(), model.fingerprint()),
                name(file.architecture(), file.fingerprint()),
            );
        }
        let (expected, found) = (described(layout, file.position()), file.slots());
        if expected.len() != found.len() {
            return other(format!("{} slots", expected.len()), found.len().to_string());
        }
        for ((layer, name, shape, _), theirs) in expected.iter().zip(found) {
            if (*layer, *name, shape) != (theirs.layer, theirs.name.as_str(), &theirs.shape) {
                let text = |layer, name: &str, shape| format!("layer {layer} {name} {shape:?}");
                return other(
                    text(*layer, name, shape),
                    text(theirs.layer, &theirs.name, &theirs.shape),
                );
            }
        }
        let mut state = model.new_state();
        // The tokens are as many as a slot of the file has, or more only where pages are used
        // again.
        state.begin_at(file.position())?;
        let mut values = Vec::new();
        for (i, (.., shape, paged)) in expected.iter().enumerate() {
            values.resize(shape.iter().product(), 0.0);
            file.read_slot(i, &mut values);
            match paged {
                None => state.set(i, &values),
                Some((i, part)) => state.set_keys_or_values(*i, *part, &values),
            }
        }
        Ok(state)
    }

    /// The part of a state file that is the state itself.
    fn contents(&self) -> Contents<'_> {
        let layout = self.layout();
        let slots = described(layout, self.position()).into_iter().enumerate();
        let slots = slots.map(|(i, (layer, name, shape, paged))| SlotValues {
            layer,
            name,
            shape,
            values: match paged {
                None => self.get(i),
                Some((i, part)) => Cow::Owned(self.keys_or_values(i, part)),
            },
        });
        Contents {
            architecture: self.layout().architecture(),
            fingerprint: self.fingerprint(),
            position: self.position(),
            slots: slots.collect(),
            ..Contents::default()
        }
    }
}

/// A slot of a file: its layer, name and shape; of a piece in pages its number, and which part of
/// it.
type Described = (usize, &'static str, Vec<usize>, Option<(usize, KeysOrValues)>);

/// The slots of a file: those of the state, then keys and values of the tokens that are remembered
/// one by one, if there are any.
fn described(layout: &StateLayout, position: u64) -> Vec<Described> {
    let tokens = usize::try_from(position).unwrap_or(usize::MAX);
    let slots = layout.slots().iter();
    let fixed = slots.map(|slot| (slot.layer, slot.name, slot.shape.clone(), None));
    let paged = layout.paged().iter().enumerate().filter(|(_, of)| of.n_kept(tokens) > 0);
    let paged = paged.flat_map(|(i, of)| {
        of.parts().iter().map(move |(name, part)| {
            let shape = vec![of.n_head, of.n_kept(tokens), of.d_head];
            (of.layer, *name, shape, Some((i, *part)))
        })
    });
    fixed.chain(paged).collect()
}

/// A state is made of what is in memory.
fn target(path: &Path) -> Target {
    Target::new(path, state_file::KIND, NO_INPUTS)
}

fn write(target: &Target, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(target)?;
    file.write(bytes)?;
    Ok(file.publish(&[])?)
}
