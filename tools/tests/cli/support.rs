//! Shared by the tests: running the binary, and a tiny RWKV-7 checkpoint with random weights and
//! 256 byte tokens.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Width, head size, hidden width, vocabulary, layers and rank of the tiny model. Not multiples of
/// the group, on purpose.
const C: usize = 48;
const N: usize = 16;
const F: usize = 80;
const V: usize = 256;
const LAYERS: usize = 2;
const RANK: usize = 8;

/// The outputs and the exit code of a finished command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) raw: Vec<u8>,
    pub(crate) err: String,
}

impl Finished {
    /// Asserts success and returns stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Asserts success and returns the JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Asserts that it failed with `code`, one line on stderr and nothing on stdout; returns the
    /// line.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        let line = self.err.strip_suffix('\n').unwrap_or_else(|| panic!("{self:?}"));
        assert!(line.starts_with("brooklet: ") && !line.contains('\n'), "{line:?}");
        line.to_owned()
    }
}

/// The binary, without what the environment of the test might say to it.
pub(crate) fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(args).env_remove("BROOKLET_MODEL").env_remove("BROOKLET_ISA");
    command
}

/// Runs the binary with an empty stdin.
pub(crate) fn brooklet<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Finished {
    with_input(args, b"")
}

/// Runs the binary with `input` on stdin.
pub(crate) fn with_input<A: AsRef<OsStr>>(
    args: impl IntoIterator<Item = A>,
    input: &[u8],
) -> Finished {
    finish(&mut command(args), input)
}

/// Runs a prepared command with `input` on stdin.
pub(crate) fn finish(command: &mut Command, input: &[u8]) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(input);
    let output = child.wait_with_output().expect("the binary ends");
    Finished {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        raw: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// An empty folder that vanishes with its handle.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Names of the files in a folder.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> String {
    path.to_str().expect("a path of the test is UTF-8").to_owned()
}

/// The tiny model in f32, converted once.
pub(crate) fn model() -> PathBuf {
    static MODELS: OnceLock<TempDir> = OnceLock::new();
    let folder = MODELS.get_or_init(|| {
        let folder = folder();
        for dtype in ["f32", "int8", "int4"] {
            let target = folder.path().join(format!("{dtype}.brk"));
            let source = arg(&checkpoint());
            let args = ["convert", &source, "-o", &arg(&target), "--type", dtype];
            brooklet([&args[..], &["--calibrate=off"]].concat()).ok();
        }
        folder
    });
    folder.path().join("f32.brk")
}

/// The tiny model with a chat template, in `folder`.
pub(crate) fn model_with_template(folder: &Path, template: &str) -> PathBuf {
    let source = folder.join("tiny.safetensors");
    std::fs::copy(checkpoint(), &source).expect("copied");
    std::fs::write(folder.join("chat_template.jinja"), template).expect("written");
    let target = folder.join("templated.brk");
    brooklet(["convert", &arg(&source), "-o", &arg(&target), "--type", "f32"]).ok();
    target
}

/// The tiny model in another format.
pub(crate) fn model_in(dtype: &str) -> PathBuf {
    model().with_file_name(format!("{dtype}.brk"))
}

/// The tiny checkpoint: safetensors with BlinkDL's names.
pub(crate) fn checkpoint() -> PathBuf {
    static CHECKPOINT: OnceLock<TempDir> = OnceLock::new();
    let folder = CHECKPOINT.get_or_init(|| {
        let folder = folder();
        write_checkpoint(&folder.path().join("tiny.safetensors"), 1, LAYERS);
        folder
    });
    folder.path().join("tiny.safetensors")
}

/// Writes a checkpoint whose weights depend on `seed`.
pub(crate) fn write_checkpoint(path: &Path, seed: u64, layers: usize) {
    write_checkpoint_of(path, seed, layers, V);
}

/// [`write_checkpoint`] of a model of `n_vocab` tokens.
pub(crate) fn write_checkpoint_of(path: &Path, seed: u64, layers: usize, n_vocab: usize) {
    let mut file = Safetensors {
        random: fastrand::Rng::with_seed(seed),
        header: BTreeMap::new(),
        bytes: Vec::new(),
    };
    file.add("emb.weight", &[n_vocab, C], 0.0, 1.0);
    for i in 0..layers {
        let at = format!("blocks.{i}");
        for ln in ["ln0", "ln1", "ln2", "att.ln_x"].into_iter().filter(|ln| *ln != "ln0" || i == 0)
        {
            file.add(&format!("{at}.{ln}.weight"), &[C], 1.0, 0.1);
            file.add(&format!("{at}.{ln}.bias"), &[C], 0.0, 0.1);
        }
        for x in ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "v0"] {
            file.add(&format!("{at}.att.{x}"), &[1, 1, C], 0.5, 0.4);
        }
        file.add(&format!("{at}.att.w0"), &[1, 1, C], -2.0, 2.0);
        file.add(&format!("{at}.att.a0"), &[1, 1, C], 0.0, 1.0);
        file.add(&format!("{at}.att.r_k"), &[C / N, N], 0.0, 0.2);
        for letter in ["w", "a", "v", "g"] {
            file.add(&format!("{at}.att.{letter}1"), &[C, RANK], 0.0, 0.2);
            file.add(&format!("{at}.att.{letter}2"), &[RANK, C], 0.0, 0.2);
        }
        for name in ["receptance", "key", "value", "output"] {
            file.add(&format!("{at}.att.{name}.weight"), &[C, C], 0.0, 0.4);
        }
        file.add(&format!("{at}.ffn.x_k"), &[1, 1, C], 0.5, 0.4);
        file.add(&format!("{at}.ffn.key.weight"), &[F, C], 0.0, 0.3);
        file.add(&format!("{at}.ffn.value.weight"), &[C, F], 0.0, 0.3);
    }
    file.add("ln_out.weight", &[C], 1.0, 0.1);
    file.add("ln_out.bias", &[C], 0.0, 0.1);
    file.add("head.weight", &[n_vocab, C], 0.0, 0.3);
    std::fs::write(path, file.finish()).expect("the checkpoint is written");
}

/// Writes a folder with a Mamba-2 of one layer, of a few megabytes, whose state takes 268 MB.
pub(crate) fn write_large_state(folder: &Path) {
    const HEAD: usize = 64;
    let (inner, state, n_head) = (8192, 8192, 8192 / HEAD);
    let mut file = Safetensors {
        random: fastrand::Rng::with_seed(1),
        header: BTreeMap::new(),
        bytes: Vec::new(),
    };
    let columns = inner + 2 * state;
    file.add("backbone.embeddings.weight", &[64, 16], 0.0, 1.0);
    file.add("backbone.norm_f.weight", &[16], 1.0, 0.1);
    for (name, shape) in [
        ("norm.weight", &[16][..]),
        ("mixer.in_proj.weight", &[inner + columns + n_head, 16]),
        ("mixer.conv1d.weight", &[columns, 1, 4]),
        ("mixer.conv1d.bias", &[columns]),
        ("mixer.dt_bias", &[n_head]),
        ("mixer.A_log", &[n_head]),
        ("mixer.D", &[n_head]),
        ("mixer.norm.weight", &[inner]),
        ("mixer.out_proj.weight", &[16, inner]),
    ] {
        file.add(&format!("backbone.layers.0.{name}"), shape, 0.1, 0.1);
    }
    std::fs::write(folder.join("model.safetensors"), file.finish()).expect("written");
    let config = json!({"model_type": "mamba2", "num_hidden_layers": 1, "hidden_size": 16,
        "layer_norm_epsilon": 1e-5, "state_size": state, "head_dim": HEAD, "num_heads": n_head,
        "n_groups": 1, "expand": inner / 16, "conv_kernel": 4});
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
}

/// A safetensors file under construction.
struct Safetensors {
    random: fastrand::Rng,
    header: BTreeMap<String, Value>,
    bytes: Vec<u8>,
}

impl Safetensors {
    /// A tensor of values evenly within `spread` of `middle`.
    fn add(&mut self, name: &str, shape: &[usize], middle: f32, spread: f32) {
        let start = self.bytes.len();
        for _ in 0..shape.iter().product() {
            let value = middle + spread * (2.0 * self.random.f32() - 1.0);
            self.bytes.extend(value.to_le_bytes());
        }
        let entry =
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, self.bytes.len()] });
        self.header.insert(name.to_owned(), entry);
    }

    fn finish(self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).expect("a header");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(self.bytes);
        file
    }
}
