//! Equalization (`formats/src/convert/equalize`): the function of every architecture stays to the
//! bit, twins lose no more than what they are twins of, and hostile weights do nothing.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::{Isa, Model};
use brooklet_formats::DType;
use brooklet_formats::atomic::Target;
use brooklet_formats::brk::{self, BrkFile, BrkWriter};
use brooklet_formats::convert::{ConvertOptions, Equalized, convert, equalized_copy};
use brooklet_formats::quant::decode_row;
use brooklet_quantize::{Options, requantize};
use brooklet_tests::random_rwkv::{self, N_LAYER};
use brooklet_tests::rwkv::Weights;
use brooklet_tests::{MODELS, bits, converted, fixture, logits, open, some_tokens, write};
use regex_lite::Regex;

/// Numbers of which each is as likely.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % n
    }
}

/// Writes `from`, an f32 file, with the columns of matrices, and other tensors, changed: `change`
/// gets names and rows (of other tensors, all values).
fn rewritten(from: &Path, to: &Path, mut change: impl FnMut(&str, &mut [f32])) {
    let file = BrkFile::open(from).expect("a file");
    let target = Target::new(to, brk::KIND, [from]);
    let tokenizer = file.tokenizer_blob().expect("a tokenizer").to_vec();
    let mut writer = BrkWriter::create(&target, file.meta().clone(), tokenizer).expect("room");
    for info in file.tensors() {
        let tensor = file.require(&info.name).expect("a tensor");
        let Some(layout) = info.tile_layout() else {
            let mut values = tensor.as_f32().expect("f32").to_vec();
            change(&info.name, &mut values);
            writer.plain(&info.name, &info.shape, &values).expect("room");
            continue;
        };
        let (rows, cols) = (layout.rows, layout.cols);
        let read = |rows: std::ops::Range<usize>, out: &mut Vec<f32>| {
            for row in rows {
                let start = out.len();
                out.resize(start + cols, 0.0);
                decode_row(&layout, &tensor.bytes, row, &mut out[start..]);
                change(&info.name, &mut out[start..]);
            }
            Ok(())
        };
        writer.matrix(&info.name, rows, cols, layout.dtype, 0, read).expect("room");
    }
    writer.finish().expect("room");
}

/// Equalizes for `dtype`; none if there is nothing to do.
fn equalized(from: &Path, to: &Path, dtype: DType) -> Option<Equalized> {
    let file = BrkFile::open(from).expect("a file");
    let options = ConvertOptions::new(dtype);
    equalized_copy(&file, to, &options, &mut |_| Ok(())).expect("a copy")
}

#[test]
fn the_function_of_every_architecture_stays() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (number, name) in MODELS.iter().enumerate() {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let at = |kind: &str| temp.path().join(format!("{kind}-{number}.brk"));
        let (uneven, even) = (at("uneven"), at("even"));
        // Columns of 1/4 to 4 times their size: another function, which has something to equalize.
        let plain = converted(&source, temp.path(), DType::F32);
        let file = BrkFile::open(&plain).expect("a file");
        let is_matrix = |name: &str| file.tensor(name).is_some_and(|t| t.as_f32().is_none());
        rewritten(&plain, &uneven, |name, row| {
            // The same in every row.
            let mut random = Random(name.len() as u64 + 1);
            let factors = row.iter_mut().map(|v| (v, (random.below(5) as f32 - 2.0).exp2()));
            factors.filter(|_| is_matrix(name)).for_each(|(v, factor)| *v *= factor);
        });
        let found = equalized(&uneven, &even, DType::Int8);
        if ["lstm-a", "gru-a"].contains(name) {
            assert!(found.is_none(), "{name}");
            continue;
        }
        let Some(found) = found else { panic!("{name}: nothing was equalized") };
        assert!(found.pairs > 1 && found.largest >= 2.0, "{name}: {found:?}");
        let of = |path: &Path| {
            let model = open(path, Isa::detect());
            logits(&model, &some_tokens(&model, 9, 0), 4, 1)
        };
        let (expected, found) = (of(&uneven), of(&even));
        assert!(expected.iter().all(|v| v.is_finite()), "{name}");
        assert!(bits(&expected) == bits(&found), "{name}");
        assert_eq!(equalized(&uneven, &even, DType::F16), None, "{name}");
    }
}

/// Multiplies a channel: rows of one tensor, columns of another.
fn scale(weights: &mut Weights, name: &str, channel: usize, is_row: bool, factor: f32) {
    let tensor = weights.get_mut(name).unwrap_or_else(|| panic!("{name}"));
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let is_vector = tensor.shape.len() == 1;
    for (i, v) in tensor.values.iter_mut().enumerate() {
        let at = if is_row && !is_vector { i / cols } else { i % cols };
        *v *= if at == channel { factor } else { 1.0 };
    }
}

/// An RWKV-7, and one with the same function and channels of up to 96 times, or a 96th of, the
/// size of others.
fn twins(direction: i32) -> (Weights, Weights) {
    let (d_ff, d_model) = (256, 128);
    let model = random_rwkv::rwkv7([2, d_model / 2], d_ff, [32, 32, 32, 32], false);
    let (mut twin, mut random) = (model.clone(), Random(7));
    let mut factor = || (96.0f32).powf(direction as f32 * (0.3 + random.below(8) as f32 / 10.0));
    let norm = |twin: &mut Weights, norm: &str, channel: usize, factor: f32| {
        scale(twin, &format!("{norm}.weight"), channel, false, factor);
        scale(twin, &format!("{norm}.bias"), channel, false, factor);
    };
    for i in 0..N_LAYER {
        let at = |name: &str| format!("blocks.{i}.{name}");
        for j in 0..4 {
            let (channel, c) = (3 + 31 * j, factor());
            scale(&mut twin, &at("ffn.key.weight"), 2 * channel, true, c);
            scale(&mut twin, &at("ffn.value.weight"), 2 * channel, false, 1.0 / (c * c));
            let c = factor();
            norm(&mut twin, &at("ln2"), channel, c);
            scale(&mut twin, &at("ffn.key.weight"), channel, false, 1.0 / c);
            let c = factor();
            norm(&mut twin, &at("ln1"), channel + 1, c);
            for name in ["receptance", "key", "value"] {
                let name = at(&format!("att.{name}.weight"));
                scale(&mut twin, &name, channel + 1, false, 1.0 / c);
            }
            for name in ["w1", "a1", "v1", "g1"] {
                let name = at(&format!("att.{name}"));
                if twin.contains_key(&name) {
                    scale(&mut twin, &name, channel + 1, true, 1.0 / c);
                }
            }
        }
    }
    let c = factor();
    norm(&mut twin, "ln_out", 5, c);
    scale(&mut twin, "head.weight", 5, false, 1.0 / c);
    (model, twin)
}

/// The relative error of logits.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v).powi(2);
    let errors: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (errors / expected.iter().map(|v| square(*v)).sum::<f64>()).sqrt()
}

#[test]
fn twins_lose_no_more() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let read = |path: &Path| {
        let model = Model::open(path).expect("a model");
        logits(&model, &some_tokens(&model, 60, 3), 20, 1)
    };
    let made = |weights: &Weights, name: &str, options: &ConvertOptions| -> PathBuf {
        let source = temp.path().join(format!("{name}.safetensors"));
        write::safetensors(&source, weights);
        let target = temp.path().join(format!("{name}-{}.brk", options.dtype));
        convert(&source, &target, options, &mut |_| ControlFlow::Continue(())).expect("converted");
        target
    };
    for direction in [1, -1] {
        let (model, twin) = twins(direction);
        let name = |of: &str| format!("{of}{direction}");
        let exact = read(&made(&model, &name("model"), &ConvertOptions::new(DType::F32)));
        let f32 = made(&twin, &name("twin"), &ConvertOptions::new(DType::F32));
        assert!(error(&read(&f32), &exact) < 1e-5, "a twin is the same function");
        for dtype in [DType::Int8, DType::Int5, DType::Int4, DType::Int4V1] {
            let options = ConvertOptions::new(dtype);
            let uneven = ConvertOptions { equalize: false, ..options.clone() };
            let plain = error(&read(&made(&model, &name("model"), &uneven)), &exact);
            let worse = error(&read(&made(&twin, &name("uneven"), &uneven)), &exact);
            let converted = made(&twin, &name("even"), &options);
            let even = error(&read(&converted), &exact);
            println!("{dtype} {direction}: {plain:.4}, twin {worse:.4}, equalized {even:.4}");
            assert!(worse > 1.5 * plain, "{dtype}: {worse} of {plain}");
            assert!(even < 1.25 * plain, "{dtype}: {even} of {plain}");

            // Written again from f32, the same weights; and what the file says of it.
            let again = temp.path().join(name("again"));
            let again_options = Options {
                formats: options.clone(),
                calibration: None,
                imatrix: None,
                threads: 1,
                inputs: Vec::new(),
                recipe: "again".to_owned(),
            };
            let done = requantize(&f32, &again, &again_options, &mut |_| ControlFlow::Continue(()))
                .expect("written");
            assert!(done.equalized.is_some_and(|found| found.pairs > 6 && found.largest > 16.0));
            let open = |path: &Path| BrkFile::open(path).expect("a file");
            assert_eq!(open(&again).fingerprint(), open(&converted).fingerprint(), "{dtype}");
            for file in [open(&again), open(&converted)] {
                let recipe = &file.meta().provenance.recipe;
                assert!(recipe.contains("equalized"), "{recipe}");
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(temp.path()).expect("a folder").flatten().collect();
    let is_copy = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".equal");
    assert!(!left.iter().any(|entry| is_copy(&entry.file_name())), "copies are removed");
}

/// Formats that lose nothing, and options, leave weights as they are.
#[test]
fn what_stays_as_it_is() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = temp.path().join("twin.safetensors");
    let (_, twin) = twins(1);
    write::safetensors(&source, &twin);
    let file = |name: &str, options: &ConvertOptions| {
        let target = temp.path().join(name);
        convert(&source, &target, options, &mut |_| ControlFlow::Continue(())).expect("converted");
        BrkFile::open(&target).expect("a file")
    };
    let value = |file: &BrkFile, name: &str| {
        let tensor = file.require(name).expect("a tensor");
        bits(tensor.as_f32().expect("f32"))
    };
    let norm = "layers.1.ln2.weight";
    let as_it_is = bits(&twin["blocks.1.ln2.weight"].values);
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let options = ConvertOptions::new(dtype);
        let off = ConvertOptions { equalize: false, ..options.clone() };
        let (on, off) = (file("on.brk", &options), file("off.brk", &off));
        assert_eq!(value(&on, norm), as_it_is);
        // The whole file, with what it says of its making.
        assert_eq!(on.fingerprint(), off.fingerprint());
        assert_eq!(on.meta().provenance.recipe, off.meta().provenance.recipe);
    }
    let mut options = ConvertOptions::new(DType::Int8);
    assert_ne!(value(&file("int8.brk", &options), norm), as_it_is);
    // f16 would round what is divided; all others are equalized.
    let key = Regex::new(r"layers\.1\.ffn\.key").expect("a pattern");
    options.overrides = vec![(key.clone(), DType::F16)];
    let mixed = file("mixed.brk", &options);
    assert_eq!(value(&mixed, norm), as_it_is);
    assert_ne!(value(&mixed, "layers.2.ln2.weight"), bits(&twin["blocks.2.ln2.weight"].values));
    options.overrides = vec![(key, DType::Bf16)];
    assert_eq!(value(&file("mixed.brk", &options), norm), as_it_is, "nothing is rounded there");
    options = ConvertOptions { equalize: false, ..ConvertOptions::new(DType::Int8) };
    let off = file("off8.brk", &options);
    assert_eq!(value(&off, norm), as_it_is);
    let recipe = &off.meta().provenance.recipe;
    assert!(recipe.ends_with("--type int8 --no-equalize"), "{recipe}");
}

#[test]
fn hostile_weights_stay_as_they_are() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (source, plain) = (temp.path().join("x.safetensors"), temp.path().join("x.brk"));
    let (_, twin) = twins(1);
    write::safetensors(&source, &twin);
    let options = ConvertOptions::new(DType::F32);
    convert(&source, &plain, &options, &mut |_| ControlFlow::Continue(())).expect("converted");
    let wild = [0.0, -0.0, 1e-45, 1e-38, f32::MIN_POSITIVE, 1e20, f32::MAX, f32::MIN];
    for (i, one) in wild.into_iter().enumerate() {
        let (odd, even) = (temp.path().join(format!("{i}.brk")), temp.path().join(format!("{i}e")));
        let is_odd = |name: &str| ["ffn.", "ln", "head"].iter().any(|part| name.contains(part));
        rewritten(&plain, &odd, |name, row| {
            // Channels 0 and 5, of biases too.
            [0, 5].into_iter().filter(|_| is_odd(name)).for_each(|at| row[at] = one);
        });
        let Some(_) = equalized(&odd, &even, DType::Int8) else { continue };
        let (before, after) = (BrkFile::open(&odd).expect("ok"), BrkFile::open(&even).expect("ok"));
        for info in after.tensors() {
            let values = |file: &BrkFile| {
                let tensor = file.require(&info.name).expect("a tensor");
                let layout = tensor.info.tile_layout();
                let Some(layout) = layout else { return tensor.as_f32().expect("f32").to_vec() };
                let mut row = vec![0.0; layout.cols];
                decode_row(&layout, &tensor.bytes, 7, &mut row);
                row
            };
            let (before, after) = (values(&before), values(&after));
            assert!(after.iter().all(|v| v.is_finite()), "{one:e}: {}", info.name);
            if info.name.ends_with("ln2.weight") {
                assert_eq!(bits(&before[..1]), bits(&after[..1]), "{one:e}: {}", info.name);
            }
        }
        // Whatever could be rounded before can be afterwards.
        let to_int8 = |equalize: bool| {
            let formats = ConvertOptions { equalize, ..ConvertOptions::new(DType::Int8) };
            let (calibration, inputs, recipe) = (None, Vec::new(), String::new());
            let options =
                Options { formats, calibration, imatrix: None, threads: 1, inputs, recipe };
            let target = temp.path().join(format!("{i}-{equalize}.brk"));
            requantize(&odd, &target, &options, &mut |_| ControlFlow::Continue(())).is_ok()
        };
        assert_eq!(to_int8(true), to_int8(false), "{one:e}");
    }
}
