//! Packs the text form of a World vocabulary into the form that the engine builds in.
//!
//! `cargo run -p brooklet --example pack_world_vocab -- rwkv_vocab_v20230424.txt OUT.bin`; see
//! `assets/world/README.md` for where the text comes from.

use std::error::Error;

use brooklet::tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(text), Some(packed)) = (args.next(), args.next()) else {
        return Err("usage: pack_world_vocab VOCABULARY.txt OUT.bin".into());
    };
    let tokenizer = Tokenizer::world_from_vocab_text(&std::fs::read(text)?)?;
    let bytes = tokenizer.world_packed().unwrap_or_default();
    std::fs::write(packed, bytes)?;
    println!("{} ids, {} bytes", tokenizer.n_vocab(), bytes.len());
    Ok(())
}
