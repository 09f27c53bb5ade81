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
    assert_eq!(run("auto").ok(), run("cpu").ok());
    let demo = brooklet(["run", "-p", "a", "-n", "3", "--device", "cuda"]).fails(1);
    for failed in [run("cuda").fails(1), demo] {
        assert!(failed.contains("driver") || failed.contains("knows no cards"), "{failed}");
    }
}

#[test]
fn operations_are_listed_in_stages() {
    let list = brooklet(["inspect", &arg(&model_in("int8")), "--operations"]).ok();
    assert!(list.contains("layer 1") && list.contains("heads of state 1.att.wkv"), "{list}");
    assert!(list.contains("layers.0.att.receptance"), "{list}");
    assert!(list.trim_end().ends_with("stages"), "{list}");
}
