//! Layers one by one are the model: of every architecture, the same bits as a forward pass; and an
//! observer is told every column of every matrix once.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use brooklet::layerwise::{Inputs, Layerwise, Observer, TensorSpec, Weights};
use brooklet::{Engine, EngineOptions, Isa, Model, Run, Want};
use brooklet_formats::DType;
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_formats::quant::{TileLayout, encode_tile};
use brooklet_formats::zeroed::Zeroed;
use brooklet_tests::{MODELS, converted, fixture, logits, open};
use regex_lite::Regex;

const TOKENS: usize = 70;

fn texts(model: &Model) -> Vec<Vec<u32>> {
    let n = model.n_vocab().min(250);
    (1..3).map(|t| (0..TOKENS / t).map(|i| ((i * 7 + t) % n) as u32).collect()).collect()
}

fn options(threads: usize) -> EngineOptions {
    EngineOptions::new().threads(threads).chunk(32)
}

/// Columns seen, by matrix and first row.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<(String, usize), usize>>);

impl Observer for Counts {
    fn product(&self, name: &str, first_row: usize, x: &Inputs<'_>) {
        let columns = x.columns();
        let mut counts = self.0.lock().expect("no panic");
        *counts.entry((name.to_owned(), first_row)).or_default() += columns.len();
        for x in columns {
            assert!(x.iter().all(|x| x.is_finite()), "{name}");
        }
    }
}

/// The last hidden state of every text, from layers run one by one.
fn hidden(
    model: &Model,
    threads: usize,
    instead: &HashMap<String, Weights>,
    observer: Option<Arc<dyn Observer>>,
) -> Vec<f32> {
    let mut all = Layerwise::new(model, texts(model), &options(threads)).expect("texts");
    for i in 0..model.n_layer() {
        let mut layer = all.layer(i, instead, observer.clone()).expect("a layer");
        for text in 0..all.n_texts() {
            all.run(&mut layer, text, true).expect("a pass");
        }
    }
    let d_model = model.d_model();
    let last =
        |text: usize| Some(all.x(text).chunks_exact(all.width()).last()?[..d_model].to_vec());
    (0..all.n_texts()).filter_map(last).flatten().collect()
}

/// The same from forward passes.
fn reference(model: &Model) -> Vec<Vec<f32>> {
    let mut engine = Engine::new(model, &options(1));
    let last = |text: Vec<u32>| {
        let mut state = model.new_state();
        for tokens in text.chunks(32) {
            let run = Run { state: &mut state, tokens, want: Want::None };
            engine.forward(&mut [run]).expect("a pass");
        }
        let mut out = vec![0.0; model.d_model()];
        engine.hidden((text.len() - 1) % 32, &mut out).expect("the last token");
        out
    };
    texts(model).into_iter().map(last).collect()
}

/// The final norm, by way of what the head is told.
struct Normed(Mutex<Vec<f32>>);

impl Observer for Normed {
    fn product(&self, _: &str, _: usize, x: &Inputs<'_>) {
        *self.0.lock().expect("no panic") = x.columns().last().expect("a column").to_vec();
    }
}

#[test]
fn layers_one_by_one_are_the_model() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let model = open(&converted(&source, temp.path(), DType::F32), Isa::detect());
        let counts = Arc::new(Counts::default());
        let mut all = Layerwise::new(&model, texts(&model), &options(2)).expect("texts");
        assert_eq!(all.n_texts(), 2);
        let mut specs: Vec<TensorSpec> = Vec::new();
        for i in 0..model.n_layer() {
            specs.extend(all.tensors(i).expect("tensors"));
            let observer = Arc::clone(&counts);
            let mut layer = all.layer(i, &HashMap::new(), Some(observer)).expect("a layer");
            for text in 0..2 {
                // Running does not change a text that is not to be kept.
                let before = all.x(text).to_vec();
                if i == 0 {
                    all.run(&mut layer, text, false).expect("a pass");
                    assert_eq!(all.x(text), before, "{name}");
                    counts.0.lock().expect("no panic").clear();
                }
            }
            for text in 0..2 {
                all.run(&mut layer, text, true).expect("a pass");
            }
        }
        for (text, expected) in reference(&model).into_iter().enumerate() {
            let seen = Normed(Mutex::default());
            all.head("head", text, &seen);
            assert_eq!(*seen.0.lock().expect("no panic"), expected, "{name}, text {text}");
        }
        let counts = counts.0.lock().expect("no panic");
        let n_tokens = TOKENS + TOKENS / 2;
        for spec in specs.iter().filter(|spec| spec.is_matrix) {
            if model.file().tensor(&spec.name).is_none() {
                assert!(spec.is_optional, "{name}: {}", spec.name);
                continue;
            }
            let of =
                |((other, _), n): (&(String, usize), &usize)| (*other == spec.name).then_some(*n);
            let seen: Vec<usize> = counts.iter().filter_map(of).collect();
            let total: usize = seen.iter().sum();
            if spec.is_table {
                assert_eq!(total, 0, "{name}: {spec:?}");
                continue;
            }
            if spec.part_rows == spec.shape[0] {
                // A multiple where layers share weights.
                assert!(total > 0 && total.is_multiple_of(n_tokens), "{name}: {spec:?}, {seen:?}");
                assert_eq!(seen.len(), 1, "{name}: {spec:?}");
            } else {
                assert!(total > 0, "{name}: {spec:?}");
                let part = spec.part_rows.next_multiple_of(16);
                let of_parts = |((other, row), _): (&(String, usize), &usize)| {
                    *other != spec.name || row.is_multiple_of(part)
                };
                assert!(counts.iter().all(of_parts), "{name}: {spec:?}");
            }
        }
        let known = |name: &str| specs.iter().any(|spec| spec.is_matrix && *spec.name == *name);
        assert!(counts.keys().all(|(other, _)| known(other)), "{name}");
    }
}

#[test]
fn matrices_are_replaced_and_inputs_are_exact() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("in the repository");
    // The embedding is normed while it is converted: the same rounding in both.
    let mut asked = ConvertOptions::new(DType::F32);
    asked.overrides.push((Regex::new("embed").expect("a pattern"), DType::Bf16));
    let exact = temp.path().join("exact.brk");
    convert(&source, &exact, &asked, &mut |_| ControlFlow::Continue(())).expect("a model");
    let exact = open(&exact, Isa::detect());
    let file = open(&converted(&source, temp.path(), DType::Bf16), Isa::detect());
    let none = HashMap::new();
    let counts = || Some(Arc::new(Counts::default()) as Arc<dyn Observer>);
    // Observed, a bf16 file computes as f32 does; not observed, it rounds its inputs.
    let expected = hidden(&exact, 1, &none, None);
    assert_eq!(hidden(&file, 2, &none, counts()), expected);
    assert_ne!(hidden(&file, 1, &none, None), expected);
    // A matrix of zeros instead changes the result, and one of another shape is refused.
    let spec = file.file().tensor("layers.0.att.key").expect("a matrix").info;
    let weights = |rows: usize| {
        let layout = TileLayout::new(DType::Int8, rows, spec.shape[1], 32).expect("a layout");
        let mut bytes = Zeroed::new(layout.total_bytes());
        for tile in bytes.chunks_exact_mut(layout.encoded_bytes()) {
            encode_tile(&layout, &vec![0.0; layout.tile_floats()], tile).expect("zeros");
        }
        HashMap::from([(spec.name.clone(), Weights::new(layout, bytes))])
    };
    assert_ne!(hidden(&file, 1, &weights(spec.shape[0]), counts()), expected);
    let all = Layerwise::new(&file, texts(&file), &options(1)).expect("texts");
    let error = all.layer(0, &weights(16), None).err().expect("another shape");
    assert!(error.to_string().contains("layers.0.att.key"), "{error}");
}

/// Logits after every token of a text, from layers run one by one.
fn layerwise_logits(
    walk: &mut Layerwise,
    n_layer: usize,
    instead: &HashMap<String, Weights>,
) -> Vec<f32> {
    for i in 0..n_layer {
        let mut layer = walk.layer(i, instead, None).expect("a layer");
        for text in 0..walk.n_texts() {
            walk.run(&mut layer, text, true).expect("a pass");
        }
    }
    let mut all = Vec::new();
    walk.logits(0, 0..TOKENS, &mut all);
    let mut some = Vec::new();
    walk.logits(0, 5..9, &mut some);
    let n_vocab = all.len() / TOKENS;
    assert_eq!(some, all[5 * n_vocab..9 * n_vocab]);
    all
}

#[test]
fn a_model_with_other_matrices_is_the_file_that_has_them() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let exact = open(&converted(&source, temp.path(), DType::F32), Isa::detect());
        // Only rounded: vectors stay as they are.
        let asked = ConvertOptions { equalize: false, ..ConvertOptions::new(DType::Int8) };
        let other = temp.path().join("other.brk");
        convert(&source, &other, &asked, &mut |_| ControlFlow::Continue(())).expect("a model");
        let other = open(&other, Isa::detect());
        let matrices = other.file().tensors().iter().filter_map(|info| {
            let layout = info.tile_layout()?;
            let tensor = other.file().tensor(&info.name)?;
            let mut bytes = Zeroed::new(layout.total_bytes());
            bytes.copy_from_slice(&tensor.bytes);
            Some((info.name.clone(), Weights::new(layout, bytes)))
        });
        let instead: HashMap<String, Weights> = matrices.collect();
        let (texts, none) = (texts(&exact), HashMap::new());
        let walk = |model: &Model| Layerwise::new(model, texts.clone(), &options(8));
        let altered = exact.with(&instead).expect("the same shapes");
        let mut ours = walk(&altered).expect("texts");
        let first = ours.streams();
        let found = layerwise_logits(&mut ours, exact.n_layer(), &instead);
        assert!(found == logits(&other, &texts[0], 32, 1), "{name}");
        // Back at the first layer, it is the same again.
        ours.put(&first);
        let again = layerwise_logits(&mut ours, exact.n_layer(), &instead);
        assert!(again == found, "{name}");
        let exactly = layerwise_logits(&mut walk(&exact).expect("texts"), exact.n_layer(), &none);
        assert!(exactly == logits(&exact, &texts[0], 32, 1) && exactly != found, "{name}");
    }
}

#[test]
fn texts_are_checked() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("in the repository");
    let model = open(&converted(&source, temp.path(), DType::Int8), Isa::detect());
    let refused = |texts| Layerwise::new(&model, texts, &options(1)).err().map(|e| e.to_string());
    assert!(refused(vec![vec![0], vec![]]).is_some());
    let error = refused(vec![vec![model.n_vocab() as u32]]).expect("no such token");
    assert!(error.contains(&model.n_vocab().to_string()), "{error}");
    assert_eq!(refused(vec![vec![0]]), None);
}
