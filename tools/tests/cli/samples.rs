//! `run --samples`: the texts of as many runs.

use serde_json::Value;

use crate::support::{arg, brooklet, model};

fn run(more: &[&str]) -> Value {
    let model = arg(&model());
    let args = ["run", &model, "-p", "abc", "--threads", "1", "--json"];
    brooklet([&args[..], more].concat()).json()
}

#[test]
fn each_text_is_that_of_its_seed() {
    let sampling =
        ["-n", "30", "--temp", "0.9", "--repetition-penalty", "1.1", "--logit-bias", "0=3"];
    let many = run(&[&sampling[..], &["--samples", "5", "--seed", "40"]].concat());
    let samples = many["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), 5);
    let mut lengths = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        let seed = (40 + i).to_string();
        let one = run(&[&sampling[..], &["--seed", &seed]].concat());
        for field in ["text", "token_ids", "stop_reason", "seed"] {
            assert_eq!(sample[field], one[field], "{field} of text {i}");
        }
        lengths.push(sample["token_ids"].as_array().expect("ids").len());
    }
    assert_eq!(many["generated_tokens"], lengths.iter().sum::<usize>());
    assert!(samples[0]["text"] != samples[1]["text"]);
    // Nothing to write is no reason to fail, nor is a chunk of less than there are texts.
    assert_eq!(run(&["--samples", "3", "-n", "0"])["generated_tokens"], 0);
    let narrow = run(&["--samples", "3", "--chunk", "1", "-n", "4", "--ignore-eos"]);
    assert_eq!(narrow["generated_tokens"], 12);
}

#[test]
fn texts_end_where_a_string_says_and_are_told_apart() {
    let model = arg(&model());
    let args =
        ["run", &model, "-p", "ab", "-n", "6", "--temp", "0", "--samples", "2", "--seed", "3"];
    let done = brooklet(args);
    assert_eq!(
        (done.code, done.err.as_str()),
        (Some(0), "text 1 of 2, seed 3:\ntext 2 of 2, seed 4:\n")
    );
    let one = brooklet(["run", &model, "-p", "ab", "-n", "6", "--temp", "0", "-q"]);
    assert_eq!(done.raw, [&one.raw[..], b"\n", &one.raw, b"\n"].concat());
    for wrong in [&["--lookup"][..], &["--save-state", "x.brks"]] {
        assert_eq!(brooklet([&args[..], wrong].concat()).code, Some(2), "{wrong:?}");
    }
    assert_eq!(brooklet(["run", &model, "--samples", "0"]).code, Some(2));
}
