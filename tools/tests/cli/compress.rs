//! `compress` and `decompress`: there and back, pipes, and what is refused.

use std::path::Path;

use crate::support::{arg, brooklet, folder, model, model_in, with_input};

/// A text of bytes that no word stands for.
fn text() -> Vec<u8> {
    (0..700u32).map(|i| ((i * i) >> 3) as u8 & 0x7f | (i as u8 & 0x80)).collect()
}

#[test]
fn there_and_back() {
    let folder = folder();
    let place = |name: &str| arg(&folder.path().join(name));
    std::fs::write(place("text"), text()).expect("written");
    let model = arg(&model());
    let pack = ["compress", &model, &place("text"), "-o", &place("a.brkz"), "--json"];
    let report = brooklet(pack).json();
    assert_eq!((&report["bytes"], &report["tokens"]), (&700.into(), &700.into()));
    let size = std::fs::metadata(place("a.brkz")).expect("a file").len();
    assert_eq!(report["packed_bytes"], size);
    assert!(report["bits_per_byte"].as_f64() > Some(0.0));
    // In other pieces, by one thread and by two; out of a pipe.
    let more = ["--chunk", "7", "--threads", "2", "-q"];
    brooklet([&["compress", &model, &place("text"), "-o", &place("b.brkz")], &more[..]].concat())
        .ok();
    with_input(["compress", &model, "-", "-o", &place("c.brkz"), "-q"], &text()).ok();
    let bytes = |name: &str| std::fs::read(place(name)).expect("a file");
    assert!(bytes("a.brkz") == bytes("b.brkz") && bytes("a.brkz") == bytes("c.brkz"));

    let unpack = ["decompress", &model, &place("a.brkz"), "-o", &place("again"), "-q"];
    assert_eq!(brooklet(unpack).ok(), "");
    assert!(bytes("again") == text());
    let line = brooklet(unpack).fails(1);
    assert!(line.contains("again: it is there: say --force"), "{line}");
    brooklet([&unpack[..], &["--force"]].concat()).ok();
    assert!(brooklet(["decompress", &model, &place("a.brkz"), "-q"]).raw == text());
    // Nothing that is read is written onto.
    let onto = ["decompress", &model, &place("a.brkz"), "-o", &place("a.brkz"), "--force"];
    assert!(brooklet(onto).fails(2).contains("must not be overwritten"));
}

#[test]
fn what_it_is_not_for() {
    let folder = folder();
    let place = |name: &str| arg(&folder.path().join(name));
    std::fs::write(place("text"), "a short text").expect("written");
    let model = arg(&model());
    brooklet(["compress", &model, &place("text"), "-o", &place("a.brkz"), "-q"]).ok();
    let other = arg(&model_in("int4"));
    let line = brooklet(["decompress", &other, &place("a.brkz")]).fails(1);
    assert!(line.contains("a.brkz: the text was packed with the model"), "{line}");
    let half = ["decompress", &model, &place("a.brkz"), "--live-state", "f16"];
    assert!(brooklet(half).fails(1).contains("packed with states in f32"));
    let line = brooklet(["decompress", &model, &place("text")]).fails(1);
    assert!(line.contains("text: this is no text that brooklet has packed"), "{line}");
    let mut bytes = std::fs::read(place("a.brkz")).expect("a file");
    *bytes.last_mut().expect("code") ^= 64;
    std::fs::write(place("b.brkz"), bytes).expect("written");
    let damaged = ["decompress", &model, &place("b.brkz"), "-o", &place("out")];
    assert!(brooklet(damaged).fails(1).contains("damaged"));
    assert!(!Path::new(&place("out")).exists());
    // A file that somebody may want to keep.
    let line = brooklet(["compress", &model, &place("a.brkz"), "-o", &place("text")]).fails(1);
    assert!(line.contains("no .brkz file"), "{line}");
    let line = brooklet(["compress", &model, &place("nothing"), "-o", &place("n")]).fails(1);
    assert!(line.contains("nothing"), "{line}");
}
