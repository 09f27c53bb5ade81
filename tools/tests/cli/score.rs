//! `brooklet score` and `brooklet embed`.

use serde_json::Value;

use crate::support::{arg, brooklet, folder, model, names_in};

fn score(more: &[&str]) -> Value {
    let model = arg(&model());
    brooklet([&["score", &model, "--threads", "1", "--json"][..], more].concat()).json()
}

#[test]
fn endings_have_the_probability_of_their_tokens() {
    let model = arg(&model());
    let found = score(&["-p", "ab", "-e", "c", "-e", "de", "-e", "fgh"]);
    let texts = found["texts"].as_array().expect("texts");
    assert_eq!((texts.len(), &found["prompt_tokens"]), (3, &Value::from(2)));
    let shares: f64 = texts.iter().map(|text| text["share"].as_f64().expect("a share")).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    // The same out of the logits of every token.
    let folder = folder();
    let (ids, npy) = (folder.path().join("ids"), folder.path().join("logits.npy"));
    std::fs::write(&ids, "97 98 102 103 104").expect("a file");
    brooklet(["logits", &model, "--ids", &arg(&ids), "--out", &arg(&npy), "-q"]).ok();
    let bytes = std::fs::read(&npy).expect("logits");
    let values: Vec<f64> = bytes[bytes.len() % 4..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|x| f64::from(f32::from_le_bytes(*x)))
        .collect();
    // The tiny model's tokens are bytes.
    let n_vocab = 256;
    let rows = &values[values.len() - 5 * n_vocab..];
    let log_prob = |row: usize, token: usize| {
        let row = &rows[row * n_vocab..][..n_vocab];
        row[token] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
    };
    let expected = log_prob(1, 102) + log_prob(2, 103) + log_prob(3, 104);
    let ours = texts[2]["log_prob"].as_f64().expect("a number");
    assert!((ours - expected).abs() < 1e-3, "{ours} {expected}");
    assert_eq!(texts[2]["tokens"], 3);
    let per_token = texts[2]["log_prob_per_token"].as_f64().expect("a number");
    assert!((per_token - ours / 3.0).abs() < 1e-9);
    // The best is the one whose measure is largest, and --best prints it alone.
    let best = |by: &str, field: &str| {
        let found = score(&["-p", "ab", "-e", "c", "-e", "de", "-e", "fgh", "--by", by]);
        let texts = found["texts"].as_array().expect("texts");
        let of = |i: usize| texts[i][field].as_f64().expect("a number");
        let largest = (0..3).max_by(|a, b| of(*a).total_cmp(&of(*b))).expect("three");
        assert_eq!(found["best"], largest, "{by}");
        largest
    };
    let largest = best("sum", "log_prob");
    best("token", "log_prob_per_token");
    best("byte", "log_prob_per_byte");
    let args = ["score", &model, "-p", "ab", "-e", "c", "-e", "de", "-e", "fgh", "--best"];
    assert_eq!(brooklet(args).ok(), ["c\n", "de\n", "fgh\n"][largest]);
}

#[test]
fn documents_are_ranked_and_pairs_compared() {
    let folder = folder();
    let file = folder.path().join("documents");
    std::fs::write(&file, "abc\n\nxyz\nabd\n").expect("a file");
    let found = score(&["-p", "q", "--documents", &arg(&file)]);
    let texts = found["texts"].as_array().expect("texts");
    let of = |i: usize| texts[i]["log_prob"].as_f64().expect("a number");
    assert_eq!(texts.len(), 3);
    assert!(of(0) >= of(1) && of(1) >= of(2), "the best first");
    assert_eq!(found["best"], texts[0]["index"]);
    // As the ending of one text.
    let first = texts[0]["text"].as_str().expect("a text");
    let alone = score(&["-p", &format!("{first}\n"), "-e", "q"]);
    assert_eq!(alone["texts"][0]["log_prob"], texts[0]["log_prob"]);

    let pairs = ["-p", "a {a} b {b}:", "--pairwise", "-e", "one", "-e", "two", "-e", "three"];
    let found = score(&pairs);
    let texts = found["texts"].as_array().expect("texts");
    let shares: Vec<f64> =
        texts.iter().map(|text| text["share"].as_f64().expect("a share")).collect();
    assert!((shares.iter().sum::<f64>() - 1.5).abs() < 1e-9, "of each pair one: {shares:?}");
    assert_eq!(texts[0]["log_prob"], Value::Null);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = arg(&model());
    for (args, words) in [
        (&["-p", "a"][..], "--ending"),
        (&["-e", "a"], "--prompt"),
        (&["-p", "a", "-e", ""], "empty"),
        (&["-p", "a", "-e", "b", "-e", "c", "--pairwise"], "{a}"),
        (&["-p", "{a}{b}", "-e", "b", "--pairwise"], "two texts"),
    ] {
        let done = brooklet([&["score", &model][..], args].concat());
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.err);
        assert!(done.err.contains(words), "{args:?}: {}", done.err);
    }
}

#[test]
fn texts_become_vectors() {
    let (model, folder) = (arg(&model()), folder());
    let (lines, out) = (folder.path().join("lines"), folder.path().join("out.npy"));
    std::fs::write(&lines, "abc\nde\n").expect("a file");
    let args = ["embed", &model, "-f", &arg(&lines), "--pooling", "mean", "--normalize"];
    let done = brooklet(args).ok();
    let vectors: Vec<Value> =
        done.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!((vectors.len(), &vectors[1]["tokens"]), (2, &Value::from(2)));
    let vector: Vec<f64> = vectors[0]["embedding"]
        .as_array()
        .expect("a vector")
        .iter()
        .map(|x| x.as_f64().expect("a number"))
        .collect();
    let square: f64 = vector.iter().map(|x| x * x).sum();
    assert!((square - 1.0).abs() < 1e-5, "{square}");
    let alone = brooklet(["embed", &model, "-p", "abc", "--pooling", "mean", "--normalize"]);
    assert_eq!(alone.json()["embedding"], vectors[0]["embedding"]);
    brooklet([&args[..], &["--out", &arg(&out)]].concat()).ok();
    let bytes = std::fs::read(&out).expect("an array");
    let values = bytes[bytes.len() - 8 * vector.len()..].as_chunks::<4>().0;
    assert_eq!(f64::from(f32::from_le_bytes(values[0])) as f32, vector[0] as f32);
    assert_eq!(names_in(folder.path()), ["lines", "out.npy"]);
    assert_eq!(
        brooklet(["embed", &model, "-f", &arg(&lines), "--out", &arg(&lines)]).code,
        Some(2)
    );
}
