//! Wrong usage: exit code 2, one line, a sentence with the right mend.

use crate::support::{arg, brooklet, folder, model, with_input};

/// Asserts that the line is `brooklet: what: mend`.
#[track_caller]
fn says(args: &[&str], what: &str, mend: &str) {
    let line = brooklet(args).fails(2);
    assert_eq!(line, format!("brooklet: {what}: {mend}"), "{args:?}");
}

#[test]
fn numbers_out_of_range() {
    let model = arg(&model());
    let endless = "give a large number for a text that only the model ends";
    let tokens = "`--tokens` takes a whole number from 0 up, not `-1`";
    says(&["run", &model, "-p", "x", "-n", "-1"], tokens, endless);
    says(&["run", "-n", "-1", "hello"], tokens, endless);
    says(&["chat", &model, "--tokens=-1"], tokens, endless);
    let bench = "see `brooklet bench --help`";
    says(
        &["bench", &model, "-p", "-1"],
        "`--prompt` takes a whole number from 0 up, not `-1`",
        bench,
    );
    says(
        &["bench", &model, "-b", "0"],
        "`--batch` takes a whole number from 1 to 4096, not `0`",
        bench,
    );
    let run = "see `brooklet run --help`";
    says(
        &["run", "x", "--threads", "0"],
        "`--threads` takes a whole number from 1 to 1024, not `0`",
        run,
    );
    says(&["run", "x", "--temp", "hot"], "`--temp` takes a number, not `hot`", run);
    says(
        &["run", "x", "--top-k", "99999999999999999999999"],
        "`--top-k` takes a smaller number, not `99999999999999999999999`",
        run,
    );
    says(
        &["eval", "x", "--text", "y", "--max-tokens", "1"],
        "`--max-tokens` takes a whole number from 2 up, not `1`",
        "see `brooklet eval --help`",
    );
    let line = brooklet(["run", &model, "-p", "x", "--temp", "-1"]).fails(2);
    assert!(line.contains("sampler option temperature"), "{line}");
    let line = brooklet(["run", &model, "-p", "x", "--top-p", "1.5"]).fails(2);
    assert!(line.contains("sampler option top_p"), "{line}");
}

#[test]
fn words_too_many() {
    let model = arg(&model());
    says(
        &["tokenize", &model, "text"],
        "`brooklet tokenize` takes no further argument `text`",
        "it reads the text from standard input: `echo TEXT | brooklet tokenize MODEL`",
    );
    says(
        &["run", &model, "two", "words"],
        "`brooklet run` takes no further argument `words`",
        "put a prompt of several words into quotation marks",
    );
    says(
        &["convert", "x", "y.brk"],
        "`brooklet convert` takes no further argument `y.brk`",
        "give the file to write as `-o OUT.brk`",
    );
}

#[test]
fn options_and_commands_that_do_not_exist() {
    says(
        &["run", "--bogus"],
        "`brooklet run` has no option `--bogus`",
        "a prompt that starts with a minus is given as `-p '--bogus'`",
    );
    says(
        &["run", "x", "--thread", "2"],
        "`brooklet run` has no option `--thread`",
        "did you mean `--threads`?",
    );
    says(
        &["bench", "--bogus"],
        "`brooklet bench` has no option `--bogus`",
        "see `brooklet bench --help`",
    );
    says(
        &["dance"],
        "`brooklet` has no command `dance`",
        "`brooklet run \"dance\"` goes on from a prompt, `brooklet --help` lists all",
    );
    says(
        &["tokenise", "x"],
        "`brooklet` has no command `tokenise`",
        "did you mean `brooklet tokenize`?",
    );
    let model = arg(&model());
    says(
        &[&model],
        &format!("`brooklet` has no command `{model}`"),
        &format!("a model writes text by `brooklet run {model} -p PROMPT`"),
    );
    says(
        &["state", "look"],
        "`brooklet state` has no command `look`",
        "see `brooklet state --help`",
    );
}

#[test]
fn arguments_that_are_missing_or_exclude_each_other() {
    let model = arg(&model());
    says(
        &["eval", &model],
        "`brooklet eval` needs `--text <FILE>`",
        "type for instance `brooklet eval model.brk --text book.txt`",
    );
    says(
        &["convert"],
        "`brooklet convert` needs `<SOURCE>` and `--output <OUT.brk>`",
        "type for instance `brooklet convert rwkv7.pth -o rwkv7.brk --type int8`",
    );
    says(&["run", "-p"], "`--prompt` needs a value", "see `brooklet run --help`");
    says(
        &["run", &model, "-p", "x", "-f", "y"],
        "`--prompt` cannot be used with `--file`",
        "leave one of them away",
    );
    says(
        &["bench", &model, "--type", "int4", "--synthetic", "rwkv7-0.1b"],
        "`[MODEL]` cannot be used with `--synthetic`",
        "leave one of them away",
    );
    says(&["run", "-n", "1", "-n", "2"], "`--tokens` was given twice", "give it once");
}

#[test]
fn values_that_an_option_cannot_take() {
    let cases: [(&[&str], &str); 8] = [
        (&["run", "x", "--logit-bias", "x"], "expected ID=BIAS"),
        (
            &["convert", "x", "-o", "y", "--type", "int3"],
            "`--type` cannot take `int3`: unknown number format \"int3\", expected one of f32",
        ),
        (&["convert", "x", "-o", "y", "--type", "f16", "--group", "32"], "f16 has no scales"),
        (&["convert", "x", "-o", "y", "--type", "int8", "--group", "48"], "give 32, 64 or 128"),
        (&["convert", "x", "-o", "y", "--type", "int4", "--group", "64"], "give 32, or leave"),
        (&["convert", "x", "-o", "y", "--override", "(=f16"], "`--override` cannot take `(=f16`"),
        (&["bench", "--synthetic", "gpt2"], "cannot take `gpt2`: give one of rwkv4-0.4b, "),
        (&["run", "x", "--live-state", "f8"], "`--live-state` cannot take `f8`"),
    ];
    for (args, part) in cases {
        let line = brooklet(args).fails(2);
        assert!(line.contains(part), "{args:?}: {line}");
    }
}

#[test]
fn files_that_are_no_models() {
    let folder = folder();
    let text = folder.path().join("passwd");
    std::fs::write(&text, "root:x:0:0:root:/root:/bin/bash\n").expect("written");
    let line = brooklet(["run", &arg(&text)]).fails(1);
    let mend = format!(
        ": it is text, which `brooklet run -f {}` goes on from; a model is a .brk file",
        arg(&text)
    );
    assert!(line.ends_with(&mend), "{line}");
    let page = folder.path().join("model.gguf");
    std::fs::write(&page, "<!DOCTYPE html><title>404</title>").expect("written");
    let line = brooklet(["run", &arg(&page)]).fails(1);
    assert!(line.contains("it is a web page; download the file itself"), "{line}");
}

#[test]
fn eval_reads_its_text_from_a_pipe() {
    let model = arg(&model());
    let args = ["eval", &model, "--text", "-", "--threads", "1", "--json"];
    let report = with_input(args, b"abcdef").json();
    assert_eq!((&report["tokens"], &report["text"]), (&6.into(), &"-".into()));
    let line = with_input(args, b"a").fails(1);
    assert!(line.contains("standard input has 1 tokens"), "{line}");
}

/// No line is broken by hand: every text of the help is as wide as the terminal allows.
#[test]
fn help_fits_the_terminal() {
    let commands = [
        "run",
        "chat",
        "convert",
        "inspect",
        "verify",
        "tokenize",
        "logits",
        "eval",
        "bench",
        "state",
        "completions",
    ];
    for columns in [80, 120] {
        for command in commands.iter().map(Some).chain([None]) {
            let mut program = crate::support::command(command.into_iter().chain([&"--help"]));
            let help = crate::support::finish(program.env("COLUMNS", columns.to_string()), b"");
            let lines: Vec<String> = help.ok().lines().map(str::to_owned).collect();
            for pair in lines.windows(2) {
                let [line, next] = pair else { continue };
                let width = line.chars().count();
                assert!(width <= columns.min(100), "{command:?} at {columns}: {line:?}");
                // Prose that ends early, though the next line's first word had room.
                let prose = |line: &str| line.split_whitespace().count() > 3;
                let continued = next.starts_with(|c: char| c.is_lowercase());
                let word = next.split_whitespace().next().unwrap_or_default().chars().count();
                assert!(
                    !(prose(line) && continued && width + 1 + word <= columns.min(100)),
                    "{command:?} at {columns} is broken by hand: {line:?} {next:?}"
                );
            }
        }
    }
}
