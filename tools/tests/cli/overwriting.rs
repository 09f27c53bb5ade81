//! Nothing that a user has is overwritten: not the inputs of a command under any name, not files of
//! other kinds without `--force`; permissions stay, and killed runs leave nothing for long.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::with_input;
use crate::support::{Finished, arg, brooklet, checkpoint, folder, model};
#[cfg(unix)]
use crate::support::{command, finish, names_in};

/// A folder in which every sort of input lies under its own name.
struct Inputs(TempDir);

impl Inputs {
    fn new() -> Inputs {
        let inputs = Inputs(folder());
        std::fs::copy(model(), inputs.at("m.brk")).expect("copied");
        std::fs::create_dir(inputs.at("F")).expect("made");
        std::fs::copy(checkpoint(), inputs.at("F/model.safetensors")).expect("copied");
        // Another vocabulary than the model's would be refused.
        for (name, text) in [
            ("ids", "1 2 3"),
            ("prompt", "ab"),
            ("notes", "dear to somebody"),
            ("vocab", "1 'a' 1\n2 'b' 1\n"),
            ("F/config.json", "{}"),
            ("F/generation_config.json", "{}"),
            ("F/README.md", "dear to somebody"),
        ] {
            std::fs::write(inputs.at(name), text).expect("written");
        }
        crate::state::write_tuned(&inputs.at("tuned.safetensors"), 2, 16);
        brooklet(
            ["run", &inputs.arg("m.brk"), "-p", "x", "-n", "1", "-q", "--save-state"]
                .iter()
                .map(|word| (*word).to_owned())
                .chain([inputs.arg("s.brks")]),
        )
        .ok();
        inputs
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        arg(&self.at(name))
    }

    /// Every file with its bytes, below folders too.
    fn all(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    all.push((path.clone(), std::fs::read(&path).expect("a file")));
                }
            }
        }
        all.sort();
        all
    }

    /// Every command that writes, its output missing at the end, and the inputs of each.
    fn writers(&self) -> Vec<(Vec<String>, Vec<&'static str>)> {
        let words = |line: &str| -> Vec<String> {
            let word = |word: &str| match word.strip_prefix('@') {
                Some(name) => self.arg(name),
                None => word.to_owned(),
            };
            line.split(' ').map(word).collect()
        };
        let folder =
            vec!["F/model.safetensors", "F/config.json", "F/generation_config.json", "F/README.md"];
        let given = vec!["F/model.safetensors", "F/config.json", "vocab"];
        vec![
            (words("convert @F -q -o"), folder.clone()),
            (words("convert @F/config.json -q -o"), folder),
            (words("convert @F/model.safetensors -q --tokenizer @vocab -o"), given),
            (words("run @m.brk -f @prompt -n 1 -q --save-state"), vec!["m.brk", "prompt"]),
            (words("chat @m.brk -n 1 -q --save-state"), vec!["m.brk"]),
            (words("logits @m.brk --ids @ids -q --out"), vec!["m.brk", "ids"]),
            (words("state convert @s.brks --type f16 -q -o"), vec!["s.brks"]),
            (
                words("state import @m.brk @tuned.safetensors -q -o"),
                vec!["m.brk", "tuned.safetensors"],
            ),
        ]
    }

    /// Runs a command with its output, and a line for `chat`.
    fn run(args: &[String], output: &Path, more: &[&str]) -> Finished {
        let output = arg(output);
        let args = args.iter().map(String::as_str).chain([output.as_str()]);
        with_input(args.chain(more.iter().copied()), b"hello\n")
    }
}

#[test]
fn inputs_are_spared_under_every_name() {
    let inputs = Inputs::new();
    let links = folder();
    for (writer, spared) in inputs.writers() {
        for (i, input) in spared.iter().enumerate() {
            let mut names = vec![inputs.at(input)];
            let hard = links.path().join(format!("{}-{i}-hard", writer[0]));
            let _ = std::fs::remove_file(&hard);
            std::fs::hard_link(inputs.at(input), &hard).expect("linked");
            #[cfg(unix)]
            {
                let soft = links.path().join(format!("{}-{i}-soft", writer[0]));
                let _ = std::fs::remove_file(&soft);
                std::os::unix::fs::symlink(&hard, &soft).expect("linked");
                names.push(soft);
            }
            names.push(hard);
            for name in names {
                for more in [&[][..], &["--force"]] {
                    let before = inputs.all();
                    let done = Inputs::run(&writer, &name, more);
                    let line = done.fails(2);
                    assert!(
                        line.contains("must not be overwritten") && line.ends_with("another name"),
                        "{writer:?} {name:?}: {line}"
                    );
                    assert!(before == inputs.all(), "{writer:?} {name:?}");
                }
            }
        }
    }
}

#[test]
fn other_kinds_need_force() {
    for i in 0..Inputs::new().writers().len() {
        let inputs = Inputs::new();
        let (writer, _) = inputs.writers().swap_remove(i);
        let before = inputs.all();
        let line = Inputs::run(&writer, &inputs.at("notes"), &[]).fails(1);
        assert!(
            line.contains("notes: it is there and is no .") && line.ends_with("--force"),
            "{writer:?}: {line}"
        );
        assert!(before == inputs.all(), "{writer:?}");
        let done = Inputs::run(&writer, &inputs.at("notes"), &["--force"]);
        assert_eq!(done.code, Some(0), "{writer:?}: {done:?}");
        let written = std::fs::read(inputs.at("notes")).expect("a file");
        assert!([0x89, 0x93].contains(&written[0]), "{writer:?}");
        // And what one has made oneself is replaced as ever.
        let done = Inputs::run(&writer, &inputs.at("notes"), &[]);
        assert_eq!(done.code, Some(0), "{writer:?}: {done:?}");
        // A new name is nobody's.
        let done = Inputs::run(&writer, &inputs.at("new"), &[]);
        assert_eq!(done.code, Some(0), "{writer:?}: {done:?}");
    }
}

#[test]
fn kinds_do_not_replace_each_other() {
    let inputs = Inputs::new();
    let (model, state) = (inputs.arg("m.brk"), inputs.arg("s.brks"));
    let before = inputs.all();
    let source = arg(&checkpoint());
    let other = arg(&crate::support::model_in("int8"));
    brooklet(["convert", &source, "-o", &state]).fails(1);
    brooklet(["run", &other, "-p", "x", "-n", "1", "--seed", "1", "-q", "--save-state", &model])
        .fails(1);
    brooklet(["logits", &other, "--ids", &inputs.arg("ids"), "--out", &model]).fails(1);
    assert!(before == inputs.all());
    // Forcing something is for a command that writes.
    brooklet(["run", &model, "-p", "x", "--force"]).fails(2);
}

#[cfg(unix)]
#[test]
fn standard_input_is_an_input() {
    let inputs = Inputs::new();
    for writer in [
        ["logits", &inputs.arg("m.brk"), "--ids", "-", "-q", "--force", "--out"],
        ["chat", &inputs.arg("m.brk"), "-n", "1", "-q", "--force", "--save-state"],
    ] {
        let mut command = command(writer.iter().copied().chain([inputs.arg("ids").as_str()]));
        let stdin = std::fs::File::open(inputs.at("ids")).expect("a file");
        let output = command.stdin(stdin).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(std::fs::read(inputs.at("ids")).expect("a file"), b"1 2 3");
    }
}

#[test]
fn a_state_moves_on_in_place() {
    let inputs = Inputs::new();
    let (model, state) = (inputs.arg("m.brk"), inputs.arg("s.brks"));
    let position = || {
        let report = brooklet(["state", "inspect", &state, "--json"]).json();
        report["position"].as_u64().expect("a number")
    };
    let before = position();
    brooklet(["run", &model, "-n", "3", "-q", "--state", &state, "--save-state", &state]).ok();
    assert!(position() > before);
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay() {
    use std::os::unix::fs::PermissionsExt;
    let inputs = Inputs::new();
    let link = inputs.at("link");
    std::os::unix::fs::symlink("s.brks", &link).expect("linked");
    std::fs::set_permissions(inputs.at("s.brks"), PermissionsExt::from_mode(0o600))
        .expect("changed");
    let old = std::fs::read(&link).expect("a file");
    let args =
        ["run", &inputs.arg("m.brk"), "-p", "abc", "-n", "2", "-q", "--save-state", &arg(&link)];
    brooklet(args).ok();
    assert!(std::fs::symlink_metadata(&link).expect("it is there").is_symlink());
    let found = std::fs::metadata(inputs.at("s.brks")).expect("a file");
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read(inputs.at("s.brks")).expect("a file") != old);
}

#[cfg(unix)]
#[test]
fn new_files_obey_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let target = folder.path().join("out.brk");
    let mut shell = std::process::Command::new("sh");
    let script = "umask 027; exec \"$0\" convert \"$1\" -q -o \"$2\"";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_brooklet")]);
    finish(shell.args([arg(&checkpoint()), arg(&target)]), b"").ok();
    let mode = std::fs::metadata(target).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[cfg(unix)]
#[test]
fn killed_conversions_leave_nothing_for_long() {
    use std::time::{Duration, Instant};
    let folder = folder();
    let source = folder.path().join("deep.safetensors");
    crate::support::write_checkpoint(&source, 3, 100);
    let target = folder.path().join("out.brk");
    let args =
        ["convert", &arg(&source), "-o", &arg(&target), "--type", "int4", "--calibrate=off", "-q"];
    let parts = || names_in(folder.path()).iter().filter(|name| name.ends_with(".part")).count();
    let mut seen = 0;
    for i in 0..30 {
        let mut child = command(args).spawn().expect("it starts");
        let start = Instant::now();
        // Some before the part is there, most while it is written.
        while i % 10 != 0 && start.elapsed() < Duration::from_secs(20) {
            let found = names_in(folder.path());
            let own = format!(".out.brk.{}-0.part", child.id());
            if found.contains(&own) || child.try_wait().expect("it can be asked").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        std::thread::sleep(Duration::from_millis(i % 7));
        child.kill().expect("SIGKILL");
        child.wait().expect("it ended");
        seen += parts();
        assert!(parts() <= 1, "what the one before left is gone: {:?}", names_in(folder.path()));
    }
    assert!(seen > 10, "{seen} parts were left on the way");
    brooklet(args).ok();
    assert_eq!(names_in(folder.path()), ["deep.safetensors", "out.brk"]);
    brooklet(["verify", &arg(&target)]).ok();
}

#[cfg(unix)]
#[test]
fn two_conversions_of_one_target_both_end_well() {
    let folder = folder();
    let source = folder.path().join("deep.safetensors");
    crate::support::write_checkpoint(&source, 3, 40);
    let target = arg(&folder.path().join("out.brk"));
    let args = ["convert", &arg(&source), "-o", &target, "--type", "int4", "--calibrate=off", "-q"];
    let start = || command(args).spawn().expect("it starts");
    for mut child in [start(), start(), start()] {
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
    assert_eq!(names_in(folder.path()), ["deep.safetensors", "out.brk"]);
    brooklet(["verify", &target]).ok();
}
