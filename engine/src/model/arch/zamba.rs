//! Zamba (Glorioso et al. 2024, arXiv 2405.16712) and Zamba2 (arXiv 2411.15242; reference:
//! transformers `models/zamba2/modeling_zamba2.py`): Mamba in every layer, and before some of them
//! a transformer whose weights such layers share. It sees the residual stream and the embedding,
//! and only Mamba sees what comes of it. Test: `tests/parity_hybrid.rs`.

use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::model::parts::{Attention, GatedMlp, Input, Part};
use crate::model::{Layer, Pass, Source, Streams};
use crate::ops::{List, Values, of};
use crate::stage::{Activation, Job};
use crate::tensor::{Matrix, acts_for};

/// Words of `layer_types`: the layer has a transformer, which later ones share in turn; it shares
/// one of an earlier layer.
const OWNER: &str = "owner";
const SHARED: &str = "shared";

/// One layer, with the Mamba `M`.
pub(crate) struct Zamba<M> {
    is_first: bool,
    d_model: usize,
    shared: Option<Shared>,
    mamba: M,
}

/// The transformer, and what the layer has of its own for it.
struct Shared {
    attention: Attention,
    mlp: GatedMlp,
    /// (d_model, d_model)
    linear: Matrix,
}

impl Shared {
    /// That of the layer, if it has one.
    fn load(source: &Source<'_>) -> Result<Option<Shared>> {
        let (config, layer) = (source.config, source.layer);
        let word = |layer| config.word("layer_types", layer);
        let owner = match word(layer)? {
            OWNER => layer,
            SHARED => {
                // The owners take turns, in the order of all layers with a transformer.
                let (mut owners, mut before) = (Vec::new(), 0);
                for i in 0..layer {
                    let word = word(i)?;
                    before += usize::from([OWNER, SHARED].contains(&word));
                    if word == OWNER {
                        owners.push(i);
                    }
                }
                *owners
                    .get(before % owners.len().max(1))
                    .ok_or_else(|| config.unknown_word("layer_types"))?
            }
            _ => return Ok(None),
        };
        let weights = source.sharing(owner);
        let attention = Attention::with(&weights, Input::double(&weights, "attn_norm")?)?;
        let mlp = GatedMlp::load(&weights)?;
        let rank = config.optional_size("rank_adapter")?;
        Ok(Some(Shared {
            attention: match rank {
                Some(rank) if config.flag("adapts_attention")? => {
                    attention.adapted(source, rank)?
                }
                _ => attention,
            },
            mlp: match rank {
                Some(rank) => mlp.adapted(source, rank)?,
                None => mlp,
            },
            linear: source.mat("linear", config.d_model, config.d_model)?,
        }))
    }
}

impl<M: Part> Layer for Zamba<M> {
    type Scratch = Scratch<M>;

    fn load(source: &Source<'_>) -> Result<Self> {
        Ok(Zamba {
            is_first: source.layer == 0,
            d_model: source.config.d_model,
            shared: Shared::load(source)?,
            mamba: M::load(source)?,
        })
    }

    fn scratch(layers: &[Self], workspace: &Workspace) -> Scratch<M> {
        let shared = layers.iter().filter_map(|layer| layer.shared.as_ref());
        Scratch {
            attention: Attention::scratch(workspace, shared.clone().map(|s| &s.attention)),
            mlp: GatedMlp::scratch(workspace, shared.clone().map(|s| &s.mlp)),
            transformed: acts_for(workspace, shared.map(|s| &s.linear)),
            saved: Panel::new(layers.first().map_or(0, |layer| layer.d_model), workspace),
            mamba: M::scratch(workspace, layers.iter().map(|layer| &layer.mamba)),
        }
    }

    fn second(&self) -> usize {
        self.d_model
    }

    /// t = W mlp(norm(attention(norm(x, embedding)))); x += mamba(norm(x + t)).
    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch<M>) {
        let columns = pass.stages.batch.columns;
        if self.is_first {
            let Streams { x, second, .. } = &mut *pass.streams;
            second.copy(x, columns);
        }
        let Some(Shared { attention, mlp, linear }) = &self.shared else {
            self.mamba.forward(pass, &mut s.mamba);
            return;
        };
        s.saved.copy(&pass.streams.x, columns);
        attention.read(pass, &mut s.attention);
        attention.inner(pass, &mut s.attention);
        let attended = &s.attention.gated;
        let keep = Job::keep(&attention.output.weight, attended, &mut pass.streams.x);
        pass.stages.project([keep]);
        mlp.read(pass, &mut s.mlp);
        mlp.hidden(pass, &mut s.mlp);
        let (hidden, y) = (&s.mlp.hidden, &mut pass.streams.y);
        let (down, f) = (&mlp.down.weight, Activation::Identity);
        pass.stages.project([Job::prepare(down, hidden, y, f, &mut s.transformed)]);
        let Streams { x, y, .. } = &mut *pass.streams;
        x.copy(&s.saved, columns);
        pass.stages.project([Job::add(linear, &s.transformed, y, x)]);
        self.mamba.read(pass, &mut s.mamba);
        pass.streams.x.copy(&s.saved, columns);
        self.mamba.add(pass, &mut s.mamba);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        if self.is_first {
            let (embedding, x) = (list.embedding(), list.x());
            list.map(embedding, of(x));
        }
        let Some(shared) = &self.shared else { return self.mamba.list(list) };
        let transformed = shared.list(list);
        let seen = list.values("with transformed", self.d_model);
        list.map(seen, of(list.x()) + transformed);
        list.reading(seen, |list| self.mamba.list(list));
    }
}

impl Shared {
    /// W mlp(norm(attention(norm(x, embedding)))), as operations.
    fn list<'m>(&'m self, list: &mut List<'m>) -> Values {
        let Shared { attention, mlp, linear } = self;
        let attended = attention.list_inner(list);
        let attended = list.project("attended", &attention.output.weight, attended);
        let hidden = list.reading(attended, |list| mlp.list_hidden(list));
        let y = list.project("y", &mlp.down.weight, hidden);
        let y = list.pack("transformed", list.rows(y), of(y));
        list.project("transformed", linear, y)
    }
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch<M: Part> {
    attention: <Attention as Part>::Scratch,
    mlp: <GatedMlp as Part>::Scratch,
    /// The network's result, as the linear map reads it (d_model).
    transformed: ActivationBuffer,
    /// The residual stream before the transformer (d_model).
    saved: Panel,
    mamba: M::Scratch,
}
