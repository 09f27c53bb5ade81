//! `requantize`, and `convert --calibrate`: the summary, texts that say too little, nothing left
//! behind.

use std::fs;
use std::path::Path;

use brooklet_formats::brk::BrkFile;

use crate::support::{arg, brooklet, checkpoint, folder, names_in, write_checkpoint_of};

/// A number that tells a model's weights from others'.
fn weights(model: &Path) -> u64 {
    BrkFile::open(model).expect("a .brk file").fingerprint()
}

#[test]
fn a_file_is_calibrated_and_nothing_else_is_left() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (exact, target) = (at("exact.brk"), at("int4.brk"));
    brooklet(["convert", &arg(&checkpoint()), "-o", &arg(&exact), "--type", "f32"]).ok();
    let done = brooklet(["requantize", &arg(&exact), &arg(&target)]);
    assert!(!done.err.contains('\r'), "no bar where stderr is a pipe: {}", done.err);
    let text = done.ok();
    assert!(text.contains("bits per weight") && text.contains("of those by search"), "{text}");
    assert_eq!(names_in(folder.path()), ["exact.brk", "int4.brk"]);
    let calibrated = weights(&target);
    let report = brooklet(["requantize", &arg(&exact), &arg(&target), "--json"]).json();
    let calibration = &report["calibration"];
    assert!(calibration["tokens"].as_u64().is_some_and(|n| n >= 32_000), "{calibration}");
    assert!(calibration["matrices"].as_array().is_some_and(|all| all.len() == 13), "{calibration}");
    assert_eq!(weights(&target), calibrated);

    // A conversion does the same by itself, and says so; without, the same as a conversion.
    let source = checkpoint();
    let converted = at("converted.brk");
    let args = ["convert", &arg(&source), "-o", &arg(&converted), "--type", "int4"];
    let done = brooklet(args);
    assert!(done.err.contains("--calibrate=off"), "{}", done.err);
    assert!(done.ok().contains("calibrated on"));
    assert_eq!(weights(&converted), calibrated);
    brooklet([&args[..], &["--calibrate=off"]].concat()).ok();
    let plain = weights(&converted);
    assert_ne!(plain, calibrated);
    brooklet(["requantize", &arg(&exact), &arg(&target), "--calibrate=off"]).ok();
    assert_eq!(weights(&target), plain);
    brooklet(["requantize", &arg(&exact), &arg(&target), "--calibrate=scales"]).ok();
    assert!(weights(&target) != plain && weights(&target) != calibrated);
    assert_eq!(names_in(folder.path()), ["converted.brk", "exact.brk", "int4.brk"]);
}

#[test]
fn a_model_without_a_tokenizer_is_not_calibrated_unless_that_is_asked() {
    let folder = folder();
    let at = |name: &str| arg(&folder.path().join(name));
    write_checkpoint_of(&folder.path().join("ids.safetensors"), 1, 1, 64);
    let args = ["convert", &at("ids.safetensors"), "-o", &at("ids.brk"), "--type", "int4"];
    let done = brooklet(args);
    assert!(done.err.contains("not calibrated: without a tokenizer"), "{}", done.err);
    done.ok();
    let line = brooklet([&args[..], &["--calibrate"]].concat()).fails(1);
    assert!(line.contains("--tokenizer FILE"), "{line}");
    assert_eq!(names_in(folder.path()), ["ids.brk", "ids.safetensors"]);
}

#[test]
fn texts_and_files_that_do_not_do() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (exact, target, text) = (at("exact.brk"), at("int4.brk"), at("text.txt"));
    brooklet(["convert", &arg(&checkpoint()), "-o", &arg(&exact), "--type", "f32"]).ok();
    let on = |text: &Path| {
        let calibrate = format!("--calibrate={}", arg(text));
        brooklet(["requantize", &arg(&exact), &arg(&target), &calibrate])
    };
    fs::write(&text, "ten bytes!").expect("room");
    let line = on(&text).fails(1);
    assert!(line.contains("10 tokens") && line.contains("there is one built in"), "{line}");
    fs::write(&text, [0; 20_000]).expect("room");
    let line = on(&text).fails(1);
    assert!(line.contains("says nothing"), "{line}");
    let line = on(&at("nowhere.txt")).fails(1);
    assert!(line.contains("nowhere.txt"), "{line}");
    // Any bytes are a text for a model of bytes.
    let bytes: Vec<u8> = (0..9000u32).map(|i| (i * i / 7 + i) as u8).collect();
    fs::write(&text, bytes).expect("room");
    on(&text).ok();
    let line = brooklet(["requantize", &arg(&target), &arg(&at("x.brk"))]).fails(1);
    assert!(line.contains("--type bf16"), "{line}");
    let line = brooklet(["requantize", &arg(&exact), &arg(&exact)]).fails(2);
    assert!(line.contains("give the output another name"), "{line}");
    fs::write(at("y.brk.unfinished"), "somebody's own").expect("room");
    let line = brooklet(["requantize", &arg(&exact), &arg(&at("y.brk"))]).fails(1);
    assert!(line.contains("move it away"), "{line}");
    assert_eq!(names_in(folder.path()), ["exact.brk", "int4.brk", "text.txt", "y.brk.unfinished"]);
}
