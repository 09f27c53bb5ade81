//! How tokens are chosen: the order of steps, biases and bans by text, log-probabilities.

use serde_json::Value;

use crate::support::{arg, brooklet, folder, model};

/// Arguments of `run` with the tiny model, whose tokens are bytes.
fn args<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", model, "-p", "ab", "--seed", "7", "--threads", "1", "-n", "12"];
    args.push("--json");
    args.extend(more);
    args
}

fn run(more: &[&str]) -> Value {
    brooklet(args(&arg(&model()), more)).json()
}

fn text(more: &[&str]) -> String {
    run(more)["text"].as_str().expect("text").to_owned()
}

fn refused(more: &[&str]) -> String {
    brooklet(args(&arg(&model()), more)).fails(2)
}

#[test]
fn biases_and_bans_by_text() {
    assert_eq!(text(&["--bias", "x=1000"]), "x".repeat(12));
    assert!(!text(&["--bias", "x=1000", "--ban", "x"]).contains('x'));
    assert_eq!(text(&["--bias", "==+1000"]), "=".repeat(12));
    let several = refused(&["--ban", "xyz"]);
    assert!(several.contains("\"xyz\" (a text of 3 tokens)"), "{several}");
    assert!(refused(&["--bias", "x"]).contains("TEXT=BIAS"));
    assert!(refused(&["--bias", "x=nan"]).contains("finite"));
}

#[test]
fn the_order_of_steps() {
    let biased = ["--bias", "x=1000", "--top-k", "1"];
    assert_eq!(text(&[&biased[..], &["--samplers", "bias;top-k"]].concat()), "x".repeat(12));
    let late = text(&[&biased[..], &["--samplers", "top-k;bias"]].concat());
    assert_eq!(late, text(&["--temp", "0"]));
    let default = "penalties;dry;bias;top-n-sigma;top-k;typical;top-p;min-p;xtc;temperature";
    assert_eq!(text(&["--samplers", default]), text(&[]));
    let unknown = refused(&["--samplers", "top-k;warm"]);
    assert!(unknown.contains("warm") && unknown.contains("top-n-sigma"), "{unknown}");
    assert!(refused(&["--samplers", "xtc;xtc"]).contains("xtc twice"));
    refused(&["--samplers", "xtc", "--temp-first"]);
    let help = brooklet(["run", "--help"]).ok();
    assert!(help.contains("top-n-sigma  keeps logits within"), "{help}");
}

#[test]
fn each_step_is_reached() {
    let plain = text(&["--temp", "1.5", "--top-p", "1"]);
    let steps: [&[&str]; 7] = [
        &["--typical", "0.05"],
        &["--top-n-sigma", "0.5"],
        &["--xtc-probability", "1", "--xtc-threshold", "0.001"],
        &["--dynatemp-range", "1.4", "--dynatemp-exp", "9"],
        &["--mirostat-tau", "1", "--mirostat-eta", "0.5"],
        &["--bias", "x=1000", "--dry-multiplier", "3000", "--dry-base", "1"],
        &["--min-p", "0.9"],
    ];
    for step in steps {
        let more = [&["--temp", "1.5", "--top-p", "1"], step].concat();
        let (first, again) = (text(&more), text(&more));
        assert_eq!(first, again, "{step:?}");
        assert_ne!(first, plain, "{step:?}");
        assert_ne!(first, "x".repeat(12), "{step:?}");
    }
    // Between line feeds nothing repeats itself.
    let broken = ["--bias", "x=1000", "--dry-multiplier", "3000", "--dry-sequence-breaker", "x"];
    assert_eq!(text(&broken), "x".repeat(12));
    for (option, value) in [
        ("--typical", "1.5"),
        ("--top-n-sigma", "-1"),
        ("--xtc-probability", "2"),
        ("--mirostat-eta", "0"),
        ("--dry-base", "0.5"),
        ("--dry-penalty-last-n", "0"),
    ] {
        refused(&[option, value]);
    }
    let unknown = ["--dry-multiplier", "1", "--dry-sequence-breaker", "no such text"];
    assert!(refused(&unknown).contains("no token contains"));
}

#[test]
fn tokens_come_with_their_probabilities() {
    let report = run(&["--logprobs", "100", "--temp", "0"]);
    let tokens = report["tokens"].as_array().expect("tokens");
    assert_eq!(tokens.len(), 12);
    for (token, id) in tokens.iter().zip(report["token_ids"].as_array().expect("ids")) {
        assert_eq!(&token["id"], id);
        let top = token["top"].as_array().expect("the likeliest");
        assert_eq!((top.len(), &top[0]["id"]), (100, id));
        assert_eq!(top[0]["logprob"], token["logprob"]);
        let of = |choice: &Value| choice["logprob"].as_f64().expect("a number");
        assert!(top.windows(2).all(|two| of(&two[0]) >= of(&two[1])));
        let sum: f64 = top.iter().map(|choice| of(choice).exp()).sum();
        assert!(sum > 100.0 / 256.0 && sum < 1.0 + 1e-5, "{sum}");
    }
    // Of the model, not of what sampling makes of it.
    let banned = run(&["--logprobs", "1", "--temp", "0", "--bias", "x=1000"]);
    let first = &banned["tokens"][0];
    assert_eq!(first["text"], "x");
    assert_eq!(first["top"][0], tokens[0]["top"][0]);
    assert!(first["logprob"].as_f64() < Some(0.0));
    assert!(run(&[])["tokens"].is_null());
    let many = run(&["--logprobs", "0", "--samples", "2"]);
    assert_eq!(many["samples"][1]["tokens"].as_array().expect("tokens").len(), 12);
    let model = arg(&model());
    let plain = brooklet(["run", &model, "-p", "ab", "-n", "1", "--logprobs", "1"]);
    assert!(plain.fails(2).contains("--json"));
}

#[test]
fn texts_by_a_grammar() {
    let digits = run(&["--regex", "[0-9]{3}-[0-9]{3}"]);
    let written = digits["text"].as_str().expect("text");
    assert!(written.len() == 7 && written.as_bytes()[3] == b'-', "{written}");
    assert_eq!(digits["stop_reason"], "grammar");
    assert_eq!(text(&["--regex", "[0-9]{3}-[0-9]{3}"]), written);

    let schema = r#"{"enum": ["port", "starboard"]}"#;
    let folder = folder();
    let [in_file, lark] = ["side.json", "side.lark"].map(|name| folder.path().join(name));
    std::fs::write(&in_file, schema).expect("a file");
    std::fs::write(&lark, "start: \"port\" | \"starboard\"\n").expect("a file");
    let inline = text(&["--json-schema", schema]);
    assert!([r#""port""#, r#""starboard""#].contains(&inline.as_str()), "{inline}");
    assert_eq!(text(&["--json-schema", &arg(&in_file)]), inline);
    let side = text(&["--grammar", &arg(&lark)]);
    assert!(["port", "starboard"].contains(&side.as_str()), "{side}");
    let many = run(&["--grammar", &arg(&lark), "--samples", "3"]);
    for sample in many["samples"].as_array().expect("samples") {
        assert!(["port", "starboard"].contains(&sample["text"].as_str().expect("text")));
    }

    assert!(refused(&["--regex", "("]).contains("mend --regex"));
    refused(&["--regex", "a", "--grammar", &arg(&lark)]);
    let none = brooklet(args(&arg(&model()), &["--grammar", "no such file"])).fails(1);
    assert!(none.contains("no such file"), "{none}");
    refused(&["--grammar", &arg(&lark), "--save-state", &arg(&lark)]);
    assert!(std::fs::read_to_string(&lark).expect("the file").starts_with("start"));
}
