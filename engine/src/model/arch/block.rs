//! Layers that are made of parts: two, one behind the other, what mixes tokens, then a network over
//! channels; or one alone. Mamba, delta-rule models and hybrids are made so; which parts each has
//! stands in the table of architectures. Where layers differ, lists of the file say which a layer
//! has: `layer_types`, and of networks behind mixers `network_types`.

use crate::Result;
use crate::buffers::{Panel, Workspace};
use crate::model::parts::Part;
use crate::model::{Layer, Pass, Source};
use crate::ops::{List, of};

/// One layer: `x += mixer(norm(x))`, then `x += network(norm(x))`.
pub(crate) struct Block<M, N> {
    mixer: M,
    network: N,
}

impl<M: Part, N: Part> Layer for Block<M, N> {
    type Scratch = (M::Scratch, N::Scratch);

    fn load(source: &Source<'_>) -> Result<Self> {
        Ok(Block { mixer: M::load(source)?, network: N::load(source)? })
    }

    fn scratch(layers: &[Self], workspace: &Workspace) -> Self::Scratch {
        let mixers = M::scratch(workspace, layers.iter().map(|layer| &layer.mixer));
        (mixers, N::scratch(workspace, layers.iter().map(|layer| &layer.network)))
    }

    fn second(&self) -> usize {
        self.mixer.second().max(self.network.second())
    }

    fn forward(&self, pass: &mut Pass<'_>, (mixer, network): &mut Self::Scratch) {
        self.mixer.forward(pass, mixer);
        self.network.forward(pass, network);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.mixer.list(list);
        self.network.list(list);
    }
}

/// A layer that is one part: `x += part(norm(x))`.
pub(crate) struct Single<P>(P);

impl<P: Part> Layer for Single<P> {
    type Scratch = P::Scratch;

    fn load(source: &Source<'_>) -> Result<Self> {
        Ok(Single(P::load(source)?))
    }

    fn scratch(layers: &[Self], workspace: &Workspace) -> P::Scratch {
        P::scratch(workspace, layers.iter().map(|Single(part)| part))
    }

    fn forward(&self, pass: &mut Pass<'_>, scratch: &mut P::Scratch) {
        self.0.forward(pass, scratch);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.0.list(list);
    }
}

/// One of two parts, whichever the list of the first says.
pub(crate) enum Either<A, B> {
    A(A),
    B(B),
}

impl<A: Part, B: Part> Part for Either<A, B> {
    /// Its own are those of both.
    const WORD: &'static str = "";
    const LIST: &'static str = A::LIST;
    type Scratch = (A::Scratch, B::Scratch);

    fn is_called(word: &str) -> bool {
        A::is_called(word) || B::is_called(word)
    }

    fn load(source: &Source<'_>) -> Result<Self> {
        let word = source.config.word(A::LIST, source.layer)?;
        if A::is_called(word) {
            Ok(Either::A(A::load(source)?))
        } else if B::is_called(word) {
            Ok(Either::B(B::load(source)?))
        } else {
            Err(source.config.unknown_word(A::LIST))
        }
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Self::Scratch {
        let a = layers.clone().filter_map(|layer| match layer {
            Either::A(part) => Some(part),
            Either::B(_) => None,
        });
        let b = layers.filter_map(|layer| match layer {
            Either::A(_) => None,
            Either::B(part) => Some(part),
        });
        (A::scratch(workspace, a), B::scratch(workspace, b))
    }

    fn read(&self, pass: &mut Pass<'_>, (a, b): &mut Self::Scratch) {
        match self {
            Either::A(part) => part.read(pass, a),
            Either::B(part) => part.read(pass, b),
        }
    }

    fn add(&self, pass: &mut Pass<'_>, (a, b): &mut Self::Scratch) {
        match self {
            Either::A(part) => part.add(pass, a),
            Either::B(part) => part.add(pass, b),
        }
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        match self {
            Either::A(part) => part.list(list),
            Either::B(part) => part.list(list),
        }
    }
}

/// Two parts side by side, both of which see the residual stream before either adds to it.
pub(crate) struct Beside<A, B>(A, B);

impl<A: Part, B: Part> Part for Beside<A, B> {
    /// No file chooses between it and another one.
    const WORD: &'static str = "";
    type Scratch = (A::Scratch, B::Scratch);

    fn load(source: &Source<'_>) -> Result<Self> {
        Ok(Beside(A::load(source)?, B::load(source)?))
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Self::Scratch {
        let a = A::scratch(workspace, layers.clone().map(|layer| &layer.0));
        (a, B::scratch(workspace, layers.map(|layer| &layer.1)))
    }

    fn read(&self, pass: &mut Pass<'_>, (a, b): &mut Self::Scratch) {
        self.0.read(pass, a);
        self.1.read(pass, b);
    }

    fn add(&self, pass: &mut Pass<'_>, (a, b): &mut Self::Scratch) {
        self.0.add(pass, a);
        self.1.add(pass, b);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let before = list.copy_stream();
        self.0.list(list);
        list.reading(before, |list| self.1.list(list));
    }
}

/// Two parts, one behind the other, of which the second alone sees what the first adds: `x +=
/// b(norm(x + a(norm(x))))`.
pub(crate) struct Ahead<A, B> {
    a: A,
    b: B,
    d_model: usize,
}

impl<A: Part, B: Part> Part for Ahead<A, B> {
    /// No file chooses between it and another one.
    const WORD: &'static str = "";
    /// Last, the residual stream as it was (d_model).
    type Scratch = (A::Scratch, B::Scratch, Panel);

    fn load(source: &Source<'_>) -> Result<Self> {
        let (a, b) = (A::load(source)?, B::load(source)?);
        Ok(Ahead { a, b, d_model: source.config.d_model })
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Self::Scratch {
        let d_model = layers.clone().map(|layer| layer.d_model).max().unwrap_or(0);
        let a = A::scratch(workspace, layers.clone().map(|layer| &layer.a));
        let b = B::scratch(workspace, layers.map(|layer| &layer.b));
        (a, b, Panel::new(d_model, workspace))
    }

    fn read(&self, pass: &mut Pass<'_>, (a, _, _): &mut Self::Scratch) {
        self.a.read(pass, a);
    }

    fn add(&self, pass: &mut Pass<'_>, (a, b, before): &mut Self::Scratch) {
        let columns = pass.stages.batch.columns;
        before.copy(&pass.streams.x, columns);
        self.a.add(pass, a);
        self.b.read(pass, b);
        pass.streams.x.copy(before, columns);
        self.b.add(pass, b);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        let before = list.copy_stream();
        self.a.list(list);
        let (x, ahead) = (list.x(), list.values("residual ahead", self.d_model));
        list.map(ahead, of(x));
        list.map(x, of(before));
        list.reading(ahead, |list| self.b.list(list));
    }
}
