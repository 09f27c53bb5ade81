//! Files in unlucky places: a folder, a pipe, an empty file, no permission, a full disk, a
//! read-only folder, for every kind of file that is read or written. Each is one line and an exit
//! code, and nothing hangs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Finished, arg, checkpoint, command, folder, model, names_in, with_input};

/// Runs a command that must end by itself, soon.
fn within_seconds(args: &[&str]) -> Finished {
    let child =
        command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child: Child = child.expect("it starts");
    let start = Instant::now();
    while child.try_wait().expect("it can be asked").is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().expect("it ends");
            panic!("{args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("it ended");
    Finished {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        raw: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Every way to read a file that is named `path`.
fn readers<'a>(path: &'a str, model: &'a str, out: &'a str) -> Vec<Vec<&'a str>> {
    vec![
        vec!["run", path, "-p", "x"],
        vec!["run", model, "-p", "x", "--no-mmap", "--state", path],
        vec!["run", path, "-p", "x", "--no-mmap"],
        vec!["inspect", path],
        vec!["verify", path],
        vec!["state", "inspect", path],
        vec!["state", "convert", path, "-o", out, "--type", "f16"],
        vec!["state", "import", model, path, "-o", out],
        vec!["convert", path, "-o", out],
        vec!["tokenize", path],
        vec!["run", model, "-f", path, "-n", "1"],
        vec!["logits", model, "--ids", path, "--out", out],
        vec!["eval", model, "--text", path],
    ]
}

/// Runs every reader and asserts one line with the path in it and exit code 1.
fn all_fail(path: &Path, part: &str) {
    let (place, folder, model) = (arg(path), folder(), arg(&model()));
    let out = arg(&folder.path().join("out"));
    for args in readers(&place, &model, &out) {
        let line = within_seconds(&args).fails(1);
        let named = line.contains(&place) || line.contains("the prompt is empty");
        assert!(named && line.contains(part), "{args:?}: {line}");
    }
    assert_eq!(names_in(folder.path()), [""; 0], "nothing is left");
}

fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    path
}

#[test]
fn a_folder() {
    all_fail(folder().path(), "");
}

#[test]
fn an_empty_file() {
    let folder = folder();
    let path = folder.path().join("empty");
    std::fs::write(&path, "").expect("written");
    all_fail(&path, "");
}

#[test]
fn a_missing_file() {
    all_fail(Path::new("/none/at/all"), "check the path");
}

#[test]
fn a_pipe_that_nobody_writes_to() {
    let folder = folder();
    all_fail(&pipe(folder.path()), "");
}

#[test]
fn a_pipe_that_somebody_writes_to() {
    // `-f <(command)` in a shell is such a path.
    let report =
        with_input(["run", &arg(&model()), "-f", "/dev/stdin", "-n", "1", "--json"], b"abc\n")
            .json();
    assert_eq!(report["prompt_token_ids"], serde_json::json!([97, 98, 99]));
}

#[test]
fn no_permission_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("locked.brk");
    std::fs::copy(model(), &path).expect("copied");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).expect("changed");
    if std::fs::File::open(&path).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    all_fail(&path, "check the permissions");
}

/// Every way to write a file that is named `path`.
fn writers<'a>(
    path: &'a str,
    model: &'a str,
    source: &'a str,
    state: &'a str,
    tuned: &'a str,
) -> Vec<Vec<&'a str>> {
    vec![
        vec!["convert", source, "-o", path],
        vec!["run", model, "-p", "x", "-n", "1", "--save-state", path],
        vec!["state", "convert", state, "-o", path, "--type", "f32"],
        vec!["state", "import", model, tuned, "-o", path],
        vec!["logits", model, "--ids", state, "--out", path],
    ]
}

/// Runs every writer and asserts one line with the path in it, exit code 1, and that nothing is
/// left.
fn no_writer_can(path: &Path, part: &str) {
    let (place, folder, model) = (arg(path), folder(), arg(&model()));
    let file = |name: &str| folder.path().join(name);
    let (state, ids, tuned) =
        (arg(&file("a.brks")), arg(&file("ids")), arg(&file("tuned.safetensors")));
    crate::support::brooklet(["run", &model, "-p", "x", "-n", "1", "--save-state", &state]).ok();
    std::fs::write(&ids, "1 2 3 4 5 6 7 8").expect("written");
    crate::state::write_tuned(&file("tuned.safetensors"), 2, 16);
    let before = path.parent().filter(|parent| parent.is_dir()).map(names_in);
    for mut args in writers(&place, &model, &arg(&checkpoint()), &state, &tuned) {
        if args[0] == "logits" {
            args[3] = &ids;
        }
        let done = within_seconds(&args);
        assert_eq!(done.code, Some(1), "{args:?}: {done:?}");
        let line = done.err.lines().last().unwrap_or_default();
        assert!(
            line.starts_with("brooklet: ") && line.contains(&place) && line.contains(part),
            "{args:?}: {line}"
        );
    }
    assert_eq!(
        path.parent().filter(|parent| parent.is_dir()).map(names_in),
        before,
        "nothing is left"
    );
}

#[test]
fn writing_where_nothing_can_be_written() {
    let folder = folder();
    no_writer_can(Path::new("/none/at/all/out"), "check the path");
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).expect("made");
    no_writer_can(&inner, "");
    no_writer_can(&pipe(folder.path()), "");
    if Path::new("/sys/kernel").exists() {
        no_writer_can(Path::new("/sys/none"), "");
    }
}

#[test]
fn writing_to_a_full_disk() {
    if Path::new("/dev/full").exists() {
        // A device is not replaced; NumPy files may be written to one.
        no_writer_can(Path::new("/dev/full"), "");
    }
    let folder = folder();
    let mount = |args: &[&str]| {
        Command::new("mount").args(args).arg(folder.path()).stderr(Stdio::null()).status()
    };
    if !mount(&["-t", "tmpfs", "-o", "size=4k", "none"]).is_ok_and(|status| status.success()) {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    let full = std::panic::catch_unwind(|| {
        no_writer_can(&folder.path().join("out"), "free some space");
        assert!(mount(&["-o", "remount,ro"]).is_ok_and(|status| status.success()));
        no_writer_can(&folder.path().join("out"), "choose another folder");
    });
    let _ = Command::new("umount").arg(folder.path()).status();
    assert!(full.is_ok());
}

/// A device has no end; what is read of one has.
#[cfg(target_os = "linux")]
#[test]
fn a_device_without_end() {
    let (folder, model) = (folder(), arg(&model()));
    let out = arg(&folder.path().join("out.npy"));
    for args in [
        &["logits", &model, "--ids", "/dev/zero", "--out", &out][..],
        &["eval", &model, "--text", "/dev/zero"],
        &["run", &model, "-f", "/dev/zero", "-n", "1"],
    ] {
        let line = within_seconds(args).fails(1);
        assert!(line.contains("/dev/zero has more than 268.4 MB"), "{line}");
    }
    for args in
        [&["tokenize", &model][..], &["chat", "-q", &model], &["eval", &model, "--text", "-"]]
    {
        let zeros = std::fs::File::open("/dev/zero").expect("a device");
        let output = command(args).stdin(zeros).output().expect("it ends");
        let line = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && line.contains("has more than 268.4 MB"), "{line}");
    }
}

#[test]
fn a_pipe_of_ids_and_nobody_behind_it() {
    let line =
        with_input(["logits", &arg(&model()), "--ids", "-", "--out", "/none/x.npy"], b"1").fails(1);
    assert!(line.contains("/none/x.npy"), "{line}");
}
