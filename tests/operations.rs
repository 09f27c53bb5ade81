//! The list of operations of every architecture against its pages: the interpreter of the list
//! gives the logits and the states of a forward pass, bit by bit.
//!
//! The interpreter runs pieces in the worst order that the stages allow, so that operations that
//! need each other, but stand in one stage, show.

use std::collections::BTreeSet;
use std::path::Path;

use brooklet::{
    DType, Device, Engine, EngineError, EngineOptions, Isa, Model, ModelOptions, Run, State, Want,
};
use brooklet_tests::write::{edited, in_columns};
use brooklet_tests::{MODELS, bits, converted, fixture, some_tokens, values};
use serde_json::json;

/// Architectures that have a list.
const LISTED: &[&str] = &[
    "rwkv4",
    "rwkv5",
    "rwkv6",
    "rwkv7",
    "mamba1",
    "mamba2",
    "gated_deltanet",
    "kda",
    "comba",
    "qwen3_5",
    "olmo_hybrid",
    "lfm2",
    "falcon_h1",
    "bamba",
    "granitemoehybrid",
    "nemotron_h",
    "lfm3",
    "samba",
    "granitemoehybrid_moe",
    "jamba",
    "lara_mini",
    "lfm2_moe",
    "qwen3_5_moe",
    "qwen3_next",
    "bailing_hybrid",
    "gla",
    "hgrn",
    "hgrn2",
    "kimi_linear",
    "lightnet",
    "minimax",
    "recurrent_gemma",
    "retnet",
    "zamba",
    "zamba2",
    "gated_deltaproduct",
    "rodimus_plus",
    "xlstm",
    "gsa",
    "mamba3",
    "log_linear_mamba2",
    "mom",
    "mesa_net",
    "zaya",
    "inkling",
    "qwen4_exp",
    "lstm",
    "gru",
];

fn open(path: &Path, device: Device, state: DType) -> Result<Model, EngineError> {
    let isa = Some(Isa::scalar());
    Model::open_with(path, &ModelOptions::new().isa(isa).state(state).device(device))
}

/// The logits of two texts, in passes of a few tokens of each, then of one; their states behind
/// them.
fn run(model: &Model, is_long: bool) -> (Vec<u32>, [State; 2]) {
    let options = EngineOptions::new().threads(1).chunk(8).logits(8);
    let mut engine = Engine::new(model, &options);
    let mut states = [model.new_state(), model.new_state()];
    let texts = [1, 2].map(|seed| some_tokens(model, 9, seed));
    let mut logits = Vec::new();
    for (a, b, want) in [(0..3, 0..1, Want::All), (3..4, 1..6, Want::Last), (4..9, 6..9, Want::All)]
    {
        let [state_a, state_b] = &mut states;
        let rows = if want == Want::All { a.len() + b.len() } else { 1 };
        let first = if want == Want::All { Want::All } else { Want::None };
        engine
            .forward(&mut [
                Run { state: state_a, tokens: &texts[0][a], want: first },
                Run { state: state_b, tokens: &texts[1][b], want },
            ])
            .unwrap_or_else(|e| panic!("{e}"));
        (0..rows).for_each(|row| logits.extend(bits(engine.logits(row))));
    }
    // Token by token, which is a program of its own.
    for (i, token) in some_tokens(model, 5, 3).into_iter().enumerate() {
        let want = if i == 2 { Want::None } else { Want::Last };
        let state = &mut states[i / 4];
        let passed = engine.forward(&mut [Run { state, tokens: &[token], want }]);
        passed.unwrap_or_else(|e| panic!("{e}"));
        if want == Want::Last {
            logits.extend(bits(engine.logits(0)));
        }
    }
    if is_long && !model.state_layout().paged().is_empty() {
        remember(&mut engine, &mut states[0], &mut logits);
    }
    (logits, states)
}

/// More tokens than a page of keys has, and a fork that shares the pages of their beginning.
fn remember(engine: &mut Engine, state: &mut State, logits: &mut Vec<u32>) {
    let text = some_tokens(engine.model(), 100, 4);
    for tokens in text.chunks(8) {
        let passed = engine.forward(&mut [Run { state, tokens, want: Want::Last }]);
        passed.unwrap_or_else(|e| panic!("{e}"));
    }
    let mut fork = state.clone();
    for token in &text[..3] {
        for state in [&mut *state, &mut fork] {
            let passed = engine.forward(&mut [Run { state, tokens: &[*token], want: Want::Last }]);
            passed.unwrap_or_else(|e| panic!("{e}"));
            logits.extend(bits(engine.logits(0)));
        }
    }
}

/// Compares what `device` computes with the processor, for every architecture with a list, number
/// format and format of states; gives the architectures.
fn compare(device: Device, formats: &[DType]) -> BTreeSet<String> {
    let (mut listed, mut failures) = (BTreeSet::new(), Vec::new());
    // The first so many, or those with one of these words in their name: a tool makes all slow.
    let only = std::env::var("BROOKLET_CARD_MODELS").unwrap_or_default();
    let most = only.parse().unwrap_or(usize::MAX);
    let words: Vec<&str> = only.split(',').filter(|_| most == usize::MAX).collect();
    // The first so many formats, likewise.
    let few = std::env::var("BROOKLET_CARD_FORMATS").unwrap_or_default();
    let formats = &formats[..few.parse().unwrap_or(formats.len()).min(formats.len())];
    for name in MODELS {
        if listed.len() >= most {
            break;
        }
        if !words.is_empty() && !words.iter().any(|word| name.contains(word)) {
            continue;
        }
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let temp = tempfile::tempdir().expect("a temporary folder");
        let file = converted(&source, temp.path(), DType::F32);
        match open(&file, device, DType::F32) {
            Ok(model) => {
                #[cfg(feature = "cuda")]
                Engine::card_plan(&model, &EngineOptions::new()).expect("kernels for it");
                listed.insert(model.meta().architecture.clone());
                if let Err(error) = Engine::verify(&model) {
                    failures.push(format!("{name}: {error}"));
                    continue;
                }
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let before = failures.len();
        for &dtype in formats {
            let file = converted(&source, temp.path(), dtype);
            for state in [DType::F32, DType::F16] {
                // Keys and values do not depend on how weights are kept.
                let is_long = dtype == formats[0];
                let found = run(&open(&file, device, state).expect("a list"), is_long);
                let expected = run(&open(&file, Device::Cpu, state).expect("a model"), is_long);
                let differing = found.0.iter().zip(&expected.0).filter(|(a, b)| a != b).count();
                let of = format!("{name} in {dtype}, states in {state}");
                if differing != 0 || found.0.len() != expected.0.len() {
                    failures.push(format!("{of}: {differing} of {} logits", expected.0.len()));
                }
                if found.1 != expected.1 {
                    failures.push(format!("{of}: states"));
                }
            }
        }
        if failures.len() == before {
            println!("{name}: the same bits");
        }
    }
    // All of them are compared first: time on a card is dear.
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    listed
}

#[test]
fn lists_compute_what_pages_do() {
    let formats =
        [DType::F32, DType::Int8, DType::Int4, DType::Int4V1, DType::Bf16, DType::Fp8E4m3];
    let listed = compare(Device::Interpreter, &formats);
    println!("lists: {listed:?}");
    if fixture("fixtures/kda-a").is_some() {
        let missing = LISTED.iter().filter(|name| !listed.contains(**name));
        assert_eq!(missing.count(), 0, "{listed:?}");
    }
}

/// Compares what `device` computes of models that no fixture is: corrected delta rules of several
/// steps, key heads that value heads share, also in turns; steps that are left out.
fn compare_edited(device: Device) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut files = Vec::new();
    for (name, corrected) in
        [("gated_deltaproduct-a", false), ("gated_deltaproduct-a", true), ("comba-a", true)]
    {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let source = converted(&source, temp.path(), DType::F32);
        for (n_key_head, d_key) in [(4, 16), (2, 32)] {
            for is_tiled in [false, true] {
                let file = temp.path().join(format!("{name}-{}.brk", files.len()));
                let config = [
                    ("n_key_head", json!(n_key_head)),
                    ("d_key", json!(d_key)),
                    ("is_tiled", json!(is_tiled)),
                    ("has_correction", json!(corrected)),
                ];
                let (shares, given) = (vec![0.9, 1.0, 0.3, 0.7], vec![0.2, 0.5, -0.1, 0.4]);
                let vectors = [("in_proj.beta", "key_share", shares), ("in_proj.beta", "D", given)];
                let is_new = corrected && name != "comba-a";
                edited(&source, &file, &config, if is_new { &vectors } else { &[] });
                files.push(file);
            }
        }
    }
    for (name, beside) in [("mamba-a", "dt_proj.bias"), ("mamba2-a", "dt_bias")] {
        let source = fixture(&format!("fixtures/{name}")).expect("one of the repository");
        let source = converted(&source, temp.path(), DType::F32);
        let file = temp.path().join(format!("{name}-least.brk"));
        let bytes = brooklet_formats::brk::BrkFile::open(&source).expect("a model");
        let n = bytes.tensors().iter().find(|info| info.name.ends_with(beside));
        let n = n.expect("the bias of steps").shape[0];
        let least = (0..n).map(|i| [0.0, 0.01, 0.05, 1e9][i % 4]).collect();
        edited(&source, &file, &[], &[(beside, "dt_least", least)]);
        files.push(file);
    }
    for file in &files {
        for state in [DType::F32, DType::F16] {
            let [found, expected] = [device, Device::Cpu]
                .map(|device| run(&open(file, device, state).expect("a list"), false));
            assert!(found.0 == expected.0, "{}: logits", file.display());
            assert!(found.1 == expected.1, "{}: states", file.display());
        }
    }
    println!("{} edited models: the same bits", files.len());
}

#[test]
fn lists_compute_what_no_fixture_is() {
    compare_edited(Device::Interpreter);
}

/// Compares what `device` computes of models in columns with the processor's pages of the same
/// models in tiles: cards are given tiles.
fn compare_columns(device: Device) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut compared = 0;
    for name in ["rwkv4_hf-a/model.safetensors", "rwkv7-bf16/model.pth", "jamba-a"] {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        for dtype in [DType::Int4, DType::Int8] {
            let tiles = converted(&source, temp.path(), dtype);
            let columns = tiles.with_extension("columns.brk");
            assert!(in_columns(&tiles, &columns) > 0, "{name}");
            let expected = run(&open(&tiles, Device::Cpu, DType::F32).expect("a model"), false);
            for isa in [Isa::scalar(), Isa::detect()] {
                let options = ModelOptions::new().isa(Some(isa)).device(device);
                let found = run(&Model::open_with(&columns, &options).expect("a list"), false);
                let of = format!("{name} in {dtype} on {}", isa.name());
                assert!(found.0 == expected.0, "{of}: logits");
                // States know their model, whose file is another one.
                assert!(
                    found.1.iter().map(values).eq(expected.1.iter().map(values)),
                    "{of}: states"
                );
                compared += 1;
            }
        }
    }
    println!("{compared} models in columns: the same bits");
}

#[test]
fn lists_read_columns() {
    compare_columns(Device::Interpreter);
}

/// The same on a card, whose kernels give the processor's bits.
#[test]
#[cfg(feature = "cuda")]
fn a_card_computes_what_pages_do() {
    match brooklet::cards() {
        Ok(cards) if cards.is_empty() => return println!("SKIPPED: no card here"),
        Ok(cards) => println!("{cards:?}"),
        Err(error) => panic!("{error}"),
    }
    let formats = [
        DType::Int4,
        DType::Int8,
        DType::Int4V1,
        DType::Int5,
        DType::Int6,
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::Fp8E4m3,
        DType::Fp8E5m2,
        DType::Lmul,
    ];
    compare(Device::Cuda(0), &formats);
    compare_columns(Device::Cuda(0));
    compare_edited(Device::Cuda(0));
}
