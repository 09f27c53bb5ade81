//! `tokenize`: lines, whole texts, every kind of tokenizer, and back.

use crate::support::{arg, folder, model, with_input};

fn ok(args: &[&str], input: &[u8]) -> Vec<u8> {
    let done = with_input([&["tokenize"], args].concat(), input);
    assert_eq!(done.code, Some(0), "{done:?}");
    done.raw
}

#[test]
fn a_line_in_gives_a_line_out() {
    let model = arg(&model());
    assert_eq!(ok(&[&model], b"ab\n\nc\r\nd"), b"97 98\n\n99 13\n100\n");
    assert_eq!(ok(&[&model, "--decode"], b"97 98\n\n 99\t13 \n100"), b"ab\n\nc\r\nd\n");
    assert_eq!(ok(&[&model], b""), b"");
}

#[test]
fn a_whole_text_comes_back_byte_for_byte() {
    let text = "Once upon a time,\n\n“Zeit” – 时间\r\n\t0\u{0} end".as_bytes();
    for tokenizer in [arg(&model()).as_str(), "world", "bytes"] {
        let ids = ok(&[tokenizer, "--whole"], text);
        assert_eq!(ids.iter().filter(|&&b| b == b'\n').count(), 1, "one line of ids");
        assert_eq!(ok(&[tokenizer, "--whole", "--decode"], &ids), text);
    }
    assert_eq!(ok(&["world"], b"Hello world\n"), b"33155 40213\n");
}

#[test]
fn files_of_tokenizers_are_recognised() {
    let folder = folder();
    let json = folder.path().join("any-name");
    let text = r#"{"version":"1.0","added_tokens":[],
        "model":{"type":"BPE","vocab":{"[UNK]":0,"a":1},
        "merges":[],"unk_token":"[UNK]"}}"#;
    std::fs::write(&json, text).expect("written");
    assert_eq!(ok(&[&arg(&json)], b"a\n"), b"1\n");
    let world = folder.path().join("vocab.txt");
    std::fs::write(&world, "1 'a' 1\n2 'ab' 2\n").expect("written");
    assert_eq!(ok(&[&arg(&world)], b"aba\n"), b"2 1\n");
    std::fs::write(&world, "what is this?\n").expect("written");
    let line = with_input(["tokenize", &arg(&world)], b"a\n").fails(1);
    assert!(line.contains("vocab.txt") && line.contains("give a .brk model"), "{line}");
}

#[test]
fn errors_name_the_line() {
    let line = with_input(["tokenize", "world", "--decode"], b"33155\n70000\n");
    assert!(line.err.contains("line 2: token id 70000 is outside the vocabulary"), "{line:?}");
    assert_eq!((line.code, line.out.as_str()), (Some(1), "Hello\n"));
    let line = with_input(["tokenize", "world", "--decode"], b"one\n").fails(1);
    assert!(line.contains("line 1: \"one\" is no token id"), "{line}");
    let line = with_input(["tokenize", "no-such-thing"], b"").fails(1);
    assert!(line.contains("no-such-thing"), "{line}");
}
