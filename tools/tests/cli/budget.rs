//! `--budget`, `--max-bytes`, `--max-kl`, `--save-recipe`, `--recipe`: what is printed, and that a
//! recipe gives the same bytes again.

use std::fs;

use crate::support::{arg, brooklet, checkpoint, folder, names_in};

#[test]
fn a_plan_is_shown_saved_and_repeated() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (first, second, recipe) = (at("a.brk"), at("b.brk"), at("a.recipe"));
    let source = checkpoint();
    let convert = |target: &str, more: &[&str]| {
        let args = ["convert", &arg(&source), "-o", target, "--calibrate=off"];
        brooklet([&args[..], more].concat())
    };
    let saving = ["--budget", "9bpw", "--save-recipe", &arg(&recipe)];
    let text = convert(&arg(&first), &saving).ok();
    assert!(text.contains("expected KL") && text.contains("planned: "), "{text}");
    assert!(text.lines().any(|line| line.starts_with("head ")), "{text}");
    assert_eq!(names_in(folder.path()), ["a.brk", "a.recipe"]);
    convert(&arg(&second), &["--recipe", &arg(&recipe)]).ok();
    assert!(fs::read(&first).expect("a file") == fs::read(&second).expect("a file"));

    // The recipe is an input.
    let onto = convert(&arg(&recipe), &["--recipe", &arg(&recipe), "--force"]);
    assert!(onto.fails(2).contains("must not be overwritten"));

    // The same from a .brk file, calibrated.
    let exact = at("exact.brk");
    convert(&arg(&exact), &["--type", "f32"]).ok();
    let most = fs::metadata(&exact).expect("a file").len() / 3;
    let limit = most.to_string();
    let args = ["requantize", &arg(&exact), &arg(&first), "--max-bytes", &limit, "--json"];
    let report = brooklet([&args[..], &["--save-recipe", &arg(&recipe)]].concat()).json();
    let plan = &report["plan"];
    assert!(plan["bytes"].as_u64().is_some_and(|bytes| bytes <= most), "{plan}");
    assert!(report["target_bytes"].as_u64() <= plan["bytes"].as_u64(), "{report}");
    assert!(plan["matrices"].as_array().is_some_and(|all| all.len() > 10), "{plan}");
    let saved = fs::read_to_string(&recipe).expect("a recipe");
    assert_eq!(plan["recipe"].as_str(), Some(&*saved));
    brooklet(["requantize", &arg(&exact), &arg(&second), "--recipe", &arg(&recipe)]).ok();
    assert!(fs::read(&first).expect("a file") == fs::read(&second).expect("a file"));
}

#[test]
fn budgets_that_cannot_be() {
    let folder = folder();
    let target = folder.path().join("a.brk");
    let source = checkpoint();
    let convert = |code: i32, more: &[&str]| {
        let args = ["convert", &arg(&source), "-o", &arg(&target), "--calibrate=off"];
        brooklet([&args[..], more].concat()).fails(code)
    };
    let error = convert(1, &["--budget", "2bpw"]);
    assert!(
        error.contains("2 bits per weight cannot be kept")
            && error.contains("least")
            && !error.contains(".exact"),
        "{error}"
    );
    assert!(convert(1, &["--max-bytes", "1k"]).contains("1000 bytes cannot be kept"));
    assert!(convert(2, &["--budget", "5bpw", "--max-kl", "1"]).contains("--max-kl"));
    assert!(convert(2, &["--budget", "5bpw", "--type", "int4"]).contains("--type"));
    assert!(convert(2, &["--budget", "x"]).contains("4.5bpw"));
    assert!(convert(2, &["--save-recipe", "x"]).contains("--max-kl"));
    let same = convert(2, &["--budget", "9bpw", "--save-recipe", &arg(&target)]);
    assert!(same.contains("another name"), "{same}");
    let recipe = folder.path().join("r");
    fs::write(&recipe, "head=int3").expect("room");
    assert!(convert(1, &["--recipe", &arg(&recipe)]).contains("line 1: unknown number format"));
    fs::write(&recipe, "nothing=int4").expect("room");
    assert!(convert(1, &["--recipe", &arg(&recipe)]).contains("line 1: the model has no matrix"));
    assert_eq!(names_in(folder.path()), ["r"]);
}
