//! Checkpoints that are something else than a model as it was trained: named for what they are,
//! with the mend.
//!
//! Here: adapters, tuned states, files that another program converted or quantized for itself,
//! models of architectures that are none of ours. Without this they would be taken for damaged
//! models, or for others. Sources: the `rwkv` package `model.py`; transformers
//! `quantization_config`; mlx-lm `utils.py`; Megatron-LM `checkpointing.py`; peft. Test:
//! `tests/mistaken.rs`.

use serde_json::Value;

use super::families::ARCHITECTURES;
use super::lora::half_of;
use crate::FormatError;
use crate::checkpoint::{BESIDE, Checkpoint, CheckpointKind, MetaValue};

/// Values of `model_type` in the folders of the architectures that their tensors tell, and of
/// `general.architecture` in GGUF; the others have theirs in their tables.
const MODEL_TYPES: [&str; 10] = [
    "rwkv",
    "rwkv4",
    "rwkv5",
    "rwkv6",
    "rwkv7",
    "mamba",
    "mamba1",
    "mamba2",
    "falcon_mamba",
    "mamba_ssm",
];

/// An error if the checkpoint is no model that can be converted; `is_assumed`: its architecture was
/// said.
pub(super) fn check(checkpoint: &Checkpoint, is_assumed: bool) -> Result<(), FormatError> {
    let mistaken = converted_for_a_strategy(checkpoint)
        .or_else(|| quantized(checkpoint))
        .or_else(|| adapter(checkpoint))
        .or_else(|| tuned_state(checkpoint))
        .or_else(|| megatron(checkpoint));
    if let Some((found, mend)) = mistaken {
        return Err(FormatError::NotAModel { path: checkpoint.path().to_owned(), found, mend });
    }
    if is_assumed { Ok(()) } else { foreign(checkpoint) }
}

type Mistaken = Option<(String, &'static str)>;

/// The `rwkv` package's own files, which ChatRWKV and RWKV-Runner write too: transposed, normed,
/// with exponentials.
fn converted_for_a_strategy(checkpoint: &Checkpoint) -> Mistaken {
    let sign = |key: &str| checkpoint.metadata().get(&format!("{BESIDE}{key}"));
    let strategy = sign("_strategy").or(sign("_rescale_layer")).or(sign("_version"))?;
    let strategy = strategy.as_str().unwrap_or_default();
    Some((
        format!("a model that the rwkv package has converted for a strategy ({strategy})"),
        "take the original .pth file that it was made from",
    ))
}

/// Ends of names that packed weights have beside them, where `checkpoint::quantized` has not put
/// them together.
const PACKED: [(&str, &str); 13] = [
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".absmax", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".bitmask", "compressed-tensors"),
    (".weight_scale", "compressed-tensors"),
    (".weight_scale_inv", "FP8 with blocks of scales"),
    (".weight_format", "bitsandbytes"),
    (".W_q", "HQQ"),
    (".scales", "MLX or AWQ"),
];

fn quantized(checkpoint: &Checkpoint) -> Mistaken {
    // rwkv.cpp and GGUF say the number format of each tensor, and are read.
    if matches!(checkpoint.kind(), CheckpointKind::Gguf | CheckpointKind::RwkvCpp) {
        return None;
    }
    let beside = checkpoint.tensors().iter().find_map(|tensor| {
        let is_state = tensor.name.contains(".weight.quant_state.");
        let end = PACKED.iter().find(|(end, _)| tensor.name.ends_with(end));
        let by = if is_state { Some("bitsandbytes") } else { end.map(|(_, by)| *by) };
        by.map(|by| (tensor, by))
    });
    let whole = || {
        let mut tensors = checkpoint.tensors().iter();
        let is_packed = |name: &str| name.ends_with(".weight");
        tensors.find(|t| t.holds_integers() && t.shape.len() >= 2 && is_packed(&t.name))
    };
    let (tensor, by) = beside.or_else(|| Some((whole()?, "another program")))?;
    let config = checkpoint.config();
    let method = config.and_then(|config| config.get("quantization_config")?.get("quant_method"));
    let is_mlx = config.is_some_and(|config| config.get("quantization").is_some())
        || checkpoint.metadata().get("format").and_then(MetaValue::as_str) == Some("mlx");
    let by = match method.and_then(Value::as_str) {
        Some(method) => method,
        None if is_mlx => "MLX",
        None => by,
    };
    let found = format!("a model quantized by {by}: {} is {}", tensor.name, tensor.dtype);
    Some((found, "take the checkpoint that it was made from; convert quantizes by itself"))
}

fn adapter(checkpoint: &Checkpoint) -> Mistaken {
    let kind = checkpoint.metadata().get("general.type").and_then(MetaValue::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "model") {
        return Some((
            format!("a GGUF file of the type {kind:?}, not a model"),
            "convert the model itself; llama-export-lora merges an adapter into it",
        ));
    }
    let tensors = || checkpoint.tensors().iter();
    let others = [".bone", ".disha", ".miss", ".lora_magnitude_vector", ".lora_E", ".ia3_l"];
    let other = tensors().find(|t| others.iter().any(|end| t.name.contains(end)));
    let lora = tensors().find(|t| half_of(&t.name).is_some());
    let embeds = ["emb.weight", "embeddings.weight", "embedding.weight", "base_layer.weight"];
    let is_whole = tensors().any(|t| embeds.iter().any(|end| t.name.ends_with(end)));
    match (lora, other) {
        (_, Some(tensor)) => Some((
            format!("an adapter that is no LoRA ({}), not a model", tensor.name),
            "merge it into its base model with the program that trained it",
        )),
        (Some(tensor), None) if is_whole => Some((
            format!("a model with a LoRA adapter beside its weights ({})", tensor.name),
            "merge them with the program that trained it",
        )),
        (Some(tensor), None) => Some((
            format!("a LoRA adapter ({}), not a model", tensor.name),
            "convert the model that it was trained on: brooklet convert BASE --lora FILE[:SCALE]",
        )),
        (None, None) => None,
    }
}

/// Whether a tensor is a state that was trained.
pub(super) fn is_tuned_state(name: &str) -> bool {
    name.ends_with(".time_state")
}

fn tuned_state(checkpoint: &Checkpoint) -> Mistaken {
    let all = checkpoint.tensors().iter().all(|tensor| is_tuned_state(&tensor.name));
    all.then(|| {
        (
            "a tuned state, not a model".to_owned(),
            "read it with `brooklet state import MODEL.brk STATE -o OUT.brks`",
        )
    })
}

fn megatron(checkpoint: &Checkpoint) -> Mistaken {
    let is_sign = |name: &str| {
        name.contains("embedding.word_embeddings.")
            || name.starts_with("decoder.layers.")
            || name.contains("language_model.encoder.")
    };
    let sign = checkpoint.tensors().iter().find(|tensor| is_sign(&tensor.name))?;
    Some((
        format!("a checkpoint of Megatron-LM ({})", sign.name),
        "export it to a Hugging Face folder with Megatron's tools first",
    ))
}

/// A model of another architecture may have all names of one of ours, and another meaning.
fn foreign(checkpoint: &Checkpoint) -> Result<(), FormatError> {
    let path = checkpoint.path().to_owned();
    let known: Vec<&str> = ARCHITECTURES.iter().map(|each| each.title).collect();
    let known = known.join(", ");
    let is_known = |name: &str| {
        let mut types = ARCHITECTURES.iter().flat_map(|each| each.model_types);
        MODEL_TYPES.contains(&name) || types.any(|known| *known == name)
    };
    let metadata = checkpoint.metadata().get("general.architecture").and_then(MetaValue::as_str);
    if checkpoint.kind() == CheckpointKind::Gguf
        && let Some(found) = metadata.filter(|name| !is_known(name))
    {
        let expected = format!("that of one of {known}");
        let found = found.to_owned();
        return Err(FormatError::Field { path, what: "general.architecture", expected, found });
    }
    let named = checkpoint.config().and_then(|config| config.get("model_type")?.as_str());
    if let Some(found) = named.filter(|name| !is_known(name)) {
        let expected = format!(
            "that of one of {known} (if it is one under another name, say which: --assume)"
        );
        let found = found.to_owned();
        return Err(FormatError::Field { path, what: "model_type", expected, found });
    }
    Ok(())
}
