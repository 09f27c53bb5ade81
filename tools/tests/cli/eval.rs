//! `eval`: the figures against a computation of our own from `logits`.

use std::path::Path;

use crate::support::{arg, brooklet, checkpoint, folder, model, model_in, write_checkpoint};

const TEXT: &[u8] = "It was the best of times, it was the worst of times – naïve.".as_bytes();

/// Rows of logits after each byte of the text.
fn rows(model: &Path) -> Vec<Vec<f64>> {
    let folder = folder();
    let (ids, out) = (folder.path().join("ids"), folder.path().join("out.npy"));
    let text: Vec<String> = TEXT.iter().map(u8::to_string).collect();
    std::fs::write(&ids, text.join(" ")).expect("written");
    brooklet(["logits", &arg(model), "--ids", &arg(&ids), "--out", &arg(&out)]).ok();
    let bytes = std::fs::read(&out).expect("the file");
    let values = bytes[128..]
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    values.collect::<Vec<_>>().chunks(256).map(log_softmax).collect()
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l - sum.ln()).collect()
}

#[test]
fn figures_agree_with_the_logits() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).expect("written");
    let int4 = model_in("int4");
    let args = [
        "eval",
        &arg(&int4),
        "--text",
        &arg(&text),
        "--reference",
        &arg(&model()),
        "--json",
        "--chunk",
        "16",
    ];
    let report = brooklet(args).json();
    let (p, q) = (rows(&model()), rows(&int4));
    let n = TEXT.len();
    let nats: f64 = -(0..n - 1).map(|i| q[i][usize::from(TEXT[i + 1])]).sum::<f64>();
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let kls: Vec<f64> = (0..n).map(|i| kl(&p[i], &q[i])).collect();
    let figure = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    let close = |name: &str, expected: f64| {
        assert!(
            (figure(name) - expected).abs() < 1e-6 * expected.abs().max(1.0),
            "{name}: {} {expected}",
            figure(name)
        );
    };
    close("nats_per_token", nats / (n - 1) as f64);
    close("perplexity", (nats / (n - 1) as f64).exp());
    close("bits_per_byte", nats / 2.0_f64.ln() / (n - 1) as f64);
    close("kl_mean", kls.iter().sum::<f64>() / n as f64);
    close("kl_max", kls.iter().copied().fold(0.0, f64::max));
    assert_eq!(report["tokens"], n);
    assert_eq!(report["compared_positions"], n);
    let first = |row: &[f64]| (0..256).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
    let agreed = (0..n).filter(|&i| first(&p[i]) == first(&q[i])).count();
    close("top1_agreement", agreed as f64 / n as f64);
    assert!(figure("kl_p99") > figure("kl_mean") && figure("kl_p99") <= figure("kl_max"));
}

#[test]
fn a_model_is_its_own_reference() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).expect("written");
    let model = arg(&model());
    let args = [
        "eval",
        &model,
        "--text",
        &arg(&text),
        "--reference",
        &model,
        "--max-tokens",
        "20",
        "--clear-every",
        "8",
        "--by-position",
        "--json",
    ];
    let report = brooklet(args).json();
    assert_eq!(report["tokens"], 20);
    // The first of each part is not scored.
    assert_eq!(report["scored_tokens"], 17);
    let buckets = report["by_position"].as_array().expect("a list");
    let counts = |name: &str| buckets.iter().map(|b| b[name].clone()).collect::<Vec<_>>();
    assert_eq!(counts("from"), [1, 2, 4]);
    assert_eq!(counts("scored_tokens"), [3, 6, 8]);
    let nats: f64 = buckets
        .iter()
        .map(|b| b["nats_per_token"].as_f64().unwrap() * b["scored_tokens"].as_f64().unwrap())
        .sum();
    assert!((nats / 17.0 - report["nats_per_token"].as_f64().unwrap()).abs() < 1e-9);
    assert_eq!(
        (report["kl_mean"].as_f64(), report["top1_agreement"].as_f64()),
        (Some(0.0), Some(1.0))
    );
    assert_eq!(report["reference_nats_per_token"], report["nats_per_token"]);
    let table = brooklet(["eval", &model, "--text", &arg(&text)]).ok();
    for part in ["nats per token", "perplexity", "bits per byte"] {
        assert!(table.contains(part), "{table}");
    }
}

#[test]
fn a_window_is_for_attention_to_every_token() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).expect("written");
    let args = ["eval", &arg(&model()), "--text", &arg(&text), "--window", "8"];
    let line = brooklet(args).fails(2);
    assert!(line.contains("no layer of this model attends to every token"), "{line}");
    assert!(line.contains("leave --window away"), "{line}");
}

#[test]
fn states_in_f16_are_compared_with_f32() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).expect("written");
    let (model, text) = (arg(&model()), arg(&text));
    let exact = brooklet(["eval", &model, "--text", &text, "--json"]).json();
    let args =
        ["eval", &model, "--text", &text, "--live-state", "f16", "--reference", &model, "--json"];
    let report = brooklet(args).json();
    assert_eq!((&exact["state"], &report["state"]), (&"f32".into(), &"f16".into()));
    assert_eq!(report["reference_nats_per_token"], exact["nats_per_token"]);
    assert!(report["kl_mean"].as_f64().is_some_and(|kl| kl > 0.0 && kl < 1e-4), "{report}");
    let line = brooklet(["eval", &model, "--text", &text, "--live-state", "int8"]).fails(1);
    assert!(line.contains("no keys and values") && line.contains("take f16"), "{line}");
    let line = brooklet(["eval", &model, "--text", &text, "--live-state", "bf16"]).fails(2);
    assert!(line.contains("f32, f16, int8"), "{line}");
}

#[test]
fn what_cannot_be_compared_or_scored() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "a").expect("written");
    let line = brooklet(["eval", &arg(&model()), "--text", &arg(&text)]).fails(1);
    assert!(line.contains("has 1 tokens"), "{line}");
    let other = folder.path().join("other.brk");
    let words = folder.path().join("vocab.txt");
    std::fs::write(&words, "1 'a' 1\n2 'ab' 2\n").expect("written");
    brooklet(["convert", &arg(&checkpoint()), "-o", &arg(&other), "--tokenizer", &arg(&words)])
        .ok();
    let line =
        brooklet(["eval", &arg(&model()), "--text", &arg(&text), "--reference", &arg(&other)])
            .fails(1);
    assert!(line.contains("different vocabularies") && line.contains("same tokenizer"), "{line}");
    // Another model with the same tokenizer is fine, even one of a single layer.
    let source = folder.path().join("other.safetensors");
    write_checkpoint(&source, 2, 1);
    brooklet(["convert", &arg(&source), "-o", &arg(&other)]).ok();
    std::fs::write(&text, TEXT).expect("written");
    let report = brooklet([
        "eval",
        &arg(&model()),
        "--text",
        &arg(&text),
        "--reference",
        &arg(&other),
        "--json",
    ])
    .json();
    assert!(report["kl_mean"].as_f64().is_some_and(|kl| kl > 0.01), "{report}");
}
