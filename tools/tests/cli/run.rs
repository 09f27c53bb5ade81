//! `run`: what goes where, reproducibility, stopping, where prompts and models come from.

use serde_json::Value;

use crate::support::{arg, brooklet, command, finish, folder, model, with_input};

/// `run` with the tiny model and a fixed seed.
fn run(more: &[&str]) -> Value {
    let model = arg(&model());
    let mut args = vec!["run", &model, "-p", "ab", "--seed", "7", "--threads", "1", "--json"];
    args.extend(more);
    brooklet(args).json()
}

fn ids(report: &Value) -> Vec<u64> {
    report["token_ids"]
        .as_array()
        .expect("ids")
        .iter()
        .map(|id| id.as_u64().expect("an id"))
        .collect()
}

#[test]
fn json_has_text_ids_counts_and_times() {
    let report = run(&["-n", "12"]);
    assert_eq!(report["generated_tokens"], 12);
    assert_eq!(report["prompt_tokens"], 2);
    assert_eq!(report["prompt_token_ids"], serde_json::json!([97, 98]));
    assert_eq!(report["seed"], 7);
    assert_eq!(report["stop_reason"], "length");
    let bytes: Vec<u8> = ids(&report).iter().map(|&id| id as u8).collect();
    assert_eq!(report["text"], String::from_utf8_lossy(&bytes).as_ref());
    for time in ["open_ms", "prefill_ms", "decode_ms", "prefill_tps", "decode_tps"] {
        assert!(report[time].as_f64().is_some_and(|ms| ms > 0.0), "{time}: {report}");
    }
}

#[test]
fn text_alone_goes_to_stdout_and_the_seed_to_stderr() {
    let model = arg(&model());
    let done = brooklet(["run", &model, "-p", "ab", "--seed", "7", "-n", "12", "--threads", "1"]);
    assert_eq!(done.out, run(&["-n", "12"])["text"].as_str().expect("text"));
    assert_eq!(done.err, "seed 7\n");
    let quiet = brooklet([
        "run",
        &model,
        "-p",
        "ab",
        "--seed",
        "7",
        "-n",
        "12",
        "--threads",
        "1",
        "--quiet",
    ]);
    assert_eq!((quiet.out, quiet.err.as_str()), (done.out, ""));
    let echo = brooklet(["run", &model, "-p", "ab", "--temp", "0", "-n", "0", "--echo"]);
    assert_eq!((echo.out.as_str(), echo.err.as_str()), ("ab", ""));
}

#[test]
fn seeds_are_honoured_and_chosen() {
    assert_eq!(ids(&run(&["-n", "20"])), ids(&run(&["-n", "20"])));
    let model = arg(&model());
    let seed = || brooklet(["run", &model, "-p", "a", "-n", "1", "--json"]).json()["seed"].as_u64();
    assert!(seed().is_some());
    assert_ne!(seed(), seed());
}

#[test]
fn threads_and_chunks_do_not_matter() {
    let prompt = "x".repeat(150);
    let with = |more: &[&str]| {
        let mut args = vec!["--temp", "0", "-n", "16"];
        args.extend(more);
        let model = arg(&crate::support::model_in("int8"));
        let mut all = vec!["run", &model, "-p", &prompt, "--json"];
        all.extend(args);
        ids(&brooklet(all).json())
    };
    let one = with(&["--threads", "1"]);
    assert_eq!(one, with(&["--threads", "2"]));
    assert_eq!(one, with(&["--threads", "1", "--chunk", "1"]));
    assert_eq!(one, with(&["--threads", "1", "--chunk", "7"]));
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let free = run(&["-n", "40"]);
    let text = free["text"].as_str().expect("text");
    let stop: String = text.chars().skip(5).take(2).collect();
    let stopped = run(&["-n", "40", "--stop", "never there", "--stop", &stop]);
    assert_eq!(stopped["stop_reason"], "stop");
    assert_eq!(stopped["text"], text.split(&stop).next().expect("a beginning"));
    assert!(ids(&stopped).len() < 40);
}

#[test]
fn sampler_options_reach_the_sampler() {
    let all = |id: u32| format!("{id}=-inf");
    let bias: Vec<String> = (0..256).filter(|&id| id != 65).map(all).collect();
    let mut more = vec!["-n", "5"];
    more.extend(bias.iter().flat_map(|bias| ["--logit-bias", bias]));
    assert_eq!(run(&more)["text"], "AAAAA");
    // With a penalty that forbids repetition, no token comes twice.
    let mut once = ids(&run(&["-n", "60", "--presence-penalty", "1e9"]));
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 60);
}

#[test]
fn prompts_come_from_files_pipes_and_words() {
    let model = arg(&model());
    let folder = folder();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "one\ntwo\n").expect("written");
    let prompt = |report: Value| report["prompt_token_ids"].clone();
    let expected: Vec<u8> = b"one\ntwo".to_vec();
    let expected = serde_json::json!(expected);
    let rest = ["-n", "1", "--json", "--threads", "1"];
    let from_file = brooklet([&["run", &model, "-f", &arg(&file)], &rest[..]].concat());
    assert_eq!(prompt(from_file.json()), expected);
    for stdin in [&["run", model.as_str()][..], &["run", &model, "-f", "-"]] {
        assert_eq!(prompt(with_input([stdin, &rest].concat(), b"one\ntwo\n").json()), expected);
    }
    for words in [&["run", &model, "one\ntwo"][..], &["run", "-p", "one\ntwo", &model]] {
        assert_eq!(prompt(brooklet([words, &rest].concat()).json()), expected);
    }
    // An empty prompt has nothing to begin with in a model of plain bytes.
    let empty = brooklet(["run", &model, "-p", ""]).fails(1);
    assert!(empty.contains("the prompt is empty"), "{empty}");
}

#[test]
fn the_demo_model_is_found() {
    let mut demo = command(["run", "Once", "-n", "3", "--json"]);
    let report = finish(demo.env("BROOKLET_MODEL", model()), b"").json();
    assert_eq!(report["model"], arg(&model()));
    assert_eq!(report["prompt_tokens"], 4);
    let missing =
        finish(command(["run", "Once"]).env("BROOKLET_MODEL", "/none/at/all.brk"), b"").fails(1);
    assert!(missing.contains("/none/at/all.brk"), "{missing}");
}

#[test]
fn every_byte_is_a_prompt_for_a_model_of_bytes() {
    let report = with_input(["run", &arg(&model()), "-n", "1", "--json"], b"\xff\xfe\x00").json();
    assert_eq!(report["prompt_token_ids"], serde_json::json!([255, 254, 0]));
}

#[test]
fn invalid_utf_8_is_named_where_a_tokenizer_cannot_take_it() {
    // A vocabulary without tokens for bytes.
    let folder = folder();
    let tokenizer = folder.path().join("tokenizer.json");
    let json = r#"{"version":"1.0","truncation":null,"padding":null,
        "added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"BPE","vocab":{"[UNK]":0,"a":1,"b":2},"merges":[],"unk_token":"[UNK]"}}"#;
    std::fs::write(&tokenizer, json).expect("written");
    let target = arg(&folder.path().join("words.brk"));
    let source = arg(&crate::support::checkpoint());
    brooklet(["convert", &source, "-o", &target, "--type", "f32", "--tokenizer", &arg(&tokenizer)])
        .ok();
    let line = with_input(["run", &target], b"a \xff b").fails(1);
    assert!(line.contains("not UTF-8 (byte 2 is 0xff)") && line.contains("UTF-8"), "{line}");
    assert_eq!(
        with_input(["run", &target, "-n", "2", "--json"], b"a b").json()["prompt_token_ids"],
        serde_json::json!([1, 2])
    );
}
