//! The parts that the RWKV families share: the names of BlinkDL's checkpoints, of rwkv.cpp's files
//! and of llama.cpp's GGUF outside of the layers. `ln0`, which acts on nothing but the embedding,
//! is folded into the table.

use crate::convert::table::{Layout, Spelling};

pub(super) const EMBED: &str =
    "layer_norm(emb.weight, blocks.0.ln0.weight, blocks.0.ln0.bias, {ln_eps})";
pub(super) const GGUF_EMBED: &str =
    "layer_norm(token_embd.weight, token_embd_norm.weight, token_embd_norm.bias, {ln_eps})";

/// BlinkDL's checkpoints, always the first column.
pub(super) const fn blinkdl(marks: &'static [&'static str]) -> Layout {
    Layout::new(marks, "blocks.", 0)
}

/// rwkv.cpp's files, in a column that mostly has BlinkDL's names.
pub(super) const fn rwkv_cpp(marks: &'static [&'static str], column: usize) -> Layout {
    let mut layout = Layout::new(marks, "blocks.", column);
    layout.rwkv_cpp = true;
    layout
}

/// llama.cpp's names.
pub(super) const fn gguf(marks: &'static [&'static str], column: usize) -> Layout {
    Layout::new(marks, "blk.", column)
}

/// The folders of Hugging Face that bring their own classes (`trust_remote_code`): BlinkDL's
/// tensors, in another spelling. Classes differ in the name of the body.
pub(super) const fn hugging_face(marks: &'static [&'static str], column: usize) -> [Layout; 3] {
    [
        blinkdl_in(marks, column, &RWKV_BODY),
        blinkdl_in(marks, column, &MODEL_BODY),
        blinkdl_in(marks, column, &NO_BODY),
    ]
}

const fn blinkdl_in(
    marks: &'static [&'static str],
    column: usize,
    spelling: &'static Spelling,
) -> Layout {
    Layout::new(marks, "blocks.", column).spelled(spelling).with_config()
}

const RWKV_BODY: Spelling = Spelling { body: "rwkv.", parts: HUGGING_FACE };
const MODEL_BODY: Spelling = Spelling { body: "model.", parts: HUGGING_FACE };
const NO_BODY: Spelling = Spelling { body: "", parts: HUGGING_FACE };

const HUGGING_FACE: &[(&str, &str)] = &[
    ("emb.", "embeddings."),
    (".ln0.", ".pre_ln."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
    (".time_mix_k", ".time_mix_key"),
    (".time_mix_v", ".time_mix_value"),
    (".time_mix_r", ".time_mix_receptance"),
    (".time_mix_g", ".time_mix_gate"),
];

/// The converter of web-rwkv and Ai00 (`.st`) where it renames.
pub(super) const WEB_RWKV: Spelling =
    Spelling { body: "", parts: &[("time_faaaa", "time_first"), ("time_maa", "time_mix")] };

/// States that were trained for the model and saved with it (`brooklet state import`).
pub(super) const TUNED_STATES: &str = "blocks.*.att.time_state";

/// The head of a folder of Hugging Face.
pub(super) const HUGGING_FACE_HEAD: &str = "head.weight | lm_head.weight \
    | emb.weight if config.tie_word_embeddings";
