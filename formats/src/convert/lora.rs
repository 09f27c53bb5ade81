//! LoRA files: low-rank changes that are added to a model's matrices while it is converted.
//!
//! | written by | names | factor of `B A` |
//! |---|---|---|
//! | RWKV-PEFT, RWKV-LM-LoRA | `X.lora_A` `[r, in]`, `X.lora_B` `[out, r]` | the scale asked for |
//! | PEFT | `base_model.model.X.lora_A.weight`, … | scale · `lora_alpha` / `r` |
//! | web-rwkv, Ai00 | `X.lora.0` `[in, r]`, `X.lora.1` `[out, r]` | the scale asked for |
//!
//! Here `X.weight` is the matrix. A tensor with the whole name of one of the model's, as trainers
//! save those that they trained whole, stands in its place (mixed with it, where the scale is not
//! 1). Names and shapes that do not fit are errors. The files of RWKV do not tell `alpha`: their
//! scale is `alpha / r`. Not here: the sums (`checkpoint::patch`). Sources: RWKV-PEFT
//! `merge/merge.py`; peft `tuners/lora`; web-rwkv `runtime/loader.rs`. Test: `tests/lora.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::FormatError;
use crate::checkpoint::{Checkpoint, Factor, Patch, SourceTensor};

/// A LoRA file or folder, and how much of it is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// A file, or a folder of PEFT.
    pub path: PathBuf,
    /// The factor before what the file itself says.
    pub scale: f32,
}

/// Half of a low-rank change, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
    /// `A` and `B` of an embedding, whose change is `(B A)ᵀ`.
    EmbeddingA,
    EmbeddingB,
    /// `A` as web-rwkv stores it: transposed.
    TurnedA,
}

/// The matrix, without `.weight`, and the half of a low-rank change to it that a tensor of this
/// name is.
pub(super) fn half_of(name: &str) -> Option<(String, Half)> {
    let halves = [
        (".lora_A", Half::A),
        (".lora_B", Half::B),
        (".lora_embedding_A", Half::EmbeddingA),
        (".lora_embedding_B", Half::EmbeddingB),
    ];
    for (mark, half) in halves {
        if let Some((target, rest)) = name.split_once(mark)
            && ["", ".weight", ".default", ".default.weight"].contains(&rest)
        {
            return Some((target.to_owned(), half));
        }
    }
    // flash-linear-attention has `.lora.0.weight` in its models.
    let ends = [(".lora.0", Half::TurnedA), (".lora.1", Half::B)];
    ends.into_iter().find_map(|(end, half)| Some((name.strip_suffix(end)?.to_owned(), half)))
}

/// Opens the LoRA at `path`: of a folder, the adapter in it.
pub(super) fn open(path: &Path) -> Result<Checkpoint, FormatError> {
    let own = ["adapter_model.safetensors", "adapter_model.bin"].map(|name| path.join(name));
    let own = own.into_iter().find(|file| path.is_dir() && file.exists());
    Checkpoint::open(own.as_deref().unwrap_or(path))
}

/// Adds what `lora` holds to `base`.
pub(super) fn merge(
    base: &mut Checkpoint,
    lora: &Checkpoint,
    scale: f32,
) -> Result<(), FormatError> {
    let config = lora.json_beside("adapter_config.json")?;
    let config = Config { path: lora.folder().join("adapter_config.json"), value: config };
    config.check()?;
    let mut pairs: BTreeMap<String, Vec<(Half, &SourceTensor)>> = BTreeMap::new();
    let mut patches = Vec::new();
    for tensor in lora.tensors() {
        match half_of(&tensor.name) {
            Some((target, half)) => pairs.entry(target).or_default().push((half, tensor)),
            None => {
                let name = tensor.name.replace(".modules_to_save.default", "");
                let name = name.replace(".modules_to_save", "").replace(".base_layer", "");
                let target = find(base, &name).ok_or_else(|| unknown(base, lora, tensor))?;
                if target.numel() != tensor.numel() {
                    return Err(misfit(lora, tensor, target));
                }
                let (other, scale) = (tensor.clone(), f64::from(scale));
                patches.push((target.name.clone(), Patch::Mixed { other, scale }));
            }
        }
    }
    if pairs.is_empty() {
        return Err(FormatError::NotAModel {
            path: lora.path().to_owned(),
            found: "a file without any LoRA (names with lora_A and lora_B)".to_owned(),
            mend: "give the file that the LoRA training wrote",
        });
    }
    for (name, halves) in pairs {
        let (_, first) = halves[0];
        let target = find(base, &format!("{name}.weight")).or_else(|| find(base, &name));
        let target = target.ok_or_else(|| unknown(base, lora, first))?;
        let half = |wanted: &[Half]| halves.iter().find(|(half, _)| wanted.contains(half));
        let of_embedding = half(&[Half::EmbeddingA]).is_some();
        let a = half(&[Half::A, Half::TurnedA, Half::EmbeddingA]);
        let b = half(&[Half::B, Half::EmbeddingB]);
        let (Some(&(half_a, a)), Some(&(_, b))) = (a, b) else {
            let tensor =
                if a.is_none() { format!("{name}.lora_A") } else { format!("{name}.lora_B") };
            return Err(FormatError::MissingTensor { path: lora.path().to_owned(), tensor });
        };
        let factor =
            |tensor: &SourceTensor, is_turned| Factor { tensor: tensor.clone(), is_turned };
        let (left, right) = match of_embedding {
            true => (factor(a, true), factor(b, true)),
            false => (factor(b, false), factor(a, half_a == Half::TurnedA)),
        };
        let (rows, cols) = target.matrix_shape();
        let rank = left.shape().1;
        if left.shape().0 != rows || rank == 0 {
            return Err(misfit(lora, &left.tensor, target));
        }
        if right.shape() != (rank, cols) {
            return Err(misfit(lora, &right.tensor, target));
        }
        let scale = f64::from(scale) * config.factor(&name, rank)?;
        patches.push((target.name.clone(), Patch::Product { left, right, scale }));
    }
    for (name, patch) in patches {
        base.add(name, patch);
    }
    Ok(())
}

/// The tensor of `base` that a LoRA calls `name`, which may have more or less before it.
fn find<'a>(base: &'a Checkpoint, name: &str) -> Option<&'a SourceTensor> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    base.get(name).or_else(|| {
        let mut fits = base.tensors().iter().filter(|t| ends(&t.name, name) || ends(name, &t.name));
        fits.next().filter(|_| fits.next().is_none())
    })
}

fn unknown(base: &Checkpoint, lora: &Checkpoint, tensor: &SourceTensor) -> FormatError {
    FormatError::Tensor {
        path: lora.path().to_owned(),
        tensor: tensor.name.clone(),
        what: "the name",
        expected: format!("that of a tensor of {}", base.path().display()),
        found: "one that is not there (is this the model that the LoRA was trained on?)".to_owned(),
    }
}

fn misfit(lora: &Checkpoint, tensor: &SourceTensor, target: &SourceTensor) -> FormatError {
    FormatError::Tensor {
        path: lora.path().to_owned(),
        tensor: tensor.name.clone(),
        what: "the shape",
        expected: format!("one that fits {} {:?}", target.name, target.shape),
        found: format!("{:?}", tensor.shape),
    }
}

/// PEFT's `adapter_config.json`, if there is one.
struct Config {
    path: PathBuf,
    value: Option<Value>,
}

impl Config {
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.as_ref()?.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, what: &'static str, expected: &str, found: &Value) -> FormatError {
        let (path, expected) = (self.path.clone(), expected.to_owned());
        FormatError::Field { path, what, expected, found: found.to_string() }
    }

    /// An error unless `B A` is all that the adapter adds.
    fn check(&self) -> Result<(), FormatError> {
        if let Some(kind) = self.get("peft_type")
            && kind != "LORA"
        {
            return Err(self.wrong("peft_type", "LORA", kind));
        }
        for key in ["use_dora", "lora_bias", "fan_in_fan_out", "alora_invocation_tokens"] {
            if let Some(value) = self.get(key)
                && value != false
            {
                return Err(self.wrong(key, "absent or false (merge it with PEFT)", value));
            }
        }
        Ok(())
    }

    /// `lora_alpha / r` of a matrix; 1 without a configuration.
    fn factor(&self, name: &str, rank: usize) -> Result<f64, FormatError> {
        let pattern = self.get("alpha_pattern").and_then(Value::as_object);
        let mut own = pattern.into_iter().flatten().filter(|(key, _)| {
            name.strip_suffix(&***key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let own = own.next().map(|(_, alpha)| alpha);
        let Some(alpha) = own.or(self.get("lora_alpha")) else { return Ok(1.0) };
        let alpha = match alpha.as_f64().filter(|alpha| alpha.is_finite()) {
            Some(number) => number,
            None => return Err(self.wrong("lora_alpha", "a number", alpha)),
        };
        let is_root = self.get("use_rslora").is_some_and(|value| value == true);
        let rank = rank as f64;
        Ok(alpha / if is_root { rank.sqrt() } else { rank })
    }
}
