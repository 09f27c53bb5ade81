//! DeltaNet (Yang et al. 2024, arXiv 2406.06484) and Gated DeltaNet (Yang, Kautz & Hatamizadeh
//! 2024, arXiv 2412.06464; reference: fla `models/gated_deltanet/modeling_gated_deltanet.py`): heads
//! with a delta rule, then a gated network. Test: `tests/parity_delta.rs`.

use crate::Result;
use crate::buffers::Workspace;
use crate::model::parts::{DeltaHeads, DeltaScratch, GatedMlp, GatedMlpScratch};
use crate::model::{Layer, Pass, Source};

/// One layer; its state does not decay in the first of the two papers.
pub(crate) struct DeltaNet<const GATED: bool> {
    heads: DeltaHeads,
    mlp: GatedMlp,
}

/// Buffers of a forward pass.
pub(crate) struct Scratch {
    heads: DeltaScratch,
    mlp: GatedMlpScratch,
}

impl<const GATED: bool> Layer for DeltaNet<GATED> {
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Self> {
        Ok(DeltaNet { heads: DeltaHeads::load(source, GATED)?, mlp: GatedMlp::load(source)? })
    }

    fn scratch(layers: &[Self], workspace: &Workspace) -> Scratch {
        Scratch {
            heads: DeltaScratch::new(workspace, layers.iter().map(|l| &l.heads)),
            mlp: GatedMlpScratch::new(workspace, layers.iter().map(|l| &l.mlp)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.heads.forward(pass, &mut s.heads); // x += heads(norm(x))
        self.mlp.forward(pass, &mut s.mlp); // x += mlp(norm(x))
    }
}
