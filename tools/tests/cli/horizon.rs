//! Long texts: `--retention`, `--renewal`, `stretch`, and the note behind the trained length.

use std::path::Path;

use brooklet_formats::brk::BrkFile;

use crate::support::{arg, brooklet, folder, model};

/// A small Mamba-2 that was trained on texts of 32 tokens, as its configuration says.
fn mamba(folder: &Path) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mamba2-a");
    let source = folder.join("mamba");
    std::fs::create_dir(&source).expect("a folder");
    for file in std::fs::read_dir(&from).expect("the fixture") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), source.join(file.file_name())).expect("copied");
    }
    let config = std::fs::read_to_string(source.join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["max_position_embeddings"] = 32.into();
    std::fs::write(source.join("config.json"), config.to_string()).expect("written");
    // A token for each letter.
    let letters = ('a'..='z').chain('0'..='9').chain([' ']).enumerate();
    let words: String = letters.map(|(i, c)| format!("{} '{c}' 1\n", i + 1)).collect();
    let tokenizer = arg(&folder.join("vocab.txt"));
    std::fs::write(&tokenizer, words).expect("written");
    // A token for each letter.
    let letters = ('a'..='z').chain('0'..='9').chain([' ']).enumerate();
    let words: String = letters.map(|(i, c)| format!("{} '{c}' 1\n", i + 1)).collect();
    let tokenizer = arg(&folder.join("vocab.txt"));
    std::fs::write(&tokenizer, words).expect("written");
    let target = arg(&folder.join("mamba.brk"));
    let convert = ["convert", &arg(&source), "-o", &target, "--type", "f32", "-q"];
    brooklet([&convert[..], &["--tokenizer", &tokenizer]].concat()).ok();
    target
}

#[test]
fn a_text_longer_than_those_of_the_training_is_noted_once() {
    let folder = folder();
    let mamba = mamba(folder.path());
    let file = BrkFile::open(Path::new(&mamba)).expect("a model");
    assert_eq!(file.meta().config["n_trained"], 32);
    let long = "ab".repeat(40);
    let run = |prompt: &str, more: &[&str]| {
        brooklet([&["run", &mamba, "-n", "4", "--temp", "0", "-p", prompt][..], more].concat())
    };
    let noted = run(&long, &[]);
    assert_eq!(noted.err.matches("was trained on texts of 32").count(), 1, "{noted:?}");
    for (prompt, more) in [("ab", &[][..]), (&long, &["-q"]), (&long, &["--retention", "0.99"])] {
        let silent = run(prompt, more);
        assert!(!silent.err.contains("trained"), "{silent:?}");
    }
    // A model that does not say it.
    let silent = brooklet(["run", &arg(&model()), "-n", "2", "-p", &long]);
    assert!(!silent.err.contains("trained"), "{silent:?}");
    let report = brooklet(["inspect", &mamba, "--json"]).json();
    assert_eq!(report["config"]["n_trained"], 32);
}

#[test]
fn horizons_change_long_texts_alone() {
    let folder = folder();
    let mamba = mamba(folder.path());
    let long = "abcdefgh".repeat(40);
    let text = |prompt: &str, more: &[&str]| {
        let run = ["run", &mamba, "-n", "16", "--temp", "0", "--json", "-p", prompt];
        brooklet([&run[..], more].concat()).json()["text"].clone()
    };
    assert_eq!(text("ab", &["--renewal", "128"]), text("ab", &[]));
    // Of 320 tokens, the state has read the last 128: those from a multiple of 64 on.
    let end = &long[192..];
    assert_eq!(text(&long, &["--renewal", "128"]), text(end, &[]));
    let score = |more: &[&str]| {
        let book = folder.path().join("book.txt");
        std::fs::write(&book, &long).expect("written");
        let eval = ["eval", &mamba, "--text", &arg(&book), "--json"];
        brooklet([&eval[..], more].concat()).json()["nats_per_token"].as_f64().expect("a number")
    };
    assert!(score(&[]) != score(&["--retention", "0.9"]));
    assert!(score(&[]) == score(&["--retention", "1"]));
    for (args, words) in [
        (&["--retention", "2"][..], "retention: expected a number above 0, 1 at most"),
        (&["--renewal", "100"], "renewal: expected a multiple of 128"),
    ] {
        let error = brooklet([&["run", &mamba, "-p", "a"][..], args].concat()).fails(2);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn stretch_writes_another_file() {
    let folder = folder();
    let mamba = mamba(folder.path());
    let target = arg(&folder.path().join("long.brk"));
    let book = arg(&folder.path().join("book.txt"));
    let words = (0..3000).map(|i| format!("{:x} ", i * i % 4093)).collect::<String>();
    std::fs::write(&book, words).expect("written");
    let stretch = ["stretch", &mamba, &target, "--text", &book, "--threshold", "1e-300"];
    let report = brooklet([&stretch[..], &["--length", "128", "--json"]].concat()).json();
    assert_eq!((&report["trained"], &report["length"]), (&32.into(), &128.into()));
    assert_eq!(report["channels"], report["global_channels"]);
    assert!(report["left_out"].as_f64().expect("a number") > 0.7, "{report}");
    let file = BrkFile::open(Path::new(&target)).expect("a model");
    assert!(file.tensor("layers.0.dt_least").is_some());
    brooklet(["run", &target, "-p", "abc", "-n", "4"]).ok();
    let other = arg(&folder.path().join("other.brk"));
    let model = arg(&model());
    for (args, code, words) in [
        (&["stretch", &mamba, &other, "--length", "16"][..], 2, "trained on texts of 32"),
        (&["stretch", &mamba, &mamba, "--length", "64"], 2, "mamba.brk"),
        (&["stretch", &model, &other, "--length", "64"], 2, "--trained"),
        (&["stretch", &model, &other, "--length", "64", "--trained", "9"], 1, "Mamba"),
        (&["stretch", &mamba, &other, "--length", "64", "--threshold", "2"], 2, "--threshold"),
    ] {
        let error = brooklet(args).fails(code);
        assert!(error.contains(words), "{error}");
        assert!(!Path::new(&other).exists());
    }
}
