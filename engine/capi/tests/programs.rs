//! C and C++ programs against the header and the built library: compiled without a warning, run,
//! and looked at by valgrind.
//!
//! Skipped with a line where there is no C compiler or no valgrind; `.ci/run` has both. Cargo
//! builds no C library for a test, so this one asks for it, unless `BROOKLET_LIBRARY` names a
//! folder that holds it.

// The examples read and write text with the demo model's own tokenizer.
#![cfg(all(unix, feature = "huggingface"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder that this test was built into: target/PROFILE of target/PROFILE/deps/programs-HASH.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    test.ancestors().nth(2).expect("a build folder").to_owned()
}

/// Cargo's name of the profile that this test was built with.
fn profile() -> String {
    let folder = build_folder();
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a profile");
    if name == "debug" { "dev".to_owned() } else { name.to_owned() }
}

/// The build folder of all profiles, where another one than target/ was asked for.
fn target_folder() -> Option<PathBuf> {
    let folder = build_folder().parent()?.to_owned();
    folder.join("CACHEDIR.TAG").exists().then_some(folder)
}

/// Arguments of cargo for the features that this test was built with.
fn features() -> [String; 3] {
    let all = [
        ("chat", cfg!(feature = "chat")),
        ("convert", cfg!(feature = "convert")),
        ("huggingface", cfg!(feature = "huggingface")),
        ("threads", cfg!(feature = "threads")),
        ("world", cfg!(feature = "world")),
    ];
    let has: Vec<&str> = all.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    ["--no-default-features".to_owned(), "--features".to_owned(), has.join(",")]
}

/// The folder that holds libbrooklet.so and libbrooklet.a: the one that is named, or this
/// profile's, built now.
fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("BROOKLET_LIBRARY") {
            let folder = root().join(folder);
            assert!(folder.join("libbrooklet.a").exists(), "{}", folder.display());
            return folder;
        }
        let folder = build_folder();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--package", "brooklet-capi", "--lib", "--profile", &profile()]);
        cargo.args(features());
        if let Some(target) = target_folder() {
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

/// The README's commands: install below a folder, ask pkg-config, compile, run.
#[test]
fn an_installed_library() {
    if !has("gcc") || !has("pkg-config") {
        return;
    }
    // Built once, with the other tests' arguments.
    library();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (prefix, program) = (folder.path().join("out"), folder.path().join("generate"));
    let capi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut install = Command::new(capi.join("install.sh"));
    install.arg(&prefix).args(features()).env("PROFILE", profile());
    if let Some(target) = target_folder() {
        install.env("CARGO_TARGET_DIR", target);
    }
    if std::env::var_os("BROOKLET_LIBRARY").is_some() {
        install.env("LIBRARY", library());
    }
    run(&mut install);
    let mut ask = Command::new("pkg-config");
    ask.args(["--cflags", "--libs", "brooklet"]);
    let flags = run(ask.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))).stdout;
    let flags = String::from_utf8(flags).expect("UTF-8");
    let mut compiler = Command::new("gcc");
    compiler.arg("-std=c99").arg(capi.join("examples/generate.c")).arg("-o").arg(&program);
    run(compiler.args(flags.split_whitespace()).arg("-lm"));
    let mut generate = Command::new(&program);
    generate.arg(demo()).args(["Once upon a time", "24", "7"]);
    let text = run(generate.env("LD_LIBRARY_PATH", prefix.join("lib"))).stdout;
    assert!(text.len() > 40, "{}", String::from_utf8_lossy(&text));
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
        ("ask.c", &[model, "Who are you?", "Be brief."][..]),
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
