//! Qwen3.5 (reference: transformers `models/qwen3_5/modeling_qwen3_5.py`): heads with a gated delta
//! rule, and in every fourth layer gated attention; then a gated network. Test:
//! `tests/parity_hybrid.rs`.

use crate::Result;
use crate::buffers::Workspace;
use crate::model::parts::{
    Attention, AttentionScratch, DeltaHeads, DeltaScratch, GatedMlp, GatedMlpScratch,
};
use crate::model::{Layer, Pass, Source};

/// One layer.
pub(crate) struct Qwen35 {
    mixer: Mixer,
    mlp: GatedMlp,
}

/// What mixes tokens.
enum Mixer {
    Delta(DeltaHeads),
    Attention(Attention),
}

/// Buffers of a forward pass.
pub(crate) struct Scratch {
    delta: DeltaScratch,
    attention: AttentionScratch,
    mlp: GatedMlpScratch,
}

impl Layer for Qwen35 {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Qwen35> {
        let mixer = match source.config.word("layer_types", source.layer)? {
            "delta" => Mixer::Delta(DeltaHeads::load(source, true)?),
            "attention" => Mixer::Attention(Attention::load(source)?),
            _ => return Err(source.config.unknown_word("layer_types", "\"delta\", \"attention\"")),
        };
        Ok(Qwen35 { mixer, mlp: GatedMlp::load(source)? })
    }

    fn scratch(layers: &[Qwen35], workspace: &Workspace) -> Scratch {
        let deltas = layers.iter().filter_map(|layer| match &layer.mixer {
            Mixer::Delta(delta) => Some(delta),
            Mixer::Attention(_) => None,
        });
        let attentions = layers.iter().filter_map(|layer| match &layer.mixer {
            Mixer::Delta(_) => None,
            Mixer::Attention(attention) => Some(attention),
        });
        Scratch {
            delta: DeltaScratch::new(workspace, deltas),
            attention: AttentionScratch::new(workspace, attentions),
            mlp: GatedMlpScratch::new(workspace, layers.iter().map(|layer| &layer.mlp)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        // x += mixer(norm(x))
        match &self.mixer {
            Mixer::Delta(delta) => delta.forward(pass, &mut s.delta),
            Mixer::Attention(attention) => attention.forward(pass, &mut s.attention),
        }
        self.mlp.forward(pass, &mut s.mlp); // x += mlp(norm(x))
    }
}
