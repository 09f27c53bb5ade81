//! A mixture of experts behind a mixer: `x += Σ wₑ networkₑ(x̂)`, over the experts e that the
//! router chose for the token, and maybe a network that all tokens share; x̂ is the RMS-normed x. A
//! network is a gated one (SwiGLU) or a squared ReLU. The experts may work in a narrower space,
//! between two projections (Nemotron's latent experts).
//!
//! The columns of a pass are taken to the experts that they were chosen for, side by side; weights
//! of experts that no token chose are not read. All experts are one stage for their inputs and one
//! for their outputs. A column's sum runs over its experts in the order of their numbers: nothing
//! depends on what else is in a pass. Reference: transformers `models/nemotron_h`,
//! `models/qwen3_5_moe`, `models/lfm2_moe`. Test: `tests/parity_experts.rs`, `tests/experts.rs`.

use super::router::{Router, Scratch as RouterScratch};
use super::{Input, InputScratch, Output, Part};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::forms::GROUP;
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::sigmoid;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{ExpertsOp, Formula, Function, Inputs, List, Values, of, one_of, padded};
use crate::stage::{
    Activation, Gating, GroupPiece, Groups, Job, Owned, Piece, Product, Stages, prepare_activated,
    prepare_gated,
};
use crate::team::{Segment, Split};
use crate::tensor::{ExpertMatrices, Matrix, acts_for};

/// The weights of one layer's experts.
pub(crate) struct Experts {
    input: Input,
    router: Router,
    /// To the experts' space (d_latent, d_model), and back.
    latent: Option<(Matrix, Output)>,
    /// (d_expert, d_latent) each; without a gate, squared ReLU.
    gate: Option<ExpertMatrices>,
    up: ExpertMatrices,
    /// (d_latent, d_expert) each
    down: ExpertMatrices,
    shared: Option<SharedExpert>,
}

/// The network of all tokens.
struct SharedExpert {
    /// (d_shared, d_model)
    gate: Option<Matrix>,
    up: Matrix,
    /// (d_model, d_shared)
    down: Matrix,
    /// Whether it counts by the sigmoid of the router's last row.
    is_gated: bool,
}

impl SharedExpert {
    fn load(source: &Source<'_>, is_relu: bool, d_shared: usize) -> Result<SharedExpert> {
        let d_model = source.config.d_model;
        Ok(SharedExpert {
            gate: match is_relu {
                true => None,
                false => Some(source.mat("shared.gate", d_shared, d_model)?),
            },
            up: source.mat("shared.up", d_shared, d_model)?,
            down: source.mat("shared.down", d_model, d_shared)?,
            is_gated: source.config.flag("has_shared_gate")?,
        })
    }

    /// x = x + gate · network(input), as operations; the score `gate` counts where it is gated.
    fn list<'m>(&'m self, list: &mut List<'m>, input: Inputs, gate: (Values, usize)) {
        let hidden: Formula<'m> = match &self.gate {
            None => of(list.project("shared up", &self.up, input)).apply(Function::ReluSquared),
            Some(w) => {
                let gate = list.project("shared gate", w, input);
                of(gate).apply(Function::Silu) * list.project("shared up", &self.up, input)
            }
        };
        let hidden = list.pack("shared hidden", self.up.rows(), hidden);
        let (y, x) = (list.project("shared", &self.down, hidden), list.x());
        if self.is_gated {
            let gate = one_of(gate, list.rows(x)).apply(Function::Sigmoid);
            list.map(x, of(x) + gate * y);
        } else {
            list.map(x, of(x) + y);
        }
    }
}

impl Part for Experts {
    const WORD: &'static str = "experts";
    const LIST: &'static str = "network_types";
    type Scratch = Scratch;

    /// Reads `mlp_norm`, `router`, `experts.*`, and, where the configuration has them, `latent.*`
    /// and `shared.*`.
    fn load(source: &Source<'_>) -> Result<Experts> {
        let (config, d_model) = (source.config, source.config.d_model);
        let is_relu = config.flag("has_relu_experts")?;
        let shared = match config.optional_size("d_shared")? {
            None => None,
            Some(d_shared) => Some(SharedExpert::load(source, is_relu, d_shared)?),
        };
        let n_more = usize::from(shared.as_ref().is_some_and(|shared| shared.is_gated));
        let router = Router::load(source, n_more)?;
        let latent = match config.optional_size("d_latent")? {
            None => None,
            Some(d_latent) => {
                let down = source.mat("latent.down", d_latent, d_model)?;
                Some((down, Output::load(source, "latent.up", d_latent)?))
            }
        };
        let width = latent.as_ref().map_or(d_model, |(down, _)| down.rows());
        let (n, d_expert) = (router.n_expert, config.size("d_expert")?);
        Ok(Experts {
            input: Input::load(source, "mlp_norm")?,
            latent,
            gate: match is_relu {
                true => None,
                false => Some(source.experts("experts.gate", n, d_expert, width)?),
            },
            up: source.experts("experts.up", n, d_expert, width)?,
            down: source.experts("experts.down", n, width, d_expert)?,
            router,
            shared,
        })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        let shared = layers.clone().filter_map(|l| l.shared.as_ref());
        let latent = layers.clone().filter_map(|l| l.latent.as_ref());
        let most = |rows: fn(&Self) -> usize| layers.clone().map(rows).max().unwrap_or(0);
        let (d_expert, width) = (most(|l| l.up.rows()), most(|l| l.down.rows()));
        let d_gate = most(|l| l.gate.as_ref().map_or(0, ExpertMatrices::rows));
        let readers = layers.clone().flat_map(|l| {
            let shared = l.shared.iter().flat_map(|s| s.gate.iter().chain([&s.up]));
            let routed = l.gate.iter().chain([&l.up]).map(ExpertMatrices::all);
            let (latent, plain) = match &l.latent {
                Some((down, _)) => (Some(down), None),
                None => (None, Some(routed)),
            };
            shared.chain(latent).chain(plain.into_iter().flatten())
        });
        let d_shared = shared.clone().map(|s| s.up.rows()).max().unwrap_or(0);
        let d_model = shared.clone().map(|s| s.down.rows()).max().unwrap_or(0);
        let inner = || layers.clone().flat_map(|l| l.gate.iter().chain([&l.up]));
        Scratch {
            input: InputScratch::new(workspace, readers),
            router: RouterScratch::new(workspace, layers.clone().map(|l| &l.router)),
            latent: Panel::new(if latent.clone().count() > 0 { width } else { 0 }, workspace),
            latent_input: acts_for(
                workspace,
                latent.clone().flat_map(|_| inner().map(ExpertMatrices::all)),
            ),
            latent_output: acts_for(workspace, latent.map(|(_, up)| &up.weight)),
            routed: workspace.times(most(|l| l.router.n_used()), |places| Routed {
                uses: places.list(),
                places: places.list(),
                segments: places.list(),
                x: acts_for(places, inner().map(ExpertMatrices::all)),
                gate: Panel::new(d_gate, places),
                up: Panel::new(d_expert, places),
                hidden: acts_for(places, layers.clone().map(|l| l.down.all())),
                y: Panel::new(width, places),
            }),
            shared: SharedScratch {
                gate: Panel::new(d_shared, workspace),
                up: Panel::new(d_shared, workspace),
                hidden: acts_for(workspace, shared.map(|s| &s.down)),
                y: Panel::new(d_model, workspace),
            },
        }
    }

    fn second(&self) -> usize {
        self.router.second()
    }

    fn read(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.input.forward(pass, &mut s.input);
    }

    fn add(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        self.router.forward(pass, &s.input.normed, &mut s.router);
        s.routed.group(pass.stages.batch.columns, self.router.n_used(), &s.router);
        if let Some((down, _)) = &self.latent {
            let (x, f) = (&s.input.acts, Activation::Identity);
            let (y, out) = (&mut s.latent, &mut s.latent_input);
            pass.stages.project([Job::prepare(down, x, y, f, out)]);
        }
        self.inner(pass, s);
        self.outer(pass, s);
        self.sum(pass, s);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let (normed, input) = self.input.list_both(list);
        let [scores, chosen, weights] = self.router.list(list, normed);
        let n = self.router.n_used();
        let latent = self.latent.as_ref().map(|(down, up)| {
            let latent = list.project("latent", down, input);
            (list.pack("latent input", down.rows(), of(latent)), up)
        });
        let x = latent.map_or(input, |(x, _)| x);
        let [gate, up] = ["experts gate", "experts up"]
            .map(|name| list.values(name, n * padded(self.up.rows())));
        let of_all = |w, y| ExpertsOp { w, n, chosen: Some(chosen), x, y, sum: None };
        let hidden: Formula<'m> = match &self.gate {
            None => of(up).apply(Function::ReluSquared),
            Some(w) => {
                list.experts(of_all(w, gate));
                of(gate).apply(Function::Silu) * of(up)
            }
        };
        list.experts(of_all(&self.up, up));
        let hidden = list.pack_of_experts("experts hidden", (n, self.up.rows()), hidden);
        let rows = self.down.rows().next_multiple_of(WIDTH);
        let into = match &latent {
            None => list.x(),
            Some(_) => {
                let sum = list.values("latent sum", rows);
                list.map(sum, 0.0);
                sum
            }
        };
        let y = list.values("experts", n * rows);
        let sum = Some((weights, into));
        let down = ExpertsOp { w: &self.down, n, chosen: Some(chosen), x: hidden, y, sum };
        list.experts(down);
        if let Some(shared) = &self.shared {
            shared.list(list, input, (scores, self.router.n_expert));
        }
        if let Some((_, up)) = latent {
            let sum = list.pack("latent output", self.down.rows(), of(into));
            up.list(list, sum);
        }
    }
}

impl Experts {
    /// h = silu(W_gate x̂) · W_up x̂, or relu(W_up x̂)², of every expert for its columns.
    fn inner(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Routed { uses, segments, x: gathered, gate, up, hidden, .. } = &mut s.routed;
        let (panel, acts) = match &self.latent {
            Some(_) => (&s.latent, &s.latent_input),
            None => (&s.input.normed, &s.input.acts),
        };
        // The experts of one column all read it where it is.
        let is_one = pass.stages.batch.columns == 1;
        if !is_one {
            gather(&mut pass.stages, uses, panel, gathered);
        }
        let of = |first: usize| if is_one { (acts, 0) } else { (&*gathered, first) };
        let shared = &mut s.shared;
        let job = self.shared.as_ref().map(|own| {
            let x = &s.input.acts;
            let SharedScratch { gate: y_gate, up: y, hidden, .. } = shared;
            match &own.gate {
                Some(gate) => Job::prepare_gated(
                    Product { w: &own.up, x, y },
                    Product { w: gate, x, y: y_gate },
                    Gating::SILU,
                    hidden,
                ),
                None => Job::prepare(&own.up, x, y, Activation::ReluSquared, hidden),
            }
        });
        let rows = self.up.rows();
        let bytes = self.up.all().bytes_per_rows(GROUP);
        match &self.gate {
            Some(w_gate) => {
                let bytes = bytes + w_gate.all().bytes_per_rows(GROUP);
                let owned = Owned { panels: [up, gate], acts: [hidden] };
                let groups = Groups { segments, rows, bytes, owned };
                pass.stages.project_groups(job, groups, |piece| {
                    let GroupPiece { isa, first, panels: [mut up, mut gate], acts } = piece;
                    let [mut hidden] = acts;
                    let expert = uses[first].expert as usize;
                    self.up.matmul(isa, expert, of(first), &mut up);
                    w_gate.matmul(isa, expert, of(first), &mut gate);
                    prepare_gated(isa, Gating::SILU, [&mut gate, &mut up], &mut hidden);
                });
            }
            None => {
                let owned = Owned { panels: [up], acts: [hidden] };
                let groups = Groups { segments, rows, bytes, owned };
                pass.stages.project_groups(job, groups, |piece| {
                    let GroupPiece { isa, first, panels: [mut up], acts: [mut hidden] } = piece;
                    self.up.matmul(isa, uses[first].expert as usize, of(first), &mut up);
                    prepare_activated(isa, Activation::ReluSquared, &mut up, &mut hidden);
                });
            }
        }
    }

    /// y = W_down h, of every expert for its columns.
    fn outer(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Routed { uses, segments, hidden, y, .. } = &mut s.routed;
        let job = self.shared.as_ref().map(|own| {
            let SharedScratch { hidden, y, .. } = &mut s.shared;
            Job::keep(&own.down, hidden, y)
        });
        let (rows, bytes) = (self.down.rows(), self.down.all().bytes_per_rows(GROUP));
        let groups = Groups { segments, rows, bytes, owned: Owned { panels: [y], acts: [] } };
        pass.stages.project_groups(job, groups, |piece| {
            let GroupPiece { isa, first, panels: [mut y], .. } = piece;
            self.down.matmul(isa, uses[first].expert as usize, (&*hidden, first), &mut y);
        });
    }

    /// x = x + Σ w y, its experts in ascending order; + the shared network's y.
    fn sum(&self, pass: &mut Pass<'_>, s: &mut Scratch) {
        let Scratch { router, latent, latent_output, routed, shared, .. } = s;
        let n_used = self.router.n_used();
        let owned = Owned { panels: [&mut pass.streams.x, latent], acts: [latent_output] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut x, mut latent], acts: [mut output], .. } = piece;
            for c in own {
                let sum = match &self.latent {
                    Some((down, _)) => {
                        let sum = &mut latent.column(c)[..down.rows()];
                        sum.fill(0.0);
                        sum
                    }
                    None => x.column(c),
                };
                let places = &routed.places[c * n_used..][..n_used];
                for (place, w) in places.iter().zip(router.weights.column(c)) {
                    let y = routed.y.column(*place as usize);
                    simd!(isa, update(sum, y, |sum, y| sum + w * y));
                }
                if self.latent.is_some() {
                    let sum = &*sum;
                    output.fill(
                        isa,
                        c,
                        #[inline(always)]
                        |rows, out| out.copy_from_slice(&sum[rows]),
                    );
                }
                if let Some(own) = &self.shared {
                    let gate = match own.is_gated {
                        true => sigmoid(router.scores.column(c)[self.router.n_expert]),
                        false => 1.0,
                    };
                    let y = shared.y.column(c);
                    simd!(isa, update(x.column(c), y, |x, y| x + gate * y));
                }
            }
        });
        if let Some((_, up)) = &self.latent {
            up.forward(pass, latent_output);
        }
    }
}

/// The columns of `panel` that experts read, at their places.
fn gather(stages: &mut Stages<'_>, uses: &[Use], panel: &Panel, x: &mut ActivationBuffer) {
    stages.columns(uses.len(), Owned { panels: [], acts: [x] }, |piece| {
        let Piece { isa, own, acts: [mut x], .. } = piece;
        for place in own {
            let from = panel.column(uses[place].column as usize);
            x.fill(
                isa,
                place,
                #[inline(always)]
                |rows, out| out.copy_from_slice(&from[rows]),
            );
        }
    });
}

/// An expert's use for a column: its `slot`-th expert.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    expert: u32,
    column: u32,
    slot: u32,
}

/// Buffers of a forward pass, one column per token.
pub(crate) struct Scratch {
    input: InputScratch,
    router: RouterScratch,
    /// (d_latent)
    latent: Panel,
    latent_input: ActivationBuffer,
    latent_output: ActivationBuffer,
    routed: Routed,
    shared: SharedScratch,
}

/// Buffers of the chosen experts, one column for each use of one.
struct Routed {
    /// By expert, then by column: the use at each place.
    uses: Vec<Use>,
    /// The places of each column's uses, by slot.
    places: Vec<u32>,
    /// The places of each expert that was chosen.
    segments: Vec<Segment>,
    /// (d_latent)
    x: ActivationBuffer,
    /// (d_expert)
    gate: Panel,
    up: Panel,
    hidden: ActivationBuffer,
    /// (d_latent)
    y: Panel,
}

/// Buffers of the shared network.
struct SharedScratch {
    /// (d_shared)
    gate: Panel,
    up: Panel,
    hidden: ActivationBuffer,
    /// (d_model)
    y: Panel,
}

impl Routed {
    /// Groups the uses that the router chose for `columns` columns, `n_used` each.
    fn group(&mut self, columns: usize, n_used: usize, router: &RouterScratch) {
        self.uses.clear();
        for c in 0..columns {
            for (slot, expert) in router.chosen.column(c)[..n_used].iter().enumerate() {
                let (expert, column, slot) = (*expert as u32, c as u32, slot as u32);
                self.uses.push(Use { expert, column, slot });
            }
        }
        self.uses.sort_unstable();
        self.places.resize(self.uses.len(), 0);
        for (place, own) in self.uses.iter().enumerate() {
            self.places[own.column as usize * n_used + own.slot as usize] = place as u32;
        }
        self.segments.clear();
        let mut start = 0;
        for same in self.uses.chunk_by(|a, b| a.expert == b.expert) {
            let columns = start..start + same.len();
            start = columns.end;
            self.segments.push(Segment { columns, split: Split::new(0, GROUP, 1) });
        }
    }
}
