//! `convert`: summary, overrides, and that a target is whole or not there.

use std::path::Path;

use crate::support::{arg, brooklet, checkpoint, folder, names_in};

/// Formats of the tensors of a file, by name.
fn formats(path: &Path) -> Vec<(String, String)> {
    let report = brooklet(["inspect", &arg(path), "--json"]).json();
    let tensors = report["tensors"].as_array().expect("tensors").iter();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    tensors.map(|tensor| (text(&tensor["name"]), text(&tensor["format"]))).collect()
}

fn format_of(formats: &[(String, String)], name: &str) -> String {
    formats.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
}

#[test]
fn the_summary_tells_sizes_and_bits() {
    let folder = folder();
    let target = arg(&folder.path().join("out.brk"));
    let done = brooklet([
        "convert",
        &arg(&checkpoint()),
        "-o",
        &target,
        "--type",
        "int4",
        "--calibrate=off",
    ]);
    assert_eq!(done.err, "", "no progress bar where stderr is a pipe");
    let text = done.ok();
    assert!(
        text.contains("rwkv7")
            && text.contains("bits per weight")
            && text.contains("tokenizer bytes"),
        "{text}"
    );
    let json =
        brooklet(["convert", &arg(&checkpoint()), "-o", &target, "--type", "f32", "--json"]).json();
    assert_eq!(json["architecture"], "rwkv7");
    assert!(json["bits_per_weight"].as_f64().is_some_and(|bits| bits >= 32.0), "{json}");
    assert_eq!(json["target_bytes"], std::fs::metadata(&target).expect("the file").len());
    assert_eq!(
        brooklet(["convert", &arg(&checkpoint()), "-o", &target, "--type", "f16", "-q"]).ok(),
        ""
    );
    assert_eq!(names_in(folder.path()), ["out.brk"]);
}

#[test]
fn formats_follow_type_group_and_overrides() {
    let folder = folder();
    let target = folder.path().join("out.brk");
    let done = brooklet([
        "convert",
        &arg(&checkpoint()),
        "-o",
        &arg(&target),
        "--type",
        "int8",
        "--group",
        "64",
        "--override",
        r"layers\.1\.ffn=int4",
        "--override",
        r"layers\.0\..*=f16",
        "--override",
        "att.key=fp8-e4m3",
        "--override",
        "nothing=f32",
        "--calibrate=off",
    ]);
    assert_eq!(done.err, "brooklet: note: --override 'nothing=f32' matches no tensor\n");
    let formats = formats(&target);
    assert_eq!(format_of(&formats, "layers.1.ffn.key"), "int4/32");
    assert_eq!(format_of(&formats, "layers.0.ffn.key"), "f16");
    assert_eq!(format_of(&formats, "layers.0.att.key"), "fp8-e4m3/64");
    assert_eq!(format_of(&formats, "layers.1.att.w1"), "int8/64");
    assert_eq!(format_of(&formats, "layers.1.ln1.weight"), "f32 vector");
}

#[test]
fn any_number_of_threads_writes_the_same_file() {
    let folder = folder();
    for dtype in ["int4", "int8"] {
        let by = |threads: &[&str]| {
            let target = folder.path().join("out.brk");
            let (source, out) = (arg(&checkpoint()), arg(&target));
            let own = ["convert", &source, "-o", &out, "--type", dtype, "--calibrate=off"];
            brooklet(own.into_iter().chain(threads.iter().copied())).ok();
            std::fs::read(target).expect("the file")
        };
        let expected = by(&["--threads", "1"]);
        for threads in [&[][..], &["--threads", "2"], &["--threads", "7"]] {
            assert!(by(threads) == expected, "{dtype}, {threads:?}");
        }
    }
}

#[test]
fn a_failed_conversion_leaves_nothing() {
    let folder = folder();
    let target = folder.path().join("out.brk");
    let whole = std::fs::read(checkpoint()).expect("the checkpoint");
    for (name, bytes) in [
        ("cut.safetensors", &whole[..whole.len() - 1]),
        ("empty.pth", b""),
        ("noise.bin", &[7; 999]),
    ] {
        let source = folder.path().join(name);
        std::fs::write(&source, bytes).expect("written");
        let line = brooklet(["convert", &arg(&source), "-o", &arg(&target)]).fails(1);
        assert!(line.contains(name), "{line}");
        std::fs::remove_file(&source).expect("removed");
    }
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn what_stood_there_stays_when_a_conversion_fails() {
    let folder = folder();
    let (source, target) = (folder.path().join("x.safetensors"), folder.path().join("out.brk"));
    std::fs::write(&source, b"\x02\0\0\0\0\0\0\0{}").expect("written");
    std::fs::write(&target, b"\x89BRK\r\n\x1a\nold").expect("written");
    brooklet(["convert", &arg(&source), "-o", &arg(&target)]).fails(1);
    assert_eq!(std::fs::read(&target).expect("it is there"), b"\x89BRK\r\n\x1a\nold");
    assert_eq!(names_in(folder.path()), ["out.brk", "x.safetensors"]);
}

#[test]
fn lfs_pointers_are_named() {
    let folder = folder();
    let pointer = folder.path().join("model.safetensors");
    std::fs::write(
        &pointer,
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    )
    .expect("written");
    let target = arg(&folder.path().join("out.brk"));
    let line = brooklet(["convert", &arg(&pointer), "-o", &target]).fails(1);
    assert!(line.contains("Git LFS pointer") && line.contains("git lfs pull"), "{line}");
    let brk = folder.path().join("model.brk");
    std::fs::rename(&pointer, &brk).expect("renamed");
    let line = brooklet(["run", &arg(&brk), "-p", "x"]).fails(1);
    assert!(line.contains("Git LFS pointer") && line.contains("git lfs pull"), "{line}");
}

#[test]
fn targets_that_cannot_be_written() {
    let folder = folder();
    let source = arg(&checkpoint());
    let line = brooklet(["convert", &source, "-o", &arg(folder.path())]).fails(1);
    assert!(line.contains("not a regular file"), "{line}");
    let line =
        brooklet(["convert", &source, "-o", &arg(&folder.path().join("none/out.brk"))]).fails(1);
    assert!(line.contains("cannot create ") && line.ends_with(": check the path"), "{line}");
    assert!(cfg!(windows) || line.contains("No such file or directory"), "{line}");
    let line = brooklet(["convert", &source, "-o", &source]).fails(2);
    assert!(line.contains("this is an input"), "{line}");
}

#[test]
fn a_named_tokenizer_must_be_one() {
    let folder = folder();
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, "{\"model\": 3}").expect("written");
    let target = arg(&folder.path().join("out.brk"));
    let line =
        brooklet(["convert", &arg(&checkpoint()), "-o", &target, "--tokenizer", &arg(&tokenizer)])
            .fails(1);
    assert!(line.contains("tokenizer.json"), "{line}");
    assert_eq!(names_in(folder.path()), ["tokenizer.json"]);
}

/// A LoRA file that does not fit, a scale that is no number, an architecture that nobody knows; and
/// a model that has nothing of the LoRA's is left as it was.
#[test]
fn loras_and_assumed_architectures() {
    let folder = folder();
    let target = arg(&folder.path().join("out.brk"));
    let source = arg(&checkpoint());
    let with =
        |options: &[&str]| brooklet([&["convert", &source, "-o", &target, "-q"], options].concat());
    for (options, code, words) in [
        (&["--lora", "absent.pth:0.5"][..], 1, "absent.pth"),
        (&["--lora", "a.pth:inf"], 2, "the scale must be a finite number"),
        (&["--lora", &source], 1, "without any LoRA"),
        (&["--assume", "gpt2"], 2, "falcon_mamba"),
        (&["--assume", "rwkv6"], 1, "expected one of"),
        (&["--config", "absent.json"], 1, "absent.json"),
    ] {
        let done = with(options);
        assert_eq!(done.code, Some(code), "{options:?}: {}", done.err);
        assert!(done.err.contains(words), "{options:?}: {}", done.err);
    }
    assert_eq!(with(&["--assume", "rwkv7"]).ok(), "");
    assert_eq!(names_in(folder.path()), ["out.brk"]);
}
