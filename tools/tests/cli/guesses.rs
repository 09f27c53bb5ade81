//! `--lookup` and `--draft`: the same text, and what came of the guesses.

use serde_json::Value;

use crate::support::{arg, brooklet, folder, model, model_in, with_input};

/// `run` with the tiny model.
fn run(more: &[&str]) -> Value {
    let model = arg(&model());
    let args = ["run", &model, "-p", "abcabcabcabc", "-n", "60", "--threads", "1", "--json"];
    brooklet([&args[..], more].concat()).json()
}

#[test]
fn the_text_is_the_same() {
    let draft = arg(&model_in("int4"));
    for sampling in [&["--temp", "0"][..], &["--seed", "9", "--temp", "0.7", "--top-p", "0.8"]] {
        let plain = run(sampling);
        assert!(plain["speculation"].is_null());
        for guessing in [
            &["--lookup"][..],
            &["--draft", &draft],
            &["--draft", &draft, "--guesses", "1"],
            &["--lookup", "--draft", &draft],
        ] {
            let found = run(&[sampling, guessing].concat());
            assert_eq!(found["token_ids"], plain["token_ids"], "{sampling:?} {guessing:?}");
            assert!(found["speculation"]["passes"].as_u64() > Some(0), "{found}");
        }
    }
}

#[test]
fn what_came_of_it_is_told() {
    // The model for itself: all is right that is asked for.
    let found = run(&["--temp", "0", "--draft", &arg(&model())]);
    let number = |name: &str| found["speculation"][name].as_u64().expect("a number");
    assert!(number("right") <= number("guesses") && number("guesses") < number("right") + 9);
    assert!(number("passes") + number("right") >= 59, "{found}");
    let models = [arg(&model()), arg(&model())];
    let args = ["run", &models[0], "-p", "ab", "-n", "40", "--draft", &models[1], "--temp", "0"];
    let done = brooklet([&args[..], &["--quiet"]].concat());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
}

#[test]
fn a_talk_is_the_same_and_a_saved_state_goes_on() {
    let (model, folder) = (arg(&model()), folder());
    let state = |name: &str| arg(&folder.path().join(name));
    let args = ["chat", &model, "--temp", "0", "--seed", "1", "-n", "20", "--threads", "1", "-q"];
    let talk =
        |more: &[&str]| with_input([&args[..], more].concat(), b"one one\ntwo one\n/reset\none\n");
    let plain = talk(&["--save-state", &state("a")]);
    let guessed = talk(&["--lookup", "--save-state", &state("b")]);
    assert_eq!((plain.code, &plain.raw), (Some(0), &guessed.raw), "{guessed:?}");
    let same = |name: &str| std::fs::read(state(name)).expect("a state");
    assert!(same("a") == same("b"), "the states");
}

#[test]
fn who_cannot_guess_is_an_error() {
    let model = arg(&model());
    let run = |more: &[&str]| brooklet([&["run", &model, "-p", "ab", "-n", "3"], more].concat());
    let line = run(&["--draft", "nowhere.brk"]).fails(1);
    assert!(line.contains("nowhere.brk"), "{line}");
    // The demo model has another vocabulary.
    let demo = arg(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk")
    );
    let line = run(&["--draft", &demo]).fails(1);
    assert!(line.contains("cannot guess for one of 256"), "{line}");
    assert_eq!(run(&["--lookup", "--guesses", "0"]).code, Some(2));
}

#[test]
fn bench_says_what_guesses_are_worth() {
    let (model, draft) = (arg(&model()), arg(&model_in("int4")));
    for guesses in [&["--lookup"][..], &["--draft", &draft, "--guesses", "3"]] {
        let args = ["bench", &model, "-n", "30", "--repeat", "2", "--json"];
        let found = brooklet([&args[..], guesses].concat()).json();
        let of = |field: &str| found[field].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&of("acceptance")), "{found}");
        assert!(
            of("tokens_per_pass") >= 1.0 && of("gain") > 0.0 && of("pass_cost") > 0.0,
            "{found}"
        );
        assert!(of("predicted_gain") > 0.0 && of("plain_tps") > 0.0, "{found}");
        assert_eq!(of("guess_cost") == 0.0, guesses.len() == 1, "looking up is free");
    }
    let table = brooklet(["bench", &model, "-n", "8", "--repeat", "1", "--lookup", "-q"]).ok();
    assert!(table.contains("acceptance") && table.contains("foretold"), "{table}");
    assert_eq!(brooklet(["bench", &model, "--text", "x"]).code, Some(2));
}
