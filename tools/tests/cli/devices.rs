//! `devices`, `--device` and `inspect --operations`, on a machine that mostly has no card.

use crate::support::{arg, brooklet, model, model_in};

#[test]
fn the_processor_is_always_there() {
    let devices = brooklet(["devices", "--json"]).json();
    assert_eq!(devices[0]["device"], "cpu");
    assert!(devices[0]["name"].as_str().expect("a name").contains("kernels"));
    assert!(brooklet(["devices"]).ok().starts_with("cpu"));
}

#[test]
fn what_is_no_device_is_refused() {
    let failed = brooklet(["run", &arg(&model()), "-p", "a", "--device", "gpu"]).fails(2);
    assert!(failed.contains("cuda: and a card's number"), "{failed}");
}

#[test]
fn without_a_card_auto_is_the_processor_and_cuda_says_why_not() {
    let devices = brooklet(["devices", "--json"]).json();
    if devices.as_array().expect("a list").len() > 1 {
        return println!("SKIPPED: there is a card here");
    }
    let model = arg(&model());
    let run = |device: &str| {
        brooklet(["run", &model, "-p", "a", "-n", "3", "--temp", "0", "--device", device])
    };
    let (auto, cpu) = (run("auto"), run("cpu"));
    // One line, which says what was taken and why no card.
    let line = auto.err.lines().find(|line| line.starts_with("device: cpu, since "));
    assert!(line.is_some_and(|line| line.contains("driver") || line.contains("no cards")));
    assert!(!cpu.err.contains("device:"), "{cpu:?}");
    // Whoever asks for nothing hears nothing of cards.
    let plain = brooklet(["run", &model, "-p", "a", "-n", "3", "--temp", "0"]);
    assert!(!plain.err.contains("device:"), "{plain:?}");
    let text = cpu.ok();
    assert_eq!((auto.ok(), plain.ok()), (text.clone(), text));
    let demo = brooklet(["run", "-p", "a", "-n", "3", "--device", "cuda"]).fails(1);
    for failed in [run("cuda").fails(1), demo] {
        assert!(failed.contains("driver") || failed.contains("knows no cards"), "{failed}");
    }
}

#[test]
fn the_memory_of_a_card_is_planned_without_one() {
    let model = arg(&model());
    let inspected = brooklet(["inspect", &model, "--json", "--device", "cuda"]);
    if inspected.code != Some(0) {
        let line = inspected.fails(1);
        return assert!(line.contains("knows no cards"), "{line}");
    }
    let report = inspected.json();
    let card = &report["card_memory"];
    let bytes = |of: &serde_json::Value| of.as_u64().expect("bytes");
    assert_eq!(bytes(&card["state_bytes"]), bytes(&report["memory"]["state_bytes"]));
    // All tensors, with what pads each.
    let (weights, file) = (bytes(&card["weights_bytes"]), bytes(&report["tensor_bytes"]));
    assert!((file / 2..2 * file).contains(&weights), "{weights} of {file}");
    let engine = &card["engine"];
    assert!(bytes(&engine[1]["bytes"]) > bytes(&engine[0]["bytes"]), "{engine}");
    let table = brooklet(["inspect", &model, "--device", "cuda"]).ok();
    assert!(table.contains("memory on a card") && table.contains("engine, chunk 512"), "{table}");
    assert!(brooklet(["inspect", &model, "--json"]).json()["card_memory"].is_null());
}

#[test]
fn operations_are_listed_in_stages() {
    let list = brooklet(["inspect", &arg(&model_in("int8")), "--operations"]).ok();
    assert!(list.contains("layer 1") && list.contains("heads of state 1.att.wkv"), "{list}");
    assert!(list.contains("layers.0.att.receptance"), "{list}");
    assert!(list.trim_end().ends_with("stages"), "{list}");
}
