//! A list as text: `brooklet inspect --operations`.

use std::fmt::{self, Display, Write};

use super::formula::{Step, Term};
use super::{
    DecayOp, DeltaOp, Formula, Function, HeadsOp, Inputs, List, NormOp, OfHead, Op, PlaceOp,
    PlacePart, Plan, RememberOp, Values,
};
use crate::state::SlotRef;
use crate::tensor::Matrix;

/// Names of what a list refers to.
pub(crate) trait Names {
    /// The tensor whose bytes begin there.
    fn tensor(&self, first: *const u8) -> &str;
    /// The slot of the state that stands there.
    fn slot(&self, slot: SlotRef) -> String;
}

/// A list with its names, for so many blocks.
pub(crate) struct Listing<'a, 'm, N> {
    pub(crate) list: &'a List<'m>,
    pub(crate) names: &'a N,
    pub(crate) blocks: usize,
}

impl<N: Names> Display for Listing<'_, '_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layers = self.list.layers.iter().peekable();
        let stages = self.list.stages(&Plan::one(self.blocks));
        let line = |f: &mut fmt::Formatter<'_>, op: usize, mark: &str| {
            writeln!(f, "  {mark:<10}{}", self.op(&self.list.ops[op]))
        };
        for (i, stage) in stages.iter().enumerate() {
            let ops = || stage.prelude.iter().chain(stage.chains.iter().flat_map(|c| &c.ops));
            let begun = layers.next_if(|first| ops().any(|op| op >= first));
            let layer = begun.map_or(String::new(), |_| {
                format!(", layer {}", self.list.layers.len() - 1 - layers.len())
            });
            writeln!(f, "stage {i}{layer}")?;
            stage.prelude.iter().try_for_each(|op| line(f, *op, "each"))?;
            for chain in &stage.chains {
                let mark = format!("{}", chain.pieces);
                chain.ops.iter().try_for_each(|op| line(f, *op, &mark))?;
            }
        }
        let (ops, stages) = (self.list.ops.len(), stages.len());
        write!(f, "{ops} operations in {stages} stages")
    }
}

impl<N: Names> Listing<'_, '_, N> {
    fn values(&self, values: Values) -> String {
        let buffer = &self.list.values[values.0];
        format!("{}[{}]", buffer.name, buffer.rows)
    }

    fn inputs(&self, inputs: Inputs) -> String {
        let buffer = &self.list.inputs[inputs.0];
        let forms: Vec<String> = buffer.forms.iter().map(|form| format!("{form:?}")).collect();
        format!("{}[{} as {}]", buffer.name, buffer.rows, forms.join(", ")).to_lowercase()
    }

    fn vector(&self, values: &[f32]) -> &str {
        self.names.tensor(values.as_ptr().cast())
    }

    fn matrix(&self, w: &Matrix) -> String {
        let name = self.names.tensor(w.bytes().as_ptr());
        format!("{name} ({} × {}, {})", w.rows(), w.cols(), w.layout().dtype.name())
    }

    fn of_head(&self, of: OfHead) -> String {
        let mut text = self.values(of.from);
        if of.first > 0 || of.share > 1 {
            let _ = write!(text, " from {}", of.first);
        }
        if of.share > 1 {
            let _ = write!(text, " for {} heads each", of.share);
        }
        text
    }

    fn term(&self, term: &Term<'_>) -> String {
        let shared = |text: String, each: usize| match each {
            1 => text,
            each => format!("{text} for {each} each"),
        };
        match *term {
            Term::Values { from, first: 0, each } => shared(self.values(from), each),
            Term::Values { from, first, each } => {
                shared(format!("{} from {first}", self.values(from)), each)
            }
            Term::Weights { from, each } => shared(self.vector(from).to_owned(), each),
            Term::Before { from, state } => {
                format!("before({}, {})", self.values(from), self.names.slot(state))
            }
            Term::Number(number) => format!("{number}"),
        }
    }

    fn formula(&self, f: &Formula<'_>) -> String {
        let mut stack: Vec<String> = Vec::new();
        for step in f.steps() {
            match step {
                Step::Push(term) => stack.push(self.term(term)),
                Step::Apply(f) => {
                    let b = if f.operands() == 2 { stack.pop() } else { None };
                    let (a, b) = (stack.pop().unwrap_or_default(), b.unwrap_or_default());
                    stack.push(match f {
                        Function::Add => format!("({a} + {b})"),
                        Function::Sub => format!("({a} − {b})"),
                        Function::Mul => format!("({a} · {b})"),
                        Function::Div => format!("({a} / {b})"),
                        Function::Neg => format!("−{a}"),
                        f if f.operands() == 2 => format!("{f:?}({a}, {b})").to_lowercase(),
                        f => format!("{f:?}({a})").to_lowercase(),
                    });
                }
            }
        }
        stack.pop().unwrap_or_default()
    }

    fn op(&self, op: &Op<'_>) -> String {
        match op {
            Op::Embed { table, y } => {
                format!("{} = row of {}", self.values(*y), self.matrix(table))
            }
            Op::Gather { x, y } => format!("{} = wanted {}", self.values(*y), self.values(*x)),
            Op::Map { f, y } => format!("{} = {}", self.values(*y), self.formula(f)),
            Op::Fold { f, y } => {
                format!("{} = {}, column after column", self.values(*y), self.formula(f))
            }
            Op::Place(PlaceOp { heads, parts, y }) => {
                let part = |part: &PlacePart| {
                    let PlacePart { from, first, step, by, share, n, .. } = *part;
                    let from = self.values(from);
                    let heads = if share > 1 { format!("{share} heads") } else { "heads".into() };
                    format!("{n} of {from} from {first}, every {by}, {heads} {step} apart")
                };
                let parts: Vec<String> = parts.iter().map(part).collect();
                format!("{} = of {heads} heads {}", self.values(*y), parts.join("; "))
            }
            Op::Blocks(blocks) => format!(
                "{} = {} × {} in blocks of {} + {}",
                self.values(blocks.y),
                self.vector(blocks.w),
                self.values(blocks.x),
                blocks.d,
                self.vector(blocks.bias)
            ),
            Op::Sum { f, over, y } => {
                format!("{} = sum of {over} each of {}", self.values(*y), self.formula(f))
            }
            Op::Norm { x, norm, over, y } => {
                let (kind, weight) = match norm {
                    NormOp::Layer { weight, .. } => ("layer norm", weight),
                    NormOp::Rms { weight, .. } => ("rms norm", weight),
                };
                let (x, weight) = (self.values(*x), self.vector(weight));
                format!("{} = {kind} of {over} each of {x} · {weight}", self.values(*y))
            }
            Op::Pack { f, y } => format!("{} = {}", self.inputs(*y), self.formula(f)),
            Op::Project { w, x, y } => {
                format!("{} = {} × {}", self.values(*y), self.matrix(w), self.inputs(*x))
            }
            Op::Keep { x, state } => {
                format!("{} = last {}", self.names.slot(*state), self.values(*x))
            }
            Op::Conv(conv) => {
                let (y, taps) = (self.values(conv.y), self.vector(conv.taps));
                let window = self.names.slot(conv.window);
                format!("{y} = convolution by {taps}, {window}{}", self.seen(conv.seen))
            }
            Op::Heads(heads) => self.heads(heads),
            Op::Slots(slots) => format!(
                "{} = slots of {}: q {}, k {}, share {}, decay {}",
                self.values(slots.y),
                self.names.slot(slots.state),
                self.of_head(slots.q),
                self.of_head(slots.k),
                self.of_head(slots.share),
                self.of_head(slots.decay)
            ),
            Op::Past(past) => format!(
                "{} = {} columns of {} before, {}",
                self.values(past.y),
                past.steps,
                self.values(past.x),
                self.names.slot(past.window)
            ),
            Op::Cells(cells) => format!(
                "{} = cells of {} gates by {}, {} × {}",
                self.values(cells.y),
                cells.gates(),
                self.values(cells.x),
                self.matrix(cells.w),
                self.names.slot(cells.hidden)
            ),
            Op::Ngrams(ngrams) => format!(
                "{} = rows of {} by the last tokens, {}",
                self.values(ngrams.y),
                self.matrix(ngrams.table),
                self.names.slot(ngrams.tokens)
            ),
            Op::Best(best) => format!(
                "{} = the best blocks of {} tokens for {}",
                self.values(best.y),
                best.size,
                self.values(best.q)
            ),
            Op::HeadConvs(op) => format!(
                "{} = heads of {} by their means, {} and {}",
                self.values(op.y),
                self.values(op.x),
                self.vector(op.convs.channels),
                self.vector(op.convs.heads)
            ),
            Op::Scan(scan) => format!(
                "{} = scan of {} by {}, {}",
                self.values(scan.delta_y),
                self.values(scan.x),
                self.values(scan.b_c),
                self.names.slot(scan.state)
            ),
            Op::Average(average) => format!(
                "{} = average of {} by {}, {}",
                self.values(average.y),
                self.values(average.v),
                self.values(average.k),
                self.names.slot(average.state[0])
            ),
            Op::Spin(spin) => format!(
                "{} = angles that grow by {} · {}, {} from {}",
                self.values(spin.y),
                self.values(spin.step),
                self.values(spin.speed),
                self.names.slot(spin.state),
                spin.first
            ),
            Op::Levels(levels) => format!(
                "{} = {} levels of {}: r {}, k {}, v {}, scale {}, decay {}, weights {}",
                self.values(levels.y),
                levels.n_level,
                self.names.slot(levels.state),
                self.of_head(levels.r),
                self.of_head(levels.k),
                self.of_head(levels.v),
                self.values(levels.scale),
                self.values(levels.decay),
                self.values(levels.weights)
            ),
            Op::Spread(spread) => format!(
                "{} = {} of those that {} says, of {}",
                self.values(spread.y),
                self.values(spread.from),
                self.values(spread.chosen),
                spread.n
            ),
            Op::Mesa(mesa) => format!(
                "{} = solution by {} steps of {} + {}: q {}, k {}, v {}, decay {}, β {}",
                self.values(mesa.y),
                mesa.steps,
                self.names.slot(mesa.state),
                self.vector(mesa.lambda),
                self.of_head(mesa.q),
                self.of_head(mesa.k),
                self.of_head(mesa.v),
                self.of_head(mesa.decay),
                self.of_head(mesa.beta)
            ),
            Op::Turn(turn) => {
                let (x, angles) = (self.values(turn.x), self.values(turn.angles));
                format!("{x} = turned by {angles}, heads of {}", turn.d_head)
            }
            Op::Remember(RememberOp { k, v, pages, .. }) => {
                let v = v.map_or(String::new(), |v| format!(", v {}", self.values(v)));
                format!("pages of {} heads = k {}{v}", pages.n_head(), self.values(*k))
            }
            Op::Attend(attend) => {
                let [y, q] = [attend.y, attend.q].map(|x| self.values(x));
                let heads = attend.pages.n_head();
                let mut text = format!("{y} = attention of q {q} to pages of {heads} heads");
                if let Some(relative) = &attend.relative {
                    let profiles = self.vector(relative.profiles);
                    let _ = write!(text, ", distances {} of {profiles}", self.values(relative.mix));
                }
                if let Some((blocks, size)) = attend.chosen {
                    let _ = write!(text, ", blocks {} of {size} tokens", self.values(blocks));
                }
                text
            }
            Op::Exact(exact) => format!(
                "{} = exactly {} × {}",
                self.values(exact.y),
                self.vector(exact.w),
                self.values(exact.x)
            ),
            Op::Choose(choose) => format!(
                "{} = the best of {} by {}, weights {}",
                self.values(choose.chosen),
                choose.n_expert,
                self.values(choose.scores),
                self.values(choose.weights)
            ),
            Op::Experts(experts) => {
                let y = self.values(experts.y);
                let chosen = match experts.chosen {
                    Some(chosen) => format!("those that {} says", self.values(chosen)),
                    None => format!("{} each", experts.n),
                };
                let (w, x) = (self.matrix(experts.w.all()), self.inputs(experts.x));
                let mut text = format!("{y} = of {w} {chosen} × {x}");
                if let Some((weights, into)) = experts.sum {
                    let [weights, into] = [weights, into].map(|x| self.values(x));
                    let _ = write!(text, ", {into} + their sum by {weights}");
                }
                text
            }
        }
    }

    /// Which columns are seen.
    fn seen(&self, seen: Option<Values>) -> String {
        seen.map_or(String::new(), |seen| format!(", where {} is not 0", self.values(seen)))
    }

    fn heads(&self, heads: &HeadsOp<'_>) -> String {
        let [r, k, v] = [heads.r, heads.k, heads.v].map(|of| self.of_head(of));
        let decay = match heads.decay {
            DecayOp::PerHead(decay) => self.values(decay),
            DecayOp::PerKey(decay) => self.of_head(decay),
        };
        let mut text = format!(
            "{} = heads of {}: r {r}, k {k}, v {v}, decay {decay}",
            self.values(heads.y),
            self.names.slot(heads.state)
        );
        if let Some(scale) = heads.scale {
            let _ = write!(text, ", scale {}", self.values(scale));
        }
        match heads.delta {
            None => {}
            Some(DeltaOp::General { a, b }) => {
                let _ = write!(text, ", a {}, b {}", self.of_head(a), self.of_head(b));
            }
            Some(DeltaOp::Rule { factor }) => {
                let _ = write!(text, ", delta rule {}", self.values(factor));
            }
        }
        text.push_str(&self.seen(heads.seen.map(|(seen, _)| seen)));
        if let Some(bonus) = heads.bonus {
            let _ = write!(text, ", bonus {}", self.vector(bonus));
        }
        text
    }
}
