//! `inspect` and `verify`: what they tell of a good file, and of a damaged one.

use crate::support::{arg, brooklet, folder, model, model_in};

#[test]
fn the_json_says_what_the_file_holds() {
    let report = brooklet(["inspect", &arg(&model_in("int8")), "--json"]).json();
    assert_eq!(report["architecture"], "rwkv7");
    assert_eq!(report["config"]["n_layer"], 2);
    assert_eq!(report["tokenizer"]["kind"], "bytes");
    assert_eq!(report["provenance"]["recipe"], "--type int8");
    let bits = report["bits_per_weight"].as_f64().expect("bits");
    assert!((8.0..16.0).contains(&bits), "{bits}");
    // Two shift vectors of 48 and three heads of 16 by 16, in each of two layers.
    assert_eq!(report["state"]["bytes"], 2 * (2 * 48 + 3 * 16 * 16) * 4);
    assert_eq!(report["memory"]["state_bytes"], report["state"]["bytes"]);
    assert_eq!(report["memory"]["logits_bytes"], 256 * 4);
    let [state, back] =
        ["state_bytes", "rollback_bytes"].map(|name| report["memory"][name].as_u64());
    assert!(back > state.map(|bytes| 9 * bytes) && back < state.map(|bytes| 40 * bytes));
    let scratch = report["memory"]["scratch"].as_array().expect("a plan");
    let bytes: Vec<u64> =
        scratch.iter().map(|plan| plan["bytes"].as_u64().expect("bytes")).collect();
    assert!(bytes[0] > 1024 && bytes.is_sorted() && scratch[0]["chunk"] == 1, "{scratch:?}");
    let tensors = report["tensors"].as_array().expect("tensors");
    assert!(tensors.iter().any(|tensor| tensor["name"] == "head" && tensor["format"] == "int8/32"));
    let sum: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().expect("bytes")).sum();
    assert_eq!(report["tensor_bytes"], sum);
}

#[test]
fn the_table_is_for_people() {
    let short = brooklet(["inspect", &arg(&model_in("int4"))]).ok();
    for part in
        ["architecture   rwkv7", "n_layer", "state", "bits each", "int4/32", "layers.*.att.key"]
    {
        assert!(short.contains(part), "{part}: {short}");
    }
    let long = brooklet(["inspect", &arg(&model_in("int4")), "--tensors"]).ok();
    assert!(
        long.contains("layers.1.att.key") && long.lines().count() > short.lines().count(),
        "{long}"
    );
}

#[test]
fn verify_finds_every_damage() {
    assert!(brooklet(["verify", &arg(&model())]).ok().contains("ok"));
    assert_eq!(brooklet(["verify", &arg(&model()), "--quiet"]).ok(), "");
    let folder = folder();
    let damaged = folder.path().join("damaged.brk");
    let good = std::fs::read(model()).expect("the model");
    for place in [200, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[place] ^= 4;
        std::fs::write(&damaged, &bytes).expect("written");
        let line = brooklet(["verify", &arg(&damaged)]).fails(1);
        assert!(line.contains("damaged.brk"), "byte {place}: {line}");
    }
    std::fs::write(&damaged, &good[..good.len() - 1]).expect("written");
    brooklet(["verify", &arg(&damaged)]).fails(1);
}
