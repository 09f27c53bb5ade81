//! `--imatrix`: what it changes, what is told, and what is refused.

use std::path::Path;

use crate::support::{arg, brooklet, checkpoint, folder, model_in, names_in};

/// An imatrix file of the old kind, of one matrix.
fn imatrix(path: &Path, name: &str, columns: usize) -> String {
    let mut bytes = 1u32.to_le_bytes().to_vec();
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend((columns as u32).to_le_bytes());
    (0..columns).for_each(|c| bytes.extend(((c * c % 97) as f32).to_le_bytes()));
    std::fs::write(path, bytes).expect("written");
    arg(path)
}

#[test]
fn conversions_by_both_ways_are_the_same() {
    let folder = folder();
    let place = |name: &str| arg(&folder.path().join(name));
    let weights = imatrix(&folder.path().join("w.dat"), "blk.1.channel_mix_key.weight", 48);
    let with = ["--type", "int4", "--imatrix", &weights, "--json"];
    let source = arg(&checkpoint());
    let converted = ["convert", &source, "-o", &place("a.brk")];
    let report = brooklet([&converted[..], &with].concat()).json();
    assert_eq!((&report["weighted_matrices"], &report["calibration"]), (&1.into(), &().into()));
    let again = ["requantize", &arg(&model_in("f32")), &place("b.brk")];
    let report = brooklet([&again[..], &with].concat()).json();
    assert_eq!(report["weighted_matrices"], 1);
    let plain =
        ["convert", &source, "-o", &place("c.brk"), "--type", "int4", "--calibrate=off", "-q"];
    brooklet(plain).ok();
    let tensors =
        |name: &str| brooklet(["inspect", &place(name), "--json"]).json()["tensors"].clone();
    // Only that matrix' bytes are others.
    assert_eq!(tensors("a.brk"), tensors("b.brk"));
    let [fitted, plain] =
        ["a.brk", "c.brk"].map(|name| tensors(name).as_array().expect("a list").clone());
    let others = fitted.iter().zip(&plain).filter(|(a, b)| a["checksum"] != b["checksum"]);
    let others: Vec<&str> = others.map(|(a, _)| a["name"].as_str().expect("a name")).collect();
    assert_eq!(others, ["layers.1.ffn.key"]);
    let text = brooklet(["inspect", &place("a.brk")]).ok();
    assert!(text.contains("requantize --type int4 --imatrix=w.dat"), "{text}");
    assert_eq!(names_in(folder.path()), ["a.brk", "b.brk", "c.brk", "w.dat"]);
}

#[test]
fn what_says_nothing_of_the_model_is_refused() {
    let folder = folder();
    let place = |name: &str| arg(&folder.path().join(name));
    let source = arg(&checkpoint());
    let run = |weights: &str, more: &[&str]| {
        let args = ["convert", &source, "-o", &place("a.brk"), "--type", "int4", "-q"];
        brooklet([&args[..], &["--imatrix", weights], more].concat())
    };
    let other = imatrix(&folder.path().join("o.dat"), "blk.0.ffn_up.weight", 48);
    let line = run(&other, &[]).fails(1);
    assert!(line.contains("o.dat") && line.contains("RWKV-7"), "{line}");
    let wide = imatrix(&folder.path().join("w.dat"), "blk.0.channel_mix_key.weight", 49);
    assert!(run(&wide, &[]).fails(1).contains("49"));
    let line = run(&source, &[]).fails(1);
    assert!(line.contains("tiny.safetensors"), "{line}");
    assert!(run(&place("nothing"), &[]).fails(1).contains("nothing"));
    for more in [&["--calibrate=builtin"][..], &["--budget", "6bpw"]] {
        assert_eq!(run(&wide, more).code, Some(2), "{more:?}");
    }
    // Nothing is left, and what is read is not written onto.
    assert_eq!(names_in(folder.path()), ["o.dat", "w.dat"]);
    let onto = ["convert", &source, "-o", &wide, "--type", "int4", "--imatrix", &wide, "--force"];
    assert!(brooklet(onto).fails(2).contains("must not be overwritten"));
}
