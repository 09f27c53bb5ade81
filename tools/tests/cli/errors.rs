//! Exit codes and error lines: 2 for wrong usage, 1 for what failed, one line each, with the mend.

use crate::support::{arg, brooklet, checkpoint, folder};
#[cfg(unix)]
use crate::support::{model, with_input};

#[test]
fn help_and_version() {
    let help = brooklet(["--help"]).ok();
    for command in [
        "run", "chat", "convert", "inspect", "verify", "tokenize", "logits", "eval", "bench",
        "state",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let own = brooklet([command, "--help"]).ok();
        assert!(own.contains("Example") && own.contains(&format!("brooklet {command} ")), "{own}");
    }
    assert_eq!(brooklet(["--version"]).ok(), format!("brooklet {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(brooklet([""; 0]).code, Some(2));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = brooklet(["completions", shell]).ok();
        assert!(script.contains("convert") && script.contains("synthetic"), "{shell}");
    }
}

#[test]
fn paths_that_are_no_models() {
    let folder = folder();
    let text = folder.path().join("text.brk");
    std::fs::write(&text, "Once upon a time there was a file.").expect("written");
    let empty = folder.path().join("empty.brk");
    std::fs::write(&empty, "").expect("written");
    let empty_folder = crate::support::folder();
    for command in ["run", "inspect", "verify", "bench"] {
        let fails = |path: &str| brooklet([command, path]).fails(1);
        let line = fails("/none/model.brk");
        assert!(
            line.contains("cannot open /none/model.brk: ") && line.ends_with(": check the path"),
            "{line}"
        );
        assert!(cfg!(windows) || line.contains("No such file or directory"), "{line}");
        let line = fails(&arg(empty_folder.path()));
        let part =
            if command == "verify" { "brooklet convert" } else { "a folder without weights" };
        assert!(line.contains(&arg(empty_folder.path())) && line.contains(part), "{line}");
        let line = fails(&arg(&text));
        assert!(line.contains("not a .brk file") && !line.contains("os error"), "{line}");
        let prompt = format!("`brooklet run -f {}`", arg(&text));
        assert!(line.contains("it is text") && line.contains(&prompt), "{line}");
        fails(&arg(&empty));
    }
    let line = brooklet(["verify", &arg(&checkpoint())]).fails(1);
    assert!(line.contains("brooklet convert"), "{line}");
}

#[test]
fn hostile_names_stay_on_one_line() {
    let line = brooklet(["inspect", "a\nb\u{1b}[31m.brk"]).fails(1);
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

#[cfg(unix)]
#[test]
fn permissions_and_devices() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let read_only = folder.path().join("read-only");
    std::fs::create_dir(&read_only).expect("made");
    std::fs::set_permissions(&read_only, PermissionsExt::from_mode(0o555)).expect("changed");
    if std::fs::write(read_only.join("x"), "").is_err() {
        let target = arg(&read_only.join("out.brk"));
        let line = brooklet(["convert", &arg(&checkpoint()), "-o", &target]).fails(1);
        assert!(line.contains("out.brk") && line.ends_with("check the permissions"), "{line}");
        let target = arg(&read_only.join("out.npy"));
        let line =
            with_input(["logits", &arg(&model()), "--ids", "-", "--out", &target], b"1").fails(1);
        assert!(line.contains("out.npy"), "{line}");
    } else {
        eprintln!("skipped: this user may write everywhere");
    }
    // A full disk, while the file is written.
    if std::path::Path::new("/dev/full").exists() {
        let line = with_input(["logits", &arg(&model()), "--ids", "-", "--out", "/dev/full"], b"1")
            .fails(1);
        assert!(line.contains("No space left") && line.ends_with("free some space"), "{line}");
    }
}
