//! The targets of vocabularies: any bytes as one, then texts to tokens and back.
//!
//! Facts that hold of every vocabulary that is accepted: tokens are below `n_vocab`, and a World
//! text that it can express comes back as it was. Not here: whether the tokens are the right ones
//! (`engine/src/tokenizer/tests.rs`).

use brooklet::tokenizer::Tokenizer;

const TEXTS: [&[u8]; 4] = [
    b"Hello, world! 123",
    "gr\u{fc}n \u{6c34}\u{1f30a}".as_bytes(),
    b"  \n\n\ta a\xff\xfe",
    b"<s></s><|endoftext|>",
];

fn explore(tokenizer: &Tokenizer, own: &[u8]) {
    let n_vocab = tokenizer.n_vocab();
    let exact = tokenizer.kind() == "world";
    for text in TEXTS.into_iter().chain([&own[..own.len().min(100)]]) {
        let Ok(ids) = tokenizer.encode(text) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < n_vocab), "{ids:?} of {n_vocab}");
        let back = tokenizer.decode(&ids);
        assert!(!exact || back.is_ok_and(|back| back == text), "{ids:?} is {text:?}");
    }
    let mut stream = tokenizer.stream();
    for id in (0..8).chain([n_vocab as u32 / 2, n_vocab as u32, u32::MAX]) {
        let _ = tokenizer.token_bytes(id);
        let _ = tokenizer.decode(&[id, id]);
        stream.push(id);
    }
    stream.finish();
    let _ = (tokenizer.token("a"), tokenizer.eos(), tokenizer.special_tokens());
}

/// A `tokenizer.json`.
pub fn huggingface(bytes: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_huggingface_json(bytes) {
        explore(&tokenizer, bytes);
    }
}

/// A World vocabulary, as text or packed.
pub fn world(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::world_from_vocab_text(bytes) else { return };
    explore(&tokenizer, bytes);
    let packed = tokenizer.world_packed().expect("a World vocabulary has a packed form");
    let again = Tokenizer::from_meta("world", packed).expect("the packed form is read again");
    assert_eq!(again.n_vocab(), tokenizer.n_vocab());
}
