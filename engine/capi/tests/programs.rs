//! C and C++ programs against the header and the built library: compiled without a warning, run,
//! and looked at by valgrind.
//!
//! Skipped with a line where there is no C compiler or no valgrind; `.ci/run` has both.

// The examples read and write text with the demo model's own tokenizer.
#![cfg(all(unix, feature = "huggingface"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder that holds libbrooklet.so and libbrooklet.a of this profile, built now.
fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // target/PROFILE/deps/programs-HASH
        let folder = std::env::current_exe()
            .expect("this test")
            .parent()
            .and_then(Path::parent)
            .map(Path::to_owned);
        let folder = folder.expect("a build folder");
        let profile = folder.file_name().and_then(|name| name.to_str()).expect("a profile");
        let profile = if profile == "debug" { "dev" } else { profile };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--package",
            "brooklet-capi",
            "--lib",
            "--no-default-features",
            "--profile",
            profile,
        ]);
        for feature in ["convert", "huggingface", "threads", "world"] {
            let has = match feature {
                "convert" => cfg!(feature = "convert"),
                "huggingface" => cfg!(feature = "huggingface"),
                "threads" => cfg!(feature = "threads"),
                _ => cfg!(feature = "world"),
            };
            if has {
                cargo.args(["--features", feature]);
            }
        }
        // The same folder that this test was built into, where another one than target/ was asked
        // for.
        if let Some(target) = folder.parent().filter(|path| path.join("CACHEDIR.TAG").exists()) {
            cargo.arg("--target-dir").arg(target);
        }
        run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
        assert!(folder.join("libbrooklet.a").exists(), "{}", folder.display());
        folder
    })
}

/// Runs a command that must succeed.
#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

fn has(tool: &str) -> bool {
    let found =
        Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn demo() -> PathBuf {
    root().join("models/rwkv7-nano-int8.brk")
}

/// Compiles an example into `folder`, against the shared or the static library.
fn compile(compiler: &str, standard: &str, example: &str, shared: bool, folder: &Path) -> PathBuf {
    let capi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join(format!("{example}-{}", if shared { "shared" } else { "static" }));
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g", standard]);
    command
        .arg("-I")
        .arg(capi.join("include"))
        .arg(capi.join("examples").join(example))
        .arg("-o")
        .arg(&program);
    if shared {
        command.arg("-L").arg(library()).arg("-lbrooklet");
        command.arg(format!("-Wl,-rpath,{}", library().display()));
    } else {
        command.arg(library().join("libbrooklet.a")).args(["-lpthread", "-ldl"]);
    }
    run(command.arg("-lm"));
    program
}

/// The output of a program.
fn output(program: &Path, args: &[&str]) -> String {
    String::from_utf8(run(Command::new(program).args(args)).stdout).expect("UTF-8")
}

#[test]
fn programs_in_c() {
    if !has("gcc") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (folder, model) = (folder.path(), demo());
    let model = model.to_str().expect("UTF-8");
    let mut written = Vec::new();
    for shared in [true, false] {
        let generate = compile("gcc", "-std=c99", "generate.c", shared, folder);
        written.push(output(&generate, &[model, "Once upon a time", "24", "7"]));
        let refused =
            Command::new(&generate).args(["/nowhere.brk", "Hi"]).output().expect("it runs");
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && message.contains("/nowhere.brk"), "{message}");
        assert!(message.contains("BROOKLET_IO"), "{message}");
    }
    assert_eq!(written[0], written[1], "both libraries");
    assert!(written[0].len() > 40, "{}", written[0]);

    let classify = compile("gcc", "-std=c99", "classify.c", true, folder);
    let text = output(&classify, &[model, "He opened the", " door", " xylophone of"]);
    assert!(text.contains("likeliest:  door\n"), "{text}");
}

/// Two runs of the chat, the second of which resumes the first, are one run.
#[test]
fn a_chat_that_resumes() {
    use std::io::Write;
    if !has("gcc") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chat = compile("gcc", "-std=c99", "chat.c", true, folder.path());
    let talk = |state: &str, lines: &str| {
        let mut child = Command::new(&chat)
            .arg(demo())
            .arg(folder.path().join(state))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it runs");
        child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let whole = talk("one.brks", "Who are you?\nWhere is he?\nAnd then?\n");
    let first = talk("two.brks", "Who are you?\n");
    let second = talk("two.brks", "Where is he?\nAnd then?\n");
    assert_eq!(first + &second, whole);
    let files = ["one.brks", "two.brks"]
        .map(|name| std::fs::read(folder.path().join(name)).expect("a state"));
    assert!(files[0] == files[1], "the same state, to the byte");
}

#[test]
fn programs_in_cpp() {
    if has("g++") {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = compile("g++", "-std=c++11", "check.cpp", true, folder.path());
        assert!(output(&program, &[demo().to_str().expect("UTF-8")]).len() > 10);
    }
}

/// valgrind knows no AVX-512, so the kernels are AVX2's.
#[test]
fn nothing_leaks() {
    if !has("gcc") || !has("valgrind") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = demo();
    let model = model.to_str().expect("UTF-8");
    let (talk, line) = (folder.path().join("talk.brks"), folder.path().join("line"));
    let talk = talk.to_str().expect("UTF-8");
    std::fs::write(&line, "Hi\n").expect("a file");
    // The second chat resumes the first.
    for (example, args) in [
        ("generate.c", &[model, "Once upon a time", "6"][..]),
        ("classify.c", &[model, "He opened", " the door", " a"][..]),
        ("chat.c", &[model, talk][..]),
        ("chat.c", &[model, talk][..]),
    ] {
        let program = compile("gcc", "-std=c99", example, true, folder.path());
        let mut command = Command::new("valgrind");
        command.args(["--error-exitcode=99", "--leak-check=full"]);
        let isa = if cfg!(target_arch = "x86_64") { "avx2" } else { "neon" };
        command.stdin(std::fs::File::open(&line).expect("a file"));
        let output = run(command.arg(program).args(args).env("BROOKLET_ISA", isa));
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(report.contains("ERROR SUMMARY: 0 errors"), "{report}");
        let summary =
            report.lines().filter(|line| line.contains("lost:") || line.contains("SUMMARY"));
        eprintln!("{example}: {}", summary.map(|line| line.trim()).collect::<Vec<_>>().join("; "));
    }
}
