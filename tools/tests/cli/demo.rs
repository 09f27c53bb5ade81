//! The demo model inside the program: it writes text where there is nothing but the program.

use std::path::Path;
use std::process::Command;

use crate::support::{arg, brooklet, finish, folder};

#[test]
fn the_program_alone_writes_text() {
    let folder = folder();
    let program = folder.path().join("brooklet");
    std::fs::copy(env!("CARGO_BIN_EXE_brooklet"), &program).expect("copied");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).expect("made");
    let args = ["Once upon a time", "-n", "12", "--temp", "0", "--json"];
    let mut alone = Command::new(&program);
    alone.arg("run").args(args).current_dir(&empty).env_remove("BROOKLET_MODEL");
    let report = finish(&mut alone, b"").json();
    assert_eq!(report["model"], "the demo model");
    assert_eq!(report["generated_tokens"], 12);
    // The same text as that of the file it was made from.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    let file = arg(&file);
    let of_the_file = brooklet([&["run", &file], &args[..]].concat()).json();
    assert_eq!(report["text"], of_the_file["text"]);
    assert!(report["text"].as_str().is_some_and(|text| text.trim().len() > 20), "{report}");

    let mut chat = Command::new(&program);
    chat.args(["chat", "-n", "4"]).current_dir(&empty).env_remove("BROOKLET_MODEL");
    let done = finish(&mut chat, b"Hello\n");
    assert!(done.code == Some(0) && done.err.starts_with("the demo model, seed"), "{done:?}");
}
