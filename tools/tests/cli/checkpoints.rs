//! Checkpoints in the place of a model: converted once, kept in the cache folder, run.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
#[cfg(unix)]
use std::time::Instant;
use std::time::{Duration, SystemTime};

#[cfg(unix)]
use crate::support::write_checkpoint;
use crate::support::{
    Finished, arg, brooklet, checkpoint, command, finish, folder, model_in, names_in,
    write_large_state,
};

/// The binary with a cache folder and a folder of temporary files of its own.
fn with_cache<A: AsRef<OsStr>>(cache: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = command(args);
    let temporary = cache.join("tmp");
    std::fs::create_dir_all(&temporary).expect("a folder");
    command.env("XDG_CACHE_HOME", cache).env("TMPDIR", temporary);
    command
}

fn run(cache: &Path, args: &[&str]) -> Finished {
    finish(&mut with_cache(cache, args), b"")
}

fn cached(cache: &Path) -> Vec<String> {
    let folder = cache.join("brooklet");
    if folder.exists() { names_in(&folder) } else { Vec::new() }
}

fn temporary(cache: &Path) -> Vec<String> {
    names_in(&cache.join("tmp"))
}

#[test]
fn a_checkpoint_is_converted_once_and_runs_as_its_conversion_does() {
    let (places, cache) = (folder(), folder());
    let source = places.path().join("tiny.safetensors");
    std::fs::copy(checkpoint(), &source).expect("copied");
    let text = ["-p", "abc", "-n", "12", "--temp", "0"];
    let with = |more: &[&str]| [&["run", &arg(&source)], &text[..], more].concat().join("\n");
    let run = |more: &[&str]| run(cache.path(), &with(more).split('\n').collect::<Vec<_>>());
    let expected = brooklet([&["run", &arg(&model_in("int8"))], &text[..]].concat()).ok();

    let first = run(&[]);
    assert!(first.err.contains("converting it to int8 once, into "), "{}", first.err);
    assert_eq!(first.ok(), expected);
    let names = cached(cache.path());
    assert!(names.len() == 1 && names[0].starts_with("tiny-"), "{names:?}");
    let second = run(&[]);
    assert!(second.err.contains("running ") && !second.err.contains("converting"), "{second:?}");
    assert_eq!((second.ok(), cached(cache.path())), (expected.clone(), names.clone()));

    // Another number format is another file, and says so.
    let other = run(&["--type", "f32"]);
    assert!(other.err.contains("converting it to f32"), "{}", other.err);
    assert_eq!(cached(cache.path()).len(), 2);
    // Quiet is quiet.
    assert_eq!(run(&["--quiet"]).err, "");

    // A file that is damaged is made again; so is one whose source has changed, and the older one
    // goes.
    std::fs::write(cache.path().join("brooklet").join(&names[0]), "BRK, once").expect("written");
    assert_eq!(run(&[]).ok(), expected);
    let changed = SystemTime::now() + Duration::from_secs(7);
    let file = std::fs::File::options().append(true).open(&source).expect("the source");
    file.set_modified(changed).expect("its time");
    assert!(run(&[]).err.contains("converting it to int8"));
    let after = cached(cache.path());
    assert!(after.len() == 2 && !after.contains(&names[0]), "{after:?}");
    // The files beside it are read, too.
    std::fs::write(places.path().join("chat_template.jinja"), "{{ messages }}").expect("written");
    assert!(run(&[]).err.contains("converting it to int8"));
    assert_eq!(cached(cache.path()).len(), 2);
}

#[test]
fn every_command_that_takes_a_model_takes_a_checkpoint() {
    let (places, cache) = (folder(), folder());
    let named = places.path().join("a model");
    std::fs::create_dir(&named).expect("made");
    std::fs::copy(checkpoint(), named.join("model.safetensors")).expect("copied");
    let text = arg(&places.path().join("text"));
    std::fs::write(&text, "What is a text but tokens in a row?").expect("written");
    std::fs::write(places.path().join("ids"), "1 2 3").expect("written");
    let (ids, out) = (arg(&places.path().join("ids")), arg(&places.path().join("out.npy")));
    let named = arg(&named);
    for args in [
        &["run", &named, "-p", "x", "-n", "2"][..],
        &["chat", &named, "-n", "2"],
        &["inspect", &named],
        &["eval", &named, "--text", &text, "--reference", &named],
        &["bench", &named, "-p", "4", "-n", "4", "--repeat", "1"],
        &["bench", &named, "--endurance", "8"],
        &["logits", &named, "--ids", &ids, "--out", &out],
    ] {
        run(cache.path(), args).ok();
    }
    // int8, and f32 for the reference.
    assert_eq!(cached(cache.path()).len(), 2);
    let ids = finish(&mut with_cache(cache.path(), ["tokenize", &named]), b"ab\n").ok();
    assert_eq!(ids, "97 98\n");
    let help = brooklet(["run", "--help"]).ok();
    assert!(help.contains("--no-cache") && help.contains("[default: int8]"), "{help}");
}

#[test]
fn a_gguf_file_runs() {
    let cache = folder();
    let file =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf-rwkv7-bf16/model-Q4_0.gguf");
    let first = run(cache.path(), &["inspect", file, "--json"]).json();
    assert_eq!(first["architecture"], "rwkv7");
    assert!(first["source_format"] == "GGUF" || first["provenance"]["source_format"] == "GGUF");
}

#[test]
fn without_the_cache_nothing_stays() {
    let cache = folder();
    let source = arg(&checkpoint());
    let args = ["run", &source, "-p", "abc", "-n", "4", "--temp", "0", "--no-cache"];
    let done = run(cache.path(), &args);
    assert!(done.err.contains("converting it to int8 for this run"), "{}", done.err);
    done.ok();
    assert_eq!((cached(cache.path()), temporary(cache.path())), (vec![], vec![]));
    // Nor after a failure.
    let broken = arg(&cache.path().join("broken.safetensors"));
    std::fs::copy(checkpoint(), &broken).expect("copied");
    std::fs::File::options().write(true).open(&broken).expect("it").set_len(4000).expect("cut");
    run(cache.path(), &["run", &broken, "-p", "abc", "--no-cache"]).fails(1);
    assert_eq!(temporary(cache.path()), [""; 0]);
}

#[test]
fn several_runs_may_convert_at_a_time() {
    let cache = folder();
    let source = arg(&checkpoint());
    let args = ["run", &source, "-p", "abc", "-n", "8", "--temp", "0", "--threads", "1"];
    let start = |_| {
        let mut command = with_cache(cache.path(), args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let children: Vec<Child> = (0..4).map(start).collect();
    let texts: Vec<_> = children
        .into_iter()
        .map(|child| child.wait_with_output().expect("it ends"))
        .map(|output| {
            assert!(output.status.success(), "{output:?}");
            output.stdout
        })
        .collect();
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
    assert_eq!(cached(cache.path()).len(), 1, "{:?}", cached(cache.path()));
}

/// Waits until something lies in the folder.
#[cfg(unix)]
fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(30), "it takes too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(unix)]
#[test]
fn a_conversion_that_is_interrupted_or_killed_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let (places, cache) = (folder(), folder());
    let source = places.path().join("deep.safetensors");
    write_checkpoint(&source, 3, 200);
    let source = arg(&source);
    let start = |more: &[&str]| {
        let mut command =
            with_cache(cache.path(), [&["run", &source, "-p", "a", "-n", "1"], more].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it starts")
    };
    let send = |child: &Child, signal| {
        kill(Pid::from_raw(child.id() as i32), signal).expect("it is there");
    };
    let parts = |folder: &Path| {
        let names = if folder.exists() { names_in(folder) } else { Vec::new() };
        names.iter().any(|name| name.ends_with(".part"))
    };
    let kept = cache.path().join("brooklet");
    let in_scratch = || {
        let names = temporary(cache.path());
        names.iter().any(|name| parts(&cache.path().join("tmp").join(name)))
    };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = start(&[]);
        wait_for(|| parts(&kept));
        send(&child, signal);
        assert_eq!(child.wait().expect("it ends").code(), Some(128 + signal as i32));
        assert_eq!(cached(cache.path()), [""; 0]);
        let mut child = start(&["--no-cache"]);
        wait_for(in_scratch);
        send(&child, signal);
        assert_eq!(child.wait().expect("it ends").code(), Some(128 + signal as i32));
        assert_eq!(temporary(cache.path()), [""; 0]);
    }
    // Killed ones cannot clean up; the next run does it for them.
    let mut child = start(&[]);
    wait_for(|| parts(&kept));
    send(&child, Signal::SIGKILL);
    child.wait().expect("it ends");
    let mut child = start(&["--no-cache"]);
    wait_for(in_scratch);
    send(&child, Signal::SIGKILL);
    child.wait().expect("it ends");
    assert!(start(&["--no-cache"]).wait().expect("it ends").success());
    assert_eq!(temporary(cache.path()), [""; 0]);
    assert!(start(&[]).wait().expect("it ends").success());
    let names = cached(cache.path());
    assert!(names.len() == 1 && names[0].ends_with(".brk"), "{names:?}");
}

#[test]
fn a_large_state_of_a_small_file_is_asked_for() {
    let folder = folder();
    write_large_state(folder.path());
    let model = arg(&folder.path().join("m.brk"));
    brooklet(["convert", "-q", &arg(folder.path()), "-o", &model, "--type", "int8"]).ok();
    let (ids, out) = (arg(&folder.path().join("ids")), arg(&folder.path().join("out.npy")));
    std::fs::write(&ids, "1 2").expect("written");
    let args = ["logits", "-q", &model, "--ids", &ids, "--out", &out, "--threads", "1"];
    let line = brooklet(args).fails(1);
    assert!(line.contains("m.brk: its state takes 268.7 MB, though the file has only"), "{line}");
    assert!(line.ends_with("say --allow-large-state"), "{line}");
    brooklet(args.into_iter().chain(["--allow-large-state"])).ok();
    // Looking at it takes no such memory.
    brooklet(["inspect", &model]).ok();
}

#[test]
fn a_model_has_its_number_formats() {
    let line = brooklet(["run", &arg(&model_in("int8")), "--type", "int4", "-p", "x"]).fails(2);
    assert!(line.contains("no checkpoint") && line.contains("leave --type away"), "{line}");
}

#[test]
fn a_checkpoint_is_not_written_onto() {
    let (places, cache) = (folder(), folder());
    let source = places.path().join("model.safetensors");
    std::fs::copy(checkpoint(), &source).expect("copied");
    let before = std::fs::read(&source).expect("bytes");
    let config = places.path().join("config.json");
    std::fs::write(&config, "{}").expect("written");
    for target in [arg(&source), arg(&config)] {
        let args = ["run", &arg(&source), "-p", "x", "-n", "1", "--force", "--save-state", &target];
        let line = run(cache.path(), &args).fails(2);
        assert!(line.contains("give the output another name"), "{line}");
    }
    assert!(std::fs::read(&source).expect("bytes") == before);
    assert_eq!(cached(cache.path()), [""; 0], "it is refused before the work");
}

#[test]
fn a_cache_folder_that_cannot_be() {
    let cache = folder();
    std::fs::write(cache.path().join("brooklet"), "").expect("written");
    let line = run(cache.path(), &["run", &arg(&checkpoint()), "-q", "-p", "x"]).fails(1);
    assert!(line.contains("cannot create the cache folder"), "{line}");
    assert!(line.contains("--no-cache"), "{line}");
}
