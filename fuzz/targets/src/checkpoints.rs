//! The targets of foreign checkpoints: opened, read whole, converted, and what was converted run.
//!
//! The readers take files, so the input becomes one, in memory where the system has such a folder.
//! A `config.json` beside it, which some families need, is the part of the input behind [`CONFIG`].

use std::cell::RefCell;
use std::fs;
use std::io::{Cursor, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::convert::{ConvertOptions, convert};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

/// The bytes between the checkpoint and its `config.json`.
pub const CONFIG: &[u8] = b"\0config.json\0";
/// Elements of the tensors that are read and of the checkpoints that are converted.
const SMALL: usize = 1 << 20;

/// A `.safetensors` file.
pub fn safetensors(bytes: &[u8]) {
    in_a_folder(bytes);
}

/// llama.cpp's GGUF.
pub fn gguf(bytes: &[u8]) {
    in_a_folder(bytes);
}

/// PyTorch's archive; a bare pickle is put into one first, since a fuzzer finds no entry's
/// checksum.
pub fn torch(bytes: &[u8]) {
    if bytes.starts_with(&[0x80]) {
        in_a_folder(&archive(bytes).expect("an archive in memory"));
    }
    in_a_folder(bytes);
}

/// An archive with this pickle and some storages.
fn archive(pickle: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("m/data.pkl", stored)?;
    zip.write_all(pickle)?;
    for i in 0..40 {
        zip.start_file(format!("m/data/{i}"), stored)?;
        zip.write_all(&[0x3d; 256])?;
    }
    Ok(zip.finish()?.into_inner())
}

/// rwkv.cpp's file.
pub fn rwkv_cpp(bytes: &[u8]) {
    in_a_folder(bytes);
}

fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
}

/// Reads `bytes` as a checkpoint in a folder that this thread uses again.
fn in_a_folder(bytes: &[u8]) {
    thread_local!(static FOLDER: RefCell<TempDir> = RefCell::new(folder()));
    FOLDER.with_borrow(|folder| {
        let folder = folder.path();
        let split = bytes.windows(CONFIG.len()).position(|window| window == CONFIG);
        let config = folder.join("config.json");
        match split {
            Some(at) => fs::write(&config, &bytes[at + CONFIG.len()..]).expect("a file"),
            None => drop(fs::remove_file(&config)),
        }
        let source = folder.join("model.bin");
        fs::write(&source, &bytes[..split.unwrap_or(bytes.len())]).expect("a file");
        explore(&source, &folder.join("model.brk"));
    });
}

fn explore(source: &Path, target: &Path) {
    let Ok(checkpoint) = Checkpoint::open(source) else { return };
    let mut rows = Vec::new();
    let mut total = 0_usize;
    for tensor in checkpoint.tensors() {
        let (n, cols) = tensor.matrix_shape();
        assert_eq!(tensor.numel(), n * cols, "{:?}", tensor.shape);
        total = total.saturating_add(tensor.numel());
        rows.clear();
        if tensor.numel() <= SMALL {
            let _ = checkpoint.read_rows(&tensor.name, 0..n, &mut rows);
        } else if cols <= SMALL {
            let _ = checkpoint.read_rows(&tensor.name, n - 1..n, &mut rows);
        }
    }
    if total > SMALL {
        return;
    }
    for dtype in [DType::Int8, DType::F16] {
        let go_on = &mut |_: brooklet_formats::convert::Progress<'_>| ControlFlow::Continue(());
        if convert(source, target, &ConvertOptions::new(dtype), go_on).is_ok() {
            let file = BrkFile::open(target).expect("what the converter writes, the reader opens");
            crate::weights::run(&file).expect("what the converter writes, the engine opens");
        }
    }
}
