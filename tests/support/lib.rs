//! The things that tests across crates share: where the fixtures are, reading NumPy files,
//! converting and running models.

mod liar;
pub mod random_rwkv;
pub mod rwkv;
pub mod rwkv_layouts;
pub mod sources;
mod texts;
mod unpack;
pub mod write;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use brooklet::{Engine, EngineOptions, Isa, Model, ModelOptions, Run, State, Want};
use brooklet_formats::DType;
use brooklet_formats::convert::{ConvertOptions, convert};

pub use self::liar::Liar;
pub use self::texts::written_alone;

/// One model of each architecture, below `fixtures`.
pub const MODELS: &[&str] = &[
    "rwkv4_hf-a/model.safetensors",
    "rwkv5.0-a/model.pth",
    "rwkv5.2-a/model.pth",
    "rwkv6-a/model.pth",
    "rwkv7-bf16/model.pth",
    "lstm-a",
    "gru-a",
    "mamba-a",
    "falcon_mamba-a",
    "mamba2-a",
    "mamba2-d",
    "mamba3-a",
    "log_linear_mamba2-a",
    "xlstm-a",
    "rodimus-a",
    "gated_deltanet-c",
    "gated_deltaproduct-a",
    "kda-a",
    "comba-a",
    "mesa_net-a",
    "gla-a",
    "hgrn2-a",
    "retnet-a",
    "mom-a",
    "lightnet-a",
    "gsa-a",
    "hgrn-a",
    "rwkv6_fla-a",
    "qwen3_5-a",
    "qwen3_5_moe-a",
    "qwen3_next-a",
    "lara_mini-a",
    "qwen4_exp-a",
    "inkling-a",
    "kimi_linear-b",
    "bailing_hybrid-a",
    "lfm2-a",
    "lfm2_moe-a",
    "granitemoehybrid-c",
    "granitemoehybrid-a",
    "bamba-b",
    "nemotron_h-a",
    "lfm3-a",
    "samba-a",
    "nemotron_h-c",
    "jamba-a",
    "minimax-a",
    "falcon_h1-a",
    "olmo_hybrid-a",
    "recurrent_gemma-a",
    "zamba-a",
    "zamba2-b",
    "zaya-a",
];

/// The folder of reference fixtures beside the checkout (`$BROOKLET_SHARED`, else `../shared`), if
/// it is there.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("BROOKLET_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    path.is_dir().then_some(path)
}

/// `path` as the repository carries it, else below [`shared`], there maybe in an archive; `None`,
/// with a line that says so, when it is in neither.
pub fn fixture(path: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let found = Some(own)
        .into_iter()
        .chain(shared().map(|shared| shared.join(path)))
        .find(|path| path.exists())
        .or_else(|| unpack::unpacked(&shared()?, path));
    if found.is_none() {
        eprintln!("skipped: {path} is not in ../shared");
    }
    found
}

/// Reads a JSON file.
///
/// # Panics
/// It cannot be read.
pub fn read_json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A NumPy array of f32 or i32: shape, and values as f32.
pub struct Array {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// C order.
    pub values: Vec<f32>,
}

/// Reads a `.npy` file of little-endian f32 or i32 in C order.
///
/// # Panics
/// The file is not such a file.
pub fn read_npy(path: &Path) -> Array {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..6], b"\x93NUMPY", "{}", path.display());
    let (start, len) = if bytes[6] == 1 {
        (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]])))
    } else {
        (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize)
    };
    let header = std::str::from_utf8(&bytes[start..start + len]).expect("header is text");
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape = header.split('(').nth(1).and_then(|s| s.split(')').next()).expect("a shape");
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let body = &bytes[start + len..];
    let values = if header.contains("'<f4'") {
        body.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    } else if header.contains("'<i4'") {
        body.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect()
    } else {
        panic!("{}: {header}", path.display())
    };
    Array { shape, values }
}

/// Converts `source` into a file in `folder` and returns its path.
///
/// # Panics
/// The conversion fails.
pub fn converted(source: &Path, folder: &Path, dtype: DType) -> PathBuf {
    // Windows replaces no file that is mapped: each has a name of its own.
    static CONVERTED: AtomicUsize = AtomicUsize::new(0);
    let number = CONVERTED.fetch_add(1, Ordering::Relaxed);
    let target = folder.join(format!("{}-{number}.brk", dtype.name()));
    convert(source, &target, &ConvertOptions::new(dtype), &mut |_| ControlFlow::Continue(()))
        .unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    target
}

/// 5000 tokens that follow each other as in a text, more or less.
pub fn tokens(n_vocab: usize) -> Vec<u32> {
    let (mut seed, mut last) = (1u32, 0);
    let n = n_vocab.min(120) as u32;
    (0..5000)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = seed >> 16;
            last = if noise & 3 == 0 { noise % n } else { (last * 5 + 3 + (noise >> 4) % 2) % n };
            last
        })
        .collect()
}

/// Opens a model on a certain instruction set.
///
/// # Panics
/// It cannot be opened.
pub fn open(path: &Path, isa: Isa) -> Model {
    open_for(path, isa, DType::F32)
}

/// [`open`] with states kept as `state`.
///
/// # Panics
/// It cannot be opened.
pub fn open_for(path: &Path, isa: Isa, state: DType) -> Model {
    Model::open_with(path, &ModelOptions::new().isa(Some(isa)).state(state))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every architecture whose fixture is here, converted: its name, and the file.
pub fn architectures(folder: &Path, dtype: DType) -> impl Iterator<Item = (&'static str, PathBuf)> {
    MODELS.iter().filter_map(move |name| {
        let source = fixture(&format!("fixtures/{name}"))?;
        Some((*name, converted(&source, folder, dtype)))
    })
}

/// The smallest format of states that the model takes: int8 where it has attention, else f16.
///
/// # Panics
/// It cannot be opened.
pub fn smallest_state(path: &Path) -> DType {
    let has_attention = !open(path, Isa::scalar()).state_layout().paged().is_empty();
    if has_attention { DType::Int8 } else { DType::F16 }
}

/// Every value of a state, slot after slot.
pub fn values(state: &State) -> Vec<f32> {
    (0..state.layout().slots().len()).flat_map(|slot| state.get(slot).into_owned()).collect()
}

/// Logits after every token, from an empty state, `chunk` tokens per forward pass.
///
/// # Panics
/// A forward pass fails.
pub fn logits(model: &Model, tokens: &[u32], chunk: usize, threads: usize) -> Vec<f32> {
    run(model, tokens, chunk, threads).0
}

/// [`logits`], and the state after the last token.
///
/// # Panics
/// A forward pass fails.
pub fn run(model: &Model, tokens: &[u32], chunk: usize, threads: usize) -> (Vec<f32>, State) {
    let mut engine =
        Engine::new(model, &EngineOptions::new().threads(threads).chunk(chunk).logits(chunk));
    let mut state = model.new_state();
    let mut all = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let run = Run { state: &mut state, tokens, want: Want::All };
        engine.forward(&mut [run]).unwrap_or_else(|e| panic!("{e}"));
        (0..tokens.len()).for_each(|i| all.extend_from_slice(engine.logits(i)));
    }
    (all, state)
}

/// Converts `model` in the fixture `folder` to f32 and compares its logits after every token with
/// those in the file `expected`, in plain loops and on this machine's instruction set; then `more`
/// gets the model, the tokens and `fixture.json`. Skips, visibly, what is not there.
///
/// # Panics
/// They differ by more than `tolerance`.
pub fn check_logits(
    folder: &str,
    model: &str,
    expected: &str,
    tolerance: f32,
    more: impl Fn(&Model, &[u32], &serde_json::Value),
) {
    let find = |name: &str| fixture(&format!("fixtures/{folder}/{name}"));
    let (Some(source), Some(expected)) = (find(model), find(expected)) else { return };
    let json = read_json(&find("fixture.json").expect("it lies with the model"));
    let tokens: Vec<u32> = serde_json::from_value(json["token_ids"].clone()).expect("token ids");
    let expected = read_npy(&expected);
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(&source, temp.path(), DType::F32);
    for isa in [Isa::scalar(), Isa::detect()] {
        let opened = open(&file, isa);
        let found = logits(&opened, &tokens, 16, 2);
        let difference = max_difference(&found, &expected.values);
        println!("{folder} {model} on {}: logits {difference:.2e}", isa.name());
        assert!(difference < tolerance, "{folder} {model}: {difference} on {}", isa.name());
        more(&opened, &tokens, &json);
    }
}

/// Converts the model `name` that was trained for this project to f32 and compares its logits over
/// held-out text, 256 tokens of it. Skips, visibly, what is not there.
///
/// # Panics
/// They differ by more than 1e-4 of the largest.
pub fn check_trained(name: &str) {
    let Some(folder) = fixture(&format!("models/{name}")) else { return };
    let ids = read_npy(&folder.join("fixtures/ids.npy"));
    let tokens: Vec<u32> = ids.values.iter().take(256).map(|&id| id as u32).collect();
    let expected = read_npy(&folder.join("fixtures/logits.npy"));
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(&folder, temp.path(), DType::F32);
    let found = logits(&open(&file, Isa::detect()), &tokens, 64, 2);
    let expected = &expected.values[..found.len()];
    let difference = max_difference(&found, expected);
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    println!("{name}: {difference:.2e} of {largest}");
    assert!(difference < 1e-4 * largest, "{name}: {difference}");
}

/// The largest absolute difference; NaN counts as infinite.
///
/// # Panics
/// The lengths differ.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// The bits of values, for exact comparison.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Tokens for a model, different for each `seed`.
pub fn some_tokens(model: &Model, n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 37 + seed * 91 + i * i % 29) % model.n_vocab()) as u32).collect()
}
