//! Names of tensors without what wrappers put before them.
//!
//! `torch.compile`, FSDP and activation checkpointing put a word of theirs between the parts of a
//! name; `DataParallel`, DeepSpeed and Lightning put one before all names. Not here: names of
//! architectures (`convert::families`). Test: at the end of this file.

use super::tensor::SourceTensor;

/// Words that no architecture has as a part of a name.
const WORDS: [&str; 4] =
    ["_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Words before all names, which an architecture might have there too.
const BEFORE_ALL: [&str; 2] = ["module.", "model."];

/// First parts of names behind which there is nothing to strip any more: of a model, not of a
/// wrapper.
const ROOTS: [&str; 7] =
    ["blocks.", "emb.", "rwkv.", "backbone.", "model.", "module.", "base_model."];

/// Takes the wrappers' words out of all names.
pub(super) fn unwrap(tensors: &mut [SourceTensor]) {
    for tensor in tensors.iter_mut() {
        if WORDS.iter().any(|word| tensor.name.contains(word)) {
            let parts = tensor.name.split('.').filter(|part| !WORDS.contains(part));
            tensor.name = parts.collect::<Vec<_>>().join(".");
        }
    }
    while let Some(word) = BEFORE_ALL.into_iter().find(|word| is_wrapped(tensors, word)) {
        for tensor in tensors.iter_mut() {
            tensor.name.drain(..word.len());
        }
    }
}

/// Whether `word` stands before all names and is a wrapper's: `model.` also begins names of models
/// themselves.
fn is_wrapped(tensors: &[SourceTensor], word: &str) -> bool {
    let mut rest = tensors.iter().map(|tensor| tensor.name.strip_prefix(word));
    let all = !tensors.is_empty() && rest.clone().all(|rest| rest.is_some());
    let is_root = |rest: &str| ROOTS.iter().any(|root| rest.starts_with(root));
    all && (word == "module." || rest.any(|rest| rest.is_some_and(is_root)))
}

#[cfg(test)]
mod tests {
    use super::super::dtype::SourceDType;
    use super::super::source::{Blob, SourceFile};
    use super::*;

    fn unwrapped(names: &[&str]) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let blob = Blob::whole(&SourceFile::open(file.path()).unwrap());
        let tensor = |name: &&str| {
            SourceTensor::new((*name).to_owned(), vec![0], SourceDType::F32, blob.clone(), 0)
        };
        let mut tensors: Vec<_> = names.iter().map(|name| tensor(name).unwrap()).collect();
        unwrap(&mut tensors);
        tensors.into_iter().map(|tensor| tensor.name).collect()
    }

    #[test]
    fn wrappers_are_stripped() {
        let blinkdl = ["emb.weight", "blocks.0.att.key.weight", "head.weight"];
        let fla = ["model.embeddings.weight", "model.layers.0.attn.r_k", "lm_head.weight"];
        let mamba = ["backbone.embedding.weight", "backbone.layers.0.mixer.D"];
        let tied = ["model.embeddings.weight", "model.layers.0.attn.r_k"];
        let state = ["blocks.0.att.time_state", "blocks.1.att.time_state"];
        let lora = ["base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight"];
        for names in [&blinkdl[..], &fla, &mamba, &state, &lora] {
            for before in [
                "",
                "_orig_mod.",
                "module.",
                "_forward_module.",
                "model.",
                "module._orig_mod.",
                "_orig_mod.module.model.",
                "model._forward_module.module.",
                "model.model.",
            ] {
                let wrapped: Vec<String> = names.iter().map(|n| format!("{before}{n}")).collect();
                let wrapped: Vec<&str> = wrapped.iter().map(|name| &**name).collect();
                let found = unwrapped(&wrapped);
                assert_eq!(found, names, "{before}");
            }
        }
        assert_eq!(unwrapped(&tied), tied, "Hugging Face's own");
        let inside = ["model._orig_mod.layers.0._checkpoint_wrapped_module.attn.r_k"];
        assert_eq!(unwrapped(&inside), ["model.layers.0.attn.r_k"]);
    }
}
