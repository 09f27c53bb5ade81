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
    let five = |row: &[f64]| {
        let mut ids: Vec<usize> = (0..256).collect();
        ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        ids[..5].to_vec()
    };
    let shared = (0..n).map(|i| five(&p[i]).iter().filter(|id| five(&q[i]).contains(id)).count());
    close("top5_agreement", shared.sum::<usize>() as f64 / (5 * n) as f64);
    assert!(figure("kl_interval") > 0.0);
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

#[test]
fn a_kept_reference_stands_for_its_model() {
    let folder = folder();
    let path = |name: &str| arg(&folder.path().join(name));
    std::fs::write(path("text.txt"), TEXT).expect("written");
    let (exact, int4, text) = (arg(&model()), arg(&model_in("int4")), path("text.txt"));
    let kept = path("text.ref");
    let eval = ["eval", "--text", &text, "--clear-every", "32", "--json"];
    let with = |more: &[&str]| brooklet([&eval[..], more].concat());
    let saved = with(&[&exact, "--save-reference", &kept]).json();
    let (direct, by_file) =
        (with(&[&int4, "--reference", &exact]).json(), with(&[&int4, "--reference", &kept]).json());
    for (figure, tolerance) in
        [("kl_mean", 1e-5), ("kl_p99", 1e-4), ("reference_nats_per_token", 1e-3)]
    {
        let (a, b) = (direct[figure].as_f64().unwrap(), by_file[figure].as_f64().unwrap());
        assert!((a - b).abs() < tolerance, "{figure}: {a} {b}");
    }
    assert_eq!(direct["top1_agreement"], by_file["top1_agreement"]);
    assert_eq!(saved["nats_per_token"], direct["reference_nats_per_token"]);

    // Not with another text, another --clear-every, another vocabulary, half a file.
    let line = with(&[&int4, "--reference", &kept, "--max-tokens", "20"]).fails(1);
    assert!(line.contains("another text") && line.contains("--save-reference"), "{line}");
    let args = ["eval", &int4, "--text", &text, "--reference", &kept];
    let line = brooklet(args).fails(1);
    assert!(line.contains("another --clear-every"), "{line}");
    let bytes = std::fs::read(&kept).expect("the file");
    for len in [12, 40, bytes.len() - 1] {
        std::fs::write(&kept, &bytes[..len]).expect("written");
        assert!(with(&[&int4, "--reference", &kept]).fails(1).contains("text.ref"));
    }
    let line = with(&[&int4, &exact, "--save-reference", &kept]).fails(2);
    assert!(line.contains("of several models"), "{line}");
    std::fs::write(path("mine"), "my own").expect("written");
    with(&[&exact, "--save-reference", &path("mine")]).fails(1);
    assert_eq!(std::fs::read(path("mine")).expect("the file"), b"my own");
}

#[test]
fn several_models_read_one_text() {
    let folder = folder();
    let path = |name: &str| arg(&folder.path().join(name));
    std::fs::write(path("text.txt"), TEXT).expect("written");
    let (exact, int4, text) = (arg(&model()), arg(&model_in("int4")), path("text.txt"));
    let eval = ["eval", &int4, &exact, "--text", &text, "--reference", &exact];
    let with = |more: &[&str]| brooklet([&eval[..], more].concat());
    let (csv, svg) = (path("kl.csv"), path("kl.svg"));
    let reports = with(&["--json", "--csv", &csv, "--svg", &svg]).json();
    let alone = brooklet(["eval", &int4, "--text", &text, "--reference", &exact, "--json"]).json();
    for figure in ["model", "nats_per_token", "kl_mean", "kl_max", "top5_agreement"] {
        assert_eq!(reports[0][figure], alone[figure], "{figure}");
    }
    assert_eq!(
        (reports[1]["kl_mean"].as_f64(), reports.as_array().map(Vec::len)),
        (Some(0.0), Some(2))
    );
    let table = with(&[]).ok();
    assert!(table.contains("mean KL") && table.lines().count() == 4, "{table}");

    let csv = std::fs::read_to_string(csv).expect("the file");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "model,from,to,scored_tokens,nats_per_token,perplexity,kl_mean");
    let buckets = reports[0]["by_position"].as_array().expect("a list");
    assert_eq!(lines.len(), 1 + 2 * buckets.len());
    let kl: Vec<f64> = lines[1..=buckets.len()]
        .iter()
        .map(|line| line.rsplit(',').next().and_then(|kl| kl.parse().ok()).expect("a figure"))
        .collect();
    let expected: Vec<f64> = buckets.iter().map(|b| b["kl_mean"].as_f64().unwrap()).collect();
    assert!(kl.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{kl:?} {expected:?}");
    let svg = std::fs::read_to_string(svg).expect("the file");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("mean KL"));
}
