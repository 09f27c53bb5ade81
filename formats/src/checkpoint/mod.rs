//! Checkpoints as their authors publish them: names, shapes, and rows decoded to f32.
//!
//! | module | reads |
//! |---|---|
//! | `sniff` | the first bytes of a file: which of these it is, or what else |
//! | `safetensors` | `.safetensors` |
//! | `torch_zip`, `torch_legacy` | PyTorch's `.pth`, `.pt`, `.bin`: today's archive, the older one |
//! | `pickle`, `torch_table` | the pickle in them, and the model in the pickle |
//! | `gguf`, `ggml_blocks`, `ggml_grids` | llama.cpp's GGUF: the header, and the quantized blocks |
//! | `rwkvcpp` | rwkv.cpp's `.bin` |
//! | `folder`, `beside` | folders and split files: which are the weights; configuration, tokenizer |
//! | `dialects` | safetensors of projects that turn tensors |
//! | `quantized`, `scaled` | weights whose codes and scales lie in several tensors |
//! | `names` | names without the words that wrappers put before them |
//! | `tensor`, `source`, `dtype`, `decode` | tensor bytes: where they are, reading, decoding |
//! | `imatrix` | llama.cpp's importance of columns, which is no checkpoint and stands beside one |
//! | `patch` | what is added to rows as they are read |
//!
//! Each format module turns a header into one table and is done; bytes are read in one place
//! (`tensor`), the rows asked for and nothing more. Every file is taken as hostile. Not here: which
//! architecture the names mean, and conversion. Test: in each module, and `tests` over real files.

mod beside;
mod decode;
mod dialects;
mod dtype;
mod folder;
mod ggml_blocks;
mod ggml_grids;
mod gguf;
mod imatrix;
mod kind;
mod meta;
mod names;
mod patch;
mod pickle;
mod quantized;
mod rwkvcpp;
mod safetensors;
mod scaled;
mod sniff;
mod source;
mod table;
mod tensor;
mod torch_legacy;
mod torch_table;
mod torch_zip;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub(crate) use self::beside::without_mark;
pub use self::dtype::SourceDType;
pub use self::imatrix::Imatrix;
pub use self::kind::CheckpointKind;
pub use self::meta::MetaValue;
pub(crate) use self::patch::{Factor, Patch};
pub use self::tensor::SourceTensor;
pub(crate) use self::torch_table::BESIDE;

use self::beside::{Beside, Config};
use self::folder::Weights;
use self::sniff::Magic;
use self::source::SourceFile;
use self::table::Table;
use crate::FormatError;
use crate::atomic::folder_of;

/// An opened checkpoint: the table of its tensors and the texts beside them. Tensor bytes stay on
/// disk until they are asked for.
///
/// ```no_run
/// use brooklet_formats::checkpoint::Checkpoint;
/// let checkpoint = Checkpoint::open("rwkv7.pth".as_ref())?;
/// let mut rows = Vec::new();
/// checkpoint.read_rows("emb.weight", 0..16, &mut rows)?;
/// # Ok::<_, brooklet_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    kind: CheckpointKind,
    /// The path that was opened; names the checkpoint in errors.
    path: PathBuf,
    files: Vec<PathBuf>,
    tensors: Vec<SourceTensor>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, MetaValue>,
    beside: Beside,
    /// By the tensor that they change.
    patches: HashMap<String, Vec<Patch>>,
}

impl Checkpoint {
    /// Opens a weight file, a folder, or the `config.json` or shard index of a folder; of a split
    /// file, any part. The kind is told from content. Reads headers and the texts beside them, no
    /// tensor.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Self::open_as(path, None)
    }

    /// [`open`](Self::open) with this file in the place of `config.json`.
    pub fn open_as(path: &Path, config: Option<&Path>) -> Result<Self, FormatError> {
        let opened = Opened { path, config };
        let found = fs::metadata(path).map_err(FormatError::io("open", path))?;
        if found.is_dir() {
            return opened.folder(path);
        }
        let file = SourceFile::open(path)?;
        let magic = sniff::sniff(&file)?;
        if magic != Magic::Json {
            return opened.weights(folder::of_file(path)?);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "config.json" || name == "params.json" {
            opened.folder(folder_of(path))
        } else if name.ends_with(".index.json") {
            opened.weights(Weights::Sharded(path.to_owned()))
        } else {
            Err(FormatError::NotAModel {
                path: path.to_owned(),
                found: "a JSON file".to_owned(),
                mend: "give its folder, or the weight file in it",
            })
        }
    }

    fn assemble(
        opened: &Opened<'_>,
        mut kind: CheckpointKind,
        files: Vec<PathBuf>,
        table: Table,
    ) -> Result<Self, FormatError> {
        let Opened { path: opened, config } = *opened;
        let Table { mut tensors, metadata } = table;
        names::unwrap(&mut tensors);
        if kind == CheckpointKind::Safetensors {
            dialects::undo(&mut tensors, &metadata, files.first().map(|file| &**file));
        }
        if tensors.is_empty() {
            return Err(FormatError::NotAModel {
                path: opened.to_owned(),
                found: "a checkpoint with no tensors".to_owned(),
                mend: "it must hold the weights of a model",
            });
        }
        index(opened, &tensors)?;
        let own_config = matches!(kind, CheckpointKind::Gguf | CheckpointKind::RwkvCpp);
        let folder = files.first().map_or(Path::new(""), |file| folder_of(file));
        let is_mistral = files.first().and_then(|file| file.file_name()?.to_str());
        let is_mistral = is_mistral.is_some_and(|name| name.starts_with("consolidated"));
        let config = match config {
            Some(path) => Config::At(path),
            None if own_config => Config::Inside,
            None if is_mistral => Config::Mistral,
            None => Config::Beside,
        };
        let mut beside = beside::beside(folder, config)?;
        if let Some(config) = &beside.config {
            if config.get("model_type").is_some() || config.get("architectures").is_some() {
                kind = CheckpointKind::HuggingFace;
            } else if config.get("ssm_cfg").is_some() {
                kind = CheckpointKind::StateSpaces;
            }
        }
        if !own_config
            && let Some(how) = quantized::put_together(&mut tensors, beside.config.as_ref())?
        {
            beside.notes.push(format!(
                "the weights are stored as {how} with scales: the checkpoint they were made from, \
                 where there is one, loses less"
            ));
        }
        let by_name = index(opened, &tensors)?;
        let (path, patches) = (opened.to_owned(), HashMap::new());
        Ok(Self { kind, path, files, tensors, by_name, metadata, beside, patches })
    }

    /// The kind of checkpoint.
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The weight files, in the order of the shards' names.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Every file that belongs to the checkpoint, whether it has been read or not, and maybe some
    /// that are not there: what an output must not be written onto.
    pub fn inputs(&self) -> Vec<PathBuf> {
        folder::inputs(&self.path, &self.files)
    }

    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&SourceTensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// Reads rows of a tensor, seen as the matrix `[shape[0], product of the rest]` (a vector has
    /// rows of one element), as f32 and appends them to `out`. Memory: `out`, and about a megabyte.
    ///
    /// Fails when the tensor is missing or holds integers, when `rows` is out of range, when the
    /// file cannot be read.
    pub fn read_rows(
        &self,
        name: &str,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        let Some(tensor) = self.get(name) else {
            let (path, tensor) = (self.path.clone(), name.to_owned());
            return Err(FormatError::MissingTensor { path, tensor });
        };
        let start = out.len();
        tensor.read_rows(rows.clone(), out)?;
        for patch in self.patches.get(name).into_iter().flatten() {
            patch.apply(rows.clone(), tensor.matrix_shape().1, &mut out[start..])?;
        }
        Ok(())
    }

    /// Values of a line of the tensor, as [`Checkpoint::read_lines`] counts them: a row; where its
    /// rows are matrices that lie as they are read, a row of these.
    pub(crate) fn line_len(&self, tensor: &SourceTensor) -> usize {
        match tensor.shape.last() {
            Some(&last) if tensor.is_in_order() && !self.patches.contains_key(&tensor.name) => {
                last.max(1)
            }
            _ => tensor.matrix_shape().1,
        }
    }

    /// Appends lines of a tensor ([`Checkpoint::line_len`]) to `out`. Fails as
    /// [`read_rows`](Self::read_rows).
    pub(crate) fn read_lines(
        &self,
        name: &str,
        lines: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        match self.get(name) {
            Some(tensor) if self.line_len(tensor) != tensor.matrix_shape().1 => {
                tensor.read_lines(lines, self.line_len(tensor), out)
            }
            _ => self.read_rows(name, lines, out),
        }
    }

    /// Changes a tensor from now on, after what has changed it before.
    pub(crate) fn add(&mut self, name: String, patch: Patch) {
        self.patches.entry(name).or_default().push(patch);
    }

    /// Takes the model for one of this `model_type`, whatever its `config.json` says.
    pub(crate) fn assume(&mut self, model_type: &str) {
        let config = self.beside.config.get_or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(config) = config {
            config.insert("model_type".to_owned(), model_type.into());
        }
    }

    /// A JSON file of that name beside the weights.
    pub(crate) fn json_beside(&self, name: &str) -> Result<Option<Value>, FormatError> {
        beside::read_json(&self.folder().join(name))
    }

    /// The folder of the weights.
    pub(crate) fn folder(&self) -> &Path {
        self.files.first().map_or(Path::new("."), |file| folder_of(file))
    }

    /// The whole tensor as f32, row-major. Fails as [`read_rows`](Self::read_rows).
    pub fn read(&self, name: &str) -> Result<Vec<f32>, FormatError> {
        let mut out = Vec::new();
        let rows = self.get(name).map_or(0, |tensor| tensor.matrix_shape().0);
        self.read_rows(name, 0..rows, &mut out)?;
        Ok(out)
    }

    /// The `config.json` beside the weights. Python's bare `Infinity` and `NaN` stand as
    /// `{"__float__": "Infinity"}`, as newer versions of transformers write them.
    pub fn config(&self) -> Option<&Value> {
        self.beside.config.as_ref()
    }

    /// GGUF's key-values; rwkv.cpp's header fields as `rwkv.cpp.version`, `.n_vocab`, `.n_embed`,
    /// `.n_layer`, `.data_type`; safetensors' `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, MetaValue> {
        &self.metadata
    }

    /// The `generation_config.json` beside the weights.
    pub fn generation_config(&self) -> Option<&Value> {
        self.beside.generation.as_ref()
    }

    /// Files beside the weights that were left alone, and why.
    pub fn notes(&self) -> &[String] {
        &self.beside.notes
    }

    /// The bytes of the `tokenizer.json` beside the weights.
    pub fn tokenizer_json(&self) -> Option<Vec<u8>> {
        self.beside.tokenizer_json.clone()
    }

    /// The bytes of the `tiktoken.model` beside the weights, where there is no `tokenizer.json`,
    /// and the `tokenizer_config.json` that names its special tokens.
    pub(crate) fn tiktoken(&self) -> Option<(&[u8], Option<&Value>)> {
        let file = self.beside.tiktoken.as_deref()?;
        Some((file, self.beside.tokenizer_config.as_ref()))
    }

    /// The chat template (Jinja): of the file itself, else of `chat_template.jinja` or
    /// `tokenizer_config.json` beside the weights.
    pub fn chat_template(&self) -> Option<String> {
        let own = self.metadata.get("tokenizer.chat_template").and_then(MetaValue::as_str);
        own.map(str::to_owned).or_else(|| self.beside.chat_template.clone())
    }
}

/// A path to open, and the file in the place of its `config.json`.
struct Opened<'a> {
    path: &'a Path,
    config: Option<&'a Path>,
}

impl Opened<'_> {
    fn folder(&self, folder: &Path) -> Result<Checkpoint, FormatError> {
        self.weights(folder::weights(&folder::of_cache(folder)?)?)
    }

    fn weights(&self, weights: Weights) -> Result<Checkpoint, FormatError> {
        match weights {
            Weights::Sharded(index) => self.shards(&index),
            Weights::Parts(parts) => self.parts(parts),
            Weights::One(path) => {
                let file = SourceFile::open(&path)?;
                let (kind, table) = read_table(&file, sniff::sniff(&file)?)?;
                gguf::check_parts(&file, &table, 1)?;
                Checkpoint::assemble(self, kind, vec![path], table)
            }
        }
    }

    /// All tensors of all parts; key-values are the first part's.
    fn parts(&self, parts: Vec<PathBuf>) -> Result<Checkpoint, FormatError> {
        let mut all = Table::default();
        let mut kind = CheckpointKind::Safetensors;
        for (i, path) in parts.iter().enumerate() {
            let file = SourceFile::open(path)?;
            let (part_kind, mut table) = read_table(&file, sniff::sniff(&file)?)?;
            gguf::check_parts(&file, &table, parts.len())?;
            all.tensors.append(&mut table.tensors);
            if i == 0 {
                (kind, all.metadata) = (part_kind, table.metadata);
            } else if kind != part_kind {
                return Err(file.field("the part", format_args!("a {kind} file"), part_kind));
            }
        }
        gguf::check_total(self.path, &all)?;
        Checkpoint::assemble(self, kind, parts, all)
    }

    fn shards(&self, index: &Path) -> Result<Checkpoint, FormatError> {
        let mut all = Table::default();
        let mut files = Vec::new();
        let mut kind = CheckpointKind::Safetensors;
        for (path, names) in folder::shards(index)? {
            let file = SourceFile::open(&path)?;
            let (shard_kind, mut table) = read_table(&file, sniff::sniff(&file)?)?;
            kind = shard_kind;
            // The index decides which tensors are the model's; a shard may hold more, never less.
            let mut found: HashMap<_, _> =
                table.tensors.drain(..).map(|t| (t.name.clone(), t)).collect();
            for tensor in names {
                match found.remove(&tensor) {
                    Some(entry) => all.tensors.push(entry),
                    None => return Err(FormatError::MissingTensor { path, tensor }),
                }
            }
            all.metadata.append(&mut table.metadata);
            files.push(path);
        }
        Checkpoint::assemble(self, kind, files, all)
    }
}

/// Tensors by their names, each of which must be there once.
fn index(path: &Path, tensors: &[SourceTensor]) -> Result<HashMap<String, usize>, FormatError> {
    let mut by_name = HashMap::with_capacity(tensors.len());
    for (i, tensor) in tensors.iter().enumerate() {
        if by_name.insert(tensor.name.clone(), i).is_some() {
            return Err(FormatError::Tensor {
                path: path.to_owned(),
                tensor: tensor.name.clone(),
                what: "its name",
                expected: "in the file once".to_owned(),
                found: "several times".to_owned(),
            });
        }
    }
    Ok(by_name)
}

/// Reads the header of a weight file.
fn read_table(
    file: &Arc<SourceFile>,
    magic: Magic,
) -> Result<(CheckpointKind, Table), FormatError> {
    match magic {
        Magic::Safetensors => Ok((CheckpointKind::Safetensors, safetensors::read(file)?)),
        Magic::Zip => Ok((CheckpointKind::Pickle, torch_zip::read(file)?)),
        Magic::LegacyTorch => Ok((CheckpointKind::Pickle, torch_legacy::read(file)?)),
        Magic::Gguf => Ok((CheckpointKind::Gguf, gguf::read(file)?)),
        Magic::RwkvCpp => Ok((CheckpointKind::RwkvCpp, rwkvcpp::read(file)?)),
        Magic::Json => Err(file.field("the weights", "a weight file", "JSON")),
    }
}
