//! Qwen4-Exp (reference: transformers `models/qwen4_exp/modular_qwen4_exp.py`): Gated DeltaNet or
//! attention, then experts, between hyper-connections; some layers add embeddings of n-grams to the
//! residual stream before. Test: `tests/parity_experts.rs`.

use super::Either;
use crate::Result;
use crate::buffers::Workspace;
use crate::model::parts::{
    Attention, DeltaHeads, Experts, HyperConnection, HyperScratch, Ngrams, NgramsScratch, Part,
};
use crate::model::{Layer, Pass, Source};
use crate::ops::List;

/// The part that mixes tokens.
type Mixer = Either<DeltaHeads<true>, Attention>;

/// One layer.
pub(crate) struct Qwen4 {
    is_first: bool,
    ngrams: Option<Ngrams>,
    mix: HyperConnection,
    mixer: Mixer,
    mlp_mix: HyperConnection,
    experts: Experts,
    /// The final norm, of the last layer.
    last_mix: Option<HyperConnection>,
    /// Values of all copies.
    width: usize,
}

impl Layer for Qwen4 {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Qwen4> {
        let load = |name| HyperConnection::load(source, name)?.injecting(source, name);
        let is_last = source.layer + 1 == source.config.n_layer;
        let mix = load("mix")?;
        Ok(Qwen4 {
            is_first: source.layer == 0,
            ngrams: Ngrams::load(source)?,
            width: mix.width(),
            mix,
            mixer: Mixer::load(source)?,
            mlp_mix: load("mlp_mix")?,
            experts: Experts::load(source)?,
            last_mix: match is_last {
                true => Some(HyperConnection::load(&source.outside(), "last_mix")?),
                false => None,
            },
        })
    }

    fn scratch(layers: &[Qwen4], workspace: &Workspace) -> Scratch {
        let mixes = layers.iter().flat_map(|l| [&l.mix, &l.mlp_mix].into_iter().chain(&l.last_mix));
        Scratch {
            ngrams: Ngrams::scratch(workspace, layers.iter().filter_map(|l| l.ngrams.as_ref())),
            mix: HyperConnection::scratch(workspace, mixes),
            mixer: Mixer::scratch(workspace, layers.iter().map(|l| &l.mixer)),
            experts: Experts::scratch(workspace, layers.iter().map(|l| &l.experts)),
        }
    }

    fn second(&self) -> usize {
        self.width
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        if self.is_first {
            self.mix.list_begin(list);
        }
        if let Some(ngrams) = &self.ngrams {
            let copies = self.mix.list_copies(list);
            ngrams.list(list, copies);
        }
        self.mix.list_around(list, &self.mixer);
        self.mlp_mix.list_around(list, &self.experts);
        if let Some(last_mix) = &self.last_mix {
            last_mix.list_mix(list);
        }
    }

    /// X += ngrams(X); X += share · mixer(mix(X)); X += share · experts(mix(X)).
    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        if self.is_first {
            self.mix.begin(pass);
        }
        if let Some(ngrams) = &self.ngrams {
            ngrams.forward(pass, &mut s.ngrams);
        }
        self.mix.around(pass, (&self.mixer, &mut s.mixer), &mut s.mix);
        self.mlp_mix.around(pass, (&self.experts, &mut s.experts), &mut s.mix);
        if let Some(last_mix) = &self.last_mix {
            last_mix.mix(pass, &mut s.mix);
        }
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    ngrams: NgramsScratch,
    mix: HyperScratch,
    mixer: <Mixer as Part>::Scratch,
    experts: <Experts as Part>::Scratch,
}
