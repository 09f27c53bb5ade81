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

#[test]
fn texts_fork_at_depths_of_one() {
    let sampling = ["-n", "24", "--temp", "0.9", "--frequency-penalty", "0.4", "--ignore-eos"];
    let more = ["--samples", "2", "--depths", "3", "--seed", "40"];
    let many = run(&[&sampling[..], &more].concat());
    let samples = many["samples"].as_array().expect("samples");
    let ids = |value: &Value| value["token_ids"].as_array().expect("ids").clone();
    let trace = run(&[&sampling[..], &["--seed", "40"]].concat());
    assert_eq!(samples.len(), 6);
    for (i, sample) in samples.iter().enumerate() {
        let depth = i / 2 * 8;
        assert_eq!((&sample["depth"], &sample["seed"]), (&depth.into(), &(40 + i).into()));
        assert_eq!(ids(sample).len(), 24);
        assert_eq!(ids(sample)[..depth], ids(&trace)[..depth], "{i}");
        let bytes: Vec<u8> =
            ids(sample).iter().map(|id| id.as_u64().expect("an id") as u8).collect();
        assert_eq!(sample["text"], *String::from_utf8_lossy(&bytes), "{i}");
    }
    assert_eq!(ids(&samples[0]), ids(&trace), "nothing before, and the same seed");
    assert_ne!(ids(&samples[4])[16..], ids(&samples[5])[16..]);
}

#[test]
fn texts_vote_and_are_checked() {
    let samples = ["-n", "12", "--samples", "6", "--seed", "1", "--ignore-eos"];
    let all = run(&samples);
    let texts = all["samples"].as_array().expect("samples");
    let starts = |letter: char| {
        texts.iter().filter(|text| text["text"].as_str().expect("text").contains(letter)).count()
    };
    // A letter that some have and some lack.
    let letter = (' '..='~').find(|c| c.is_alphanumeric() && (1..6).contains(&starts(*c)));
    let letter = letter.expect("texts that differ");
    let check = format!("grep -q {letter}");
    let found = run(&[&samples[..], &["--check", &check, "--vote", "."]].concat());
    let passed = found["passed"].as_array().expect("verdicts");
    let right = passed.iter().filter(|passed| **passed == true).count();
    if cfg!(unix) {
        assert_eq!(right, starts(letter));
        let at_one = found["pass_at"][0]["chance"].as_f64().expect("a chance");
        assert!((at_one - right as f64 / 6.0).abs() < 1e-9);
        assert_eq!(found["pass_at"][3], serde_json::json!({"k": 6, "chance": 1.0}));
    }
    assert_eq!(found["samples"], all["samples"]);
    let model = arg(&model());
    let args = ["run", &model, "-p", "abc", "--samples", "2", "--vote"];
    let voted = brooklet([&args[..], &["(?s)^(.)", "-n", "3", "--seed", "1", "-q"]].concat());
    assert_eq!(voted.code, Some(0), "{}", voted.err);
    assert_eq!(brooklet([&args[..], &["zzzzzz", "-n", "3"]].concat()).code, Some(1));
    assert_eq!(brooklet([&args[..], &["("]].concat()).code, Some(2));
    assert_eq!(brooklet(["run", &model, "-p", "a", "--check", "true"]).code, Some(2));
}

#[test]
fn a_prompt_is_read_twice() {
    let twice = run(&["-n", "9", "--temp", "0", "--read-twice"]);
    let model = arg(&model());
    let args = ["run", &model, "-p", "abcabc", "-n", "9", "--temp", "0", "--json"];
    let once = brooklet(args).json();
    for field in ["token_ids", "prompt_token_ids"] {
        assert_eq!(twice[field], once[field], "{field}");
    }
}

#[test]
fn what_a_prompt_begins_with_is_known_to_the_next_process() {
    let folder = crate::support::folder();
    let (cache, model) = (arg(&folder.path().join("states")), arg(&model()));
    let long = "abcdefghij".repeat(70);
    let ask = |prompt: &str, cached: bool| {
        let args = ["run", &model, "-p", prompt, "-n", "6", "--temp", "0", "--json"];
        let cache = ["--prefix-cache", &cache];
        brooklet([&args[..], if cached { &cache } else { &[] }].concat()).json()
    };
    for (prompt, reused) in [
        (long.clone(), 0),
        (long.clone(), 700),
        (format!("{long}xyz"), 700),
        (format!("{}!", &long[..690]), 512),
        // Whole prompts are known, and what is behind a copy is not.
        (format!("{}!?", &long[..690]), 691),
    ] {
        let (with, without) = (ask(&prompt, true), ask(&prompt, false));
        assert_eq!(with["token_ids"], without["token_ids"]);
        assert_eq!(with["reused_tokens"], reused, "{}", prompt.len());
        assert_eq!(without.get("reused_tokens"), None);
    }
    // What was written goes on.
    let first = ask(&long, true);
    assert_eq!(first["reused_tokens"], 700);
    let more = ask(&format!("{long}z"), true);
    assert_eq!(more["reused_tokens"], 700);
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").expect("a file");
    let args = ["run", &model, "-p", "a", "--prefix-cache", &arg(&file)];
    assert_eq!(brooklet(args).code, Some(1));
}
