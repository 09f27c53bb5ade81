//! Every file of the corpora through its target: what a fuzzer has found stays found, on any
//! toolchain.

use std::panic::catch_unwind;
use std::path::Path;
use std::thread;

use brooklet_fuzz_targets::TARGETS;

#[test]
fn corpora() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (name, target) in TARGETS {
        let entries = std::fs::read_dir(corpora.join(name)).expect("a corpus");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "seeds of {name}");
        for path in paths {
            let bytes = std::fs::read(&path).expect("a file");
            // Beside this thread, so that a stack that overflows is named as well.
            let label =
                format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            let run = move || catch_unwind(|| target(&bytes)).is_ok();
            let passed = thread::Builder::new().name(label).spawn(run).expect("a thread").join();
            assert!(passed.is_ok_and(|passed| passed), "{}", path.display());
        }
    }
}
