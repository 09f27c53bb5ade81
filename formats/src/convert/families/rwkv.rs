//! What the RWKV families share: the names of BlinkDL's checkpoints, of rwkv.cpp's files and of
//! llama.cpp's GGUF outside of the layers. `ln0`, which acts on nothing but the embedding, is
//! folded into the table.

use crate::convert::table::Layout;

pub(super) const EMBED: &str =
    "layer_norm(emb.weight, blocks.0.ln0.weight, blocks.0.ln0.bias, {ln_eps})";
pub(super) const GGUF_EMBED: &str =
    "layer_norm(token_embd.weight, token_embd_norm.weight, token_embd_norm.bias, {ln_eps})";

/// BlinkDL's checkpoints, always the first column.
pub(super) const fn blinkdl(marks: &'static [&'static str]) -> Layout {
    Layout { marks, rwkv_cpp: false, layers: "blocks.", column: 0 }
}

/// rwkv.cpp's files, always the last column, which mostly has BlinkDL's names.
pub(super) const fn rwkv_cpp(marks: &'static [&'static str], column: usize) -> Layout {
    Layout { marks, rwkv_cpp: true, layers: "blocks.", column }
}

/// llama.cpp's names.
pub(super) const fn gguf(marks: &'static [&'static str], column: usize) -> Layout {
    Layout { marks, rwkv_cpp: false, layers: "blk.", column }
}
