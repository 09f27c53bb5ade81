//! The targets of our own files: weights and saved states.
//!
//! Both have checksums, which a fuzzer does not find; each input is tried as it is, and with its
//! length and checksum mended, so that every check behind them is reached. Layouts:
//! `formats/SPEC.md`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use brooklet::{Engine, EngineOptions, Model, ModelOptions, Run, Session, Snapshot, State, Want};
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::quant::decode_row;
use brooklet_formats::state_file::StateFile;
use byteorder::{ByteOrder, LE};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// State and scratch, in bytes, of the models that are run.
const SMALL: usize = 1 << 24;
/// The formats in which a model may keep its states.
const STATES: [DType; 2] = [DType::F32, DType::F16];

/// A weight file: every tensor is decoded, and its model reads three tokens.
pub fn brk(bytes: &[u8]) {
    explore(bytes.to_vec());
    if let Some(mended) = mend_weights(bytes.to_vec()) {
        explore(mended);
    }
}

fn explore(bytes: Vec<u8>) {
    let Ok(file) = BrkFile::from_bytes(bytes) else { return };
    for info in file.tensors() {
        let tensor = file.tensor(&info.name).expect("a tensor of the table");
        match tensor.info.tile_layout() {
            Some(layout) => {
                let mut row = vec![0.0; layout.cols];
                (0..layout.rows.min(40))
                    .for_each(|r| decode_row(&layout, &tensor.bytes, r, &mut row));
            }
            None => assert_eq!(tensor.as_f32().map(<[f32]>::len), Some(info.n_elements() as usize)),
        }
    }
    let _ = file.verify(|_, _| ControlFlow::Continue(()));
    run(&file).ok();
}

/// The model in `file`, if it is one, reads three tokens with states of either format.
pub(crate) fn run(file: &BrkFile) -> brooklet::Result<()> {
    for state in STATES {
        three_tokens(&Model::from_file(file.clone(), &ModelOptions::new().state(state))?);
    }
    Ok(())
}

/// Three tokens, where memory allows, and the state through a file.
fn three_tokens(model: &Model) {
    let options = EngineOptions::new().threads(1).chunk(2).logits(1);
    if Engine::memory(model, &options) > SMALL || model.state_layout().bytes() > SMALL {
        return;
    }
    if let Ok(tokenizer) = model.tokenizer() {
        let _ = tokenizer.encode("a b");
    }
    let mut engine = Engine::new(model, &options);
    let mut state = model.new_state();
    for tokens in [&[0][..], &[0, model.n_vocab() as u32 - 1]] {
        let run = Run { state: &mut state, tokens, want: Want::Last };
        engine.forward(&mut [run]).expect("tokens of the vocabulary");
    }
    assert_eq!(engine.logits(0).len(), model.n_vocab());
    // f32 holds what either format keeps.
    let saved = state.to_bytes(DType::F32).expect("a state is saved");
    let again = State::from_bytes(model, &saved).expect("a saved state is read");
    assert!(again.to_bytes(DType::F32).expect("a state is saved") == saved, "another state");
}

/// The length of the file, and the checksum of the header, as the rest says they are.
fn mend_weights(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let len = bytes.len();
    if len < 64 {
        return None;
    }
    let mut fields = [0; 3];
    LE::write_u64(&mut bytes[16..24], len as u64);
    LE::read_u64_into(&bytes[24..48], &mut fields);
    let [metadata, metadata_len, table_len] = fields.map(|field| field as usize);
    let table = metadata.checked_add(metadata_len)?.checked_next_multiple_of(64)?;
    let mut hash = Xxh3::new();
    hash.update(&bytes[..56]);
    hash.update(bytes.get(metadata..metadata.checked_add(metadata_len)?)?);
    hash.update(bytes.get(table..table.checked_add(table_len)?)?);
    LE::write_u64(&mut bytes[56..64], hash.digest());
    Some(bytes)
}

/// The model whose states [`brks`] reads, with either format: the tiny one of the C interface's
/// tests.
fn tiny() -> &'static [Model; 2] {
    static TINY: OnceLock<[Model; 2]> = OnceLock::new();
    TINY.get_or_init(|| {
        let bytes: &[u8] = include_bytes!("../../../engine/capi/tests/fixtures/tiny-mamba1.brk");
        STATES.map(|state| {
            let file = BrkFile::from_bytes(bytes).expect("the fixture");
            Model::from_file(file, &ModelOptions::new().state(state)).expect("the fixture")
        })
    })
}

/// A saved state.
pub fn brks(bytes: &[u8]) {
    read_state(bytes);
    let mut mended = bytes.to_vec();
    if mended.len() >= 64 {
        let len = mended.len() as u64;
        LE::write_u64(&mut mended[16..24], len);
        LE::write_u64(&mut mended[24..32], tiny()[0].fingerprint());
        let covered = [&mended[..56], &mended[64..]].concat();
        LE::write_u64(&mut mended[56..64], xxh3_64(&covered));
        read_state(&mended);
    }
}

fn read_state(bytes: &[u8]) {
    if let Ok(file) = StateFile::parse(Path::new("(memory)"), bytes) {
        for (i, slot) in file.slots().iter().enumerate() {
            file.read_slot(i, &mut vec![0.0; slot.shape.iter().product()]);
        }
        let _ = (file.logits(), file.sampler(), file.tail(), file.note());
    }
    for model in tiny() {
        let Ok(snapshot) = Snapshot::from_bytes(model, bytes) else { continue };
        snapshot.to_bytes(DType::F16).expect("what was read is written");
        let mut session = Session::new(model, &EngineOptions::new().threads(1).chunk(4).logits(1));
        if session.resume(&snapshot).is_ok() {
            session.step(1).expect("a token of the vocabulary");
        }
    }
}
