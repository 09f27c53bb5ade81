//! Checkpoints against real files, and the fixtures' readers for the tests beside this one.
//!
//! Here: every fixture opened, listed and read whole; twins compared; small files truncated at
//! every byte and flipped. Third-party fixtures lie outside the repository and are skipped in the
//! open where absent.

mod folders;
mod quantized;
mod tensor;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Checkpoint, CheckpointKind};

/// A file of the shared fixtures, or `None` with a note.
pub(super) fn shared(name: &str) -> Option<PathBuf> {
    let root = env::var_os("BROOKLET_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// A temporary file with these bytes, alone in its folder.
pub(super) fn temporary(bytes: &[u8]) -> Temporary {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, bytes).unwrap();
    Temporary { _folder: folder, path }
}

pub(super) struct Temporary {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// An array of a `.npz` file: raw bytes in C order.
pub(super) struct Npy {
    pub(super) bytes: Vec<u8>,
}

impl Npy {
    pub(super) fn f32(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

/// Reads a `.npz` file: a zip of `.npy` files, whose header ends at `10 + u16 at byte 8`.
pub(super) fn npz_at(path: &Path) -> HashMap<String, Npy> {
    let file = fs::File::open(path).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let n_entry = zip.len();
    let read = |i| {
        let mut entry = zip.by_index(i).unwrap();
        let name = entry.name().unwrap().trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        (name, Npy { bytes: bytes.split_off(header) })
    };
    let names = 0..n_entry;
    names.map(read).collect()
}

/// Opens `bytes` cut at every length, and with every byte changed in three ways, and reads what can
/// be opened. An error or a checkpoint, never a panic; short of all its bytes, never a whole read.
pub(super) fn survives_every_cut_and_flip(bytes: &[u8]) {
    let file = temporary(bytes);
    let read_all = |bytes: &[u8]| {
        fs::write(file.path(), bytes).unwrap();
        let checkpoint = Checkpoint::open(file.path())?;
        let small = checkpoint.tensors().iter().filter(|tensor| tensor.numel() < 1 << 16);
        small.into_iter().try_for_each(|tensor| checkpoint.read(&tensor.name).map(drop))
    };
    read_all(bytes).unwrap();
    for len in 0..bytes.len() {
        let _ = read_all(&bytes[..len]);
    }
    let mut flipped = bytes.to_vec();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            flipped[at] ^= mask;
            let _ = read_all(&flipped);
            flipped[at] ^= mask;
        }
    }
}

/// A checkpoint may be read by several threads at once.
const _: fn() = || {
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Checkpoint>();
};

fn open(name: &str) -> Option<Checkpoint> {
    Some(Checkpoint::open(&shared(name)?).unwrap())
}

/// Every weight file and folder of the fixtures and models opens, and every tensor reads to its
/// end, whole and in rows.
#[test]
fn everything_shared_reads() {
    let (Some(fixtures), Some(models)) = (shared("fixtures"), shared("models")) else { return };
    let mut n_file = 0;
    let mut folders = vec![fixtures, models];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if ["safetensors", "pth", "gguf", "bin"].contains(&extension)
                && !name.starts_with("expected")
            {
                let checkpoint = Checkpoint::open(&path).unwrap();
                let (mut part, mut bytes) = (Vec::new(), 0);
                for tensor in checkpoint.tensors() {
                    let whole = checkpoint.read(&tensor.name).unwrap();
                    assert_eq!(
                        whole.len(),
                        tensor.shape.iter().product::<usize>(),
                        "{path:?} {}",
                        tensor.name
                    );
                    assert!(whole.iter().all(|x| x.is_finite()), "{path:?} {}", tensor.name);
                    let (rows, row_len) = tensor.matrix_shape();
                    let range = rows / 3..rows - rows / 4;
                    part.clear();
                    checkpoint.read_rows(&tensor.name, range.clone(), &mut part).unwrap();
                    assert_eq!(
                        part,
                        whole[range.start * row_len..range.end * row_len],
                        "{path:?} {}",
                        tensor.name
                    );
                    bytes += tensor.dtype.bytes_of(tensor.numel()).unwrap();
                }
                // Nearly all of the file is tensors: none was overlooked.
                let len = fs::metadata(&path).unwrap().len();
                assert!(bytes * 2 > len, "{path:?}: {bytes} of {len}");
                n_file += 1;
            }
        }
    }
    assert!(n_file > 40, "{n_file}");
}

/// The kinds of whole folders, with their texts.
#[test]
fn folders_are_told_apart() {
    for (name, kind, model_type, tokenizer) in [
        ("fixtures/mamba-a", CheckpointKind::HuggingFace, Some("mamba"), false),
        ("fixtures/mamba-a/config.json", CheckpointKind::HuggingFace, Some("mamba"), false),
        ("fixtures/mamba-a/model.safetensors", CheckpointKind::HuggingFace, Some("mamba"), false),
        ("fixtures/mamba-a-original", CheckpointKind::StateSpaces, None, false),
        ("fixtures/mamba2-a-original/pytorch_model.bin", CheckpointKind::StateSpaces, None, false),
        ("fixtures/rwkv7_fla-bf16", CheckpointKind::HuggingFace, Some("rwkv7"), false),
        ("fixtures/rwkv7-a", CheckpointKind::Pickle, None, false),
        ("fixtures/gguf-mamba-a/model-Q8_0.gguf", CheckpointKind::Gguf, None, false),
        ("models/mamba2-demo", CheckpointKind::HuggingFace, Some("mamba2"), true),
        ("models/rwkv7-demo", CheckpointKind::Pickle, None, true),
        ("models/rwkv7-nano/rwkv7-nano.safetensors", CheckpointKind::Safetensors, None, true),
    ] {
        let Some(checkpoint) = open(name) else { return };
        assert_eq!(checkpoint.kind(), kind, "{name}");
        let found = checkpoint.config().and_then(|config| config["model_type"].as_str());
        assert_eq!(found, model_type, "{name}");
        assert_eq!(checkpoint.tokenizer_json().is_some(), tokenizer, "{name}");
    }
}

/// The same weights in two files: a `.bin` and a `.safetensors`, names but one alike.
#[test]
fn pickles_agree_with_safetensors() {
    for (a, b) in [
        ("fixtures/mamba-a-original", "fixtures/mamba-a"),
        ("fixtures/mamba2-a-original", "fixtures/mamba2-a"),
        (
            "fixtures/rwkvcpp-tiny/7v0-834K/blinkdl-7v0-834K-f32.pth",
            "fixtures/rwkvcpp-tiny/7v0-834K/blinkdl-7v0-834K-f32.safetensors",
        ),
    ] {
        let (Some(a), Some(b)) = (open(a), open(b)) else { return };
        for tensor in b.tensors() {
            let name = tensor.name.replace("backbone.embeddings.", "backbone.embedding.");
            assert_eq!(a.get(&name).unwrap().shape, tensor.shape, "{name}");
            assert_eq!(a.read(&name).unwrap(), b.read(&tensor.name).unwrap(), "{name}");
        }
    }
}

/// Files that PyTorch itself wrote: every float type and kind of view, a wrapped state dict, the
/// legacy format.
#[test]
fn files_that_pytorch_wrote() {
    let fixture =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let expected = Checkpoint::open(&fixture("torch-expected.safetensors")).unwrap();
    let mut n_tensor = 0;
    for (file, prefix) in [
        ("torch-views.pth", "views."),
        ("torch-module-protocol4.pth", "module."),
        ("torch-legacy.pth", "module."),
    ] {
        let checkpoint = Checkpoint::open(&fixture(file)).unwrap();
        assert_eq!(checkpoint.kind(), CheckpointKind::Pickle);
        for tensor in checkpoint.tensors() {
            let name = format!("{prefix}{}", tensor.name);
            assert_eq!(tensor.shape, expected.get(&name).unwrap().shape, "{name}");
            assert_eq!(
                checkpoint.read(&tensor.name).unwrap(),
                expected.read(&name).unwrap(),
                "{name}"
            );
            n_tensor += usize::from(file != "torch-legacy.pth");
        }
    }
    assert_eq!(n_tensor, expected.tensors().len());
    let legacy = Checkpoint::open(&fixture("torch-legacy.pth")).unwrap();
    let today = Checkpoint::open(&fixture("torch-module-protocol4.pth")).unwrap();
    assert_eq!(legacy.tensors().len(), today.tensors().len());
    survives_every_cut_and_flip(&fs::read(fixture("torch-legacy.pth")).unwrap());
}

/// Against the `safetensors` crate.
#[test]
fn safetensors_agree_with_the_reference_crate() {
    for name in ["fixtures/mamba2-a/model.safetensors", "fixtures/rwkv7_fla-bf16/model.safetensors"]
    {
        let (Some(path), Some(checkpoint)) = (shared(name), open(name)) else { return };
        let bytes = fs::read(path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reference.len(), checkpoint.tensors().len());
        for (name, view) in reference.tensors() {
            assert_eq!(checkpoint.get(&name).unwrap().shape, view.shape());
            let mut expected = Vec::new();
            super::decode::decode(checkpoint.get(&name).unwrap().dtype, view.data(), &mut expected);
            assert_eq!(checkpoint.read(&name).unwrap(), expected, "{name}");
        }
    }
}

/// rwkv.cpp's FP32 files against the same weights under BlinkDL's names: what is stored as it is
/// must be equal, LoRA matrices are transposed, the six mixing vectors of RWKV-7 lie in one tensor.
#[test]
fn rwkvcpp_agrees_with_blinkdl() {
    for size in ["4v0-660K", "5v2-730K", "7v0-834K"] {
        let folder = format!("fixtures/rwkvcpp-tiny/{size}");
        let Some(blinkdl) = open(&format!("{folder}/blinkdl-{size}-f32.safetensors")) else {
            return;
        };
        let Some(fp32) = open(&format!("{folder}/tiny-rwkv-{size}-FP32.bin")) else { return };
        let fp16 = shared(&format!("{folder}/tiny-rwkv-{size}-FP16.bin"))
            .map(|path| Checkpoint::open(&path).unwrap());
        assert_eq!(fp32.kind(), CheckpointKind::RwkvCpp);
        for tensor in fp32.tensors() {
            let name = &tensor.name;
            let stored = fp32.read(name).unwrap();
            if let Some(fp16) = &fp16 {
                let near = fp16.read(name).unwrap();
                let error = stored
                    .iter()
                    .zip(&near)
                    .map(|(a, b)| (a - b).abs() / (a.abs() + 1e-4))
                    .fold(0.0, f32::max);
                assert!(error < 1e-3, "{name}: {error}");
            }
            if let Some(layer) = name.strip_suffix("x_rwkvag") {
                for (i, letter) in "rwkvag".chars().enumerate() {
                    let part = &stored[i * stored.len() / 6..(i + 1) * stored.len() / 6];
                    assert_eq!(
                        part,
                        blinkdl.read(&format!("{layer}x_{letter}")).unwrap(),
                        "{name}"
                    );
                }
                continue;
            }
            let original = blinkdl.read(name).unwrap();
            let shape = &blinkdl.get(name).unwrap().shape;
            let squeezed =
                |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
            if name.ends_with("time_decay") {
                let exp = original
                    .iter()
                    .map(|w| if size.starts_with('4') { -w.exp() } else { (-w.exp()).exp() });
                assert!(stored.iter().zip(exp).all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
            } else if name.contains(".att.") && name.ends_with(['1', '2']) {
                let (rows, cols) = (shape[0], shape[1]);
                assert_eq!(tensor.shape, [cols, rows], "{name}");
                let transposed: Vec<_> =
                    (0..stored.len()).map(|i| original[i % rows * cols + i / rows]).collect();
                assert_eq!(stored, transposed, "{name}");
            } else {
                let flat = name.ends_with("r_k");
                assert!(flat || squeezed(&tensor.shape) == squeezed(shape), "{name}");
                assert_eq!(stored, original, "{name}");
            }
        }
    }
}

/// GGUF files against the model that they were made from: equal in F32 and BF16 (the source is
/// bf16), near it in the others.
#[test]
fn gguf_agrees_with_its_source() {
    let mamba: &[_] = &[
        ("token_embd.weight", "backbone.embeddings.weight"),
        ("output_norm.weight", "backbone.norm_f.weight"),
        ("blk.1.ssm_in.weight", "backbone.layers.1.mixer.in_proj.weight"),
        ("blk.1.ssm_out.weight", "backbone.layers.1.mixer.out_proj.weight"),
        ("blk.1.ssm_conv1d.weight", "backbone.layers.1.mixer.conv1d.weight"),
    ];
    let rwkv: &[_] = &[
        ("token_embd.weight", "emb.weight"),
        ("output.weight", "head.weight"),
        ("blk.1.time_mix_key.weight", "blocks.1.att.key.weight"),
        ("blk.1.channel_mix_value.weight", "blocks.1.ffn.value.weight"),
        ("blk.1.time_mix_w0.weight", "blocks.1.att.w0"),
    ];
    for (gguf, source, names) in [
        ("gguf-mamba-a", "mamba-a", mamba),
        ("gguf-mamba2-a", "mamba2-a", mamba),
        ("gguf-rwkv7-bf16", "rwkv7-bf16", rwkv),
    ] {
        let Some(source) = open(&format!("fixtures/{source}")) else { return };
        for (dtype, bound) in
            [("F32", 0.0), ("BF16", 0.0), ("F16", 1e-3), ("Q8_0", 0.01), ("Q4_0", 0.15)]
        {
            let Some(path) = shared(&format!("fixtures/{gguf}/model-{dtype}.gguf")) else {
                continue;
            };
            let checkpoint = Checkpoint::open(&path).unwrap();
            assert!(checkpoint.metadata()["general.architecture"].as_str().is_some());
            assert!(checkpoint.metadata()["tokenizer.ggml.tokens"].as_texts().is_some());
            for (name, original) in names {
                let (a, b) = (checkpoint.read(name).unwrap(), source.read(original).unwrap());
                let shape = &checkpoint.get(name).unwrap().shape;
                assert_eq!(
                    shape[0],
                    source.get(original).unwrap().shape.iter().copied().find(|&n| n != 1).unwrap()
                );
                assert_eq!(a.len(), b.len(), "{name}");
                let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
                let error = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error <= bound * largest, "{path:?} {name}: {error} of {largest}");
            }
        }
    }
}

/// Real files, cut at many lengths: an error, never a panic, and never all tensors.
#[test]
fn real_files_cut_short() {
    for name in [
        "fixtures/rwkv7-bf16/model.pth",
        "fixtures/rwkv7_fla-bf16/model.safetensors",
        "fixtures/gguf-mamba2-a/model-Q4_0.gguf",
        "fixtures/rwkvcpp-tiny/7v0-834K/tiny-rwkv-7v0-834K-FP16.bin",
    ] {
        let Some(path) = shared(name) else { continue };
        let file = temporary(&fs::read(&path).unwrap());
        let whole = Checkpoint::open(file.path()).unwrap().tensors().len();
        let handle = fs::OpenOptions::new().write(true).open(file.path()).unwrap();
        let mut len = fs::metadata(file.path()).unwrap().len();
        while len > 0 {
            // A hundred lengths, closer near the end and near the start.
            len = if len < 400 { len - 7.min(len) } else { len - 1 - len / 50 };
            handle.set_len(len).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(file.path()) {
                assert!(checkpoint.tensors().len() < whole, "{name} of {len} bytes");
            }
        }
    }
}

/// A tensor larger than memory is read by rows: the file is sparse, the rows are few.
#[test]
fn rows_of_a_tensor_of_sixteen_gigabytes() {
    let header = br#"{"t":{"dtype":"BF16","shape":[2097152,4096],"data_offsets":[0,17179869184]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    let file = temporary(&bytes);
    let handle = fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    if handle.set_len(bytes.len() as u64 + 17_179_869_184).is_err() {
        eprintln!("skipped: no sparse files here");
        return;
    }
    if usize::BITS < 64 {
        // A number of elements that no address has room for.
        let error = Checkpoint::open(file.path()).err().unwrap().to_string();
        return assert!(error.contains("one whose product fits 32 bits"), "{error}");
    }
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    let mut rows = Vec::new();
    checkpoint.read_rows("t", 2_097_136..2_097_152, &mut rows).unwrap();
    assert_eq!(rows, [0.0; 16 * 4096]);
    assert!(rows.capacity() < 1 << 17);
}
