//! The prefix cache: whatever a text has in common with earlier ones, its state and logits have the
//! bits of a text read from the start, for every architecture, from memory and from a folder.

use std::path::Path;

use brooklet::prefix::{PrefixCache, Reading};
use brooklet::{EngineOptions, Isa, Model, Session, State};
use brooklet_formats::DType;
use brooklet_tests::{architectures, bits, open_for, smallest_state, some_tokens};

/// Tokens between two copies.
const EVERY: usize = 16;

fn session(model: &Model) -> Session {
    Session::new(model, &EngineOptions::new().threads(1).chunk(12).logits(1))
}

/// A text read from the start.
fn plain(model: &Model, tokens: &[u32]) -> (State, Vec<u32>) {
    let mut session = session(model);
    let logits = bits(session.prefill(tokens).expect("a text"));
    (session.state().clone(), logits)
}

/// Reads a text through the cache, and compares.
fn read(cache: &mut PrefixCache, session: &mut Session, tokens: &[u32], what: &str) -> Reading {
    let reading = cache.prefill(session, tokens, &[5, 23], |_| true).expect("a text");
    let (state, logits) = plain(session.model(), tokens);
    assert!(*session.state() == state, "{what}: the state");
    assert!(session.has_logits(), "{what}");
    assert_eq!(bits(session.logits()), logits, "{what}: the logits");
    assert_eq!(reading.tokens(), tokens.len(), "{what}");
    reading
}

/// The first text with other tokens from `n` on.
fn edited(ids: &[u32], n: usize, m: usize) -> Vec<u32> {
    let new = ids[n..m].iter().map(|id| if *id == 3 { 4 } else { 3 });
    ids[..n].iter().copied().chain(new).collect()
}

#[test]
fn every_architecture_goes_on_with_the_same_bits() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, path) in architectures(temp.path(), DType::F32) {
        for state in [DType::F32, smallest_state(&path)] {
            let model = open_for(&path, Isa::detect(), state);
            let ids = some_tokens(&model, 64, 3);
            let what = |n: usize| format!("{name}, {state}: text {n}");
            let mut session = session(&model);
            let mut cache = PrefixCache::new(&model, 1 << 30).every(EVERY);
            let of = |reused, replayed, computed| Reading { reused, replayed, computed };
            let mut read = |tokens: &[u32], n| read(&mut cache, &mut session, tokens, &what(n));
            assert_eq!(read(&ids[..40], 1), of(0, 0, 40));
            // The same again; one that goes on; a changed word, before which a border was said to
            // be; the same change again, before which there is a copy now; a beginning.
            assert_eq!(read(&ids[..40], 2), of(40, 0, 0));
            assert_eq!(read(&ids, 3), of(40, 0, 24));
            assert_eq!(read(&edited(&ids, 30, 50), 4), of(23, 7, 20));
            assert_eq!(read(&edited(&ids, 30, 55), 5), of(50, 0, 5));
            assert_eq!(read(&[&ids[..30], &[2; 4]].concat(), 6), of(30, 0, 4));
            assert_eq!(read(&ids[..32], 7), of(30, 2, 0));
            assert_eq!(read(&ids[..10], 8), of(5, 5, 0));
            // What was written behind a text is known with it.
            session.step(9).expect("a token");
            let written = [&ids[..10], &[9, 8, 7]].concat();
            cache.keep(&session, &written[..11]).expect("a state");
            let reading = cache.prefill(&mut session, &written, &[], |_| true).expect("a text");
            assert_eq!(reading, of(11, 0, 2), "{name}");
            assert!(*session.state() == plain(&model, &written).0, "{name}");
        }
    }
}

#[test]
fn a_folder_serves_the_next_process() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, path) in architectures(temp.path(), DType::F32) {
        for (i, state) in [DType::F32, smallest_state(&path)].into_iter().enumerate() {
            let model = open_for(&path, Isa::detect(), state);
            // RWKV-4 has nothing to keep in 16 bits: both are the same.
            let state = model.state_layout().dtype();
            let folder = temp.path().join(format!("states-{i}"));
            let open = || PrefixCache::new(&model, 1 << 30).every(EVERY);
            let open = || open().with_folder(&model, &folder, 1 << 30);
            if state == DType::Int8 {
                assert!(open().is_err(), "{name}: 8 bits do not come back");
                continue;
            }
            let ids = some_tokens(&model, 64, 3);
            let what = format!("{name}, {state}");
            let mut session = session(&model);
            read(&mut open().expect("a cache"), &mut session, &ids[..40], &what);
            let mut cache = open().expect("a cache");
            let reading = read(&mut cache, &mut session, &ids, &what);
            assert!(reading.reused >= 40, "{what}: {reading:?}");
            cache.flush();
            let mut cache = open().expect("a cache");
            let reading = read(&mut cache, &mut session, &edited(&ids, 35, 60), &what);
            let of = |reused, replayed, computed| Reading { reused, replayed, computed };
            assert_eq!(reading, of(32, 3, 25), "{what}");
            cache.flush();
            // Where they parted there is a copy now.
            let again = [&ids[..35], &[2; 4]].concat();
            let mut cache = open().expect("a cache");
            assert_eq!(read(&mut cache, &mut session, &again, &what), of(35, 0, 4), "{what}");
        }
    }
}

/// The demo model of the repository.
fn demo() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    Model::open(path).expect("the demo model")
}

#[test]
fn damaged_files_are_read_around_and_folders_bounded() {
    let (model, temp) = (demo(), tempfile::tempdir().expect("a temporary folder"));
    let ids = some_tokens(&model, 64, 3);
    let mut session = session(&model);
    let open = |bytes| {
        let cache = PrefixCache::new(&model, 1 << 30).every(EVERY);
        cache.with_folder(&model, temp.path(), bytes).expect("a cache")
    };
    let files = || {
        let files = std::fs::read_dir(temp.path()).expect("the folder");
        let files = files.map(|entry| entry.expect("an entry").path());
        files.filter(|path| path.extension().is_some_and(|end| end == "brks")).collect::<Vec<_>>()
    };
    let foreign = temp.path().join("talk.brks");
    std::fs::write(&foreign, b"somebody else's").expect("a file");
    read(&mut open(1 << 30), &mut session, &ids, "first");
    let all = files();
    assert!(all.len() > 4, "{all:?}");
    for path in all.iter().filter(|path| **path != foreign) {
        let mut bytes = std::fs::read(path).expect("a state");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, &bytes).expect("a damaged state");
    }
    let reading = read(&mut open(1 << 30), &mut session, &ids[..60], "damaged");
    assert_eq!(reading.reused, 0);
    // Room for two: the rest goes, and other people's files stay.
    let one = files().iter().map(|path| path.metadata().expect("a file").len()).max();
    let mut cache = open(one.expect("a file") * 5 / 2);
    read(&mut cache, &mut session, &edited(&ids, 20, 60), "bounded");
    cache.flush();
    assert_eq!(files().len(), 2 + 1);
    assert!(foreign.exists());
}

#[test]
fn a_folder_that_is_gone_costs_nothing_but_itself() {
    let (model, temp) = (demo(), tempfile::tempdir().expect("a temporary folder"));
    let folder = temp.path().join("states");
    let ids = some_tokens(&model, 64, 3);
    let mut session = session(&model);
    let cache = PrefixCache::new(&model, 1 << 30).every(EVERY);
    let mut cache = cache.with_folder(&model, &folder, 1 << 30).expect("a cache");
    std::fs::remove_dir(&folder).expect("it is empty");
    // A file has its name now: nothing can be written below.
    std::fs::write(&folder, b"in the way").expect("a file");
    read(&mut cache, &mut session, &ids[..40], "broken");
    assert_eq!(read(&mut cache, &mut session, &ids, "broken").reused, 40);
    cache.flush();
    std::fs::remove_file(&folder).expect("the file");
    std::fs::create_dir(&folder).expect("a folder");
    read(&mut cache, &mut session, &edited(&ids, 20, 60), "there again");
    cache.flush();
    assert!(std::fs::read_dir(&folder).expect("the folder").count() > 0);
    // Texts of files are compared however often they were read before.
    cache.clear();
    for reused in [48, 50] {
        let reading = read(&mut cache, &mut session, &edited(&ids, 20, 50), "known");
        assert_eq!(reading.reused, reused);
        cache.clear();
        cache.flush();
    }
}

#[test]
fn memory_is_bounded_and_a_broken_off_text_stays_known() {
    let model = demo();
    let ids = some_tokens(&model, 400, 5);
    let one = model.state_layout().bytes();
    let mut session = session(&model);
    let mut cache = PrefixCache::new(&model, 4 * one).every(EVERY);
    for n in 1..8 {
        let text = edited(&ids, 40 * n, 400);
        cache.prefill(&mut session, &text, &[], |_| true).expect("a text");
        assert!(cache.bytes() <= 4 * one, "{} of {}", cache.bytes(), 4 * one);
    }
    cache.clear();
    assert_eq!(cache.bytes(), 0);
    let mut passes = 0;
    let mut stop = |_| {
        passes += 1;
        passes < 3
    };
    let reading = cache.prefill(&mut session, &ids, &[], &mut stop).expect("a text");
    // Three passes: to the first copy in two, and one more.
    assert_eq!((reading.tokens(), session.has_logits()), (28, false));
    let reading = cache.prefill(&mut session, &ids, &[], |_| true).expect("a text");
    assert_eq!((reading.reused, reading.computed), (28, 372));
    cache.prefill(&mut session, &[], &[], |_| true).expect_err("no tokens");
    cache.prefill(&mut session, &[u32::MAX], &[], |_| true).expect_err("no token");
}
